//! The live side of a channel: who produces it, who watches, and what both are told.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::generation::{Generation, Snapshot, apparent};
use super::{AppendError, Channel, ChannelInner, Close, Producer};
use crate::event::ChannelState;
use crate::generation::{Fold, Format, Recogniser};
use crate::hub::coalesce::{Coalesce, MergedBatch};
use crate::hub::commit::CommitAck;
use crate::hub::control_events::Ended;
use crate::hub::read::{Start, StartAt};
use crate::hub::signals::{GenerationOver, Signals, Stopped};
use crate::limits::{MAX_SHARED_MERGE_BYTES, STOP_KEPT_SECONDS};
use crate::position::Position;
use crate::store::disk::WriteError;
use crate::store::{Batch, Entry};

/// How a producer holds its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Beside others.
    Shared,
    /// As the producer of the generation: there is one at a time, and when it leaves without an end
    /// the channel is abandoned after the grace.
    Sole,
}

/// Why a generation is abandoned whose producer said nothing when it left.
const LOST: &str = "the connection of the producer was lost";

/// Why a generation is stopped that nobody watches.
const UNWATCHED: &str = "unwatched";

/// Who has not come in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overdue {
    Producer,
    Viewers,
    /// The notice of a loss, which the store has refused.
    Notice,
}

/// How long after something was refused that is due it is tried again. For room, the store itself
/// looks as often.
const TRIED_AGAIN: Duration = Duration::from_secs(1);

impl Channel {
    /// Keeps the channel in memory until [`let_go`](Self::let_go); nothing if it has left already.
    pub(in crate::hub) fn hold(&self) -> Option<watch::Receiver<Signals>> {
        {
            let mut inner = self.inner.lock();
            if inner.retired {
                return None;
            }
            inner.holders += 1;
        }
        let signals = self.signals.get_or_init(|| watch::Sender::new(Signals::default()));
        let receiver = signals.subscribe();
        self.post();
        Some(receiver)
    }

    /// Ends what [`hold`](Self::hold) began, for the sole producer as well. Returns whether the
    /// channel now serves nobody and never held anything. `why` is what the producer says.
    pub(in crate::hub) fn let_go(&self, sole: bool, why: Option<Box<str>>) -> bool {
        let mut inner = self.inner.lock();
        inner.holders -= 1;
        inner.last_used = Instant::now();
        if sole {
            self.shared.metrics.producer_left();
        }
        if sole && inner.end.is_none() && !inner.retired {
            inner.producer = Producer::Away { since: Instant::now() };
            inner.left = why;
            self.set_clocks(&mut inner);
        }
        inner.holders == 0 && !inner.known
    }

    /// Begins to produce.
    pub(in crate::hub) fn produce(
        &self,
        hold: Hold,
        format: Option<Format>,
    ) -> Result<(), AppendError> {
        let mut inner = self.inner.lock();
        // An end on its way to the disk may still be refused: the first append waits for it.
        inner.check_open()?;
        inner.check_stored()?;
        if let Some(format) = format {
            inner.expect_format(format);
        }
        if hold == Hold::Sole {
            if matches!(inner.producer, Producer::Streaming { .. }) {
                return Err(AppendError::Busy);
            }
            inner.known = true;
            inner.produced = true;
            inner.producer = Producer::Streaming { unwatched: None };
            self.shared.metrics.producer_came();
            let metadata = inner.metadata();
            if let Some(durable) = &mut inner.durable {
                // What comes first of it is stored after this.
                drop(durable.describe(self, &metadata));
            }
            if self.subscribers() == 0 {
                self.note_unwatched(&mut inner);
            }
        }
        Ok(())
    }

    /// Ends the channel as cancelled, and says when that counts. Nothing if it has left memory.
    pub(in crate::hub) fn stop(
        &self,
        reason: Option<Box<str>>,
        generation: Option<&Position>,
    ) -> Option<Result<(Stopped, CommitAck), GenerationOver>> {
        let ack = {
            let mut inner = self.inner.lock();
            if inner.retired {
                return None;
            }
            if let Some(meant) = generation
                && !self.is_of_this_life(&inner, meant)
            {
                return Some(Err(GenerationOver));
            }
            if let Some((state, ack)) = inner.ending() {
                return Some(Ok((Stopped::Before(state), ack)));
            }
            self.stop_now(&mut inner, reason)
        };
        self.tell_of_end_now();
        Some(Ok((Stopped::Now, ack)))
    }

    fn stop_now(&self, inner: &mut ChannelInner, reason: Option<Box<str>>) -> CommitAck {
        inner.known = true;
        self.end_now(inner, &Close { state: ChannelState::Cancelled, reason }, true)
    }

    /// Ends the channel, at once or when that is stored.
    fn end_now(&self, inner: &mut ChannelInner, close: &Close, stopped: bool) -> CommitAck {
        self.forewarn();
        if inner.durable.is_some() {
            return self.stage(inner, &[], Some((close, stopped)), None).ack;
        }
        inner.stopped = stopped;
        self.append_end(inner, close);
        self.apply_retention(inner);
        CommitAck::ready()
    }

    /// The channel has ended, unless that is still to be stored.
    fn tell_of_end_now(&self) {
        let ended = self.inner.lock().end.is_some();
        self.notify();
        if ended {
            self.tell_of_end();
        }
    }

    /// Whether an event id is one of those that this channel has given out, its end's included.
    fn is_of_this_life(&self, inner: &ChannelInner, position: &Position) -> bool {
        let tail = inner.log.tail();
        let first = match inner.span {
            Some((first, _)) => Some(first.offset),
            None => inner.end.as_ref().map(|_| tail),
        };
        position.epoch == *self.shared.sequencer.epoch()
            && first.is_some_and(|first| (first..=tail).contains(&position.offset))
    }

    /// Does what is due by now. Returns when to look again, if there is something to wait for.
    pub(in crate::hub) fn look_at_the_clock(&self) -> Option<Instant> {
        {
            let mut inner = self.inner.lock();
            let (at, overdue) = inner.due()?;
            if at > Instant::now() {
                return Some(at);
            }
            if let Err(why) = inner.check_stored() {
                return try_again(why);
            }
            match overdue {
                Overdue::Producer => {
                    let why = inner.left.take().unwrap_or_else(|| LOST.into());
                    let (state, reason) = (ChannelState::Abandoned, Some(why));
                    drop(self.end_now(&mut inner, &Close { state, reason }, false));
                }
                Overdue::Viewers if self.subscribers() == 0 => {
                    drop(self.stop_now(&mut inner, Some(UNWATCHED.into())));
                }
                Overdue::Viewers => return None,
                Overdue::Notice => {
                    self.forewarn();
                    self.stage_notice(&mut inner);
                }
            }
        }
        self.tell_of_end_now();
        None
    }

    /// Nobody watches any more, or yet.
    pub(super) fn note_unwatched(&self, inner: &mut ChannelInner) {
        if let Producer::Streaming { unwatched } = &mut inner.producer {
            *unwatched = Some(Instant::now());
            self.set_clocks(inner);
        }
    }

    /// Sees to it that somebody looks when something is due.
    pub(super) fn set_clocks(&self, inner: &mut ChannelInner) {
        if let Some((at, _)) = inner.due() {
            self.shared.deadlines.set(at, &self.name);
        }
    }

    /// The store has refused something: if anything is due by then, it is tried again.
    pub(super) fn look_again(&self, inner: &mut ChannelInner, why: WriteError) {
        if let (Some((due, _)), Some(again)) = (inner.due(), try_again(why)) {
            self.shared.deadlines.set(due.max(again), &self.name);
        }
    }

    /// Puts on the producer handle what there is to know.
    pub(super) fn post(&self) {
        let Some(signals) = self.signals.get() else { return };
        signals.send_if_modified(|signals| {
            let (end, stopped) = {
                let inner = self.inner.lock();
                (inner.end.clone(), inner.stopped)
            };
            let present = Signals { viewers: self.subscribers(), end, stopped };
            let changed = *signals != present;
            *signals = present;
            changed
        });
    }

    /// The channel has ended: tells those who look at the producer handle, and hooks.
    pub(super) fn tell_of_end(&self) {
        self.post();
        if let Some(on_end) = self.shared.on_end.get()
            && let Some(ended) = self.ended_for_hooks()
        {
            on_end.tell(ended, &self.shared.metrics);
        }
    }

    /// Whether somebody is to be told of its end.
    pub(in crate::hub) fn set_hooked(&self, hooked: bool) {
        self.inner.lock().hooked = hooked;
    }

    fn ended_for_hooks(&self) -> Option<Ended> {
        let mut inner = self.inner.lock();
        let ChannelInner { generation, log, end, ended_at, span, settings, hooked: true, .. } =
            &mut *inner
        else {
            return None;
        };
        let end = end.clone()?;
        let max_bytes = settings.retention.max_bytes;
        if let Some(generation) = generation {
            generation.look(log);
        }
        let fold = generation.as_mut().and_then(|generation| generation.folded(log, max_bytes));
        let id = |entry: Entry| self.shared.sequencer.position(entry.offset).to_string();
        let time = |(first, last): (Entry, Entry)| last.time.since(first.time);
        let usage = |fold: &Fold| fold.usage().map(|usage| usage.get().to_owned());
        Some(Ended {
            channel: end.channel,
            state: end.state,
            reason: end.reason,
            format: fold.map(|fold| fold.format().as_str()),
            text: fold.map(Fold::text),
            usage: fold.and_then(usage),
            incomplete: fold.is_some_and(Fold::is_incomplete),
            events: log.end().seq.saturating_sub(1),
            duration: span.map(time).unwrap_or_default(),
            first_id: span.map(|(first, _)| id(first)),
            last_id: span.map(|(_, last)| id(last)),
            time: ended_at.wall,
        })
    }

    /// The format of its events, as its producer said or they tell.
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        self.inner.lock().known_format()
    }

    /// What its events have told of their format.
    pub(in crate::hub) fn recogniser(&self) -> Recogniser {
        let mut inner = self.inner.lock();
        inner.known_format();
        let generation = inner.generation.as_ref();
        generation.map(|generation| generation.recogniser().clone()).unwrap_or_default()
    }

    /// How events are merged for those who do not say.
    pub(in crate::hub) fn coalesce(&self) -> Coalesce {
        self.inner.lock().settings.coalesce
    }

    /// Where a subscription to the snapshot begins; as at the earliest event if there is none.
    pub(in crate::hub) fn begin_with_snapshot(&self) -> (Start, Option<Arc<Snapshot>>) {
        let mut inner = self.inner.lock();
        inner.last_used = Instant::now();
        let Some(snapshot) = inner.snapshot(self.name.as_str()) else {
            return (inner.begin(StartAt::Earliest), None);
        };
        self.account(&mut inner);
        (inner.begin(StartAt::At(snapshot.mark)), Some(snapshot))
    }

    /// Events as they are to be written to those who want them merged; as they stand in the log if
    /// nobody knows what they mean.
    pub(in crate::hub) fn merge_batch(&self, batch: Batch) -> MergedBatch {
        let format = self.inner.lock().known_format();
        format.map_or_else(|| batch.clone().into(), |format| self.merge(&batch, format))
    }

    /// Merges, unless it was just done for somebody else.
    pub(super) fn merge(&self, batch: &Batch, format: Format) -> MergedBatch {
        let mut known = self.merged.lock();
        if let Some((start, merged)) = &*known
            && *start == batch.start()
            && merged.end == batch.end()
        {
            return merged.clone();
        }
        let merged = MergedBatch::merged(batch, format);
        // What those who replay are given is each one's own, and large.
        *known = (batch.bytes().len() <= MAX_SHARED_MERGE_BYTES)
            .then(|| (batch.start(), merged.clone()));
        merged
    }

    /// Whether after this byte of the log lies an event that must not wait until a window ends.
    #[must_use]
    pub fn must_flush(&self, byte: u64) -> bool {
        let mut inner = self.inner.lock();
        inner.known_format();
        let ChannelInner { generation, log, .. } = &mut *inner;
        let must = |generation: &mut Box<Generation>| generation.flushes_after(byte, log);
        generation.as_mut().is_none_or(must)
    }
}

/// When to try again what was refused. A store that has failed takes nothing before a restart,
/// which then finds what is due.
fn try_again(why: WriteError) -> Option<Instant> {
    (why != WriteError::Failed).then(|| Instant::now() + TRIED_AGAIN)
}

impl ChannelInner {
    /// Who produces it; one that has ended is produced by nobody.
    pub(super) fn producer(&self) -> Producer {
        if self.end.is_some() { Producer::None } else { self.producer }
    }

    /// A producer that is away has been heard of.
    pub(super) fn note_progress(&mut self) {
        if let Producer::Away { since } = &mut self.producer {
            *since = Instant::now();
        }
    }

    /// Somebody watches.
    pub(super) fn watched(&mut self) {
        if let Producer::Streaming { unwatched } = &mut self.producer {
            *unwatched = None;
        }
    }

    /// How it has ended, or will have when that is stored.
    fn ending(&self) -> Option<(ChannelState, CommitAck)> {
        let coming = || self.durable.as_ref().and_then(|durable| durable.coming_end());
        match &self.end {
            Some(end) => Some((end.state, CommitAck::ready())),
            None => coming().map(|coming| (coming.end.state, coming.ack())),
        }
    }

    /// Who is waited for, and until when.
    fn due(&self) -> Option<(Instant, Overdue)> {
        match (self.producer, self.settings.when_unwatched) {
            _ if self.ending().is_some() || self.retired => None,
            _ if self.durable.as_ref().is_some_and(|durable| durable.owes_notice()) => {
                Some((Instant::now(), Overdue::Notice))
            }
            (Producer::Away { since }, _) => {
                Some((since.checked_add(self.settings.producer_grace)?, Overdue::Producer))
            }
            (Producer::Streaming { unwatched: Some(since) }, Some(when)) => {
                Some((since.checked_add(when.after)?, Overdue::Viewers))
            }
            _ => None,
        }
    }

    /// The events are of this format, as their producer says. The first one's word counts, before
    /// what events tell that is not final.
    fn expect_format(&mut self, format: Format) {
        let Self { generation, log, .. } = self;
        if generation.as_ref().is_none_or(|known| !known.recogniser().is_settled()) {
            *generation = Some(Box::new(Generation::new(Recogniser::named(format), log)));
        }
    }

    /// Lets the generation take in all that there is, before something of it goes.
    pub(super) fn catch_up(&mut self) {
        let max_bytes = self.settings.retention.max_bytes;
        let Self { generation, log, .. } = self;
        if let Some(generation) = generation {
            generation.follow(log, max_bytes);
        }
    }

    /// The format, which is not remembered if nobody else wants to know.
    pub(super) fn apparent_format(&mut self) -> Option<Format> {
        match &self.generation {
            Some(_) => self.known_format(),
            None => apparent(&mut self.log),
        }
    }

    /// The format, which the events may tell.
    pub(super) fn known_format(&mut self) -> Option<Format> {
        let Self { generation, log, .. } = self;
        if generation.is_none() && log.start() != log.end() {
            *generation = Some(Box::new(Generation::new(Recogniser::new(), log)));
        }
        let generation = generation.as_mut()?;
        generation.look(log);
        generation.format()
    }

    fn snapshot(&mut self, channel: &str) -> Option<Arc<Snapshot>> {
        self.known_format();
        let (state, max_bytes) = (self.state(), self.settings.retention.max_bytes);
        let Self { generation, log, .. } = self;
        generation.as_mut()?.snapshot(log, channel, state, max_bytes)
    }

    /// Lets the generation follow the log, before retention takes anything away.
    pub(super) fn follow_generation(&mut self) {
        let retention = self.settings.retention;
        if self.producer != Producer::None || self.hooked || self.generation.is_some() {
            self.known_format();
        }
        let Self { generation, log, .. } = self;
        let Some(generation) = generation else { return };
        let retained = log.start().distance_to(log.end());
        let trims = retained.seq > retention.max_events || retained.byte > retention.max_bytes;
        let in_memory = log.resident_from().distance_to(log.end()).byte;
        let leaves = self.durable.as_ref().is_some_and(|durable| in_memory > durable.window);
        if trims || leaves || generation.is_due(log) {
            generation.follow(log, retention.max_bytes);
        }
    }

    /// How long the end of the channel is kept.
    pub(super) fn kept_after_end(&self) -> Duration {
        // There never was anything but the end: a stop that came before the producer.
        let stopped_early = self.stopped && self.log.end().seq == 1;
        let kept = self.settings.retention.max_age;
        if stopped_early { kept.min(Duration::from_secs(STOP_KEPT_SECONDS)) } else { kept }
    }
}

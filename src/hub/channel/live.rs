//! The producer and the viewers of a channel: signals, deadlines, and the end.

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

/// The way in which a producer holds its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Among other producers.
    Shared,
    /// As the producer of the generation: there is at most one at a time, and if it leaves without
    /// an end the channel is abandoned after the grace.
    Sole,
}

/// The reason of an abandoned generation whose producer gave none when it left.
const LOST: &str = "the connection of the producer was lost";

/// The reason of a stop for lack of viewers.
const UNWATCHED: &str = "unwatched";

/// The condition that a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overdue {
    Producer,
    Viewers,
    /// The notice of a loss, which the store has refused.
    Notice,
}

/// Delay before a refused write is tried again. The store checks its free space as often.
const TRIED_AGAIN: Duration = Duration::from_secs(1);

impl Channel {
    /// Keeps the channel in memory until [`let_go`](Self::let_go). `None` if it has left already.
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
    /// channel is now unused: not held, and never published to or created. `why` is the reason that
    /// the producer gave.
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
        // An end that is not stored yet may still be refused: the first append waits for it.
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
                // The first events are stored after the metadata.
                drop(durable.describe(self, &metadata));
            }
            if self.subscribers() == 0 {
                self.note_unwatched(&mut inner);
            }
        }
        Ok(())
    }

    /// Ends the channel as cancelled, and returns the acknowledgement. `None` if it has left
    /// memory.
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

    /// Appends the end: in memory at once, in a durable channel when it is stored.
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

    /// Notifies the listeners, and reports the end if the channel has ended: a durable one may not
    /// have yet.
    fn tell_of_end_now(&self) {
        let ended = self.inner.lock().end.is_some();
        self.notify();
        if ended {
            self.tell_of_end();
        }
    }

    /// Returns whether an event id is one that this channel has assigned, its end's included.
    fn is_of_this_life(&self, inner: &ChannelInner, position: &Position) -> bool {
        let tail = inner.log.tail();
        let first = match inner.span {
            Some((first, _)) => Some(first.offset),
            None => inner.end.as_ref().map(|_| tail),
        };
        position.epoch == *self.shared.sequencer.epoch()
            && first.is_some_and(|first| (first..=tail).contains(&position.offset))
    }

    /// Does what is due. Returns the time of the next deadline, if there is one.
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

    /// Notes that the channel has no viewers.
    pub(super) fn note_unwatched(&self, inner: &mut ChannelInner) {
        if let Producer::Streaming { unwatched } = &mut inner.producer {
            *unwatched = Some(Instant::now());
            self.set_clocks(inner);
        }
    }

    /// Sets the timer for the channel's next deadline.
    pub(super) fn set_clocks(&self, inner: &mut ChannelInner) {
        if let Some((at, _)) = inner.due() {
            self.shared.deadlines.set(at, &self.name);
        }
    }

    /// Sets a timer to try again what the store has refused, if it is still due then.
    pub(super) fn look_again(&self, inner: &mut ChannelInner, why: WriteError) {
        if let (Some((due, _)), Some(again)) = (inner.due(), try_again(why)) {
            self.shared.deadlines.set(due.max(again), &self.name);
        }
    }

    /// Publishes the channel's viewers and end to its producer handles.
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

    /// Reports the end of the channel to its producer handles and to hooks.
    pub(super) fn tell_of_end(&self) {
        self.post();
        if let Some(on_end) = self.shared.on_end.get()
            && let Some(ended) = self.ended_for_hooks()
        {
            on_end.tell(ended, &self.shared.metrics);
        }
    }

    /// Sets whether a hook wants the end of the channel.
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

    /// Returns the format of the events: as the producer gave it, or as recognised.
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        self.inner.lock().known_format()
    }

    /// Returns the recogniser, after it has read the events in the log.
    pub(in crate::hub) fn recogniser(&self) -> Recogniser {
        let mut inner = self.inner.lock();
        inner.known_format();
        let generation = inner.generation.as_ref();
        generation.map(|generation| generation.recogniser().clone()).unwrap_or_default()
    }

    /// Returns the merging for subscribers that do not choose one.
    pub(in crate::hub) fn coalesce(&self) -> Coalesce {
        self.inner.lock().settings.coalesce
    }

    /// Returns the start of a subscription to the snapshot; without a snapshot, the earliest event.
    pub(in crate::hub) fn begin_with_snapshot(&self) -> (Start, Option<Arc<Snapshot>>) {
        let mut inner = self.inner.lock();
        inner.last_used = Instant::now();
        let Some(snapshot) = inner.snapshot(self.name.as_str()) else {
            return (inner.begin(StartAt::Earliest), None);
        };
        self.account(&mut inner);
        (inner.begin(StartAt::At(snapshot.mark)), Some(snapshot))
    }

    /// Returns the events with neighbouring deltas merged, or unchanged if their format is unknown.
    pub(in crate::hub) fn merge_batch(&self, batch: Batch) -> MergedBatch {
        let format = self.inner.lock().known_format();
        format.map_or_else(|| batch.clone().into(), |format| self.merge(&batch, format))
    }

    /// Merges the batch, or returns the last merged batch if it has the same range.
    pub(super) fn merge(&self, batch: &Batch, format: Format) -> MergedBatch {
        let mut known = self.merged.lock();
        if let Some((start, merged)) = &*known
            && *start == batch.start()
            && merged.end == batch.end()
        {
            return merged.clone();
        }
        let merged = MergedBatch::merged(batch, format);
        // Larger batches are for replay, whose readers seldom share a range.
        *known = (batch.bytes().len() <= MAX_SHARED_MERGE_BYTES)
            .then(|| (batch.start(), merged.clone()));
        merged
    }

    /// Returns whether after this byte of the log is an event that must not wait for a window to
    /// end.
    #[must_use]
    pub fn must_flush(&self, byte: u64) -> bool {
        let mut inner = self.inner.lock();
        inner.known_format();
        let ChannelInner { generation, log, .. } = &mut *inner;
        let must = |generation: &mut Box<Generation>| generation.flushes_after(byte, log);
        generation.as_mut().is_none_or(must)
    }
}

/// Returns the time to try again what the store has refused. A store that has failed takes no
/// writes before a restart, which then finds what is due.
fn try_again(why: WriteError) -> Option<Instant> {
    (why != WriteError::Failed).then(|| Instant::now() + TRIED_AGAIN)
}

impl ChannelInner {
    /// Returns the producer; `None` if the channel has ended.
    pub(super) fn producer(&self) -> Producer {
        if self.end.is_some() { Producer::None } else { self.producer }
    }

    /// Restarts the grace of a producer that is away: something was published.
    pub(super) fn note_progress(&mut self) {
        if let Producer::Away { since } = &mut self.producer {
            *since = Instant::now();
        }
    }

    /// Notes that the channel has a viewer.
    pub(super) fn watched(&mut self) {
        if let Producer::Streaming { unwatched } = &mut self.producer {
            *unwatched = None;
        }
    }

    /// Returns the state of the end, stored or not, and its acknowledgement.
    fn ending(&self) -> Option<(ChannelState, CommitAck)> {
        let coming = || self.durable.as_ref().and_then(|durable| durable.coming_end());
        match &self.end {
            Some(end) => Some((end.state, CommitAck::ready())),
            None => coming().map(|coming| (coming.end.state, coming.ack())),
        }
    }

    /// Returns the next deadline and its condition.
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

    /// Sets the format that the producer names, unless one is final: the first producer's counts,
    /// and replaces a format that was recognised and is not final.
    fn expect_format(&mut self, format: Format) {
        let Self { generation, log, .. } = self;
        if generation.as_ref().is_none_or(|known| !known.recogniser().is_settled()) {
            *generation = Some(Box::new(Generation::new(Recogniser::named(format), log)));
        }
    }

    /// Folds all events, before some of them are trimmed.
    pub(super) fn catch_up(&mut self) {
        let max_bytes = self.settings.retention.max_bytes;
        let Self { generation, log, .. } = self;
        if let Some(generation) = generation {
            generation.follow(log, max_bytes);
        }
    }

    /// Returns the format, without keeping the recogniser for the sake of a description.
    pub(super) fn apparent_format(&mut self) -> Option<Format> {
        match &self.generation {
            Some(_) => self.known_format(),
            None => apparent(&mut self.log),
        }
    }

    /// Returns the format, after the recogniser has read the events in the log.
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

    /// Lets the fold follow the log, before retention trims it.
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

    /// Returns the time for which the end of the channel is kept.
    pub(super) fn kept_after_end(&self) -> Duration {
        // The log has only the end: a stop that came before the producer.
        let stopped_early = self.stopped && self.log.end().seq == 1;
        let kept = self.settings.retention.max_age;
        if stopped_early { kept.min(Duration::from_secs(STOP_KEPT_SECONDS)) } else { kept }
    }
}

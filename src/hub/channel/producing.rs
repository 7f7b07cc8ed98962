//! Producers and viewers of a channel: holds, signals, deadlines, stops, and the report of the end.

use tokio::sync::watch;
use tokio::time::Instant;

use super::append::{Effects, OperationError, OperationResult, refusal};
use super::life::Due;
use super::{Channel, ChannelInner};
use crate::event::ChannelState;
use crate::generation::{Fold, Format};
use crate::hub::commit::{CommitAck, Refused};
use crate::hub::control_events::{Close, Ended};
use crate::hub::error::{GenerationOver, StopError, SubmitError};
use crate::hub::signals::{Signals, Stopped};
use crate::position::Position;
use crate::store::Entry;
use crate::store::disk::WriteError;

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
pub(in crate::hub) const UNWATCHED: &str = "unwatched";

/// Delay before a refused write is tried again. The store checks its free space as often.
const TRIED_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

impl Channel {
    /// Keeps the channel in memory until [`let_go`](Self::let_go). `None` if it has left already.
    pub(in crate::hub) fn hold(&self) -> Option<watch::Receiver<Signals>> {
        {
            let mut inner = self.inner.lock();
            if inner.retired {
                return None;
            }
            inner.usage.hold();
        }
        let receiver = self.signals.get_or_init(watch::Sender::default).subscribe();
        self.post_signals();
        Some(receiver)
    }

    /// Ends what [`hold`](Self::hold) began, for the sole producer as well. Returns whether the
    /// channel is now unused: not held, and never published to or created. `why` is the reason that
    /// the producer gave.
    pub(in crate::hub) fn let_go(&self, sole: bool, why: Option<Box<str>>) -> bool {
        let mut inner = self.inner.lock();
        inner.usage.let_go();
        inner.usage.note_use();
        if sole {
            self.shared.metrics.producer_left();
        }
        // In a cluster, the shared log decides when the producer is away.
        let decides = inner.replicated.is_none();
        if sole && decides && !inner.life.has_ended() && !inner.retired {
            inner.life.note_left(why);
            self.set_deadline(&inner);
        }
        !inner.usage.is_held() && !inner.known
    }

    /// Begins to produce. `None` if the channel has left memory.
    pub(in crate::hub) fn produce(
        &self,
        hold: Hold,
        format: Option<Format>,
    ) -> Result<Option<()>, SubmitError> {
        let mut inner = self.inner.lock();
        if inner.retired {
            return Ok(None);
        }
        // An end that is pending may still be refused: the first append waits for it.
        if let Some(ending) = inner.life.ending() {
            return Err(refusal(ending));
        }
        inner.backend.check()?;
        if hold == Hold::Sole {
            inner.life.produce()?;
        }
        if let Some(format) = format {
            inner.expect_format(format);
        }
        if hold == Hold::Sole {
            inner.known = true;
            self.shared.metrics.producer_came();
            // The first events are stored after the metadata.
            drop(self.describe_to_store::<(), WriteError>(&mut inner, ()));
            if self.subscribers() == 0 {
                self.note_unwatched(&mut inner);
            }
        }
        Ok(Some(()))
    }

    /// Counts a sole producer of this hub, whom the shared log has taken.
    pub(in crate::hub) fn count_producer(&self) {
        self.shared.metrics.producer_came();
    }

    /// Submits the end of the channel as cancelled.
    pub(in crate::hub) fn stop(
        &self,
        reason: Option<Box<str>>,
        generation: Option<&Position>,
    ) -> Result<CommitAck<Stopped, StopError>, Refused<StopError>> {
        let (ack, effects) = {
            let mut inner = self.inner.lock();
            if inner.retired {
                return Err(Refused::Retired);
            }
            if let Some(meant) = generation
                && !self.is_of_this_life(&inner, meant)
            {
                return Err(Refused::Because(GenerationOver.into()));
            }
            if let Some(ending) = inner.life.ending() {
                return Ok(CommitAck::ready(Stopped::Before(ending.end.state)));
            }
            if let Some(end) = inner.pending.pending_end() {
                return Err(Refused::Ending(end));
            }
            self.submit_stop(&mut inner, reason)
        };
        self.announce(effects);
        Ok(ack)
    }

    fn submit_stop(
        &self,
        inner: &mut ChannelInner,
        reason: Option<Box<str>>,
    ) -> (CommitAck<Stopped, StopError>, Effects) {
        inner.known = true;
        let close = Close { state: ChannelState::Cancelled, reason };
        self.submit_end(inner, &close, true, Stopped::Now)
    }

    fn submit_end<T: OperationResult, E: OperationError>(
        &self,
        inner: &mut ChannelInner,
        close: &Close,
        stopped: bool,
        result: T,
    ) -> (CommitAck<T, E>, Effects) {
        let ending = self.ending(close, stopped);
        self.submit(inner, &[], Some(ending), None, |_| result)
    }

    /// Returns whether an event id is one that this channel has assigned, its end's included.
    fn is_of_this_life(&self, inner: &ChannelInner, position: &Position) -> bool {
        let tail = inner.log.tail();
        let first = match inner.span {
            Some((first, _)) => Some(first.offset),
            None => inner.life.ending().map(|_| tail),
        };
        position.epoch == *self.shared.sequencer.epoch()
            && first.is_some_and(|first| (first..=tail).contains(&position.offset))
    }

    /// Does what is due. Returns the time of the next deadline, if there is one.
    pub(in crate::hub) fn meet_deadline(&self) -> Option<Instant> {
        let effects = {
            let mut inner = self.inner.lock();
            let (at, due) = inner.due()?;
            if at > Instant::now() {
                return Some(at);
            }
            if let Err(why) = inner.backend.check() {
                return time_to_try_again(why);
            }
            match due {
                Due::Abandoned => {
                    let reason = Some(inner.reason_of_absence());
                    let close = Close { state: ChannelState::Abandoned, reason };
                    self.submit_end::<(), WriteError>(&mut inner, &close, false, ()).1
                }
                Due::Unwatched if self.subscribers() == 0 => {
                    self.submit_stop(&mut inner, Some(UNWATCHED.into())).1
                }
                Due::Unwatched => return None,
                Due::Notice => {
                    self.listeners.notify_changing();
                    self.submit_notice(&mut inner);
                    Effects::default()
                }
            }
        };
        self.announce(effects);
        None
    }

    /// Notes that the channel has no viewers.
    pub(super) fn note_unwatched(&self, inner: &mut ChannelInner) {
        inner.life.note_unwatched();
        self.set_deadline(inner);
    }

    /// Sets the timer for the channel's next deadline.
    pub(super) fn set_deadline(&self, inner: &ChannelInner) {
        if let Some((at, _)) = inner.due() {
            self.shared.deadlines.set(at, &self.name);
        }
    }

    /// Sets a timer to try again what the store has refused, if it is still due then.
    pub(super) fn try_again(&self, inner: &ChannelInner, why: WriteError) {
        if let (Some((due, _)), Some(again)) = (inner.due(), time_to_try_again(why)) {
            self.shared.deadlines.set(due.max(again), &self.name);
        }
    }

    /// Publishes the channel's viewers and end to its producer handles.
    pub(super) fn post_signals(&self) {
        let Some(signals) = self.signals.get() else { return };
        signals.send_if_modified(|signals| {
            let (end, stopped) = {
                let inner = self.inner.lock();
                let end = inner.life.ending().map(|ending| ending.end.clone());
                (end, inner.life.is_stopped())
            };
            let present = Signals { viewers: self.subscribers(), end, stopped };
            let changed = *signals != present;
            *signals = present;
            changed
        });
    }

    /// Reports the end of the channel to its producer handles and to hooks.
    pub(super) fn report_end(&self, for_hooks: Option<Box<Ended>>) {
        self.post_signals();
        if let (Some(on_end), Some(ended)) = (self.shared.on_end.get(), for_hooks) {
            on_end.queue(*ended, &self.shared.metrics);
        }
    }

    /// Sets whether a hook wants the end of the channel.
    pub(in crate::hub) fn set_hooked(&self, hooked: bool) {
        self.inner.lock().hooked = hooked;
    }

    /// Returns the end of the channel for the hooks, if one wants it.
    pub(super) fn ended_for_hooks(&self, inner: &mut ChannelInner) -> Option<Ended> {
        let ChannelInner { generation, log, life, span, settings, hooked: true, .. } = inner else {
            return None;
        };
        let end = life.ending()?.end.clone();
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
            time: life.ended_at().wall,
        })
    }
}

impl ChannelInner {
    /// Returns the reason why the sole producer is away.
    pub(super) fn reason_of_absence(&self) -> Box<str> {
        self.life.reason_to_leave().unwrap_or_else(|| LOST.into())
    }

    /// Returns the next deadline and what is due then.
    pub(super) fn due(&self) -> Option<(Instant, Due)> {
        if self.retired || self.pending.ending().is_some() {
            return None;
        }
        self.life.due(&self.settings)
    }
}

/// Returns the time to try again what the store has refused. A store that has failed takes no
/// writes before a restart, which then finds what is due.
fn time_to_try_again(why: WriteError) -> Option<Instant> {
    (why != WriteError::Failed).then(|| Instant::now() + TRIED_AGAIN)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt as _;
    use tokio::sync::mpsc;

    use super::*;
    use crate::channel::ChannelName;
    use crate::event::NewEvent;
    use crate::hub::{Append, ChannelListener, ChannelOptions, Config, Hub};

    fn chunk(text: &str) -> NewEvent {
        let choice = serde_json::json!({"index": 0, "delta": {"content": text}});
        let chunk = serde_json::json!({
            "id": "1",
            "object": "chat.completion.chunk",
            "choices": [choice],
        });
        NewEvent { event_type: None, data: chunk.to_string().into() }
    }

    #[test]
    fn a_producer_that_is_refused_does_not_change_the_format() {
        let hub = Hub::new(Config::default(), Arc::default());
        let name: ChannelName = "a".parse().unwrap();
        let produce = |format| hub.produce(&name, None, Hold::Sole, format).now_or_never().unwrap();
        let first = produce(None).unwrap();
        assert!(matches!(produce(Some(Format::Text)), Err(SubmitError::Busy)));
        first.append(Append::of(&[chunk("x")], None)).now_or_never().unwrap().unwrap();
        assert_eq!(hub.describe(&name).unwrap().format, Some("openai-chat"));
    }

    /// Deletes the channel as soon as it has changed.
    struct Deleter(Hub, ChannelName);

    impl ChannelListener for Deleter {
        fn channel_changed(&self) {
            drop(self.0.delete(&self.1));
        }
    }

    #[test]
    fn a_hook_gets_the_end_also_if_the_channel_is_deleted_at_once() {
        let hub = Hub::new(Config::default(), Arc::default());
        let name: ChannelName = "a".parse().unwrap();
        let (queue, mut ended) = mpsc::channel(1);
        hub.on_end(|_| true, queue);
        drop(hub.submit(&name, Append::of(&[chunk("x")], None)).unwrap());
        let channel = hub.0.registry.get(&name).unwrap();
        channel.add_listener(Arc::new(Deleter(hub.clone(), name.clone())));
        let close = Close { state: ChannelState::Complete, reason: None };
        drop(hub.submit(&name, Append::of(&[], Some(&close))).unwrap());
        assert!(hub.describe(&name).is_none(), "it was deleted");
        let ended = ended.try_recv().unwrap();
        assert_eq!((ended.state, ended.events), (ChannelState::Complete, 1));
    }

    #[test]
    fn a_smaller_retention_trims_no_event_that_a_hook_has_not_read() {
        let hub = Hub::new(Config::default(), Arc::default());
        let name: ChannelName = "a".parse().unwrap();
        for text in ["a", "b", "c", "d"] {
            drop(hub.submit(&name, Append::of(&[chunk(text)], None)).unwrap());
        }
        let (queue, mut ended) = mpsc::channel(1);
        hub.on_end(|_| true, queue);
        hub.hooks_changed();
        let options = ChannelOptions { max_events: Some(2), ..ChannelOptions::default() };
        drop(hub.configure(&name, &options, None).unwrap());
        let close = Close { state: ChannelState::Complete, reason: None };
        drop(hub.submit(&name, Append::of(&[], Some(&close))).unwrap());
        assert_eq!(ended.try_recv().unwrap().text.as_deref(), Some("abcd"));
    }
}

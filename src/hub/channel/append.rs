//! The commit path: events and ends are rendered into a batch, submitted to the backend, and
//! committed to the log.

use std::borrow::Cow;
use std::sync::Arc;

use fanfare_cluster::command::KeyUse;

use super::pending::{BatchContent, PendingBatch};
use super::render::{Assigned, BatchWriter, recycle};
use super::{Channel, ChannelInner};
use crate::event::{ChannelState, GapReason, NewEvent};
use crate::hub::commit::{CommitAck, Refused};
use crate::hub::control_events::{Close, End, Ended, Gap};
use crate::hub::error::SubmitError;
use crate::hub::metadata::{ChannelMetadata, EndRecord};
use crate::position::Offset;
use crate::quota::Account;
use crate::store::disk::{StoredReceipt, WriteError};
use crate::store::{BatchBuilder, BatchRef, LogPosition};

/// What is appended to a channel.
#[derive(Clone, Copy, Default)]
pub struct Append<'a> {
    /// The events.
    pub events: &'a [NewEvent],
    /// Closes the channel after them in one step: no other event comes between.
    pub close: Option<&'a Close>,
    /// Makes the receipt that a durable channel stores with the events in one write.
    pub receipt: Option<ReceiptFn<'a>>,
    /// The account that the channel counts for if it was not published to before.
    pub account: Option<&'a Arc<Account>>,
    /// The idempotency key in the shared log of a cluster.
    pub key: Option<&'a KeyUse>,
}

impl<'a> Append<'a> {
    /// Returns an append of these events, for no account.
    #[must_use]
    pub fn of(events: &'a [NewEvent], close: Option<&'a Close>) -> Self {
        Self { events, close, ..Self::default() }
    }
}

/// The result of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The offsets of the first and the last event, if there was any.
    pub offsets: Option<(Offset, Offset)>,
    /// Number of subscribers at the time of the append.
    pub subscribers: usize,
    /// The channel's state after the append.
    pub state: ChannelState,
    /// In a cluster, all that was published with the idempotency key so far.
    pub keyed: Option<Keyed>,
}

/// What was published with an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keyed {
    /// Number of events.
    pub events: u64,
    /// The offsets of the first and the last event.
    pub offsets: Option<(Offset, Offset)>,
}

/// Makes the stored receipt of a publish from its offsets, which makes the publish safe to repeat.
pub type ReceiptFn<'a> = &'a (dyn Fn(&Appended) -> StoredReceipt + Sync);

/// What is notified after a change, when the channel's lock is free.
#[must_use]
#[derive(Default)]
pub(in crate::hub) struct Effects {
    /// Readers may find something new.
    pub(super) changed: bool,
    /// The channel has ended, and not by a deletion.
    pub(super) ended: bool,
    /// That end for the hooks, if one wants it.
    pub(super) for_hooks: Option<Box<Ended>>,
}

impl Channel {
    /// Submits events, and the end of the channel if asked to. No reader sees them before they are
    /// committed.
    ///
    /// # Errors
    /// The channel is closed, or the store takes no writes; nothing was submitted.
    pub(in crate::hub) fn append(
        &self,
        append: Append<'_>,
    ) -> Result<CommitAck<Appended, SubmitError>, Refused<SubmitError>> {
        let (ack, effects) = {
            let mut inner = self.inner.lock();
            if inner.retired {
                return Err(Refused::Retired);
            }
            if let Some(ending) = inner.life.ending() {
                return Err(Refused::Because(refusal(ending)));
            }
            if let Some(end) = inner.pending.pending_end() {
                return Err(Refused::Ending(end));
            }
            let takes = inner.backend.check().and_then(|()| self.shared.sequencer.check());
            takes.map_err(|why| Refused::Because(why.into()))?;
            inner.known = true;
            inner.usage.note_use();
            let ending = append.close.map(|close| self.ending(close, false));
            self.submit(&mut inner, append.events, ending, append.receipt, |appended| appended)
        };
        self.announce(effects);
        Ok(ack)
    }

    /// Returns the end of the channel when it is closed like this.
    pub(super) fn ending(&self, close: &Close, stopped: bool) -> EndRecord {
        EndRecord { end: End::of(&self.name, close), stopped }
    }

    /// Renders events, and optionally the end, and submits them as one batch. `result` makes the
    /// result of the operation.
    pub(super) fn submit<T: OperationResult, E: OperationError>(
        &self,
        inner: &mut ChannelInner,
        events: &[NewEvent],
        ending: Option<EndRecord>,
        receipt: Option<ReceiptFn<'_>>,
        result: impl FnOnce(Appended) -> T,
    ) -> (CommitAck<T, E>, Effects) {
        self.listeners.notify_changing();
        self.submit_notice(inner);
        let state = ending.as_ref().map_or_else(|| inner.life.state(), |ending| ending.end.state);
        let count = events.len() as u64;
        let assigned = self.assign(count + u64::from(ending.is_some()));
        let first = assigned.first;
        let appended = Appended {
            offsets: (count > 0).then(|| (first, Offset(first.0 + count - 1))),
            subscribers: self.subscribers(),
            state,
            keyed: None,
        };
        let frames = self.render(inner.submitted_end(), assigned, events, ending.as_ref());
        let content = BatchContent {
            events: if inner.is_followed() { events.into() } else { Cow::default() },
            data_bytes: events.iter().map(|event| event.data.as_bytes().len() as u64).sum(),
            ending,
            ..BatchContent::default()
        };
        let receipt = || receipt.map(|receipt| receipt(&appended));
        self.submit_batch(inner, frames, content, result(appended), receipt)
    }

    /// Assigns offsets. The channel's lock must be held until their events are committed or
    /// pending.
    fn assign(&self, count: u64) -> Assigned {
        Assigned { first: self.shared.sequencer.take(count), time: self.shared.clock.now() }
    }

    /// Renders events, and optionally the end, with the offsets that are assigned to them.
    pub(super) fn render(
        &self,
        at: LogPosition,
        assigned: Assigned,
        events: &[NewEvent],
        ending: Option<&EndRecord>,
    ) -> BatchBuilder {
        let mut writer = BatchWriter::new(&self.shared, at, assigned);
        for event in events {
            writer.event(event);
        }
        if let Some(ending) = ending {
            writer.end(&ending.end);
        }
        writer.finish()
    }

    /// Submits a batch to the backend. In memory, it is committed at once.
    fn submit_batch<T: OperationResult, E: OperationError>(
        &self,
        inner: &mut ChannelInner,
        batch: BatchBuilder,
        content: BatchContent<'_>,
        result: T,
        receipt: impl FnOnce() -> Option<StoredReceipt>,
    ) -> (CommitAck<T, E>, Effects) {
        let submitted = if inner.backend.is_immediate() {
            (CommitAck::ready(result), self.commit(inner, batch.frames(), &content))
        } else {
            let ack = self.submit_to_store(inner, batch.frames(), content, result, receipt);
            (ack, Effects::default())
        };
        recycle(batch);
        submitted
    }

    fn submit_to_store<T: OperationResult, E: OperationError>(
        &self,
        inner: &mut ChannelInner,
        frames: BatchRef<'_>,
        content: BatchContent<'_>,
        result: T,
        receipt: impl FnOnce() -> Option<StoredReceipt>,
    ) -> CommitAck<T, E> {
        if frames.count() == 0 {
            return self.describe_to_store(inner, result);
        }
        drop(self.describe_to_store::<(), WriteError>(inner, ()));
        let ChannelInner { backend, pending, .. } = inner;
        let Some(disk) = backend.disk() else { return CommitAck::ready(result) };
        let batch = PendingBatch::new(frames.to_batch(), content.detached());
        let me = self.me.clone();
        let (ack, completer) = CommitAck::pending(result);
        disk.submit(batch, receipt(), pending, move |outcome| {
            if let Some(channel) = me.upgrade() {
                channel.complete(outcome);
            }
            completer.complete(outcome);
        });
        ack
    }

    /// Submits the channel's metadata, unless the store has it: the events that follow need it.
    pub(super) fn describe_to_store<T: OperationResult, E: OperationError>(
        &self,
        inner: &mut ChannelInner,
        result: T,
    ) -> CommitAck<T, E> {
        let metadata = inner.metadata();
        let Some(disk) = inner.backend.not_described(metadata) else {
            return CommitAck::ready(result);
        };
        let me = self.me.clone();
        let (ack, completer) = CommitAck::pending(result);
        disk.describe(&self.name, metadata, move |outcome| {
            if outcome.is_err()
                && let Some(channel) = me.upgrade()
            {
                // Submitted again with the next append.
                channel.inner.lock().backend.forget_metadata();
            }
            completer.complete(outcome);
        });
        ack
    }

    /// Commits the oldest pending batch, or drops it if the store has refused it.
    fn complete(&self, outcome: Result<(), WriteError>) {
        // Dropped at the end, when those that wait for this outcome find its effects.
        let (effects, _settled) = {
            let mut inner = self.inner.lock();
            let pending = inner.pending.pop(outcome.is_ok());
            let Some(PendingBatch { frames, content, settled }) = pending else { return };
            let effects = match outcome {
                Ok(()) if !inner.retired => {
                    self.listeners.notify_changing();
                    self.commit(&mut inner, frames.frames(), &content)
                }
                _ => {
                    if let Err(why) = outcome {
                        self.note_refused(&mut inner, &content, why);
                    }
                    // A merged reader waits for an event that will not come: let it read on.
                    Effects { changed: true, ..Effects::default() }
                }
            };
            (effects, settled)
        };
        self.announce(effects);
    }

    /// Appends a batch to the log, and applies its end, the retention and the fold. Nothing else
    /// lets a channel grow; the batch need not have been submitted here. Its offsets follow on
    /// those in the log, and its listeners know that the channel is changing.
    pub(super) fn commit(
        &self,
        inner: &mut ChannelInner,
        frames: BatchRef<'_>,
        content: &BatchContent<'_>,
    ) -> Effects {
        let Some(last) = frames.count().checked_sub(1) else { return Effects::default() };
        let retention = inner.settings.retention;
        inner.log.append_frames(frames, &retention);
        let published = frames.count() - usize::from(content.ending.is_some());
        let last_published = published.checked_sub(1).and_then(|last| frames.entry(last));
        if let (Some(first), Some(last)) = (frames.entry(0), last_published) {
            inner.span = Some((inner.span.map_or(first, |(first_ever, _)| first_ever), last));
            if !content.is_foreign {
                self.shared.metrics.published(published as u64, content.data_bytes);
            }
        }
        if let (Some(ending), Some(last)) = (&content.ending, frames.entry(last))
            && inner.life.end(ending.clone(), last.time)
            && !content.is_foreign
        {
            self.shared.metrics.channel_ended(ending.end.state, ending.stopped);
        }
        self.end.set(inner.log.end());
        inner.feed_generation(frames, content);
        inner.life.note_progress();
        let mut effects = Effects { changed: true, ..Effects::default() };
        // Readers may still finish the log of a channel that is deleted, which is no end for hooks.
        if !inner.retired {
            self.apply_retention(inner);
            effects.ended = content.ending.is_some();
        }
        // The hub whose client has ended the channel calls the hooks.
        if effects.ended && !content.is_foreign {
            effects.for_hooks = self.ended_for_hooks(inner).map(Box::new);
        }
        effects
    }

    /// Commits the end of a channel that is retired: the store gets the deletion in its place.
    pub(super) fn commit_deletion(&self, inner: &mut ChannelInner) {
        self.listeners.notify_changing();
        self.commit_deletion_at(inner, self.assign(1));
    }

    /// Commits the end of a channel that is retired, with this offset.
    pub(super) fn commit_deletion_at(&self, inner: &mut ChannelInner, assigned: Assigned) {
        let close = Close { state: ChannelState::Deleted, reason: None };
        let ending = self.ending(&close, inner.life.is_stopped());
        let frames = self.render(inner.log.end(), assigned, &[], Some(&ending));
        let content = BatchContent { ending: Some(ending), ..BatchContent::default() };
        // The caller notifies readers, when the channel is removed.
        let _ = self.commit(inner, frames.frames(), &content);
    }

    /// Notifies readers, and reports the end. The channel's lock must be free.
    pub(in crate::hub) fn announce(&self, effects: Effects) {
        if effects.changed {
            self.listeners.notify_changed();
        }
        if effects.ended {
            self.report_end(effects.for_hooks);
        }
    }

    /// Submits a notice that events from just before a power cut may be missing, unless the channel
    /// has none.
    pub(in crate::hub) fn note_possible_loss(&self) {
        let mut inner = self.inner.lock();
        if !inner.life.has_ended() && inner.log.end().seq > 0 {
            inner.life.owe_notice();
            self.submit_notice(&mut inner);
        }
    }

    /// Submits the notice of a loss, if one is due: before any other event, at the place of the
    /// loss. Only a store has losses, so that the notice is pending and has no effects yet.
    pub(super) fn submit_notice(&self, inner: &mut ChannelInner) {
        if !inner.life.take_notice() {
            return;
        }
        let assigned = self.assign(1);
        let position = |offset| self.shared.sequencer.position(offset);
        let gap = Gap {
            channel: Some(self.name.clone()),
            reason: GapReason::Lost,
            requested: Some(position(inner.log.tail()).to_string().into()),
            resumed: position(assigned.first),
        };
        let mut writer = BatchWriter::new(&self.shared, inner.submitted_end(), assigned);
        writer.gap(&gap);
        let content = BatchContent { is_notice: true, ..BatchContent::default() };
        let _: (CommitAck<(), WriteError>, _) =
            self.submit_batch(inner, writer.finish(), content, (), || None);
    }

    /// Handles a batch that the store has refused. The hub's own events are tried again.
    fn note_refused(&self, inner: &mut ChannelInner, batch: &BatchContent<'_>, why: WriteError) {
        if batch.is_notice {
            inner.life.owe_notice();
        }
        self.try_again(inner, why);
    }
}

impl ChannelInner {
    /// Returns the position after the last batch, committed or pending.
    fn submitted_end(&self) -> LogPosition {
        self.pending.end().unwrap_or(self.log.end())
    }

    /// Returns the metadata that the store keeps with the channel's events.
    fn metadata(&self) -> ChannelMetadata {
        let produced = self.life.was_produced();
        ChannelMetadata { options: self.options, produced, inherited: self.inherited.0 }
    }
}

/// The result of an operation, which is kept until its commit.
pub(super) trait OperationResult: Clone + Send + 'static {}

impl<T: Clone + Send + 'static> OperationResult for T {}

/// The error of an operation, which the store may have refused.
pub(super) trait OperationError: From<WriteError> + Send + 'static {}

impl<E: From<WriteError> + Send + 'static> OperationError for E {}

/// Returns why a channel with this end takes no events.
pub(in crate::hub) fn refusal(ending: &EndRecord) -> SubmitError {
    let End { state, reason, .. } = &ending.end;
    if ending.stopped { SubmitError::Stopped(reason.clone()) } else { SubmitError::Closed(*state) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::hub::{Config, Hub};
    use crate::store::LogRead;

    #[test]
    fn a_batch_from_elsewhere_is_committed_with_the_offsets_that_it_has() {
        let hub = Hub::new(Config::default(), Arc::default());
        let channel = hub.0.registry.get_or_create(&"a".parse().unwrap()).unwrap();
        let event = |text: &str| NewEvent { event_type: None, data: text.to_owned().into() };
        let assigned = Assigned { first: Offset(7 << 16), time: Moment::now() };
        let effects = {
            let mut inner = channel.inner.lock();
            let events = [event("x"), event("y")];
            let batch = channel.render(inner.log.end(), assigned, &events, None);
            channel.commit(&mut inner, batch.frames(), &BatchContent::default())
        };
        assert!(effects.changed && !effects.ended);
        let LogRead::Batch(batch) = channel.read(LogPosition::default(), usize::MAX) else {
            panic!("the events are in the log")
        };
        let offsets: Vec<_> = batch.entries().map(|entry| entry.offset).collect();
        assert_eq!(offsets, [Offset(7 << 16), Offset((7 << 16) + 1)]);
        assert_eq!(channel.end(), batch.end());
    }
}

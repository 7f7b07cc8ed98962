//! The durable part of a channel: staged writes, and reads from disk.
//!
//! A batch for a durable channel is first written to the store, and is appended to the log in
//! memory only when it is stored. So no reader sees an event that a restart would lose. The store
//! completes writes in the order of their submission.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use tokio::sync::{oneshot, watch};

use super::{Appended, Channel, ChannelInner, Close, FrameWriter};
use crate::clock::Moment;
use crate::event::{self, GapReason, NewEvent};
use crate::hub::commit::{ChannelMetadata, CommitAck, CommitOutcome};
use crate::hub::completion::ThreadCompletions;
use crate::hub::control_events::{End, Gap};
use crate::position::Offset;
use crate::store::disk::{
    self, CompletionQueue, Disk, DiskRead, Durability, LogRecord, Seek, StreamId, Trimmed,
    WriteError,
};
use crate::store::{Batch, BatchBuilder, Entry, Log, LogPosition};

/// The durable part of a channel's state: its store, its staged batches, and its pending reads.
pub(super) struct Durable {
    pub(super) disk: Disk,
    pub(super) stream: StreamId,
    durability: Durability,
    /// Number of bytes at the end of the log that are kept in memory.
    pub(super) window: u64,
    /// Batches submitted to the store and not stored yet, oldest first.
    staged: VecDeque<Staged>,
    /// The queue that runs the completions of all staged writes.
    completions: Option<Arc<dyn CompletionQueue>>,
    /// The metadata that the store has, or is about to have.
    known_as: Option<ChannelMetadata>,
    /// Whether the channel's metadata was ever submitted, even if the store refused it.
    submitted: bool,
    /// Whether a `fanfare.gap` for a possible loss is still to be written.
    owes_notice: bool,
    /// The end of the block that the disk deletes next.
    goes_next: Option<LogPosition>,
    /// Pending reads by their seek, with the waiters of each.
    waiting: HashMap<Seek, Vec<oneshot::Sender<()>>>,
    me: Weak<Channel>,
}

/// A batch that is appended when it is stored.
struct Staged {
    batch: Batch,
    end: Option<ComingEnd>,
    /// Whether it is a notice of a loss, and holds no published event.
    notice: bool,
}

/// An end that is not stored yet.
pub(super) struct ComingEnd {
    pub(super) end: End,
    pub(super) stopped: bool,
    /// The result of the write, for all that wait for it.
    committed: CommitOutcome,
}

impl ComingEnd {
    /// Returns an acknowledgement that resolves when the end is stored.
    pub(super) fn ack(&self) -> CommitAck {
        CommitAck::shared(self.committed.clone())
    }
}

/// Makes the stored receipt of a publish from its offsets, which makes the publish safe to repeat.
pub type ReceiptFn<'a> = &'a dyn Fn(&Appended) -> disk::StoredReceipt;

/// The store of a durable channel, with its durability and its window in memory.
pub(in crate::hub) struct StoreTarget {
    pub(in crate::hub) disk: Disk,
    pub(in crate::hub) durability: Durability,
    pub(in crate::hub) window: u64,
}

impl Durable {
    pub(super) fn new(target: StoreTarget, stream: StreamId, me: Weak<Channel>) -> Self {
        let StoreTarget { disk, durability, window } = target;
        Self {
            disk,
            stream,
            durability,
            window,
            staged: VecDeque::new(),
            completions: None,
            known_as: None,
            submitted: false,
            owes_notice: false,
            goes_next: None,
            waiting: HashMap::new(),
            me,
        }
    }

    /// Returns the end that is not stored yet.
    pub(super) fn coming_end(&self) -> Option<&ComingEnd> {
        self.staged.back()?.end.as_ref()
    }

    /// Returns whether a notice of a possible loss is still to be written.
    pub(super) fn owes_notice(&self) -> bool {
        self.owes_notice
    }

    /// Returns the offset of the first event that is submitted and not stored.
    pub(super) fn coming(&self) -> Option<Offset> {
        self.staged.front()?.batch.entries().next().map(|entry| entry.offset)
    }

    /// Returns the offset of the earliest event on disk.
    pub(super) fn earliest(&self) -> Option<Offset> {
        self.disk.earliest(self.stream)
    }

    /// Returns whether a write has not completed.
    pub(super) fn is_busy(&self) -> bool {
        !self.staged.is_empty()
    }

    fn write(&self, record: LogRecord, tell: impl FnOnce(Result<(), WriteError>) + Send + 'static) {
        self.disk.write(record, self.durability, self.completions.clone(), Box::new(tell));
    }

    /// Writes the channel's metadata to the store, unless the store has it.
    pub(super) fn describe(&mut self, channel: &Channel, metadata: &ChannelMetadata) -> CommitAck {
        if self.known_as.as_ref() == Some(metadata) {
            return CommitAck::ready();
        }
        self.describe_again(channel, metadata)
    }

    /// Writes the channel's metadata, even if the store has it: the acknowledgement is for this
    /// write.
    pub(super) fn describe_again(
        &mut self,
        channel: &Channel,
        metadata: &ChannelMetadata,
    ) -> CommitAck {
        let record = LogRecord::Stream {
            stream: self.stream,
            name: channel.name.clone(),
            options: metadata.to_text().into(),
        };
        (self.known_as, self.submitted) = (Some(*metadata), true);
        let (ack, tell) = CommitAck::pending();
        let me = self.me.clone();
        self.write(record, move |outcome| {
            if outcome.is_err()
                && let Some(channel) = me.upgrade()
            {
                // Written again with the next append.
                channel.note_metadata_refused();
            }
            tell(outcome);
        });
        ack
    }

    /// Deletes the stream from the store, if it was ever submitted.
    pub(super) fn forget(&self, channel: &Channel) -> CommitAck {
        if !self.submitted {
            return CommitAck::ready();
        }
        let pending_deletes = &channel.shared.pending_deletes;
        pending_deletes.submit(&self.disk, &channel.name, self.stream, self.durability)
    }
}

impl Channel {
    /// Restores the channel from what the store held when the hub was started.
    pub(in crate::hub) fn restore(&self, found: &disk::StoredStream, metadata: &ChannelMetadata) {
        let mut inner = self.inner.lock();
        let last_trimmed = found.trim_point.last_trimmed.max(Offset(metadata.inherited));
        let tail = found.span.map_or(last_trimmed, |(_, last)| last.offset);
        inner.log =
            Log::stored(disk::TrimPoint { last_trimmed, ..found.trim_point }, found.end, tail);
        inner.span = found.span;
        inner.known = true;
        inner.settings = inner.settings.with(&metadata.options);
        inner.options = metadata.options;
        inner.produced = metadata.produced;
        inner.inherited = Offset(metadata.inherited);
        let end = found.state.as_deref().and_then(|text| End::from_text(&self.name, text));
        if let Some((end, stopped)) = end {
            inner.ended_at = found.span.map_or(Moment::default(), |(_, last)| last.time);
            (inner.end, inner.stopped) = (Some(end), stopped);
        } else if metadata.produced {
            // A producer from before the restart is no longer connected.
            inner.producer = super::Producer::Away { since: tokio::time::Instant::now() };
        }
        if let Some(durable) = &mut inner.durable {
            durable.stream = found.id;
            (durable.known_as, durable.submitted) = (Some(*metadata), true);
        }
        // Trim points are stored for a limited time only: events trimmed before that may be back.
        let _ = inner.trim_stored(self.shared.clock.now());
        self.publish_end(&inner);
        self.account(&mut inner);
        self.set_clocks(&mut inner);
    }

    /// Stages events, and optionally the channel's end, for the store.
    pub(super) fn stage(
        &self,
        inner: &mut ChannelInner,
        events: &[NewEvent],
        close: Option<(&Close, bool)>,
        receipt: Option<ReceiptFn<'_>>,
    ) -> Appended {
        self.stage_notice(inner);
        let state = close.map_or_else(|| inner.state(), |(close, _)| close.state);
        let end = close.map(|(close, stopped)| (End::of(&self.name, close), stopped));
        let (batch, offsets) =
            self.render(inner.staged_end(), events, end.as_ref().map(|(end, _)| end));
        let (subscribers, ack) = (self.subscribers(), CommitAck::ready());
        let mut appended = Appended { offsets, subscribers, state, ack };
        let receipt = receipt.map(|receipt| receipt(&appended));
        let coming = end.map(|(end, stopped)| {
            let (tell, outcome) = watch::channel(None);
            (ComingEnd { end, stopped, committed: outcome }, tell)
        });
        let (end, tell) = coming.unzip();
        appended.ack = self.hand_in(inner, Staged { batch, end, notice: false }, receipt, tell);
        appended
    }

    /// Submits a batch. `tell_others` resolves the acknowledgements that wait for an end in it.
    fn hand_in(
        &self,
        inner: &mut ChannelInner,
        staged: Staged,
        receipt: Option<disk::StoredReceipt>,
        tell_others: Option<watch::Sender<Option<Result<(), WriteError>>>>,
    ) -> CommitAck {
        let metadata = inner.metadata();
        let Some(durable) = &mut inner.durable else { return CommitAck::ready() };
        let described = durable.describe(self, &metadata);
        if staged.batch.count() == 0 {
            return described;
        }
        let (stream, batch) = (durable.stream, staged.batch.clone());
        let state = staged.end.as_ref().map(|coming| coming.end.to_text(coming.stopped).into());
        if durable.staged.is_empty() {
            durable.completions = ThreadCompletions::here();
        }
        durable.staged.push_back(staged);
        let (ack, tell) = CommitAck::pending();
        let me = durable.me.clone();
        durable.write(LogRecord::Events { stream, batch, state, receipt }, move |outcome| {
            if let Some(channel) = me.upgrade() {
                channel.settle(outcome);
            }
            tell(outcome);
            if let Some(others) = tell_others {
                others.send_replace(Some(outcome));
            }
        });
        ack
    }

    /// Writes one notice that events from just before a power cut may be missing.
    pub(in crate::hub) fn tell_of_loss(&self) {
        let mut inner = self.inner.lock();
        if inner.end.is_some() || inner.log.end().seq == 0 {
            return;
        }
        if let Some(durable) = &mut inner.durable {
            durable.owes_notice = true;
        }
        self.stage_notice(&mut inner);
    }

    /// Submits the notice of a loss, if one is due: before any other event, at the place of the
    /// loss.
    pub(super) fn stage_notice(&self, inner: &mut ChannelInner) {
        let owed = inner.durable.as_mut().map(|durable| std::mem::take(&mut durable.owes_notice));
        if owed != Some(true) {
            return;
        }
        let position = |offset| self.shared.sequencer.position(offset);
        let (requested, offset) = (position(inner.log.tail()), self.shared.sequencer.take(1));
        let gap = Gap {
            channel: Some(self.name.clone()),
            reason: GapReason::Lost,
            requested: Some(requested.to_string().into()),
            resumed: position(offset),
        };
        let mut writer = FrameWriter::new(&self.shared);
        let mut batch = BatchBuilder::new(inner.staged_end());
        let (entry, frame) = writer.render(offset, Some(event::GAP), gap.data().as_bytes());
        batch.push(entry, frame);
        let staged = Staged { batch: batch.finish(), end: None, notice: true };
        drop(self.hand_in(inner, staged, None, None));
    }

    /// Renders the events, and the channel's end, and takes their offsets.
    fn render(
        &self,
        start: LogPosition,
        events: &[NewEvent],
        end: Option<&End>,
    ) -> (Batch, Option<(Offset, Offset)>) {
        let count = events.len() as u64;
        let first = self.shared.sequencer.take(count + u64::from(end.is_some()));
        let mut writer = FrameWriter::new(&self.shared);
        let mut batch = BatchBuilder::new(start);
        for (offset, event) in (first.0..).zip(events) {
            let (entry, frame) = writer.event(Offset(offset), event);
            batch.push(entry, frame);
        }
        if let Some(end) = end {
            let (entry, frame) = writer.end(Offset(first.0 + count), end, self.shared.end_retry);
            batch.push(entry, frame);
        }
        let offsets = (count > 0).then(|| (first, Offset(first.0 + count.saturating_sub(1))));
        (batch.finish(), offsets)
    }

    /// The store has refused the channel's metadata: the next append writes it again.
    fn note_metadata_refused(&self) {
        if let Some(durable) = &mut self.inner.lock().durable {
            durable.known_as = None;
        }
    }

    /// Applies the result of the oldest staged write.
    fn settle(&self, outcome: Result<(), WriteError>) {
        let ended = {
            let mut inner = self.inner.lock();
            let staged = inner.durable.as_mut().and_then(|durable| durable.staged.pop_front());
            if let (Some(staged), Err(why)) = (&staged, outcome) {
                self.note_refused(&mut inner, staged, why);
            }
            let Some(staged) = staged.filter(|_| outcome.is_ok() && !inner.retired) else {
                // A merged reader waits for an event that will not come: let it read on.
                drop(inner);
                return self.notify();
            };
            self.forewarn();
            self.take_in(&mut inner, &staged);
            inner.note_progress();
            self.apply_retention(&mut inner);
            staged.end.is_some()
        };
        self.notify();
        if ended {
            self.tell_of_end();
        }
    }

    /// Handles a write that failed. The hub's own events are tried again.
    fn note_refused(&self, inner: &mut ChannelInner, staged: &Staged, why: WriteError) {
        if let Some(durable) = &mut inner.durable {
            durable.owes_notice |= staged.notice;
        }
        self.look_again(inner, why);
    }

    fn take_in(&self, inner: &mut ChannelInner, staged: &Staged) {
        let batch = &staged.batch;
        let published = batch.count() - usize::from(staged.end.is_some());
        let retention = inner.settings.retention;
        inner.log.append_batch(batch, &retention);
        let published: Vec<Entry> = batch.entries().take(published).collect();
        if let (Some(first), Some(last)) = (published.first(), published.last()) {
            inner.span = Some((inner.span.map_or(*first, |(first_ever, _)| first_ever), *last));
            let bytes = batch.byte_after(published.len()) - batch.start().byte;
            self.shared.metrics.published(published.len() as u64, bytes);
        }
        if let Some(coming) = &staged.end {
            inner.ended_at = self.shared.clock.now();
            inner.stopped = coming.stopped;
            self.note_end(inner, coming.end.clone());
        }
        self.publish_end(inner);
    }

    /// Reads the batch at a seek from disk. Listeners are notified when it is in memory.
    pub(super) fn fetch(&self, inner: &mut ChannelInner, seek: Seek) {
        self.wait_for(inner, seek, None);
    }

    /// Reads the batch at a seek from disk, unless that read is pending.
    pub(in crate::hub) fn want(&self, seek: Seek) {
        self.fetch(&mut self.inner.lock(), seek);
    }

    /// Resolves when the read for this seek has completed.
    pub(in crate::hub) fn fetched(&self, seek: Seek) -> oneshot::Receiver<()> {
        let (tell, fetched) = oneshot::channel();
        self.wait_for(&mut self.inner.lock(), seek, Some(tell));
        fetched
    }

    fn wait_for(&self, inner: &mut ChannelInner, seek: Seek, tell: Option<oneshot::Sender<()>>) {
        let Some(durable) = &mut inner.durable else { return };
        let under_way = durable.waiting.contains_key(&seek);
        durable.waiting.entry(seek).or_default().extend(tell);
        if under_way {
            return;
        }
        let me = durable.me.clone();
        let read = Box::new(move |piece| {
            if let Some(channel) = me.upgrade() {
                channel.take_piece(seek, piece);
            }
        });
        durable.disk.read(durable.stream, seek, read);
    }

    fn take_piece(&self, seek: Seek, piece: DiskRead) {
        let waiting = {
            let mut inner = self.inner.lock();
            match &piece {
                DiskRead::Batch(batch) => inner.log.load(seek, batch),
                DiskRead::Lost { from, to } => inner.log.lose(seek, *from, *to),
                DiskRead::Trimmed(trim_point) => drop(inner.log.trim_stored(*trim_point)),
                DiskRead::Nothing => {}
            }
            // Without this, a reader would ask again for ever.
            if !matches!(piece, DiskRead::Batch(_)) {
                inner.log.give_up(seek);
            }
            self.account(&mut inner);
            let durable = inner.durable.as_mut();
            durable.and_then(|durable| durable.waiting.remove(&seek)).unwrap_or_default()
        };
        if let (DiskRead::Batch(batch), Some(me)) = (&piece, self.me()) {
            self.shared.read_cache.add(&me, batch);
        }
        for tell in waiting {
            let _ = tell.send(());
        }
        self.notify();
    }

    /// Drops a batch that was loaded from disk.
    pub(in crate::hub) fn cool_down(&self, first: LogPosition) {
        let mut inner = self.inner.lock();
        if inner.log.unload(first) {
            self.account(&mut inner);
        }
    }

    fn me(&self) -> Option<Arc<Self>> {
        self.inner.lock().durable.as_ref()?.me.upgrade()
    }
}

impl ChannelInner {
    /// Returns the position after all staged batches.
    fn staged_end(&self) -> LogPosition {
        let staged = self.durable.as_ref().and_then(|durable| durable.staged.back());
        staged.map_or(self.log.end(), |staged| staged.batch.end())
    }

    /// Returns the metadata that the store keeps with the channel's events.
    pub(super) fn metadata(&self) -> ChannelMetadata {
        let (options, produced, inherited) = (self.options, self.produced, self.inherited.0);
        ChannelMetadata { options, produced, inherited }
    }

    /// Returns whether the store takes writes now.
    pub(super) fn check_stored(&self) -> Result<(), WriteError> {
        self.durable.as_deref().map_or(Ok(()), |durable| durable.disk.check())
    }

    /// Trims the disk to the channel's retention and memory to its window. Returns the number of
    /// trimmed events.
    pub(super) fn trim_stored(&mut self, now: Moment) -> u64 {
        let Some(durable) = &mut self.durable else { return 0 };
        let retention = &self.settings.retention;
        let Trimmed { trim_point, next } = durable.disk.trim(durable.stream, retention, now);
        durable.goes_next = next;
        let trimmed = self.log.trim_stored(trim_point);
        self.log.release(durable.window);
        trimmed
    }

    /// Applies retention after an append. Skips the store, which all channels share, unless the
    /// block that is deleted next is due. Returns the number of trimmed events.
    pub(super) fn trim_grown(&mut self, now: Moment) -> u64 {
        let Some(durable) = &self.durable else { return 0 };
        let retention = &self.settings.retention;
        let filled = |next: LogPosition| retention.is_filled_by(next.distance_to(self.log.end()));
        if durable.goes_next.is_none_or(filled) {
            return self.trim_stored(now);
        }
        self.log.release(durable.window);
        0
    }
}

//! Where the batches of a channel become durable before they are committed: in memory at once, or
//! on disk.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::pending::{PendingBatch, PendingBatches};
use crate::channel::ChannelName;
use crate::clock::Moment;
use crate::hub::commit::CommitAck;
use crate::hub::completion::ThreadCompletions;
use crate::hub::error::DeleteError;
use crate::hub::metadata::ChannelMetadata;
use crate::hub::pending_deletes::PendingDeletes;
use crate::position::Offset;
use crate::store::disk::{
    CompletionQueue, Disk, DiskRead, Durability, LogRecord, Seek, StoredReceipt, StreamId, Trimmed,
    WriteError,
};
use crate::store::{LogPosition, Retention};

/// The store of a durable channel, with its durability and its window in memory.
pub(in crate::hub) struct StoreTarget {
    pub(in crate::hub) disk: Disk,
    pub(in crate::hub) durability: Durability,
    pub(in crate::hub) window: u64,
}

/// Where the batches of a channel become durable. Each batch that is submitted comes back once, in
/// the order of submission, to be committed.
pub(super) enum Backend {
    /// Nowhere: a batch is committed in the call.
    Memory,
    /// On disk: a batch is committed when the store has written it, or synced it.
    Disk(Box<DiskBackend>),
}

/// Handles the outcome of a submission.
pub(super) trait OnStored: FnOnce(Result<(), WriteError>) + Send + 'static {}

impl<F: FnOnce(Result<(), WriteError>) + Send + 'static> OnStored for F {}

/// The stream of a channel in the store.
pub(super) struct DiskBackend {
    disk: Disk,
    stream: StreamId,
    durability: Durability,
    /// Number of bytes at the end of the log that are kept in memory.
    window: u64,
    /// The queue that runs the completions of all pending batches.
    completions: Option<Arc<dyn CompletionQueue>>,
    /// The metadata that the store has, or is about to have.
    metadata: Option<ChannelMetadata>,
    /// Whether the channel's metadata was ever submitted, even if the store refused it.
    is_known: bool,
    /// The end of the block that the disk deletes next.
    deletes_next: Option<LogPosition>,
    /// Pending reads by their seek, with the waiters of each.
    reads: HashMap<Seek, Vec<oneshot::Sender<()>>>,
}

impl Backend {
    pub(super) fn new(target: Option<(StoreTarget, StreamId)>) -> Self {
        let Some((StoreTarget { disk, durability, window }, stream)) = target else {
            return Self::Memory;
        };
        Self::Disk(Box::new(DiskBackend {
            disk,
            stream,
            durability,
            window,
            completions: None,
            metadata: None,
            is_known: false,
            deletes_next: None,
            reads: HashMap::new(),
        }))
    }

    /// Adopts the stream that the store held when the hub was started.
    pub(super) fn restore(&mut self, stream: StreamId, metadata: ChannelMetadata) {
        if let Self::Disk(disk) = self {
            (disk.stream, disk.metadata, disk.is_known) = (stream, Some(metadata), true);
        }
    }

    /// Checks whether batches are accepted at the moment.
    pub(super) fn check(&self) -> Result<(), WriteError> {
        match self {
            Self::Memory => Ok(()),
            Self::Disk(disk) => disk.disk.check(),
        }
    }

    /// Returns whether batches are committed in the call that submits them.
    pub(super) fn is_immediate(&self) -> bool {
        matches!(self, Self::Memory)
    }

    /// Returns the stream on disk, if there is one.
    pub(super) fn disk(&mut self) -> Option<&mut DiskBackend> {
        match self {
            Self::Memory => None,
            Self::Disk(disk) => Some(disk),
        }
    }

    /// Returns the stream on disk, if the store has not this metadata of the channel.
    pub(super) fn not_described(&mut self, metadata: ChannelMetadata) -> Option<&mut DiskBackend> {
        self.disk().filter(|disk| disk.metadata != Some(metadata))
    }

    /// Forgets the metadata: the store has refused it, or it is to be written again.
    pub(super) fn forget_metadata(&mut self) {
        if let Self::Disk(disk) = self {
            disk.metadata = None;
        }
    }

    /// Deletes the stream from the store, if it was ever submitted.
    pub(super) fn delete(
        &self,
        name: &ChannelName,
        deletes: &Arc<PendingDeletes>,
    ) -> CommitAck<(), DeleteError> {
        match self {
            Self::Disk(disk) if disk.is_known => {
                deletes.submit(&disk.disk, name, disk.stream, disk.durability)
            }
            Self::Memory | Self::Disk(_) => CommitAck::ready(()),
        }
    }

    /// Returns the offset of the earliest event on disk.
    pub(super) fn earliest(&self) -> Option<Offset> {
        match self {
            Self::Memory => None,
            Self::Disk(disk) => disk.disk.earliest(disk.stream),
        }
    }

    /// Returns the number of bytes at the end of the log that are kept in memory; `None` for all.
    pub(super) fn window(&self) -> Option<u64> {
        match self {
            Self::Memory => None,
            Self::Disk(disk) => Some(disk.window),
        }
    }

    /// Trims the disk to the retention. Returns where the events on disk begin; `None` in memory.
    pub(super) fn trim(&mut self, retention: &Retention, now: Moment) -> Option<Trimmed> {
        let Self::Disk(disk) = self else { return None };
        let trimmed = disk.disk.trim(disk.stream, retention, now);
        disk.deletes_next = trimmed.next;
        Some(trimmed)
    }

    /// Returns whether a limit of the retention is reached on disk, but for the age: the store,
    /// which all channels share, is asked for no less.
    pub(super) fn is_trim_due(&self, retention: &Retention, end: LogPosition) -> bool {
        let Self::Disk(disk) = self else { return false };
        let is_filled = |next: LogPosition| retention.is_filled_by(next.distance_to(end));
        disk.deletes_next.is_none_or(is_filled)
    }

    /// Adds a waiter for the read at this seek. Begins the read, unless it is pending; then
    /// `on_read` runs once.
    pub(super) fn read(
        &mut self,
        seek: Seek,
        waiter: Option<oneshot::Sender<()>>,
        on_read: impl FnOnce(DiskRead) + Send + 'static,
    ) {
        let Self::Disk(disk) = self else { return };
        let is_pending = disk.reads.contains_key(&seek);
        disk.reads.entry(seek).or_default().extend(waiter);
        if !is_pending {
            disk.disk.read(disk.stream, seek, Box::new(on_read));
        }
    }

    /// Removes the read at this seek, and returns its waiters.
    pub(super) fn end_read(&mut self, seek: Seek) -> Vec<oneshot::Sender<()>> {
        match self {
            Self::Memory => Vec::new(),
            Self::Disk(disk) => disk.reads.remove(&seek).unwrap_or_default(),
        }
    }
}

impl DiskBackend {
    /// Submits a batch, with the receipt to store with it. It is added to `pending`, and
    /// `on_stored` runs once with its outcome, in the order of submission, with no lock held. A
    /// closed store drops `on_stored`.
    pub(super) fn submit(
        &mut self,
        batch: PendingBatch,
        receipt: Option<StoredReceipt>,
        pending: &mut PendingBatches,
        on_stored: impl OnStored,
    ) {
        if pending.is_empty() {
            self.completions = ThreadCompletions::here();
        }
        let record = LogRecord::Events {
            stream: self.stream,
            batch: batch.frames.clone(),
            state: batch.content.ending.as_ref().map(|ending| ending.to_text().into()),
            receipt,
        };
        pending.push(batch);
        if !self.write(record, on_stored) {
            pending.withdraw();
        }
    }

    /// Submits the channel's metadata. `on_stored` runs once with its outcome.
    pub(super) fn describe(
        &mut self,
        name: &ChannelName,
        metadata: ChannelMetadata,
        on_stored: impl OnStored,
    ) {
        let record = LogRecord::Stream {
            stream: self.stream,
            name: name.clone(),
            options: metadata.to_text().into(),
        };
        (self.metadata, self.is_known) = (Some(metadata), true);
        self.write(record, on_stored);
    }

    fn write(&self, record: LogRecord, on_stored: impl OnStored) -> bool {
        self.disk.write(record, self.durability, self.completions.clone(), Box::new(on_stored))
    }
}

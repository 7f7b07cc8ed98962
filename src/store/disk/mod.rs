//! The store: durable logs on disk.
//!
//! Each hub has its own directory. All channels share one sequence of files, so that one write and
//! one sync serve all of them. `docs/disk-format.md` describes the bytes.
//!
//! The store knows streams, which are the lives of channels, and not the contents of their events:
//! options, states and receipts are texts that it keeps for the hub.

mod block;
mod block_read;
mod block_ref;
mod checkpoint;
mod checkpoint_slot;
mod clock_steps;
mod commit_queue;
mod compaction;
mod completion;
mod config;
mod dependency;
mod error;
mod file_names;
mod files;
mod footer;
mod free_space;
mod group_commit;
mod health;
mod index;
pub mod inspect;
mod journal;
mod lifecycle;
mod maintenance;
mod messages;
mod offsets;
mod queue;
mod read;
mod reader;
mod receipts;
mod record;
mod recovery;
mod setup;
mod store_parts;
mod stream;
mod stream_index;
mod superblock;
mod superblock_writer;
mod tuning;
mod write_group;
mod writer;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Retention;
use crate::clock::Moment;
use crate::limits::MAX_UNSTORED_BYTES;
use crate::position::{Epoch, Offset};
use crate::telemetry::Metrics;

pub use completion::{Completion, CompletionQueue, OnComplete};
pub use config::{Config, Durability, OpenOptions};
pub use dependency::WriteDependency;
pub use error::{OpenError, WriteError};
pub use file_names::files_in;
pub use health::Health;
use lifecycle::OpenStore;
use maintenance::Maintenance;
use messages::{ReadRequest, WriterMessage};
pub use read::{DiskRead, OnRead, Seek};
pub use record::{LogRecord, StoredReceipt};
pub use recovery::Recovered;
use setup::Setup;
use store_parts::Parts;
pub use stream::{StoredStream, StreamId, TrimPoint, Trimmed};

/// A cheap handle to the store. Dropping the last one closes the store.
#[derive(Clone, Debug)]
pub struct Disk(Arc<OpenStore>);

impl Disk {
    /// Opens or creates the directory. Torn writes are cut off; broken blocks are reported and
    /// left out.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        config: &Config,
        options: OpenOptions,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Recovered), OpenError> {
        Self::with(Setup::new(config, options, metrics)?)
    }

    fn with(setup: Setup) -> Result<(Self, Recovered), OpenError> {
        let (store, found) = OpenStore::open(setup)?;
        Ok((Self(Arc::new(store)), found))
    }

    /// Returns the maintenance, to run it at once.
    fn maintenance(&self) -> &Maintenance {
        &self.0.maintenance
    }

    /// Returns the epoch of everything in the directory.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.0.epoch.clone()
    }

    /// Returns the first unused offset. It is above every offset of earlier lives, stored or not,
    /// provided that [`note_offset`](Self::note_offset) was called for each.
    #[must_use]
    pub fn first_offset(&self) -> Offset {
        self.0.first_offset
    }

    /// Checks that offsets can be given out. The reserved ones run out if the disk accepts no
    /// writes for very long, and no later life may give out the same.
    ///
    /// # Errors
    /// No offsets are left at the moment.
    pub fn check_offsets(&self) -> Result<(), WriteError> {
        self.0.parts.superblock.check_offsets()
    }

    /// Notes that offsets up to this one are given out. Does not block; costs an atomic maximum.
    pub fn note_offset(&self, offset: Offset) {
        let Parts { superblock, writes, .. } = &self.0.parts;
        if superblock.note_offset(offset) {
            // Fails only if the store is closed, which saves the offset.
            let _ = writes.push(WriterMessage::Renew);
        }
    }

    /// Returns the number of a new stream.
    #[must_use]
    pub fn new_stream(&self) -> StreamId {
        StreamId(self.0.next_stream.fetch_add(1, Ordering::Relaxed))
    }

    /// Checks whether writes are accepted at the moment.
    ///
    /// # Errors
    /// The disk is full, the store has failed, or more than `MAX_UNSTORED_BYTES` of events wait to
    /// be written.
    pub fn check(&self) -> Result<(), WriteError> {
        let Parts { commits, health, .. } = &self.0.parts;
        if commits.in_flight_bytes() > MAX_UNSTORED_BYTES {
            return Err(WriteError::Behind);
        }
        health.check()
    }

    /// Returns the health of the store.
    #[must_use]
    pub fn health(&self) -> Health {
        self.0.parts.health.current()
    }

    /// Submits a record. Does not block. Records of one stream are stored in the order of
    /// submission, and `on_complete` is called in that order, if all that wait together have the
    /// same completion queue.
    ///
    /// Events that do not follow on the stored events of their stream are refused: after a
    /// refusal, the refused events must be submitted again first.
    ///
    /// Returns whether the record was taken. A closed store takes none, and does not call
    /// `on_complete`: the caller may hold a lock that it takes.
    pub fn write(
        &self,
        record: LogRecord,
        durability: Durability,
        completions: Option<Arc<dyn CompletionQueue>>,
        on_complete: OnComplete,
    ) -> bool {
        let Parts { commits, writes, .. } = &self.0.parts;
        commits.add_in_flight(record.size());
        let write = WriterMessage::Write { record, durability, completions, on_complete };
        writes.push(write).is_ok()
    }

    /// Reads consecutive events of a stream from disk: about 256 KiB at most, including the
    /// requested event. Does not block.
    pub fn read(&self, stream: StreamId, seek: Seek, on_read: OnRead) {
        let _ = self.0.parts.reads.push(ReadRequest { stream, seek, on_read });
    }

    /// Trims whole blocks beyond the retention. Does no I/O: files are deleted and rewritten
    /// later.
    pub fn trim(&self, stream: StreamId, retention: &Retention, now: Moment) -> Trimmed {
        self.0.parts.index.lock().trim(stream, retention, now)
    }

    /// Returns the offset of the earliest retained event of a stream.
    #[must_use]
    pub fn earliest(&self, stream: StreamId) -> Option<Offset> {
        self.0.parts.index.lock().earliest(stream)
    }

    /// Writes and syncs everything submitted, and ends the store's threads. Later records are
    /// ignored.
    pub fn close(&self) {
        self.0.close();
    }
}

#[cfg(test)]
pub(crate) mod tests;

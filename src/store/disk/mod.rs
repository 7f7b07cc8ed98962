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
mod compaction;
mod completion;
mod config;
mod dependency;
mod engine;
mod error;
mod file_names;
mod files;
mod footer;
mod group_commit;
mod health;
mod index;
pub mod inspect;
mod journal;
mod maintenance;
mod messages;
mod queue;
mod read;
mod reader;
mod receipts;
mod record;
mod recovery;
mod steps;
mod stream;
mod stream_index;
mod superblock;
mod tuning;
mod write_group;
mod writer;

use std::fs;
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
use engine::{Engine, Setup};
pub use error::{OpenError, WriteError};
pub use file_names::files_in;
use files::Directory;
pub use health::Health;
use messages::{ReadRequest, WriterMessage};
pub use read::{DiskRead, OnRead, Seek};
pub use record::{LogRecord, StoredReceipt};
pub use recovery::Recovered;
pub use stream::{StoredStream, StreamId, TrimPoint, Trimmed};
use tuning::Tuning;

/// A cheap handle to the store. Dropping the last one closes the store.
#[derive(Clone, Debug)]
pub struct Disk(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Engine>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

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
        let directory = config.path.clone();
        let files = Arc::new(Directory::take(&directory)?);
        Self::with(Setup {
            files,
            directory,
            boot: this_boot(),
            config: config.clone(),
            tuning: Tuning::within(config.max_bytes.as_u64()),
            options,
            metrics,
        })
    }

    fn with(setup: Setup) -> Result<(Self, Recovered), OpenError> {
        let (engine, found) = Engine::open(setup)?;
        Ok((Self(Arc::new(Handle(engine))), found))
    }

    fn engine(&self) -> &Engine {
        &self.0.0
    }

    /// Returns the epoch of everything in the directory.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.engine().epoch.clone()
    }

    /// Returns the first unused offset. It is above every offset of earlier lives, stored or not,
    /// provided that [`note_offset`](Self::note_offset) was called for each.
    #[must_use]
    pub fn first_offset(&self) -> Offset {
        self.engine().first_offset
    }

    /// Checks that offsets can be given out. The reserved ones run out if the disk accepts no
    /// writes for very long, and no later life may give out the same.
    ///
    /// # Errors
    /// No offsets are left at the moment.
    pub fn check_offsets(&self) -> Result<(), WriteError> {
        self.engine().check_offsets()
    }

    /// Notes that offsets up to this one are given out. Does not block; costs an atomic maximum.
    pub fn note_offset(&self, offset: Offset) {
        self.engine().note_offset(offset);
    }

    /// Returns the number of a new stream.
    #[must_use]
    pub fn new_stream(&self) -> StreamId {
        StreamId(self.engine().next_stream.fetch_add(1, Ordering::Relaxed))
    }

    /// Checks whether writes are accepted at the moment.
    ///
    /// # Errors
    /// The disk is full, the store has failed, or more than `MAX_UNSTORED_BYTES` of events wait to
    /// be written.
    pub fn check(&self) -> Result<(), WriteError> {
        let engine = self.engine();
        if engine.commits.in_flight_bytes() > MAX_UNSTORED_BYTES {
            return Err(WriteError::Behind);
        }
        engine.health.check()
    }

    /// Returns the health of the store.
    #[must_use]
    pub fn health(&self) -> Health {
        self.engine().health.current()
    }

    /// Submits a record. Does not block. Records of one stream are stored in the order of
    /// submission, and `done` is called in that order, if all that wait together have the same
    /// completion queue.
    ///
    /// Events that do not follow on the stored events of their stream are refused: after a
    /// refusal, the refused events must be submitted again first.
    pub fn write(
        &self,
        record: LogRecord,
        durability: Durability,
        completions: Option<Arc<dyn CompletionQueue>>,
        done: OnComplete,
    ) {
        self.engine().commits.add_in_flight(record.size());
        let message = WriterMessage::Write { record, durability, completions, on_complete: done };
        // `done` is not called here: the caller may hold a lock that it takes.
        let _ = self.engine().inbox.push(message);
    }

    /// Reads consecutive events of a stream from disk: about 256 KiB at most, including the
    /// requested event. Does not block.
    pub fn read(&self, stream: StreamId, seek: Seek, read: OnRead) {
        let _ = self.engine().reads.push(ReadRequest { stream, seek, on_read: read });
    }

    /// Trims whole blocks beyond the retention. Does no I/O: files are deleted and rewritten
    /// later.
    pub fn trim(&self, stream: StreamId, retention: &Retention, now: Moment) -> Trimmed {
        self.engine().index.lock().trim(stream, retention, now)
    }

    /// Returns the offset of the earliest retained event of a stream.
    #[must_use]
    pub fn earliest(&self, stream: StreamId) -> Option<Offset> {
        self.engine().index.lock().earliest(stream)
    }

    /// Writes and syncs everything submitted, and ends the store's threads. Later records are
    /// ignored.
    pub fn close(&self) {
        self.engine().close();
    }
}

/// Returns the identifier of this boot of the machine. If it is unknown, every start of a hub
/// counts as one after a power cut.
fn this_boot() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot.trim().to_owned()
}

#[cfg(test)]
pub(crate) mod tests;

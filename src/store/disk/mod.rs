//! The store: durable logs on disk.
//!
//! Each hub has its own directory. All channels share one sequence of files, so that one write and
//! one sync serve all of them. `docs/disk-format.md` describes the bytes.
//!
//! The store knows streams, which are the lives of channels, and not the contents of their events:
//! options, states and receipts are texts that it keeps for the hub.

mod block;
mod checkpoint;
mod compaction;
mod completion;
mod dependency;
mod engine;
mod files;
mod group_commit;
mod health;
mod index;
pub mod inspect;
mod maintenance;
mod queue;
mod reader;
mod recovery;
mod steps;
mod superblock;
mod writer;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{Batch, Entry, LogPosition, Retention};
use crate::channel::ChannelName;
use crate::clock::{Clock, Moment};
use crate::limits::MAX_UNSTORED_BYTES;
use crate::position::{Epoch, Offset};
use crate::telemetry::Metrics;

use checkpoint::is_ours;
pub use completion::{Completion, CompletionQueue};
pub use dependency::WriteDependency;
use engine::{Engine, Setup, Tuning};
use files::Directory;
use reader::Wanted;
use writer::WriterMessage;

/// Settings of the section `store`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The directory; empty for no store.
    pub path: PathBuf,
    /// Durability of channels for which no rule sets one.
    pub durability: Durability,
    /// Maximum time between a write with durability `async` and its sync.
    #[serde(with = "humantime_serde")]
    pub sync_interval: Duration,
    /// Maximum size of the directory; above it, the oldest file is deleted.
    pub max_bytes: ByteSize,
    /// Free space of the file system below which writes are refused.
    pub min_free: ByteSize,
    /// Bytes at the end of a durable channel that stay in memory.
    pub window: ByteSize,
    /// Size of the read cache, which all replaying readers share.
    pub read_cache: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            durability: Durability::Memory,
            sync_interval: Duration::from_millis(200),
            max_bytes: ByteSize::gib(10),
            min_free: ByteSize::mib(256),
            window: ByteSize::mib(1),
            read_cache: ByteSize::mib(64),
        }
    }
}

impl Config {
    /// Returns whether a store is configured.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.path.as_os_str().is_empty()
    }
}

/// The guarantee for acknowledged events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Nothing survives the process.
    #[default]
    Memory,
    /// Acknowledged events survive the process, but not always a power cut soon afterwards.
    Async,
    /// Acknowledged events survive a power cut.
    Sync,
}

/// One life of a channel: a name that is freed and used again is another stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// A channel as found in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredStream {
    /// The stream.
    pub id: StreamId,
    /// The channel.
    pub name: ChannelName,
    /// The options that it was created with.
    pub options: Box<str>,
    /// Its final state, if it has ended.
    pub state: Option<Box<str>>,
    /// The first and last event that it ever had, retained or not.
    pub span: Option<(Entry, Entry)>,
    /// The start of the retained events.
    pub trim_point: TrimPoint,
    /// The position after the last event.
    pub end: LogPosition,
    /// A broken block may have held its last events.
    pub unsure: bool,
}

/// A position where reading can start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrimPoint {
    /// The position.
    pub position: LogPosition,
    /// The offset of the last event before it.
    pub last_trimmed: Offset,
}

/// A receipt, by which a retried publish is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredReceipt {
    /// The scope of the key.
    pub scope: Box<str>,
    /// The key.
    pub key: Box<str>,
    /// The outcome of the publish.
    pub outcome: Box<str>,
    /// Time of the publish, stored as wall clock time.
    pub time: Moment,
    /// An offset of the same time, by which the store corrects for wall clock steps. Set by the
    /// store.
    #[serde(default)]
    pub offset: u64,
    /// The dependency of the record.
    #[serde(skip)]
    pub dependency: WriteDependency,
}

/// Parameters for opening a directory.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Maximum age of receipts.
    pub receipts_window: Duration,
    /// Maximum number of receipts; above it, the oldest are dropped.
    pub max_receipts: usize,
    /// Identifies the set of names that are durable from now on: a text that differs if the set
    /// does. `None` if there is no publisher.
    pub durable_names: Option<Box<str>>,
    /// The clock for ages.
    pub clock: Clock,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            receipts_window: Duration::MAX,
            max_receipts: usize::MAX,
            durable_names: None,
            clock: Clock::default(),
        }
    }
}

/// A record to be written.
#[derive(Clone, Debug)]
pub enum LogRecord {
    /// Events of a stream, which follow those submitted before; optionally its end and a receipt.
    /// Stored as a whole, or not at all.
    Events {
        /// The stream.
        stream: StreamId,
        /// The events.
        batch: Batch,
        /// The final state of the stream, if the last event is its end.
        state: Option<Box<str>>,
        /// The receipt, if the publish has a key.
        receipt: Option<StoredReceipt>,
    },
    /// A stream begins, or its options change.
    Stream {
        /// The stream.
        stream: StreamId,
        /// The channel.
        name: ChannelName,
        /// Its options.
        options: Box<str>,
    },
    /// A stream is deleted, with all its events.
    Gone {
        /// The stream.
        stream: StreamId,
    },
    /// A receipt of a publish that is complete.
    Receipt(StoredReceipt),
}

/// Called once, from a thread of the store or of a completion queue, when the record is as durable
/// as requested, or has failed. Dropped without a call if the store is closed.
pub type OnComplete = Box<dyn FnOnce(Result<(), WriteError>) + Send>;

/// The reason why a record is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The disk is full; a later write may succeed.
    #[error("the disk of the store is full: nothing more is stored until there is room")]
    Full,
    /// The disk has failed. Nothing is stored until the hub is restarted.
    #[error("the store has failed: nothing is stored until the hub is started anew")]
    Failed,
    /// The disk is slower than the publishers.
    #[error("the disk of the store does not keep up with what is published: try again")]
    Behind,
}

/// The key of an event to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seek {
    /// The event at this position.
    Seq(u64),
    /// The event that contains this byte of the log.
    Byte(u64),
    /// The first event after this offset.
    After(Offset),
}

/// The result of a read.
#[derive(Clone, Debug)]
pub enum DiskRead {
    /// Consecutive events that include the requested one.
    Batch(Batch),
    /// The requested event cannot be read: everything between these two positions is lost.
    Lost {
        /// The start of the loss.
        from: TrimPoint,
        /// The position where reading continues.
        to: TrimPoint,
    },
    /// Retention has trimmed the event: reading continues at this position.
    Trimmed(TrimPoint),
    /// There is no such event, or no such stream.
    Nothing,
}

/// The result of a trim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// The start of the retained events.
    pub trim_point: TrimPoint,
    /// The end of the block that is trimmed next, if there is one: until the events after it reach
    /// a limit of the retention, only age trims it.
    pub next: Option<LogPosition>,
}

/// Called once, from a thread of the store. Dropped without a call if the store is closed.
pub type OnRead = Box<dyn FnOnce(DiskRead) + Send>;

/// The health of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Writes are accepted.
    #[default]
    Good,
    /// The disk is full.
    Full,
    /// The store has failed: the reason, with file and offset if known.
    Failed(Arc<str>),
}

/// Returns the paths of the store's files in a directory.
///
/// # Errors
/// The directory cannot be read.
pub fn files_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_ours) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The reason why a directory was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another hub uses it.
    #[error("{0} is in use by another hub: each needs a directory of its own")]
    Locked(PathBuf),
    /// It was written by a later version.
    #[error(
        "{path} has version {found} of the store, and this hub knows up to {known}: start it with \
         the version of Fanfare that wrote it, or a later one, or give it another `store.path`"
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The latest version that this hub can read.
        known: u32,
    },
    /// The superblock is damaged.
    #[error(
        "{path} is damaged: {why}. Put back a copy of this file, or see \"A damaged superblock\" \
         in docs/disk-format.md; to begin with nothing, give the hub another `store.path`"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The fault.
        why: String,
    },
    /// It has files that do not belong to a store.
    #[error("{path} is no store of Fanfare: {why}")]
    Foreign {
        /// The file or directory.
        path: PathBuf,
        /// The fault.
        why: String,
    },
    /// Reading or writing failed.
    #[error("{path}: {error}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        error: std::io::Error,
    },
}

/// The contents of a directory when it was opened.
#[derive(Debug)]
pub struct Recovered {
    /// The streams, without those that were deleted.
    pub streams: Vec<StoredStream>,
    /// The last offset of events that are gone: of deleted streams, and of names that were not
    /// durable then.
    pub gone: Offset,
    /// Receipts within the window of the options, oldest first.
    pub receipts: Vec<StoredReceipt>,
    /// The machine went down since the last run: the last `async` events may be missing.
    pub power_cut: bool,
}

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
        let message = WriterMessage::Write { record, durability, completions, done };
        // `done` is not called here: the caller may hold a lock that it takes.
        let _ = self.engine().inbox.push(message);
    }

    /// Reads consecutive events of a stream from disk: about 256 KiB at most, including the
    /// requested event. Does not block.
    pub fn read(&self, stream: StreamId, seek: Seek, read: OnRead) {
        let _ = self.engine().reads.push(Wanted { stream, seek, read });
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

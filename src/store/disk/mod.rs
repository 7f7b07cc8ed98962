//! Logs on disk: what a restart must not lose.
//!
//! One directory, one hub. All channels share one sequence of files, so that one write and one sync
//! serve all who wait. `docs/disk-format.md` has the bytes.
//!
//! It knows streams, which are the lives of channels, and nothing of what their events say:
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
    /// How durable channels are that no rule says it of.
    pub durability: Durability,
    /// How long what is `async` may wait for the disk to have it.
    #[serde(with = "humantime_serde")]
    pub sync_interval: Duration,
    /// Bytes of the directory; past it, the oldest file goes.
    pub max_bytes: ByteSize,
    /// Free bytes of the file system below which nothing more is written.
    pub min_free: ByteSize,
    /// Bytes at its end that a durable channel has in memory, too.
    pub window: ByteSize,
    /// Bytes read for those who replay, shared by all of them.
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
    /// Whether there is to be a store.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.path.as_os_str().is_empty()
    }
}

/// What survives what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Nothing survives the process.
    #[default]
    Memory,
    /// What was acknowledged survives the process, but not the last moments before a power cut.
    Async,
    /// What was acknowledged survives a power cut.
    Sync,
}

/// One life of a channel: a name that is freed and used again is another stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What the directory holds of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredStream {
    /// The stream.
    pub id: StreamId,
    /// The channel.
    pub name: ChannelName,
    /// What it was created with.
    pub options: Box<str>,
    /// How it ended, if it did.
    pub state: Option<Box<str>>,
    /// The first and the last event that it ever had, retained or not.
    pub span: Option<(Entry, Entry)>,
    /// Where what is retained begins.
    pub trim_point: TrimPoint,
    /// The place after the last event.
    pub end: LogPosition,
    /// A block was broken that may have had its last events.
    pub unsure: bool,
}

/// A place where reading can begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrimPoint {
    /// The place.
    pub position: LogPosition,
    /// The offset of the last event before it.
    pub last_trimmed: Offset,
}

/// A receipt that makes a retry safe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredReceipt {
    /// What the key belongs to.
    pub scope: Box<str>,
    /// The key.
    pub key: Box<str>,
    /// What was done under it.
    pub outcome: Box<str>,
    /// When. It is kept as the time of the wall clock.
    pub time: Moment,
    /// An offset of the same time, by which the store knows how the wall clock was set then. The
    /// store fills it in.
    #[serde(default)]
    pub offset: u64,
    /// What it was handed in with.
    #[serde(skip)]
    pub dependency: WriteDependency,
}

/// What whoever opens the directory asks of it.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// For how long receipts are remembered.
    pub receipts_window: Duration,
    /// So many receipts are remembered; past it, the oldest are forgotten.
    pub max_receipts: usize,
    /// Tells which names are durable from now on: a text that is another one if other names are.
    /// `None` if nobody publishes.
    pub durable_names: Option<Box<str>>,
    /// What ages are taken from.
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

/// What is written.
#[derive(Clone, Debug)]
pub enum LogRecord {
    /// Events of a stream, after all that was handed in of it before; perhaps its end; perhaps a
    /// receipt. All of it is kept, or nothing.
    Events {
        /// The stream.
        stream: StreamId,
        /// The events.
        batch: Batch,
        /// How the stream has ended, if the last of them is its end.
        state: Option<Box<str>>,
        /// The receipt, if the publish has a key.
        receipt: Option<StoredReceipt>,
    },
    /// A stream begins, or has other options.
    Stream {
        /// The stream.
        stream: StreamId,
        /// The channel.
        name: ChannelName,
        /// Its options.
        options: Box<str>,
    },
    /// A stream is gone, with all that it holds.
    Gone {
        /// The stream.
        stream: StreamId,
    },
    /// A receipt of a publish that is complete.
    Receipt(StoredReceipt),
}

/// Called once, from a thread of the store's own, when what was handed in is as durable as was
/// asked for, or never will be. A store that is closed drops it instead.
pub type OnComplete = Box<dyn FnOnce(Result<(), WriteError>) + Send>;

/// Why something is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// There is no room; there may be later.
    #[error("the disk of the store is full: nothing more is stored until there is room")]
    Full,
    /// The disk has failed. Nothing is stored until somebody has looked at it.
    #[error("the store has failed: nothing is stored until the hub is started anew")]
    Failed,
    /// The disk does not keep up with what is published.
    #[error("the disk of the store does not keep up with what is published: try again")]
    Behind,
}

/// Which event a piece is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seek {
    /// The one at this place.
    Seq(u64),
    /// The one that begins at this byte of the log, or that has it.
    Byte(u64),
    /// The first after this offset.
    After(Offset),
}

/// What was read.
#[derive(Clone, Debug)]
pub enum DiskRead {
    /// Consecutive events, the wanted one among them.
    Batch(Batch),
    /// The wanted one cannot be read: all between these two places is lost.
    Lost {
        /// Where it begins.
        from: TrimPoint,
        /// Where reading can go on.
        to: TrimPoint,
    },
    /// Retention has passed over it: reading can go on here.
    Trimmed(TrimPoint),
    /// There is no such event, or no such stream.
    Nothing,
}

/// How far a stream is trimmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Where what is retained begins.
    pub trim_point: TrimPoint,
    /// What goes next ends here, if there is anything: until this is beyond the retention, nothing
    /// goes but by age.
    pub next: Option<LogPosition>,
}

/// Called once, from a thread of the store's own. A store that is closed drops it instead.
pub type OnRead = Box<dyn FnOnce(DiskRead) + Send>;

/// How the store is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It takes what comes.
    #[default]
    Good,
    /// There is no room.
    Full,
    /// It has failed: why, with file and offset if these are known.
    Failed(Arc<str>),
}

/// The files in this directory that are a store's.
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

/// Why a directory was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another hub has it.
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
        /// The latest that is known.
        known: u32,
    },
    /// The file that says what the directory is cannot be relied on.
    #[error(
        "{path} is damaged: {why}. Put back a copy of this file, or see \"A damaged superblock\" \
         in docs/disk-format.md; to begin with nothing, give the hub another `store.path`"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// It has files that are not a store's.
    #[error("{path} is no store of Fanfare: {why}")]
    Foreign {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Reading or writing failed.
    #[error("{path}: {error}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// How.
        error: std::io::Error,
    },
}

/// What was found in a directory.
#[derive(Debug)]
pub struct Recovered {
    /// The streams, those that are gone left out.
    pub streams: Vec<StoredStream>,
    /// How far the events reached of which nothing is left, of streams that are gone, and of names
    /// that were not durable then.
    pub gone: Offset,
    /// Receipts that are younger than was asked for, oldest first.
    pub receipts: Vec<StoredReceipt>,
    /// The machine has gone down since: of what was `async`, the last moments may be missing.
    pub power_cut: bool,
}

/// The store: a cheap handle. With the last one, the store is closed.
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
    /// Opens the directory, or makes it. What was torn is cut off, what is broken is reported and
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

    /// The epoch of all that is in the directory.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.engine().epoch.clone()
    }

    /// The first offset that nobody has had. It is above every offset of lives before, stored or
    /// not, as long as [`note_offset`](Self::note_offset) is told of them.
    #[must_use]
    pub fn first_offset(&self) -> Offset {
        self.engine().first_offset
    }

    /// Whether there are offsets that can be given out: those that are reserved run out when the
    /// disk takes no more for very long. No life to come may give out the same.
    ///
    /// # Errors
    /// There are none at the moment.
    pub fn check_offsets(&self) -> Result<(), WriteError> {
        self.engine().check_offsets()
    }

    /// Offsets up to this one are being given out. Never waits; costs an atomic maximum.
    pub fn note_offset(&self, offset: Offset) {
        self.engine().note_offset(offset);
    }

    /// A number for a new stream.
    #[must_use]
    pub fn new_stream(&self) -> StreamId {
        StreamId(self.engine().next_stream.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether something can be handed in at the moment.
    ///
    /// # Errors
    /// There is no room, the store has failed, or what was handed in waits for a disk that does not
    /// keep up.
    pub fn check(&self) -> Result<(), WriteError> {
        let engine = self.engine();
        if engine.commits.in_flight_bytes() > MAX_UNSTORED_BYTES {
            return Err(WriteError::Behind);
        }
        engine.health.check()
    }

    /// How the store is.
    #[must_use]
    pub fn health(&self) -> Health {
        self.engine().health.current()
    }

    /// Hands something in. Never waits. What is handed in of one stream is stored in that order,
    /// and `done` is called in that order, if all that wait together have the same completion
    /// queue.
    ///
    /// Events that do not follow on what was stored of their stream are refused: after something
    /// that was refused, the same has to be handed in again.
    pub fn write(
        &self,
        record: LogRecord,
        durability: Durability,
        completions: Option<Arc<dyn CompletionQueue>>,
        done: OnComplete,
    ) {
        self.engine().commits.add_in_flight(record.size());
        let message = WriterMessage::Write { record, durability, completions, done };
        // Not called here: whoever hands in may hold a lock that `done` takes.
        let _ = self.engine().inbox.push(message);
    }

    /// Reads consecutive events of a stream from disk: at most some 256 KiB, the wanted one among
    /// them. Never waits.
    pub fn read(&self, stream: StreamId, seek: Seek, read: OnRead) {
        let _ = self.engine().reads.push(Wanted { stream, seek, read });
    }

    /// Gives up what is beyond the retention, by whole blocks. Touches no disk: files are deleted
    /// and rewritten later.
    pub fn trim(&self, stream: StreamId, retention: &Retention, now: Moment) -> Trimmed {
        self.engine().index.lock().trim(stream, retention, now)
    }

    /// The offset of the earliest event of a stream that is retained.
    #[must_use]
    pub fn earliest(&self, stream: StreamId) -> Option<Offset> {
        self.engine().index.lock().earliest(stream)
    }

    /// Writes and syncs all that was handed in, and ends the store's threads. Nothing is taken
    /// afterwards.
    pub fn close(&self) {
        self.engine().close();
    }
}

/// Names this start of the machine. Where it is not known, every start of a hub counts as one after
/// a power cut.
fn this_boot() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot.trim().to_owned()
}

#[cfg(test)]
pub(crate) mod tests;

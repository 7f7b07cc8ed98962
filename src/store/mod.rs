//! Logs of channels: in memory, and for durable channels on disk too.

pub mod disk;
mod index;
mod log;
mod on_disk;
mod segment;

use std::time::Duration;

pub use index::Entry;
pub use log::{Log, LogRead, Missing};
pub use segment::{Batch, BatchBuilder, BatchRef};

/// A position in a log: the number of events and of bytes of frames before it.
///
/// Dense where offsets are not, so that lag is a subtraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    /// Events before this position, since the log began.
    pub seq: u64,
    /// Bytes of frames before this position, since the log began.
    pub byte: u64,
}

impl LogPosition {
    /// Returns the events and bytes from this position to a later one.
    #[must_use]
    pub fn distance_to(self, other: Self) -> Self {
        Self { seq: other.seq.saturating_sub(self.seq), byte: other.byte.saturating_sub(self.byte) }
    }
}

/// The retention limits of a log. The first that is exceeded evicts events from the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Maximum number of events.
    pub max_events: u64,
    /// Maximum bytes of frames.
    pub max_bytes: u64,
    /// Maximum age of an event.
    pub max_age: Duration,
}

impl Retention {
    /// Returns whether later events alone reach a limit, so that none before them are kept.
    #[must_use]
    pub fn is_filled_by(&self, later: LogPosition) -> bool {
        later.seq >= self.max_events || later.byte >= self.max_bytes
    }
}

//! Where logs live: in memory, and for those channels that are to outlive the process, on disk too.

pub mod disk;
mod index;
mod log;
mod on_disk;
mod segment;

use std::time::Duration;

pub use index::Entry;
pub use log::{Log, LogRead, Missing};
pub use segment::{Batch, BatchBuilder};

/// A place in one log: how many events, and how many bytes of frames, were appended before it.
///
/// Dense where offsets are not, so that lag is a subtraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    /// Events before this place, since the log began.
    pub seq: u64,
    /// Bytes of frames before this place, since the log began.
    pub byte: u64,
}

impl LogPosition {
    /// How far this place is behind another, in events and bytes.
    #[must_use]
    pub fn distance_to(self, other: Self) -> Self {
        Self { seq: other.seq.saturating_sub(self.seq), byte: other.byte.saturating_sub(self.byte) }
    }
}

/// How much a log keeps. Whatever is exceeded first evicts from the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Events.
    pub max_events: u64,
    /// Bytes of frames.
    pub max_bytes: u64,
    /// Age of an event.
    pub max_age: Duration,
}

impl Retention {
    /// Whether so much, which came later, is all that is to be kept.
    #[must_use]
    pub fn is_filled_by(&self, later: LogPosition) -> bool {
        later.seq >= self.max_events || later.byte >= self.max_bytes
    }
}

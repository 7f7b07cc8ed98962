//! Requests for events on disk, and their results.

use super::stream::TrimPoint;
use crate::position::Offset;
use crate::store::Batch;

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

/// Called once, from a thread of the store. Dropped without a call if the store is closed.
pub type OnRead = Box<dyn FnOnce(DiskRead) + Send>;

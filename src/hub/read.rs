//! The requests of a reader to its channel, and their results.

use super::coalesce::MergedBatch;
use crate::event::ChannelState;
use crate::position::Offset;
use crate::store::disk::Seek;
use crate::store::{LogPosition, Missing};

/// The place in a log at which a subscription begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum StartAt {
    Tail,
    Earliest,
    Last(u64),
    At(LogPosition),
    After(Offset),
}

/// The start of a subscription in a channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) position: LogPosition,
    /// The read from disk that must come first; if set, no other field is valid.
    pub(super) on_disk: Option<Seek>,
    /// The offset of the last event before the position, retained or not.
    pub(super) last_before: Offset,
    /// Whether no event is between the position and the tail; an end may be.
    pub(super) at_tail: bool,
    /// The state of the channel.
    pub(super) state: ChannelState,
    /// Whether retention has trimmed events that were asked for.
    pub(super) trimmed: bool,
    /// The last offset of earlier channels of this name.
    pub(super) inherited: Offset,
    /// Whether the channel has ended, and all of it is before the position.
    pub(super) over: bool,
    /// Whether the channel has left memory, so that nothing will be added.
    pub(super) retired: bool,
}

/// The result of a read by byte.
#[derive(Debug)]
pub enum ReadResult {
    /// At least one frame.
    Frames {
        /// The frames.
        batch: MergedBatch,
        /// Whether more was in the log at the time of the read.
        more: bool,
        /// Whether the channel has ended, and nothing follows.
        last: bool,
    },
    /// No event yet.
    Nothing,
    /// The next events are lost or trimmed.
    Missing(Missing),
}

/// The result of a look at the next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeekResult {
    /// An event.
    Event(Offset),
    /// No event yet.
    Nothing,
    /// No more events: the channel has ended.
    Over,
    /// No more events: the channel has left memory.
    Retired,
    /// No event yet, but one with this offset is submitted and not committed.
    Pending(Offset),
    /// An event that must be read from disk.
    OnDisk,
    /// The next events are lost or trimmed.
    Missing(Missing),
}

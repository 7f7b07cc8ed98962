//! What readers ask of a channel, and what they are told.

use super::coalesce::MergedBatch;
use crate::event::ChannelState;
use crate::position::Offset;
use crate::store::disk::Seek;
use crate::store::{LogPosition, Missing};

/// Which place of a log a subscription begins at.
#[derive(Clone, Copy, Debug)]
pub(super) enum StartAt {
    Tail,
    Earliest,
    Last(u64),
    At(LogPosition),
    After(Offset),
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) position: LogPosition,
    /// The mark cannot be known before this is fetched: nothing else of it counts.
    pub(super) on_disk: Option<Seek>,
    /// The offset of the last event before the mark, retained or not.
    pub(super) last_before: Offset,
    /// No event lies between the mark and the tail; an end may.
    pub(super) at_tail: bool,
    /// How the channel stands.
    pub(super) state: ChannelState,
    /// Retention has passed over events that should have come.
    pub(super) trimmed: bool,
    /// The events of predecessors reach through here, in whatever state they were left.
    pub(super) inherited: Offset,
    /// The channel has ended, and all of it lies before the mark.
    pub(super) over: bool,
    /// The channel has left memory: nothing will be added.
    pub(super) retired: bool,
}

/// What a reader that counts bytes finds.
#[derive(Debug)]
pub enum ReadResult {
    /// At least one frame.
    Frames {
        /// The frames.
        batch: MergedBatch,
        /// More was there when they were read.
        more: bool,
        /// The channel has ended, and nothing follows.
        last: bool,
    },
    /// No event yet.
    Nothing,
    /// What the reader wants will not come.
    Missing(Missing),
}

/// What lies ahead of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PeekResult {
    /// An event.
    Event(Offset),
    /// Nothing yet.
    Nothing,
    /// Nothing any more: the channel has ended.
    Over,
    /// Nothing any more: the channel has left memory.
    Retired,
    /// Nothing yet, but an event with this offset is being stored.
    Coming(Offset),
    /// An event that is to be fetched.
    OnDisk,
    /// What the reader wants will not come.
    Missing(Missing),
}

//! Streams: the lives of channels, and the part of each that is retained.

use crate::channel::ChannelName;
use crate::position::Offset;
use crate::store::{Entry, LogPosition};

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

/// The result of a trim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// The start of the retained events.
    pub trim_point: TrimPoint,
    /// The end of the block that is trimmed next, if there is one: until the events after it reach
    /// a limit of the retention, only age trims it.
    pub next: Option<LogPosition>,
}

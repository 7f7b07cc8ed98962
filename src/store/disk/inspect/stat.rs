//! Statistics of a directory.

use std::path::Path;

use super::{Inspected, held};
use crate::channel::ChannelName;
use crate::clock::Micros;
use crate::store::disk::block::Block;
use crate::store::disk::block_read::read_block;
use crate::store::disk::error::OpenError;
use crate::store::disk::index::BlockIndex;
use crate::store::disk::stream::StreamId;
use crate::store::disk::stream_index::StreamIndex;

/// The contents of a directory, in numbers.
#[derive(Clone, Debug)]
pub struct Stat {
    /// The channels, the largest first.
    pub channels: Vec<ChannelStat>,
    /// The files with events, the oldest first.
    pub files: Vec<FileStat>,
}

/// The retained events of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelStat {
    /// The name.
    pub channel: ChannelName,
    /// Number of events.
    pub events: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// The final state as the hub stored it, if it has ended.
    pub state: Option<Box<str>>,
    /// The time of the first retained event.
    pub first: Option<Micros>,
    /// The time of the last event, retained or not.
    pub last: Option<Micros>,
}

/// A file with events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// The name.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Bytes of dead blocks: their events were trimmed, or their channel deleted.
    pub dead: u64,
}

/// Returns statistics of the directory. Changes nothing.
///
/// # Errors
/// See [`OpenError`].
pub fn stat(path: &Path) -> Result<Stat, OpenError> {
    let index = Inspected::open(path)?.recovered.index;
    let channels = index.streams.iter().map(|(id, stream)| channel_stat(&index, *id, stream));
    let mut channels: Vec<_> = channels.collect();
    channels.sort_unstable_by(|one, other| {
        other.bytes.cmp(&one.bytes).then_with(|| one.channel.as_str().cmp(other.channel.as_str()))
    });
    let files = index.files.values().map(|file| FileStat {
        name: file.name.clone(),
        bytes: file.bytes,
        dead: file.initial.saturating_sub(file.live),
    });
    Ok(Stat { channels, files: files.collect() })
}

fn channel_stat(index: &BlockIndex, id: StreamId, stream: &StreamIndex) -> ChannelStat {
    let (events, bytes) = held(stream);
    ChannelStat {
        channel: stream.name.clone(),
        events,
        bytes,
        state: stream.state.as_deref().map(Box::from),
        first: first_time(index, id, stream),
        last: stream.span.map(|(_, last)| last.time.wall),
    }
}

/// Returns the time of the first retained event, if it can be read.
fn first_time(index: &BlockIndex, id: StreamId, stream: &StreamIndex) -> Option<Micros> {
    let first = stream.blocks().next()?;
    let file = index.files.get(&first.file)?;
    let bytes = read_block(&file.name, &*file.file, id, first).ok()?;
    let below = stream.trim_point.position.seq.saturating_sub(first.first.seq);
    let block = Block::parse(&bytes).ok()?;
    let (entry, _) = block.events().nth(usize::try_from(below).ok()?)?;
    Some(entry.time.wall)
}

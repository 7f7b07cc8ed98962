//! What a directory holds, in numbers.

use std::path::Path;

use super::{Looked, held};
use crate::channel::ChannelName;
use crate::clock::Micros;
use crate::store::disk::block::Block;
use crate::store::disk::index::{BlockIndex, StreamIndex};
use crate::store::disk::reader::read_block;
use crate::store::disk::{OpenError, StreamId};

/// What a directory holds.
#[derive(Clone, Debug)]
pub struct Stat {
    /// The channels, the largest first.
    pub channels: Vec<ChannelStat>,
    /// The files with events, the oldest first.
    pub files: Vec<FileStat>,
}

/// What is retained of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelStat {
    /// Its name.
    pub channel: ChannelName,
    /// Events.
    pub events: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// How it ended, as the hub has written it down.
    pub state: Option<Box<str>>,
    /// The time of the first event that is retained.
    pub first: Option<Micros>,
    /// The time of the last event, retained or not.
    pub last: Option<Micros>,
}

/// A file with events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes of blocks whose events nobody can read any more: trimmed, or their channel is gone.
    pub dead: u64,
}

/// Counts what the directory holds. Changes nothing.
///
/// # Errors
/// See [`OpenError`].
pub fn stat(path: &Path) -> Result<Stat, OpenError> {
    let index = Looked::at(path)?.recovered.index;
    let channel = |(id, stream): (&StreamId, &StreamIndex)| channel_stat(&index, *id, stream);
    let mut channels: Vec<_> = index.streams.iter().map(channel).collect();
    channels.sort_unstable_by(|one, other| {
        other.bytes.cmp(&one.bytes).then_with(|| one.channel.as_str().cmp(other.channel.as_str()))
    });
    let files = index.files.values().map(|file| FileStat {
        name: file.name.clone(),
        bytes: file.bytes,
        dead: file.born.saturating_sub(file.live),
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

/// The time of the first event that is retained, if it can be read.
fn first_time(index: &BlockIndex, id: StreamId, stream: &StreamIndex) -> Option<Micros> {
    let first = stream.blocks().next()?;
    let file = index.files.get(&first.file)?;
    let bytes = read_block(&file.name, &*file.file, id, first).ok()?;
    let below = stream.trim_point.position.seq.saturating_sub(first.first.seq);
    let block = Block::parse(&bytes).ok()?;
    let (entry, _) = block.events().nth(usize::try_from(below).ok()?)?;
    Some(entry.time.wall)
}

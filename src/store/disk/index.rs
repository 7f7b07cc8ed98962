//! The index in memory: the streams with their blocks, and the live bytes of each file.
//!
//! Invariant: a block is in the index only if it was written whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;

use super::block::{Header, Trailer};
use super::block_ref::BlockRef;
use super::clock_steps::Steps;
use super::files::File;
use super::read::Seek;
use super::receipts::Receipts;
use super::stream::{StreamId, Trimmed};
use super::stream_index::{Located, StreamIndex, last_of};
use crate::channel::ChannelName;
use crate::clock::Moment;
use crate::position::Offset;
use crate::store::{Entry, Retention};

/// The index as the threads share it.
pub(super) type SharedIndex = Arc<Mutex<BlockIndex>>;

/// A file with blocks.
#[derive(Debug)]
pub(super) struct IndexedFile {
    pub(super) name: String,
    pub(super) file: Arc<dyn File>,
    pub(super) sorted: bool,
    /// Size of the file in bytes.
    pub(super) bytes: u64,
    /// Bytes of blocks that are in the index.
    pub(super) live: u64,
    /// Bytes of blocks with events when the file was written, including those dead since.
    pub(super) initial: u64,
    /// Part of the file cannot be read: it is not rewritten, to keep the rest readable.
    pub(super) damaged: bool,
}

impl IndexedFile {
    /// Describes a file of which no block is in the index yet.
    pub(super) fn new(name: String, file: Arc<dyn File>, sorted: bool, bytes: u64) -> Self {
        Self { name, file, sorted, bytes, live: 0, initial: 0, damaged: false }
    }
}

/// The index of the whole store.
#[derive(Debug, Default)]
pub(super) struct BlockIndex {
    pub(super) streams: HashMap<StreamId, StreamIndex>,
    pub(super) files: BTreeMap<u32, IndexedFile>,
    pub(super) receipts: Receipts,
    /// A number that no stream has had.
    pub(super) next_stream: u64,
    /// The last offset of streams that were deleted.
    pub(super) gone: Offset,
}

impl BlockIndex {
    /// Adds a stream, or changes its options.
    pub(super) fn begin(&mut self, id: StreamId, name: ChannelName, options: &str) {
        self.next_stream = self.next_stream.max(id.0.saturating_add(1));
        let options: Arc<str> = options.into();
        let stream = self.streams.entry(id);
        let stream = stream.or_insert_with(|| StreamIndex::new(name, options.clone()));
        stream.options = options;
    }

    /// Adds a block to its stream. Returns `false` if the block is dead. `span` is the first and
    /// last event of the block, or `None` if the span of the stream includes them.
    pub(super) fn add(
        &mut self,
        id: StreamId,
        block: BlockRef,
        span: Option<(Entry, Entry)>,
    ) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else {
            // The stream was deleted, or the note with its name is broken.
            self.gone = self.gone.max(block.last_offset);
            return false;
        };
        let taken = stream.push(block);
        if taken {
            if let Some((first, last)) = span {
                stream.spans(first, last);
            }
            self.count_live(&block);
        }
        taken
    }

    /// Sets the steady times of everything recovered, as files have only wall clock times.
    pub(super) fn date(&mut self, steps: &Steps, opened: Moment) {
        self.streams.values_mut().for_each(|stream| stream.date(steps, opened));
        self.receipts.date(steps, opened);
    }

    /// Counts a block of a file, live or dead.
    pub(super) fn count_written(&mut self, block: &BlockRef) {
        if let Some(file) = self.files.get_mut(&block.file) {
            file.initial += u64::from(block.length);
        }
    }

    /// Marks a file as unreadable in part.
    pub(super) fn mark_damaged(&mut self, file: u32) {
        if let Some(file) = self.files.get_mut(&file) {
            file.damaged = true;
        }
    }

    fn count_live(&mut self, block: &BlockRef) {
        if let Some(file) = self.files.get_mut(&block.file) {
            file.live += u64::from(block.length);
        }
    }

    /// Adds the state and the receipts of a trailer.
    pub(super) fn note_trailer(&mut self, id: StreamId, trailer: &Trailer) {
        if let (Some(state), Some(stream)) = (&trailer.state, self.streams.get_mut(&id)) {
            stream.state = Some(state.as_ref().into());
        }
        trailer.receipts.iter().for_each(|receipt| self.receipts.add(receipt.clone()));
    }

    /// Records that the events of a block exist and cannot be read.
    pub(super) fn note_lost(&mut self, header: &Header) {
        if let Some(stream) = self.streams.get_mut(&header.stream) {
            stream.end = stream.end.max(header.end());
            let steps = u64::from(header.count.saturating_sub(1));
            let offset = Offset(header.base.offset.0.saturating_add(steps));
            stream.spans(header.base, Entry { offset, ..header.base });
        }
    }

    pub(super) fn remove(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        // The end event of a deleted channel comes after the last event, and is not stored.
        let gone = stream.span.map(|span| Offset(last_of(span).0.saturating_add(1)));
        self.gone = self.gone.max(gone.unwrap_or_default());
        for block in stream.blocks {
            count_dead(&mut self.files, &block);
        }
    }

    pub(super) fn locate(&self, id: StreamId, seek: Seek, most: usize) -> Located {
        self.streams.get(&id).map_or(Located::Nothing, |stream| stream.locate(seek, most))
    }

    pub(super) fn trim(&mut self, id: StreamId, retention: &Retention, now: Moment) -> Trimmed {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Trimmed::default();
        };
        let oldest = now.steady_before(retention.max_age);
        while let Some(first) = stream.blocks.front()
            && stream.first_exceeds(first, retention, oldest)
            && let Some(gone) = stream.drop_first()
        {
            count_dead(&mut self.files, &gone);
        }
        Trimmed { trim_point: stream.trim_point, next: stream.blocks.front().map(BlockRef::end) }
    }

    /// Removes a broken block: its events are lost. Returns whether it was in the index.
    pub(super) fn remove_lost(&mut self, id: StreamId, lost: &BlockRef) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else {
            return false;
        };
        let at = stream.first_after(Seek::Seq(lost.first.seq));
        let there = stream.blocks.get(at) == Some(lost);
        if there {
            stream.blocks.remove(at);
            count_dead(&mut self.files, lost);
        }
        there
    }

    /// Removes a file that is dead or the oldest, and the blocks in it.
    pub(super) fn drop_file(&mut self, number: u32) -> Option<IndexedFile> {
        let file = self.files.remove(&number)?;
        for stream in self.streams.values_mut() {
            while stream.blocks.front().is_some_and(|block| block.file == number) {
                stream.drop_first();
            }
        }
        Some(file)
    }

    /// Returns the live blocks of a file, by stream and in order.
    pub(super) fn blocks_of(&self, number: u32) -> Vec<(StreamId, Vec<BlockRef>)> {
        let all = self.streams.iter().map(|(id, stream)| {
            let blocks: Vec<_> = stream.blocks.range(stream.within(number)).copied().collect();
            (*id, blocks)
        });
        let mut all: Vec<_> = all.filter(|(_, blocks)| !blocks.is_empty()).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// Replaces the blocks of a file after its compaction. Blocks before the first live one of a
    /// stream stay dead; one that is trimmed in part is kept.
    pub(super) fn replace_file(
        &mut self,
        number: u32,
        mut file: IndexedFile,
        blocks: Vec<(StreamId, Vec<BlockRef>)>,
    ) {
        file.live = 0;
        for (id, blocks) in blocks {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let within = stream.within(number);
            let Some(first) = stream.blocks.range(within.clone()).next() else { continue };
            let from = first.first.seq;
            let follows = stream.blocks.split_off(within.end);
            stream.blocks.truncate(within.start);
            for block in blocks.into_iter().filter(|block| block.end().seq > from) {
                file.live += u64::from(block.length);
                stream.blocks.push_back(block);
            }
            stream.blocks.extend(follows);
        }
        file.initial = file.live;
        self.files.insert(number, file);
    }

    /// Returns the streams for a checkpoint.
    pub(super) fn summary(&self) -> Vec<(StreamId, StreamIndex)> {
        self.streams.iter().map(|(id, stream)| (*id, stream.summary())).collect()
    }

    pub(super) fn raise_trim_points(&mut self) {
        self.streams.values_mut().for_each(StreamIndex::raise_trim_point);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.bytes).sum()
    }

    /// Returns the offset of the earliest event of a stream.
    pub(super) fn earliest(&self, id: StreamId) -> Option<Offset> {
        self.streams.get(&id)?.blocks.front().map(|block| block.first_offset)
    }

    /// Returns the last known offset.
    pub(super) fn last_offset(&self) -> Offset {
        self.newest().map(|entry| entry.offset).unwrap_or_default()
    }

    /// Returns the last known event, retained or not.
    pub(super) fn newest(&self) -> Option<Entry> {
        let spans = self.streams.values().filter_map(|stream| stream.span);
        spans.map(|(_, last)| last).max_by_key(|last| last.offset)
    }
}

fn count_dead(files: &mut BTreeMap<u32, IndexedFile>, block: &BlockRef) {
    if let Some(file) = files.get_mut(&block.file) {
        file.live = file.live.saturating_sub(u64::from(block.length));
    }
}

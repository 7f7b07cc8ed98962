//! The index in memory: the blocks of each stream, and the live bytes of each file.
//!
//! Invariants: the blocks of a stream are in the order of their events, and so are the numbers of
//! their files. A block is in the index only if it was written whole. If a block begins after the
//! end of the one before it, the events in between are lost.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::channel::ChannelName;
use crate::clock::{Micros, Moment};
use crate::position::Offset;
use crate::store::{Entry, LogPosition, Retention};

use super::block::{Block, Header, Trailer};
use super::files::File;
use super::read::Seek;
use super::record::StoredReceipt;
use super::steps::Steps;
use super::stream::{StoredStream, StreamId, TrimPoint, Trimmed};

/// The position and the contents of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockRef {
    pub(super) first: LogPosition,
    pub(super) first_offset: Offset,
    pub(super) last_offset: Offset,
    pub(super) last_time: Moment,
    pub(super) count: u32,
    pub(super) bytes: u32,
    pub(super) file: u32,
    pub(super) position: u32,
    pub(super) length: u32,
}

impl BlockRef {
    /// Describes a block with this header at this position.
    pub(super) fn new(header: &Header, last: Entry, file: u32, position: u64) -> Self {
        Self {
            first: header.first,
            first_offset: header.base.offset,
            last_offset: last.offset,
            last_time: last.time,
            count: header.count,
            bytes: header.frames,
            file,
            // Casts cannot truncate: files end long before 4 GiB.
            position: position as u32,
            length: header.length() as u32,
        }
    }

    pub(super) fn of_block(block: &Block<'_>, file: u32, at: u64) -> Option<Self> {
        // Files have no steady time: `BlockIndex::date` sets it.
        let last = |last: Entry| Entry { time: last.time.wall.into(), ..last };
        block.last().map(|it| Self::new(&block.header, last(it), file, at))
    }

    pub(super) fn end(&self) -> LogPosition {
        LogPosition {
            seq: self.first.seq + u64::from(self.count),
            byte: self.first.byte + u64::from(self.bytes),
        }
    }

    fn trim_point(&self) -> TrimPoint {
        TrimPoint {
            position: self.first,
            last_trimmed: Offset(self.first_offset.0.saturating_sub(1)),
        }
    }
}

/// The index of one stream.
#[derive(Clone, Debug)]
pub(super) struct StreamIndex {
    pub(super) name: ChannelName,
    pub(super) options: Arc<str>,
    pub(super) state: Option<Arc<str>>,
    pub(super) span: Option<(Entry, Entry)>,
    pub(super) trim_point: TrimPoint,
    pub(super) end: LogPosition,
    blocks: VecDeque<BlockRef>,
}

impl StreamIndex {
    pub(super) fn new(name: ChannelName, options: Arc<str>) -> Self {
        let (trim_point, end) = (TrimPoint::default(), LogPosition::default());
        Self { name, options, state: None, span: None, trim_point, end, blocks: VecDeque::new() }
    }

    pub(super) fn to_stream(&self, id: StreamId) -> StoredStream {
        StoredStream {
            id,
            name: self.name.clone(),
            options: Box::from(&*self.options),
            state: self.state.as_deref().map(Box::from),
            span: self.span,
            trim_point: self.trim_point,
            end: self.end,
            unsure: false,
        }
    }

    /// Returns whether everything known of the stream lies before this position, so that a broken
    /// block there may have held its last events. If a block is broken whose header is whole, the
    /// end is known.
    pub(super) fn may_have_ended_at(&self, file: u32, position: u32) -> bool {
        match self.blocks.back() {
            Some(last) => (last.file, last.position) < (file, position) && last.end() == self.end,
            None => self.trim_point.position == self.end,
        }
    }

    /// Returns a copy without the blocks, for a checkpoint.
    fn summary(&self) -> Self {
        let Self { name, options, state, .. } = self;
        let (name, options, state) = (name.clone(), options.clone(), state.clone());
        Self {
            state,
            span: self.span,
            trim_point: self.trim_point,
            end: self.end,
            ..Self::new(name, options)
        }
    }

    /// Iterates over the retained blocks, in order. The trim point may lie within the first.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &BlockRef> {
        self.blocks.iter()
    }

    /// Adds a block if it follows those known by position, byte and offset. Refuses others, such
    /// as those of a copied or renamed file.
    fn push(&mut self, block: BlockRef) -> bool {
        let (end, trim_point) = (block.end(), self.trim_point);
        let follows = match self.blocks.back() {
            Some(last) => {
                let joint = last.end();
                let (seqs, bytes) = (block.first.seq >= joint.seq, block.first.byte >= joint.byte);
                seqs && bytes && block.first_offset > last.last_offset
            }
            None => {
                let (seqs, bytes) =
                    (end.seq > trim_point.position.seq, end.byte > trim_point.position.byte);
                seqs && bytes && block.last_offset > trim_point.last_trimmed
            }
        };
        if follows {
            self.end = self.end.max(block.end());
            self.blocks.push_back(block);
        }
        follows
    }

    fn spans(&mut self, first: Entry, last: Entry) {
        let known = self.span.get_or_insert((first, last));
        known.1 = if last.offset > known.1.offset { last } else { known.1 };
    }

    /// Returns the number of the first block with an event at or after the key.
    fn first_after(&self, seek: Seek) -> usize {
        self.blocks.partition_point(|block| match seek {
            Seek::Seq(seq) => block.end().seq <= seq,
            Seek::Byte(byte) => block.end().byte <= byte,
            Seek::After(offset) => block.last_offset <= offset,
        })
    }

    /// Returns whether block `at`, the result of [`first_after`](Self::first_after), contains the
    /// event, and the event is not below the trim point, which may lie within the block.
    fn has(&self, at: usize, block: &BlockRef, seek: Seek) -> bool {
        let from = block.first.max(self.trim_point.position);
        match seek {
            Seek::Seq(seq) => seq >= from.seq,
            Seek::Byte(byte) => byte >= from.byte,
            Seek::After(offset) => {
                let before = at.checked_sub(1).and_then(|at| self.blocks.get(at));
                let joins = before.map_or(self.trim_point.position, BlockRef::end) >= block.first;
                let retained = before.is_some() || offset >= self.trim_point.last_trimmed;
                retained && (joins || offset.0.saturating_add(1) >= block.first_offset.0)
            }
        }
    }

    /// Returns the position where reading continues at block `at`, or at the end of the stream.
    fn trim_point_at(&self, at: usize) -> TrimPoint {
        match self.blocks.get(at) {
            Some(block) if block.first <= self.trim_point.position => self.trim_point,
            Some(block) => block.trim_point(),
            None => TrimPoint {
                position: self.end,
                last_trimmed: self.span.map_or(self.trim_point.last_trimmed, last_of),
            },
        }
    }

    /// Returns whether the stream ever had an event at or after the key.
    fn had(&self, seek: Seek) -> bool {
        match seek {
            Seek::Seq(seq) => seq < self.end.seq,
            Seek::Byte(byte) => byte < self.end.byte,
            Seek::After(offset) => self.span.is_some_and(|span| offset < last_of(span)),
        }
    }

    /// Returns whether retention has trimmed the event.
    fn is_trimmed(&self, seek: Seek) -> bool {
        match seek {
            Seek::Seq(seq) => seq < self.trim_point.position.seq,
            Seek::Byte(byte) => byte < self.trim_point.position.byte,
            Seek::After(offset) => offset < self.trim_point.last_trimmed,
        }
    }

    fn locate(&self, seek: Seek, most: usize) -> Located {
        // Before losses are reported: a loss starts at the trim point, which the reader must know
        // first.
        if self.is_trimmed(seek) {
            return Located::Trimmed(self.trim_point);
        }
        let at = self.first_after(seek);
        let Some(block) = self.blocks.get(at) else {
            return if self.had(seek) { self.lost_before(at) } else { Located::Nothing };
        };
        if !self.has(at, block, seek) {
            return self.lost_before(at);
        }
        let (mut end, mut room) = (block.first, most);
        let joined = |block: &&BlockRef| {
            let fits = block.first == end && (room == most || block.length as usize <= room);
            end = block.end();
            room = room.saturating_sub(block.length as usize);
            fits
        };
        let blocks = self.blocks.range(at..).take_while(joined).copied().collect();
        Located::Blocks { blocks, from: self.trim_point.position.seq }
    }

    /// Returns the loss between block `at` and the one before it.
    fn lost_before(&self, at: usize) -> Located {
        let before = at.checked_sub(1).and_then(|at| self.blocks.get(at));
        let from = before.map_or(self.trim_point, |block| TrimPoint {
            position: block.end(),
            last_trimmed: block.last_offset,
        });
        let to = self.trim_point_at(at);
        if from.position < to.position {
            Located::Lost { from, to }
        } else {
            Located::Trimmed(self.trim_point)
        }
    }

    /// Sets the steady times of the stream: see [`BlockIndex::date`].
    fn date(&mut self, steps: &Steps, opened: Moment) {
        for block in &mut self.blocks {
            block.last_time = steps.date(block.last_offset, block.last_time, opened);
        }
        if let Some((first, last)) = &mut self.span {
            for entry in [first, last] {
                entry.time = steps.date(entry.offset, entry.time, opened);
            }
        }
    }

    /// Returns whether all of the first block is beyond the retention.
    fn first_is_beyond(&self, block: &BlockRef, retention: &Retention, oldest: Micros) -> bool {
        let last_words = self.state.is_some() && self.blocks.len() == 1;
        let filled = retention.is_filled_by(block.end().distance_to(self.end));
        (filled || block.last_time.steady < oldest) && !last_words
    }

    fn drop_first(&mut self) -> Option<BlockRef> {
        let block = self.blocks.pop_front()?;
        self.trim_point = TrimPoint { position: block.end(), last_trimmed: block.last_offset };
        Some(block)
    }

    /// Raises the trim point, at most to the end of this stream. A checkpoint says nothing of
    /// later events, which recovery reads block by block.
    pub(super) fn raise_to(&mut self, trim_point: TrimPoint) {
        let trim_point = if trim_point.position > self.end {
            self.trim_point_at(self.blocks.len())
        } else {
            trim_point
        };
        if trim_point.position > self.trim_point.position {
            self.trim_point = trim_point;
        }
    }

    /// Raises the trim point to the first block: the events before it were deleted with their
    /// file, or are broken.
    fn raise_trim_point(&mut self) {
        self.raise_to(self.trim_point_at(0));
    }

    /// Returns the range of blocks in this file.
    fn within(&self, file: u32) -> std::ops::Range<usize> {
        let from = self.blocks.partition_point(|block| block.file < file);
        from..self.blocks.partition_point(|block| block.file <= file)
    }
}

fn last_of(span: (Entry, Entry)) -> Offset {
    span.1.offset
}

/// The result of a lookup.
#[derive(Debug)]
pub(super) enum Located {
    /// The event is in the first of these consecutive blocks. Events before `from` are trimmed.
    Blocks {
        blocks: Vec<BlockRef>,
        from: u64,
    },
    /// All events between these two positions are lost.
    Lost {
        from: TrimPoint,
        to: TrimPoint,
    },
    /// Retention has trimmed the event: the trim point.
    Trimmed(TrimPoint),
    Nothing,
}

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
    pub(super) born: u64,
    /// Part of the file cannot be read: it is not rewritten, to keep the rest readable.
    pub(super) damaged: bool,
}

impl IndexedFile {
    /// Describes a file of which no block is in the index yet.
    pub(super) fn new(name: String, file: Arc<dyn File>, sorted: bool, bytes: u64) -> Self {
        Self { name, file, sorted, bytes, live: 0, born: 0, damaged: false }
    }
}

/// The latest receipt of each key: a long request leaves many.
#[derive(Debug)]
pub(super) struct Receipts {
    /// In order of arrival, numbered.
    all: BTreeMap<u64, StoredReceipt>,
    /// The number of the receipt of each scope and key.
    by_key: HashMap<(Box<str>, Box<str>), u64>,
    added: u64,
    most: usize,
}

impl Default for Receipts {
    fn default() -> Self {
        let (all, by_key) = (BTreeMap::new(), HashMap::new());
        Self { all, by_key, added: 0, most: usize::MAX }
    }
}

impl Receipts {
    /// Sets the maximum number of receipts; above it, the oldest are dropped.
    pub(super) fn bound(&mut self, most: usize) {
        self.most = most;
    }

    pub(super) fn add(&mut self, receipt: StoredReceipt) {
        self.added += 1;
        if let Some(before) = self.by_key.insert(key_of(&receipt), self.added) {
            self.all.remove(&before);
        }
        self.all.insert(self.added, receipt);
        while self.all.len() > self.most
            && let Some((_, oldest)) = self.all.pop_first()
        {
            self.by_key.remove(&key_of(&oldest));
        }
    }

    /// Drops receipts that are older than this time of the steady clock.
    pub(super) fn forget_before(&mut self, oldest: Micros) {
        let Self { all, by_key, .. } = self;
        all.retain(|_, receipt| receipt.time.steady >= oldest);
        by_key.retain(|_, number| all.contains_key(number));
    }

    /// Returns all receipts, oldest first.
    pub(super) fn to_vec(&self) -> Vec<StoredReceipt> {
        self.all.values().cloned().collect()
    }
}

fn key_of(receipt: &StoredReceipt) -> (Box<str>, Box<str>) {
    (receipt.scope.clone(), receipt.key.clone())
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
        let new = || StreamIndex::new(name, options.clone());
        self.streams.entry(id).or_insert_with(new).options = options.clone();
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
        for receipt in self.receipts.all.values_mut() {
            receipt.time = steps.date(Offset(receipt.offset), receipt.time, opened);
        }
    }

    /// Counts a block of a file, live or dead.
    pub(super) fn count_born(&mut self, block: &BlockRef) {
        if let Some(file) = self.files.get_mut(&block.file) {
            file.born += u64::from(block.length);
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
            && stream.first_is_beyond(first, retention, oldest)
            && let Some(gone) = stream.drop_first()
        {
            count_dead(&mut self.files, &gone);
        }
        Trimmed { trim_point: stream.trim_point, next: stream.blocks.front().map(BlockRef::end) }
    }

    /// Removes a broken block: its events are lost. Returns whether it was in the index.
    pub(super) fn lose(&mut self, id: StreamId, lost: &BlockRef) -> bool {
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
        let of = |(id, stream): (&StreamId, &StreamIndex)| {
            let blocks: Vec<_> = stream.blocks.range(stream.within(number)).copied().collect();
            (!blocks.is_empty()).then_some((*id, blocks))
        };
        let mut all: Vec<_> = self.streams.iter().filter_map(of).collect();
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
        (file.live, file.born) = (0, 0);
        for (id, blocks) in blocks {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let within = stream.within(number);
            let alive = stream.blocks.range(within.clone());
            let Some(from) = alive.map(|block| block.first.seq).next() else { continue };
            let follows = stream.blocks.split_off(within.end);
            stream.blocks.truncate(within.start);
            for block in blocks.into_iter().filter(|block| block.end().seq > from) {
                file.live += u64::from(block.length);
                stream.blocks.push_back(block);
            }
            stream.blocks.extend(follows);
        }
        file.born = file.live;
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

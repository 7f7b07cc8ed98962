//! Segments of a log: consecutive frames in one allocation, and their index.

use std::sync::Arc;

use bytes::Bytes;

use super::LogPosition;
use super::index::{Entry, Index};
use crate::position::Offset;

/// The growing segment, at the tail.
#[derive(Debug, Default)]
pub(super) struct Growing {
    pub(super) index: Index,
    bytes: Vec<u8>,
}

impl Growing {
    pub(super) fn new(first: LogPosition) -> Self {
        Self { index: Index::new(first), bytes: Vec::new() }
    }

    fn restart(&mut self, first: LogPosition) {
        self.index.restart(first);
        self.bytes.clear();
    }

    /// Returns whether an event fits into this size and into the index.
    pub(super) fn has_room(&self, entry: Entry, frame_bytes: usize, size: usize) -> bool {
        self.bytes.is_empty()
            || (self.bytes.len() + frame_bytes <= size && self.index.can_hold(entry))
    }

    pub(super) fn push(&mut self, entry: Entry, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.index.push(entry, self.bytes.len());
    }

    /// Returns the bytes of memory that the segment holds.
    pub(super) fn footprint(&self) -> usize {
        self.bytes.capacity() + self.index.footprint()
    }

    /// Returns a shared copy of the events from index `at` on.
    pub(super) fn copy_from(&self, at: usize) -> Segment {
        let bytes = Bytes::copy_from_slice(&self.bytes[self.index.start_of(at) as usize..]);
        Segment { index: self.index.without_first(at), bytes }
    }

    /// Seals the segment, and frees unused memory.
    pub(super) fn seal(mut self) -> Segment {
        self.bytes.shrink_to_fit();
        self.index.shrink();
        Segment { index: self.index, bytes: Bytes::from(self.bytes) }
    }
}

/// A sealed segment, shared by its readers.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) index: Index,
    bytes: Bytes,
}

impl Segment {
    /// Returns the bytes of memory that the segment holds.
    pub(super) fn footprint(&self) -> usize {
        self.bytes.len() + self.index.footprint() + size_of::<Self>()
    }
}

/// Consecutive events of one log, shared and not copied. Not empty when returned by the log.
#[derive(Clone, Debug)]
pub struct Batch {
    segment: Arc<Segment>,
    from: usize,
    to: usize,
}

impl Batch {
    /// Returns the events from `from` on that fit into `max_bytes`, but at least one.
    pub(super) fn within(segment: Arc<Segment>, from: usize, max_bytes: usize) -> Self {
        let index = &segment.index;
        let fits = index.ending_by(index.position(from).byte + max_bytes as u64);
        let to = fits.max(from + 1).min(index.len());
        Self { segment, from, to }
    }

    pub(super) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Returns the frames, as they are written to an HTTP/1.1 socket.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        let at = |at| self.segment.index.start_of(at) as usize;
        self.segment.bytes.slice(at(self.from)..at(self.to))
    }

    /// Returns the entries of the events, in order.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = Entry> + '_ {
        (self.from..self.to).map(|at| self.segment.index.entry(at))
    }

    /// Copies events into a new batch that begins at `start`.
    pub(super) fn rewritten<'a>(
        start: LogPosition,
        events: impl Iterator<Item = (Entry, &'a [u8])>,
    ) -> Self {
        let mut batch = BatchBuilder::new(start);
        events.for_each(|(entry, frame)| batch.push(entry, frame));
        batch.finish()
    }

    /// Returns a copy in memory of its own, as a batch keeps its whole segment alive.
    #[must_use]
    pub fn detached(&self) -> Self {
        self.frames().to_batch()
    }

    /// Returns the events with their frames, in order.
    pub(super) fn events(&self) -> impl Iterator<Item = (Entry, &[u8])> + '_ {
        self.frames().iter()
    }

    /// Returns the events with their frames.
    #[must_use]
    pub fn frames(&self) -> BatchRef<'_> {
        let Segment { index, bytes } = &*self.segment;
        BatchRef { index, bytes, from: self.from, to: self.to }
    }

    /// Returns the bytes of the frames.
    pub(super) fn size(&self) -> usize {
        (self.segment.index.start_of(self.to) - self.segment.index.start_of(self.from)) as usize
    }

    /// Returns the number of events.
    #[must_use]
    pub fn count(&self) -> usize {
        self.to - self.from
    }

    /// Returns the position of the first event.
    #[must_use]
    pub fn start(&self) -> LogPosition {
        self.segment.index.position(self.from)
    }

    /// Returns the position after the last event.
    #[must_use]
    pub fn end(&self) -> LogPosition {
        self.segment.index.position(self.to)
    }

    /// Returns the number of events that end at or before this byte of the log.
    #[must_use]
    pub fn ending_by_byte(&self, byte: u64) -> usize {
        self.segment.index.ending_by(byte).clamp(self.from, self.to) - self.from
    }

    /// Returns the byte of the log after the first `count` events.
    #[must_use]
    pub fn byte_after(&self, count: usize) -> u64 {
        self.segment.index.position((self.from + count).min(self.to)).byte
    }

    /// Drops events at or before this offset, possibly all.
    pub fn skip_through(&mut self, offset: Offset) {
        self.from = self.segment.index.past_offset(offset).clamp(self.from, self.to);
    }

    /// Keeps the first `most` events before this offset, possibly none.
    pub fn truncate(&mut self, before: Offset, most: usize) {
        let last = Offset(before.0.saturating_sub(1));
        let below = self.segment.index.past_offset(last);
        self.to = self.to.min(below).min(self.from.saturating_add(most)).max(self.from);
    }
}

/// Consecutive events with their frames, borrowed from a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchRef<'a> {
    index: &'a Index,
    bytes: &'a [u8],
    from: usize,
    to: usize,
}

impl<'a> BatchRef<'a> {
    /// Copies the events into a batch in memory of its own.
    #[must_use]
    pub fn to_batch(self) -> Batch {
        Batch::rewritten(self.start(), self.iter())
    }

    /// Returns the number of events.
    #[must_use]
    pub fn count(self) -> usize {
        self.to - self.from
    }

    /// Returns the position of the first event.
    #[must_use]
    pub fn start(self) -> LogPosition {
        self.position(0)
    }

    /// Returns the position after the first `events`.
    #[must_use]
    pub fn position(self, events: usize) -> LogPosition {
        self.index.position((self.from + events).min(self.to))
    }

    /// Returns the entry of an event, by its number.
    #[must_use]
    pub fn entry(self, number: usize) -> Option<Entry> {
        (number < self.count()).then(|| self.index.entry(self.from + number))
    }

    /// Returns the events with their frames, in order.
    pub fn iter(self) -> impl Iterator<Item = (Entry, &'a [u8])> {
        let Self { index, bytes, from, to } = self;
        let frame = |at| index.start_of(at) as usize..index.start_of(at + 1) as usize;
        (from..to).map(move |at| (index.entry(at), &bytes[frame(at)]))
    }
}

/// Builds a batch from events that are not in a log.
#[derive(Debug, Default)]
pub struct BatchBuilder(Growing);

impl BatchBuilder {
    /// Creates an empty batch that begins at this position.
    #[must_use]
    pub fn new(start: LogPosition) -> Self {
        Self(Growing::new(start))
    }

    /// Empties the batch, which then begins at this position, and keeps its memory.
    pub fn restart(&mut self, start: LogPosition) {
        self.0.restart(start);
    }

    /// Adds an event whose frame is appended to the bytes by `render`. Offsets must strictly
    /// increase.
    pub fn push_with(&mut self, entry: Entry, render: impl FnOnce(&mut Vec<u8>)) {
        render(&mut self.0.bytes);
        self.0.index.push(entry, self.0.bytes.len());
    }

    /// Returns the events with their frames.
    #[must_use]
    pub fn frames(&self) -> BatchRef<'_> {
        let Growing { index, bytes } = &self.0;
        BatchRef { index, bytes, from: 0, to: index.len() }
    }

    /// Returns the bytes of memory that the batch holds.
    #[must_use]
    pub fn footprint(&self) -> usize {
        self.0.footprint()
    }

    /// Adds an event. Offsets must strictly increase.
    pub fn push(&mut self, entry: Entry, frame: &[u8]) {
        self.0.push(entry, frame);
    }

    /// Returns the batch, possibly empty. Unused memory is not freed, as these batches do not live
    /// long.
    #[must_use]
    pub fn finish(self) -> Batch {
        let Growing { index, bytes } = self.0;
        let to = index.len();
        Batch { segment: Arc::new(Segment { index, bytes: Bytes::from(bytes) }), from: 0, to }
    }
}

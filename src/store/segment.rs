//! One piece of a log: consecutive frames in one allocation, and their index.

use std::sync::Arc;

use bytes::Bytes;

use super::LogPosition;
use super::index::{Entry, Index};
use crate::position::Offset;

/// The segment at the tail: it grows.
#[derive(Debug)]
pub(super) struct Growing {
    pub(super) index: Index,
    bytes: Vec<u8>,
}

impl Growing {
    pub(super) fn new(first: LogPosition) -> Self {
        Self { index: Index::new(first), bytes: Vec::new() }
    }

    /// Whether an event may join the others within this size.
    pub(super) fn has_room(&self, entry: Entry, frame_bytes: usize, size: usize) -> bool {
        self.bytes.is_empty()
            || (self.bytes.len() + frame_bytes <= size && self.index.can_hold(entry))
    }

    pub(super) fn push(&mut self, entry: Entry, frame: &[u8]) {
        self.bytes.extend_from_slice(frame);
        self.index.push(entry, self.bytes.len());
    }

    /// The bytes of memory that the segment holds.
    pub(super) fn footprint(&self) -> usize {
        self.bytes.capacity() + self.index.footprint()
    }

    /// A shared copy of the events from this index on.
    pub(super) fn copy_from(&self, at: usize) -> Segment {
        let bytes = Bytes::copy_from_slice(&self.bytes[self.index.start_of(at) as usize..]);
        Segment { index: self.index.without_first(at), bytes }
    }

    /// Ends the growth, and gives unused room back.
    pub(super) fn seal(mut self) -> Segment {
        self.bytes.shrink_to_fit();
        self.index.shrink();
        Segment { index: self.index, bytes: Bytes::from(self.bytes) }
    }
}

/// A segment that is finished, and shared by its readers.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) index: Index,
    bytes: Bytes,
}

impl Segment {
    /// The bytes of memory that the segment holds.
    pub(super) fn footprint(&self) -> usize {
        self.bytes.len() + self.index.footprint() + size_of::<Self>()
    }
}

/// Consecutive events of one log, shared and not copied. Never empty when the log hands it out.
#[derive(Clone, Debug)]
pub struct Batch {
    segment: Arc<Segment>,
    from: usize,
    to: usize,
}

impl Batch {
    /// The events from `from` on, as many as fit in `max_bytes`, but at least one.
    pub(super) fn within(segment: Arc<Segment>, from: usize, max_bytes: usize) -> Self {
        let index = &segment.index;
        let fits = index.ending_by(index.position(from).byte + max_bytes as u64);
        let to = fits.max(from + 1).min(index.len());
        Self { segment, from, to }
    }

    pub(super) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The frames, as they go onto an HTTP/1.1 socket.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        let at = |at| self.segment.index.start_of(at) as usize;
        self.segment.bytes.slice(at(self.from)..at(self.to))
    }

    /// What the index knows of the events, in order.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = Entry> + '_ {
        (self.from..self.to).map(|at| self.segment.index.entry(at))
    }

    /// Events that are written anew: as many, and as many bytes, as they are, from this place on.
    pub(super) fn rewritten<'a>(
        start: LogPosition,
        events: impl Iterator<Item = (Entry, &'a [u8])>,
    ) -> Self {
        let mut batch = BatchBuilder::new(start);
        events.for_each(|(entry, frame)| batch.push(entry, frame));
        batch.finish()
    }

    /// The same events in memory of their own: a run keeps the whole segment that it is part of.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self::rewritten(self.start(), self.events())
    }

    /// The events with their frames, in order.
    pub(super) fn events(&self) -> impl Iterator<Item = (Entry, &[u8])> + '_ {
        let Segment { index, bytes } = &*self.segment;
        let frame = |at| index.start_of(at) as usize..index.start_of(at + 1) as usize;
        (self.from..self.to).map(move |at| (index.entry(at), &bytes[frame(at)]))
    }

    /// The bytes of the frames, in number.
    pub(super) fn size(&self) -> usize {
        (self.segment.index.start_of(self.to) - self.segment.index.start_of(self.from)) as usize
    }

    /// How many events.
    #[must_use]
    pub fn count(&self) -> usize {
        self.to - self.from
    }

    /// The place of the first event.
    #[must_use]
    pub fn start(&self) -> LogPosition {
        self.segment.index.position(self.from)
    }

    /// The place after the last event.
    #[must_use]
    pub fn end(&self) -> LogPosition {
        self.segment.index.position(self.to)
    }

    /// How many of the events end at or before this byte of the log.
    #[must_use]
    pub fn ending_by_byte(&self, byte: u64) -> usize {
        self.segment.index.ending_by(byte).clamp(self.from, self.to) - self.from
    }

    /// The byte of the log after the first `count` events.
    #[must_use]
    pub fn byte_after(&self, count: usize) -> u64 {
        self.segment.index.position((self.from + count).min(self.to)).byte
    }

    /// Leaves out what lies at or before this offset; perhaps all.
    pub fn skip_through(&mut self, offset: Offset) {
        self.from = self.segment.index.past_offset(offset).clamp(self.from, self.to);
    }

    /// Keeps the first `most` events of those before this offset; perhaps none.
    pub fn truncate(&mut self, before: Offset, most: usize) {
        let last = Offset(before.0.saturating_sub(1));
        let below = self.segment.index.past_offset(last);
        self.to = self.to.min(below).min(self.from.saturating_add(most)).max(self.from);
    }
}

/// Makes a run out of events that are in no log: not yet, or written anew.
#[derive(Debug)]
pub struct BatchBuilder(Growing);

impl BatchBuilder {
    /// A run that begins at this place.
    #[must_use]
    pub fn new(start: LogPosition) -> Self {
        Self(Growing::new(start))
    }

    /// Adds an event. Offsets strictly increase.
    pub fn push(&mut self, entry: Entry, frame: &[u8]) {
        self.0.push(entry, frame);
    }

    /// The run; perhaps an empty one. It has no long life: unused room stays with it.
    #[must_use]
    pub fn finish(self) -> Batch {
        let Growing { index, bytes } = self.0;
        let to = index.len();
        Batch { segment: Arc::new(Segment { index, bytes: Bytes::from(bytes) }), from: 0, to }
    }
}

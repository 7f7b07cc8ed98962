//! The index of one segment: the end, the offset and the time of each event, in 12 bytes.

use super::LogPosition;
use crate::clock::{Micros, Moment};
use crate::position::Offset;

/// The offset and the time of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The event's offset.
    pub offset: Offset,
    /// The time of its append.
    pub time: Moment,
}

impl Entry {
    /// Returns whether the offset and the time of this event, the next after `last`, fit relative
    /// to `base`. The time does not if the wall clock was set in between.
    pub(super) fn joins(self, base: Self, last: Self) -> bool {
        let near =
            |from: u64, to: u64| to.checked_sub(from).is_some_and(|it| u32::try_from(it).is_ok());
        near(base.offset.0, self.offset.0)
            && near(base.time.wall, self.time.wall)
            && self.time.wall >= last.time.wall
            && self.time.is_in_step_with(base.time)
    }
}

/// An event's offset, the end of its frame, and its time, relative to the base.
#[derive(Clone, Copy, Debug)]
struct IndexSlot {
    offset: u32,
    end: u32,
    time: u32,
}

/// Finds events by position, offset, time and byte.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// The position of the first event.
    first: LogPosition,
    base: Entry,
    slots: Vec<IndexSlot>,
}

impl Index {
    pub(super) fn new(first: LogPosition) -> Self {
        Self { first, base: Entry::default(), slots: Vec::new() }
    }

    /// Empties the index, and keeps its memory.
    pub(super) fn restart(&mut self, first: LogPosition) {
        self.first = first;
        self.slots.clear();
    }

    /// Returns whether the event's offset and time fit relative to the first event.
    pub(super) fn can_hold(&self, entry: Entry) -> bool {
        self.last().is_none_or(|last| entry.joins(self.base, last))
    }

    /// Adds an event whose frame ends `end` bytes into the segment. [`can_hold`](Self::can_hold)
    /// has checked that the casts lose nothing.
    pub(super) fn push(&mut self, entry: Entry, end: usize) {
        if self.slots.is_empty() {
            self.base = entry;
        }
        self.slots.push(IndexSlot {
            offset: (entry.offset.0 - self.base.offset.0) as u32,
            end: end as u32,
            time: entry.time.wall.saturating_sub(self.base.time.wall) as u32,
        });
    }

    /// Returns the index without the first `count` events and their bytes.
    pub(super) fn without_first(&self, count: usize) -> Self {
        let cut = self.start_of(count);
        let slots = self.slots[count..].iter();
        let slots = slots.map(|slot| IndexSlot { end: slot.end - cut, ..*slot });
        Self { first: self.position(count), base: self.base, slots: slots.collect() }
    }

    pub(super) fn shrink(&mut self) {
        self.slots.shrink_to_fit();
    }

    pub(super) fn footprint(&self) -> usize {
        self.slots.capacity() * size_of::<IndexSlot>()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn first(&self) -> LogPosition {
        self.first
    }

    /// Returns the position after the last event.
    pub(super) fn end(&self) -> LogPosition {
        self.position(self.len())
    }

    /// Returns the position of the event at this index, or after the last one.
    pub(super) fn position(&self, at: usize) -> LogPosition {
        LogPosition {
            seq: self.first.seq + at as u64,
            byte: self.first.byte + u64::from(self.start_of(at)),
        }
    }

    /// Returns the byte of the segment at which the event at this index begins.
    pub(super) fn start_of(&self, at: usize) -> u32 {
        if at == 0 { 0 } else { self.slots[at - 1].end }
    }

    pub(super) fn entry(&self, at: usize) -> Entry {
        let slot = self.slots[at];
        Entry {
            offset: Offset(self.base.offset.0 + u64::from(slot.offset)),
            time: self.base.time.later(slot.time),
        }
    }

    pub(super) fn last(&self) -> Option<Entry> {
        self.len().checked_sub(1).map(|at| self.entry(at))
    }

    /// Returns the index of the event at this position, clipped to the segment.
    pub(super) fn at_seq(&self, seq: u64) -> usize {
        (seq.saturating_sub(self.first.seq) as usize).min(self.len())
    }

    /// Returns the index of the first event after the offset.
    pub(super) fn past_offset(&self, offset: Offset) -> usize {
        let Some(relative) = offset.0.checked_sub(self.base.offset.0) else {
            return 0;
        };
        self.slots.partition_point(|slot| u64::from(slot.offset) <= relative)
    }

    /// Returns the index of the first event that is younger than this time of the steady clock.
    pub(super) fn past_time(&self, time: Micros) -> usize {
        let Some(relative) = time.checked_sub(self.base.time.steady) else {
            return 0;
        };
        self.slots.partition_point(|slot| u64::from(slot.time) <= relative)
    }

    /// Returns the number of events that end at or before this byte of the log.
    pub(super) fn ending_by(&self, byte: u64) -> usize {
        let Some(relative) = byte.checked_sub(self.first.byte) else {
            return 0;
        };
        self.slots.partition_point(|slot| u64::from(slot.end) <= relative)
    }

    /// Returns the index of the first event that begins at or after this byte of the log.
    pub(super) fn beginning_at(&self, byte: u64) -> usize {
        match byte.checked_sub(self.first.byte) {
            None | Some(0) => 0,
            Some(relative) => {
                let earlier = self.slots.partition_point(|slot| u64::from(slot.end) < relative);
                (earlier + 1).min(self.len())
            }
        }
    }
}

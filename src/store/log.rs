//! A channel's log in memory: sealed segments that readers share, and one that grows.
//!
//! Not synchronised: the channel that owns it holds the lock. Readers take [`Run`]s out of it and
//! use them without the lock. A run of sealed events is shared; a run of the newest ones is one
//! copy of what the reader has not seen, kept for the next reader who stands at the same place,
//! as nearly all do.

use std::collections::VecDeque;
use std::sync::Arc;

use super::index::Index;
use super::segment::{Growing, Segment};
use super::{Entry, Mark, Retention, Run};
use crate::clock::Micros;
use crate::limits::MAX_SEGMENT_BYTES;
use crate::position::Offset;

/// What a reader finds at its mark.
#[derive(Debug)]
pub enum Read {
    /// At least one event.
    Run(Run),
    /// No event yet.
    CaughtUp,
    /// Retention has passed over the mark.
    Trimmed,
}

/// The events of one channel, in order, from the earliest that is retained to the tail.
#[derive(Debug)]
pub struct Log {
    sealed: VecDeque<Arc<Segment>>,
    growing: Growing,
    /// What a reader of the growing segment was last given.
    newest: Option<Arc<Segment>>,
    start: Mark,
    end: Mark,
    trimmed_through: Offset,
    tail: Offset,
    sealed_bytes: usize,
}

impl Log {
    /// An empty log whose missing past reaches through `trimmed_through`.
    #[must_use]
    pub fn new(trimmed_through: Offset) -> Self {
        Self {
            sealed: VecDeque::new(),
            growing: Growing::new(Mark::default()),
            newest: None,
            start: Mark::default(),
            end: Mark::default(),
            trimmed_through,
            tail: trimmed_through,
            sealed_bytes: 0,
        }
    }

    /// Appends an event's frame. Offsets must strictly increase.
    pub fn append(&mut self, entry: Entry, frame: &[u8], retention: &Retention) {
        debug_assert!(entry.offset > self.tail, "offsets strictly increase");
        if !self.growing.has_room(entry, frame.len(), segment_size(retention)) {
            self.seal();
        }
        self.growing.push(entry, frame);
        self.end = self.growing.index.end();
        self.tail = entry.offset;
        self.newest = None;
    }

    /// The events at the mark: as many as one segment has and `max_bytes` allows, at least one.
    pub fn read(&mut self, at: Mark, max_bytes: usize) -> Read {
        if at.seq < self.start.seq {
            return Read::Trimmed;
        }
        if at.seq >= self.end.seq {
            return Read::CaughtUp;
        }
        let (segment, from) = match self.sealed.get(self.segment_at(at.seq)) {
            Some(sealed) => (sealed.clone(), sealed.index.at_seq(at.seq)),
            None => (self.newest_from(at), 0),
        };
        Read::Run(Run::within(segment, from, max_bytes))
    }

    /// The place at this byte of the log, which is the edge of a frame.
    #[must_use]
    pub fn mark_at_byte(&self, byte: u64) -> Mark {
        let byte = byte.max(self.start.byte);
        let ends_by = |segment: &Arc<Segment>| segment.index.end().byte <= byte;
        let index = self.index(self.sealed.partition_point(ends_by));
        index.mark(index.ending_by(byte))
    }

    /// What the index knows of the event at this place, if it is retained.
    #[must_use]
    pub fn peek(&self, seq: u64) -> Option<Entry> {
        if !(self.start.seq..self.end.seq).contains(&seq) {
            return None;
        }
        let index = self.index(self.segment_at(seq));
        Some(index.entry(index.at_seq(seq)))
    }

    /// The place of the first retained event behind the offset.
    #[must_use]
    pub fn mark_after(&self, offset: Offset) -> Mark {
        let index = self.index(self.first_segment(|last| last.offset > offset));
        index.mark(index.past_offset(offset)).max(self.start)
    }

    /// The place of the `count`-th last retained event.
    #[must_use]
    pub fn mark_of_last(&self, count: u64) -> Mark {
        self.mark_at(self.end.seq.saturating_sub(count).max(self.start.seq))
    }

    /// The place of the earliest retained event.
    #[must_use]
    pub fn start(&self) -> Mark {
        self.start
    }

    /// The place behind the last event.
    #[must_use]
    pub fn end(&self) -> Mark {
        self.end
    }

    /// The offset of the last event that was ever appended.
    #[must_use]
    pub fn tail(&self) -> Offset {
        self.tail
    }

    /// The offset through which events are no longer retained.
    #[must_use]
    pub fn trimmed_through(&self) -> Offset {
        self.trimmed_through
    }

    /// What the index knows of the earliest retained event.
    #[must_use]
    pub fn earliest(&self) -> Option<Entry> {
        self.peek(self.start.seq)
    }

    /// The bytes of memory that the log holds.
    #[must_use]
    pub fn footprint(&self) -> usize {
        self.sealed_bytes + self.growing.footprint()
    }

    /// Evicts what is more than the retention's number of events. `keep` events at the end stay
    /// whatever it says; that holds for every eviction. Returns how many events went.
    pub fn trim_events(&mut self, max_events: u64, keep: u64) -> u64 {
        self.trim_to(self.end.seq.saturating_sub(max_events), keep)
    }

    /// Evicts what is more than the retention's number of bytes. Returns how many events went.
    pub fn trim_bytes(&mut self, max_bytes: u64, keep: u64) -> u64 {
        let from = self.end.byte.saturating_sub(max_bytes);
        let segment = self.sealed.partition_point(|segment| segment.index.end().byte < from);
        let index = self.index(segment);
        self.trim_to(index.mark(index.beginning_at(from)).seq, keep)
    }

    /// Evicts the events that are not younger than the time. Returns how many went.
    pub fn trim_older(&mut self, than: Micros, keep: u64) -> u64 {
        let index = self.index(self.first_segment(|last| last.time > than));
        self.trim_to(index.mark(index.past_time(than)).seq, keep)
    }

    /// Evicts the oldest segment, to give memory back. Returns how many events went.
    pub fn evict_oldest(&mut self, keep: u64) -> u64 {
        self.trim_to(self.index(0).end().seq, keep)
    }

    fn trim_to(&mut self, seq: u64, keep: u64) -> u64 {
        let to = seq.min(self.end.seq.saturating_sub(keep));
        let trimmed = to.saturating_sub(self.start.seq);
        if trimmed == 0 {
            return 0;
        }
        if let Some(last) = self.peek(to - 1) {
            self.trimmed_through = last.offset;
        }
        self.start = self.mark_at(to);
        self.free_trimmed();
        trimmed
    }

    fn free_trimmed(&mut self) {
        while let Some(front) = self.sealed.front()
            && front.index.end().seq <= self.start.seq
        {
            self.sealed_bytes -= front.footprint();
            self.sealed.pop_front();
        }
        if self.start == self.end {
            self.growing = Growing::new(self.end);
            self.newest = None;
        }
    }

    fn seal(&mut self) {
        let full = std::mem::replace(&mut self.growing, Growing::new(self.end));
        let sealed = full.seal();
        self.sealed_bytes += sealed.footprint();
        self.sealed.push_back(Arc::new(sealed));
        self.newest = None;
    }

    fn newest_from(&mut self, at: Mark) -> Arc<Segment> {
        match &self.newest {
            Some(newest) if newest.index.first() == at => newest.clone(),
            _ => {
                let copy = self.growing.copy_from(self.growing.index.at_seq(at.seq));
                self.newest.insert(Arc::new(copy)).clone()
            }
        }
    }

    fn mark_at(&self, seq: u64) -> Mark {
        let index = self.index(self.segment_at(seq));
        index.mark(index.at_seq(seq))
    }

    /// The number of the segment that holds the event; behind the sealed ones is the growing one.
    fn segment_at(&self, seq: u64) -> usize {
        self.sealed.partition_point(|segment| segment.index.end().seq <= seq)
    }

    /// The number of the first segment whose last event is as wanted, which holds for all behind.
    fn first_segment(&self, wanted: impl Fn(Entry) -> bool) -> usize {
        self.sealed.partition_point(|segment| !segment.index.last().is_some_and(&wanted))
    }

    fn index(&self, segment: usize) -> &Index {
        self.sealed.get(segment).map_or(&self.growing.index, |sealed| &sealed.index)
    }
}

/// The size to which a segment grows: an eighth of what the channel keeps, so that little more
/// than that is held, within bounds that keep both many small channels and one large one cheap.
fn segment_size(retention: &Retention) -> usize {
    let share = usize::try_from(retention.max_bytes / 8).unwrap_or(MAX_SEGMENT_BYTES);
    share.clamp(4096, MAX_SEGMENT_BYTES)
}

#[cfg(test)]
mod tests;

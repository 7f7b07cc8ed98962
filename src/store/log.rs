//! The log of a channel in memory: sealed segments that readers share, and one that grows.
//!
//! Of a stored log, only the *resident* end is in memory. Events before it are on disk, and in
//! memory only as pieces that were loaded for a reader.
//!
//! Not synchronised: the channel that owns the log holds the lock. Readers take [`Batch`]es out of
//! it and use them without the lock. A batch of sealed events is shared. A batch of the newest
//! events is a copy, kept for the next reader at the same position, which is where nearly all
//! readers are.

use std::collections::VecDeque;
use std::sync::Arc;

use super::disk::{Seek, TrimPoint};
use super::index::Index;
use super::on_disk::OnDisk;
use super::segment::{BatchRef, Growing, Segment};
use super::{Batch, Entry, LogPosition, Retention};
use crate::clock::Micros;
use crate::event::GapReason;
use crate::limits::MAX_SEGMENT_BYTES;
use crate::position::Offset;

/// The result of a read.
#[derive(Debug)]
pub enum LogRead {
    /// At least one event.
    Batch(Batch),
    /// No event yet.
    CaughtUp,
    /// The events at the position are gone.
    Missing(Missing),
    /// The events have to be loaded from disk.
    OnDisk,
}

/// The reason why an event cannot be read, and the position where reading continues: always after
/// that event, so that readers make progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The position where reading continues.
    pub to: TrimPoint,
    /// Whether retention trimmed the event, or the disk lost it.
    pub reason: GapReason,
}

/// The result of looking up a position before the resident events.
enum Lookup<'a> {
    Piece(&'a Arc<Segment>),
    Missing(Missing),
    Unknown,
}

/// The events of one channel, in order, from the earliest that is retained to the tail.
#[derive(Debug)]
pub struct Log {
    sealed: VecDeque<Arc<Segment>>,
    growing: Growing,
    /// The last copy of events of the growing segment that was given to a reader.
    newest: Option<Arc<Segment>>,
    /// The start of the retained events.
    start: LogPosition,
    /// The start of the resident events, and the offset before it.
    resident: TrimPoint,
    end: LogPosition,
    trimmed_through: Offset,
    tail: Offset,
    sealed_bytes: usize,
    /// State of the events that are not resident; `None` if the log is not stored.
    on_disk: Option<Box<OnDisk>>,
}

impl Log {
    /// Creates an empty log whose missing past reaches through `trimmed_through`.
    #[must_use]
    pub fn new(trimmed_through: Offset) -> Self {
        Self {
            sealed: VecDeque::new(),
            growing: Growing::new(LogPosition::default()),
            newest: None,
            start: LogPosition::default(),
            resident: TrimPoint { position: LogPosition::default(), last_trimmed: trimmed_through },
            end: LogPosition::default(),
            trimmed_through,
            tail: trimmed_through,
            sealed_bytes: 0,
            on_disk: None,
        }
    }

    /// Creates a stored log, without resident events.
    #[must_use]
    pub fn stored(start: TrimPoint, end: LogPosition, tail: Offset) -> Self {
        Self {
            growing: Growing::new(end),
            start: start.position,
            resident: TrimPoint { position: end, last_trimmed: tail },
            end,
            tail,
            on_disk: Some(Box::default()),
            ..Self::new(start.last_trimmed)
        }
    }

    /// Appends events with their frames.
    pub fn append_frames(&mut self, frames: BatchRef<'_>, retention: &Retention) {
        for (entry, frame) in frames.iter() {
            self.append(entry, frame, retention);
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

    /// Returns events from the position on: at least one, and at most `max_bytes` of one segment.
    pub fn read(&mut self, at: LogPosition, max_bytes: usize) -> LogRead {
        if at.seq < self.resident.position.seq {
            return self.read_on_disk(Seek::Seq(at.seq), max_bytes);
        }
        if at.seq >= self.end.seq {
            return LogRead::CaughtUp;
        }
        let (segment, from) = match self.sealed.get(self.segment_at(at.seq)) {
            Some(sealed) => (sealed.clone(), sealed.index.at_seq(at.seq)),
            None => (self.newest_from(at), 0),
        };
        LogRead::Batch(Batch::within(segment, from, max_bytes))
    }

    /// Returns events from this byte of the log on, as [`read`](Self::read) does.
    pub fn read_from_byte(&mut self, byte: u64, max_bytes: usize) -> LogRead {
        if byte < self.resident.position.byte {
            return self.read_on_disk(Seek::Byte(byte), max_bytes);
        }
        self.read(self.resident_position_at_byte(byte), max_bytes)
    }

    fn read_on_disk(&self, seek: Seek, max_bytes: usize) -> LogRead {
        let piece = match self.find(seek) {
            Lookup::Piece(piece) => piece,
            Lookup::Missing(missing) => return LogRead::Missing(missing),
            Lookup::Unknown => return LogRead::OnDisk,
        };
        let from = match seek {
            Seek::Byte(byte) => piece.index.beginning_at(byte),
            Seek::Seq(seq) => piece.index.at_seq(seq),
            Seek::After(offset) => piece.index.past_offset(offset),
        };
        let mut batch = Batch::within(piece.clone(), from, max_bytes);
        // The disk may already have events after the tail.
        batch.truncate(Offset(self.tail.0.saturating_add(1)), usize::MAX);
        match batch.count() {
            0 => LogRead::Missing(Missing { to: self.resident, reason: GapReason::Lost }),
            _ => LogRead::Batch(batch),
        }
    }

    /// Looks up a position before the resident events. Loaded pieces come first: they are readable
    /// even where a hole was recorded.
    fn find(&self, seek: Seek) -> Lookup<'_> {
        let trimmed = match seek {
            Seek::Seq(seq) => seq < self.start.seq,
            Seek::Byte(byte) => byte < self.start.byte,
            Seek::After(offset) => offset < self.trimmed_through,
        };
        let Some(on_disk) = self.on_disk.as_ref().filter(|_| !trimmed) else {
            return Lookup::Missing(Missing { to: self.trim_point(), reason: GapReason::Evicted });
        };
        if let Some(piece) = on_disk.piece_at(seek) {
            return Lookup::Piece(piece);
        }
        match on_disk.hole_at(seek) {
            Some(to) => Lookup::Missing(Missing { to, reason: GapReason::Lost }),
            None => Lookup::Unknown,
        }
    }

    /// Returns the start of the retained events.
    fn trim_point(&self) -> TrimPoint {
        TrimPoint { position: self.start, last_trimmed: self.trimmed_through }
    }

    /// Returns the position at this byte of the log, which is a frame's edge; `None` if it is
    /// neither resident nor loaded.
    #[must_use]
    pub fn position_at_byte(&self, byte: u64) -> Option<LogPosition> {
        let byte = byte.max(self.start.byte);
        if byte == self.start.byte {
            return Some(self.start);
        }
        if byte < self.resident.position.byte {
            return self.on_disk.as_ref()?.position_at_byte(byte);
        }
        Some(self.resident_position_at_byte(byte))
    }

    /// Returns the position at this byte, interpolated if it is neither resident nor loaded.
    #[must_use]
    pub fn position_near_byte(&self, byte: u64) -> LogPosition {
        self.position_at_byte(byte).unwrap_or_else(|| {
            let from = self.start;
            let to = self.resident.position;
            let share = (byte - from.byte) as f64 / (to.byte - from.byte) as f64;
            LogPosition { seq: from.seq + (share * (to.seq - from.seq) as f64) as u64, byte }
        })
    }

    fn resident_position_at_byte(&self, byte: u64) -> LogPosition {
        let at = self.sealed.partition_point(|segment| segment.index.end().byte <= byte);
        let index = self.index(at);
        index.position(index.ending_by(byte))
    }

    /// Returns the entry of the event at this position, if it is retained, and resident or loaded.
    #[must_use]
    pub fn peek(&self, seq: u64) -> Option<Entry> {
        if !(self.start.seq..self.end.seq).contains(&seq) {
            return None;
        }
        if seq < self.resident.position.seq {
            return self.on_disk.as_ref()?.entry(seq);
        }
        let index = self.index(self.segment_at(seq));
        Some(index.entry(index.at_seq(seq)))
    }

    /// Returns the position of the first retained event after the offset.
    ///
    /// # Errors
    /// It has to be loaded: the key for that.
    pub fn position_after(&self, offset: Offset) -> Result<LogPosition, Seek> {
        if offset <= self.trimmed_through {
            return Ok(self.start);
        }
        if offset < self.resident.last_trimmed {
            let known = self.on_disk.as_ref().and_then(|on_disk| on_disk.position_after(offset));
            return known.map(|position| position.max(self.start)).ok_or(Seek::After(offset));
        }
        Ok(self.resident_position_after(offset))
    }

    fn resident_position_after(&self, offset: Offset) -> LogPosition {
        let index = self.index(self.first_segment(|last| last.offset > offset));
        index.position(index.past_offset(offset)).max(self.resident.position)
    }

    /// Returns the position of the `count`-th last retained event.
    ///
    /// # Errors
    /// It has to be loaded: the key for that.
    pub fn position_of_last(&self, count: u64) -> Result<LogPosition, Seek> {
        let seq = self.end.seq.saturating_sub(count).max(self.start.seq);
        if seq == self.start.seq {
            return Ok(self.start);
        }
        if seq < self.resident.position.seq {
            let known = self.on_disk.as_ref().and_then(|on_disk| on_disk.position_at(seq));
            return known.ok_or(Seek::Seq(seq));
        }
        Ok(self.position_at(seq))
    }

    /// Returns why there is no event at this position, and where reading continues; `None` if
    /// there is one, or if it is not known yet.
    #[must_use]
    pub fn missing_at(&self, at: LogPosition) -> Option<Missing> {
        if at.seq >= self.resident.position.seq {
            return None;
        }
        match self.find(Seek::Seq(at.seq)) {
            Lookup::Missing(missing) => Some(missing),
            Lookup::Piece(_) | Lookup::Unknown => None,
        }
    }

    /// Gives up loading this position: if it is still on disk, everything on disk is marked as
    /// lost.
    pub fn give_up(&mut self, seek: Seek) {
        let is_on_disk = match seek {
            Seek::Seq(seq) => matches!(self.read(LogPosition { seq, byte: 0 }, 1), LogRead::OnDisk),
            Seek::Byte(byte) => matches!(self.read_from_byte(byte, 1), LogRead::OnDisk),
            Seek::After(offset) => self.position_after(offset).is_err(),
        };
        if is_on_disk {
            self.lose(seek, self.trim_point(), self.resident);
        }
    }

    /// Returns the offset of the last event before this position, if it is known without loading
    /// it.
    #[must_use]
    pub fn offset_before(&self, at: LogPosition) -> Option<Offset> {
        if at.seq == self.end.seq {
            return Some(self.tail);
        }
        if at.seq <= self.start.seq {
            return Some(self.trimmed_through);
        }
        if at.seq == self.resident.position.seq {
            return Some(self.resident.last_trimmed);
        }
        self.peek(at.seq - 1).map(|entry| entry.offset)
    }

    /// Returns whether the log is stored.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.on_disk.is_some()
    }

    /// Returns the start of the resident events.
    #[must_use]
    pub fn resident_from(&self) -> LogPosition {
        self.resident.position
    }

    /// Adds a piece that was loaded for this key.
    pub fn load(&mut self, seek: Seek, piece: &Batch) {
        let Some(on_disk) = &mut self.on_disk else { return };
        if let Seek::After(offset) = seek {
            let first = piece.entries().take_while(|entry| entry.offset <= offset).count();
            let seq = piece.start().seq + first as u64;
            on_disk.resolve(offset, LogPosition { seq, byte: piece.byte_after(first) });
        }
        on_disk.add(piece);
    }

    /// Drops a loaded piece. Returns whether there was one.
    pub fn unload(&mut self, first: LogPosition) -> bool {
        self.on_disk.as_mut().is_some_and(|on_disk| on_disk.forget(first))
    }

    /// Records a loss between two positions, found by reading this key.
    pub fn lose(&mut self, seek: Seek, from: TrimPoint, to: TrimPoint) {
        let Some(on_disk) = &mut self.on_disk else { return };
        // Resident events are still readable.
        let to = if to.position < self.resident.position { to } else { self.resident };
        on_disk.add_hole(from.position, to);
        if let Seek::After(offset) = seek {
            on_disk.resolve(offset, from.position);
        }
    }

    /// Returns the position of the earliest retained event.
    #[must_use]
    pub fn start(&self) -> LogPosition {
        self.start
    }

    /// Returns the position after the last event.
    #[must_use]
    pub fn end(&self) -> LogPosition {
        self.end
    }

    /// Returns the offset of the last event that was ever appended.
    #[must_use]
    pub fn tail(&self) -> Offset {
        self.tail
    }

    /// Returns the offset through which events are no longer retained.
    #[must_use]
    pub fn trimmed_through(&self) -> Offset {
        self.trimmed_through
    }

    /// Returns the entry of the earliest retained event.
    #[must_use]
    pub fn earliest(&self) -> Option<Entry> {
        self.peek(self.start.seq)
    }

    /// Returns the bytes of memory that the log holds.
    #[must_use]
    pub fn footprint(&self) -> usize {
        let on_disk = self.on_disk.as_ref().map_or(0, |on_disk| on_disk.footprint());
        self.sealed_bytes + self.growing.footprint() + on_disk
    }

    /// Evicts events above the maximum number, but never the last `keep`. Returns the number of
    /// evicted events.
    pub fn trim_events(&mut self, max_events: u64, keep: u64) -> u64 {
        self.trim_to(self.end.seq.saturating_sub(max_events), keep)
    }

    /// Evicts events above the maximum of bytes, but never the last `keep`. Returns the number of
    /// evicted events.
    pub fn trim_bytes(&mut self, max_bytes: u64, keep: u64) -> u64 {
        let from = self.end.byte.saturating_sub(max_bytes);
        let segment = self.sealed.partition_point(|segment| segment.index.end().byte < from);
        let index = self.index(segment);
        self.trim_to(index.position(index.beginning_at(from)).seq, keep)
    }

    /// Evicts the events that are not younger than this time of the steady clock, but never the
    /// last `keep`. Returns the number of evicted events.
    pub fn trim_older(&mut self, than: Micros, keep: u64) -> u64 {
        let index = self.index(self.first_segment(|last| last.time.steady > than));
        self.trim_to(index.position(index.past_time(than)).seq, keep)
    }

    /// Frees the memory of the oldest segment. Returns the number of evicted events: 0 for a
    /// stored log, whose events are still on disk.
    pub fn evict_oldest(&mut self, keep: u64) -> u64 {
        let to = self.index(0).end().seq;
        if self.is_stored() {
            self.release_to(to);
            return 0;
        }
        self.trim_to(to, keep)
    }

    /// Frees whole segments until about `max_bytes` are resident. For stored logs.
    pub fn release(&mut self, max_bytes: u64) {
        while self.end.byte - self.resident.position.byte > max_bytes
            && self.index(0).end().byte < self.end.byte.saturating_sub(max_bytes)
        {
            self.release_to(self.index(0).end().seq);
        }
    }

    /// Adopts the trim point of the store. Returns the number of trimmed events.
    pub fn trim_stored(&mut self, to: TrimPoint) -> u64 {
        let trimmed = to.position.seq.saturating_sub(self.start.seq);
        if trimmed > 0 {
            self.start = to.position;
            self.trimmed_through = to.last_trimmed;
            self.release_to(to.position.seq);
        }
        if let Some(on_disk) = self.on_disk.as_mut().filter(|_| trimmed > 0) {
            on_disk.trim(to.position);
        }
        trimmed
    }

    fn release_to(&mut self, seq: u64) {
        if seq <= self.resident.position.seq {
            return;
        }
        let last_trimmed =
            self.peek(seq - 1).map_or(self.resident.last_trimmed, |last| last.offset);
        self.resident = TrimPoint { position: self.position_at(seq), last_trimmed };
        self.free_trimmed();
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
        self.start = self.position_at(to);
        self.resident = TrimPoint { position: self.start, last_trimmed: self.trimmed_through };
        self.free_trimmed();
        trimmed
    }

    fn free_trimmed(&mut self) {
        while let Some(front) = self.sealed.front()
            && front.index.end().seq <= self.resident.position.seq
        {
            self.sealed_bytes -= front.footprint();
            self.sealed.pop_front();
        }
        if self.resident.position == self.end {
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

    fn newest_from(&mut self, at: LogPosition) -> Arc<Segment> {
        match &self.newest {
            Some(newest) if newest.index.first() == at => newest.clone(),
            _ => {
                let copy = self.growing.copy_from(self.growing.index.at_seq(at.seq));
                self.newest.insert(Arc::new(copy)).clone()
            }
        }
    }

    fn position_at(&self, seq: u64) -> LogPosition {
        let index = self.index(self.segment_at(seq));
        index.position(index.at_seq(seq))
    }

    /// Returns the number of the segment that holds the event. The growing segment comes after the
    /// sealed ones.
    fn segment_at(&self, seq: u64) -> usize {
        self.sealed.partition_point(|segment| segment.index.end().seq <= seq)
    }

    /// Returns the number of the first segment whose last event matches; so must those of all
    /// later segments.
    fn first_segment(&self, wanted: impl Fn(Entry) -> bool) -> usize {
        self.sealed.partition_point(|segment| !segment.index.last().is_some_and(&wanted))
    }

    fn index(&self, segment: usize) -> &Index {
        self.sealed.get(segment).map_or(&self.growing.index, |sealed| &sealed.index)
    }
}

/// Returns the size at which a segment is sealed: an eighth of `max_bytes`, so that little more
/// than that is held, within bounds that keep both many small channels and one large one cheap.
fn segment_size(retention: &Retention) -> usize {
    let share = usize::try_from(retention.max_bytes / 8).unwrap_or(MAX_SEGMENT_BYTES);
    share.clamp(4096, MAX_SEGMENT_BYTES)
}

#[cfg(test)]
mod tests;

//! The part of a stored log that is not resident: loaded pieces, and known holes.

use std::sync::Arc;

use super::disk::{Seek, TrimPoint};
use super::index::Entry;
use super::segment::Segment;
use super::{Batch, LogPosition};
use crate::limits::MAX_RESOLVED_OFFSETS;
use crate::position::Offset;

/// A range of events that cannot be read.
#[derive(Clone, Copy, Debug)]
struct Hole {
    from: LogPosition,
    /// The position where reading continues.
    to: TrimPoint,
}

/// The loaded pieces and the known holes of a stored log.
#[derive(Debug, Default)]
pub(super) struct OnDisk {
    pieces: Vec<Arc<Segment>>,
    /// In order. No two of them overlap or adjoin.
    holes: Vec<Hole>,
    /// Positions of the first event after an offset, for offsets that no piece has.
    resolved: Vec<(Offset, LogPosition)>,
}

impl OnDisk {
    /// Adds a loaded piece.
    pub(super) fn add(&mut self, piece: &Batch) {
        self.pieces.push(piece.segment().clone());
    }

    /// Drops the piece that begins at this position. Returns whether there was one.
    pub(super) fn forget(&mut self, first: LogPosition) -> bool {
        let before = self.pieces.len();
        self.pieces.retain(|piece| piece.index.first() != first);
        self.pieces.len() < before
    }

    pub(super) fn footprint(&self) -> usize {
        self.pieces.iter().map(|piece| piece.footprint()).sum()
    }

    /// Records that events between two positions cannot be read. Merges holes that overlap or
    /// adjoin, so that a reader skips them at once, and never to a position inside one.
    pub(super) fn add_hole(&mut self, from: LogPosition, to: TrimPoint) {
        if to.position <= from {
            return;
        }
        let first = self.holes.partition_point(|known| known.to.position < from);
        let last = self.holes.partition_point(|known| known.from <= to.position);
        let mut hole = Hole { from, to };
        for known in self.holes.drain(first..last) {
            hole.from = hole.from.min(known.from);
            if known.to.position > hole.to.position {
                hole.to = known.to;
            }
        }
        self.holes.insert(first, hole);
    }

    /// Returns where reading continues, if this event is in a hole.
    pub(super) fn hole_at(&self, seek: Seek) -> Option<TrimPoint> {
        let hole = self.holes.iter().find(|hole| is_within(seek, hole.from, hole.to.position));
        hole.map(|hole| hole.to)
    }

    /// Records the position of the first event after an offset.
    pub(super) fn resolve(&mut self, offset: Offset, position: LogPosition) {
        if self.resolved.len() >= MAX_RESOLVED_OFFSETS {
            self.resolved.remove(0);
        }
        self.resolved.push((offset, position));
    }

    /// Returns the piece that has this event.
    pub(super) fn piece_at(&self, seek: Seek) -> Option<&Arc<Segment>> {
        let mut pieces = self.pieces.iter();
        pieces.find(|piece| is_within(seek, piece.index.first(), piece.index.end()))
    }

    /// Returns the position at this byte, which is a frame's edge.
    pub(super) fn position_at_byte(&self, byte: u64) -> Option<LogPosition> {
        let piece = self.piece_at(Seek::Byte(byte));
        piece.map(|piece| piece.index.position(piece.index.ending_by(byte)))
    }

    /// Returns the position of the first event after the offset.
    pub(super) fn position_after(&self, offset: Offset) -> Option<LogPosition> {
        let piece = self.pieces.iter().find(|piece| {
            let first = piece.index.len() > 0 && piece.index.entry(0).offset <= offset;
            first && piece.index.last().is_some_and(|last| offset <= last.offset)
        });
        let within = piece.map(|piece| piece.index.position(piece.index.past_offset(offset)));
        let known = self.resolved.iter().find(|(known, _)| *known == offset);
        within.or_else(|| known.map(|(_, position)| *position))
    }

    pub(super) fn position_at(&self, seq: u64) -> Option<LogPosition> {
        let seek = Seek::Seq(seq);
        if let Some(piece) = self.piece_at(seek) {
            return Some(piece.index.position(piece.index.at_seq(seq)));
        }
        // Lost events count as found, as loading them again would not help. Their reader gets a
        // gap.
        let hole = self.holes.iter().find(|hole| is_within(seek, hole.from, hole.to.position));
        hole.map(|hole| hole.from)
    }

    pub(super) fn entry(&self, seq: u64) -> Option<Entry> {
        let piece = self.piece_at(Seek::Seq(seq));
        piece.map(|piece| piece.index.entry(piece.index.at_seq(seq)))
    }

    /// Drops pieces, holes and offsets before this position.
    pub(super) fn trim(&mut self, start: LogPosition) {
        self.pieces.retain(|piece| piece.index.end().seq > start.seq);
        self.holes.retain(|hole| hole.to.position > start);
        self.resolved.retain(|(_, position)| position.seq >= start.seq);
    }
}

/// Returns whether the event lies between two positions.
fn is_within(seek: Seek, from: LogPosition, to: LogPosition) -> bool {
    match seek {
        Seek::Seq(seq) => (from.seq..to.seq).contains(&seq),
        Seek::Byte(byte) => (from.byte..to.byte).contains(&byte),
        Seek::After(_) => false,
    }
}

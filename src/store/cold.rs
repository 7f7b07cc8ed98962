//! What a log has on disk and not in memory: the pieces that readers have had fetched, and what is
//! known of the rest.

use std::sync::Arc;

use super::disk::Floor;
use super::index::Entry;
use super::segment::Segment;
use super::{Mark, Run};
use crate::limits::MAX_RESOLVED_OFFSETS;
use crate::position::Offset;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Cold {
    pieces: Vec<Arc<Segment>>,
    /// What cannot be read: from where, and where reading goes on.
    holes: Vec<(Mark, Floor)>,
    /// Where the first event behind an offset is, for offsets that no piece has.
    resolved: Vec<(Offset, Mark)>,
}

impl Cold {
    /// Takes in a piece that was read.
    pub(super) fn add(&mut self, piece: &Run) {
        self.pieces.push(piece.segment().clone());
    }

    /// Lets go of the piece that begins here. Returns whether there was one.
    pub(super) fn forget(&mut self, first: Mark) -> bool {
        let before = self.pieces.len();
        self.pieces.retain(|piece| piece.index.first() != first);
        self.pieces.len() < before
    }

    pub(super) fn footprint(&self) -> usize {
        self.pieces.iter().map(|piece| piece.footprint()).sum()
    }

    /// Notes that nothing can be read from here up to there.
    pub(super) fn add_hole(&mut self, from: Mark, to: Floor) {
        if self.hole_at(from).is_none() {
            self.holes.push((from, to));
        }
    }

    /// Where reading goes on, if this place is in a hole.
    pub(super) fn hole_at(&self, at: Mark) -> Option<Floor> {
        let inside = |(from, to): &&(Mark, Floor)| (from.seq..to.mark.seq).contains(&at.seq);
        self.holes.iter().find(inside).map(|(_, to)| *to)
    }

    /// Notes where the first event behind an offset is.
    pub(super) fn resolve(&mut self, offset: Offset, mark: Mark) {
        if self.resolved.len() >= MAX_RESOLVED_OFFSETS {
            self.resolved.remove(0);
        }
        self.resolved.push((offset, mark));
    }

    pub(super) fn with_seq(&self, seq: u64) -> Option<&Arc<Segment>> {
        let has =
            |piece: &&Arc<Segment>| (piece.index.first().seq..piece.index.end().seq).contains(&seq);
        self.pieces.iter().find(has)
    }

    /// The place at this byte, which is the edge of a frame.
    pub(super) fn mark_at_byte(&self, byte: u64) -> Option<Mark> {
        let has = |piece: &&Arc<Segment>| {
            (piece.index.first().byte..piece.index.end().byte).contains(&byte)
        };
        let piece = self.pieces.iter().find(has);
        let within = piece.map(|piece| piece.index.mark(piece.index.ending_by(byte)));
        // Within a hole, only that it is one matters.
        let lost = |(from, to): &&(Mark, Floor)| (from.byte..to.mark.byte).contains(&byte);
        within.or_else(|| self.holes.iter().find(lost).map(|(from, _)| Mark { byte, ..*from }))
    }

    /// The place of the first event behind the offset.
    pub(super) fn mark_after(&self, offset: Offset) -> Option<Mark> {
        let has = |piece: &&Arc<Segment>| {
            let first = piece.index.len() > 0 && piece.index.entry(0).offset <= offset;
            first && piece.index.last().is_some_and(|last| offset <= last.offset)
        };
        let piece = self.pieces.iter().find(has);
        let within = piece.map(|piece| piece.index.mark(piece.index.past_offset(offset)));
        let known = self.resolved.iter().find(|(known, _)| *known == offset);
        within.or_else(|| known.map(|(_, mark)| *mark))
    }

    pub(super) fn mark_at(&self, seq: u64) -> Option<Mark> {
        let within = self.with_seq(seq).map(|piece| piece.index.mark(piece.index.at_seq(seq)));
        // What is lost will not come, however often it is fetched: its reader is told so.
        let lost = |(from, to): &&(Mark, Floor)| (from.seq..to.mark.seq).contains(&seq);
        within.or_else(|| self.holes.iter().find(lost).map(|(from, _)| *from))
    }

    pub(super) fn entry(&self, seq: u64) -> Option<Entry> {
        self.with_seq(seq).map(|piece| piece.index.entry(piece.index.at_seq(seq)))
    }

    /// Lets go of what lies before this place.
    pub(super) fn trim(&mut self, start: Mark) {
        self.pieces.retain(|piece| piece.index.end().seq > start.seq);
        self.holes.retain(|(_, to)| to.mark.seq > start.seq);
        self.resolved.retain(|(_, mark)| mark.seq >= start.seq);
    }
}

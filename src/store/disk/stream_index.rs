//! The index of one stream: its blocks, in the order of their events.
//!
//! Invariants: the numbers of the files of the blocks are in the same order. If a block begins
//! after the end of the one before it, the events in between are lost.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::block_ref::BlockRef;
use super::clock_steps::Steps;
use super::read::Seek;
use super::stream::{StoredStream, StreamId, TrimPoint};
use crate::channel::ChannelName;
use crate::clock::{Micros, Moment};
use crate::position::Offset;
use crate::store::{Entry, LogPosition, Retention};

/// The index of one stream.
#[derive(Clone, Debug)]
pub(super) struct StreamIndex {
    pub(super) name: ChannelName,
    pub(super) options: Arc<str>,
    pub(super) state: Option<Arc<str>>,
    pub(super) span: Option<(Entry, Entry)>,
    pub(super) trim_point: TrimPoint,
    pub(super) end: LogPosition,
    pub(super) blocks: VecDeque<BlockRef>,
}

impl StreamIndex {
    pub(super) fn new(name: ChannelName, options: Arc<str>) -> Self {
        Self {
            name,
            options,
            state: None,
            span: None,
            trim_point: TrimPoint::default(),
            end: LogPosition::default(),
            blocks: VecDeque::new(),
        }
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
    pub(super) fn summary(&self) -> Self {
        Self {
            name: self.name.clone(),
            options: self.options.clone(),
            state: self.state.clone(),
            span: self.span,
            trim_point: self.trim_point,
            end: self.end,
            blocks: VecDeque::new(),
        }
    }

    /// Iterates over the retained blocks, in order. The trim point may lie within the first.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &BlockRef> {
        self.blocks.iter()
    }

    /// Adds a block if it follows those known by position, byte and offset. Refuses others, such
    /// as those of a copied or renamed file.
    pub(super) fn push(&mut self, block: BlockRef) -> bool {
        let end = block.end();
        let follows = match self.blocks.back() {
            Some(last) => {
                block.first.seq >= last.end().seq
                    && block.first.byte >= last.end().byte
                    && block.first_offset > last.last_offset
            }
            None => {
                end.seq > self.trim_point.position.seq
                    && end.byte > self.trim_point.position.byte
                    && block.last_offset > self.trim_point.last_trimmed
            }
        };
        if follows {
            self.end = self.end.max(end);
            self.blocks.push_back(block);
        }
        follows
    }

    pub(super) fn spans(&mut self, first: Entry, last: Entry) {
        let known = self.span.get_or_insert((first, last));
        known.1 = if last.offset > known.1.offset { last } else { known.1 };
    }

    /// Returns the number of the first block with an event at or after the key.
    pub(super) fn first_after(&self, seek: Seek) -> usize {
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

    pub(super) fn locate(&self, seek: Seek, most: usize) -> Located {
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
        let mut end = block.first;
        let mut room = most;
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
    pub(super) fn date(&mut self, steps: &Steps, opened: Moment) {
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
    pub(super) fn first_exceeds(
        &self,
        block: &BlockRef,
        retention: &Retention,
        oldest: Micros,
    ) -> bool {
        let has_end = self.state.is_some() && self.blocks.len() == 1;
        let filled = retention.is_filled_by(block.end().distance_to(self.end));
        (filled || block.last_time.steady < oldest) && !has_end
    }

    pub(super) fn drop_first(&mut self) -> Option<BlockRef> {
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
    pub(super) fn raise_trim_point(&mut self) {
        self.raise_to(self.trim_point_at(0));
    }

    /// Returns the range of blocks in this file.
    pub(super) fn within(&self, file: u32) -> Range<usize> {
        let from = self.blocks.partition_point(|block| block.file < file);
        from..self.blocks.partition_point(|block| block.file <= file)
    }
}

pub(super) fn last_of(span: (Entry, Entry)) -> Offset {
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

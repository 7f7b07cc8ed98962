//! References to blocks: where a block is, and which events it has.

use super::block::{Block, Header};
use super::stream::TrimPoint;
use crate::clock::Moment;
use crate::position::Offset;
use crate::store::{Entry, LogPosition};

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

    pub(super) fn trim_point(&self) -> TrimPoint {
        TrimPoint {
            position: self.first,
            last_trimmed: Offset(self.first_offset.0.saturating_sub(1)),
        }
    }
}

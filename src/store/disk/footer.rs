//! The footer of a sorted file: the positions of its blocks, so that opening reads nothing else.

use super::block::{self, Block, END_LENGTH, FieldReader, Kind};
use super::block_ref::BlockRef;
use super::files::File;
use super::stream::StreamId;
use crate::position::Offset;
use crate::store::LogPosition;

/// Streams of a file, each with its blocks in order.
pub(super) type Blocks = Vec<(StreamId, Vec<BlockRef>)>;

/// Encodes the footer, and a block of fixed length with its position.
pub(super) fn encode_footer(blocks: &Blocks, position: u64) -> Vec<u8> {
    let mut rows = Vec::new();
    for (stream, block) in blocks.iter().flat_map(|(id, blocks)| blocks.iter().map(|it| (*id, it)))
    {
        let longs = [stream.0, block.first.seq, block.first.byte, block.first_offset.0];
        let more = [block.last_offset.0, block.last_time.wall];
        longs.iter().chain(&more).for_each(|long| rows.extend_from_slice(&long.to_le_bytes()));
        let shorts = [block.count, block.bytes, block.position, block.length];
        shorts.iter().for_each(|short| rows.extend_from_slice(&short.to_le_bytes()));
    }
    let mut footer = Vec::new();
    block::encode(Kind::Footer, StreamId(0), &rows, 0, &mut footer);
    block::encode(Kind::End, StreamId(0), &position.to_le_bytes(), 0, &mut footer);
    footer
}

/// Bytes of a row of the footer.
const ROW: usize = 64;

/// Reads the footer of a sorted file. `None` if it is broken.
pub(super) fn read_footer(file: &dyn File, number: u32) -> Option<Vec<(StreamId, BlockRef)>> {
    let from = file.size().ok()?.checked_sub(END_LENGTH as u64)?;
    let end = read(file, from, END_LENGTH)?;
    let end = Block::parse(&end).ok().filter(|block| block.header.kind == Kind::End)?;
    let position = FieldReader(end.trailer()).u64();
    let footer = read(file, position, usize::try_from(from.checked_sub(position)?).ok()?)?;
    let footer = Block::parse(&footer).ok().filter(|block| block.header.kind == Kind::Footer)?;
    Some(footer.trailer().chunks_exact(ROW).map(|row| parse_row(row, number)).collect())
}

fn read(file: &dyn File, position: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_at(position, &mut bytes).ok()?;
    Some(bytes)
}

fn parse_row(row: &[u8], file: u32) -> (StreamId, BlockRef) {
    let mut fields = FieldReader(row);
    let stream = StreamId(fields.u64());
    let block = BlockRef {
        first: LogPosition { seq: fields.u64(), byte: fields.u64() },
        first_offset: Offset(fields.u64()),
        last_offset: Offset(fields.u64()),
        last_time: fields.u64().into(),
        count: fields.u32(),
        bytes: fields.u32(),
        file,
        position: fields.u32(),
        length: fields.u32(),
    };
    (stream, block)
}

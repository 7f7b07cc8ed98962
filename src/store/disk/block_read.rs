//! Reading of single blocks: what is returned has passed its checksums and is the expected block.

use std::io;

use super::block::Block;
use super::block_ref::BlockRef;
use super::files::{File, IoError};
use super::stream::StreamId;

/// A block that cannot be read, and the error.
pub(super) type Unreadable = (BlockRef, IoError);

/// Returns whether a block follows on another without a byte in between.
pub(super) fn adjoin(one: &BlockRef, next: &BlockRef) -> bool {
    one.file == next.file && one.position.checked_add(one.length) == Some(next.position)
}

/// Returns the bytes of adjacent blocks.
pub(super) fn length(row: &[BlockRef]) -> usize {
    row.iter().map(|block| block.length as usize).sum()
}

/// Reads and verifies adjacent blocks, up to the first that is broken.
pub(super) fn read_row(
    name: &str,
    file: &dyn File,
    stream: StreamId,
    row: &[BlockRef],
) -> Result<Vec<u8>, Unreadable> {
    let Some(first) = row.first() else {
        return Ok(Vec::new());
    };
    let at = u64::from(first.position);
    let mut bytes = vec![0; length(row)];
    if let Err(error) = file.read_at(at, &mut bytes) {
        // The unreadable block need not be the first of several.
        let several = row.len() > 1;
        let failed = || (*first, IoError::at(name, at)(error));
        return if several { read_row(name, file, stream, &row[..1]) } else { Err(failed()) };
    }
    let mut whole = 0;
    for block in row {
        if !is_block(&bytes[whole..], stream, block) {
            break;
        }
        whole += block.length as usize;
    }
    bytes.truncate(whole);
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "the checksum is wrong");
    if whole == 0 { Err((*first, IoError::at(name, at)(broken()))) } else { Ok(bytes) }
}

/// Reads and verifies one block.
pub(super) fn read_block(
    name: &str,
    file: &dyn File,
    stream: StreamId,
    block: &BlockRef,
) -> Result<Vec<u8>, Unreadable> {
    read_row(name, file, stream, std::slice::from_ref(block))
}

fn is_block(bytes: &[u8], stream: StreamId, expected: &BlockRef) -> bool {
    let block = Block::parse(bytes);
    block.is_ok_and(|Block { header, .. }| {
        header.stream == stream
            && header.first == expected.first
            && header.count == expected.count
            && header.length() == expected.length as usize
    })
}

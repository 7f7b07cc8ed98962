//! The thread that reads events from disk.
//!
//! Invariant: returned events have passed their checksums and are not below the trim point.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::block::Block;
use super::block_read::{Unreadable, adjoin, length, read_row};
use super::block_ref::BlockRef;
use super::files::{File, IoError};
use super::index::SharedIndex;
use super::messages::ReadRequest;
use super::queue::WorkQueue;
use super::read::{DiskRead, Seek};
use super::stream::{StreamId, TrimPoint};
use super::stream_index::Located;
use crate::store::{Batch, Entry, LogPosition};
use crate::telemetry::Metrics;

/// The reader thread.
pub(super) struct Reader {
    pub(super) requests: Arc<WorkQueue<ReadRequest>>,
    pub(super) index: SharedIndex,
    pub(super) metrics: Arc<Metrics>,
    /// Bytes that one read returns.
    pub(super) read_bytes: usize,
}

impl Reader {
    /// Serves reads until the store is closed.
    pub(super) fn run(self) {
        while let Some(batch) = self.requests.take(Duration::ZERO, 0, |_| 1) {
            for ReadRequest { stream, seek, on_read } in batch {
                on_read(self.read(stream, seek));
            }
        }
    }

    /// Reads the requested event and those after it. Removes broken blocks from the index, so that
    /// the next lookup returns where reading continues. A loss is reported together with adjoining
    /// ones, so that a reader gets one gap.
    fn read(&self, stream: StreamId, seek: Seek) -> DiskRead {
        loop {
            let (sources, blocks, from) = match self.locate(stream, seek) {
                Ok(found) => found,
                Err(DiskRead::Lost { to, .. }) if !self.is_readable(stream, to) => continue,
                Err(other) => return other,
            };
            match read_blocks(&sources, stream, &blocks) {
                Ok(rows) => {
                    let bytes = rows.iter().map(|row| row.len() as u64).sum();
                    self.metrics.store_read(bytes);
                    let batch = to_batch(&rows, &blocks, from);
                    return batch.map_or(DiskRead::Nothing, DiskRead::Batch);
                }
                Err((block, fault)) => self.mark_lost(stream, &block, &fault),
            }
        }
    }

    /// Returns whether the first block at this position can be read. Removes a broken block from
    /// the index.
    fn is_readable(&self, stream: StreamId, at: TrimPoint) -> bool {
        let Ok((sources, blocks, _)) = self.locate(stream, Seek::Seq(at.position.seq)) else {
            return true;
        };
        match read_blocks(&sources, stream, &blocks[..blocks.len().min(1)]) {
            Ok(_) => true,
            Err((block, fault)) => {
                self.mark_lost(stream, &block, &fault);
                false
            }
        }
    }

    /// Returns the blocks to read, their files, and the first retained event.
    fn locate(
        &self,
        stream: StreamId,
        seek: Seek,
    ) -> Result<(Sources, Vec<BlockRef>, u64), DiskRead> {
        let index = self.index.lock();
        let (blocks, from) = match index.locate(stream, seek, self.read_bytes) {
            Located::Blocks { blocks, from } => (blocks, from),
            Located::Lost { from, to } => return Err(DiskRead::Lost { from, to }),
            Located::Trimmed(trim_point) => return Err(DiskRead::Trimmed(trim_point)),
            Located::Nothing => return Err(DiskRead::Nothing),
        };
        let mut sources = Sources::new();
        for number in blocks.iter().map(|block| block.file) {
            if let Some(file) = index.files.get(&number) {
                sources.entry(number).or_insert_with(|| (file.name.clone(), file.file.clone()));
            }
        }
        Ok((sources, blocks, from))
    }

    fn mark_lost(&self, stream: StreamId, block: &BlockRef, fault: &IoError) {
        let mut index = self.index.lock();
        if !index.remove_lost(stream, block) {
            // The block was trimmed or compacted meanwhile.
            return;
        }
        index.mark_damaged(block.file);
        let channel = index.streams.get(&stream).map(|stream| stream.name.clone());
        drop(index);
        self.metrics.store_block_broken();
        let channel = channel.as_ref().map_or("", |name| name.as_str());
        let events = block.count;
        tracing::error!(channel, events, "events on disk cannot be read and are lost: {fault}");
    }
}

/// Files with their names, by number.
type Sources = BTreeMap<u32, (String, Arc<dyn File>)>;

/// Reads and verifies blocks up to the first that is broken. Fails if that is the first of all.
fn read_blocks(
    sources: &Sources,
    stream: StreamId,
    blocks: &[BlockRef],
) -> Result<Vec<Vec<u8>>, Unreadable> {
    let mut rows = Vec::new();
    for row in blocks.chunk_by(adjoin) {
        let Some((name, file)) = row.first().and_then(|block| sources.get(&block.file)) else {
            break;
        };
        match read_row(name, &**file, stream, row) {
            Ok(bytes) => {
                let whole = bytes.len() == length(row);
                rows.push(bytes);
                if !whole {
                    break;
                }
            }
            Err(unreadable) if rows.is_empty() => return Err(unreadable),
            Err(_) => break,
        }
    }
    Ok(rows)
}

/// Joins blocks to a batch, without events before `from`, and up to the first event whose distance
/// from the base exceeds what an index can hold.
fn to_batch(rows: &[Vec<u8>], known: &[BlockRef], from: u64) -> Option<Batch> {
    let blocks = rows.iter().flat_map(|row| blocks(row)).zip(known);
    let blocks: Vec<_> = blocks.map(|(block, known)| block.dated(known.last_time)).collect();
    let mut start = blocks.first()?.header.first;
    let mut events = blocks.iter().flat_map(Block::events).peekable();
    while start.seq < from
        && let Some((_, frame)) = events.next()
    {
        start = LogPosition { seq: start.seq + 1, byte: start.byte + frame.len() as u64 };
    }
    let (base, _) = *events.peek()?;
    let mut last = base;
    let joins =
        |(entry, _): &(Entry, &[u8])| entry.joins(base, std::mem::replace(&mut last, *entry));
    Some(Batch::rewritten(start, events.take_while(joins)))
}

/// Splits bytes into adjacent blocks.
fn blocks(mut row: &[u8]) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    while let Ok(block) = Block::parse(row) {
        row = &row[block.header.length()..];
        blocks.push(block);
    }
    blocks
}

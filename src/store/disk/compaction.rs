//! Compaction: copies the live blocks of a file, sorted by stream and joined, into a new file.
//!
//! Invariant: a sorted file has the name and options of each stream before its events, so that
//! they survive the loss of the checkpoints.

use std::sync::Arc;

use super::block::{self, Block, EventsDraft, Header, Kind, Note, Trailer, json};
use super::block_read::read_block;
use super::block_ref::BlockRef;
use super::file_names::{Role, unfinished};
use super::files::{Draft, File, Files, IoError};
use super::footer::{Blocks, encode_footer};
use super::index::{IndexedFile, SharedIndex};
use super::stream::StreamId;

/// Rewrites files.
pub(super) struct Compaction {
    pub(super) files: Arc<dyn Files>,
    pub(super) index: SharedIndex,
    /// Maximum bytes of frames in a block.
    pub(super) block_bytes: usize,
}

/// A sorted file under its final name.
pub(super) struct CompactedFile {
    pub(super) file: IndexedFile,
    pub(super) blocks: Blocks,
}

impl Compaction {
    /// Compacts a file. Returns `None` if it cannot be read whole, or was deleted. `before` runs
    /// after the new file is written and before the old one is replaced; `false` cancels the
    /// compaction.
    pub(super) fn compact_file(
        &self,
        number: u32,
        before: impl FnOnce() -> Result<bool, IoError>,
    ) -> Result<Option<CompactedFile>, IoError> {
        let name = Role::Sorted.file_name(number);
        let unfinished = unfinished(&name);
        let sorted = match self.write(number, &unfinished) {
            Ok(Some(sorted)) => before().map(|may_go| may_go.then_some(sorted)),
            none => none,
        };
        if !matches!(sorted, Ok(Some(_))) {
            // If it cannot be deleted now, the next start deletes it.
            let _ = self.files.remove(&unfinished);
        }
        let Some((file, bytes, blocks)) = sorted? else {
            return Ok(None);
        };
        self.files.rename(&unfinished, &name).map_err(IoError::of(&name))?;
        self.files.sync().map_err(IoError::of(&name))?;
        Ok(Some(CompactedFile { file: IndexedFile::new(name, file, true, bytes), blocks }))
    }

    fn write(&self, number: u32, unfinished: &str) -> Result<Option<Written>, IoError> {
        let index = self.index.lock();
        let Some(from) = index.files.get(&number) else {
            return Ok(None);
        };
        let source = CompactionSource { name: from.name.clone(), file: from.file.clone() };
        let streams = index.blocks_of(number);
        drop(index);
        let draft = Draft::create(&*self.files, unfinished)?;
        let mut compactor =
            Compactor { compaction: self, number, source, draft, encoded: Vec::new() };
        let mut blocks = Blocks::new();
        for (stream, old) in streams {
            compactor.write_name(stream)?;
            match compactor.copy(stream, &old)? {
                Some(new) => blocks.push((stream, new)),
                None => return Ok(None),
            }
        }
        compactor.draft.write(&encode_footer(&blocks, compactor.draft.position()))?;
        let bytes = compactor.draft.position();
        Ok(Some((compactor.draft.finish()?, bytes, blocks)))
    }
}

/// A written file, its size, and its blocks.
type Written = (Arc<dyn File>, u64, Blocks);

struct CompactionSource {
    name: String,
    file: Arc<dyn File>,
}

/// The compaction of one file.
struct Compactor<'a> {
    compaction: &'a Compaction,
    number: u32,
    source: CompactionSource,
    draft: Draft,
    /// The block that is being encoded.
    encoded: Vec<u8>,
}

impl Compactor<'_> {
    /// Writes the name and options of a stream. A stream that was deleted meanwhile needs none.
    fn write_name(&mut self, id: StreamId) -> Result<(), IoError> {
        let index = self.compaction.index.lock();
        let Some(stream) = index.streams.get(&id) else {
            return Ok(());
        };
        let name = stream.name.as_str().to_owned();
        let options = Box::from(&*stream.options);
        drop(index);
        self.encoded.clear();
        block::encode(Kind::Note, id, &json(&Note::Stream { name, options }), 0, &mut self.encoded);
        self.draft.write(&self.encoded)
    }

    /// Copies the blocks of a stream and joins adjacent ones. Returns `None` if one cannot be
    /// read.
    fn copy(&mut self, id: StreamId, old: &[BlockRef]) -> Result<Option<Vec<BlockRef>>, IoError> {
        let mut new = Vec::new();
        let mut growing: Option<EventsDraft> = None;
        for known in old {
            let read = read_block(&self.source.name, &*self.source.file, id, known);
            let bytes = match read {
                Ok(bytes) => bytes,
                Err((_, fault)) => return Ok(self.mark_damaged(&fault)),
            };
            let Ok(block) = Block::parse(&bytes) else { return Ok(None) };
            let block = block.dated(known.last_time);
            let fits = growing.as_ref().is_some_and(|growing| self.fits(growing, &block));
            if !fits && let Some(full) = growing.take() {
                new.push(self.write_block(&full)?);
            }
            let start = || EventsDraft::new(id, block.header.first);
            append(growing.get_or_insert_with(start), &block);
        }
        if let Some(rest) = growing {
            new.push(self.write_block(&rest)?);
        }
        Ok(Some(new))
    }

    fn fits(&self, growing: &EventsDraft, block: &Block<'_>) -> bool {
        let Header { first, frames, .. } = block.header;
        let entries = block.events().map(|(entry, _)| entry);
        growing.fits(first, entries, frames as usize, self.compaction.block_bytes)
    }

    fn write_block(&mut self, draft: &EventsDraft) -> Result<BlockRef, IoError> {
        let position = self.draft.position();
        self.encoded.clear();
        let header = draft.encode(0, &mut self.encoded);
        self.draft.write(&self.encoded)?;
        Ok(BlockRef::new(&header, draft.last(), self.number, position))
    }

    /// Marks the source as damaged: it is not replaced, to keep the rest readable.
    fn mark_damaged<T>(&self, fault: &IoError) -> Option<T> {
        tracing::error!("a file of the store is damaged and is not rewritten: {fault}");
        self.compaction.index.lock().mark_damaged(self.number);
        None
    }
}

fn append(growing: &mut EventsDraft, block: &Block<'_>) {
    block.events().for_each(|(entry, frame)| growing.push(entry, frame));
    // The trailer was valid when it was written.
    let trailer = Trailer::parse(block.trailer()).unwrap_or_default();
    growing.trailer.state = trailer.state;
    growing.trailer.receipts.extend(trailer.receipts);
}

//! Recovery: reads a directory when it is opened.
//!
//! The newest journal may have a torn end, if a crash or a power cut interrupted a write. It is
//! cut at the first broken block after the part that is known to be synced, with everything after
//! it, so that there is never a hole. Any other broken block was whole once: that is corruption,
//! which is reported and costs only that block. Every step can be repeated, so a crash during
//! recovery does no harm.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;

use super::block::{Block, Header, Kind, Note, ScannedPart, Trailer, scan};
use super::block_ref::BlockRef;
use super::checkpoint::Checkpoint;
use super::file_names::{Role, is_ours, is_unfinished, parse_name};
use super::files::{File, Files, IoError, PIECE_BYTES, read_all};
use super::footer::read_footer;
use super::index::{BlockIndex, IndexedFile};
use super::receipts::Receipts;
use super::record::StoredReceipt;
use super::stream::{StoredStream, StreamId};
use crate::channel::ChannelName;
use crate::position::Offset;
use crate::telemetry::Metrics;

/// The contents of a directory when it was opened.
#[derive(Debug)]
pub struct Recovered {
    /// The streams, without those that were deleted.
    pub streams: Vec<StoredStream>,
    /// The last offset of events that are gone: of deleted streams, and of names that were not
    /// durable then.
    pub gone: Offset,
    /// Receipts within the window of the options, oldest first.
    pub receipts: Vec<StoredReceipt>,
    /// The machine went down since the last run: the last `async` events may be missing.
    pub power_cut: bool,
}

/// The result of recovery.
pub(super) struct RecoveredFiles {
    pub(super) index: BlockIndex,
    /// A number that no file has had.
    pub(super) next_file: u32,
    /// The usable checkpoints, at most two.
    pub(super) checkpoints: Vec<u32>,
    /// The last position (file and byte) whose contents are unknown, and which no checkpoint
    /// covers.
    unknown: Option<(u32, u32)>,
}

impl RecoveredFiles {
    pub(super) fn found(&self, power_cut: bool) -> Recovered {
        let streams = self.index.streams.iter().map(|(id, stream)| StoredStream {
            unsure: self.unknown.is_some_and(|(file, at)| stream.may_have_ended_at(file, at)),
            ..stream.to_stream(*id)
        });
        let mut streams: Vec<_> = streams.collect();
        streams.sort_unstable_by_key(|stream| stream.id);
        let receipts = self.index.receipts.to_vec();
        Recovered { streams, gone: self.index.gone, receipts, power_cut }
    }
}

/// Recovers a directory. Adds its receipts to `receipts`.
pub(super) fn recover(
    files: &dyn Files,
    metrics: &Metrics,
    receipts: Receipts,
    clean: bool,
) -> Result<RecoveredFiles, IoError> {
    let index = BlockIndex { receipts, ..BlockIndex::default() };
    Recovery { files, metrics, clean, index, since: 0, newest: 0, unknown: None }.run()
}

struct Recovery<'a> {
    files: &'a dyn Files,
    metrics: &'a Metrics,
    /// The store was closed after everything was synced.
    clean: bool,
    index: BlockIndex,
    /// The number of the checkpoint, which covers the notes and receipts of files below it.
    since: u32,
    /// The highest number of a file with events.
    newest: u32,
    /// The value of [`RecoveredFiles::unknown`].
    unknown: Option<(u32, u32)>,
}

impl Recovery<'_> {
    fn run(mut self) -> Result<RecoveredFiles, IoError> {
        let listed = self.list()?;
        let checkpoints = self.load_checkpoint(&listed);
        let files = self.files(&listed)?;
        self.newest = files.keys().last().copied().unwrap_or_default();
        for (number, role) in files {
            self.read_file(number, role)?;
        }
        self.remove_duplicate_names();
        self.index.raise_trim_points();
        let highest = listed.iter().map(|(number, _)| *number).max().unwrap_or_default();
        Ok(RecoveredFiles {
            index: self.index,
            next_file: highest.saturating_add(1),
            checkpoints,
            unknown: self.unknown,
        })
    }

    /// Returns the numbered files. Deletes unfinished files that a crash left.
    fn list(&self) -> Result<Vec<(u32, Role)>, IoError> {
        let mut listed = Vec::new();
        for name in self.files.list().map_err(IoError::of(""))? {
            if is_unfinished(&name) {
                self.files.remove(&name).map_err(IoError::of(&name))?;
            } else if let Some(numbered) = parse_name(&name) {
                listed.push(numbered);
            } else if !is_ours(&name) {
                tracing::warn!(name, "the directory of the store has a file of another program");
            }
        }
        Ok(listed)
    }

    /// Loads the newest checkpoint that is whole. Returns its number and the one before it.
    fn load_checkpoint(&mut self, listed: &[(u32, Role)]) -> Vec<u32> {
        let checkpoints = listed.iter().filter(|(_, role)| *role == Role::Checkpoint);
        let mut checkpoints: Vec<u32> = checkpoints.map(|(number, _)| *number).collect();
        checkpoints.sort_unstable();
        while let Some(number) = checkpoints.last().copied() {
            match Checkpoint::load(self.files, number) {
                Ok(checkpoint) => {
                    self.apply_checkpoint(checkpoint);
                    break;
                }
                Err(why) => {
                    let file = Role::Checkpoint.file_name(number);
                    self.metrics.store_block_broken();
                    tracing::error!(file, "a checkpoint of the store is broken: {why}");
                    checkpoints.pop();
                }
            }
        }
        checkpoints.drain(..checkpoints.len().saturating_sub(2));
        checkpoints
    }

    fn apply_checkpoint(&mut self, checkpoint: Checkpoint) {
        self.since = checkpoint.number;
        self.index.next_stream = checkpoint.next_stream;
        self.index.gone = checkpoint.gone;
        self.index.streams = checkpoint.streams.into_iter().collect();
        checkpoint.receipts.into_iter().for_each(|receipt| self.index.receipts.add(receipt));
    }

    /// Returns the files with events. If there are a journal and a sorted file of one number,
    /// keeps the sorted one if its footer is whole, and deletes the other.
    fn files(&self, listed: &[(u32, Role)]) -> Result<BTreeMap<u32, Role>, IoError> {
        let mut files = BTreeMap::new();
        for (number, role) in listed.iter().filter(|(_, role)| *role != Role::Checkpoint) {
            if files.insert(*number, *role).is_some() {
                let sorted = Role::Sorted.file_name(*number);
                let file = self.files.open(&sorted).map_err(IoError::of(&sorted))?;
                let whole = read_footer(&*file, *number).is_some();
                let (kept, replaced) = match whole {
                    true => (Role::Sorted, Role::Journal),
                    false => (Role::Journal, Role::Sorted),
                };
                let replaced = replaced.file_name(*number);
                self.files.remove(&replaced).map_err(IoError::of(&replaced))?;
                files.insert(*number, kept);
            }
        }
        Ok(files)
    }

    fn read_file(&mut self, number: u32, role: Role) -> Result<(), IoError> {
        let name = role.file_name(number);
        let file = self.files.open(&name).map_err(IoError::of(&name))?;
        let bytes = file.size().map_err(IoError::of(&name))?;
        let sorted = role == Role::Sorted;
        let indexed = IndexedFile::new(name.clone(), file.clone(), sorted, bytes);
        self.index.files.insert(number, indexed);
        let known = number < self.since;
        let footer = if sorted && known { read_footer(&*file, number) } else { None };
        match footer {
            Some(rows) => rows.into_iter().for_each(|(stream, block)| {
                self.index.count_written(&block);
                self.index.add(stream, block, None);
            }),
            None => self.read_blocks(number, &name, &*file)?,
        }
        Ok(())
    }

    fn read_blocks(&mut self, number: u32, name: &str, file: &dyn File) -> Result<(), IoError> {
        let bytes = read_readable(name, file)?;
        let parts = scan(&bytes);
        let newest = number == self.newest && parse_name(name) == Some((number, Role::Journal));
        let torn = if newest { torn_at(&parts, bytes.len(), self.clean) } else { None };
        let end = torn.unwrap_or(bytes.len());
        if newest {
            self.cut(name, file, end, &bytes)?;
            if !self.clean {
                rewrite(name, file, &bytes[..end], recorded_as_synced(&parts))?;
            }
            if let Some(file) = self.index.files.get_mut(&number) {
                file.bytes = end as u64;
            }
        }
        for part in parts {
            match part {
                ScannedPart::Whole { position, block } if position < end => {
                    self.apply(number, position as u64, &block);
                }
                ScannedPart::Broken { position, end: to, header } if position < end => {
                    self.report(number, name, position, to, header.as_ref());
                }
                ScannedPart::Whole { .. } | ScannedPart::Broken { .. } => {}
            }
        }
        Ok(())
    }

    /// Cuts the newest journal, and syncs the rest: events that are served must not vanish later.
    fn cut(&self, name: &str, file: &dyn File, end: usize, bytes: &[u8]) -> Result<(), IoError> {
        let end_bytes = &bytes[end..];
        if !is_unused(end_bytes) {
            tracing::warn!(
                file = name,
                offset = end,
                bytes = end_bytes.len(),
                "the end of the store's last file is torn, as after a crash: it is cut off"
            );
        }
        if !end_bytes.is_empty() {
            file.truncate(end as u64).map_err(IoError::at(name, end as u64))?;
        }
        file.sync().map_err(IoError::of(name))
    }

    fn apply(&mut self, number: u32, position: u64, block: &Block<'_>) {
        let stream = block.header.stream;
        let replays = number >= self.since;
        self.index.next_stream = self.index.next_stream.max(stream.0.saturating_add(1));
        match block.header.kind {
            Kind::Events => self.apply_events(number, position, block, replays),
            Kind::Note if replays => match serde_json::from_slice(block.trailer()) {
                Ok(note) => self.apply_note(stream, note),
                Err(why) => tracing::error!(file = number, position, "a note is broken: {why}"),
            },
            Kind::Note | Kind::Footer | Kind::End | Kind::Checkpoint => {}
        }
    }

    fn apply_events(&mut self, number: u32, position: u64, block: &Block<'_>, replays: bool) {
        let stream = block.header.stream;
        if let (Some(indexed), Some(last)) =
            (BlockRef::of_block(block, number, position), block.last())
        {
            let first = block.header.base;
            self.index.count_written(&indexed);
            self.index.add(stream, indexed, replays.then_some((first, last)));
        }
        if replays {
            let trailer = Trailer::parse(block.trailer()).unwrap_or_default();
            self.index.note_trailer(stream, &trailer);
        }
    }

    fn apply_note(&mut self, stream: StreamId, note: Note) {
        match note {
            Note::Stream { name, options } => match ChannelName::from_str(&name) {
                Ok(name) => self.index.begin(stream, name, &options),
                Err(why) => {
                    tracing::error!(name, "the name of a channel in the store is broken: {why}")
                }
            },
            Note::Gone {} => self.index.remove(stream),
            Note::Receipt(receipt) => self.index.receipts.add(receipt),
        }
    }

    fn report(
        &mut self,
        number: u32,
        name: &str,
        offset: usize,
        end: usize,
        header: Option<&Header>,
    ) {
        let stream = header.and_then(|header| self.index.streams.get(&header.stream));
        let channel = stream.map_or("", |stream| stream.name.as_str());
        let events = header.map_or(0, |header| header.count);
        let bytes = end - offset;
        tracing::error!(
            file = name,
            offset,
            bytes,
            channel,
            events,
            "a block of the store is broken: its contents are lost"
        );
        self.metrics.store_block_broken();
        // A block without a header, or one cut off by the end of the file, may hide any number of
        // events.
        if header.is_none_or(|header| header.length() > bytes) && number >= self.since {
            self.unknown = Some((number, offset as u32));
        }
        if let Some(header) = header.filter(|header| header.kind == Kind::Events) {
            self.index.note_lost(header);
        }
        self.index.mark_damaged(number);
    }

    /// Removes streams that share a name with a later one. Without a checkpoint, a deleted stream
    /// may reappear; a channel has one life at a time, and the latest counts.
    fn remove_duplicate_names(&mut self) {
        let mut lives: HashMap<ChannelName, StreamId> = HashMap::new();
        let mut gone = Vec::new();
        for (id, stream) in &self.index.streams {
            let life = lives.entry(stream.name.clone()).or_insert(*id);
            if *life != *id {
                gone.push((*life).min(*id));
                *life = (*life).max(*id);
            }
        }
        gone.into_iter().for_each(|id| self.index.remove(id));
    }
}

/// Returns where the newest journal is torn: the first broken block after the part that is known
/// to be synced, which is all of it after a clean close.
pub(super) fn torn_at(parts: &[ScannedPart<'_>], size: usize, clean: bool) -> Option<usize> {
    let synced = if clean { size as u64 } else { recorded_as_synced(parts) };
    parts.iter().find_map(|part| match part {
        ScannedPart::Broken { position, .. } if *position as u64 >= synced => Some(*position),
        ScannedPart::Whole { .. } | ScannedPart::Broken { .. } => None,
    })
}

/// Returns the bytes of a journal that are surely synced, according to its blocks.
fn recorded_as_synced(parts: &[ScannedPart<'_>]) -> u64 {
    let synced = parts.iter().map(|part| match part {
        ScannedPart::Whole { block, .. } => block.header.synced,
        ScannedPart::Broken { .. } => 0,
    });
    synced.max().unwrap_or_default()
}

/// Writes again the part that may not be synced. After a failed sync, it may be in the page cache
/// alone and marked as clean there, so that another sync would not write it.
fn rewrite(name: &str, file: &dyn File, bytes: &[u8], synced: u64) -> Result<(), IoError> {
    let mut at = synced.min(bytes.len() as u64);
    for piece in bytes[at as usize..].chunks(PIECE_BYTES) {
        file.write_at(at, piece).map_err(IoError::at(name, at))?;
        at += piece.len() as u64;
    }
    file.sync().map_err(IoError::of(name))
}

/// Returns whether the end of a journal has only prepared zeros.
pub(super) fn is_unused(end: &[u8]) -> bool {
    end.iter().all(|byte| *byte == 0)
}

/// Bytes that are skipped if one of them cannot be read: a sector of most disks.
const SECTOR: usize = 4096;

/// Reads a file, with zeros in place of unreadable sectors, which then count as broken blocks.
pub(super) fn read_readable(name: &str, file: &dyn File) -> Result<Vec<u8>, IoError> {
    let error = match read_all(file) {
        Ok(bytes) => return Ok(bytes),
        Err(error) => error,
    };
    tracing::error!(file = name, "a file of the store cannot be read whole: {error}");
    let size = file.size().map_err(IoError::of(name))?;
    let mut bytes = vec![0; size as usize];
    for (at, sector) in bytes.chunks_mut(SECTOR).enumerate() {
        if file.read_at((at * SECTOR) as u64, sector).is_err() {
            sector.fill(0);
        }
    }
    Ok(bytes)
}

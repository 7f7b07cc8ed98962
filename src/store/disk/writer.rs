//! The writer thread: one write for all records that wait.
//!
//! Invariants: only this thread writes to the journal and adds to the index. A record is accepted
//! only if it begins where its stream ends, so that a refused record leaves no hole. A journal is
//! synced before the next one is created: only the newest can have a torn end.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::block::{self, EventsDraft, Header, Kind, Note, json};
use super::completion::{CompletionQueue, OnComplete};
use super::config::Durability;
use super::dependency::WriteDependency;
use super::engine::Engine;
use super::error::WriteError;
use super::file_names::Role;
use super::files::{File, Files, IoError};
use super::group_commit::{CommitResult, monotonic};
use super::index::{BlockIndex, BlockRef, IndexedFile};
use super::record::{LogRecord, StoredReceipt};
use super::stream::StreamId;
use super::tuning::Tuning;
use crate::channel::ChannelName;
use crate::clock::Moment;
use crate::store::{Batch, Entry, LogPosition};

/// A request to the writer.
pub(super) enum WriterMessage {
    Write {
        record: LogRecord,
        durability: Durability,
        completions: Option<Arc<dyn CompletionQueue>>,
        done: OnComplete,
    },
    /// Reserve more offsets.
    Renew,
    /// Begin a new journal.
    Rotate,
}

impl WriterMessage {
    fn weight(&self) -> usize {
        match self {
            Self::Write { record, .. } => record.size(),
            Self::Renew | Self::Rotate => 0,
        }
    }
}

/// The file that is written to.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) number: u32,
    pub(super) name: String,
    pub(super) file: Arc<dyn File>,
    /// Bytes written to earlier journals since the store was opened.
    begin: u64,
    position: u64,
    /// End of the zeros written ahead.
    prepared: u64,
}

impl Journal {
    /// Creates a journal and syncs the directory, so that it survives a power cut.
    pub(super) fn create(files: &dyn Files, number: u32, begin: u64) -> Result<Self, IoError> {
        let name = Role::Journal.file_name(number);
        let file = files.create(&name).map_err(IoError::of(&name))?;
        files.sync().map_err(IoError::of(&name))?;
        Ok(Self { number, name, file, begin, position: 0, prepared: 0 })
    }

    pub(super) fn to_indexed(&self) -> IndexedFile {
        IndexedFile::new(self.name.clone(), self.file.clone(), false, 0)
    }

    /// Returns the bytes written since the store was opened.
    fn written(&self) -> u64 {
        self.begin + self.position
    }

    /// Writes at the end. If the prepared zeros do not suffice, first writes `ahead` more bytes of
    /// them.
    fn append(&mut self, bytes: &[u8], ahead: u64) -> io::Result<()> {
        let end = self.position + bytes.len() as u64;
        if end > self.prepared && ahead > 0 {
            let from = self.prepared.max(self.position);
            self.file.write_at(from, &vec![0; (end + ahead - from) as usize])?;
            self.prepared = end + ahead;
        }
        self.file.write_at(self.position, bytes)?;
        self.position = end;
        Ok(())
    }

    /// Truncates the file after the end: prepared zeros, and the rest of a failed write.
    fn cut(&mut self) -> io::Result<()> {
        self.prepared = 0;
        self.file.truncate(self.position)
    }

    /// Removes the prepared zeros and syncs: nothing more will be written.
    fn finish(&mut self) -> io::Result<()> {
        if self.prepared > self.position {
            self.cut()?;
        }
        self.file.sync()
    }
}

pub(super) struct Writer {
    engine: Arc<Engine>,
    journal: Journal,
    /// The encoded write, kept to reuse its memory.
    buffer: Vec<u8>,
    /// The time of the last check that found free space.
    had_room: Option<Duration>,
}

impl Writer {
    pub(super) fn new(engine: Arc<Engine>, journal: Journal) -> Self {
        Self { engine, journal, buffer: Vec::new(), had_room: None }
    }

    /// Writes records until the store is closed.
    pub(super) fn run(mut self) {
        let engine = self.engine.clone();
        let Tuning { gather, batch_bytes, .. } = engine.tuning;
        while let Some(batch) = engine.inbox.take(gather, batch_bytes, WriterMessage::weight) {
            self.store(batch);
        }
        // A journal without prepared zeros was closed cleanly.
        if self.journal.prepared > 0 && !engine.health.has_failed() {
            let finished = self.journal.finish().map_err(IoError::of(&self.journal.name));
            if let Err(fault) = finished {
                engine.fail(&fault);
            }
        }
    }

    fn store(&mut self, batch: VecDeque<WriterMessage>) {
        if batch.iter().any(|message| matches!(message, WriterMessage::Renew)) {
            self.engine.renew_offsets();
        }
        let rotates = batch.iter().any(|message| matches!(message, WriterMessage::Rotate));
        if rotates && !self.engine.health.has_failed() {
            // An error is in the health of the store, which is checked next.
            let _ = self.rotate();
        }
        let obstacle = self.obstacle();
        // A full journal is not written to: the next one may exist already.
        let open = self.journal.position < self.engine.tuning.journal_bytes;
        let next = self.engine.noted_offset().saturating_add(1);
        let mut group = Group::new(self.engine.tuning.block_bytes, next);
        let mut results = Vec::with_capacity(batch.len());
        for message in batch {
            let WriterMessage::Write { record, durability, completions, done } = message else {
                continue;
            };
            let (stream, bytes, dependency) = (record.stream(), record.size(), record.dependency());
            let outcome = match obstacle {
                Some(refused) if !(open && record.frees(refused)) => Err(refused),
                // An earlier record of the same publish was refused because the disk was full.
                _ if dependency.has_failed() => Err(WriteError::Full),
                _ => group.admit(&self.engine.index, record),
            };
            match outcome {
                Ok(()) if dependency.is_none() => {}
                Ok(()) => group.dependencies.push(dependency),
                Err(_) => dependency.fail(),
            }
            results.push(CommitResult {
                stream,
                bytes,
                durability,
                outcome,
                completions,
                on_complete: done,
            });
        }
        let syncs = results.iter().any(CommitResult::waits_for_sync);
        if let Err(refused) = self.write(&group, syncs) {
            results.iter_mut().for_each(|result| result.outcome = Err(refused));
            group.dependencies.iter().for_each(WriteDependency::fail);
        }
        self.count_refused(&results);
        self.engine.commits.written(self.journal.written(), results);
    }

    /// Returns why nothing can be written at the moment.
    fn obstacle(&mut self) -> Option<WriteError> {
        if let Err(refused) = self.engine.health.check() {
            return Some(refused);
        }
        if let Err(fault) = self.has_room() {
            return Some(self.engine.trouble(fault, 0));
        }
        let full = self.journal.position >= self.engine.tuning.journal_bytes;
        if full { self.rotate().err() } else { None }
    }

    fn has_room(&mut self) -> Result<(), IoError> {
        let now = monotonic();
        if self.had_room.is_some_and(|then| now - then < self.engine.tuning.free_space_age) {
            return Ok(());
        }
        let failed = || IoError::at(&self.journal.name, self.journal.position);
        let free = self.engine.files.free().map_err(failed())?;
        if free < self.engine.config.min_free.as_u64() {
            return Err(failed()(io::Error::from(Errno::NOSPC)));
        }
        self.had_room = Some(now);
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), WriteError> {
        let engine = self.engine.clone();
        let finished = self.journal.finish().map_err(IoError::of(&self.journal.name));
        // Any error is final: the contents of the disk are no longer known.
        finished.map_err(|fault| engine.fail(&fault))?;
        let (number, written) = (self.journal.number + 1, self.journal.written());
        let next = Journal::create(&*engine.files, number, written);
        let next = next.map_err(|fault| engine.trouble(fault, 0))?;
        engine.index.lock().files.insert(number, next.to_indexed());
        engine.commits.rotated(next.file.clone(), next.name.clone());
        engine.submit_checkpoint(number);
        self.journal = next;
        Ok(())
    }

    /// Writes the group and adds it to the index.
    fn write(&mut self, group: &Group, syncs: bool) -> Result<(), WriteError> {
        if group.parts.is_empty() {
            return Ok(());
        }
        // Saved before the records: a later start would give them a wrong age.
        self.engine.save_steps(group.parts.iter().filter_map(GroupPart::begins_at))?;
        let synced = self.engine.commits.synced().saturating_sub(self.journal.begin);
        self.buffer.clear();
        let blocks = group.encode(synced, &mut self.buffer);
        let position = self.journal.position;
        let ahead = if syncs { self.engine.tuning.ahead } else { 0 };
        if let Err(error) = self.journal.append(&self.buffer, ahead) {
            let fault = IoError::at(&self.journal.name, position)(error);
            return Err(self.take_back(fault));
        }
        self.engine.metrics.store_wrote(self.buffer.len() as u64);
        self.engine.commits.wrote(self.journal.written());
        let mut index = self.engine.index.lock();
        if let Some(file) = index.files.get_mut(&self.journal.number) {
            file.bytes = self.journal.position;
        }
        group.insert_into(&mut index, &blocks, self.journal.number, position);
        drop(index);
        self.engine.tell_bytes();
        self.buffer.shrink_to(2 * self.engine.tuning.batch_bytes);
        Ok(())
    }

    /// Truncates the rest of a failed write, so that the next one begins at the same position.
    fn take_back(&mut self, fault: IoError) -> WriteError {
        let needed = self.buffer.len() as u64 + self.engine.tuning.ahead;
        let refused = self.engine.trouble(fault, needed);
        let position = self.journal.position;
        match self.journal.cut() {
            Ok(()) => refused,
            Err(error) => self.engine.fail(&IoError::at(&self.journal.name, position)(error)),
        }
    }

    fn count_refused(&self, results: &[CommitResult]) {
        for refused in results.iter().filter_map(|result| result.outcome.err()) {
            self.engine.metrics.store_refused(match refused {
                WriteError::Full => "full",
                WriteError::Failed => "failed",
                WriteError::Behind => "behind",
            });
        }
    }
}

/// The records of one write.
struct Group {
    parts: Vec<GroupPart>,
    /// The end of each stream that the group changes; `None` if it is deleted.
    ends: HashMap<StreamId, Option<LogPosition>>,
    /// The dependencies of its records.
    dependencies: Vec<WriteDependency>,
    block_bytes: usize,
    /// The offset that is given out next.
    next_offset: u64,
}

enum GroupPart {
    Events { stream: StreamId, draft: EventsDraft, first: Option<Entry> },
    Begin { stream: StreamId, name: ChannelName, options: Box<str> },
    Gone { stream: StreamId },
    Receipt(StoredReceipt),
}

/// An encoded part: its position in the buffer, and its header if it has events.
type Encoded = (usize, Option<Header>);

impl Group {
    fn new(block_bytes: usize, next_offset: u64) -> Self {
        let (parts, ends, dependencies) = (Vec::new(), HashMap::new(), Vec::new());
        Self { parts, ends, dependencies, block_bytes, next_offset }
    }

    /// Adds a record, if it follows the end of its stream.
    fn admit(&mut self, index: &Mutex<BlockIndex>, record: LogRecord) -> Result<(), WriteError> {
        match record {
            LogRecord::Events { stream, batch, state, receipt } => {
                if self.end(index, stream) != Some(batch.start()) {
                    // The record before it was refused because the disk was full.
                    return Err(WriteError::Full);
                }
                self.ends.insert(stream, Some(batch.end()));
                self.add_events(stream, &batch, state, receipt);
            }
            LogRecord::Stream { stream, name, options } => {
                let end = self.end(index, stream).unwrap_or_default();
                self.ends.insert(stream, Some(end));
                self.parts.push(GroupPart::Begin { stream, name, options });
            }
            LogRecord::Gone { stream } => {
                if self.end(index, stream).is_some() {
                    self.ends.insert(stream, None);
                    self.parts.push(GroupPart::Gone { stream });
                }
            }
            LogRecord::Receipt(receipt) => {
                let offset = self.next_offset;
                self.parts.push(GroupPart::Receipt(StoredReceipt { offset, ..receipt }));
            }
        }
        Ok(())
    }

    /// Returns the end of a stream, if it exists. The index is locked only here, and not while
    /// events are copied, as other threads need it; only the writer changes an end.
    fn end(&self, index: &Mutex<BlockIndex>, stream: StreamId) -> Option<LogPosition> {
        let stored = || index.lock().streams.get(&stream).map(|stream| stream.end);
        self.ends.get(&stream).copied().unwrap_or_else(stored)
    }

    fn add_events(
        &mut self,
        stream: StreamId,
        batch: &Batch,
        state: Option<Box<str>>,
        receipt: Option<StoredReceipt>,
    ) {
        if !self.grows(stream, batch) {
            let draft = EventsDraft::new(stream, batch.start());
            self.parts.push(GroupPart::Events { stream, draft, first: None });
        }
        if let Some(GroupPart::Events { draft, first, .. }) = self.parts.last_mut() {
            for (entry, frame) in batch.events() {
                first.get_or_insert(entry);
                draft.push(entry, frame);
            }
            draft.trailer.state = state;
            let offset = draft.last().offset.0;
            draft
                .trailer
                .receipts
                .extend(receipt.map(|receipt| StoredReceipt { offset, ..receipt }));
        }
    }

    /// Returns whether the last part can take these events. Earlier parts never do: a torn write
    /// must leave a prefix of the records over all streams, since a receipt may refer to earlier
    /// events of other streams.
    fn grows(&self, stream: StreamId, batch: &Batch) -> bool {
        match self.parts.last() {
            Some(GroupPart::Events { stream: last, draft, .. }) if *last == stream => {
                draft.takes(batch.start(), batch.entries(), batch.size(), self.block_bytes)
            }
            _ => false,
        }
    }

    fn encode(&self, synced: u64, into: &mut Vec<u8>) -> Vec<Encoded> {
        let encode = |part: &GroupPart| {
            let at = into.len();
            (at, part.encode(synced, into))
        };
        self.parts.iter().map(encode).collect()
    }

    /// Adds what was written at this position of the file to the index.
    fn insert_into(&self, index: &mut BlockIndex, blocks: &[Encoded], file: u32, position: u64) {
        for (part, (at, header)) in self.parts.iter().zip(blocks) {
            part.insert_into(index, header.as_ref(), file, position + *at as u64);
        }
    }
}

impl GroupPart {
    /// Returns the first offset of the part and its time, if it has any.
    fn begins_at(&self) -> Option<(u64, Moment)> {
        match self {
            Self::Events { first, .. } => first.map(|first| (first.offset.0, first.time)),
            Self::Receipt(receipt) => Some((receipt.offset, receipt.time)),
            Self::Begin { .. } | Self::Gone { .. } => None,
        }
    }

    fn encode(&self, synced: u64, into: &mut Vec<u8>) -> Option<Header> {
        let (stream, note) = match self {
            Self::Events { draft, .. } => return Some(draft.encode(synced, into)),
            Self::Begin { stream, name, options } => {
                let (name, options) = (name.as_str().to_owned(), options.clone());
                (*stream, Note::Stream { name, options })
            }
            Self::Gone { stream } => (*stream, Note::Gone {}),
            Self::Receipt(receipt) => (StreamId(0), Note::Receipt(receipt.clone())),
        };
        block::encode(Kind::Note, stream, &json(&note), synced, into);
        None
    }

    fn insert_into(
        &self,
        index: &mut BlockIndex,
        header: Option<&Header>,
        file: u32,
        position: u64,
    ) {
        match self {
            Self::Events { stream, draft, first } => {
                if let (Some(header), Some(first)) = (header, first) {
                    let block = BlockRef::new(header, draft.last(), file, position);
                    index.add(*stream, block, Some((*first, draft.last())));
                }
                index.note_trailer(*stream, &draft.trailer);
            }
            Self::Begin { stream, name, options } => index.begin(*stream, name.clone(), options),
            Self::Gone { stream } => index.remove(*stream),
            Self::Receipt(receipt) => index.receipts.add(receipt.clone()),
        }
    }
}

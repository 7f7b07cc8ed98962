//! The writer thread: one write for all records that wait.
//!
//! Invariants: only this thread writes to the journal and adds to the index. A journal is synced
//! before the next one is created: only the newest can have a torn end.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::dependency::WriteDependency;
use super::engine::Engine;
use super::error::WriteError;
use super::files::IoError;
use super::group_commit::{CommitResult, monotonic};
use super::journal::Journal;
use super::messages::WriterMessage;
use super::tuning::Tuning;
use super::write_group::{GroupPart, WriteGroup};

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
        let mut group = WriteGroup::new(self.engine.tuning.block_bytes, next);
        let mut results = Vec::with_capacity(batch.len());
        for message in batch {
            let WriterMessage::Write { record, durability, completions, on_complete } = message
            else {
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
                on_complete,
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
    fn write(&mut self, group: &WriteGroup, syncs: bool) -> Result<(), WriteError> {
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

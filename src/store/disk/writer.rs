//! The writer thread: one write for all records that wait.
//!
//! Invariants: only this thread writes to the journal and adds to the index. A journal is synced
//! before the next one is created: only the newest can have a torn end.

use std::collections::VecDeque;
use std::sync::Arc;

use super::checkpoint::Checkpoint;
use super::checkpoint_slot::CheckpointSlot;
use super::commit_queue::{CommitQueue, CommitResult};
use super::dependency::WriteDependency;
use super::error::WriteError;
use super::files::{Files, IoError};
use super::free_space::FreeSpace;
use super::health::StoreHealth;
use super::index::SharedIndex;
use super::journal::Journal;
use super::messages::WriterMessage;
use super::queue::WorkQueue;
use super::superblock_writer::SuperblockWriter;
use super::tuning::Tuning;
use super::write_group::{GroupPart, WriteGroup};
use crate::clock::Clock;
use crate::telemetry::Metrics;

/// The writer thread.
pub(super) struct Writer {
    pub(super) messages: Arc<WorkQueue<WriterMessage>>,
    pub(super) journal: Journal,
    /// The encoded write, kept to reuse its memory.
    pub(super) buffer: Vec<u8>,
    pub(super) files: Arc<dyn Files>,
    pub(super) free_space: FreeSpace,
    pub(super) index: SharedIndex,
    pub(super) commits: Arc<CommitQueue>,
    pub(super) health: Arc<StoreHealth>,
    pub(super) superblock: Arc<SuperblockWriter>,
    /// Takes the checkpoint of each new journal.
    pub(super) checkpoints: Arc<CheckpointSlot>,
    pub(super) clock: Clock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tuning: Tuning,
}

impl Writer {
    /// Writes records until the store is closed.
    pub(super) fn run(mut self) {
        let messages = self.messages.clone();
        let Tuning { gather, batch_bytes, .. } = self.tuning;
        while let Some(batch) = messages.take(gather, batch_bytes, WriterMessage::weight) {
            self.store(batch);
        }
        // Without prepared zeros there is nothing to cut; the sync thread syncs the rest.
        if self.journal.prepared > 0 && !self.health.has_failed() {
            // An error is in the health of the store.
            let _ = self.finish_journal();
        }
    }

    fn store(&mut self, batch: VecDeque<WriterMessage>) {
        if batch.iter().any(|message| matches!(message, WriterMessage::Renew)) {
            self.superblock.renew_offsets();
        }
        let rotates = batch.iter().any(|message| matches!(message, WriterMessage::Rotate));
        if rotates && !self.health.has_failed() {
            // An error is in the health of the store, which is checked next.
            let _ = self.rotate();
        }
        let obstacle = self.obstacle();
        let (group, mut results) = self.admit(batch, obstacle);
        let syncs = results.iter().any(CommitResult::waits_for_sync);
        if let Err(refused) = self.write(&group, syncs) {
            results.iter_mut().for_each(|result| result.outcome = Err(refused));
            group.dependencies.iter().for_each(WriteDependency::fail);
        }
        self.count_refused(&results);
        self.commits.submit(self.journal.written(), results);
    }

    /// Returns why nothing can be written at the moment.
    fn obstacle(&mut self) -> Option<WriteError> {
        if let Err(refused) = self.health.check() {
            return Some(refused);
        }
        if let Err(error) = self.free_space.require() {
            let fault = IoError::at(&self.journal.name, self.journal.position)(error);
            return Some(self.health.record(&fault, 0));
        }
        let full = self.journal.position >= self.tuning.journal_bytes;
        if full { self.rotate().err() } else { None }
    }

    /// Returns the records that can be written, and the results of all records.
    fn admit(
        &self,
        batch: VecDeque<WriterMessage>,
        obstacle: Option<WriteError>,
    ) -> (WriteGroup, Vec<CommitResult>) {
        // A full journal is not written to; one that could not be replaced is.
        let open = self.journal.position < self.tuning.journal_bytes;
        let next_offset = self.superblock.last_offset().saturating_add(1);
        let mut group = WriteGroup::new(self.tuning.block_bytes, next_offset);
        let mut results = Vec::with_capacity(batch.len());
        for message in batch {
            let WriterMessage::Write { record, durability, completions, on_complete } = message
            else {
                continue;
            };
            let stream = record.stream();
            let bytes = record.size();
            let dependency = record.dependency();
            let outcome = match obstacle {
                Some(refused) if !(open && record.frees(refused)) => Err(refused),
                // An earlier record of the same publish was refused because the disk was full.
                _ if dependency.has_failed() => Err(WriteError::Full),
                _ => group.admit(&self.index, record),
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
        (group, results)
    }

    /// Begins the next journal.
    fn rotate(&mut self) -> Result<(), WriteError> {
        self.finish_journal()?;
        let number = self.journal.number + 1;
        let next = Journal::create(&*self.files, number, self.journal.written());
        let next = next.map_err(|fault| self.health.record(&fault, 0))?;
        let mut index = self.index.lock();
        index.files.insert(number, next.to_indexed());
        let checkpoint = Checkpoint::of(&mut index, number, self.clock.now());
        drop(index);
        self.commits.rotated(next.file.clone(), next.name.clone());
        self.checkpoints.submit(checkpoint);
        self.journal = next;
        Ok(())
    }

    /// Syncs the journal for the last time. Any error is final: the contents of the disk are no
    /// longer known.
    fn finish_journal(&mut self) -> Result<(), WriteError> {
        let finished = self.journal.finish().map_err(IoError::of(&self.journal.name));
        finished.map_err(|fault| self.health.fail(&fault))
    }

    /// Writes the group and adds it to the index.
    fn write(&mut self, group: &WriteGroup, syncs: bool) -> Result<(), WriteError> {
        if group.parts.is_empty() {
            return Ok(());
        }
        // Saved before the records: a later start would give them a wrong age.
        self.superblock.save_steps(group.parts.iter().filter_map(GroupPart::begins_at))?;
        let synced = self.commits.synced().saturating_sub(self.journal.begin);
        self.buffer.clear();
        let blocks = group.encode(synced, &mut self.buffer);
        let position = self.journal.position;
        let ahead = if syncs { self.tuning.ahead } else { 0 };
        if let Err(error) = self.journal.append(&self.buffer, ahead) {
            let fault = IoError::at(&self.journal.name, position)(error);
            return Err(self.take_back(&fault));
        }
        self.metrics.store_wrote(self.buffer.len() as u64);
        self.commits.note_written(self.journal.written());
        let mut index = self.index.lock();
        if let Some(file) = index.files.get_mut(&self.journal.number) {
            file.bytes = self.journal.position;
        }
        group.insert_into(&mut index, &blocks, self.journal.number, position);
        let bytes = index.bytes();
        drop(index);
        self.metrics.store_holds(bytes);
        self.buffer.shrink_to(2 * self.tuning.batch_bytes);
        Ok(())
    }

    /// Truncates the rest of a failed write, so that the next one begins at the same position.
    fn take_back(&mut self, fault: &IoError) -> WriteError {
        let needed = self.buffer.len() as u64 + self.tuning.ahead;
        let refused = self.health.record(fault, needed);
        let position = self.journal.position;
        match self.journal.cut() {
            Ok(()) => refused,
            Err(error) => self.health.fail(&IoError::at(&self.journal.name, position)(error)),
        }
    }

    fn count_refused(&self, results: &[CommitResult]) {
        for refused in results.iter().filter_map(|result| result.outcome.err()) {
            self.metrics.store_refused(match refused {
                WriteError::Full => "full",
                WriteError::Failed => "failed",
                WriteError::Behind => "behind",
            });
        }
    }
}

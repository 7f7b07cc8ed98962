//! The parts of an open store, and the threads that are built from them: each gets those that it
//! needs.

use std::sync::Arc;

use parking_lot::Mutex;

use super::checkpoint::Checkpoint;
use super::checkpoint_slot::CheckpointSlot;
use super::commit_queue::CommitQueue;
use super::compaction::Compaction;
use super::config::Config;
use super::files::Files;
use super::free_space::FreeSpace;
use super::group_commit::GroupCommit;
use super::health::StoreHealth;
use super::index::{BlockIndex, SharedIndex};
use super::journal::Journal;
use super::maintenance::Maintenance;
use super::messages::{ReadRequest, WriterMessage};
use super::offsets::Offsets;
use super::queue::WorkQueue;
use super::reader::Reader;
use super::setup::Setup;
use super::superblock::Superblock;
use super::superblock_writer::SuperblockWriter;
use super::tuning::Tuning;
use super::writer::Writer;
use crate::clock::Clock;
use crate::telemetry::Metrics;

/// The parts that threads share.
pub(super) struct Parts {
    pub(super) files: Arc<dyn Files>,
    pub(super) free_space: FreeSpace,
    pub(super) index: SharedIndex,
    pub(super) commits: Arc<CommitQueue>,
    pub(super) health: Arc<StoreHealth>,
    pub(super) superblock: Arc<SuperblockWriter>,
    pub(super) writes: Arc<WorkQueue<WriterMessage>>,
    pub(super) reads: Arc<WorkQueue<ReadRequest>>,
    pub(super) checkpoints: Arc<CheckpointSlot>,
    clock: Clock,
    metrics: Arc<Metrics>,
    config: Config,
    tuning: Tuning,
}

impl Parts {
    /// Builds the parts of a store that writes to this journal.
    pub(super) fn new(
        setup: Setup,
        superblock: Superblock,
        offsets: Offsets,
        index: BlockIndex,
        journal: &Journal,
    ) -> Self {
        let Setup { files, config, tuning, options, metrics, .. } = setup;
        let least = config.min_free.as_u64();
        let free_space = FreeSpace::new(files.clone(), least, tuning.free_space_age);
        let commits = Arc::new(CommitQueue::new(journal.file.clone(), journal.name.clone()));
        let health = Arc::new(StoreHealth::new(commits.clone()));
        let superblock = SuperblockWriter::new(
            files.clone(),
            health.clone(),
            options.clock.clone(),
            offsets,
            superblock,
        );
        Self {
            files,
            free_space,
            index: Arc::new(Mutex::new(index)),
            commits,
            health,
            superblock: Arc::new(superblock),
            writes: Arc::new(WorkQueue::new()),
            reads: Arc::new(WorkQueue::new()),
            checkpoints: Arc::default(),
            clock: options.clock,
            metrics,
            config,
            tuning,
        }
    }

    /// Returns a checkpoint of the index, for the beginning of file `number`.
    pub(super) fn checkpoint(&self, number: u32) -> Checkpoint {
        Checkpoint::of(&mut self.index.lock(), number, self.clock.now())
    }

    pub(super) fn writer(&self, journal: Journal) -> Writer {
        Writer {
            messages: self.writes.clone(),
            journal,
            buffer: Vec::new(),
            files: self.files.clone(),
            free_space: self.free_space.clone(),
            index: self.index.clone(),
            commits: self.commits.clone(),
            health: self.health.clone(),
            superblock: self.superblock.clone(),
            checkpoints: self.checkpoints.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            tuning: self.tuning,
        }
    }

    pub(super) fn group_commit(&self) -> GroupCommit {
        GroupCommit {
            commits: self.commits.clone(),
            health: self.health.clone(),
            metrics: self.metrics.clone(),
            interval: self.config.sync_interval,
        }
    }

    pub(super) fn reader(&self) -> Reader {
        Reader {
            requests: self.reads.clone(),
            index: self.index.clone(),
            metrics: self.metrics.clone(),
            read_bytes: self.tuning.read_bytes,
        }
    }

    /// Builds the maintenance, with the numbers of the saved checkpoints.
    pub(super) fn maintenance(&self, saved: Vec<u32>) -> Maintenance {
        Maintenance {
            files: self.files.clone(),
            free_space: self.free_space.clone(),
            index: self.index.clone(),
            commits: self.commits.clone(),
            health: self.health.clone(),
            superblock: self.superblock.clone(),
            pending: self.checkpoints.clone(),
            writer: self.writes.clone(),
            compaction: Compaction {
                files: self.files.clone(),
                index: self.index.clone(),
                block_bytes: self.tuning.block_bytes,
            },
            metrics: self.metrics.clone(),
            max_bytes: self.config.max_bytes.as_u64(),
            interval: self.tuning.maintenance_interval,
            saved: Mutex::new(saved),
        }
    }
}

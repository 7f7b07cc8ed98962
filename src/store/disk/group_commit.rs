//! Group commit: the thread that syncs once for all results that wait.
//!
//! Invariants: a sync covers everything written before it began. After a failed sync there is never
//! another: the kernel may have dropped the pages that it could not write.

use std::sync::Arc;
use std::time::Duration;

use super::commit_queue::{CommitQueue, CommitStep};
use super::files::IoError;
use super::health::StoreHealth;
use crate::clock;
use crate::telemetry::Metrics;

/// The sync thread.
pub(super) struct GroupCommit {
    pub(super) commits: Arc<CommitQueue>,
    pub(super) health: Arc<StoreHealth>,
    pub(super) metrics: Arc<Metrics>,
    /// Maximum time between a write and its sync.
    pub(super) interval: Duration,
}

impl GroupCommit {
    /// Syncs and delivers results until the store is closed.
    pub(super) fn run(self) {
        loop {
            match self.commits.next(self.interval) {
                CommitStep::Complete(due) => self.commits.complete(due),
                CommitStep::Sync => self.sync(),
                CommitStep::End => return,
            }
        }
    }

    /// Syncs everything written so far.
    fn sync(&self) {
        let (file, name, up_to) = self.commits.unsynced();
        let began = clock::steady();
        match file.sync().map_err(IoError::of(&name)) {
            Ok(()) => self.commits.synced_to(up_to, began),
            Err(fault) => drop(self.health.fail(&fault)),
        }
        self.metrics.store_synced(clock::elapsed(began));
    }
}

//! The health of the store: good, full for a while, or failed for good.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;

use super::commit_queue::CommitQueue;
use super::error::WriteError;
use super::files::IoError;

/// The health of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Writes are accepted.
    #[default]
    Good,
    /// The disk is full.
    Full,
    /// The store has failed: the reason, with file and offset if known.
    Failed(Arc<str>),
}

const GOOD: u8 = 0;
const FULL: u8 = 1;
const FAILED: u8 = 2;

/// Read by all threads, changed by those of the store.
pub(super) struct StoreHealth {
    /// A copy of `state`, for readers that must not block.
    code: AtomicU8,
    state: Mutex<HealthState>,
    /// Fails with the store, so that no thread waits for a sync that never comes.
    commits: Arc<CommitQueue>,
}

#[derive(Debug, Default)]
struct HealthState {
    health: Health,
    /// Bytes that did not fit.
    needed: u64,
}

impl StoreHealth {
    pub(super) fn new(commits: Arc<CommitQueue>) -> Self {
        Self { code: AtomicU8::new(GOOD), state: Mutex::default(), commits }
    }

    pub(super) fn check(&self) -> Result<(), WriteError> {
        match self.code.load(Ordering::Acquire) {
            GOOD => Ok(()),
            FULL => Err(WriteError::Full),
            _ => Err(WriteError::Failed),
        }
    }

    /// Returns whether the store has failed for good.
    pub(super) fn has_failed(&self) -> bool {
        self.check() == Err(WriteError::Failed)
    }

    pub(super) fn current(&self) -> Health {
        self.state.lock().health.clone()
    }

    /// Records a failed operation, for which `needed` bytes were required. After a shortage of
    /// space the store recovers; any other error is final.
    pub(super) fn record(&self, fault: &IoError, needed: u64) -> WriteError {
        if !fault.is_full() {
            return self.fail(fault);
        }
        if self.fill(needed) {
            tracing::warn!("the store refuses writes until there is room: {fault}");
        }
        WriteError::Full
    }

    /// Marks the store as full: `needed` bytes did not fit. Returns whether it was good before.
    pub(super) fn fill(&self, needed: u64) -> bool {
        let mut state = self.state.lock();
        let new = state.health == Health::Good;
        if new {
            *state = HealthState { health: Health::Full, needed };
            self.code.store(FULL, Ordering::Release);
        }
        new
    }

    /// Returns the bytes that did not fit, if the store is full.
    pub(super) fn needed(&self) -> Option<u64> {
        let state = self.state.lock();
        (state.health == Health::Full).then_some(state.needed)
    }

    /// Marks a full store as good again.
    pub(super) fn clear(&self) {
        let mut state = self.state.lock();
        if state.health == Health::Full {
            *state = HealthState::default();
            self.code.store(GOOD, Ordering::Release);
        }
    }

    /// Fails the store for good: the contents of the disk are no longer known.
    pub(super) fn fail(&self, fault: &IoError) -> WriteError {
        if self.mark_failed(fault) {
            tracing::error!("the store has failed and refuses all writes: {fault}");
        }
        WriteError::Failed
    }

    /// Marks the store as failed. Returns whether it had not failed before.
    fn mark_failed(&self, fault: &IoError) -> bool {
        let mut state = self.state.lock();
        if matches!(state.health, Health::Failed(_)) {
            return false;
        }
        state.health = Health::Failed(fault.to_string().into());
        self.code.store(FAILED, Ordering::Release);
        // With the lock, a publisher that is refused finds the reason in `current`.
        self.commits.fail();
        true
    }
}

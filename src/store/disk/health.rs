//! How the store is: good, full for a while, or failed for good.

use std::sync::atomic::{AtomicU8, Ordering};

use parking_lot::Mutex;

use super::files::IoError;
use super::{Health, WriteError};

const GOOD: u8 = 0;
const FULL: u8 = 1;
const FAILED: u8 = 2;

/// Asked by everybody, changed by the threads of the store.
#[derive(Debug, Default)]
pub(super) struct StoreHealth {
    /// What `state` is, for those who cannot wait.
    code: AtomicU8,
    state: Mutex<HealthState>,
}

#[derive(Debug, Default)]
struct HealthState {
    health: Health,
    /// Bytes that did not fit.
    needed: u64,
}

impl StoreHealth {
    pub(super) fn check(&self) -> Result<(), WriteError> {
        match self.code.load(Ordering::Acquire) {
            GOOD => Ok(()),
            FULL => Err(WriteError::Full),
            _ => Err(WriteError::Failed),
        }
    }

    /// Whether nothing may be written any more.
    pub(super) fn has_failed(&self) -> bool {
        self.check() == Err(WriteError::Failed)
    }

    pub(super) fn current(&self) -> Health {
        self.state.lock().health.clone()
    }

    /// There is no room for so many bytes. Returns whether this is new.
    pub(super) fn fill(&self, needed: u64) -> bool {
        let mut state = self.state.lock();
        let new = state.health == Health::Good;
        if new {
            *state = HealthState { health: Health::Full, needed };
            self.code.store(FULL, Ordering::Release);
        }
        new
    }

    /// The bytes for which there was no room, while there is none.
    pub(super) fn needed(&self) -> Option<u64> {
        let state = self.state.lock();
        (state.health == Health::Full).then_some(state.needed)
    }

    /// There is room again.
    pub(super) fn clear(&self) {
        let mut state = self.state.lock();
        if state.health == Health::Full {
            *state = HealthState::default();
            self.code.store(GOOD, Ordering::Release);
        }
    }

    /// It has failed. Returns whether this is new.
    pub(super) fn fail(&self, fault: &IoError) -> bool {
        let mut state = self.state.lock();
        if matches!(state.health, Health::Failed(_)) {
            return false;
        }
        state.health = Health::Failed(fault.to_string().into());
        self.code.store(FAILED, Ordering::Release);
        true
    }
}

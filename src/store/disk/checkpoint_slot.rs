//! The checkpoint that waits to be saved: the writer makes it, the maintenance thread saves it.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::checkpoint::Checkpoint;

/// A place for one checkpoint, for which the maintenance thread waits.
#[derive(Debug, Default)]
pub(super) struct CheckpointSlot {
    state: Mutex<SlotState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SlotState {
    checkpoint: Option<Checkpoint>,
    /// Whether the checkpoint was never taken: one that could not be saved is not waited for.
    is_new: bool,
    closed: bool,
}

impl CheckpointSlot {
    /// Submits a checkpoint. It replaces one that still waits.
    pub(super) fn submit(&self, checkpoint: Checkpoint) {
        let mut state = self.state.lock();
        state.checkpoint = Some(checkpoint);
        state.is_new = true;
        self.changed.notify_one();
    }

    /// Returns a checkpoint that could not be saved, unless a newer one waits.
    pub(super) fn put_back(&self, checkpoint: Checkpoint) {
        self.state.lock().checkpoint.get_or_insert(checkpoint);
    }

    pub(super) fn take(&self) -> Option<Checkpoint> {
        let mut state = self.state.lock();
        state.is_new = false;
        state.checkpoint.take()
    }

    pub(super) fn is_filled(&self) -> bool {
        self.state.lock().checkpoint.is_some()
    }

    /// Waits for a new checkpoint, up to `timeout`. Returns `false` if the store is closed.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.closed && !state.is_new {
            self.changed.wait_for(&mut state, timeout);
        }
        !state.closed
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_one();
    }
}

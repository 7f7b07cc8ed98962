//! The one order of the hub.
//!
//! An offset is taken while its channel's lock is held, and the lock is kept until the event is in
//! the log. A reader that first notes the [`watermark`](Sequencer::watermark) and then locks a
//! channel finds there every event below the watermark: it waits for exactly those writers that
//! have taken such an offset and not yet appended. So a reader of many channels that stays below
//! the watermark never finds a smaller offset later, and writers of different channels never wait
//! for each other.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::position::{Epoch, Offset, Position};
use crate::store::disk::{Disk, WriteError};

/// Assigns offsets, each once, in increasing order over all channels.
#[derive(Debug)]
pub(super) struct Sequencer {
    epoch: Epoch,
    next: AtomicU64,
    /// The store that keeps a restart from assigning the same offsets; `None` in memory only.
    disk: Option<Disk>,
}

impl Sequencer {
    /// Creates a sequencer for a new epoch.
    #[must_use]
    pub(super) fn new(epoch: Epoch) -> Self {
        Self { epoch, next: AtomicU64::new(1), disk: None }
    }

    /// Creates a sequencer that continues the store's epoch.
    #[must_use]
    pub(super) fn resumed(disk: Disk) -> Self {
        let next = AtomicU64::new(disk.first_offset().0);
        Self { epoch: disk.epoch(), next, disk: Some(disk) }
    }

    /// Returns whether offsets can be taken.
    pub(super) fn check(&self) -> Result<(), WriteError> {
        self.disk.as_ref().map_or(Ok(()), Disk::check_offsets)
    }

    /// Takes `count` offsets and returns the first. The channel's lock must be held.
    pub(super) fn take(&self, count: u64) -> Offset {
        let first = self.next.fetch_add(count, Ordering::SeqCst);
        if let Some(disk) = &self.disk {
            disk.note_offset(Offset(first + count));
        }
        Offset(first)
    }

    /// Returns the smallest offset that has not been taken.
    #[must_use]
    pub(super) fn watermark(&self) -> Offset {
        Offset(self.next.load(Ordering::SeqCst))
    }

    /// Returns the epoch.
    #[must_use]
    pub(super) fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Returns the position of an offset in this epoch.
    #[must_use]
    pub(super) fn position(&self, offset: Offset) -> Position {
        Position { epoch: self.epoch.clone(), offset }
    }
}

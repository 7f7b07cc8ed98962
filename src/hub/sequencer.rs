//! The one order of the hub.
//!
//! An offset is taken while its channel's lock is held, and the lock is kept until the event is in
//! the log. A reader that first notes the [`watermark`](Sequencer::watermark) and then locks a
//! channel finds there every event below the watermark: it waits for exactly those writers that
//! have taken such an offset and not yet appended. So a reader of many channels that stays below
//! the watermark never finds a smaller offset later, and writers of different channels never wait
//! for each other.
//!
//! In a cluster, the shared log has the one order: offsets come with the events. The watermark
//! advances when all events of a message are in the logs of their channels.

use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::position::{Epoch, Offset, Position};
use crate::store::disk::{Disk, WriteError};

/// Assigns offsets, each once, in increasing order over all channels.
#[derive(Debug)]
pub(super) struct Sequencer {
    /// The epoch; in a cluster, one that is used until the shared log is opened.
    epoch: Epoch,
    next: AtomicU64,
    /// The shared log; `None` for a hub that is alone.
    shared: Option<SharedOrder>,
    /// The store that keeps a restart from assigning the same offsets; `None` in memory only.
    disk: Option<Disk>,
}

/// The order of a shared log.
#[derive(Debug, Default)]
struct SharedOrder {
    epoch: OnceLock<Epoch>,
    /// Notified when the watermark moves on.
    passed: Notify,
}

impl Sequencer {
    /// Creates a sequencer for a new epoch.
    #[must_use]
    pub(super) fn new(epoch: Epoch) -> Self {
        Self { epoch, next: AtomicU64::new(1), shared: None, disk: None }
    }

    /// Creates a sequencer that follows a shared log.
    #[must_use]
    pub(super) fn shared() -> Self {
        Self { shared: Some(SharedOrder::default()), ..Self::new(Epoch::random()) }
    }

    /// Creates a sequencer that continues the store's epoch.
    #[must_use]
    pub(super) fn resumed(disk: Disk) -> Self {
        let next = AtomicU64::new(disk.first_offset().0);
        Self { epoch: disk.epoch(), next, shared: None, disk: Some(disk) }
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

    /// Returns whether offsets come from a shared log.
    pub(super) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Sets the epoch of the shared log. Only the first call counts.
    pub(super) fn open(&self, epoch: Epoch) {
        if let Some(shared) = &self.shared {
            let _ = shared.epoch.set(epoch);
        }
    }

    /// Moves the watermark on: all events of the shared log before this offset are in the logs of
    /// their channels.
    pub(super) fn pass(&self, offset: Offset) {
        self.next.fetch_max(offset.0, Ordering::SeqCst);
        if let Some(shared) = &self.shared {
            shared.passed.notify_waiters();
        }
    }

    /// Waits until the events of the shared log up to this position are in the logs of their
    /// channels: another hub, which was ahead, has sent it to a client. Returns at once for any
    /// other position.
    pub(super) async fn reach(&self, position: &Position) {
        let Some(shared) = self.shared.as_ref().filter(|_| position.epoch == *self.epoch()) else {
            return;
        };
        loop {
            let mut passed = pin!(shared.passed.notified());
            passed.as_mut().enable();
            if position.offset < self.watermark() {
                return;
            }
            passed.await;
        }
    }

    /// Returns the smallest offset that has not been taken.
    #[must_use]
    pub(super) fn watermark(&self) -> Offset {
        Offset(self.next.load(Ordering::SeqCst))
    }

    /// Returns the epoch.
    #[must_use]
    pub(super) fn epoch(&self) -> &Epoch {
        self.shared.as_ref().and_then(|shared| shared.epoch.get()).unwrap_or(&self.epoch)
    }

    /// Returns the position of an offset in this epoch.
    #[must_use]
    pub(super) fn position(&self, offset: Offset) -> Position {
        Position { epoch: self.epoch().clone(), offset }
    }
}

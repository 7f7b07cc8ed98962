//! Sizes and intervals of the store that are not settings.

use std::time::Duration;

/// Sizes and intervals that are not settings, and that tests make tiny.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    /// Size of a journal at which the next one begins.
    pub(super) journal_bytes: u64,
    /// Bytes of frames that are joined into one block.
    pub(super) block_bytes: usize,
    /// Bytes of zeros written ahead if a sync is waited for. That sync need not then update the
    /// file size, which costs as much again.
    pub(super) ahead: u64,
    /// Maximum bytes of one write.
    pub(super) batch_bytes: usize,
    /// Time to wait for concurrent publishes: less than a sync takes on most disks, and as long as
    /// dozens of requests take.
    pub(super) gather: Duration,
    /// Maximum age of the cached free-space value. The query takes half as long as a small write,
    /// and too little is written in this time to use up `store.min_free`.
    pub(super) free_space_age: Duration,
    /// Bytes that one read returns.
    pub(super) read_bytes: usize,
    /// Offsets reserved at a time: more than a hub gives out in an hour, as they must last while
    /// the disk accepts no writes.
    pub(super) reserve: u64,
    /// The interval between two rounds of the maintenance thread.
    pub(super) maintenance_interval: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            journal_bytes: 64 << 20,
            block_bytes: 64 << 10,
            ahead: 1 << 20,
            batch_bytes: 4 << 20,
            gather: Duration::from_micros(50),
            free_space_age: Duration::from_millis(5),
            read_bytes: 256 << 10,
            reserve: 1 << 32,
            maintenance_interval: Duration::from_secs(1),
        }
    }
}

impl Tuning {
    /// Limits the size of journals, so that the budget has room for those that may not be deleted
    /// yet.
    pub(super) fn within(max_bytes: u64) -> Self {
        let usual = Self::default();
        let least = usual.batch_bytes as u64;
        Self { journal_bytes: (max_bytes / 8).clamp(least, usual.journal_bytes), ..usual }
    }
}

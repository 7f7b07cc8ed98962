//! The offsets that were given out, and those that are reserved.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::position::Offset;

/// Counts offsets. Those below `reserved` are given out by no later life of the store.
#[derive(Debug)]
pub(super) struct Offsets {
    /// The last offset that was given out.
    last: AtomicU64,
    /// The first offset that is not reserved.
    reserved: AtomicU64,
    /// The offset at which more are reserved.
    renew_at: AtomicU64,
    /// Number of offsets that are reserved at a time.
    reserve: u64,
}

impl Offsets {
    /// Begins a life in which `first` is the first offset, with one reserve.
    pub(super) fn new(first: u64, reserve: u64) -> Self {
        Self {
            last: AtomicU64::new(first.saturating_sub(1)),
            reserved: AtomicU64::new(first.saturating_add(reserve)),
            renew_at: AtomicU64::new(first.saturating_add(reserve / 2)),
            reserve,
        }
    }

    /// Notes that offsets up to this one are given out. Returns whether more must be reserved:
    /// once, until the next [`renewed`](Self::renewed) or [`not_renewed`](Self::not_renewed).
    pub(super) fn note(&self, offset: Offset) -> bool {
        self.last.fetch_max(offset.0, Ordering::Relaxed);
        offset.0 >= self.renew_at.load(Ordering::Relaxed)
            && self.renew_at.swap(u64::MAX, Ordering::Relaxed) != u64::MAX
    }

    /// Returns the last offset that was given out.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// Returns the first offset that is not reserved.
    pub(super) fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Relaxed)
    }

    /// Returns the end of a reserve that begins after the last offset.
    pub(super) fn next_reserve(&self) -> u64 {
        self.last().saturating_add(self.reserve)
    }

    /// Records that the offsets below `end` are reserved.
    pub(super) fn renewed(&self, end: u64) {
        self.reserved.store(end, Ordering::Relaxed);
        self.renew_after(self.reserve / 2);
    }

    /// Records that reserving failed. It is tried again long before the offsets run out.
    pub(super) fn not_renewed(&self) {
        self.renew_after(self.reserve / 16);
    }

    /// Returns whether less than a quarter of a reserve is left, as after a failed renewal, when
    /// perhaps no offset has been given out since.
    pub(super) fn are_low(&self) -> bool {
        self.left() < self.reserve / 4
    }

    /// Returns whether more than a 64th of a reserve is left. That is kept for ends, which cannot
    /// be refused, and for publishes that were admitted at the same moment.
    pub(super) fn suffice(&self) -> bool {
        self.left() > self.reserve / 64
    }

    fn left(&self) -> u64 {
        self.reserved().saturating_sub(self.last())
    }

    fn renew_after(&self, count: u64) {
        let at = self.last().saturating_add(count.max(1));
        self.renew_at.store(at, Ordering::Relaxed);
    }
}

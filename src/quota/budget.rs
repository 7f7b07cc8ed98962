//! A budget of bytes that is enforced by eviction.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts bytes against a budget.
#[derive(Debug, Default)]
pub struct Budget {
    budget: AtomicUsize,
    used: AtomicUsize,
    /// Bytes in use when nothing could be evicted: another search is worthwhile only above this.
    futile: AtomicUsize,
}

impl Budget {
    /// Creates a budget of this many bytes.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        Self {
            budget: AtomicUsize::new(budget),
            used: AtomicUsize::new(0),
            futile: AtomicUsize::new(0),
        }
    }

    /// Changes the budget.
    pub fn resize(&self, budget: usize) {
        self.budget.store(budget, Ordering::Relaxed);
        self.futile.store(0, Ordering::Relaxed);
    }

    fn budget(&self) -> usize {
        self.budget.load(Ordering::Relaxed)
    }

    /// Replaces one share of `before` bytes with one of `after` bytes.
    pub fn replace(&self, before: usize, after: usize) {
        match after.cmp(&before) {
            Greater => self.used.fetch_add(after - before, Ordering::Relaxed),
            Less => self.used.fetch_sub(before - after, Ordering::Relaxed),
            // Most shares are unchanged most of the time; a write would contend with all threads.
            Equal => return,
        };
    }

    /// Returns the bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns whether the budget is exceeded, and something evictable may exist.
    #[must_use]
    pub fn is_exceeded(&self) -> bool {
        let used = self.used();
        used > self.budget() && used > self.futile.load(Ordering::Relaxed)
    }

    /// Notes that a search has evicted all that it could.
    pub fn note_search(&self) {
        let more = if self.is_relieved() { 0 } else { self.used() + self.budget() / 100 };
        self.futile.store(more, Ordering::Relaxed);
    }

    /// Returns the bytes to evict before eviction stops.
    #[must_use]
    pub fn excess(&self) -> usize {
        self.used().saturating_sub(self.budget() - self.budget() / 10)
    }

    /// Returns whether eviction can stop: it evicts a tenth of the budget at a time, so that the
    /// search for the oldest events is paid once per many publishes.
    #[must_use]
    pub fn is_relieved(&self) -> bool {
        self.excess() == 0
    }
}

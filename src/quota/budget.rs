//! A budget of bytes that is kept by evicting.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts bytes against a budget.
#[derive(Debug, Default)]
pub struct Budget {
    budget: AtomicUsize,
    used: AtomicUsize,
    /// What was used when nothing could be evicted: it is not worth looking again until this much
    /// and a little more is used.
    futile: AtomicUsize,
}

impl Budget {
    /// So many bytes.
    #[must_use]
    pub fn new(budget: usize) -> Self {
        Self {
            budget: AtomicUsize::new(budget),
            used: AtomicUsize::new(0),
            futile: AtomicUsize::new(0),
        }
    }

    /// So many bytes from now on.
    pub fn resize(&self, budget: usize) {
        self.budget.store(budget, Ordering::Relaxed);
        self.futile.store(0, Ordering::Relaxed);
    }

    fn budget(&self) -> usize {
        self.budget.load(Ordering::Relaxed)
    }

    /// Somebody's share was `before` bytes and is `after` bytes now.
    pub fn replace(&self, before: usize, after: usize) {
        match after.cmp(&before) {
            Greater => self.used.fetch_add(after - before, Ordering::Relaxed),
            Less => self.used.fetch_sub(before - after, Ordering::Relaxed),
            // As most shares do most of the time; all threads count here.
            Equal => return,
        };
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether something should go, and there may be something that can.
    #[must_use]
    pub fn is_exceeded(&self) -> bool {
        let used = self.used();
        used > self.budget() && used > self.futile.load(Ordering::Relaxed)
    }

    /// Everything that could go has gone.
    pub fn note_search(&self) {
        let more = if self.is_relieved() { 0 } else { self.used() + self.budget() / 100 };
        self.futile.store(more, Ordering::Relaxed);
    }

    /// Bytes that must go until eviction rests.
    #[must_use]
    pub fn excess(&self) -> usize {
        self.used().saturating_sub(self.budget() - self.budget() / 10)
    }

    /// Below this, eviction rests: a tenth of the budget goes at a time, so that the search for
    /// the oldest events is paid once per many publishes.
    #[must_use]
    pub fn is_relieved(&self) -> bool {
        self.excess() == 0
    }
}

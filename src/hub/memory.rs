//! The hub's one memory budget.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::telemetry::Metrics;

/// Counts the memory of all logs against the budget.
#[derive(Debug)]
pub(super) struct Memory {
    budget: usize,
    used: AtomicUsize,
    /// What was used when nothing could be evicted: it is not worth looking again until this much
    /// and a little more is used.
    futile: AtomicUsize,
    metrics: Arc<Metrics>,
}

impl Memory {
    pub(super) fn new(budget: usize, metrics: Arc<Metrics>) -> Self {
        Self { budget, used: AtomicUsize::new(0), futile: AtomicUsize::new(0), metrics }
    }

    /// Somebody's share was `before` bytes and is `after` bytes now.
    pub(super) fn replace(&self, before: usize, after: usize) {
        if after >= before {
            self.used.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - after, Ordering::Relaxed);
        }
        self.metrics.retained(self.used());
    }

    /// Somebody's share of so many bytes is gone.
    pub(super) fn release(&self, bytes: usize) {
        self.replace(bytes, 0);
    }

    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether something should go, and there may be something that can.
    pub(super) fn is_exceeded(&self) -> bool {
        let used = self.used();
        used > self.budget && used > self.futile.load(Ordering::Relaxed)
    }

    /// Everything that could go has gone.
    pub(super) fn note_search(&self) {
        let more = if self.is_relieved() { 0 } else { self.used() + self.budget / 100 };
        self.futile.store(more, Ordering::Relaxed);
    }

    /// Below this, eviction rests: a tenth of the budget goes at a time, so that the search for
    /// the oldest events is paid once per many publishes.
    pub(super) fn is_relieved(&self) -> bool {
        self.used() <= self.budget - self.budget / 10
    }
}

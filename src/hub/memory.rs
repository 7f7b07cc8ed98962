//! The hub's one memory budget, and the gauge that shows it.

use std::sync::Arc;

use crate::quota::Budget;
use crate::telemetry::Metrics;

/// Counts the memory of all logs against the budget.
#[derive(Debug)]
pub(super) struct Memory {
    budget: Budget,
    metrics: Arc<Metrics>,
}

impl Memory {
    pub(super) fn new(budget: usize, metrics: Arc<Metrics>) -> Self {
        Self { budget: Budget::new(budget), metrics }
    }

    /// Somebody's share was `before` bytes and is `after` bytes now.
    pub(super) fn replace(&self, before: usize, after: usize) {
        self.budget.replace(before, after);
        self.metrics.retained(self.budget.used());
    }

    /// The budget itself.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }
}

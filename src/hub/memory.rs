//! The hub's memory budget, and its gauge.

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

    /// Replaces a share of `before` bytes by one of `after` bytes.
    pub(super) fn replace(&self, before: usize, after: usize) {
        self.budget.replace(before, after);
        self.metrics.retained(self.budget.used());
    }

    /// Returns the budget.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }
}

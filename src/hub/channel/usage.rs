//! Who uses a channel, and the account that it counts for.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::hub::memory::Memory;
use crate::quota::Account;

/// The holders of a channel, and the account and the memory that it counts for.
#[derive(Debug)]
pub(super) struct Usage {
    /// The account of its publisher or creator, or else of its first subscriber.
    owner: Option<Arc<Account>>,
    /// Number of subscriptions and handles that keep the channel in memory.
    holders: usize,
    last_used: Instant,
    /// The number of bytes last reported to the memory budget.
    footprint: usize,
}

impl Usage {
    pub(super) fn new(owner: Option<Arc<Account>>) -> Self {
        Self { owner, holders: 0, last_used: Instant::now(), footprint: 0 }
    }

    pub(super) fn owner(&self) -> Option<&Arc<Account>> {
        self.owner.as_ref()
    }

    pub(super) fn footprint(&self) -> usize {
        self.footprint
    }

    pub(super) fn is_held(&self) -> bool {
        self.holders > 0
    }

    pub(super) fn hold(&mut self) {
        self.holders += 1;
    }

    pub(super) fn let_go(&mut self) {
        self.holders -= 1;
    }

    pub(super) fn note_use(&mut self) {
        self.last_used = Instant::now();
    }

    /// Returns the time since the last use.
    pub(super) fn idle(&self) -> Duration {
        self.last_used.elapsed()
    }

    /// Counts the channel for another account. Returns whether the account may have it.
    pub(super) fn transfer(&mut self, to: &Arc<Account>) -> bool {
        self.note_use();
        if self.owner.as_ref().is_some_and(|owner| Arc::ptr_eq(owner, to)) {
            return true;
        }
        if !to.take_channel() {
            return false;
        }
        to.retained().replace(0, self.footprint);
        if let Some(before) = self.owner.replace(to.clone()) {
            before.free_channel(self.footprint);
        }
        true
    }

    /// Counts the channel for no account.
    pub(super) fn disown(&mut self) {
        if let Some(owner) = self.owner.take() {
            owner.free_channel(self.footprint);
        }
    }

    /// Reports the memory that the channel holds. Returns whether its owner retains more than its
    /// quota.
    pub(super) fn report(&mut self, memory: &Memory, footprint: usize) -> bool {
        let before = std::mem::replace(&mut self.footprint, footprint);
        memory.replace(before, footprint);
        self.owner.as_ref().is_some_and(|owner| {
            owner.retained().replace(before, footprint);
            owner.retained().is_exceeded()
        })
    }

    /// Frees the channel from its account and from the budget.
    pub(super) fn free(&mut self, memory: &Memory) {
        let footprint = std::mem::take(&mut self.footprint);
        memory.replace(footprint, 0);
        if let Some(owner) = &self.owner {
            owner.free_channel(footprint);
        }
    }
}

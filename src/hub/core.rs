//! The state that the handles of a hub share.

use std::sync::Arc;

use parking_lot::Mutex;

use super::channel::Channel;
use super::cluster::Replica;
use super::context::ChannelContext;
use super::registry::Registry;
use super::sweeper;
use crate::position::{Offset, Position};
use crate::quota::Account;

/// State that the handles share.
pub(crate) struct Core {
    pub(super) registry: Registry,
    pub(super) shared: Arc<ChannelContext>,
    /// The hub's side of the shared log; `None` for a hub that is alone.
    pub(super) replica: Option<Arc<Replica>>,
    /// Held while evicting for a budget: one thread at a time is enough.
    evicting: Mutex<()>,
}

impl Core {
    pub(super) fn new(
        registry: Registry,
        shared: Arc<ChannelContext>,
        replica: Option<Arc<Replica>>,
    ) -> Self {
        Self { registry, shared, replica, evicting: Mutex::new(()) }
    }

    /// Returns the position of an offset in this hub's epoch.
    pub(super) fn position(&self, offset: Offset) -> Position {
        self.shared.sequencer.position(offset)
    }

    /// Applies the memory budget, and the quota of the channel's owner, after an append to it.
    pub(super) fn keep_budgets(&self, channel: &Channel) {
        self.evict_for_memory();
        if let Some(owner) = channel.owner_in_excess() {
            self.evict_for(&owner);
        }
    }

    pub(super) fn evict_for_memory(&self) {
        let budget = self.shared.memory.budget();
        if !budget.is_exceeded() {
            return;
        }
        // Another thread is evicting, and will see what this publish added.
        let Some(_evicting) = self.evicting.try_lock() else {
            return;
        };
        sweeper::evict_oldest(&self.registry, budget, |_| true);
    }

    /// Evicts the oldest of what this account retains, if that is more than its quota.
    fn evict_for(&self, account: &Arc<Account>) {
        let budget = account.retained();
        if !budget.is_exceeded() {
            return;
        }
        let Some(_evicting) = self.evicting.try_lock() else {
            return;
        };
        self.shared.metrics.limit_hit("quotas.max_retained");
        sweeper::evict_oldest(&self.registry, budget, |channel| channel.is_owned_by(account));
    }
}

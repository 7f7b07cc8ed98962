//! Account of a principal: its subscriptions, its channels, and the bytes that these retain.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::budget::Budget;

/// Counts what one principal holds. The default account has no limits.
#[derive(Debug)]
pub struct Account {
    max_channels: AtomicUsize,
    channels: AtomicUsize,
    subscriptions: AtomicUsize,
    retained: Budget,
}

/// A permit for one subscription, released when it is dropped.
#[derive(Debug)]
pub struct SubscriptionPermit(Arc<Account>);

impl Default for Account {
    fn default() -> Self {
        Self::new(0, 0)
    }
}

impl Account {
    /// Creates an account with these limits; zero is no limit.
    #[must_use]
    pub fn new(max_channels: usize, max_retained: usize) -> Self {
        Self {
            max_channels: AtomicUsize::new(any(max_channels)),
            channels: AtomicUsize::new(0),
            subscriptions: AtomicUsize::new(0),
            retained: Budget::new(any(max_retained)),
        }
    }

    /// Changes the limits. Retention evicts the excess later.
    pub(super) fn resize(&self, max_channels: usize, max_retained: usize) {
        self.max_channels.store(any(max_channels), Ordering::Relaxed);
        self.retained.resize(any(max_retained));
    }

    /// Takes a permit for a channel; returns false if there is none left.
    #[must_use]
    pub fn take_channel(&self) -> bool {
        increase(&self.channels, self.max_channels())
    }

    /// Returns the maximum number of channels.
    #[must_use]
    pub fn max_channels(&self) -> usize {
        self.max_channels.load(Ordering::Relaxed)
    }

    /// Releases a channel, with the bytes that it still retained.
    pub fn free_channel(&self, bytes: usize) {
        self.channels.fetch_sub(1, Ordering::Relaxed);
        self.retained.replace(bytes, 0);
    }

    /// Returns the budget of retained bytes.
    #[must_use]
    pub fn retained(&self) -> &Budget {
        &self.retained
    }

    pub(super) fn subscribe(self: &Arc<Self>, most: usize) -> Option<SubscriptionPermit> {
        increase(&self.subscriptions, any(most)).then(|| SubscriptionPermit(self.clone()))
    }

    /// Returns whether the account holds nothing.
    pub(super) fn is_empty(&self) -> bool {
        let none = |count: &AtomicUsize| count.load(Ordering::Relaxed) == 0;
        none(&self.channels) && none(&self.subscriptions)
    }
}

/// Returns the limit, in which zero means none.
fn any(most: usize) -> usize {
    if most == 0 { usize::MAX } else { most }
}

fn increase(count: &AtomicUsize, most: usize) -> bool {
    let more = |count| (count < most).then_some(count + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}

impl Drop for SubscriptionPermit {
    fn drop(&mut self) {
        self.0.subscriptions.fetch_sub(1, Ordering::Relaxed);
    }
}

//! What one principal holds: subscriptions, channels, and what is retained in these.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::budget::Budget;

/// See the module. By default, one that may hold anything.
#[derive(Debug)]
pub struct Account {
    max_channels: AtomicUsize,
    channels: AtomicUsize,
    subscriptions: AtomicUsize,
    retained: Budget,
}

/// A subscription's place. Dropped, it is free again.
#[derive(Debug)]
pub struct SubscriptionPermit(Arc<Account>);

impl Default for Account {
    fn default() -> Self {
        Self::new(0, 0)
    }
}

impl Account {
    /// With room for so many channels and bytes; zero is any number.
    #[must_use]
    pub fn new(max_channels: usize, max_retained: usize) -> Self {
        Self {
            max_channels: AtomicUsize::new(any(max_channels)),
            channels: AtomicUsize::new(0),
            subscriptions: AtomicUsize::new(0),
            retained: Budget::new(any(max_retained)),
        }
    }

    /// Has room for so many channels and bytes from now on. What is too much goes by itself.
    pub(super) fn resize(&self, max_channels: usize, max_retained: usize) {
        self.max_channels.store(any(max_channels), Ordering::Relaxed);
        self.retained.resize(any(max_retained));
    }

    /// Takes a place for a channel; nothing if there is none.
    #[must_use]
    pub fn take_channel(&self) -> bool {
        increase(&self.channels, self.max_channels())
    }

    /// The most channels.
    #[must_use]
    pub fn max_channels(&self) -> usize {
        self.max_channels.load(Ordering::Relaxed)
    }

    /// A channel is gone, with the bytes that it still had.
    pub fn free_channel(&self, bytes: usize) {
        self.channels.fetch_sub(1, Ordering::Relaxed);
        self.retained.replace(bytes, 0);
    }

    /// What its channels retain.
    #[must_use]
    pub fn retained(&self) -> &Budget {
        &self.retained
    }

    pub(super) fn subscribe(self: &Arc<Self>, most: usize) -> Option<SubscriptionPermit> {
        increase(&self.subscriptions, any(most)).then(|| SubscriptionPermit(self.clone()))
    }

    /// Whether it holds nothing.
    pub(super) fn is_empty(&self) -> bool {
        let none = |count: &AtomicUsize| count.load(Ordering::Relaxed) == 0;
        none(&self.channels) && none(&self.subscriptions)
    }
}

/// Zero is any number.
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

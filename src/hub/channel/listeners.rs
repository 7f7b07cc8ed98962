//! The listeners of a channel.

use std::sync::Arc;

use parking_lot::RwLock;
use slab::Slab;

/// A listener that is notified when a channel has something new to read.
pub trait ChannelListener: Send + Sync {
    /// Notifies that the channel has changed. Clear the latch before reading the tail.
    fn channel_changed(&self);

    /// Returns whether the listener takes [`deliver`](Self::deliver) calls.
    fn can_deliver(&self) -> bool {
        false
    }

    /// Delivers new events to its readers, on the publisher's thread and with no lock held. Returns
    /// whether all was delivered; if not, [`channel_changed`](Self::channel_changed) is called.
    fn deliver(&self) -> bool {
        false
    }

    /// Notifies that the channel is about to change: its lock is held, and no offset has been taken
    /// yet. A merged reader must list this channel before the offset counts for the watermark.
    fn channel_changing(&self) {}
}

/// The listeners of a channel, by key.
#[derive(Default)]
pub(super) struct Listeners(RwLock<Slab<Arc<dyn ChannelListener>>>);

impl Listeners {
    /// Adds a listener and returns its key.
    pub(super) fn add(&self, listener: Arc<dyn ChannelListener>) -> usize {
        self.0.write().insert(listener)
    }

    pub(super) fn remove(&self, key: usize) {
        self.0.write().remove(key);
    }

    /// Notifies that the channel is about to change. The channel's lock must be held.
    pub(super) fn notify_changing(&self) {
        for (_, listener) in self.0.read().iter() {
            listener.channel_changing();
        }
    }

    /// Notifies that the channel has changed. No lock may be held.
    pub(super) fn notify_changed(&self) {
        let mut delivering = Vec::new();
        for (_, listener) in self.0.read().iter() {
            if listener.can_deliver() {
                delivering.push(listener.clone());
            } else {
                listener.channel_changed();
            }
        }
        // They read the channel, so the list must be unlocked: a new subscriber holds the channel's
        // lock and waits for the list.
        for listener in delivering.into_iter().filter(|listener| !listener.deliver()) {
            listener.channel_changed();
        }
    }
}

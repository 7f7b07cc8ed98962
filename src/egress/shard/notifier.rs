//! The listener of a shard at a channel: it delivers inline, or puts the channel into the inbox.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::inbox::Inbox;
use crate::clock::{self, Micros};
use crate::hub::ChannelListener;

/// Delivery on the publisher's thread.
pub(super) trait DeliverInline: Send {
    /// Writes new events to the subscribers of a channel. Returns whether no sweep is needed.
    fn deliver_inline(&mut self, channel: usize) -> bool;
}

/// The listener that a shard has at a channel, one for all its subscribers there.
pub(super) struct ChannelNotifier {
    channel: usize,
    shard: Weak<Mutex<dyn DeliverInline>>,
    /// Set by an append, cleared when the shard begins to sweep.
    latch: AtomicBool,
    /// The time at which the latch was set, on the steady clock.
    dirty_since: AtomicU64,
    inbox: Arc<Inbox>,
}

impl ChannelNotifier {
    pub(super) fn new(
        local: usize,
        shard: Weak<Mutex<dyn DeliverInline>>,
        inbox: Arc<Inbox>,
    ) -> Self {
        Self {
            channel: local,
            shard,
            latch: AtomicBool::new(false),
            dirty_since: AtomicU64::new(0),
            inbox,
        }
    }

    /// Clears the latch before the shard reads the channel's tail: a later append sets it again.
    /// Returns the time at which it was set, if it was.
    pub(super) fn clear(&self) -> Option<Micros> {
        let dirty_since = self.dirty_since.load(Ordering::Relaxed);
        self.latch.swap(false, Ordering::SeqCst).then_some(dirty_since)
    }
}

impl ChannelListener for ChannelNotifier {
    fn can_deliver(&self) -> bool {
        true
    }

    /// Delivers inline, unless the shard's lock is taken or there is too much to write.
    fn deliver(&self) -> bool {
        let Some(shard) = self.shard.upgrade() else { return false };
        shard.try_lock().is_some_and(|mut shard| shard.deliver_inline(self.channel))
    }

    fn channel_changed(&self) {
        if !self.latch.swap(true, Ordering::SeqCst) {
            self.dirty_since.store(clock::steady(), Ordering::Relaxed);
            self.inbox.add_dirty(self.channel);
        }
    }
}

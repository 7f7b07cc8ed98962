//! The listener of a shard at a channel: it delivers inline, or puts the channel into the inbox.

use std::sync::atomic::{AtomicU64, Ordering};
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
    /// The time of the first change since the shard began its last sweep, on the steady clock; zero
    /// if there was none.
    dirty_since: AtomicU64,
    inbox: Arc<Inbox>,
}

impl ChannelNotifier {
    pub(super) fn new(
        local: usize,
        shard: Weak<Mutex<dyn DeliverInline>>,
        inbox: Arc<Inbox>,
    ) -> Self {
        Self { channel: local, shard, dirty_since: AtomicU64::new(0), inbox }
    }

    /// Clears the time of the first change, before the shard reads the channel's tail. Returns it,
    /// if there was a change.
    pub(super) fn clear(&self) -> Option<Micros> {
        Some(self.dirty_since.swap(0, Ordering::SeqCst)).filter(|since| *since != 0)
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

    /// A publisher changes the channel under its lock, then loads the time. A sweep clears the
    /// time, then reads the channel under its lock. If that read came before the change, the load
    /// comes after the clearing: it sees zero, or the time of a later change whose publisher has
    /// queued another sweep.
    fn channel_changed(&self) {
        if self.dirty_since.load(Ordering::SeqCst) != 0 {
            return;
        }
        let now = clock::steady().max(1);
        let order = Ordering::SeqCst;
        if self.dirty_since.compare_exchange(0, now, order, order).is_ok() {
            self.inbox.add_dirty(self.channel);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use mio::{Poll, Token};

    use super::super::reactor::Reactor;
    use super::*;

    #[test]
    fn a_sweep_takes_no_time_of_a_change_that_an_earlier_sweep_has_taken() {
        let poll = Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), Token(0)).unwrap();
        let inbox = Arc::new(Inbox::new(waker));
        let shard: Weak<Mutex<Reactor>> = Weak::new();
        let notifier = ChannelNotifier::new(0, shard, inbox.clone());
        let mut taken = 0_u32;
        let mut channels = Vec::new();
        thread::scope(|scope| {
            let swept = Arc::new(());
            let sweeps = Arc::downgrade(&swept);
            let notifier = &notifier;
            scope.spawn(move || {
                while sweeps.strong_count() > 0 {
                    notifier.channel_changed();
                }
            });
            let mut last = 0;
            while taken < 300_000 {
                let before = clock::steady();
                if let Some(since) = notifier.clear() {
                    assert!(since >= last, "{since} is before the last sweep at {last}");
                    (taken, last) = (taken + 1, before);
                    inbox.take_dirty(&mut channels);
                    channels.clear();
                }
            }
            drop(swept);
        });
    }
}

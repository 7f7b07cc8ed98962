//! The inbox of a shard: messages, and the channels whose notifiers have fired.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use mio::Waker;
use parking_lot::Mutex;

use super::reactor::Reactor;
use crate::clock::{self, Micros};
use crate::egress::Drain;
use crate::hub::{ChannelListener, ChannelTicket, Coalesce};
use crate::lease::AccessLease;

/// A subscriber's socket, for a shard to attach.
pub(in crate::egress) struct NewSubscriber {
    pub(in crate::egress) tcp: TcpStream,
    pub(in crate::egress) ticket: ChannelTicket,
    /// The head of the response, written first.
    pub(in crate::egress) head: Vec<u8>,
    /// The merging of deltas that the client asked for.
    pub(in crate::egress) coalesce: Coalesce,
    /// The time without a write after which a heartbeat is sent.
    pub(in crate::egress) heartbeat: Duration,
    /// The access lease of the subscription.
    pub(in crate::egress) lease: AccessLease,
}

/// A message to a shard.
pub(super) enum ShardMessage {
    Attach(Box<NewSubscriber>),
    Drain(Drain),
    Recheck,
    Stop,
}

/// The messages and channels that a shard has not yet taken, and its waker.
pub(super) struct Inbox {
    messages: Mutex<Vec<ShardMessage>>,
    dirty: Mutex<Vec<usize>>,
    /// The shard is awake, or has been woken: another wake-up would be wasted.
    awake: AtomicBool,
    waker: Waker,
}

impl Inbox {
    pub(super) fn new(waker: Waker) -> Self {
        let (messages, dirty) = (Mutex::default(), Mutex::default());
        Self { messages, dirty, awake: AtomicBool::new(true), waker }
    }

    pub(super) fn send(&self, message: ShardMessage) {
        self.messages.lock().push(message);
        self.wake();
    }

    pub(super) fn take_messages(&self) -> Vec<ShardMessage> {
        std::mem::take(&mut self.messages.lock())
    }

    /// Appends the channels whose notifiers have fired, and forgets them.
    pub(super) fn take_dirty(&self, channels: &mut Vec<usize>) {
        channels.append(&mut self.dirty.lock());
    }

    /// Announces that the shard sleeps. Returns false if something has arrived, so that it must
    /// not.
    pub(super) fn may_sleep(&self) -> bool {
        self.awake.store(false, Ordering::SeqCst);
        let empty = self.messages.lock().is_empty() && self.dirty.lock().is_empty();
        if !empty {
            self.awake.store(true, Ordering::SeqCst);
        }
        empty
    }

    pub(super) fn awoke(&self) {
        self.awake.store(true, Ordering::SeqCst);
    }

    fn wake(&self) {
        if !self.awake.swap(true, Ordering::SeqCst) {
            // Fails only if the shard is gone.
            let _ = self.waker.wake();
        }
    }
}

/// The listener that a shard has at a channel, one for all its subscribers there.
pub(super) struct ChannelNotifier {
    channel: usize,
    shard: Weak<Mutex<Reactor>>,
    /// Set by an append, cleared when the shard begins to sweep.
    latch: AtomicBool,
    /// The time at which the latch was set, on the steady clock.
    dirty_since: AtomicU64,
    inbox: Arc<Inbox>,
}

impl ChannelNotifier {
    pub(super) fn new(local: usize, shard: Weak<Mutex<Reactor>>, inbox: Arc<Inbox>) -> Self {
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
            self.inbox.dirty.lock().push(self.channel);
            self.inbox.wake();
        }
    }
}

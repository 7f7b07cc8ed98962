//! How others reach a shard: messages, and notifiers that say which channels have something new.

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

/// A subscriber's socket on its way to a shard.
pub(in crate::egress) struct NewSubscriber {
    pub(in crate::egress) tcp: TcpStream,
    pub(in crate::egress) ticket: ChannelTicket,
    /// The head of the response, which is written first.
    pub(in crate::egress) head: Vec<u8>,
    /// When events are merged.
    pub(in crate::egress) coalesce: Coalesce,
    /// After how long without a write it is sent a heartbeat.
    pub(in crate::egress) heartbeat: Duration,
    /// What the subscription may go on by.
    pub(in crate::egress) lease: AccessLease,
}

/// What a shard is told.
pub(super) enum ShardMessage {
    Attach(Box<NewSubscriber>),
    Drain(Drain),
    Recheck,
    Stop,
}

/// See the module.
pub(super) struct Inbox {
    messages: Mutex<Vec<ShardMessage>>,
    dirty: Mutex<Vec<usize>>,
    /// The shard is awake, or on its way: nobody else needs to wake it.
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

    /// Moves the channels whose notifiers have fired into the list.
    pub(super) fn take_dirty(&self, channels: &mut Vec<usize>) {
        channels.append(&mut self.dirty.lock());
    }

    /// Whether the shard may sleep: nothing has come since it said that it would.
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
            // It fails only if the shard is gone.
            let _ = self.waker.wake();
        }
    }
}

/// Hangs at a channel, and rings for all subscribers that the shard has there.
pub(super) struct ChannelNotifier {
    channel: usize,
    shard: Weak<Mutex<Reactor>>,
    /// It has fired, and the shard has not yet begun to sweep.
    latch: AtomicBool,
    /// When it fired, on the steady clock.
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

    /// The shard is about to read the channel's tail: whatever comes later marks it dirty again.
    /// Says when it fired, if it did.
    pub(super) fn clear(&self) -> Option<Micros> {
        let dirty_since = self.dirty_since.load(Ordering::Relaxed);
        self.latch.swap(false, Ordering::SeqCst).then_some(dirty_since)
    }
}

impl ChannelListener for ChannelNotifier {
    fn can_deliver(&self) -> bool {
        true
    }

    /// If nobody holds the shard, and it is little work.
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

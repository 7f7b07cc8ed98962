//! The inbox of a shard: messages, and the channels whose notifiers have fired.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::Waker;
use parking_lot::Mutex;

use crate::egress::policy::Drain;
use crate::hub::{ChannelTicket, Coalesce};
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
        Self {
            messages: Mutex::default(),
            dirty: Mutex::default(),
            awake: AtomicBool::new(true),
            waker,
        }
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

    pub(super) fn note_awake(&self) {
        self.awake.store(true, Ordering::SeqCst);
    }

    /// Adds a channel that has new events.
    pub(super) fn add_dirty(&self, channel: usize) {
        self.dirty.lock().push(channel);
        self.wake();
    }

    /// Wakes the shard's thread, if it sleeps.
    pub(super) fn wake(&self) {
        if !self.awake.swap(true, Ordering::SeqCst) {
            // Fails only if the shard is gone.
            let _ = self.waker.wake();
        }
    }
}

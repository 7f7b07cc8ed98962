//! How others reach a shard: messages, and bells that say which channels have something new.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use mio::Waker;
use parking_lot::Mutex;

use super::reactor::Reactor;
use crate::clock::{self, Micros};
use crate::egress::Drain;
use crate::hub::{ChannelTicket, Coalesce, Listener};
use crate::pass::Pass;

/// A subscriber's socket on its way to a shard.
pub(in crate::egress) struct Arrival {
    pub(in crate::egress) tcp: TcpStream,
    pub(in crate::egress) ticket: ChannelTicket,
    /// The head of the response, which is written first.
    pub(in crate::egress) head: Vec<u8>,
    /// When events are merged.
    pub(in crate::egress) coalesce: Coalesce,
    /// After how long without a write it is sent a heartbeat.
    pub(in crate::egress) heartbeat: Duration,
    /// What the subscription may go on by.
    pub(in crate::egress) pass: Pass,
}

/// What a shard is told.
pub(super) enum Message {
    Arrival(Box<Arrival>),
    Drain(Drain),
    Recheck,
    Stop,
}

/// See the module.
pub(super) struct Inbox {
    messages: Mutex<Vec<Message>>,
    rung: Mutex<Vec<usize>>,
    /// The shard is awake, or on its way: nobody else needs to wake it.
    awake: AtomicBool,
    waker: Waker,
}

impl Inbox {
    pub(super) fn new(waker: Waker) -> Self {
        let (messages, rung) = (Mutex::default(), Mutex::default());
        Self { messages, rung, awake: AtomicBool::new(true), waker }
    }

    pub(super) fn send(&self, message: Message) {
        self.messages.lock().push(message);
        self.wake();
    }

    pub(super) fn take_messages(&self) -> Vec<Message> {
        std::mem::take(&mut self.messages.lock())
    }

    /// Moves the rooms whose bells have rung into the list.
    pub(super) fn take_rung(&self, rooms: &mut Vec<usize>) {
        rooms.append(&mut self.rung.lock());
    }

    /// Whether the shard may sleep: nothing has come since it said that it would.
    pub(super) fn may_sleep(&self) -> bool {
        self.awake.store(false, Ordering::SeqCst);
        let empty = self.messages.lock().is_empty() && self.rung.lock().is_empty();
        if !empty {
            self.awake.store(true, Ordering::SeqCst);
        }
        empty
    }

    pub(super) fn woke_up(&self) {
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
pub(super) struct Bell {
    room: usize,
    shard: Weak<Mutex<Reactor>>,
    /// It has rung, and the shard has not yet begun to sweep.
    latch: AtomicBool,
    /// When it rang, on the steady clock.
    rung_at: AtomicU64,
    inbox: Arc<Inbox>,
}

impl Bell {
    pub(super) fn new(room: usize, shard: Weak<Mutex<Reactor>>, inbox: Arc<Inbox>) -> Self {
        Self { room, shard, latch: AtomicBool::new(false), rung_at: AtomicU64::new(0), inbox }
    }

    /// The shard is about to read the channel's tail: whatever comes later rings again. Says when
    /// it rang, if it did.
    pub(super) fn clear(&self) -> Option<Micros> {
        let rung_at = self.rung_at.load(Ordering::Relaxed);
        self.latch.swap(false, Ordering::SeqCst).then_some(rung_at)
    }
}

impl Listener for Bell {
    fn can_deliver(&self) -> bool {
        true
    }

    /// If nobody holds the shard, and it is little work.
    fn deliver(&self) -> bool {
        let Some(shard) = self.shard.upgrade() else { return false };
        shard.try_lock().is_some_and(|mut shard| shard.hand_over(self.room))
    }

    fn channel_changed(&self) {
        if !self.latch.swap(true, Ordering::SeqCst) {
            self.rung_at.store(clock::steady(), Ordering::Relaxed);
            self.inbox.rung.lock().push(self.room);
            self.inbox.wake();
        }
    }
}

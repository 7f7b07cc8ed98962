//! The order of a shard's work: writable sockets, channels with new events, pauses between sweeps.

use std::cmp::Reverse;
use std::io::{self, Read};
use std::iter;
use std::thread;
use std::time::Duration;

use mio::event::Event;
use tokio::time::Instant;

use super::local_channel::Sweep;
use super::reactor::Reactor;
use super::sweep::{Moved, SharedRead, SweepProgress, advance};
use crate::clock;
use crate::hub::EndReason;
use crate::limits::MAX_HEARD_BYTES;
use crate::store::Missing;

/// Subscribers of one channel written to per turn, before other channels have theirs.
const TURN: usize = 256;

/// Subscribers written to per round of catching up, before sweeps continue: half a megabyte at
/// most, a fraction of a millisecond.
const CATCHING_UP: usize = 8;

/// Duration of a sweep after which a pause follows, in which events pile up: several then cost one
/// write. Shorter sweeps gain nothing from it.
const LONG_SWEEP: Duration = Duration::from_micros(500);

/// The pause, as a multiple of the sweep before it: short at an event or two per write, so that
/// nothing waits; long where events come faster, which is where many per write pay.
const PAUSE_SHARE: (u32, u32) = (1, 6);

/// Events per write from which the long pause applies.
const FAST: u64 = 4;

/// Unit in which bytes from a client are counted, so that the count fits into a byte.
const HEARD_UNIT: usize = MAX_HEARD_BYTES / u8::MAX as usize;

impl Reactor {
    pub(super) fn on_socket(&mut self, event: &Event) {
        let key = event.token().0;
        if event.is_error() || event.is_write_closed() {
            return self.detach(key, EndReason::ClientGone);
        }
        if (event.is_readable() && self.is_disconnected(key)) || event.is_read_closed() {
            self.release(key);
        }
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        match event.is_writable() && (subscriber.is_blocked() || subscriber.own.is_some()) {
            true if subscriber.lags => self.queue_for_catch_up(key),
            true => self.advance_one(key),
            false => {}
        }
    }

    /// Reads and discards what a subscriber's client sends. Returns whether the client has hung up,
    /// or has sent more than allowed: reading it takes time from all others on the shard.
    fn is_disconnected(&mut self, key: usize) -> bool {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return false };
        for first in iter::once(true).chain(iter::repeat(false)) {
            match subscriber.tcp.read(&mut self.scratch[..]) {
                Ok(0) => return true,
                Ok(count) => {
                    // A few bytes now and then are harmless; a second read means a fast sender.
                    let units = (count / HEARD_UNIT).max(usize::from(!first));
                    let units = u8::try_from(units).ok();
                    match units.and_then(|units| subscriber.heard.checked_add(units)) {
                        Some(heard) => subscriber.heard = heard,
                        None => {
                            self.hub.metrics().limit_hit("heard_bytes");
                            return true;
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
        false
    }

    /// Marks a subscriber whose client has closed its side. A client that still reads gets the rest
    /// of the log; if it has left, the next write fails.
    fn release(&mut self, key: usize) {
        let Some(subscriber) =
            self.subscribers.get_mut(key).filter(|subscriber| !subscriber.leaves)
        else {
            return;
        };
        subscriber.leaves = true;
        if !subscriber.is_blocked() && !subscriber.catching_up {
            self.advance_one(key);
        }
    }

    /// Advances one subscriber, outside of a sweep.
    pub(super) fn advance_one(&mut self, key: usize) {
        let mut shared = None;
        let mut done = SweepProgress::default();
        let now = self.now();
        let moved = self.advance(key, &mut shared, &mut done, now);
        self.settle(key, moved);
        self.count(&done);
    }

    fn advance(
        &mut self,
        key: usize,
        shared: &mut Option<SharedRead>,
        done: &mut SweepProgress,
        now: u32,
    ) -> Moved {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return Moved::CaughtUp };
        let Some(local) = self.channels.get(subscriber.channel as usize) else {
            return Moved::CaughtUp;
        };
        let was_blocked = subscriber.is_blocked();
        let moved = advance(subscriber, local, &self.bounds, shared, done, now);
        if moved == Moved::Blocked && !was_blocked {
            subscriber.await_room(&self.registry, key);
            self.blocked.push(key as u32);
        }
        moved
    }

    /// Acts on the result of an advance.
    fn settle(&mut self, key: usize, moved: Moved) {
        match moved {
            Moved::CaughtUp if self.leaves_now(key) => {
                self.end_subscription(key, EndReason::ClientGone)
            }
            Moved::CaughtUp | Moved::Blocked => {}
            Moved::More => self.queue_for_catch_up(key),
            Moved::Overtaken(Missing { to, reason }) => self.skip_to(key, to, reason),
            Moved::Lagging => self.skip(key),
            Moved::Ended(reason) => self.detach(key, reason),
        }
    }

    /// Returns whether a subscriber's client has closed its side, and was sent all of the log. One
    /// that waits for a read from disk was not: the channel is swept when that is complete.
    fn leaves_now(&self, key: usize) -> bool {
        self.subscribers.get(key).is_some_and(|subscriber| subscriber.leaves)
            && self.is_at_tail(key)
    }

    /// Returns whether there is nothing in the log for a subscriber to read.
    pub(super) fn is_at_tail(&self, key: usize) -> bool {
        let Some(subscriber) = self.subscribers.get(key) else { return true };
        let local = self.channels.get(subscriber.channel as usize);
        local.is_none_or(|local| subscriber.at.byte() >= local.channel.end().byte)
    }

    /// Queues a subscriber that has more to be written than one turn allows.
    pub(super) fn queue_for_catch_up(&mut self, key: usize) {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        if !subscriber.catching_up {
            subscriber.catching_up = true;
            self.catching_up.push_back(key as u32);
        }
    }

    /// Advances some of the subscribers that lag. Sweeps are interleaved, so that live subscribers
    /// do not wait for a crowd that catches up.
    pub(super) fn catch_up(&mut self) {
        let mut shared = None;
        let mut done = SweepProgress::default();
        let now = self.now();
        for _ in 0..CATCHING_UP {
            let Some(key) = self.catching_up.pop_front() else { break };
            let key = key as usize;
            // It may have left, and another may have its key.
            let Some(subscriber) =
                self.subscribers.get_mut(key).filter(|subscriber| subscriber.catching_up)
            else {
                continue;
            };
            subscriber.catching_up = false;
            let moved = self.advance(key, &mut shared, &mut done, now);
            self.settle(key, moved);
        }
        self.count(&done);
        if done.bytes > 0 {
            // Publishers need a processor, too, and the system preempts a busy thread only after
            // some milliseconds.
            thread::yield_now();
        }
    }

    /// Queues a channel with new events for a sweep, after its pause.
    pub(super) fn mark_dirty(&mut self, key: usize) {
        let Some(local) = self.channels.get_mut(key) else { return };
        if let Some(sweep) = &mut local.sweep {
            sweep.dirty = true;
            return;
        }
        match local.rests_until.filter(|until| Instant::now() < *until) {
            Some(until) if !(local.merges() && local.must_flush()) => {
                self.wait_for_rest(key, until)
            }
            _ => self.enqueue(key),
        }
    }

    fn wait_for_rest(&mut self, key: usize, until: Instant) {
        let Some(local) = self.channels.get_mut(key) else { return };
        if !local.waits {
            local.waits = true;
            self.resting.push(Reverse((until, key)));
        }
    }

    /// Queues a channel for a sweep; one that is being swept is swept again.
    fn enqueue(&mut self, key: usize) {
        let Some(local) = self.channels.get_mut(key) else { return };
        match &mut local.sweep {
            Some(sweep) => sweep.again = true,
            None => {
                let start = fastrand::usize(..local.members.len().max(1));
                local.sweep = Some(Sweep { start, ..Sweep::default() });
                self.queue.push_back(key);
            }
        }
    }

    /// Queues the channels whose pause has ended.
    pub(super) fn end_rests(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((until, key))) = self.resting.peek().copied()
            && until <= now
        {
            self.resting.pop();
            if let Some(local) = self.channels.get_mut(key) {
                local.waits = false;
                // It may have been swept meanwhile, and be in another pause.
                self.mark_dirty(key);
            }
        }
    }

    /// Gives the first queued channel a turn.
    pub(super) fn sweep_next(&mut self) {
        let Some(key) = self.queue.pop_front() else { return };
        let Some(local) = self.channels.get_mut(key) else { return };
        let Some(mut sweep) = local.sweep else { return };
        if sweep.visited == 0 {
            // Cleared before the tail is read: a later append marks the channel dirty again.
            sweep.dirty_since = local.notifier.clear();
            sweep.news_from = std::mem::replace(&mut local.swept, local.channel.end().byte);
        }
        let members = local.members.len();
        let turn: Vec<u32> = (sweep.visited..members.min(sweep.visited + TURN))
            .map(|at| local.members[(sweep.start + at) % members])
            .collect();
        sweep.visited += turn.len();
        local.sweep = Some(sweep);
        let began = Instant::now();
        let done = self.visit(&turn, sweep.news_from);
        self.end_turn(key, began.elapsed(), &done);
    }

    /// Writes the events from byte `news_from` on to the subscribers of a turn. Those with older
    /// ones to read are queued to catch up: a piece loaded from disk may wake hundreds of them.
    fn visit(&mut self, turn: &[u32], news_from: u64) -> SweepProgress {
        let mut shared = None;
        let mut done = SweepProgress::default();
        let now = self.now();
        for key in turn {
            let key = *key as usize;
            match self.subscribers.get(key) {
                Some(subscriber) if subscriber.is_blocked() || subscriber.catching_up => {}
                Some(subscriber) if subscriber.at.byte() < news_from => {
                    self.queue_for_catch_up(key)
                }
                Some(_) => {
                    let moved = self.advance(key, &mut shared, &mut done, now);
                    self.settle(key, moved);
                }
                None => {}
            }
        }
        self.count(&done);
        done
    }

    fn end_turn(&mut self, key: usize, took: Duration, done: &SweepProgress) {
        let max_pause = self.config.max_pause;
        let Some(local) = self.channels.get_mut(key) else { return };
        let Some(sweep) = &mut local.sweep else { return };
        sweep.took += took;
        sweep.events += done.events;
        sweep.writes += done.writes;
        if sweep.visited < local.members.len() {
            return self.queue.push_back(key);
        }
        let Sweep { again, dirty, dirty_since, took, events, writes, .. } = *sweep;
        local.sweep = None;
        if let Some(dirty_since) = dirty_since.filter(|_| events > 0) {
            let latency = Duration::from_micros(clock::steady().saturating_sub(dirty_since));
            self.hub.metrics().delivery_took(latency);
        }
        local.rests_until = if local.merges() && events == 0 {
            local.rests_until
        } else if local.merges() {
            Some(Instant::now() + local.window)
        } else {
            let share = if events >= FAST * writes { PAUSE_SHARE.1 } else { PAUSE_SHARE.0 };
            (took >= LONG_SWEEP).then(|| Instant::now() + (took * share).min(max_pause))
        };
        if again {
            self.enqueue(key);
        } else if dirty {
            self.mark_dirty(key);
        }
    }

    pub(super) fn count(&self, done: &SweepProgress) {
        if done.bytes > 0 {
            self.hub.metrics().delivered(done.events, done.bytes);
        }
    }
}

//! Attaching a subscriber to a shard, and the first bytes that it is sent.

use std::sync::Arc;
use std::time::Duration;

use mio::{Interest, Token};
use tokio::time::Instant;

use super::clock::after;
use super::inbox::NewSubscriber;
use super::local_channel::LocalChannel;
use super::notifier::ChannelNotifier;
use super::reactor::Reactor;
use super::subscriber::{Cursor, Interval, Subscriber};
use crate::egress::format::StreamFormat;
use crate::egress::policy;
use crate::hub::{ChannelTicket, Coalesce, Presence, TicketHead};
use crate::lease::AccessLease;
use crate::sse;

/// The longest delay that a shard's 32-bit clock can represent, less a margin: some 24 days.
const FURTHEST: Duration = Duration::from_millis(u32::MAX as u64 / 2 - 60_000);

impl Reactor {
    /// Attaches a subscriber, and queues its first bytes: a crowd that attaches must not keep the
    /// others waiting.
    pub(super) fn attach_queued(&mut self, new: NewSubscriber) {
        if let Some(key) = self.attach(new) {
            self.queue_for_catch_up(key);
        }
    }

    /// Attaches a subscriber on the thread of its request, and writes its first bytes. A replay is
    /// left to the shard's thread.
    pub(super) fn attach_inline(&mut self, new: NewSubscriber) {
        let Some(key) = self.attach(new) else { return };
        if self.is_at_tail(key) {
            self.advance_one(key);
        } else {
            self.queue_for_catch_up(key);
        }
        if !self.catching_up.is_empty() {
            self.inbox.wake();
        }
    }

    /// Registers the socket of a subscriber, and adds it to its channel. Returns its key; nothing
    /// if its subscription has ended at once.
    fn attach(&mut self, new: NewSubscriber) -> Option<usize> {
        let NewSubscriber { tcp, ticket, head, coalesce, heartbeat, lease } = new;
        let ChannelTicket { presence, counted, position: mark, joined, head: opening, .. } = ticket;
        let own = self.first_bytes(&opening, head);
        let mut tcp = mio::net::TcpStream::from_std(tcp);
        let now = self.now();
        let rest = self.rest();
        let entry = self.subscribers.vacant_entry();
        let key = entry.key();
        let registered = self.registry.register(&mut tcp, Token(key), Interest::READABLE);
        if registered.is_err() {
            self.count_detached();
            return None;
        }
        // From here on, `detach` counts its end.
        counted.release();
        let heartbeat = Interval::of(heartbeat, self.config.heartbeat);
        let due = self.wheel.put(key as u32, heartbeat.millis(self.config.heartbeat));
        let mut subscriber = Subscriber {
            tcp,
            at: Cursor::new(mark.byte),
            joined: joined.byte,
            own: None,
            channel: 0,
            index: 0,
            last_write: now,
            blocked: 0,
            ends: ends(rest, &lease, now),
            lease,
            due,
            heartbeat,
            adaptive: coalesce == Coalesce::Adaptive,
            lags: false,
            catching_up: false,
            awaits_room: false,
            heard: 0,
            leaves: false,
        };
        subscriber.queue_bytes(own, false);
        entry.insert(subscriber);
        self.join(key, presence, window(coalesce));
        if let Some(over) = self.over(key) {
            self.end_subscription(key, over.into());
            return None;
        }
        Some(key)
    }

    /// Returns the time that a subscription which begins now has, if that is limited: until its
    /// moment in a drain, or up to the maximum age.
    fn rest(&self) -> Option<Duration> {
        match self.drain {
            Some(drain) => Some(drain.late_moment().saturating_duration_since(Instant::now())),
            None => policy::max_age(&self.config),
        }
    }

    /// Returns the head of the response and the first chunk, which says where the subscription
    /// begins.
    fn first_bytes(&self, opening: &TicketHead, head: Vec<u8>) -> Vec<u8> {
        let mut text = Vec::new();
        let format = StreamFormat::EventStream;
        format.push_opening(&self.config, opening.opening.as_deref(), &opening.start, &mut text);
        if let Some(gap) = &opening.gap {
            self.push_gap(gap, &mut text);
        }
        if let Some((snapshot, position)) = &opening.snapshot {
            format.push_snapshot(snapshot, position, &mut text);
        }
        let mut bytes = head;
        sse::chunk(&mut bytes, &text);
        bytes
    }

    fn join(&mut self, key: usize, presence: Presence, window: Duration) {
        let address = Arc::as_ptr(presence.channel()) as usize;
        let local = match self.by_channel.get(&(address, window)) {
            Some(local) => {
                if let Some(place) = self.channels.get_mut(*local) {
                    place.presence.absorb(presence);
                }
                *local
            }
            None => self.open_channel(presence, window),
        };
        let (Some(subscriber), Some(place)) =
            (self.subscribers.get_mut(key), self.channels.get_mut(local))
        else {
            return;
        };
        (subscriber.channel, subscriber.index) = (local as u32, place.members.len() as u32);
        place.members.push(key as u32);
    }

    fn open_channel(&mut self, presence: Presence, window: Duration) -> usize {
        let channel = presence.channel().clone();
        let address = Arc::as_ptr(&channel) as usize;
        let entry = self.channels.vacant_entry();
        let local = entry.key();
        let notifier = Arc::new(ChannelNotifier::new(local, self.me.clone(), self.inbox.clone()));
        let listener = channel.add_listener(notifier.clone());
        entry.insert(LocalChannel {
            channel,
            presence,
            notifier,
            listener,
            window,
            swept: 0,
            members: Vec::new(),
            sweep: None,
            rests_until: None,
            waits: false,
            delivered_inline: None,
        });
        self.by_channel.insert((address, window), local);
        local
    }
}

/// Returns the time for which events are gathered before a sweep.
fn window(coalesce: Coalesce) -> Duration {
    match coalesce {
        Coalesce::Window(window) => window,
        Coalesce::Off | Coalesce::Adaptive => Duration::ZERO,
    }
}

/// Returns when a subscription with this time left ends: after it or with its lease, whichever
/// comes first, by the shard's clock; zero means never.
pub(super) fn ends(rest: Option<Duration>, lease: &AccessLease, now: u32) -> u32 {
    // The shard's clock is cut off to milliseconds: the lease must be over when it is checked.
    let margin = Duration::from_millis(2);
    let valid = lease.expires().map(|at| at.saturating_duration_since(Instant::now()) + margin);
    // The shard's clock represents nothing later; a client reconnects more often than that.
    let ends = rest.into_iter().chain(valid).min().map(|ends| ends.min(FURTHEST));
    ends.map_or(0, |ends| after(now, ends))
}

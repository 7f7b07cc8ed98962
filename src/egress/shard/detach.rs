//! Detaching a subscriber: it left, it passed a limit, or the hub drains.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::attach::ends;
use super::clock::is_past;
use super::reactor::Reactor;
use super::subscriber::Subscriber;
use crate::egress::StreamFormat;
use crate::egress::policy::Drain;
use crate::hub::EndReason;
use crate::lease::LeaseEnd;
use crate::sse;

impl Reactor {
    pub(super) fn detach(&mut self, key: usize, reason: EndReason) {
        let Some(mut subscriber) = self.subscribers.try_remove(key) else { return };
        let _ = self.registry.deregister(&mut subscriber.tcp);
        self.count_detached();
        let Some(local) = self.channels.get_mut(subscriber.channel as usize) else { return };
        self.hub.metrics().subscription_ended(reason.as_str());
        local.presence.leave();
        local.members.swap_remove(subscriber.index as usize);
        if let Some(moved) = local.members.get(subscriber.index as usize) {
            self.subscribers[*moved as usize].index = subscriber.index;
        }
        // `swap_remove` moves the last member to an index that the sweep may have visited already.
        if let Some(sweep) = &mut local.sweep {
            sweep.again = true;
        }
        if local.members.is_empty() {
            self.close_channel(subscriber.channel as usize);
        }
    }

    /// Counts one socket less, and reports it.
    pub(super) fn count_detached(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
        (self.on_detach)();
    }

    fn close_channel(&mut self, key: usize) {
        let local = self.channels.remove(key);
        local.channel.remove_listener(local.listener);
        self.by_channel.remove(&(Arc::as_ptr(&local.channel) as usize, local.window));
    }

    pub(super) fn begin_drain(&mut self, drain: Drain) {
        let now = self.now();
        self.drain = Some(drain);
        for (_, subscriber) in &mut self.subscribers {
            let rest = drain.moment().saturating_duration_since(Instant::now());
            subscriber.ends = ends(Some(rest), &subscriber.lease, now);
        }
    }

    pub(super) fn end_expired(&mut self, now: u32) {
        let over = |subscriber: &Subscriber| subscriber.ends != 0 && is_past(now, subscriber.ends);
        let keys: Vec<usize> = self
            .subscribers
            .iter()
            .filter(|(_, subscriber)| over(subscriber))
            .map(|(key, _)| key)
            .collect();
        for key in keys {
            let reason = match (self.over(key), self.drain) {
                (Some(over), _) => over.into(),
                (None, Some(_)) => EndReason::Draining,
                (None, None) => EndReason::Lifetime,
            };
            self.end_subscription(key, reason);
        }
    }

    pub(super) fn end_revoked(&mut self) {
        let keys: Vec<usize> = self.subscribers.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(over) = self.over(key) {
                self.end_subscription(key, over.into());
            }
        }
    }

    /// Returns why a subscriber's lease has ended, if it has.
    pub(super) fn over(&self, key: usize) -> Option<LeaseEnd> {
        self.subscribers.get(key)?.lease.end(Instant::now())
    }

    /// Ends a subscription, with the end of the body if the socket takes it at once.
    pub(super) fn end_subscription(&mut self, key: usize, reason: EndReason) {
        let now = self.now();
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        let mut text = Vec::new();
        let mut bytes = Vec::new();
        StreamFormat::EventStream.push_end(&self.config, reason, self.drain.as_ref(), &mut text);
        if !text.is_empty() {
            sse::chunk(&mut bytes, &text);
        }
        bytes.extend_from_slice(sse::LAST_CHUNK);
        subscriber.queue_bytes(bytes, true);
        let _ = subscriber.write_own(now);
        self.detach(key, reason);
    }
}

//! The periodic checks of a shard: heartbeats, slow consumers, and samples of the lag.

use super::clock::{millis, since};
use super::reactor::Reactor;
use super::sweep::lag;
use crate::egress::{StreamFormat, policy};
use crate::event::GapReason;
use crate::hub::{EndReason, Gap, ReadResult};
use crate::sse;
use crate::store::disk::TrimPoint;

impl Reactor {
    /// Moves a subscriber that lags too far to the tail.
    pub(super) fn skip(&mut self, key: usize) {
        let Some(local) =
            self.subscribers.get(key).and_then(|it| self.channels.get(it.channel as usize))
        else {
            return;
        };
        let tail = self.hub.tail_of(&local.channel);
        self.skip_to(key, tail, GapReason::Lagged);
    }

    /// Moves a subscriber forward, after a gap event.
    pub(super) fn skip_to(&mut self, key: usize, to: TrimPoint, reason: GapReason) {
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        let Some(local) = self.channels.get(subscriber.channel as usize) else { return };
        let channel = &local.channel;
        let from = subscriber.at.byte();
        // Only a subscriber whose socket is writable gets to this line.
        subscriber.blocked = 0;
        // If only the end is left, no event is skipped.
        if to.position.byte > from {
            let lagged = reason == GapReason::Lagged;
            let requested = lagged.then(|| self.hub.position_before(channel, from));
            let gap = Gap {
                channel: Some(channel.name().clone()),
                reason,
                requested: requested.map(|position| position.to_string().into()),
                resumed: self.hub.position(to.last_trimmed),
            };
            subscriber.at.advance(to.position.byte);
            self.queue_gap(key, &gap);
        }
        self.advance_one(key);
    }

    /// Queues a gap event together with the event after it: retention may trim more before the
    /// socket takes anything, and a second gap must not follow the first.
    fn queue_gap(&mut self, key: usize, gap: &Gap) {
        let mut text = Vec::new();
        let mut bytes = Vec::new();
        self.push_gap(gap, &mut text);
        sse::chunk(&mut bytes, &text);
        let Some(subscriber) = self.subscribers.get_mut(key) else { return };
        let Some(local) = self.channels.get(subscriber.channel as usize) else { return };
        let next = local.channel.read_at_byte(subscriber.at.byte(), 1, false);
        if let ReadResult::Frames { batch: merged, last: false, .. } = next {
            bytes.extend_from_slice(&merged.events.bytes());
            subscriber.at.advance(merged.end.byte);
            self.hub
                .metrics()
                .delivered(merged.events.count() as u64, merged.events.bytes().len() as u64);
        }
        subscriber.queue_bytes(bytes, false);
    }

    pub(super) fn push_gap(&self, gap: &Gap, text: &mut Vec<u8>) {
        self.hub.metrics().gap(gap.reason.as_str());
        StreamFormat::EventStream.push_gap(gap, text);
    }

    pub(super) fn heartbeat(&mut self, key: usize, tick: u32, now: u32) {
        let Some(subscriber) =
            self.subscribers.get_mut(key).filter(|subscriber| subscriber.due == tick)
        else {
            return;
        };
        let interval = subscriber.heartbeat.millis(self.config.heartbeat);
        let silent = since(now, subscriber.last_write);
        let delay = if silent >= interval { interval } else { interval - silent };
        subscriber.due = self.wheel.put(key as u32, delay);
        if silent < interval || subscriber.is_blocked() {
            return;
        }
        let mut text = Vec::new();
        let mut bytes = Vec::new();
        sse::comment(&mut text);
        sse::chunk(&mut bytes, &text);
        subscriber.queue_bytes(bytes, false);
        self.advance_one(key);
    }

    pub(super) fn check_slow(&mut self, now: u32) {
        for key in std::mem::take(&mut self.blocked) {
            let key = key as usize;
            match self.verdict(key, now) {
                Verdict::Leave => {}
                Verdict::Watch => self.blocked.push(key as u32),
                Verdict::End(reason) => {
                    if let Some(setting) = policy::exceeded_setting(reason) {
                        self.hub.metrics().limit_hit(setting);
                    }
                    if let Some(subscriber) = self.subscribers.get(key) {
                        subscriber.reset();
                    }
                    self.detach(key, reason);
                }
            }
        }
        self.end_expired(now);
    }

    /// Samples the lag of every subscriber. Those at the tail, as most are, take no lock.
    pub(super) fn sample_lag(&self) {
        let metrics = self.hub.metrics();
        let mut at_tail = 0;
        for (_, subscriber) in &self.subscribers {
            let Some(local) = self.channels.get(subscriber.channel as usize) else { continue };
            let byte = subscriber.at.byte().max(subscriber.joined);
            if byte >= local.channel.end().byte {
                at_tail += 1;
            } else {
                metrics.lag_seen(local.channel.lag_at_byte(byte).seq);
            }
        }
        metrics.no_lag_seen(at_tail);
    }

    fn verdict(&self, key: usize, now: u32) -> Verdict {
        let Some(subscriber) =
            self.subscribers.get(key).filter(|subscriber| subscriber.is_blocked())
        else {
            return Verdict::Leave;
        };
        if since(now, subscriber.blocked) >= millis(self.config.write_timeout) {
            return Verdict::End(EndReason::WriteTimeout);
        }
        let Some(local) = self.channels.get(subscriber.channel as usize) else {
            return Verdict::Leave;
        };
        // With `on_lag = skip`, the skip happens when the socket becomes writable.
        let reason = policy::lag_verdict(&self.bounds, lag(subscriber, &local.channel));
        reason.map_or(Verdict::Watch, Verdict::End)
    }
}

/// Action for a blocked subscriber.
enum Verdict {
    /// The subscriber is no longer blocked, or no longer there.
    Leave,
    Watch,
    End(EndReason),
}

//! What a shard looks at from time to time: heartbeats that fall due, and subscribers who are slow.

use super::reactor::{Reactor, millis, since};
use super::sweep::lag_passed;
use crate::event::{GAP, GapReason};
use crate::hub::{EndReason, Gap, OnLag};
use crate::sse;

impl Reactor {
    /// Moves a subscriber whom retention has overtaken to the earliest event, and one that lags too
    /// far to the tail, behind a gap.
    pub(super) fn jump(&mut self, key: usize, reason: GapReason) {
        let Some(sitter) = self.sitters.get_mut(key) else { return };
        let Some(room) = self.rooms.get(sitter.room as usize) else { return };
        let (channel, from) = (&room.channel, sitter.byte);
        let (byte, resumed, requested, reason) = match reason {
            GapReason::Lagged => {
                let (byte, resumed) = self.hub.tail_of(channel);
                (byte, resumed, Some(self.hub.position_before(channel, from)), reason)
            }
            _ => {
                let (byte, resumed, reason) = self.hub.readable_from(channel, from);
                (byte, resumed, None, reason)
            }
        };
        let channel = Some(channel.name().clone());
        let requested = requested.map(|position| position.to_string().into());
        // Its socket can be written to again, or it would not be here.
        sitter.blocked = 0;
        // If all that is left is the end, nothing is passed over.
        if byte > from {
            sitter.byte = byte;
            self.tell_gap(key, &Gap { channel, reason, requested, resumed });
        }
        self.bring_forward(key);
    }

    fn tell_gap(&mut self, key: usize, gap: &Gap) {
        let (mut text, mut bytes) = (Vec::new(), Vec::new());
        self.push_gap(gap, &mut text);
        sse::chunk(&mut bytes, &text);
        if let Some(sitter) = self.sitters.get_mut(key) {
            sitter.say(bytes, false);
        }
    }

    pub(super) fn push_gap(&self, gap: &Gap, text: &mut Vec<u8>) {
        self.hub.metrics().gap(gap.reason.as_str());
        let (id, data) = (gap.resumed.to_string(), gap.data());
        let event = sse::Text { id: Some(&id), event_type: Some(GAP), data: data.as_bytes() };
        sse::event_text(text, &event);
    }

    pub(super) fn heartbeat(&mut self, key: usize, tick: u32, now: u32) {
        let Some(sitter) = self.sitters.get_mut(key).filter(|sitter| sitter.due == tick) else {
            return;
        };
        let interval = sitter.heartbeat.millis(self.config.heartbeat);
        let silent = since(now, sitter.last_write);
        let delay = if silent >= interval { interval } else { interval - silent };
        sitter.due = self.wheel.put(key as u32, delay);
        if silent < interval || sitter.is_blocked() {
            return;
        }
        let (mut text, mut bytes) = (Vec::new(), Vec::new());
        sse::comment(&mut text);
        sse::chunk(&mut bytes, &text);
        sitter.say(bytes, false);
        self.bring_forward(key);
    }

    pub(super) fn patrol(&mut self, now: u32) {
        for key in std::mem::take(&mut self.blocked) {
            let key = key as usize;
            match self.verdict(key, now) {
                Verdict::Leave => {}
                Verdict::Watch => self.blocked.push(key as u32),
                Verdict::End(reason, limit) => {
                    self.hub.metrics().limit_hit(limit);
                    if let Some(sitter) = self.sitters.get(key) {
                        sitter.reset();
                    }
                    self.dismiss(key, reason);
                }
            }
        }
        self.end_those_whose_time_has_come(now);
    }

    /// Samples the lag of every subscriber. Those at the tail, as most are, take no lock.
    pub(super) fn sample_lag(&self) {
        let metrics = self.hub.metrics();
        let mut at_tail = 0;
        for (_, sitter) in &self.sitters {
            let Some(room) = self.rooms.get(sitter.room as usize) else { continue };
            let byte = sitter.byte.max(sitter.joined);
            if byte >= room.channel.end().byte {
                at_tail += 1;
            } else {
                metrics.lag_seen(room.channel.behind_byte(byte).seq);
            }
        }
        metrics.no_lag_seen(at_tail);
    }

    fn verdict(&self, key: usize, now: u32) -> Verdict {
        let Some(sitter) = self.sitters.get(key).filter(|sitter| sitter.is_blocked()) else {
            return Verdict::Leave;
        };
        if since(now, sitter.blocked) >= millis(self.config.write_timeout) {
            return Verdict::End(EndReason::WriteTimeout, "subscribers.write_timeout");
        }
        let Some(room) = self.rooms.get(sitter.room as usize) else { return Verdict::Leave };
        // Who may skip does so when its socket can be written to again.
        match (lag_passed(sitter, &room.channel, &self.bounds), self.bounds.on_lag) {
            (None, _) | (Some(_), OnLag::Skip) => Verdict::Watch,
            (Some(EndReason::LaggedBytes), OnLag::Disconnect) => {
                Verdict::End(EndReason::LaggedBytes, "subscribers.max_lag_bytes")
            }
            (Some(reason), OnLag::Disconnect) => Verdict::End(reason, "subscribers.max_lag_events"),
        }
    }
}

/// What is to become of a subscriber whose socket takes nothing.
enum Verdict {
    /// It is not blocked any more.
    Leave,
    Watch,
    End(EndReason, &'static str),
}

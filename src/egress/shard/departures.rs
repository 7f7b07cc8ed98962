//! How a subscriber leaves a shard: by itself, at the end of its time, or because the hub drains.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::reactor::{Reactor, after, has_come};
use super::seat::Sitter;
use crate::egress::Format;
use crate::egress::policy::Drain;
use crate::hub::EndReason;
use crate::pass::Over;
use crate::sse;

impl Reactor {
    pub(super) fn dismiss(&mut self, key: usize, reason: EndReason) {
        let Some(mut sitter) = self.sitters.try_remove(key) else { return };
        let _ = self.registry.deregister(&mut sitter.tcp);
        self.depart();
        let Some(room) = self.rooms.get_mut(sitter.room as usize) else { return };
        self.hub.metrics().subscription_ended(reason.as_str());
        room.presence.leave();
        room.members.swap_remove(sitter.index as usize);
        if let Some(moved) = room.members.get(sitter.index as usize) {
            self.sitters[*moved as usize].index = sitter.index;
        }
        // Whoever stood last may have missed this sweep by taking the place of the one who left.
        if let Some(sweep) = &mut room.sweep {
            sweep.again = true;
        }
        if room.members.is_empty() {
            self.close_room(sitter.room as usize);
        }
    }

    /// One socket less.
    pub(super) fn depart(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
        (self.departed)();
    }

    fn close_room(&mut self, key: usize) {
        let room = self.rooms.remove(key);
        room.channel.remove_listener(room.listener);
        self.by_channel.remove(&(Arc::as_ptr(&room.channel) as usize, room.window));
    }

    pub(super) fn begin_drain(&mut self, drain: Drain) {
        let now = self.now();
        self.drain = Some(drain);
        for (_, sitter) in &mut self.sitters {
            sitter.ends = by_clock(now, drain.moment());
        }
    }

    pub(super) fn end_those_whose_time_has_come(&mut self, now: u32) {
        let over = |sitter: &Sitter| sitter.ends != 0 && has_come(now, sitter.ends);
        let keys: Vec<usize> =
            self.sitters.iter().filter(|(_, sitter)| over(sitter)).map(|(key, _)| key).collect();
        for key in keys {
            let reason = match self.over(key) {
                _ if self.drain.is_some() => EndReason::Draining,
                Some(over) => over.into(),
                None => EndReason::Lifetime,
            };
            self.say_goodbye(key, reason);
        }
    }

    pub(super) fn end_the_revoked(&mut self) {
        let keys: Vec<usize> = self.sitters.iter().map(|(key, _)| key).collect();
        for key in keys {
            if let Some(over) = self.over(key) {
                self.say_goodbye(key, over.into());
            }
        }
    }

    /// Why a subscriber may no longer stay, if that is so.
    pub(super) fn over(&self, key: usize) -> Option<Over> {
        self.sitters.get(key)?.pass.over(Instant::now())
    }

    /// Sends a subscriber away, with a proper end if its socket takes it.
    pub(super) fn say_goodbye(&mut self, key: usize, reason: EndReason) {
        let now = self.now();
        let Some(sitter) = self.sitters.get_mut(key) else { return };
        let (mut text, mut bytes) = (Vec::new(), Vec::new());
        Format::EventStream.push_farewell(&self.config, reason, self.drain.as_ref(), &mut text);
        if !text.is_empty() {
            sse::chunk(&mut bytes, &text);
        }
        bytes.extend_from_slice(sse::LAST_CHUNK);
        sitter.say(bytes, true);
        let _ = sitter.write_own(now);
        self.dismiss(key, reason);
    }
}

/// A moment by the shard's clock.
pub(super) fn by_clock(now: u32, moment: Instant) -> u32 {
    after(now, moment.saturating_duration_since(Instant::now()))
}

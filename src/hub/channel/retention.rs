//! Retention, eviction, accounting and removal of a channel.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Channel, ChannelInner};
use crate::clock::Moment;
use crate::hub::commit::CommitAck;
use crate::hub::error::DeleteError;
use crate::position::Offset;
use crate::quota::Account;

impl Channel {
    /// Evicts events that are older than the retention.
    pub(in crate::hub) fn expire(&self) {
        let mut inner = self.inner.lock();
        let now = self.shared.clock.now();
        if let Some(trimmed) = inner.trim_stored(now) {
            return self.note_trimmed(&mut inner, trimmed);
        }
        let oldest = now.steady_before(inner.settings.retention.max_age);
        let keep = inner.kept_at_end();
        if inner.log.earliest().is_some_and(|entry| entry.time.steady <= oldest) {
            inner.catch_up();
        }
        let evicted = inner.log.trim_older(oldest, keep);
        self.count_evicted("age", evicted);
        self.account(&mut inner);
    }

    /// Evicts the oldest segment, and with the last one the fold. Returns whether memory was freed.
    pub(in crate::hub) fn evict_oldest(&self) -> bool {
        let mut inner = self.inner.lock();
        let keep = inner.kept_at_end();
        let before = inner.usage.footprint();
        inner.catch_up();
        let evicted = inner.log.evict_oldest(keep);
        self.count_evicted("memory", evicted);
        let ChannelInner { generation, log, .. } = &mut *inner;
        if let Some(generation) = generation {
            generation.shrink(log, keep);
        }
        self.account(&mut inner);
        inner.usage.footprint() < before
    }

    /// Returns the offset of the earliest event that can be evicted, or of the last one if only the
    /// fold is left to evict.
    pub(in crate::hub) fn earliest_evictable(&self) -> Option<Offset> {
        let inner = self.inner.lock();
        let in_memory = inner.log.resident_from();
        if in_memory.distance_to(inner.log.end()).seq > inner.kept_at_end() {
            return inner.log.peek(in_memory.seq).map(|entry| entry.offset);
        }
        let folded = inner.generation.as_ref().is_some_and(|generation| generation.is_heavy());
        folded.then(|| inner.log.tail())
    }

    /// Retires the channel if it is unused; without a first use, after this time of idleness.
    /// Returns the offset of its last event if it did; the caller must remove it from the registry
    /// in the same step, and then notify its readers. After a crash before the store has the
    /// deletion, the next hub finds the channel unused, too.
    pub(in crate::hub) fn retire_if_unused(&self, least_idle: Duration) -> Option<Offset> {
        let mut inner = self.inner.lock();
        if inner.retired || !inner.is_unused(self.shared.clock.now(), least_idle) {
            return None;
        }
        let evicted = inner.log.start().distance_to(inner.log.end()).seq;
        self.count_evicted("idle", evicted);
        drop(self.retire(&mut inner));
        Some(inner.log.tail())
    }

    /// Ends the channel as deleted and retires it. Returns the offset of its end, and the
    /// acknowledgement of the deletion; `None` if there was nothing to delete. The caller must
    /// remove the channel from the registry in the same step, and then notify its readers.
    pub(in crate::hub) fn delete(&self) -> Option<(Offset, CommitAck<(), DeleteError>)> {
        let mut inner = self.inner.lock();
        if inner.retired || !inner.known {
            return None;
        }
        let ack = self.retire(&mut inner);
        self.commit_deletion(&mut inner);
        Some((inner.log.tail(), ack))
    }

    /// Notifies readers and producers that the channel is retired: those that selected it by a
    /// pattern drop it. No lock may be held, that of the registry included.
    pub(in crate::hub) fn notify_retired(&self) {
        self.listeners.notify_changed();
        self.post_signals();
    }

    /// Returns the owner, if it retains more than its quota and was not returned for that before.
    pub(in crate::hub) fn owner_in_excess(&self) -> Option<Arc<Account>> {
        // The flag first: most owners are within their quota, and need no lock.
        let is_new =
            self.in_excess.load(Ordering::Relaxed) && self.in_excess.swap(false, Ordering::Relaxed);
        if is_new { self.inner.lock().usage.owner().cloned() } else { None }
    }

    pub(in crate::hub) fn is_owned_by(&self, account: &Arc<Account>) -> bool {
        self.inner.lock().usage.owner().is_some_and(|owner| Arc::ptr_eq(owner, account))
    }

    /// Moves the channel to the account of its first publisher, if it was only subscribed to
    /// before. Returns whether it belongs to an account that may have it; `None` if it has left
    /// memory.
    pub(in crate::hub) fn transfer(&self, to: &Arc<Account>) -> Option<bool> {
        let mut inner = self.inner.lock();
        (!inner.retired).then(|| inner.known || inner.usage.transfer(to))
    }

    pub(super) fn retire(&self, inner: &mut ChannelInner) -> CommitAck<(), DeleteError> {
        inner.retired = true;
        // Readers may still finish the log; the budget no longer counts it.
        inner.usage.free(&self.shared.memory);
        self.shared.metrics.channel_removed();
        inner.backend.delete(&self.name, &self.shared.pending_deletes)
    }

    pub(super) fn apply_retention(&self, inner: &mut ChannelInner) {
        inner.follow_generation();
        if let Some(trimmed) = inner.trim_grown(|| self.shared.clock.now()) {
            return self.note_trimmed(inner, trimmed);
        }
        let keep = inner.kept_at_end();
        let retention = inner.settings.retention;
        let by_events = inner.log.trim_events(retention.max_events, keep);
        // The newest event is kept, however large: live subscribers must get it.
        let by_bytes = inner.log.trim_bytes(retention.max_bytes, keep.max(1));
        self.count_evicted("events", by_events);
        self.count_evicted("bytes", by_bytes);
        self.account(inner);
    }

    fn note_trimmed(&self, inner: &mut ChannelInner, trimmed: u64) {
        self.count_evicted("store", trimmed);
        self.account(inner);
    }

    pub(super) fn account(&self, inner: &mut ChannelInner) {
        if inner.retired {
            return;
        }
        let generation = inner.generation.as_ref().map_or(0, |generation| generation.weight());
        let channel = size_of::<Self>() + self.name.as_str().len();
        let footprint = inner.log.footprint() + generation + channel;
        if inner.usage.report(&self.shared.memory, footprint) {
            self.in_excess.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn count_evicted(&self, reason: &str, events: u64) {
        if events > 0 {
            self.shared.metrics.evicted(reason, events);
        }
    }
}

impl ChannelInner {
    /// Returns the number of events at the end that are never evicted: late viewers must get the
    /// end.
    pub(super) fn kept_at_end(&self) -> u64 {
        u64::from(self.life.has_ended())
    }

    fn is_unused(&self, now: Moment, least_idle: Duration) -> bool {
        if self.usage.is_held() || !self.pending.is_empty() {
            return false;
        }
        if !self.known {
            return self.usage.idle() >= least_idle;
        }
        // In a cluster, the shared log decides when a channel is removed.
        if self.replicated.is_some() {
            return false;
        }
        if self.life.has_ended() {
            // A closed channel stays closed until the retention of its end has passed.
            let alone = self.log.end().seq == 1;
            let kept = self.life.kept_after_end(&self.settings, alone);
            return now.since(self.life.ended_at()) >= kept;
        }
        // Stored events are kept until their retention has passed, whether they are used or not.
        let keeps = self.log.is_stored() && self.log.start() != self.log.end();
        !keeps && self.usage.idle() >= self.settings.idle_timeout
    }
}

//! Checks all streams at a fixed interval, so that none of them needs a timer: for heartbeats,
//! limits, lifetimes and a drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use slab::Slab;
use tokio::time::{Instant, MissedTickBehavior};

use super::config::{Config, LAG_SAMPLED_EVERY};
use super::link::{BodyData, Link};
use super::policy::{self, Drain};
use crate::hub::{Bounds, EndReason, SubscriptionControl};
use crate::lease::AccessLease;
use crate::limits::MAX_PIECE_BYTES;
use crate::quota::Budget;
use crate::telemetry::Metrics;

/// Time without progress after which a client counts as not reading, while the budget of unwritten
/// bytes is exceeded: far more than a round trip.
const STUCK: Duration = Duration::from_secs(1);

/// Time that an ended subscription has for its last write before its connection is cut.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Checks the streams that are served as bodies, and their connections.
pub(super) struct Reaper {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    began: Instant,
    watched: Mutex<Slab<Arc<WatchedStream>>>,
    links: Mutex<Slab<Arc<Link>>>,
    drain: Mutex<Option<Drain>>,
    /// Bytes that bodies have handed over and clients have not taken.
    unwritten: Arc<Budget>,
}

/// One subscription as the reaper sees it.
pub(super) struct WatchedStream {
    control: Arc<SubscriptionControl>,
    bounds: Bounds,
    heartbeat: Duration,
    link: Option<Arc<Link>>,
    lease: AccessLease,
    /// In milliseconds after the reaper's start.
    last_write: AtomicU64,
    heartbeat_due: AtomicBool,
    progress: Mutex<StreamProgress>,
}

/// Progress of a subscription between two checks.
#[derive(Default)]
struct StreamProgress {
    reads: u64,
    /// The time since which it has unread events and has read none.
    stalled: Option<Instant>,
    written: usize,
    /// The time since which its client has taken nothing of the unwritten bytes.
    stuck: Option<Instant>,
    /// The time and the reason of its planned end.
    ends: Option<(Instant, EndReason)>,
    /// The time at which a check found that it had ended.
    ended: Option<Instant>,
}

/// Registers a subscription with the reaper for as long as the guard lives.
pub(super) struct WatchGuard {
    reaper: Arc<Reaper>,
    watched: Arc<WatchedStream>,
    key: usize,
}

impl Reaper {
    pub(super) fn new(config: Arc<Config>, metrics: Arc<Metrics>, unwritten: Arc<Budget>) -> Self {
        Self {
            config,
            metrics,
            began: Instant::now(),
            watched: Mutex::default(),
            links: Mutex::default(),
            drain: Mutex::default(),
            unwritten,
        }
    }

    pub(super) fn watch(
        self: &Arc<Self>,
        control: &Arc<SubscriptionControl>,
        bounds: Bounds,
        heartbeat: Duration,
        link: Option<Arc<Link>>,
        lease: AccessLease,
    ) -> WatchGuard {
        let progress = StreamProgress { ends: self.lifetime(), ..StreamProgress::default() };
        let watched = Arc::new(WatchedStream {
            control: control.clone(),
            bounds,
            heartbeat,
            link,
            lease,
            last_write: AtomicU64::new(self.millis()),
            heartbeat_due: AtomicBool::new(false),
            progress: Mutex::new(progress),
        });
        let key = self.watched.lock().insert(watched.clone());
        if let Some(drain) = self.draining() {
            watched.progress.lock().ends = Some((drain.late_moment(), EndReason::Draining));
        }
        WatchGuard { reaper: self.clone(), watched, key }
    }

    pub(super) fn watch_link(self: &Arc<Self>, link: &Arc<Link>) -> LinkWatch {
        let key = self.links.lock().insert(link.clone());
        LinkWatch { reaper: self.clone(), key }
    }

    pub(super) fn active(&self) -> usize {
        self.watched.lock().len()
    }

    pub(super) fn drain(&self, drain: Drain) {
        *self.drain.lock() = Some(drain);
        for watched in self.all() {
            watched.progress.lock().ends = Some((drain.moment(), EndReason::Draining));
        }
    }

    /// Returns the drain, if there is one.
    pub(super) fn draining(&self) -> Option<Drain> {
        *self.drain.lock()
    }

    pub(super) async fn run(&self) {
        let mut tick = tokio::time::interval(self.interval());
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sampled = Instant::now();
        loop {
            tick.tick().await;
            let now = Instant::now();
            let sample = now.duration_since(sampled) >= LAG_SAMPLED_EVERY;
            if sample {
                sampled = now;
            }
            for watched in self.all() {
                self.check(&watched, now, sample);
            }
            self.cut_stuck_links();
            self.keep_budget(now);
        }
    }

    /// While the budget of unwritten bytes is exceeded, ends the subscriptions whose clients have
    /// taken nothing for the longest time.
    fn keep_budget(&self, now: Instant) {
        self.metrics.unwritten(self.unwritten.used());
        if !self.unwritten.is_exceeded() {
            return;
        }
        let stuck = |watched: Arc<WatchedStream>| {
            let since = watched.progress.lock().stuck;
            since.filter(|since| now.duration_since(*since) >= STUCK).map(|since| (since, watched))
        };
        let mut stuck: Vec<_> = self.all().into_iter().filter_map(stuck).collect();
        stuck.sort_unstable_by_key(|(since, _)| *since);
        let mut excess = self.unwritten.excess();
        for (_, watched) in stuck {
            let Some(link) = watched.link.as_ref().filter(|_| excess > 0) else { break };
            self.metrics.limit_hit("subscribers.max_unwritten");
            excess = excess.saturating_sub(link.unwritten());
            watched.control.end(EndReason::WriteTimeout);
            link.cut_off();
        }
    }

    /// Cuts stuck connections. A subscription on one has been ended before, and counted.
    fn cut_stuck_links(&self) {
        let deadline = self.config.write_timeout + END_TIMEOUT;
        for (_, link) in self.links.lock().iter() {
            if link.cut_if_stuck(deadline) && link.note_timeout() {
                self.metrics.limit_hit("subscribers.write_timeout");
            }
        }
    }

    /// The shorter of `heartbeat` and `write_timeout`, divided by 8 and clamped to 10-250 ms.
    fn interval(&self) -> Duration {
        let shortest = self.config.heartbeat.min(self.config.write_timeout);
        (shortest / 8).clamp(Duration::from_millis(10), Duration::from_millis(250))
    }

    fn check(&self, watched: &WatchedStream, now: Instant, sample: bool) {
        if watched.control.ended().is_some() {
            return self.cut_after_end(watched, now);
        }
        if let Some(reason) = self.end_reason(watched, now) {
            if let Some(setting) = policy::exceeded_setting(reason) {
                self.metrics.limit_hit(setting);
            }
            if let (EndReason::WriteTimeout, Some(link)) = (reason, &watched.link) {
                let _ = link.note_timeout();
            }
            return watched.control.end(reason);
        }
        if sample {
            self.metrics.lag_seen(watched.control.lag().seq);
        }
        let silent = self.millis().saturating_sub(watched.last_write.load(Ordering::Relaxed));
        if Duration::from_millis(silent) >= watched.heartbeat
            && !watched.heartbeat_due.swap(true, Ordering::Relaxed)
        {
            watched.control.wake();
        }
    }

    /// Returns why the subscription must end, if it must.
    fn end_reason(&self, watched: &WatchedStream, now: Instant) -> Option<EndReason> {
        if let Some(over) = watched.lease.end(now) {
            return Some(over.into());
        }
        let mut progress = watched.progress.lock();
        if let Some((at, reason)) = progress.ends
            && now >= at
        {
            return Some(reason);
        }
        if let Some(reason) = policy::lag_verdict(&watched.bounds, watched.control.lag()) {
            return Some(reason);
        }
        let stalled = progress.stalled_for(&watched.control, now);
        let link = watched.link.as_ref();
        let blocked = link.map_or(Duration::ZERO, |link| link.blocked_for());
        let stuck = link.map_or(Duration::ZERO, |link| progress.stuck_for(link, now));
        let blocked = stalled.max(blocked).max(stuck);
        (blocked >= self.config.write_timeout).then_some(EndReason::WriteTimeout)
    }

    /// Cuts the connection of an ended subscription whose client does not take its last bytes.
    fn cut_after_end(&self, watched: &WatchedStream, now: Instant) {
        let ended = *watched.progress.lock().ended.get_or_insert(now);
        if let Some(link) = &watched.link
            && now.duration_since(ended) >= END_TIMEOUT.min(self.config.write_timeout)
        {
            link.cut_off();
        }
    }

    fn lifetime(&self) -> Option<(Instant, EndReason)> {
        policy::max_age(&self.config).map(|age| (Instant::now() + age, EndReason::Lifetime))
    }

    /// Returns a copy of the list, so that its lock is not held for a whole round.
    fn all(&self) -> Vec<Arc<WatchedStream>> {
        self.watched.lock().iter().map(|(_, watched)| watched.clone()).collect()
    }

    fn millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl StreamProgress {
    /// Returns the time for which events have been unread and none was read. New events do not
    /// restart it.
    fn stalled_for(&mut self, control: &SubscriptionControl, now: Instant) -> Duration {
        let reads = control.reads();
        if reads != self.reads || control.unread() == 0 {
            self.reads = reads;
            self.stalled = None;
            return Duration::ZERO;
        }
        now.duration_since(*self.stalled.get_or_insert(now))
    }

    /// Returns the time for which the client has taken nothing of the unwritten bytes.
    fn stuck_for(&mut self, link: &Link, now: Instant) -> Duration {
        let written = link.written();
        if written != self.written || link.unwritten() == 0 {
            self.written = written;
            self.stuck = None;
            return Duration::ZERO;
        }
        now.duration_since(*self.stuck.get_or_insert(now))
    }
}

impl WatchGuard {
    /// Returns whether the connection has a blocked write.
    pub(super) fn is_blocked(&self) -> bool {
        self.watched.link.as_ref().is_some_and(|link| link.is_blocked())
    }

    /// Returns whether the client's input has ended.
    pub(super) fn has_input_ended(&self) -> bool {
        self.watched.link.as_ref().is_some_and(|link| link.has_input_ended())
    }

    /// Returns the number of bytes that may be handed over; wakes when it is not zero.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<usize> {
        let link = self.watched.link.as_ref();
        link.map_or(Poll::Ready(MAX_PIECE_BYTES), |link| link.poll_room(cx))
    }

    /// Hands bytes to the connection.
    pub(super) fn pass_on(&self, bytes: Bytes) -> BodyData {
        self.wrote();
        match &self.watched.link {
            Some(link) => link.pass_on(bytes),
            None => bytes.into(),
        }
    }

    fn wrote(&self) {
        self.watched.heartbeat_due.store(false, Ordering::Relaxed);
        self.watched.last_write.store(self.reaper.millis(), Ordering::Relaxed);
    }

    pub(super) fn heartbeat_due(&self) -> bool {
        self.watched.heartbeat_due.load(Ordering::Relaxed)
    }

    /// Returns the drain, if there is one.
    pub(super) fn draining(&self) -> Option<Drain> {
        self.reaper.draining()
    }
}

/// Registers a connection with the reaper for as long as the guard lives.
pub struct LinkWatch {
    reaper: Arc<Reaper>,
    key: usize,
}

impl Drop for LinkWatch {
    fn drop(&mut self) {
        self.reaper.links.lock().remove(self.key);
    }
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.reaper.watched.lock().remove(self.key);
    }
}

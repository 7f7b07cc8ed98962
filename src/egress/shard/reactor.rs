//! A shard's state, and the loop of its thread.
//!
//! The thread holds the shard's lock except while it polls. No other thread waits for that lock: a
//! publisher that finds it free may deliver inline (see `inline_delivery`), a request may attach
//! its subscriber (see `attach`); otherwise they leave the work to the thread.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};
use std::time::Duration;

use mio::{Events, Poll, Registry, Token, Waker};
use parking_lot::Mutex;
use slab::Slab;
use tokio::time::Instant;

use super::clock::millis;
use super::inbox::{Inbox, ShardMessage};
use super::local_channel::LocalChannel;
use super::subscriber::Subscriber;
use super::wheel::Wheel;
use crate::egress::config::{Config, LAG_SAMPLED_EVERY};
use crate::egress::policy::Drain;
use crate::hub::{Bounds, EndReason, Hub};

/// The token of the inbox; those of sockets are slab keys.
const INBOX: Token = Token(usize::MAX);

/// Socket events taken per poll.
const EVENTS: usize = 1024;

/// The longest interval between two checks for slow consumers.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Called when a shard has closed a socket.
pub(super) type OnDetach = Arc<dyn Fn() + Send + Sync>;

/// The state of a shard, shared by its thread and by the threads that deliver and attach inline.
pub(super) struct Reactor {
    /// For the notifiers, through which publishers deliver inline.
    pub(super) me: Weak<Mutex<Reactor>>,
    pub(super) hub: Hub,
    pub(super) config: Arc<Config>,
    pub(super) bounds: Bounds,
    pub(super) active: Arc<AtomicUsize>,
    pub(super) on_detach: OnDetach,
    pub(super) registry: Registry,
    pub(super) inbox: Arc<Inbox>,
    pub(super) subscribers: Slab<Subscriber>,
    pub(super) channels: Slab<LocalChannel>,
    /// Local channels by the address of their channel, which they keep alive, and their window.
    pub(super) by_channel: HashMap<(usize, Duration), usize>,
    /// Local channels that wait for a sweep, in turn.
    pub(super) queue: VecDeque<usize>,
    /// Subscribers who have more to catch up with than one turn allows.
    pub(super) catching_up: VecDeque<u32>,
    /// Local channels with something to sweep when their pause ends.
    pub(super) resting: BinaryHeap<Reverse<(Instant, usize)>>,
    pub(super) wheel: Wheel,
    /// Subscribers whose last write blocked.
    pub(super) blocked: Vec<u32>,
    pub(super) scratch: Box<[u8; SCRATCH]>,
    pub(super) began: Instant,
    /// The time of the next check for slow consumers, in milliseconds.
    pub(super) check_at: u64,
    /// The time of the next lag sample, in milliseconds.
    pub(super) sample_at: u64,
    pub(super) drain: Option<Drain>,
    pub(super) stopping: bool,
}

/// Size of the buffer into which a subscriber's input is read, to be discarded.
const SCRATCH: usize = 16 * 1024;

/// The thread of a shard: its poll, its inbox and its state.
pub(super) struct Thread {
    poll: Poll,
    pub(super) inbox: Arc<Inbox>,
    pub(super) reactor: Arc<Mutex<Reactor>>,
}

impl Thread {
    pub(super) fn new(
        hub: Hub,
        config: Arc<Config>,
        active: Arc<AtomicUsize>,
        on_detach: OnDetach,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let inbox = Arc::new(Inbox::new(Waker::new(poll.registry(), INBOX)?));
        let reactor = Arc::new_cyclic(|me| {
            Mutex::new(Reactor {
                me: me.clone(),
                hub,
                bounds: config.bounds(),
                wheel: Wheel::new(millis(config.heartbeat)),
                config,
                active,
                on_detach,
                registry,
                inbox: inbox.clone(),
                subscribers: Slab::new(),
                channels: Slab::new(),
                by_channel: HashMap::new(),
                queue: VecDeque::new(),
                catching_up: VecDeque::new(),
                resting: BinaryHeap::new(),
                blocked: Vec::new(),
                scratch: Box::new([0; SCRATCH]),
                began: Instant::now(),
                check_at: 0,
                sample_at: millis(LAG_SAMPLED_EVERY),
                drain: None,
                stopping: false,
            })
        });
        Ok(Self { poll, inbox, reactor })
    }

    /// Runs until it receives [`ShardMessage::Stop`].
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        let mut timeout = Duration::ZERO;
        while let Ok(()) = self.wait(&mut events, timeout) {
            match self.reactor.lock().handle_events(&events) {
                Some(next) => timeout = next,
                None => break,
            }
        }
        self.reactor.lock().detach_all();
    }

    fn wait(&mut self, events: &mut Events, timeout: Duration) -> io::Result<()> {
        let waited = self.poll.poll(events, Some(timeout));
        self.inbox.note_awake();
        match waited {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                tracing::error!(%error, "a shard cannot wait for its sockets");
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

impl Reactor {
    /// Does one round of work. Returns the time to wait for more; nothing if the shard stops.
    fn handle_events(&mut self, events: &Events) -> Option<Duration> {
        self.read_inbox();
        for event in events.iter().filter(|event| event.token() != INBOX) {
            self.on_socket(event);
        }
        self.end_rests();
        self.sweep_next();
        self.catch_up();
        self.run_timers();
        (!self.stopping).then(|| self.timeout())
    }

    /// Returns how long the thread may wait: not at all while there is work.
    fn timeout(&self) -> Duration {
        let busy = !self.queue.is_empty() || !self.catching_up.is_empty();
        if busy || !self.inbox.may_sleep() {
            return Duration::ZERO;
        }
        let tick = Duration::from_millis(self.wheel.tick()).min(CHECK_INTERVAL);
        let rest = |until: &Instant| until.saturating_duration_since(Instant::now());
        self.resting.peek().map_or(tick, |Reverse((until, _))| rest(until).min(tick))
    }

    fn read_inbox(&mut self) {
        for message in self.inbox.take_messages() {
            match message {
                ShardMessage::Attach(new) => self.attach_queued(*new),
                ShardMessage::Drain(drain) => self.begin_drain(drain),
                ShardMessage::Recheck => self.end_revoked(),
                ShardMessage::Stop => self.stopping = true,
            }
        }
        let mut dirty = Vec::new();
        self.inbox.take_dirty(&mut dirty);
        for local in dirty {
            self.mark_dirty(local);
        }
    }

    /// Returns the time of the shard's clock: see [`since`].
    pub(super) fn now(&self) -> u32 {
        (millis(self.began.elapsed()) as u32).max(1)
    }

    fn detach_all(&mut self) {
        let keys: Vec<usize> = self.subscribers.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.detach(key, EndReason::Draining);
        }
    }

    fn run_timers(&mut self) {
        let elapsed = millis(self.began.elapsed());
        let now = self.now();
        let mut due = Vec::new();
        self.wheel.take_due(elapsed, &mut due);
        for (key, tick) in due {
            self.heartbeat(key as usize, tick, now);
        }
        if elapsed >= self.check_at {
            self.check_at = elapsed + millis(self.check_interval());
            self.check_slow(now);
        }
        if elapsed >= self.sample_at {
            self.sample_at = elapsed + millis(LAG_SAMPLED_EVERY);
            self.sample_lag();
        }
    }

    /// `write_timeout / 4`, clamped to 10-100 ms.
    fn check_interval(&self) -> Duration {
        (self.config.write_timeout / 4).clamp(Duration::from_millis(10), CHECK_INTERVAL)
    }
}

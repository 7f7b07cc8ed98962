//! The only way out: subscriptions become bytes on a connection.
//!
//! One cursor, two engines. [`EventStream`] is an `http_body::Body`, which any connection can
//! carry; the reaper walks over all of them at its own pace. The shards own sockets: what speaks
//! plain HTTP/1.1 and reads one channel as an event stream is taken over by them. Either way,
//! heartbeats, bounds, lifetimes and drain cost no timer per subscription.

mod background;
mod bare;
mod coalescing;
mod format;
mod link;
mod page;
mod policy;
mod reaper;
mod shard;
mod signals;
mod stream;

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use socket2::SockRef;

pub use background::Turn;
pub use format::StreamFormat;
pub use link::{Handed, Link};
pub use page::{Page, page};
pub use signals::SignalFeed;
pub use stream::{BrokenOff, EventStream, OpenStream};

pub use reaper::LinkWatch;

use background::Turns;
use policy::Drain;
use reaper::Reaper;
use shard::{NewSubscriber, Shards};

use crate::clock::Clock;
use crate::hub::{Bounds, Hub, OnLag};
use crate::quota::Budget;
use crate::telemetry::Metrics;

/// The shortest heartbeat that a subscriber may ask for, unless the setting is shorter: a byte a
/// second is little, and no time-out of a client is shorter.
const MIN_HEARTBEAT: Duration = Duration::from_secs(1);

/// How often the lag of each subscription is sampled for the metrics.
const LAG_SAMPLED_EVERY: Duration = Duration::from_secs(4);

/// Settings of the section `subscribers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A subscriber to whom nothing was written for this long is sent a comment.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// The `retry:` field: how long a client waits before it reconnects.
    #[serde(with = "humantime_serde")]
    pub reconnect_delay: Duration,
    /// The same after an end, and after a credential that counts no longer: who comes back is
    /// answered 204 or 401. Zero for no other than usual.
    #[serde(with = "humantime_serde")]
    pub end_reconnect_delay: Duration,
    /// Events that a subscriber may be behind those published since it began.
    pub max_lag_events: u64,
    /// Bytes that a subscriber may be behind those published since it began.
    pub max_lag_bytes: ByteSize,
    /// Time that a subscriber may leave what is sent to it unread.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// What becomes of a subscriber that lags too far.
    pub on_lag: OnLag,
    /// Age at which a subscription is ended, so that load can move; zero for never.
    #[serde(with = "humantime_serde")]
    pub max_lifetime: Duration,
    /// Channels and patterns that one connection may name.
    pub max_channels: usize,
    /// Whether sockets that can be are taken over by the shards.
    pub takeover: bool,
    /// Threads that own sockets; zero for one per core.
    pub shards: usize,
    /// The longest pause between two sweeps of a channel whose sweeps take long.
    #[serde(with = "humantime_serde")]
    pub max_pause: Duration,
    /// Bytes of all subscribers together that HTTP bodies hold because clients do not read them.
    pub max_unwritten: ByteSize,
    /// The kernel's send buffer of a socket that is taken over.
    pub send_buffer: ByteSize,
    /// Bytes that the kernel may hold unsent for a socket that is taken over.
    pub unsent_limit: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            reconnect_delay: Duration::from_secs(3),
            end_reconnect_delay: Duration::from_secs(60),
            max_lag_events: 10_000,
            max_lag_bytes: ByteSize::mib(16),
            write_timeout: Duration::from_secs(30),
            on_lag: OnLag::Disconnect,
            max_lifetime: Duration::ZERO,
            max_channels: 128,
            takeover: true,
            shards: 0,
            max_pause: Duration::from_millis(20),
            max_unwritten: ByteSize::mib(64),
            send_buffer: ByteSize::kib(128),
            unsent_limit: ByteSize::kib(16),
        }
    }
}

impl Config {
    /// The shortest heartbeat that a subscriber may ask for.
    #[must_use]
    pub fn min_heartbeat(&self) -> Duration {
        MIN_HEARTBEAT.min(self.heartbeat)
    }

    /// The bounds that subscriptions are held to.
    fn bounds(&self) -> Bounds {
        Bounds {
            max_lag_events: self.max_lag_events,
            max_lag_bytes: self.max_lag_bytes.as_u64(),
            on_lag: self.on_lag,
        }
    }
}

/// Counts feeds of signals: each has a clone of what is in it, and all handles share the one.
#[derive(Default)]
struct Feeds(Arc<()>);

/// Serves subscriptions: a cheap handle.
#[derive(Clone)]
pub struct Egress {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    reaper: Arc<Reaper>,
    shards: Arc<Shards>,
    /// Each feed of signals has one of these.
    feeds: Arc<Feeds>,
    /// What bodies have handed over and clients have not taken.
    unwritten: Arc<Budget>,
    clock: Clock,
}

impl Egress {
    /// With these settings. `departed` is called whenever a socket that was taken over is closed.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn new(
        config: Config,
        hub: &Hub,
        on_detach: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (config, metrics) = (Arc::new(config), hub.metrics().clone());
        let most = usize::try_from(config.max_unwritten.as_u64()).unwrap_or(usize::MAX);
        let unwritten = Arc::new(Budget::new(most));
        let reaper = Reaper::new(config.clone(), metrics.clone(), unwritten.clone());
        let shards = Arc::new(Shards::start(hub, &config, Arc::new(on_detach))?);
        let (reaper, feeds) = (Arc::new(reaper), Arc::default());
        let clock = hub.clock().clone();
        Ok(Self { config, metrics, reaper, shards, feeds, unwritten, clock })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The bounds that subscriptions are to be held to.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.config.bounds()
    }

    /// Serves a stream as a response body, for as long as its lease lets it.
    #[must_use]
    pub fn stream(&self, open: OpenStream) -> EventStream {
        let OpenStream { ticket, format, coalesce, heartbeat, link, lease } = open;
        let bounds = self.bounds();
        let subscription = ticket.subscribe(bounds);
        let watch = self.reaper.watch(subscription.control(), bounds, heartbeat, link, lease);
        EventStream::new(self.clone(), subscription, format, coalesce, watch)
    }

    /// Passes were revoked: whoever stays by one is looked at now, and not when its time comes.
    pub fn recheck(&self) {
        self.shards.recheck();
    }

    /// What subscriptions may know of a connection that begins. Little may wait in the kernel for
    /// its client: what does is a copy for one subscriber.
    #[must_use]
    pub fn link(&self, tcp: impl AsFd) -> Arc<Link> {
        limit_unsent(&SockRef::from(&tcp), &self.config);
        Arc::new(Link::new(self.unwritten.clone()))
    }

    /// Resolves when the thread has nothing more urgent to do than to begin a subscription to many
    /// channels. The next begins when the turn is dropped.
    pub async fn turn(&self) -> Turn {
        Turns::here().next().await
    }

    /// Holds a connection to the write deadline, whatever it is that is written, for as long as the
    /// guard lives.
    #[must_use]
    pub fn watch_link(&self, link: &Arc<Link>) -> LinkWatch {
        self.reaper.watch_link(link)
    }

    /// Whether a shard can serve this stream, if its connection is a plain socket.
    #[must_use]
    pub fn can_take_over(&self, open: &OpenStream) -> bool {
        // The log's bytes as they are, of one channel.
        self.config.takeover && open.format == StreamFormat::EventStream && open.ticket.is_one()
    }

    /// Gives a stream and its socket to a shard. `head` is written first.
    pub fn take_over(&self, tcp: TcpStream, open: OpenStream, head: Vec<u8>) {
        let OpenStream { ticket, coalesce, heartbeat, lease, .. } = open;
        let Some(ticket) = ticket.into_one() else { return };
        tune(&tcp, &self.config);
        self.shards.attach(NewSubscriber { tcp, ticket, head, coalesce, heartbeat, lease });
    }

    /// Walks over all subscriptions, for ever.
    pub async fn reap(self) {
        self.reaper.run().await;
    }

    /// Ends all subscriptions, and those that come later, each at its own moment within the window.
    pub fn drain(&self, window: Duration) {
        let drain = Drain::begin(window);
        self.reaper.drain(drain);
        self.shards.drain(drain);
    }

    /// Subscriptions, and feeds of signals, that are being served.
    #[must_use]
    pub fn active(&self) -> usize {
        self.reaper.active() + self.shards.active() + Arc::strong_count(&self.feeds.0) - 1
    }
}

/// Sees to it that what a slow client has not read stays in the log, where it can be shared, and
/// is not copied into the kernel; and that a client that is gone is noticed. What a kernel does not
/// know does no harm.
fn tune(tcp: &TcpStream, config: &Config) {
    let socket = SockRef::from(tcp);
    let bytes = |size: ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    let _ = socket.set_send_buffer_size(bytes(config.send_buffer));
    limit_unsent(&socket, config);
    let _ = socket.set_tcp_user_timeout(Some(config.write_timeout));
}

fn limit_unsent(socket: &SockRef<'_>, config: &Config) {
    let unsent = u32::try_from(config.unsent_limit.as_u64()).unwrap_or(u32::MAX);
    let _ = socket.set_tcp_notsent_lowat(unsent);
}

//! The only way out: subscriptions become bytes on a connection.
//!
//! One cursor, two engines. [`EventStream`] is an `http_body::Body`, which any connection can
//! carry; the reaper checks all of them at a fixed interval. The shards own sockets: they take over
//! those that speak plain HTTP/1.1 and read one channel as an event stream. With either engine,
//! heartbeats, bounds, lifetimes and drain cost no timer per subscription.

mod background;
mod bare_stream;
mod coalescing;
mod config;
mod format;
mod json_page;
mod link;
mod policy;
mod reaper;
mod shard;
mod signals;
mod stream;

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use socket2::SockRef;

pub use background::Turn;
pub use config::Config;
pub use format::StreamFormat;
pub use json_page::{Page, page};
pub use link::{BodyData, Link};
pub use signals::SignalFeed;
pub use stream::{BrokenOff, EventStream, OpenStream};

pub use reaper::LinkWatch;

use background::Turns;
use policy::Drain;
use reaper::Reaper;
use shard::{NewSubscriber, Shards};

use crate::clock::Clock;
use crate::hub::{Bounds, Hub};
use crate::quota::Budget;
use crate::telemetry::Metrics;

/// Counts signal feeds: each holds a clone of the `Arc`.
#[derive(Default)]
struct Feeds(Arc<()>);

/// Serves subscriptions. A clone is a cheap handle.
#[derive(Clone)]
pub struct Egress {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    reaper: Arc<Reaper>,
    shards: Arc<Shards>,
    /// Counts the signal feeds.
    feeds: Arc<Feeds>,
    /// Bytes that bodies have handed over and clients have not taken.
    unwritten: Arc<Budget>,
    clock: Clock,
}

impl Egress {
    /// Starts the shards. `on_detach` is called whenever a socket that was taken over is closed.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn new(
        config: Config,
        hub: &Hub,
        on_detach: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let config = Arc::new(config);
        let metrics = hub.metrics().clone();
        let most = usize::try_from(config.max_unwritten.as_u64()).unwrap_or(usize::MAX);
        let unwritten = Arc::new(Budget::new(most));
        let reaper = Reaper::new(config.clone(), metrics.clone(), unwritten.clone());
        let shards = Arc::new(Shards::start(hub, &config, Arc::new(on_detach))?);
        let reaper = Arc::new(reaper);
        let clock = hub.clock().clone();
        Ok(Self { config, metrics, reaper, shards, feeds: Arc::default(), unwritten, clock })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The bounds that subscriptions are held to.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.config.bounds()
    }

    /// Ends the shards' subscriptions whose lease has been revoked, before the next periodic check.
    pub fn recheck(&self) {
        self.shards.recheck();
    }

    /// Returns a link for a new connection.
    #[must_use]
    pub fn link(&self) -> Arc<Link> {
        Arc::new(Link::new(self.unwritten.clone()))
    }

    /// Waits for a turn of the thread's background work, to begin a subscription to many channels.
    /// The next turn begins when this one is dropped.
    pub async fn turn(&self) -> Turn {
        Turns::here().next().await
    }

    /// Applies the write timeout to all that a connection sends, for as long as the guard lives.
    #[must_use]
    pub fn watch_link(&self, link: &Arc<Link>) -> LinkWatch {
        self.reaper.watch_link(link)
    }

    /// Gives a subscriber's socket to a shard.
    fn attach(&self, subscriber: NewSubscriber) {
        set_socket_options(&subscriber.tcp, &self.config);
        self.shards.attach(subscriber);
    }

    /// Checks all subscriptions at a fixed interval, for ever.
    pub async fn reap(self) {
        self.reaper.run().await;
    }

    /// Ends all subscriptions, present and future, each at its own moment within the window.
    pub fn drain(&self, window: Duration) {
        let drain = Drain::begin(window);
        self.reaper.drain(drain);
        self.shards.drain(drain);
    }

    /// Returns the number of subscriptions and signal feeds that are being served.
    #[must_use]
    pub fn active(&self) -> usize {
        self.reaper.active() + self.shards.active() + Arc::strong_count(&self.feeds.0) - 1
    }
}

/// Time between the hub's own write timeout and that of the kernel, for a machine that is busy.
const KERNEL_DELAY: Duration = Duration::from_secs(1);

/// Sets a socket's options so that what a slow client has not read stays in the log, where it is
/// shared, instead of being copied into the kernel, and so that a lost client is noticed. An option
/// that the kernel does not know does no harm.
fn set_socket_options(tcp: &TcpStream, config: &Config) {
    let socket = SockRef::from(tcp);
    let bytes = |size: ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    let _ = socket.set_send_buffer_size(bytes(config.send_buffer));
    // Later than the hub's own check, which counts why it ends a subscriber. The kernel's is for a
    // lost client whose events all fit into its buffers.
    let kernel_timeout = config.write_timeout.saturating_add(KERNEL_DELAY);
    let _ = socket.set_tcp_user_timeout(Some(kernel_timeout));
}

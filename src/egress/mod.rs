//! The only way out: subscriptions become bytes on a connection.
//!
//! One cursor, two engines. Here is the one that any connection can carry, [`EventStream`], an
//! `http_body::Body`. The [`Patrol`] walks over all of them at its own pace: heartbeats, bounds,
//! lifetimes and drain cost no timer per subscription.

mod format;
mod link;
mod page;
mod patrol;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use format::Format;
pub use link::Link;
pub use page::{Page, page};
pub use stream::EventStream;

use patrol::Patrol;

use crate::hub::{Bounds, OnLag, Subscription};
use crate::telemetry::Metrics;

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
}

impl Default for Config {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            reconnect_delay: Duration::from_secs(3),
            max_lag_events: 10_000,
            max_lag_bytes: ByteSize::mib(4),
            write_timeout: Duration::from_secs(30),
            on_lag: OnLag::Disconnect,
            max_lifetime: Duration::ZERO,
            max_channels: 128,
        }
    }
}

/// Serves subscriptions: a cheap handle.
#[derive(Clone)]
pub struct Egress {
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    patrol: Arc<Patrol>,
}

impl Egress {
    /// With these settings.
    #[must_use]
    pub fn new(config: Config, metrics: Arc<Metrics>) -> Self {
        let config = Arc::new(config);
        let patrol = Arc::new(Patrol::new(config.clone(), metrics.clone()));
        Self { config, metrics, patrol }
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The bounds that subscriptions are to be held to.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        Bounds {
            max_lag_events: self.config.max_lag_events,
            max_lag_bytes: self.config.max_lag_bytes.as_u64(),
            on_lag: self.config.on_lag,
        }
    }

    /// A subscription as a response body.
    #[must_use]
    pub fn stream(
        &self,
        subscription: Subscription,
        format: Format,
        link: Option<Arc<Link>>,
    ) -> EventStream {
        let watched = self.patrol.watch(subscription.pulse(), subscription.bounds(), link);
        EventStream::new(self.clone(), subscription, format, watched)
    }

    /// Walks over all subscriptions, for ever.
    pub async fn patrol(self) {
        self.patrol.run().await;
    }

    /// Ends all subscriptions, each at its own moment within the window; later ones at once.
    pub fn drain(&self, window: Duration) {
        self.patrol.drain(window);
    }

    /// Subscriptions that are being served.
    #[must_use]
    pub fn active(&self) -> usize {
        self.patrol.active()
    }
}

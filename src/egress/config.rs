//! The settings of the section `subscribers`.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::hub::{Bounds, OnLag};

/// The shortest heartbeat that a subscriber may ask for, unless the setting is shorter: it costs a
/// byte per second, and no client's time-out is shorter.
const MIN_HEARTBEAT: Duration = Duration::from_secs(1);

/// Interval between two samples of each subscription's lag, for the metrics.
pub(super) const LAG_SAMPLED_EVERY: Duration = Duration::from_secs(4);

/// Settings of the section `subscribers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Time without a write after which a subscriber is sent a comment.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// The `retry:` field: how long a client waits before it reconnects.
    #[serde(with = "humantime_serde")]
    pub reconnect_delay: Duration,
    /// The `retry:` field after an end, and after a credential has expired or was revoked: the next
    /// request is answered 204 or 401. Zero for `reconnect_delay`.
    #[serde(with = "humantime_serde")]
    pub end_reconnect_delay: Duration,
    /// Events that a subscriber may lag by, not counting those published before it began.
    pub max_lag_events: u64,
    /// Bytes that a subscriber may lag by, not counting those published before it began.
    pub max_lag_bytes: ByteSize,
    /// Time for which a subscriber may read nothing of what is sent to it.
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    /// Action for a subscriber whose lag exceeds its limit.
    pub on_lag: OnLag,
    /// Age at which a subscription is ended, so that load can move; zero for never.
    #[serde(with = "humantime_serde")]
    pub max_lifetime: Duration,
    /// Channels and patterns that one connection may name.
    pub max_channels: usize,
    /// Whether shards take over the sockets that they can serve.
    pub takeover: bool,
    /// Threads that own sockets; zero for one per core.
    pub shards: usize,
    /// The longest pause between two sweeps of a channel whose sweeps take long.
    #[serde(with = "humantime_serde")]
    pub max_pause: Duration,
    /// Bytes of all subscribers together that HTTP bodies may hold unread.
    pub max_unwritten: ByteSize,
    /// The kernel's send buffer for a socket that is taken over.
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
    pub(super) fn bounds(&self) -> Bounds {
        Bounds {
            max_lag_events: self.max_lag_events,
            max_lag_bytes: self.max_lag_bytes.as_u64(),
            on_lag: self.on_lag,
        }
    }
}

//! Settings of the section `quotas`.

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::limit::{Limit, Rates};
use super::rate::{BURST_SECONDS, OptionalRate, Rate};

/// The quotas of principals and addresses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Requests to publish, by principal.
    pub publishes: OptionalRate,
    /// Published events, by principal.
    pub events: OptionalRate,
    /// Published bytes, by principal.
    pub bytes: OptionalRate,
    /// Signals, by principal.
    pub signals: OptionalRate,
    /// Minted tokens, by principal.
    pub tokens: OptionalRate,
    /// Subscriptions that a principal may have open; zero for no limit.
    pub max_subscriptions: usize,
    /// Channels that a principal may have created; zero for no limit.
    pub max_channels: usize,
    /// Bytes that these may retain; above this the oldest are evicted. Zero for no limit.
    pub max_retained: ByteSize,
    /// Requests to publish, by address.
    pub address_publishes: OptionalRate,
    /// Published events, by address.
    pub address_events: OptionalRate,
    /// Published bytes, by address.
    pub address_bytes: OptionalRate,
    /// New connections, by address.
    pub address_connections: OptionalRate,
    /// Refused credentials, by address.
    pub address_refusals: OptionalRate,
}

impl Default for Config {
    fn default() -> Self {
        let rate =
            |per_second| OptionalRate(Some(Rate { per_second, burst: per_second * BURST_SECONDS }));
        Self {
            publishes: rate(2_000),
            events: rate(50_000),
            bytes: rate(64 << 20),
            signals: rate(100),
            tokens: rate(100),
            max_subscriptions: 10_000,
            max_channels: 20_000,
            max_retained: ByteSize::mib(256),
            address_publishes: OptionalRate(None),
            address_events: OptionalRate(None),
            address_bytes: OptionalRate(None),
            address_connections: rate(500),
            address_refusals: rate(100),
        }
    }
}

impl Config {
    pub(super) fn principal(&self) -> Rates {
        Rates {
            publishes: Limit::new("quotas.publishes", self.publishes),
            events: Limit::new("quotas.events", self.events),
            bytes: Limit::new("quotas.bytes", self.bytes),
            signals: Limit::new("quotas.signals", self.signals),
            tokens: Limit::new("quotas.tokens", self.tokens),
            connections: Limit::none("quotas.address_connections"),
            refusals: Limit::none("quotas.address_refusals"),
        }
    }

    pub(super) fn address(&self) -> Rates {
        Rates {
            publishes: Limit::new("quotas.address_publishes", self.address_publishes),
            events: Limit::new("quotas.address_events", self.address_events),
            bytes: Limit::new("quotas.address_bytes", self.address_bytes),
            signals: Limit::none("quotas.signals"),
            tokens: Limit::none("quotas.tokens"),
            connections: Limit::new("quotas.address_connections", self.address_connections),
            refusals: Limit::new("quotas.address_refusals", self.address_refusals),
        }
    }

    pub(super) fn max_retained(&self) -> usize {
        usize::try_from(self.max_retained.as_u64()).unwrap_or(usize::MAX)
    }
}

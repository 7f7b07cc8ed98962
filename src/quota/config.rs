//! Settings of the section `quotas`.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::meter::{Limit, Rates};

/// Seconds of a rate in its burst, if no burst is named.
const BURST_SECONDS: u64 = 10;

/// A rate per second, and a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units per second, at least one.
    pub per_second: u64,
    /// Units in a burst, at least one.
    pub burst: u64,
}

/// The text is not a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a rate is \"100/s\", \"100/s, burst 500\", \"1MiB/s\" or \"off\", and at least one a second"
)]
pub struct InvalidRate;

/// A rate, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionalRate(pub Option<Rate>);

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
            publishes: self.publishes.by("quotas.publishes"),
            events: self.events.by("quotas.events"),
            bytes: self.bytes.by("quotas.bytes"),
            signals: self.signals.by("quotas.signals"),
            tokens: self.tokens.by("quotas.tokens"),
            connections: Limit::none("quotas.address_connections"),
            refusals: Limit::none("quotas.address_refusals"),
        }
    }

    pub(super) fn address(&self) -> Rates {
        Rates {
            publishes: self.address_publishes.by("quotas.address_publishes"),
            events: self.address_events.by("quotas.address_events"),
            bytes: self.address_bytes.by("quotas.address_bytes"),
            signals: Limit::none("quotas.signals"),
            tokens: Limit::none("quotas.tokens"),
            connections: self.address_connections.by("quotas.address_connections"),
            refusals: self.address_refusals.by("quotas.address_refusals"),
        }
    }

    pub(super) fn max_retained(&self) -> usize {
        usize::try_from(self.max_retained.as_u64()).unwrap_or(usize::MAX)
    }
}

impl OptionalRate {
    fn by(self, setting: &'static str) -> Limit {
        Limit { setting, rate: self.0 }
    }
}

impl FromStr for OptionalRate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        if text == "off" {
            return Ok(Self(None));
        }
        let (rate, burst) = match text.split_once(',') {
            Some((rate, burst)) => {
                let burst = burst.trim().strip_prefix("burst ").ok_or(InvalidRate)?;
                (rate, Some(amount(burst)?))
            }
            None => (text, None),
        };
        let per_second = amount(rate.trim().strip_suffix("/s").ok_or(InvalidRate)?)?;
        let burst = burst.unwrap_or(per_second.saturating_mul(BURST_SECONDS));
        Ok(Self(Some(Rate { per_second, burst })))
    }
}

/// Reads a number or a size, which must not be zero.
fn amount(text: &str) -> Result<u64, InvalidRate> {
    let amount = text.trim().parse::<ByteSize>().map_err(|_| InvalidRate)?.as_u64();
    if amount == 0 { Err(InvalidRate) } else { Ok(amount) }
}

impl fmt::Display for OptionalRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("off"),
            Some(Rate { per_second, burst })
                if burst == per_second.saturating_mul(BURST_SECONDS) =>
            {
                write!(f, "{per_second}/s")
            }
            Some(Rate { per_second, burst }) => write!(f, "{per_second}/s, burst {burst}"),
        }
    }
}

impl Serialize for OptionalRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for OptionalRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_reads_like_one() {
        for (text, rate) in [
            ("100/s", Some((100, 1000))),
            ("100/s, burst 150", Some((100, 150))),
            ("1KiB/s, burst 1MiB", Some((1024, 1 << 20))),
            ("off", None),
        ] {
            let parsed: OptionalRate = text.parse().unwrap();
            let rate = rate.map(|(per_second, burst)| Rate { per_second, burst });
            assert_eq!(parsed.0, rate, "{text}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed), "{text}");
        }
        for text in ["", "100", "0/s", "100/m", "-1/s", "100/s, 5", "100/s, burst 0", "x/s"] {
            assert_eq!(text.parse::<OptionalRate>(), Err(InvalidRate), "{text}");
        }
    }
}

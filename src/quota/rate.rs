//! A rate per second with a burst, as settings write it.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Seconds of a rate in its burst, if no burst is named.
pub(super) const BURST_SECONDS: u64 = 10;

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

const SECOND: u64 = 1_000_000_000;

impl Rate {
    /// Returns the nanoseconds in which `count` units accrue, rounded up in favour of the limit.
    pub(super) fn time_for(self, count: u64) -> u64 {
        let nanos = u128::from(count) * u128::from(SECOND);
        let time = nanos.div_ceil(u128::from(self.per_second.max(1)));
        u64::try_from(time).unwrap_or(u64::MAX)
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

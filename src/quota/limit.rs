//! Limits: a rate with the setting that it comes from, and the error when it is exceeded.

use std::time::Duration;

use super::bucket::Bucket;
use super::rate::{OptionalRate, Rate};

/// A limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{limit}` is used up: come back in {retry_after:?}")]
pub struct Exceeded {
    /// The setting.
    pub limit: &'static str,
    /// The time until it can be used again.
    pub retry_after: Duration,
}

/// The rates of one kind of key: principals, or addresses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    pub(super) publishes: Limit,
    pub(super) events: Limit,
    pub(super) bytes: Limit,
    pub(super) signals: Limit,
    pub(super) tokens: Limit,
    pub(super) connections: Limit,
    pub(super) refusals: Limit,
}

/// A rate and the setting that it comes from; without a rate, no limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    setting: &'static str,
    rate: Option<Rate>,
}

impl Limit {
    pub(super) fn new(setting: &'static str, rate: OptionalRate) -> Self {
        Self { setting, rate: rate.0 }
    }

    pub(super) fn none(setting: &'static str) -> Self {
        Self { setting, rate: None }
    }

    pub(super) fn take(self, bucket: &Bucket, count: u64, now: u64) -> Result<(), Exceeded> {
        let Some(rate) = self.rate else { return Ok(()) };
        bucket.take(rate, count, now).map_err(|wait| self.exceeded(wait))
    }

    pub(super) fn look(self, bucket: &Bucket, count: u64, now: u64) -> Result<(), Exceeded> {
        let wait = self.rate.map_or(Duration::ZERO, |rate| bucket.look(rate, count, now));
        if wait.is_zero() { Ok(()) } else { Err(self.exceeded(wait)) }
    }

    pub(super) fn charge(self, bucket: &Bucket, count: u64, now: u64) -> Option<Exceeded> {
        let wait = bucket.charge(self.rate?, count, now);
        (!wait.is_zero()).then(|| self.exceeded(wait))
    }

    fn exceeded(self, retry_after: Duration) -> Exceeded {
        Exceeded { limit: self.setting, retry_after }
    }
}

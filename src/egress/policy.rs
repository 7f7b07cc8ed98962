//! Rules that both engines apply to a subscription: its maximum age, its end in a drain, and how
//! far a slow consumer may lag.

use std::time::Duration;

use tokio::time::Instant;

use super::config::Config;
use crate::hub::{Bounds, EndReason, OnLag};
use crate::store::LogPosition;

/// Returns the age at which a subscription that begins now ends, if ages are limited: up to a tenth
/// less than the setting, so that clients that connected together do not reconnect together.
pub(super) fn max_age(config: &Config) -> Option<Duration> {
    let spread = 0.9 + 0.1 * fastrand::f64();
    Some(config.max_lifetime.mul_f64(spread)).filter(|age| !age.is_zero())
}

/// Returns why a subscription with this lag ends, if it does. With `on_lag = skip`, none does.
pub(super) fn lag_verdict(bounds: &Bounds, lag: LogPosition) -> Option<EndReason> {
    match bounds.on_lag {
        OnLag::Disconnect => bounds.passed_by(lag),
        OnLag::Skip => None,
    }
}

/// Returns the setting that a slow consumer has exceeded, as `fanfare_limit_hits_total` names it.
pub(super) fn exceeded_setting(reason: EndReason) -> Option<&'static str> {
    match reason {
        EndReason::LaggedBytes => Some("subscribers.max_lag_bytes"),
        EndReason::LaggedEvents => Some("subscribers.max_lag_events"),
        EndReason::WriteTimeout => Some("subscribers.write_timeout"),
        _ => None,
    }
}

/// The share of a drain's window in which subscriptions are ended; the rest is for their last
/// writes.
const DRAIN_SHARE: f64 = 0.8;

/// The share of a drain's window that is too short for another subscription.
const LEAST_STAY: f64 = 0.1;

/// The time past the window for which the last subscriptions stay: until no listener is open, so
/// that a client that reconnects at once finds no hub.
const LAST_STAY: Duration = Duration::from_millis(500);

/// A drain: subscriptions end one by one, and their clients reconnect after it, one by one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    from: Instant,
    window: Duration,
}

impl Drain {
    pub(super) fn begin(window: Duration) -> Self {
        Self { from: Instant::now(), window }
    }

    /// Returns the moment at which a subscription ends that began before the drain.
    pub(super) fn moment(&self) -> Instant {
        self.from + self.window.mul_f64(fastrand::f64() * DRAIN_SHARE)
    }

    /// Returns the moment at which a subscription ends that begins now. Some clients reconnect at
    /// once, without regard to the delay: so it stays for a good part of the rest of the window,
    /// and the last ones until the listeners are closed.
    pub(super) fn late_moment(&self) -> Instant {
        let now = Instant::now();
        let rest = (self.from + self.window.mul_f64(DRAIN_SHARE)).saturating_duration_since(now);
        if rest < self.window.mul_f64(LEAST_STAY) {
            return now.max(self.from + self.window) + LAST_STAY;
        }
        now + rest.mul_f64(0.25 + 0.75 * fastrand::f64())
    }

    /// Returns a client's reconnect delay: past the drain, and spread at random.
    pub(super) fn return_delay(&self, reconnect_delay: Duration) -> Duration {
        let rest = (self.from + self.window).saturating_duration_since(Instant::now());
        rest + reconnect_delay.mul_f64(2.0 * fastrand::f64())
    }
}

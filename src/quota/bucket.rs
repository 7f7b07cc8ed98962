//! A token bucket as a single number: the time at which it will be full again.
//!
//! This is the generic cell rate algorithm (ITU-T I.371). It is implemented here, in a few lines,
//! because crates lack two operations: a charge that may go into debt, and a check without a
//! charge.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::rate::Rate;

/// The time at which the bucket is full, in nanoseconds since the quotas began. A new one is full.
#[derive(Debug, Default)]
pub(super) struct Bucket(AtomicU64);

impl Bucket {
    /// Takes `count` units, or takes nothing and returns the time until they are available.
    pub(super) fn take(&self, rate: Rate, count: u64, now: u64) -> Result<(), Duration> {
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let next = full_at.max(now).saturating_add(rate.time_for(count));
            (wait(rate, next, now) == 0).then_some(next)
        });
        taken.map(drop).map_err(|_| self.look(rate, count, now))
    }

    /// Takes `count` units, even if that leaves a debt. Returns the time until the debt is paid.
    pub(super) fn charge(&self, rate: Rate, count: u64, now: u64) -> Duration {
        let charge = |full_at: u64| Some(full_at.max(now).saturating_add(rate.time_for(count)));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, charge);
        self.look(rate, 0, now)
    }

    /// Returns the time until `count` units are available; for 0, the time until there is no debt.
    pub(super) fn look(&self, rate: Rate, count: u64, now: u64) -> Duration {
        let next = self.0.load(Ordering::Relaxed).max(now).saturating_add(rate.time_for(count));
        Duration::from_nanos(wait(rate, next, now))
    }

    pub(super) fn is_full(&self, now: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now
    }
}

/// Returns the nanoseconds until a bucket that is full at `full_at` has no debt.
fn wait(rate: Rate, full_at: u64, now: u64) -> u64 {
    full_at.saturating_sub(now).saturating_sub(rate.time_for(rate.burst))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate { per_second: 10, burst: 3 };
        let bucket = Bucket::default();
        for _ in 0..3 {
            assert_eq!(bucket.take(rate, 1, 0), Ok(()));
        }
        assert_eq!(bucket.take(rate, 1, 0), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(rate, 1, SECOND / 10), Ok(()));
        assert!(bucket.take(rate, 1, SECOND / 10).is_err());
        assert!(bucket.is_full(SECOND) && !bucket.is_full(SECOND / 10));
    }

    proptest! {
        /// The reference is the usual model: a level that rises with time up to the burst.
        #[test]
        fn it_takes_what_a_bucket_with_a_level_would(
            per_second in 1u64..1000, burst in 1u64..50,
            steps in prop::collection::vec((0u64..2_000_000_000, 1u64..20), 1..60),
        ) {
            let rate = Rate { per_second, burst };
            let bucket = Bucket::default();
            let mut level = burst as f64;
            let mut now = 0;
            for (pause, count) in steps {
                now += pause;
                let more = pause as f64 / SECOND as f64 * per_second as f64;
                level = (level + more).min(burst as f64);
                let enough = level - count as f64;
                // If rounding decides, either result is right.
                prop_assume!(enough.abs() > 1e-3);
                prop_assert_eq!(bucket.take(rate, count, now).is_ok(), enough > 0.0);
                if enough > 0.0 {
                    level = enough;
                }
            }
        }

        #[test]
        fn no_number_breaks_it(per_second: u64, burst: u64, count: u64, now: u64) {
            let rate = Rate { per_second, burst };
            let bucket = Bucket::default();
            let _ = bucket.charge(rate, count, now);
            let _ = bucket.take(rate, count, now);
            let _ = bucket.look(rate, count, now);
        }
    }
}

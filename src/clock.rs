//! The clocks of events and of the store; credentials and metrics read `SystemTime` themselves.
//!
//! The wall clock provides the times that are shown. It can be set, forwards and backwards, so ages
//! are taken from the steady clock, which cannot be set.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::limits::MAX_CLOCK_DRIFT;

/// Time in microseconds: on the wall clock, since the Unix epoch.
pub type Micros = u64;

/// The value of the steady clock when the machine starts. It is far from zero, so that a moment
/// long before the start has a number, too.
const STEADY_START: Micros = 1 << 52;

/// Maximum microseconds between the two readings of a moment. A pause between them would look like
/// a wall clock that was set.
const MAX_APART: Micros = MAX_CLOCK_DRIFT.as_micros() as Micros / 2;

/// Maximum number of readings for one moment.
const MAX_READINGS: usize = 8;

/// One moment on both clocks.
///
/// In files and in JSON it is only the time of the wall clock: the steady clock of one start of the
/// machine means nothing in the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Micros", into = "Micros")]
pub struct Moment {
    /// The time that is shown.
    pub wall: Micros,
    /// The time that ages are taken from.
    pub steady: Micros,
}

impl Moment {
    /// Returns the current moment.
    #[must_use]
    pub fn now() -> Self {
        Self::read(now, steady)
    }

    /// Reads both clocks again after a pause between the readings.
    fn read(wall: impl Fn() -> Micros, steady: impl Fn() -> Micros) -> Self {
        let mut moment = Self { wall: 0, steady: steady() };
        for _ in 0..MAX_READINGS {
            moment.wall = wall();
            let after = steady();
            if after.saturating_sub(moment.steady) <= MAX_APART {
                break;
            }
            moment.steady = after;
        }
        moment
    }

    /// Returns the moment at which the wall clock showed this time, given how far it was ahead.
    #[must_use]
    pub fn of_wall(wall: Micros, ahead: i64) -> Self {
        Self { wall, steady: wall.saturating_add_signed(ahead.saturating_neg()) }
    }

    /// Returns the wall clock minus the steady clock. It changes only when the wall clock is set.
    #[must_use]
    pub fn ahead(self) -> i64 {
        self.wall.wrapping_sub(self.steady) as i64
    }

    /// Returns whether the wall clock was not set between the two moments.
    #[must_use]
    pub fn is_in_step_with(self, other: Self) -> bool {
        let drift = self.ahead().wrapping_sub(other.ahead()).unsigned_abs();
        Duration::from_micros(drift) <= MAX_CLOCK_DRIFT
    }

    /// Returns the moment `by` microseconds later, if the wall clock is not set meanwhile.
    #[must_use]
    pub fn later(self, by: u32) -> Self {
        let later = |time: Micros| time.saturating_add(Micros::from(by));
        Self { wall: later(self.wall), steady: later(self.steady) }
    }

    /// Returns the time since `earlier`, by the steady clock.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.steady.saturating_sub(earlier.steady))
    }

    /// Returns the time on the steady clock `age` before this moment.
    #[must_use]
    pub fn steady_before(self, age: Duration) -> Micros {
        let age = Micros::try_from(age.as_micros()).unwrap_or(Micros::MAX);
        self.steady.saturating_sub(age)
    }
}

impl From<Micros> for Moment {
    fn from(wall: Micros) -> Self {
        Self { wall, steady: 0 }
    }
}

impl From<Moment> for Micros {
    fn from(moment: Moment) -> Self {
        moment.wall
    }
}

/// The time source of a hub: the machine's clocks, unless a test replaces them.
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<dyn Fn() -> Moment + Send + Sync>>);

impl Clock {
    /// Creates a clock that returns what `tell` returns.
    #[must_use]
    pub fn of(tell: impl Fn() -> Moment + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    /// Returns the current moment.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.0.as_ref().map_or_else(Moment::now, |tell| tell())
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("set", &self.0.is_some()).finish()
    }
}

/// Always equal: the time is not a setting, and does not make two configurations differ.
impl PartialEq for Clock {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Returns the time of the wall clock.
#[must_use]
pub fn now() -> Micros {
    micros(SystemTime::now())
}

/// Returns the time of the steady clock, which also runs while the machine sleeps.
#[must_use]
pub fn steady() -> Micros {
    let passed = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    let passed = Micros::try_from(passed.as_micros()).unwrap_or_default();
    STEADY_START.saturating_add(passed)
}

/// Returns the time since an earlier time of the steady clock.
#[must_use]
pub fn elapsed(since: Micros) -> Duration {
    Duration::from_micros(steady().saturating_sub(since))
}

/// Converts a time into microseconds since the Unix epoch.
#[must_use]
pub fn micros(time: SystemTime) -> Micros {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Formats a time as RFC 3339 text: UTC, with milliseconds.
#[must_use]
pub fn rfc3339(time: Micros) -> String {
    // Text has room for the years up to 9999; a later time becomes the end of that year.
    let last = Duration::from_secs(253_402_300_799);
    let since = Duration::from_micros(time).min(last);
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

/// Formats a time for a header (RFC 9110, section 5.6.7).
#[must_use]
pub fn http_date(time: Micros) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_micros(time))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn time_is_utc_with_milliseconds() {
        assert_eq!(rfc3339(951_827_696_789_999), "2000-02-29T12:34:56.789Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.000Z");
    }

    #[test]
    fn a_pause_between_the_readings_does_not_look_like_a_clock_that_is_set() {
        for pauses in 0..MAX_READINGS {
            // The n-th reading comes after a pause of a minute.
            let readings = Cell::new(0);
            let time = Cell::new(0);
            let tick = || {
                let pause = if readings.get() == pauses { 60_000_000 } else { 1 };
                readings.set(readings.get() + 1);
                time.set(time.get() + pause);
                time.get()
            };
            let moment = Moment::read(tick, || STEADY_START + tick());
            let exact = Moment { wall: 0, steady: STEADY_START };
            assert!(moment.is_in_step_with(exact), "{pauses}: {moment:?}");
        }
        let paused = Cell::new(0);
        let tick = || paused.replace(paused.get() + 60_000_000);
        Moment::read(tick, tick);
        assert!(paused.get() < 60_000_000 * 3 * MAX_READINGS as u64, "the readings are bounded");
    }

    #[test]
    fn only_a_clock_that_is_set_is_out_of_step() {
        let before = Moment { wall: 1_000_000, steady: 1 << 52 };
        let after = |wall: u64| Moment { wall, steady: before.steady + 5_000_000 };
        assert!(after(6_000_000).is_in_step_with(before));
        assert!(after(6_000_100).is_in_step_with(before), "it is slewed");
        assert!(!after(500_000).is_in_step_with(before), "it was set back");
        assert!(!after(u64::MAX).is_in_step_with(before), "it was set forward");
        assert_eq!(after(0).since(before), Duration::from_secs(5));
        assert_eq!(before.since(after(0)), Duration::ZERO);
        assert_eq!(Moment::of_wall(6_000_000, before.ahead()), after(6_000_000));
    }
}

//! CLOCK_MONOTONIC in nanoseconds, which all processes of a machine share, and an alarm set to it.
//!
//! `epoll_wait` sleeps whole milliseconds; a schedule of 4000 events a second needs better.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

/// Nanoseconds of a second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// Nanoseconds of a millisecond.
pub(crate) const MILLISECOND: u64 = 1_000_000;

/// Returns the time of CLOCK_MONOTONIC in nanoseconds.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * SECOND + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// Sleeps until that time.
pub(crate) fn sleep_until(then: u64) {
    let wait = then.saturating_sub(now());
    std::thread::sleep(std::time::Duration::from_nanos(wait));
}

/// A timer that an epoll loop can wait for, exact to microseconds.
#[derive(Debug)]
pub(crate) struct Alarm(OwnedFd);

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self(timerfd_create(TimerfdClockId::Monotonic, flags)?))
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Arms the timer for that time, or for now if it has passed. Replaces the previous setting.
    pub(crate) fn set(&self, then: u64) -> io::Result<()> {
        let then = then.max(1); // zero would disarm it
        let it_value = Timespec {
            tv_sec: i64::try_from(then / SECOND).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(then % SECOND).unwrap_or(0),
        };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = Itimerspec { it_interval, it_value };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &spec)?;
        Ok(())
    }
}

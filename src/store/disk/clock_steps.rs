//! Changes of the wall clock, so that stored events keep their age in later lives.
//!
//! Files have only wall clock times. A step records how far the wall clock was ahead of the steady
//! clock from an offset on. While the machine runs, ages come from the steady clock, also for
//! events that an earlier hub stored. Only the wall clock can tell the time between two boots.

use serde::{Deserialize, Serialize};

use crate::clock::{Micros, Moment};
use crate::limits::MAX_CLOCK_STEPS;
use crate::position::Offset;
use crate::store::Entry;

/// Ascending offsets, each with how far the wall clock was ahead of the steady clock from there
/// on, relative to the current boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Steps(Vec<(u64, i64)>);

impl Steps {
    /// Begins a life at offset `first`. `newest` is the last event of earlier lives.
    pub(super) fn resume(
        &mut self,
        same_boot: bool,
        newest: Option<Entry>,
        first: u64,
        opened: Moment,
    ) {
        let last = self.0.last().map_or(opened.ahead(), |(_, ahead)| *ahead);
        if self.0.is_empty() {
            self.0.push((0, last));
        }
        // After a reboot the wall clock is trusted, unless it shows a time before the newest
        // event.
        let down = if same_boot { 0 } else { opened.ahead().wrapping_sub(last) };
        let newest = newest.map(|newest| self.on_steady_clock(newest.offset, newest.time));
        let early = newest.map_or(i64::MIN, |at| at.wrapping_sub(opened.steady) as i64);
        let shift = down.max(early);
        self.0.iter_mut().for_each(|(_, ahead)| *ahead = ahead.wrapping_add(shift));
        self.observe(first, opened);
    }

    /// Returns whether the clocks differ at this offset as much as in `time`.
    pub(super) fn agree(&self, offset: u64, time: Moment) -> bool {
        let known = self.at(offset).map(|ahead| Moment::of_wall(time.wall, ahead));
        known.is_some_and(|known| time.is_in_step_with(known))
    }

    /// Compares the clocks, and adds a step if they have diverged: the wall clock is as far ahead
    /// as in `time` from this offset on.
    pub(super) fn observe(&mut self, from: u64, time: Moment) {
        if self.agree(from, time) {
            return;
        }
        // Two channels may write their offsets out of order.
        let at = self.0.partition_point(|(known, _)| *known < from);
        match self.0.get_mut(at).filter(|(known, _)| *known == from) {
            Some((_, ahead)) => *ahead = time.ahead(),
            None => self.0.insert(at, (from, time.ahead())),
        }
        if self.0.len() > MAX_CLOCK_STEPS {
            self.0.remove(0);
        }
    }

    /// Returns the moment of an event from its offset and wall clock time. Limits it to `opened`,
    /// as it cannot be later.
    pub(super) fn date(&self, offset: Offset, time: Moment, opened: Moment) -> Moment {
        let steady = self.on_steady_clock(offset, time);
        Moment { wall: time.wall, steady: steady.min(opened.steady) }
    }

    fn on_steady_clock(&self, offset: Offset, time: Moment) -> Micros {
        Moment::of_wall(time.wall, self.at(offset.0).unwrap_or_default()).steady
    }

    /// Returns how far the wall clock was ahead at this offset.
    fn at(&self, offset: u64) -> Option<i64> {
        let after = self.0.partition_point(|(from, _)| *from <= offset);
        self.0.get(after.saturating_sub(1)).map(|(_, ahead)| *ahead)
    }
}

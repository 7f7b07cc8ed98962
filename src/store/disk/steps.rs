//! How the wall clock was set, so that what is stored has its age in later lives.
//!
//! Files have the time of the wall clock alone. Here is how far that was ahead of the steady clock,
//! from which offset on. While the machine runs, ages so come from the steady clock, also of what a
//! hub before this one has stored. How much time has passed between two starts of the machine, only
//! the wall clock can say.

use serde::{Deserialize, Serialize};

use crate::clock::{Micros, Moment};
use crate::limits::MAX_CLOCK_STEPS;
use crate::position::Offset;
use crate::store::Entry;

/// Offsets, ascending, each with how far the wall clock was ahead from there on, as if this start
/// of the machine had been then, too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Steps(Vec<(u64, i64)>);

impl Steps {
    /// A life begins with this offset; the newest event of those before it is this.
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
        // If the steady clock has begun again, the wall clock is taken at its word; but not if it
        // shows a time before that event.
        let down = if same_boot { 0 } else { opened.ahead().wrapping_sub(last) };
        let newest = newest.map(|newest| self.on_steady_clock(newest.offset, newest.time));
        let early = newest.map_or(i64::MIN, |at| at.wrapping_sub(opened.steady) as i64);
        let shift = down.max(early);
        self.0.iter_mut().for_each(|(_, ahead)| *ahead = ahead.wrapping_add(shift));
        self.observe(first, opened);
    }

    /// It is this moment, and this offset comes next.
    pub(super) fn observe(&mut self, next: u64, now: Moment) {
        let known = self.0.last().map(|(_, ahead)| Moment::of_wall(now.wall, *ahead));
        if known.is_none_or(|known| !now.is_in_step_with(known)) {
            self.note(next, now);
        }
    }

    /// From this offset on, the wall clock is so far ahead.
    pub(super) fn note(&mut self, from: u64, time: Moment) {
        // Of two channels, the later offset may be written first.
        let at = self.0.partition_point(|(known, _)| *known <= from);
        self.0.insert(at, (from, time.ahead()));
        if self.0.len() > MAX_CLOCK_STEPS {
            self.0.remove(0);
        }
    }

    /// The moment of an event with this offset, by its time on the wall clock. What lies ahead of
    /// the opening counts as of then.
    pub(super) fn date(&self, offset: Offset, time: Moment, opened: Moment) -> Moment {
        let steady = self.on_steady_clock(offset, time);
        Moment { wall: time.wall, steady: steady.min(opened.steady) }
    }

    fn on_steady_clock(&self, offset: Offset, time: Moment) -> Micros {
        let after = self.0.partition_point(|(from, _)| *from <= offset.0);
        let step = self.0.get(after.saturating_sub(1));
        Moment::of_wall(time.wall, step.map_or(0, |(_, ahead)| *ahead)).steady
    }
}

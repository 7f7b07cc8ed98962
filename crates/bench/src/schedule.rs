//! The intended send times of events: an open loop, which a slow server cannot stretch.
//!
//! Event `k` of all goes to channel `k mod C`. A channel belongs to one publishing connection (a
//! lane), because the order of a channel's events is only defined if one is sent after the other.

use super::clock::SECOND;

/// The intended send times of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// The time at which event 0 is due.
    pub(crate) start: u64,
    /// Nanoseconds between two events; zero: as fast as they are accepted.
    interval: f64,
    /// The number of events.
    pub(crate) total: u64,
    pub(crate) channels: u32,
    pub(crate) lanes: u32,
}

/// One scheduled event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScheduleSlot {
    /// Its number among all events.
    pub(crate) k: u64,
    pub(crate) channel: u32,
    /// Its number in the channel.
    pub(crate) seq: u64,
}

impl Schedule {
    /// A schedule of `rate` events per second over all channels.
    pub(crate) fn paced(start: u64, rate: f64, total: u64, channels: u32, lanes: u32) -> Self {
        let interval = SECOND as f64 / rate;
        Self { start, interval, total, channels, lanes: lanes.clamp(1, channels) }
    }

    /// A schedule of events that are all due from the start.
    pub(crate) fn unpaced(start: u64, total: u64, channels: u32, lanes: u32) -> Self {
        Self { start, interval: 0.0, total, channels, lanes: lanes.clamp(1, channels) }
    }

    pub(crate) fn is_paced(&self) -> bool {
        self.interval > 0.0
    }

    /// Returns the intended send time of event `k`.
    pub(crate) fn intended(&self, k: u64) -> u64 {
        self.start + (k as f64 * self.interval) as u64
    }

    /// Returns the number of events that are due.
    pub(crate) fn due(&self, now: u64) -> u64 {
        if now < self.start {
            return 0;
        }
        if !self.is_paced() {
            return self.total;
        }
        let mut due = ((now - self.start) as f64 / self.interval) as u64;
        while self.intended(due) <= now {
            due += 1; // corrects the rounding of the division
        }
        due.min(self.total)
    }

    /// Returns the lane that sends event `k`.
    pub(crate) fn lane(&self, k: u64) -> u32 {
        self.channel(k) % self.lanes
    }

    /// Returns the `i`-th event of a lane; `None` after the last.
    pub(crate) fn nth(&self, lane: u32, i: u64) -> Option<ScheduleSlot> {
        let own = u64::from((self.channels - lane).div_ceil(self.lanes));
        let channel = u64::from(lane) + i % own * u64::from(self.lanes);
        let seq = i / own;
        let k = seq * u64::from(self.channels) + channel;
        let channel = self.channel(k);
        (k < self.total).then_some(ScheduleSlot { k, channel, seq })
    }

    /// Returns the intended send time of an event of a channel.
    pub(crate) fn intended_in(&self, channel: usize, seq: usize) -> u64 {
        self.intended(seq as u64 * u64::from(self.channels) + channel as u64)
    }

    fn channel(&self, k: u64) -> u32 {
        u32::try_from(k % u64::from(self.channels)).unwrap_or(0) // below `channels`
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_share_all_events_and_keep_the_order_of_each_channel() {
        for (channels, lanes, total) in [(1, 1, 10), (7, 3, 100), (200, 8, 1234), (3, 9, 10)] {
            let schedule = Schedule::paced(0, 100.0, total, channels, lanes);
            let mut seen = vec![false; usize::try_from(total).unwrap()];
            let mut next = vec![0; channels as usize];
            for lane in 0..schedule.lanes {
                let mut last = None;
                for slot in (0..).map_while(|i| schedule.nth(lane, i)) {
                    assert_eq!(schedule.lane(slot.k), lane);
                    assert!(last < Some(slot.k));
                    last = Some(slot.k);
                    assert!(!std::mem::replace(&mut seen[usize::try_from(slot.k).unwrap()], true));
                    assert_eq!(slot.seq, next[slot.channel as usize]);
                    next[slot.channel as usize] += 1;
                    let channel = slot.channel as usize;
                    let seq = usize::try_from(slot.seq).unwrap();
                    assert_eq!(schedule.intended_in(channel, seq), schedule.intended(slot.k));
                }
            }
            assert!(seen.iter().all(|seen| *seen), "{channels} channels, {lanes} lanes");
        }
    }

    #[test]
    fn an_event_is_due_exactly_when_it_is_intended() {
        for rate in [0.5, 3.0, 20.0, 4000.0, 123_456.7] {
            let schedule = Schedule::paced(5_000, rate, 10_000, 1, 1);
            assert_eq!(schedule.due(4_999), 0);
            for k in 0..10_000 {
                let then = schedule.intended(k);
                assert!(schedule.due(then) > k, "event {k} at {rate}/s is late");
                assert!(schedule.due(then - 1) <= k, "event {k} at {rate}/s is early");
            }
            assert_eq!(schedule.due(u64::MAX / 4), 10_000);
        }
    }

    #[test]
    fn what_has_no_pace_is_due_at_once() {
        let schedule = Schedule::unpaced(7, 10, 2, 2);
        assert_eq!((schedule.due(6), schedule.due(7), schedule.intended(9)), (0, 10, 7));
    }
}

//! Counts and latencies of all subscribers together.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::clock::SECOND;
use super::schedule::Schedule;

/// Limit of the completions that are recorded; more would cost too much memory.
const MAX_COMPLETIONS: usize = 4_000_000;

/// A histogram of nanoseconds, from one to ten minutes, with three digits.
#[derive(Clone, Debug)]
pub(crate) struct LatencyTimes(Histogram<u64>);

impl LatencyTimes {
    pub(crate) fn new() -> Self {
        match Histogram::new_with_bounds(1, 600 * SECOND, 3) {
            Ok(histogram) => Self(histogram),
            Err(_) => unreachable!("the bounds are constants, and in bounds"),
        }
    }

    #[inline]
    pub(crate) fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        let _ = self.0.add(&other.0); // both have the same bounds
    }

    /// Returns the quantiles in that unit; `None` if nothing was recorded.
    pub(crate) fn quantiles(&self, unit: u64) -> Option<Quantiles> {
        let at = |q: f64| rounded(self.0.value_at_quantile(q) as f64 / unit as f64);
        (!self.0.is_empty()).then(|| Quantiles {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: rounded(self.0.max() as f64 / unit as f64),
        })
    }
}

/// Quantiles of a duration.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The time of the last delivery of each event, by channel and number; zero if it was not
/// delivered.
#[derive(Clone, Debug)]
pub(crate) struct Completions {
    last: Vec<Vec<u64>>,
    entries: usize,
}

impl Completions {
    fn new(channels: usize) -> Self {
        Self { last: vec![Vec::new(); channels], entries: 0 }
    }

    #[inline]
    pub(crate) fn note(&mut self, channel: usize, seq: u32, now: u64) {
        let row = &mut self.last[channel];
        let seq = seq as usize;
        if seq >= row.len() {
            self.entries += seq + 1 - row.len();
            if self.entries > MAX_COMPLETIONS {
                self.entries = MAX_COMPLETIONS; // events beyond the limit are not recorded
                return;
            }
            row.resize(seq + 1, 0);
        }
        row[seq] = now; // the clock is monotonic within a thread
    }

    fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.last.iter_mut().zip(&other.last) {
            mine.resize(mine.len().max(theirs.len()), 0);
            for (mine, theirs) in mine.iter_mut().zip(theirs) {
                *mine = (*mine).max(*theirs);
            }
        }
    }

    /// Returns the time from the intended send to the last delivery, of events intended from `from`
    /// on.
    pub(crate) fn times(&self, schedule: &Schedule, from: u64) -> LatencyTimes {
        let mut times = LatencyTimes::new();
        for (channel, row) in self.last.iter().enumerate() {
            for (seq, last) in row.iter().enumerate().filter(|(_, last)| **last > 0) {
                let intended = schedule.intended_in(channel, seq);
                if intended >= from {
                    times.record(last.saturating_sub(intended));
                }
            }
        }
        times
    }
}

/// The measurements of one subscriber thread; they are summed at the end.
#[derive(Clone, Debug)]
pub(crate) struct Stats {
    pub(crate) delivered: u64,
    pub(crate) duplicates: u64,
    pub(crate) disorder: u64,
    /// Bytes after the response heads, framing included.
    pub(crate) bytes: u64,
    pub(crate) latency: LatencyTimes,
    /// The delay between readiness and handling of a socket in the load generator.
    pub(crate) lag: LatencyTimes,
    /// From the first connection until a subscriber has the whole history.
    pub(crate) catch_up: LatencyTimes,
    pub(crate) completions: Completions,
    /// By channel: the number of reading subscribers, and the events they received in total.
    pub(crate) readers: Vec<u64>,
    pub(crate) received: Vec<u64>,
    /// The id of the last event by channel, where ids are watched.
    pub(crate) last_ids: Vec<Option<String>>,
}

impl Stats {
    pub(crate) fn new(channels: usize) -> Self {
        Self {
            delivered: 0,
            duplicates: 0,
            disorder: 0,
            bytes: 0,
            latency: LatencyTimes::new(),
            lag: LatencyTimes::new(),
            catch_up: LatencyTimes::new(),
            completions: Completions::new(channels),
            readers: vec![0; channels],
            received: vec![0; channels],
            last_ids: vec![None; channels],
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.delivered += other.delivered;
        self.duplicates += other.duplicates;
        self.disorder += other.disorder;
        self.bytes += other.bytes;
        self.latency.add(&other.latency);
        self.lag.add(&other.lag);
        self.catch_up.add(&other.catch_up);
        self.completions.add(&other.completions);
        for channel in 0..self.readers.len() {
            self.readers[channel] += other.readers[channel];
            self.received[channel] += other.received[channel];
            if self.last_ids[channel].is_none() {
                self.last_ids[channel].clone_from(&other.last_ids[channel]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_complete_when_the_last_thread_has_it() {
        let schedule = Schedule::paced(1_000, 1e6, 4, 2, 1); // one per microsecond
        let mut a = Stats::new(2);
        let mut b = Stats::new(2);
        a.completions.note(0, 0, 2_000);
        a.completions.note(1, 0, 3_000); // intended at 2000
        b.completions.note(0, 0, 9_000);
        b.completions.note(0, 1, 4_000); // intended at 3000
        a.add(&b);
        let times = a.completions.times(&schedule, 1_000).quantiles(1_000).unwrap();
        assert_eq!((times.p50, times.max), (1.0, 8.0));
        let later = a.completions.times(&schedule, 2_000).quantiles(1_000).unwrap();
        assert_eq!(later.max, 1.0);
    }

    #[test]
    fn nothing_recorded_has_no_quantiles() {
        assert_eq!(LatencyTimes::new().quantiles(1), None);
    }
}

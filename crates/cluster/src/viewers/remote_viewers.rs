//! The numbers of viewers at other hubs, as they have reported them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::report::{Report, ReportError};
use crate::batch::Codec;
use crate::command::SessionId;
use crate::log::LogTime;
use crate::state_machine::MAX_SESSIONS;
use crate::text::Text;

/// Maximum number of counts of all sessions.
const MAX_COUNTS: usize = 1_000_000;

/// Channels whose number of viewers at other hubs has changed, and that number.
pub type Totals = BTreeMap<Text, u64>;

/// The viewers at other hubs. Times count from any fixed moment.
#[derive(Debug)]
pub struct RemoteViewers {
    codec: Codec,
    epoch: Text,
    sessions: BTreeMap<SessionId, Remote>,
    sums: Sums,
}

/// The viewers at one hub.
#[derive(Debug, Default)]
struct Remote {
    /// The number of the last report.
    number: u64,
    /// When the last report was received.
    received: Duration,
    /// The time of the last report.
    time: LogTime,
    counts: BTreeMap<Text, Count>,
    /// The number of rounds that have begun.
    round: u64,
    /// Whether all reports of the round that is under way were received.
    is_round_whole: bool,
    /// Whether all reports since the beginning of a round that has ended were received: the counts
    /// are those of the last report.
    is_complete: bool,
}

/// The viewers of one channel at one hub.
#[derive(Debug)]
struct Count {
    viewers: u64,
    /// The round in which this was last reported.
    round: u64,
}

/// Sums over all sessions.
#[derive(Debug, Default)]
struct Sums {
    totals: BTreeMap<Text, u64>,
    /// The number of counts.
    counts: usize,
}

impl RemoteViewers {
    /// Returns the viewers at other hubs that use the log that was created with this epoch. None
    /// is known.
    #[must_use]
    pub fn new(codec: Codec, epoch: Text) -> Self {
        Self { codec, epoch, sessions: BTreeMap::new(), sums: Sums::default() }
    }

    /// Returns the number of viewers of a channel at all other hubs.
    #[must_use]
    pub fn total(&self, channel: &str) -> u64 {
        self.sums.totals.get(channel.as_bytes()).copied().unwrap_or(0)
    }

    /// Notes a broadcast of another hub. `is_counted` returns whether a session is of another hub,
    /// and has not ended as far as the log was read: a report may come before the hello of its
    /// session. Returns what has changed.
    ///
    /// # Errors
    /// The broadcast is not a report of this log.
    pub fn receive(
        &mut self,
        broadcast: &Bytes,
        is_counted: impl FnOnce(SessionId) -> bool,
        now: Duration,
    ) -> Result<Totals, ReportError> {
        let report = Report::decode(&self.codec, broadcast)?;
        if report.epoch != self.epoch {
            return Err(ReportError::OtherLog);
        }
        let mut changed = Totals::new();
        let is_full = self.sessions.len() >= MAX_SESSIONS;
        if !is_counted(report.session) || is_full && !self.sessions.contains_key(&report.session) {
            return Ok(changed);
        }
        let remote = self.sessions.entry(report.session).or_default();
        if report.number > remote.number {
            remote.take(&report, now, &mut self.sums, &mut changed);
        }
        Ok(changed)
    }

    /// Forgets the viewers of a session that has ended. Returns what has changed.
    pub fn end_session(&mut self, session: SessionId) -> Totals {
        let mut changed = Totals::new();
        if let Some(mut remote) = self.sessions.remove(&session) {
            remote.remove_before(u64::MAX, &mut self.sums, &mut changed);
        }
        changed
    }

    /// Returns the age of the oldest of the last reports of these sessions; [`Duration::MAX`] if
    /// one of them has reported nothing, or if a report of it is missing, until its next round.
    /// `time` is that of the last message of the log that was applied: a report that was delayed
    /// on its way is as old as the log says.
    #[must_use]
    pub fn oldest_report(
        &self,
        sessions: impl IntoIterator<Item = SessionId>,
        now: Duration,
        time: LogTime,
    ) -> Duration {
        let age = |session| match self.sessions.get(&session) {
            Some(remote) if remote.is_complete => remote.age(now, time),
            _ => Duration::MAX,
        };
        sessions.into_iter().map(age).max().unwrap_or_default()
    }

    /// Returns the numbers of sessions, of counts and of channels.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> [usize; 3] {
        [self.sessions.len(), self.sums.counts, self.sums.totals.len()]
    }
}

impl Remote {
    fn age(&self, now: Duration, time: LogTime) -> Duration {
        let by_log = Duration::from_nanos(time.0.saturating_sub(self.time.0));
        by_log.max(now.saturating_sub(self.received))
    }

    /// Notes a report that is later than the last one.
    fn take(&mut self, report: &Report, now: Duration, sums: &mut Sums, changed: &mut Totals) {
        if report.number != self.number + 1 {
            self.note_missing();
        }
        self.number = report.number;
        self.received = now;
        self.time = report.time;
        if report.begins {
            self.round += 1;
            self.is_round_whole = true;
        }
        for (channel, viewers) in &report.counts {
            self.set(channel, *viewers, sums, changed);
        }
        if report.ends && self.is_round_whole {
            self.remove_before(self.round, sums, changed);
            self.is_round_whole = false;
            self.is_complete = true;
        }
    }

    fn note_missing(&mut self) {
        self.is_round_whole = false;
        self.is_complete = false;
    }

    fn set(&mut self, channel: &Text, viewers: u64, sums: &mut Sums, changed: &mut Totals) {
        let round = self.round;
        match self.counts.get_mut(channel) {
            None if viewers == 0 => {}
            None if sums.counts >= MAX_COUNTS => self.note_missing(),
            None => {
                let name = sums.change(channel, 0, viewers, changed);
                self.counts.insert(name, Count { viewers, round });
            }
            Some(count) => {
                sums.change(channel, count.viewers, viewers, changed);
                *count = Count { viewers, round };
                if viewers == 0 {
                    self.counts.remove(channel);
                }
            }
        }
    }

    /// Removes the channels that were last reported before this round.
    fn remove_before(&mut self, round: u64, sums: &mut Sums, changed: &mut Totals) {
        for (channel, count) in self.counts.extract_if(.., |_, count| count.round < round) {
            sums.change(&channel, count.viewers, 0, changed);
        }
    }
}

impl Sums {
    /// Replaces a count. Returns the name of the channel, in memory of its own.
    fn change(&mut self, channel: &Text, before: u64, after: u64, changed: &mut Totals) -> Text {
        self.counts += usize::from(before == 0);
        self.counts -= usize::from(after == 0);
        let known = self.totals.remove_entry(channel);
        let (name, total) = known.unwrap_or_else(|| (channel.detached(), 0));
        let total = total - before + after;
        if total > 0 {
            self.totals.insert(name.clone(), total);
        }
        if before != after {
            changed.insert(name.clone(), total);
        }
        name
    }
}

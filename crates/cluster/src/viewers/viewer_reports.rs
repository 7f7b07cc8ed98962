//! The reports that a hub sends.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;

use super::report::{MAX_VIEWERS, Report};
use crate::batch::Codec;
use crate::command::SessionId;
use crate::log::LogTime;
use crate::text::Text;

/// The interval at which changes are reported.
const INTERVAL: Duration = Duration::from_millis(500);

/// The time without a report after which an empty one is sent: a hub whose last report is old may
/// have viewers that others do not know of.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The interval at which rounds begin.
const ROUND_INTERVAL: Duration = Duration::from_secs(15);

/// Maximum number of reports at one time.
const MAX_REPORTS: usize = 16;

/// The size of a report's counts from which on no channel is added: the rest of a broadcast has
/// room for one more channel and all other fields.
const FULL: usize = 60 << 10;

/// Maximum bytes of a channel in a report, its name aside.
const COUNT_BYTES: usize = 8;

/// Maximum number of channels whose changes are to be reported. From there on a round reports all
/// channels instead.
const MAX_CHANGED: usize = 100_000;

/// The numbers of viewers of this hub, and which of them are to be reported. Times count from any
/// fixed moment.
#[derive(Debug)]
pub struct ViewerReports {
    codec: Codec,
    epoch: Text,
    /// The live session of this hub.
    session: Option<SessionId>,
    /// The number of the last report of the session.
    number: u64,
    /// All channels that have viewers.
    viewers: BTreeMap<Text, u64>,
    /// Channels whose number of viewers has changed since it was reported.
    changed: BTreeSet<Text>,
    round: Round,
    round_due: Duration,
    due: Duration,
    last_report: Option<Duration>,
}

/// How far all channels were reported.
#[derive(Debug, PartialEq, Eq)]
enum Round {
    /// No round is under way.
    None,
    /// The next report begins one.
    Begins,
    /// All channels up to this one were reported.
    After(Text),
}

/// The counts of one report.
#[derive(Default)]
struct Counts {
    list: Vec<(Text, u64)>,
    bytes: usize,
}

impl Counts {
    fn push(&mut self, channel: Text, viewers: u64) {
        self.bytes += channel.as_bytes().len() + COUNT_BYTES;
        self.list.push((channel, viewers));
    }
}

impl ViewerReports {
    /// Returns the reports of a hub without viewers, for the log that was created with this epoch.
    #[must_use]
    pub fn new(codec: Codec, epoch: Text) -> Self {
        Self {
            codec,
            epoch,
            session: None,
            number: 0,
            viewers: BTreeMap::new(),
            changed: BTreeSet::new(),
            round: Round::None,
            round_due: Duration::ZERO,
            due: Duration::ZERO,
            last_report: None,
        }
    }

    /// Sets the number of viewers that a channel has at this hub.
    pub fn set(&mut self, channel: &str, viewers: u64) {
        let viewers = viewers.min(MAX_VIEWERS);
        let known = self.viewers.get_key_value(channel.as_bytes());
        let name = match known {
            Some((_, before)) if *before == viewers => return,
            None if viewers == 0 => return,
            Some((name, _)) => name.clone(),
            None => Text::from(channel),
        };
        if viewers == 0 {
            self.viewers.remove(&name);
        } else {
            self.viewers.insert(name.clone(), viewers);
        }
        // The first round of a session reports all channels.
        if self.session.is_some() {
            self.changed.insert(name);
        }
        if self.changed.len() > MAX_CHANGED {
            self.skip_changes();
        }
    }

    /// Reports in another session of this hub from now on.
    pub fn begin(&mut self, session: SessionId) {
        self.session = Some(session);
        self.number = 0;
        self.changed.clear();
        self.round = Round::Begins;
    }

    /// Reports nothing until another session of this hub begins.
    pub fn end(&mut self) {
        self.session = None;
        self.changed.clear();
    }

    /// Begins a round as soon as possible: a hub has begun a session, and knows nothing.
    pub fn repeat(&mut self) {
        self.round_due = Duration::ZERO;
    }

    /// Begins a round instead of reporting the changes. Until it ends, other hubs miss the report
    /// whose number is left out, and so know that their numbers are outdated.
    fn skip_changes(&mut self) {
        self.changed.clear();
        self.number += 1;
        self.round = Round::Begins;
    }

    /// Returns the next time at which there may be something to send.
    #[must_use]
    pub fn next_poll(&self) -> Option<Duration> {
        self.session.map(|_| self.due)
    }

    /// Returns the broadcasts to send now. `time` is that of the last message of the log that was
    /// applied, from before the numbers of viewers are read.
    pub fn poll(&mut self, now: Duration, time: LogTime) -> Vec<Bytes> {
        let mut broadcasts = Vec::new();
        let Some(session) = self.session.filter(|_| now >= self.due) else { return broadcasts };
        self.due = now + INTERVAL;
        if self.round == Round::None && now >= self.round_due {
            self.round = Round::Begins;
        }
        if self.round == Round::Begins {
            self.round_due = now + ROUND_INTERVAL;
        }
        let mut is_wanted = self.last_report.is_none_or(|last| now >= last + HEARTBEAT);
        while is_wanted || self.round != Round::None || !self.changed.is_empty() {
            if broadcasts.len() == MAX_REPORTS {
                break;
            }
            broadcasts.push(self.next_report(session, time).encode(&self.codec));
            self.last_report = Some(now);
            is_wanted = false;
        }
        broadcasts
    }

    /// Returns a report of changes, and of a part of the round if one is under way: then half of
    /// the report is left for it, so that it ends however much changes.
    fn next_report(&mut self, session: SessionId, time: LogTime) -> Report {
        let mut counts = Counts::default();
        let full = if self.round == Round::None { FULL } else { FULL / 2 };
        while counts.bytes < full
            && let Some(channel) = self.changed.pop_first()
        {
            let viewers = self.viewers.get(&channel).copied().unwrap_or(0);
            counts.push(channel, viewers);
        }
        let begins = self.round == Round::Begins;
        let ends = self.continue_round(&mut counts);
        self.number += 1;
        let epoch = self.epoch.clone();
        Report { session, number: self.number, time, epoch, begins, ends, counts: counts.list }
    }

    /// Adds the next channels of the round that is under way. Returns whether it ends.
    fn continue_round(&mut self, counts: &mut Counts) -> bool {
        let from = match &self.round {
            Round::None => return false,
            Round::Begins => Bound::Unbounded,
            Round::After(channel) => Bound::Excluded(channel.as_bytes()),
        };
        let mut rest = self.viewers.range::<[u8], _>((from, Bound::Unbounded));
        let mut last = None;
        while counts.bytes < FULL {
            let Some((channel, viewers)) = rest.next() else {
                self.round = Round::None;
                return true;
            };
            counts.push(channel.clone(), *viewers);
            last = Some(channel.clone());
        }
        if let Some(last) = last {
            self.round = Round::After(last);
        }
        false
    }
}

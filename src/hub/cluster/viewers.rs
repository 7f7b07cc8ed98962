//! The viewers at the other hubs of the cluster, and the reports of those at this one.

use std::time::Duration;

use bytes::Bytes;
use fanfare_cluster::batch::Codec;
use fanfare_cluster::command::SessionId;
use fanfare_cluster::log::LogTime;
use fanfare_cluster::state_machine::{Applied, Effect};
use fanfare_cluster::text::Text;
use fanfare_cluster::viewers::{RemoteViewers, Totals, ViewerReports};

/// Maximum age of the last report of each other hub at which the absence of viewers is certain
/// enough to end a generation.
const MAX_AGE: Duration = Duration::from_secs(3);

/// The viewers of all hubs. Times count from the beginning of the hub.
#[derive(Debug)]
pub(super) struct Viewers {
    reports: ViewerReports,
    remote: RemoteViewers,
    /// The time of the last message of the log that was applied.
    time: LogTime,
    /// The live session of this hub.
    own: Option<SessionId>,
}

impl Viewers {
    pub(super) fn new(codec: &Codec, epoch: &Text) -> Self {
        Self {
            reports: ViewerReports::new(codec.clone(), epoch.clone()),
            remote: RemoteViewers::new(codec.clone(), epoch.clone()),
            time: LogTime::default(),
            own: None,
        }
    }

    /// Notes a message that was applied, and the live session of this hub after it. Returns what
    /// has changed.
    pub(super) fn note(&mut self, applied: &Applied, own: Option<SessionId>) -> Totals {
        self.time = applied.time;
        if own != self.own {
            match own {
                Some(session) => self.reports.begin(session),
                None => self.reports.end(),
            }
            self.own = own;
        }
        let mut changed = Totals::new();
        for effect in &applied.effects {
            match effect {
                Effect::SessionEnded { session } => {
                    changed.extend(self.remote.end_session(*session));
                }
                Effect::SessionBegan { session, .. } if Some(*session) != own => {
                    self.reports.repeat();
                }
                _ => {}
            }
        }
        changed
    }

    /// Notes a broadcast of another hub. `is_counted` returns whether a session has not ended as
    /// far as the log was applied. Returns what has changed.
    pub(super) fn receive(
        &mut self,
        broadcast: &Bytes,
        is_counted: impl FnOnce(SessionId) -> bool,
        now: Duration,
    ) -> Totals {
        let own = self.own;
        let is_counted = |session| Some(session) != own && is_counted(session);
        self.remote.receive(broadcast, is_counted, now).unwrap_or_else(|why| {
            tracing::debug!(%why, "a report of viewers was not used");
            Totals::new()
        })
    }

    /// Sets the number of viewers that a channel has at this hub.
    pub(super) fn set(&mut self, channel: &str, viewers: usize) {
        self.reports.set(channel, viewers as u64);
    }

    /// Returns the number of viewers of a channel at all other hubs.
    pub(super) fn remote(&self, channel: &str) -> usize {
        count(self.remote.total(channel))
    }

    /// Returns the broadcasts to send now.
    pub(super) fn poll(&mut self, now: Duration) -> Vec<Bytes> {
        self.reports.poll(now, self.time)
    }

    /// Returns whether the numbers of viewers at these other hubs are recent.
    pub(super) fn are_recent(
        &self,
        others: impl IntoIterator<Item = SessionId>,
        now: Duration,
    ) -> bool {
        self.remote.oldest_report(others, now, self.time) < MAX_AGE
    }
}

pub(super) fn count(viewers: u64) -> usize {
    usize::try_from(viewers).unwrap_or(usize::MAX)
}

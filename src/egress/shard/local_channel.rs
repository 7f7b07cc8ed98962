//! A channel as a shard sees it: who listens to it here, and how far a sweep has come.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::inbox::ChannelNotifier;
use crate::clock::Micros;
use crate::hub::{Channel, Presence};

/// A channel, and who listens to it here.
pub(super) struct LocalChannel {
    pub(super) channel: Arc<Channel>,
    /// Its members, counted at the channel.
    pub(super) presence: Presence,
    pub(super) notifier: Arc<ChannelNotifier>,
    pub(super) listener: usize,
    /// Events that come within this time go out together; zero if each goes at once.
    pub(super) window: Duration,
    /// The byte of the log up to which the last sweep went.
    pub(super) swept: u64,
    pub(super) members: Vec<u32>,
    pub(super) sweep: Option<Sweep>,
    /// No sweep begins before, so that events pile up and go out together.
    pub(super) rests_until: Option<Instant>,
    /// It waits for the end of its rest.
    pub(super) waits: bool,
    /// When a publisher last delivered inline.
    pub(super) delivered_inline: Option<Instant>,
}

impl LocalChannel {
    /// Whether neighbouring deltas are merged for all who are here.
    pub(super) fn merges(&self) -> bool {
        !self.window.is_zero()
    }

    /// Whether something has come that does not wait for the window's end. Whatever comes after
    /// this question marks it dirty again.
    pub(super) fn must_flush(&self) -> bool {
        self.notifier.clear();
        self.channel.must_flush(self.swept)
    }
}

/// A sweep that is under way.
#[derive(Clone, Copy, Default)]
pub(super) struct Sweep {
    /// The member with whom it began: not always the same, so that none is always the last.
    pub(super) start: usize,
    /// What is new begins at this byte of the log: the sweep before went up to there.
    pub(super) news_from: u64,
    /// How many have had their turn.
    pub(super) visited: usize,
    /// Somebody must be visited again.
    pub(super) again: bool,
    /// The channel has something newer.
    pub(super) dirty: bool,
    /// When the first of the events came that it is for, if it is for new ones.
    pub(super) dirty_since: Option<Micros>,
    /// What it has done so far, and the time that it has taken.
    pub(super) events: u64,
    pub(super) writes: u64,
    pub(super) took: Duration,
}

//! A channel as a shard sees it: its subscribers there, and the progress of a sweep.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::notifier::ChannelNotifier;
use crate::clock::Micros;
use crate::hub::{Channel, Presence};

/// A channel, its subscribers at one shard, and the state of its sweeps.
pub(super) struct LocalChannel {
    pub(super) channel: Arc<Channel>,
    /// Counts the members at the channel.
    pub(super) presence: Presence,
    pub(super) notifier: Arc<ChannelNotifier>,
    pub(super) listener: usize,
    /// The coalescing window; zero if each event is sent at once.
    pub(super) window: Duration,
    /// The byte of the log up to which the last sweep went.
    pub(super) swept: u64,
    pub(super) members: Vec<u32>,
    pub(super) sweep: Option<Sweep>,
    /// No sweep begins before this moment, so that events pile up and are sent together.
    pub(super) rests_until: Option<Instant>,
    /// The channel is in the queue of those whose pause has yet to end.
    pub(super) waits: bool,
    /// When a publisher last delivered inline.
    pub(super) delivered_inline: Option<Instant>,
}

impl LocalChannel {
    /// Returns whether neighbouring deltas are merged for all members.
    pub(super) fn merges(&self) -> bool {
        !self.window.is_zero()
    }

    /// Returns whether an event arrived that does not wait for the window's end. Clears the latch
    /// first, so that a later append marks the channel dirty again.
    pub(super) fn must_flush(&self) -> bool {
        self.notifier.clear();
        self.channel.must_flush(self.swept)
    }
}

/// A sweep in progress.
#[derive(Clone, Copy, Default)]
pub(super) struct Sweep {
    /// The index of the first member: random, so that none is always the last.
    pub(super) start: usize,
    /// The byte of the log up to which the sweep before went: new events begin there.
    pub(super) news_from: u64,
    /// Members visited so far.
    pub(super) visited: usize,
    /// A member must be visited again.
    pub(super) again: bool,
    /// The channel has newer events.
    pub(super) dirty: bool,
    /// The time at which the first of the new events arrived, if there are any.
    pub(super) dirty_since: Option<Micros>,
    /// Events and writes so far, and the time that they took.
    pub(super) events: u64,
    pub(super) writes: u64,
    pub(super) took: Duration,
}

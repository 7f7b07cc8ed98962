//! The presence of subscribers at a channel: they are counted there, and may hold it in memory.

use std::sync::Arc;
use std::time::Duration;

use super::channel::{Channel, ChannelListener};
use super::control::EndReason;
use super::core::Core;
use super::read::{Start, StartAt};
use crate::telemetry::Metrics;

/// Subscribers that are counted at a channel until this is dropped; usually one.
pub struct Presence {
    core: Arc<Core>,
    channel: Arc<Channel>,
    holds: bool,
    count: usize,
}

impl Presence {
    /// Counts a subscriber at the channel, and holds the channel in memory. Returns where its
    /// reading begins.
    pub(super) fn join(core: &Arc<Core>, channel: &Arc<Channel>, begin: StartAt) -> (Start, Self) {
        let beginning = channel.join(begin);
        (beginning, Self::new(core, channel, true))
    }

    fn new(core: &Arc<Core>, channel: &Arc<Channel>, holds: bool) -> Self {
        Self { core: core.clone(), channel: channel.clone(), holds, count: 1 }
    }

    /// Returns the channel.
    #[must_use]
    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Adds the subscribers of another presence at the same channel.
    pub fn absorb(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.channel, &other.channel), "another channel");
        self.count += std::mem::take(&mut other.count);
    }

    /// Removes one subscriber.
    pub fn leave(&mut self) {
        if self.count > 0 {
            self.count -= 1;
            if self.channel.leave(self.holds) {
                self.core.registry.evict_if_unused(self.channel.name(), Duration::ZERO);
            }
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        for _ in 0..self.count {
            self.leave();
        }
    }
}

/// A subscriber that is counted at a channel, and its listener there.
pub(super) struct Attachment {
    presence: Presence,
    key: usize,
}

impl Attachment {
    /// Counts a subscriber at the channel and adds its listener, in one step. Returns where its
    /// reading begins.
    pub(super) fn new(
        core: &Arc<Core>,
        channel: &Arc<Channel>,
        begin: StartAt,
        holds: bool,
        listener: Arc<dyn ChannelListener>,
    ) -> (Start, Self) {
        let (beginning, key) = channel.attach(begin, holds, listener);
        (beginning, Self { presence: Presence::new(core, channel, holds), key })
    }

    /// Adds the listener of a subscriber that is counted already.
    pub(super) fn listen(presence: Presence, listener: Arc<dyn ChannelListener>) -> Self {
        let key = presence.channel.add_listener(listener);
        Self { presence, key }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.presence.channel.remove_listener(self.key);
    }
}

/// A subscription in the metrics: its end is counted when this is dropped.
pub struct Counted {
    metrics: Arc<Metrics>,
    reason: Option<EndReason>,
}

impl Counted {
    /// Counts the start of a subscription. Unless another reason is set, it ends because its client
    /// is gone.
    pub(super) fn start(metrics: &Arc<Metrics>, resumed: bool) -> Self {
        metrics.subscription_started(resumed);
        Self { metrics: metrics.clone(), reason: Some(EndReason::ClientGone) }
    }

    /// Sets why the subscription ends.
    pub(super) fn set_reason(&mut self, reason: EndReason) {
        self.reason = Some(reason);
    }

    /// Leaves it to the caller to count the end.
    pub fn release(mut self) {
        self.reason = None;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(reason) = self.reason {
            self.metrics.subscription_ended(reason.as_str());
        }
    }
}

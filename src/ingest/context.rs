//! What all publishes share: the hub, the remembered keys, and the limits.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::config::Config;
use super::error::PublishError;
use super::idempotency::Ledger;
use super::receipt::{MultiReceipt, Receipt};
use crate::channel::ChannelName;
use crate::hub::Hub;
use crate::quota::Budget;

/// The scopes of the idempotency keys of publishes to one channel begin with this.
pub(super) const ONE_CHANNEL: &str = "one ";

/// The scopes of the idempotency keys of publishes to many channels begin with this.
pub(super) const MANY_CHANNELS: &str = "many ";

/// The state that all publishes share.
pub(super) struct IngestContext {
    pub(super) hub: Hub,
    pub(super) config: Config,
    pub(super) receipts: Ledger<ChannelName, Receipt>,
    pub(super) multi_receipts: Ledger<Arc<str>, MultiReceipt>,
    /// Number of publishes that run.
    pub(super) running: AtomicUsize,
    /// The budget of body bytes that are not events yet.
    pub(super) unfinished: Budget,
}

impl IngestContext {
    pub(super) fn new(hub: Hub, config: Config) -> Self {
        let window = config.idempotency_window;
        let keys = config.max_idempotency_keys;
        let receipts = Ledger::new(ONE_CHANNEL, window, keys, hub.metrics().clone());
        let multi_receipts = Ledger::new(MANY_CHANNELS, window, keys, hub.metrics().clone());
        let most = usize::try_from(config.max_unfinished.as_u64()).unwrap_or(usize::MAX);
        let running = AtomicUsize::new(0);
        let unfinished = Budget::new(most);
        Self { hub, config, receipts, multi_receipts, running, unfinished }
    }

    /// Counts a publish, if not too many run.
    pub(super) fn admit(self: &Arc<Self>) -> Result<Running, PublishError> {
        let others = self.running.fetch_add(1, Ordering::Relaxed);
        // Made in any case: its drop reverts the count.
        let running = Running(self.clone());
        if others >= self.config.max_streams {
            self.hub.metrics().limit_hit("publish.max_streams");
            return Err(PublishError::Overloaded);
        }
        Ok(running)
    }

    pub(super) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Returns the maximum number of bytes of data in one event.
    pub(super) fn max_event_bytes(&self) -> usize {
        usize::try_from(self.config.max_event_bytes.as_u64()).unwrap_or(usize::MAX)
    }
}

/// A publish that runs: it is counted until this is dropped.
pub(super) struct Running(Arc<IngestContext>);

impl Deref for Running {
    type Target = IngestContext;

    fn deref(&self) -> &IngestContext {
        &self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

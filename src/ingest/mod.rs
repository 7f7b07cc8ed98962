//! Publishing: turns bodies of requests into events, and events into receipts.
//!
//! It is independent of routes and headers. A [`Publish`] is fed the chunks of a body as they
//! arrive, and publishes the events that a chunk completes before it takes the next one.

mod body;
mod end_detector;
mod idempotency;
mod multi_publish;
mod publish;
mod share;

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

pub use body::{BodyKind, Foreign, InvalidEvent};
pub use idempotency::{IdempotencyKey, InvalidIdempotencyKey};
pub use multi_publish::{CanPublish, InvalidLine, MultiPublish, MultiReceipt, Sender};
pub use publish::{
    Begun, Closing, ErrorPlace, Failure, Fed, Publish, PublishError, PublishOptions, Receipt, Tally,
};
pub use share::{NoRoom, Share};

use idempotency::Ledger;

use crate::channel::ChannelName;
use crate::hub::Hub;
use crate::quota::Budget;
use crate::store::disk;
use crate::telemetry::Metrics;

/// Settings of the section `publish`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes of data in one event.
    pub max_event_bytes: ByteSize,
    /// Time for which the receipt of a request with an `Idempotency-Key` is kept.
    #[serde(with = "humantime_serde")]
    pub idempotency_window: Duration,
    /// Maximum number of remembered keys; the oldest are forgotten first.
    pub max_idempotency_keys: usize,
    /// Maximum number of publish requests at a time.
    pub max_streams: usize,
    /// Maximum bytes of all bodies together that are not events yet.
    pub max_unfinished: ByteSize,
    /// Maximum time for which a streamed body may send nothing; comments count as data.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_event_bytes: ByteSize::mib(8),
            idempotency_window: Duration::from_secs(300),
            max_idempotency_keys: 100_000,
            max_streams: 10_000,
            max_unfinished: ByteSize::mib(256),
            idle_timeout: Duration::from_secs(300),
        }
    }
}

/// Accepts publish requests; a cheap handle.
#[derive(Clone)]
pub struct Ingest(Arc<IngestState>);

struct IngestState {
    hub: Hub,
    config: Config,
    receipts: Ledger<ChannelName, Receipt>,
    multi_receipts: Ledger<Arc<str>, MultiReceipt>,
    running: AtomicUsize,
    unfinished: Budget,
}

impl Ingest {
    /// Creates a handle that publishes into this hub.
    #[must_use]
    pub fn new(hub: Hub, config: Config) -> Self {
        let (window, keys) = (config.idempotency_window, config.max_idempotency_keys);
        let receipts = Ledger::new("one ", window, keys, hub.metrics().clone());
        let multi_receipts = Ledger::new("many ", window, keys, hub.metrics().clone());
        let most = usize::try_from(config.max_unfinished.as_u64()).unwrap_or(usize::MAX);
        let (running, unfinished) = (AtomicUsize::new(0), Budget::new(most));
        Self(Arc::new(IngestState { hub, config, receipts, multi_receipts, running, unfinished }))
    }

    /// Restores the receipts that the store has kept, oldest first.
    pub fn restore(&self, kept: &[disk::StoredReceipt]) {
        let now = self.0.hub.clock().now();
        for receipt in kept {
            let _ = self.0.receipts.restore(receipt, now)
                || self.0.multi_receipts.restore(receipt, now);
        }
    }

    /// Returns the budget of body bytes that are not events yet.
    fn unfinished(&self) -> &Budget {
        &self.0.unfinished
    }

    /// Returns the time for which a streamed body may send nothing.
    #[must_use]
    pub fn idle_timeout(&self) -> Duration {
        self.0.config.idle_timeout
    }

    /// Returns the hub's metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        self.0.hub.metrics()
    }

    /// Begins a publish to one channel. If its key has a receipt, that is returned.
    ///
    /// # Errors
    /// Too many publishes run already, or the key's first request still runs.
    pub fn publish(
        &self,
        channel: ChannelName,
        kind: BodyKind,
        options: PublishOptions,
    ) -> Result<Begun<Box<Publish>, Receipt>, PublishError> {
        Publish::begin(self.admit()?, channel, kind, options)
    }

    /// Begins a publish to many channels.
    ///
    /// # Errors
    /// As for [`publish`](Self::publish).
    pub fn publish_many(
        &self,
        sender: Sender,
        key: Option<IdempotencyKey>,
    ) -> Result<Begun<MultiPublish, MultiReceipt>, PublishError> {
        MultiPublish::begin(self.admit()?, sender, key)
    }

    /// Returns the number of publish requests that run.
    #[must_use]
    pub fn active(&self) -> usize {
        self.0.running.load(Ordering::Relaxed)
    }

    fn admit(&self) -> Result<Running, PublishError> {
        let others = self.0.running.fetch_add(1, Ordering::Relaxed);
        // Made in any case: its drop reverts the count.
        let running = Running { ingest: self.clone() };
        if others >= self.0.config.max_streams {
            self.metrics().limit_hit("publish.max_streams");
            return Err(PublishError::Overloaded);
        }
        Ok(running)
    }

    fn hub(&self) -> &Hub {
        &self.0.hub
    }

    fn max_event_bytes(&self) -> usize {
        usize::try_from(self.0.config.max_event_bytes.as_u64()).unwrap_or(usize::MAX)
    }
}

/// A publish that runs: it is counted until this is dropped.
struct Running {
    ingest: Ingest,
}

impl Deref for Running {
    type Target = Ingest;

    fn deref(&self) -> &Ingest {
        &self.ingest
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ingest.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;

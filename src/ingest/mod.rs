//! Publishing: turns bodies of requests into events, and events into receipts.
//!
//! It is independent of routes and headers. A [`Publish`] is fed the chunks of a body as they
//! arrive, and publishes the events that a chunk completes before it takes the next one.

mod body;
mod body_memory;
mod config;
mod context;
mod end_detector;
mod error;
mod idempotency;
mod multi_publish;
mod publish;
mod receipt;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub use body::{BodyKind, Foreign, InvalidEvent};
pub use body_memory::{NoRoom, Share};
pub use config::Config;
pub use error::{ErrorPlace, Failure, InvalidLine, PublishError};
pub use idempotency::{IdempotencyKey, InvalidIdempotencyKey};
pub use multi_publish::{CanPublish, MultiPublish, Sender};
pub use publish::{Closing, Fed, Publish, PublishOptions};
pub use receipt::{Begun, Hint, MultiReceipt, Receipt, Tally};

use context::IngestContext;

use crate::channel::ChannelName;
use crate::event::NewEvent;
use crate::hub::{Append, Close, Hub, SubmitError};
use crate::quota::Budget;
use crate::store::disk;
use crate::telemetry::Metrics;

/// Accepts publish requests; a cheap handle.
#[derive(Clone)]
pub struct Ingest(Arc<IngestContext>);

impl Ingest {
    /// Creates a handle that publishes into this hub.
    #[must_use]
    pub fn new(hub: Hub, config: Config) -> Self {
        Self(Arc::new(IngestContext::new(hub, config)))
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
    /// Too many publishes run already, the key's first request still runs, or the channel refuses a
    /// producer.
    pub async fn publish(
        &self,
        channel: ChannelName,
        kind: BodyKind,
        options: PublishOptions,
    ) -> Result<Begun<Box<Publish>, Receipt>, PublishError> {
        Publish::begin(self.0.admit()?, channel, kind, options).await
    }

    /// Begins a publish to many channels.
    ///
    /// # Errors
    /// Too many publishes run already, or the key's first request still runs.
    pub fn publish_many(
        &self,
        sender: Sender,
        key: Option<IdempotencyKey>,
    ) -> Result<Begun<MultiPublish, MultiReceipt>, PublishError> {
        MultiPublish::begin(self.0.admit()?, sender, key)
    }

    /// Publishes the events of a program that runs the hub as a part of itself, and closes the
    /// channel if asked to. Returns when they are as durable as the channel requires.
    ///
    /// # Errors
    /// The channel has ended, there are too many channels, or the store takes no writes.
    pub async fn append(
        &self,
        channel: &ChannelName,
        events: &[NewEvent],
        close: Option<&Close>,
    ) -> Result<(), SubmitError> {
        self.0.hub.append(channel, Append::of(events, close)).await.map(drop)
    }

    /// Returns the number of publish requests that run.
    #[must_use]
    pub fn active(&self) -> usize {
        self.0.running.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests;

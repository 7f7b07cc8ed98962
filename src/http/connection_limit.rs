//! How many connections may be open, and how many are.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::telemetry::Metrics;

/// The places for connections of one listener: a cheap handle.
#[derive(Clone)]
pub struct ConnectionLimit {
    free: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// One connection's place. Dropped, it is free again.
pub(super) struct ConnectionPermit {
    limit: ConnectionLimit,
    permit: Option<OwnedSemaphorePermit>,
}

impl ConnectionLimit {
    /// So many places.
    #[must_use]
    pub fn new(max_connections: usize, metrics: Arc<Metrics>) -> Self {
        let free = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
        Self { free, metrics }
    }

    /// Frees the place of a connection that was handed over.
    pub fn release(&self) {
        self.free.add_permits(1);
        self.metrics.connection_closed();
    }

    pub(super) fn take(&self) -> Option<ConnectionPermit> {
        let permit = self.free.clone().try_acquire_owned().ok()?;
        self.metrics.connection_opened();
        Some(ConnectionPermit { limit: self.clone(), permit: Some(permit) })
    }
}

impl ConnectionPermit {
    /// The connection goes on elsewhere: its place stays taken until it is given back.
    pub(super) fn transfer(mut self) {
        if let Some(permit) = self.permit.take() {
            permit.forget();
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        if self.permit.is_some() {
            self.limit.metrics.connection_closed();
        }
    }
}

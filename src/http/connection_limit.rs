//! The limit on open connections, and their count.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::telemetry::Metrics;

/// The permits for connections of one listener. A clone is a cheap handle.
#[derive(Clone)]
pub struct ConnectionLimit {
    free: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// The permit of one connection, released when dropped.
pub(super) struct ConnectionPermit {
    limit: ConnectionLimit,
    permit: Option<OwnedSemaphorePermit>,
}

impl ConnectionLimit {
    /// Creates a limit of `max_connections`.
    #[must_use]
    pub fn new(max_connections: usize, metrics: Arc<Metrics>) -> Self {
        let free = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
        Self { free, metrics }
    }

    /// Releases the permit of a connection that was taken over.
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
    /// Keeps the permit taken for a socket that is taken over, until [`ConnectionLimit::release`].
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

//! What a subscription may know of the connection that carries it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Whether writing makes progress, and a way to cut the connection, or one stream of it.
#[derive(Debug)]
pub struct Link {
    began: Instant,
    /// Milliseconds after `began`, plus one, since which a write has been waiting; zero if none.
    blocked: AtomicU64,
    /// The connection, if this is one stream of several on it (HTTP/2).
    carrier: Option<Arc<Link>>,
    cut: CancellationToken,
}

impl Default for Link {
    fn default() -> Self {
        Self::new()
    }
}

impl Link {
    /// A connection that has just begun.
    #[must_use]
    pub fn new() -> Self {
        Self::with(None, CancellationToken::new())
    }

    /// One stream of this connection, which ends alone when `cut` is cancelled.
    #[must_use]
    pub fn stream_of(carrier: &Arc<Self>, cut: CancellationToken) -> Self {
        Self::with(Some(carrier.clone()), cut)
    }

    fn with(carrier: Option<Arc<Self>>, cut: CancellationToken) -> Self {
        Self { began: Instant::now(), blocked: AtomicU64::new(0), carrier, cut }
    }

    /// A write could not go on. Only progress resets the clock that this starts.
    pub fn write_blocked(&self) {
        let now = self.elapsed_millis() + 1;
        let _ = self.blocked.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// A write made progress.
    pub fn write_progressed(&self) {
        self.blocked.store(0, Ordering::Relaxed);
    }

    /// Resolves when the connection is to be cut.
    pub async fn cut(&self) {
        self.cut.cancelled().await;
    }

    /// The one whose writes are noted.
    fn connection(&self) -> &Self {
        self.carrier.as_deref().unwrap_or(self)
    }

    /// Whether a write is waiting.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection().blocked.load(Ordering::Relaxed) != 0
    }

    /// How long a write has been waiting.
    pub(super) fn blocked_for(&self) -> Duration {
        let connection = self.connection();
        match connection.blocked.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(connection.elapsed_millis().saturating_sub(since - 1)),
        }
    }

    /// Cuts the connection, if a write has been waiting for too long.
    pub(super) fn cut_if_stuck(&self, write_timeout: Duration) -> bool {
        let stuck = self.blocked_for() >= write_timeout && !self.cut.is_cancelled();
        if stuck {
            self.cut.cancel();
        }
        stuck
    }

    /// Cuts the connection, or the one stream of it that nobody reads: others go on.
    pub(super) fn cut_off(&self) {
        self.cut.cancel();
    }

    fn elapsed_millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

//! What a subscription may know of the connection that carries it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Whether writing makes progress, and a way to cut the connection.
#[derive(Debug)]
pub struct Link {
    began: Instant,
    /// Milliseconds after `began`, plus one, since which a write has been waiting; zero if none.
    blocked: AtomicU64,
    /// Other streams share the connection (HTTP/2).
    shared: bool,
    cut: CancellationToken,
}

impl Link {
    /// A connection that has just begun.
    #[must_use]
    pub fn new(shared: bool) -> Self {
        let (began, cut) = (Instant::now(), CancellationToken::new());
        Self { began, blocked: AtomicU64::new(0), shared, cut }
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

    /// Whether a write is waiting.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed) != 0
    }

    /// How long a write has been waiting.
    pub(super) fn blocked_for(&self) -> Duration {
        match self.blocked.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.elapsed_millis().saturating_sub(since - 1)),
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

    /// Cuts the connection, if nobody else needs it.
    pub(super) fn cut_if_useless(&self, write_timeout: Duration) {
        if !self.shared || self.blocked_for() >= write_timeout {
            self.cut.cancel();
        }
    }

    fn elapsed_millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

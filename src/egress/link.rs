//! Flow control between subscriptions and the connection that carries them.
//!
//! The HTTP library keeps the bytes of a body until the client takes them. So a body hands over
//! little until its client is seen to read, and never more than one unwritten piece. All unwritten
//! bytes together have a budget; while it is exceeded, each body gets as little as a new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use tokio::sync::SetOnce;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::limits::{MAX_FIRST_BYTES, MAX_PIECE_BYTES};
use crate::quota::Budget;

/// Records whether writing makes progress and how much is unwritten, and can cut the connection, or
/// one stream of it.
#[derive(Debug)]
pub struct Link {
    began: Instant,
    /// Milliseconds after `began`, plus one, since which a write has been waiting; zero if none.
    blocked: AtomicU64,
    /// The value of `blocked` that was last noted as a timeout.
    timed_out: AtomicU64,
    /// The connection, if this is one stream of several on it (HTTP/2).
    carrier: Option<Arc<Link>>,
    cut: CancellationToken,
    /// Bytes that subscriptions have handed over and that are not written yet.
    unwritten: AtomicUsize,
    /// Bytes that subscriptions have handed over and that are written.
    written: AtomicUsize,
    /// The task that waits until more can be handed over.
    waiting: AtomicWaker,
    budget: Arc<Budget>,
    /// Set when the client has closed its side, so that no further request can arrive.
    input_end: SetOnce<()>,
}

impl Link {
    /// Creates the link of a new connection, whose unwritten bytes count in `budget`.
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self::with(None, CancellationToken::new(), budget)
    }

    /// Creates the link of one stream of a connection, which ends alone when `cut` is cancelled.
    #[must_use]
    pub fn stream_of(carrier: &Arc<Self>, cut: CancellationToken) -> Self {
        Self::with(Some(carrier.clone()), cut, carrier.budget.clone())
    }

    fn with(carrier: Option<Arc<Self>>, cut: CancellationToken, budget: Arc<Budget>) -> Self {
        Self {
            began: Instant::now(),
            blocked: AtomicU64::new(0),
            timed_out: AtomicU64::new(0),
            carrier,
            cut,
            unwritten: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
            waiting: AtomicWaker::new(),
            budget,
            input_end: SetOnce::new(),
        }
    }

    /// Notes that all bytes handed to the connection have been written to its socket.
    pub fn flushed(&self) {
        // Called at each flush of each connection; most have nothing to count.
        if self.unwritten.load(Ordering::Relaxed) > 0 {
            self.count_written(self.unwritten.load(Ordering::Relaxed));
        }
    }

    fn count_written(&self, bytes: usize) {
        self.unwritten.fetch_sub(bytes, Ordering::Relaxed);
        self.written.fetch_add(bytes, Ordering::Relaxed);
        self.budget.replace(bytes, 0);
        self.waiting.wake();
    }

    /// Returns the number of bytes that may be handed over; wakes when it is not zero.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<usize> {
        if self.room() == 0 {
            self.waiting.register(cx.waker());
        }
        match self.room() {
            0 => Poll::Pending,
            room => Poll::Ready(room),
        }
    }

    fn room(&self) -> usize {
        let most = if self.budget.is_exceeded() { MAX_FIRST_BYTES } else { MAX_PIECE_BYTES };
        let trusted = self.written.load(Ordering::Relaxed).clamp(MAX_FIRST_BYTES, most);
        trusted.saturating_sub(self.unwritten())
    }

    /// Counts bytes as handed over.
    pub(super) fn pass_on(self: &Arc<Self>, bytes: Bytes) -> BodyData {
        let count = bytes.len();
        self.unwritten.fetch_add(count, Ordering::Relaxed);
        self.budget.replace(0, count);
        // HTTP/1.1 copies them at once, and flushes.
        let written = self.carrier.is_some().then(|| OnWritten { link: self.clone(), count });
        BodyData { bytes, _written: written }
    }

    /// Returns the number of bytes handed over and not written yet.
    pub(super) fn unwritten(&self) -> usize {
        self.unwritten.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes handed over and written, which shows progress.
    pub(super) fn written(&self) -> usize {
        self.written.load(Ordering::Relaxed)
    }

    /// Notes that a write is blocked, and starts a clock that only progress resets.
    pub fn write_blocked(&self) {
        let now = self.elapsed_millis() + 1;
        let _ = self.blocked.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Notes that a write made progress.
    pub fn write_progressed(&self) {
        self.blocked.store(0, Ordering::Relaxed);
    }

    /// Notes the end of the client's input. It may have closed the connection or only its own side,
    /// which only a write can tell apart. So its pending requests are answered, and streams end
    /// that would wait for something new.
    pub fn note_input_end(&self) {
        let _ = self.input_end.set(());
    }

    /// Returns whether the client's input has ended.
    #[must_use]
    pub fn has_input_ended(&self) -> bool {
        self.input_end.initialized()
    }

    /// Resolves when the client's input has ended.
    pub async fn input_end(&self) {
        self.input_end.wait().await;
    }

    /// Resolves when the connection is to be cut.
    pub async fn cut(&self) {
        self.cut.cancelled().await;
    }

    /// The link of the connection, where blocked writes are recorded.
    fn connection(&self) -> &Self {
        self.carrier.as_deref().unwrap_or(self)
    }

    /// Returns whether a write is blocked.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection().blocked.load(Ordering::Relaxed) != 0
    }

    /// Returns the time for which a write has been blocked.
    pub(super) fn blocked_for(&self) -> Duration {
        let connection = self.connection();
        match connection.blocked.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis(connection.elapsed_millis().saturating_sub(since - 1)),
        }
    }

    /// Cuts the connection if a write has been blocked for `write_timeout`. Returns whether it did.
    pub(super) fn cut_if_stuck(&self, write_timeout: Duration) -> bool {
        let stuck = self.blocked_for() >= write_timeout && !self.cut.is_cancelled();
        if stuck {
            self.cut.cancel();
        }
        stuck
    }

    /// Notes that the blocked write of the connection has timed out. Returns whether this is the
    /// first time, so that one write is not counted for its subscription and for its connection.
    pub(super) fn note_timeout(&self) -> bool {
        let connection = self.connection();
        let blocked = connection.blocked.load(Ordering::Relaxed);
        connection.timed_out.swap(blocked, Ordering::Relaxed) != blocked
    }

    /// Cuts the connection, or only this stream of it.
    pub(super) fn cut_off(&self) {
        self.cut.cancel();
    }

    fn elapsed_millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.budget.replace(self.unwritten(), 0);
    }
}

/// Bytes that are handed to the HTTP library.
#[derive(Debug)]
pub struct BodyData {
    bytes: Bytes,
    _written: Option<OnWritten>,
}

/// Counts bytes of an HTTP/2 stream as written when the library drops them: it has written them, or
/// never will.
#[derive(Debug)]
struct OnWritten {
    link: Arc<Link>,
    count: usize,
}

impl Drop for OnWritten {
    fn drop(&mut self) {
        self.link.count_written(self.count);
    }
}

impl From<Bytes> for BodyData {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, _written: None }
    }
}

impl Buf for BodyData {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(link: &Link) -> usize {
        link.room()
    }

    fn bytes(count: usize) -> Bytes {
        Bytes::from(vec![0; count])
    }

    #[test]
    fn a_client_is_given_more_as_it_reads() {
        let link = Arc::new(Link::new(Arc::new(Budget::new(1 << 20))));
        assert_eq!(room(&link), MAX_FIRST_BYTES);
        let mut written = 0;
        for _ in 0..8 {
            let most = room(&link);
            assert_eq!(most, written.clamp(MAX_FIRST_BYTES, MAX_PIECE_BYTES));
            link.pass_on(bytes(most));
            assert_eq!(room(&link), 0, "nothing is written");
            link.flushed();
            written += most;
        }
        assert_eq!(room(&link), MAX_PIECE_BYTES);
    }

    #[test]
    fn a_stream_counts_its_own_bytes_until_they_are_dropped() {
        let budget = Arc::new(Budget::new(1 << 20));
        let carrier = Arc::new(Link::new(budget.clone()));
        let streams =
            [(); 2].map(|()| Arc::new(Link::stream_of(&carrier, CancellationToken::new())));
        let handed = streams[0].pass_on(bytes(MAX_FIRST_BYTES));
        carrier.flushed();
        assert_eq!((room(&streams[0]), room(&streams[1])), (0, MAX_FIRST_BYTES));
        assert_eq!(budget.used(), MAX_FIRST_BYTES);
        drop(handed);
        assert_eq!((room(&streams[0]), budget.used()), (MAX_FIRST_BYTES, 0));
    }

    #[test]
    fn a_budget_that_is_used_up_leaves_everyone_little_and_gets_all_back() {
        let budget = Arc::new(Budget::new(3 * MAX_PIECE_BYTES));
        let links = [(); 8].map(|()| Arc::new(Link::new(budget.clone())));
        for link in &links {
            link.pass_on(bytes(MAX_PIECE_BYTES));
            link.flushed();
            assert_eq!(room(link), MAX_PIECE_BYTES);
        }
        for link in &links[..4] {
            link.pass_on(bytes(MAX_PIECE_BYTES));
        }
        assert!(budget.is_exceeded());
        assert_eq!((room(&links[0]), room(&links[7])), (0, MAX_FIRST_BYTES));
        drop(links);
        assert_eq!(budget.used(), 0);
    }
}

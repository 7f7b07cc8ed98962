//! The part of a subscription that others may use: to wake it, to end it, and to see its lag.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use super::channel::{Channel, ChannelListener};
use crate::lease::LeaseEnd;
use crate::store::LogPosition;
use crate::word_enum::words;

words! {
    /// The reason why a subscription ended. Each is a metric label.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum EndReason {
        /// All its channels have ended.
        Closed = "closed",
        /// The client went away.
        ClientGone = "client_gone",
        /// The lag in events is over the limit.
        LaggedEvents = "lagged_events",
        /// The lag in bytes is over the limit.
        LaggedBytes = "lagged_bytes",
        /// The connection took nothing for too long.
        WriteTimeout = "write_timeout",
        /// The hub is draining.
        Draining = "draining",
        /// The maximum lifetime of a subscription has passed.
        Lifetime = "lifetime",
        /// Its patterns select more channels than allowed.
        TooManyChannels = "too_many_channels",
        /// The token of the client has expired.
        Expired = "expired",
        /// The credential of the client was revoked.
        Revoked = "revoked",
    }
}

impl From<LeaseEnd> for EndReason {
    fn from(over: LeaseEnd) -> Self {
        match over {
            LeaseEnd::Expired => Self::Expired,
            LeaseEnd::Revoked => Self::Revoked,
        }
    }
}

impl EndReason {
    /// Returns why the client needs a new credential before it reconnects, if it does.
    #[must_use]
    pub fn over(self) -> Option<LeaseEnd> {
        match self {
            Self::Expired => Some(LeaseEnd::Expired),
            Self::Revoked => Some(LeaseEnd::Revoked),
            _ => None,
        }
    }
}

/// The control block of a subscription.
#[derive(Default)]
pub struct SubscriptionControl {
    reason: OnceLock<EndReason>,
    /// Set by a wake-up, cleared by the reader before it reads: one wake-up per read.
    latch: AtomicBool,
    waker: AtomicWaker,
    reads: AtomicU64,
    cursors: Mutex<Vec<Arc<ChannelCursor>>>,
}

impl SubscriptionControl {
    /// Ends the subscription for this reason, unless it has ended already.
    pub fn end(&self, reason: EndReason) {
        let _ = self.reason.set(reason);
        self.waker.wake();
    }

    /// Returns why the subscription ended, if it did.
    #[must_use]
    pub fn ended(&self) -> Option<EndReason> {
        self.reason.get().copied()
    }

    /// Wakes the reader, whether or not its channels have changed.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Returns the number of events and bytes published since the subscription began and not read.
    #[must_use]
    pub fn lag(&self) -> LogPosition {
        let cursors = self.cursors.lock();
        cursors.iter().map(|cursor| cursor.lag()).fold(LogPosition::default(), |sum, lag| {
            LogPosition { seq: sum.seq + lag.seq, byte: sum.byte + lag.byte }
        })
    }

    /// Returns whether an unread event must not wait for a window to end.
    pub(super) fn must_flush(&self) -> bool {
        let cursors = self.cursors.lock().clone();
        cursors.iter().any(|cursor| cursor.channel.must_flush(cursor.position().byte))
    }

    /// Returns the number of unread events, replay included.
    #[must_use]
    pub fn unread(&self) -> u64 {
        self.cursors.lock().iter().map(|cursor| cursor.unread()).sum()
    }

    /// Returns the number of reads that returned something.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Registers the waker that is used if the next read finds nothing.
    pub(super) fn listen(&self, waker: &Waker) {
        self.waker.register(waker);
        self.latch.store(false, Ordering::SeqCst);
    }

    /// Returns whether the subscription was woken since the last read, or has ended. Registers the
    /// waker.
    pub(super) fn has_news(&self, waker: &Waker) -> bool {
        self.waker.register(waker);
        self.latch.load(Ordering::SeqCst) || self.ended().is_some()
    }

    pub(super) fn count_read(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_cursor(&self, cursor: &Arc<ChannelCursor>) {
        self.cursors.lock().push(cursor.clone());
    }

    pub(super) fn remove_cursor(&self, cursor: &Arc<ChannelCursor>) {
        self.cursors.lock().retain(|other| !Arc::ptr_eq(other, cursor));
    }
}

impl ChannelListener for SubscriptionControl {
    fn channel_changed(&self) {
        if !self.latch.swap(true, Ordering::SeqCst) {
            self.waker.wake();
        }
    }
}

/// The cursor of a reader in one channel.
pub(super) struct ChannelCursor {
    pub(super) channel: Arc<Channel>,
    seq: AtomicU64,
    byte: AtomicU64,
    /// The end of the log when the reader joined.
    joined: LogPosition,
}

impl ChannelCursor {
    pub(super) fn new(channel: Arc<Channel>, position: LogPosition, joined: LogPosition) -> Self {
        let seq = AtomicU64::new(position.seq);
        let byte = AtomicU64::new(position.byte);
        Self { channel, seq, byte, joined }
    }

    pub(super) fn position(&self) -> LogPosition {
        LogPosition {
            seq: self.seq.load(Ordering::Relaxed),
            byte: self.byte.load(Ordering::Relaxed),
        }
    }

    /// Returns the number of events after the cursor.
    fn unread(&self) -> u64 {
        self.position().distance_to(self.channel.end()).seq
    }

    pub(super) fn has_unread(&self) -> bool {
        self.unread() > 0
    }

    /// Moves forward to the position. A cursor never goes back.
    pub(super) fn move_to(&self, position: LogPosition) {
        self.seq.fetch_max(position.seq, Ordering::Relaxed);
        self.byte.fetch_max(position.byte, Ordering::Relaxed);
    }

    /// Returns the lag. Events from before the reader joined do not count: it replays them at its
    /// own pace.
    fn lag(&self) -> LogPosition {
        let position = self.position();
        let from = LogPosition {
            seq: position.seq.max(self.joined.seq),
            byte: position.byte.max(self.joined.byte),
        };
        from.distance_to(self.channel.end())
    }
}

//! The interface of the shared log. A transport implements it; a hub sends to it and reads from it.

use std::time::Duration;

use bytes::Bytes;

/// The place of a message in the log, counted from 1. The transport assigns it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Returns the sequence of the message that follows.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Nanoseconds since the Unix epoch, as the transport has stamped a message. All hubs read the same
/// stamp; it may go backwards from one message to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogTime(pub u64);

/// A message of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its place in the log.
    pub sequence: Sequence,
    /// The time at which the log has stored it.
    pub time: LogTime,
    /// What was sent.
    pub content: Bytes,
}

/// Properties of the log, which are the same for all hubs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogInfo {
    /// The epoch of all event ids: chosen when the log was created.
    pub epoch: Box<str>,
    /// The time of silence after which a session has ended: chosen when the log was created.
    pub lease: Duration,
    /// The maximum size of a message, in bytes.
    pub max_message: usize,
}

/// Maximum size of a broadcast, in bytes.
pub const MAX_BROADCAST: usize = 64 << 10;

/// Sends messages to the log.
pub trait LogWriter: Send + Sync {
    /// Sends a message, without blocking and at most once. That it is stored is known when the
    /// [`LogReader`] receives it: an acknowledgement may be lost, and says nothing of its order. A
    /// message that is certainly not stored is reported by [`LogReader::not_stored`], as far as
    /// the transport knows. A message that could not be sent at once is discarded, not sent later.
    fn send(&self, number: SendNumber, content: Bytes);

    /// Sends a broadcast to all other hubs, without blocking. It is not stored, and may be lost; it
    /// is not sent if it is larger than [`MAX_BROADCAST`].
    fn broadcast(&self, content: Bytes);
}

/// Names one call of [`LogWriter::send`] in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendNumber(pub u64);

/// Receives the log. All calls come from one thread.
pub trait LogReader: Send {
    /// Receives the properties of the log. Called once, before the first message.
    fn opened(&mut self, log: LogInfo);

    /// Receives the next message: its sequence follows on the one before, without a hole. Those
    /// before the first were deleted by the log's retention.
    fn message(&mut self, message: Message);

    /// Receives that all messages were read that the log had when it was opened. Called once.
    fn caught_up(&mut self);

    /// Receives that a message was not stored; it may be sent again.
    fn not_stored(&mut self, number: SendNumber, reason: NotStored);

    /// Receives a broadcast of another hub, at any time after the log was opened. Broadcasts may be
    /// lost and come in another order, and those of an earlier connection of this hub may come
    /// back. Each has at most [`MAX_BROADCAST`] bytes.
    fn broadcast(&mut self, content: Bytes);

    /// Receives that messages which were not read are gone from the log, that the log is another
    /// one, or that it cannot be used. The last call: the hub must start again.
    fn ended(&mut self, reason: LogEnd);
}

/// The reason for which the log has not stored a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    /// The log has no leader, or cannot be reached.
    #[error("the log is not available")]
    Unavailable,
    /// The log has too many messages in work: send later.
    #[error("the log is overloaded")]
    Overloaded,
    /// The log refuses the message for good, for example as too large.
    #[error("the log refuses the message")]
    Refused,
}

/// The reason for which no more messages can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogEnd {
    /// The log has deleted messages before they were read, or has lost them. A hub that has no
    /// state of before may read from the message after them on.
    #[error("the log has deleted messages {} to {}, which were not read", from.0, to.0)]
    Deleted {
        /// The first that was not read.
        from: Sequence,
        /// The last that was deleted.
        to: Sequence,
    },
    /// The log is another one, or has lost messages that were read.
    #[error("the log was replaced: {0}")]
    Replaced(Box<str>),
    /// The log cannot be used as it is configured. Only reported before it was opened.
    #[error("the log cannot be used: {0}")]
    Refused(Box<str>),
}

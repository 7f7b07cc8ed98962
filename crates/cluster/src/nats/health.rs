//! The state of the connection and of the reader, as a plain value.

use crate::log::{LogTime, Sequence};

/// The state of the connection, and how far the log was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The name of the server that the hub is connected to, from when the log can be read there.
    pub server: Option<Box<str>>,
    /// The number of connections that were made.
    pub connections: u64,
    /// Whether all messages were read that the log had when it was opened.
    pub is_caught_up: bool,
    /// The last message that was read.
    pub read: Sequence,
    /// The time at which the log has stored that message.
    pub read_time: LogTime,
    /// The last message that the log is known to have.
    pub last: Sequence,
    /// The number of messages that the tail has missed, and single requests have read.
    pub filled_by_request: u64,
    /// The number of messages that a consumer has read.
    pub read_by_consumer: u64,
    /// The number of messages that the log has not stored, by its own account.
    pub not_stored: u64,
    /// The error that this connection had with broadcasts, above all a missing permission. The log
    /// is read and written without them.
    pub broadcast_problem: Option<Box<str>>,
    /// What failed last, until the log is read again.
    pub problem: Option<Box<str>>,
    /// Whether the thread of the log has panicked: the hub must start again.
    pub has_panicked: bool,
}

impl Health {
    /// Returns the number of messages that the log is known to have, and that were not read.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.last.0.saturating_sub(self.read.0)
    }
}

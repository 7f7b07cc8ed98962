//! Why a publish failed, where in its body, and what it had published before.

use std::fmt;

use super::body::InvalidEvent;
use super::receipt::Tally;
use crate::channel::InvalidChannelName;
use crate::hub;

/// The reason why a publish failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The body has an event that cannot be published.
    #[error(transparent)]
    Invalid(#[from] InvalidEvent),
    /// A line of a publish to many channels cannot be parsed.
    #[error(transparent)]
    Line(#[from] InvalidLine),
    /// The hub refused it.
    #[error(transparent)]
    Hub(#[from] hub::SubmitError),
    /// The first request with this key is still running.
    #[error("a request with this idempotency key is still running: wait for its end")]
    StillRunning,
    /// The publisher has no `publish` grant for this channel.
    #[error("`publish` on this channel is not granted")]
    Forbidden,
    /// The limit of concurrent publishes is reached.
    #[error("as many publish requests run as `publish.max_streams` allows: try again")]
    Overloaded,
}

/// A publish that failed, and what it had published before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The error.
    pub error: PublishError,
    /// The events that are in the log nevertheless.
    pub kept: Tally,
    /// The place of the error in the body, if it is known.
    pub place: Option<ErrorPlace>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some(place) => write!(f, "{place}: {}", self.error),
            None => self.error.fmt(f),
        }
    }
}

/// A place in a body, counted from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorPlace {
    /// A line of NDJSON.
    Line(u64),
    /// An event of an event stream.
    Event(u64),
}

impl fmt::Display for ErrorPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Event(event) => write!(f, "event {event}"),
        }
    }
}

/// The reason why a line was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLine {
    /// The line does not have this form.
    #[error("expected `{{\"channel\": …, \"event\": …, \"data\": …}}`: {0}")]
    Form(String),
    /// The name of the channel is invalid.
    #[error(transparent)]
    Channel(#[from] InvalidChannelName),
}

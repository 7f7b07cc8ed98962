//! Errors as problems (RFC 9457), from one table of codes.

use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value};

use super::wording::Wording;
use crate::auth::{AuthError, Operation};
use crate::channel::InvalidChannelName;
use crate::event::InvalidEventType;
use crate::hub::{self, ClaimError, LogError, TooManyChannels};
use crate::ingest::{ErrorPlace, Failure, InvalidEvent, InvalidLine, NoRoom, PublishError, Tally};
use crate::lease::LeaseEnd;
use crate::quota::Exceeded;
use crate::store::disk::WriteError;
use crate::value::excerpt;
use crate::word_enum::words;

/// The setting that bounds the channels of a principal.
const MAX_CHANNELS: &str = "quotas.max_channels";

words! {
    /// The error codes that clients may get. Stable: clients act on them. Keep this alphabetical.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ErrorCode {
        /// The shared log of the cluster cannot be reached.
        BackplaneUnavailable = "backplane_unavailable",
        /// The channel has ended.
        ChannelClosed = "channel_closed",
        /// A viewer has stopped the channel.
        ChannelStopped = "channel_stopped",
        /// The hub is going down.
        Draining = "draining",
        /// An event has more data than allowed.
        EventTooLarge = "event_too_large",
        /// The caller, or the page that sent the request, may not do this.
        Forbidden = "forbidden",
        /// The request names another generation than the present one.
        GenerationOver = "generation_over",
        /// The head of the request is larger than allowed.
        HeadTooLarge = "head_too_large",
        /// A defect of the hub.
        Internal = "internal",
        /// Not a channel name or pattern.
        InvalidChannelName = "invalid_channel_name",
        /// An event, or the body that carries it, cannot be understood.
        InvalidEvent = "invalid_event",
        /// A query parameter, header or field cannot be understood.
        InvalidParameter = "invalid_parameter",
        /// The request breaks the rules of HTTP.
        InvalidRequest = "invalid_request",
        /// The path does not have this method.
        MethodNotAllowed = "method_not_allowed",
        /// The hub is not called by that name.
        MisdirectedRequest = "misdirected_request",
        /// The client accepts no representation that there is.
        NotAcceptable = "not_acceptable",
        /// There is no such path or channel.
        NotFound = "not_found",
        /// A limit of the whole hub is reached.
        Overloaded = "overloaded",
        /// A document is larger than allowed.
        PayloadTooLarge = "payload_too_large",
        /// The first request with this idempotency key still runs.
        PublishInProgress = "publish_in_progress",
        /// The caller has as many channels or streams as its quota allows.
        QuotaExceeded = "quota_exceeded",
        /// The caller has exceeded a rate.
        RateLimited = "rate_limited",
        /// The request did not arrive completely in time.
        RequestTimeout = "request_timeout",
        /// The disk of the store has failed.
        StoreFailed = "store_failed",
        /// The disk of the store is full.
        StoreFull = "store_full",
        /// The request has no valid credential.
        Unauthenticated = "unauthenticated",
        /// The body is in a form that the hub does not read.
        UnsupportedMediaType = "unsupported_media_type",
    }
}

impl ErrorCode {
    /// Returns status, whether the same request may succeed later, and title.
    pub(super) fn row(self) -> (StatusCode, bool, &'static str) {
        use StatusCode as S;
        match self {
            Self::BackplaneUnavailable => {
                (S::SERVICE_UNAVAILABLE, true, "The cluster cannot be reached")
            }
            Self::ChannelClosed => (S::CONFLICT, false, "The channel is closed"),
            Self::ChannelStopped => (S::CONFLICT, false, "The channel was stopped"),
            Self::Draining => (S::SERVICE_UNAVAILABLE, true, "The hub is going down"),
            Self::EventTooLarge => (S::PAYLOAD_TOO_LARGE, false, "The event is too large"),
            Self::Forbidden => (S::FORBIDDEN, false, "Not granted"),
            Self::GenerationOver => (S::CONFLICT, false, "Not the present generation"),
            Self::HeadTooLarge => {
                let status = S::REQUEST_HEADER_FIELDS_TOO_LARGE;
                (status, false, "The head is too large")
            }
            Self::Internal => (S::INTERNAL_SERVER_ERROR, true, "The hub has a defect"),
            Self::InvalidChannelName => (S::BAD_REQUEST, false, "Not a channel name"),
            Self::InvalidEvent => (S::BAD_REQUEST, false, "The event cannot be published"),
            Self::InvalidParameter => (S::BAD_REQUEST, false, "A parameter is wrong"),
            Self::InvalidRequest => (S::BAD_REQUEST, false, "Not valid HTTP"),
            Self::MethodNotAllowed => (S::METHOD_NOT_ALLOWED, false, "Wrong method"),
            Self::MisdirectedRequest => (S::MISDIRECTED_REQUEST, false, "Not a name of this hub"),
            Self::NotAcceptable => (S::NOT_ACCEPTABLE, false, "No acceptable representation"),
            Self::NotFound => (S::NOT_FOUND, false, "Not found"),
            Self::Overloaded => (S::SERVICE_UNAVAILABLE, true, "A limit of the hub is reached"),
            Self::PayloadTooLarge => (S::PAYLOAD_TOO_LARGE, false, "The document is too large"),
            Self::PublishInProgress => (S::CONFLICT, true, "Another publish is under way"),
            Self::QuotaExceeded => (S::TOO_MANY_REQUESTS, true, "A quota is used up"),
            Self::RateLimited => (S::TOO_MANY_REQUESTS, true, "Too many requests in a short time"),
            Self::RequestTimeout => (S::REQUEST_TIMEOUT, true, "The request did not end in time"),
            Self::StoreFailed => (S::SERVICE_UNAVAILABLE, true, "The store has failed"),
            Self::StoreFull => (S::INSUFFICIENT_STORAGE, true, "The store is full"),
            Self::Unauthenticated => (S::UNAUTHORIZED, false, "No valid credential"),
            Self::UnsupportedMediaType => {
                (S::UNSUPPORTED_MEDIA_TYPE, false, "The form of the body is not supported")
            }
        }
    }

    /// Returns the HTTP status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        self.row().0
    }

    /// Returns whether the same request may succeed later.
    #[must_use]
    #[cfg(any(test, feature = "internals"))]
    pub fn is_retryable(self) -> bool {
        self.row().1
    }

    /// Returns whether the response has a default `Retry-After`.
    pub(super) fn has_retry_after(self) -> bool {
        self.status() == StatusCode::SERVICE_UNAVAILABLE
            || matches!(self, Self::PublishInProgress | Self::QuotaExceeded | Self::StoreFull)
    }
}

/// An error as it is sent to a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub(super) code: ErrorCode,
    pub(super) detail: String,
    pub(super) more: Map<String, Value>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// Creates a problem. The detail says what is wrong and what would be right.
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), more: Map::new(), headers: Vec::new() }
    }

    /// Returns the problem of a wrong query parameter, header or field.
    #[must_use]
    pub fn parameter(name: &str, given: &str, right: &str) -> Self {
        let detail = format!("`{name}` is `{}`: {right}", excerpt(given).escape_default());
        let problem = Self::new(ErrorCode::InvalidParameter, detail);
        problem.with("parameter", name)
    }

    /// Returns the problem of a method that the path does not have; `allow` lists its methods.
    #[must_use]
    pub fn method_not_allowed(allow: &str) -> Self {
        let detail = format!("this path has {allow}");
        Self::new(ErrorCode::MethodNotAllowed, detail).with_header(header::ALLOW, allow)
    }

    /// Returns the problem of a request without a valid credential.
    #[must_use]
    pub fn unauthenticated(error: AuthError) -> Self {
        let detail = error.detail();
        let challenge = challenge((error != AuthError::Missing).then(|| error.as_str()));
        let problem = Self::new(ErrorCode::Unauthenticated, detail).with("reason", error.as_str());
        problem.with_header(header::WWW_AUTHENTICATE, &challenge)
    }

    /// Returns the problem of an exceeded rate, with the time until the next try.
    #[must_use]
    pub fn exceeded(exceeded: &Exceeded) -> Self {
        let seconds = exceeded.retry_after.as_secs_f64().ceil().max(1.0);
        let detail = format!("`{}` is used up: retry later", exceeded.limit);
        let problem = Self::new(ErrorCode::RateLimited, detail).with("limit", exceeded.limit);
        problem.with_header(header::RETRY_AFTER, &format!("{seconds:.0}"))
    }

    /// Returns the problem of a caller that has as much as its quota allows.
    #[must_use]
    pub fn over_quota(limit: &str, detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::QuotaExceeded, detail).with("limit", limit)
    }

    /// Returns the problem of a caller whose lease has ended.
    #[must_use]
    pub fn over(over: LeaseEnd) -> Self {
        let detail = match over {
            LeaseEnd::Expired => AuthError::Expired.detail(),
            LeaseEnd::Revoked => "the credential is no longer trusted".to_owned(),
        };
        let problem = Self::new(ErrorCode::Unauthenticated, detail).with("reason", over.as_str());
        problem.with_header(header::WWW_AUTHENTICATE, &challenge(Some(over.as_str())))
    }

    /// Adds a member.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.more.insert(member.to_owned(), value.into());
        self
    }

    /// Adds the members of another problem, unless they are there.
    pub(super) fn with_members_of(mut self, other: Self) -> Self {
        for (name, value) in other.more {
            self.more.entry(name).or_insert(value);
        }
        self
    }

    /// Adds a header.
    #[must_use]
    pub(super) fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        self
    }

    /// Adds the events that were published before the error.
    #[must_use]
    pub fn with_kept(self, kept: &Tally) -> Self {
        let Tally { events, first_id, last_id, .. } = kept.clone();
        self.with("events", events).with("first_id", first_id).with("last_id", last_id)
    }

    /// Adds what the error names: a reason, a limit or an operation.
    fn with_cause(self, error: &PublishError) -> Self {
        match error {
            PublishError::Invalid(InvalidEvent::Foreign(foreign)) if foreign.said.is_some() => {
                self.with("reason", foreign.said.as_deref())
            }
            PublishError::Hub(hub::SubmitError::Stopped(reason)) => {
                self.with("reason", reason.as_deref())
            }
            PublishError::Hub(hub::SubmitError::Claim(ClaimError::OverQuota(_))) => {
                self.with("limit", MAX_CHANNELS)
            }
            PublishError::Forbidden => self.with("operation", Operation::Publish.as_str()),
            _ => self,
        }
    }

    /// Returns the detail: what is wrong, and what would be right.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns the code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.code
    }
}

/// Returns the challenge: the scheme, and why the credential is invalid (RFC 6750, section 3).
fn challenge(wrong: Option<&str>) -> String {
    let mut challenge = "Bearer realm=\"fanfare\"".to_owned();
    if let Some(wrong) = wrong {
        challenge.push_str(", error=\"invalid_token\", error_description=\"");
        challenge.push_str(wrong);
        challenge.push('"');
    }
    challenge
}

impl From<InvalidChannelName> for Problem {
    fn from(error: InvalidChannelName) -> Self {
        Self::new(ErrorCode::InvalidChannelName, error.detail())
    }
}

impl From<InvalidEventType> for Problem {
    fn from(error: InvalidEventType) -> Self {
        Self::new(ErrorCode::InvalidEvent, error.to_string())
    }
}

impl From<TooManyChannels> for Problem {
    fn from(error: TooManyChannels) -> Self {
        Self::new(ErrorCode::Overloaded, error.to_string())
    }
}

impl From<ClaimError> for Problem {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::TooManyChannels(error) => error.into(),
            ClaimError::OverQuota(_) => Self::over_quota(MAX_CHANNELS, error.to_string()),
        }
    }
}

impl From<ClaimError> for ErrorCode {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::TooManyChannels(_) => Self::Overloaded,
            ClaimError::OverQuota(_) => Self::QuotaExceeded,
        }
    }
}

impl From<hub::SubscribeError> for Problem {
    fn from(error: hub::SubscribeError) -> Self {
        let code = match error {
            hub::SubscribeError::TooManyChannels(_) => ErrorCode::Overloaded,
            hub::SubscribeError::TooManyMatches | hub::SubscribeError::SnapshotOfMany => {
                ErrorCode::InvalidParameter
            }
        };
        let problem = Self::new(code, error.detail());
        match error {
            hub::SubscribeError::SnapshotOfMany => problem.with("parameter", "from"),
            _ => problem,
        }
    }
}

impl From<WriteError> for ErrorCode {
    fn from(why: WriteError) -> Self {
        match why {
            WriteError::Full => Self::StoreFull,
            WriteError::Failed => Self::StoreFailed,
            WriteError::Behind => Self::Overloaded,
        }
    }
}

impl From<WriteError> for Problem {
    fn from(why: WriteError) -> Self {
        Self::new(why.into(), why.to_string())
    }
}

impl From<LogError> for ErrorCode {
    fn from(why: LogError) -> Self {
        match why {
            LogError::Overloaded | LogError::TooManyChannels => Self::Overloaded,
            LogError::TooLarge => Self::EventTooLarge,
            LogError::KeyScattered => Self::InvalidParameter,
            LogError::Unconfirmed | LogError::NotJoined | LogError::Refused => {
                Self::BackplaneUnavailable
            }
        }
    }
}

impl From<LogError> for Problem {
    fn from(why: LogError) -> Self {
        Self::new(why.into(), why.to_string())
    }
}

impl From<NoRoom> for Problem {
    fn from(error: NoRoom) -> Self {
        Self::new(ErrorCode::Overloaded, error.to_string()).with("limit", NoRoom::LIMIT)
    }
}

impl From<hub::ConfigureError> for Problem {
    fn from(error: hub::ConfigureError) -> Self {
        match error {
            hub::ConfigureError::MaxAge { .. } => {
                let problem = Self::new(ErrorCode::InvalidParameter, error.to_string());
                problem.with("parameter", "max_age")
            }
            hub::ConfigureError::Claim(error) => error.into(),
            hub::ConfigureError::Unstored(why) => why.into(),
            hub::ConfigureError::Unlogged(why) => why.into(),
        }
    }
}

impl From<&PublishError> for ErrorCode {
    fn from(error: &PublishError) -> Self {
        match error {
            PublishError::Invalid(InvalidEvent::TooLarge(_)) => Self::EventTooLarge,
            PublishError::Invalid(_) | PublishError::Line(InvalidLine::Form(_)) => {
                Self::InvalidEvent
            }
            PublishError::Line(InvalidLine::Channel(_)) => Self::InvalidChannelName,
            PublishError::Hub(hub::SubmitError::Closed(_)) => Self::ChannelClosed,
            PublishError::Hub(hub::SubmitError::Stopped(_)) => Self::ChannelStopped,
            PublishError::Hub(hub::SubmitError::Busy) => Self::PublishInProgress,
            PublishError::Hub(hub::SubmitError::Claim(error)) => Self::from(*error),
            PublishError::Overloaded => Self::Overloaded,
            PublishError::Hub(hub::SubmitError::Unstored(why)) => Self::from(*why),
            PublishError::Hub(hub::SubmitError::Unlogged(why)) => Self::from(*why),
            PublishError::Hub(hub::SubmitError::KeyRunning) | PublishError::StillRunning => {
                Self::PublishInProgress
            }
            PublishError::Forbidden => Self::Forbidden,
        }
    }
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        let problem = Self::new(ErrorCode::from(&error), error.detail());
        match error {
            PublishError::Hub(_) => problem.with_kept(&Tally::default()).with_cause(&error),
            _ => problem,
        }
    }
}

impl From<hub::StopError> for Problem {
    fn from(error: hub::StopError) -> Self {
        match error {
            hub::StopError::Over(_) => Self::new(ErrorCode::GenerationOver, error.detail()),
            hub::StopError::Claim(error) => error.into(),
            hub::StopError::Unstored(why) => why.into(),
            hub::StopError::Unlogged(why) => why.into(),
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let code = ErrorCode::from(&failure.error);
        let mut detail = failure.error.detail();
        if let Some(place) = failure.place {
            detail = format!("{place}: {detail}");
        }
        let problem = Self::new(code, detail).with_kept(&failure.kept);
        let problem = problem.with_cause(&failure.error);
        match failure.place {
            Some(ErrorPlace::Line(line)) => problem.with("line", line),
            Some(ErrorPlace::Event(event)) => problem.with("event", event),
            None => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_in_order() {
        let codes: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
    }
}

//! Errors in the words of the API: its routes, parameters and headers, unknown to lower floors.

use std::fmt::Display;

use crate::auth::AuthError;
use crate::channel::InvalidChannelName;
use crate::hub::{StopError, SubmitError, SubscribeError};
use crate::ingest::{InvalidLine, PublishError};

/// An error that a client can receive.
pub(super) trait Wording: Display {
    /// Returns the words of the API, if the error itself has others.
    fn in_api_words(&self) -> Option<&'static str>;

    /// Returns the detail of a problem: what is wrong, and what would be right.
    fn detail(&self) -> String {
        self.in_api_words().map_or_else(|| self.to_string(), str::to_owned)
    }
}

impl Wording for AuthError {
    fn in_api_words(&self) -> Option<&'static str> {
        Some(match self {
            Self::Missing => {
                "no credential: send `Authorization: Bearer` with a token or an API key"
            }
            Self::Malformed => {
                "not a token of this hub: send `Bearer` with a JWT that has `exp`, and the claim \
                 of its grants as an object of lists of patterns"
            }
            Self::Scheme => {
                "the scheme of `Authorization` must be `Bearer`, with a token or an API key after \
                 it"
            }
            Self::Misplaced => {
                "not a token: in `access_token` and in the cookie only a JWT is taken; send an \
                 API key as `Authorization: Bearer` or `X-API-Key`"
            }
            _ => return None,
        })
    }
}

impl Wording for InvalidChannelName {
    fn in_api_words(&self) -> Option<&'static str> {
        (*self == Self::Wildcard).then_some(
            "a channel name has no `*`: wildcards belong to patterns, in `/v1/events?channel=`",
        )
    }
}

impl Wording for SubscribeError {
    fn in_api_words(&self) -> Option<&'static str> {
        (*self == Self::SnapshotOfMany)
            .then_some("`from=snapshot` is for one channel: subscribe to /v1/channels/{name}")
    }
}

impl Wording for StopError {
    fn in_api_words(&self) -> Option<&'static str> {
        matches!(self, Self::Over(_)).then_some(
            "`generation` is no event id of the channel's present generation: that one is over",
        )
    }
}

impl Wording for PublishError {
    fn in_api_words(&self) -> Option<&'static str> {
        match self {
            Self::Hub(SubmitError::Busy) => Some(
                "another request with `close=auto` is streaming into this channel: one at a time",
            ),
            Self::StillRunning => {
                Some("a request with this `Idempotency-Key` is still running: wait for its end")
            }
            Self::Line(InvalidLine::Channel(error)) => error.in_api_words(),
            _ => None,
        }
    }
}

//! The hub's own events: what a subscriber is told besides what was published.

use serde::Serialize;

use crate::channel::ChannelName;
use crate::event::{ChannelState, GapReason};
use crate::position::Position;

/// Here something is missing, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The channel; `None` if it concerns all channels of a subscription to many.
    pub channel: Option<ChannelName>,
    /// Why.
    pub reason: GapReason,
    /// The id behind which the subscriber would have gone on.
    pub requested: Option<Box<str>>,
    /// The position behind which it goes on.
    pub resumed: Position,
}

#[derive(Serialize)]
struct GapData<'a> {
    channel: Option<&'a str>,
    reason: &'a str,
    requested: Option<&'a str>,
    resumed: String,
    message: &'a str,
}

impl Gap {
    /// The data of the event, as JSON.
    #[must_use]
    pub fn data(&self) -> String {
        let message = match self.reason {
            GapReason::Evicted => "events behind the requested id are no longer retained",
            GapReason::Epoch => "the requested id is from another life of the hub's log",
            GapReason::Unknown => "the requested id was never given out by this hub",
            GapReason::Lagged => "the subscriber was too slow and was moved to the tail",
        };
        json(&GapData {
            channel: self.channel.as_ref().map(ChannelName::as_str),
            reason: self.reason.as_str(),
            requested: self.requested.as_deref(),
            resumed: self.resumed.to_string(),
            message,
        })
    }
}

/// What the events of a generation add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folded {
    /// Their format.
    pub format: &'static str,
    /// The text, without reasoning and tool calls.
    pub text: String,
    /// The usage as the provider reported it: JSON.
    pub usage: Option<String>,
}

/// A channel has ended, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The channel.
    pub channel: ChannelName,
    /// How.
    pub state: ChannelState,
    /// Why, in words, if somebody said.
    pub reason: Option<Box<str>>,
}

#[derive(Serialize)]
struct EndData<'a> {
    channel: &'a str,
    state: &'a str,
    reason: Option<&'a str>,
}

impl End {
    /// The data of the event, as JSON.
    #[must_use]
    pub fn data(&self) -> String {
        json(&EndData {
            channel: self.channel.as_str(),
            state: self.state.as_str(),
            reason: self.reason.as_deref(),
        })
    }
}

fn json<T: Serialize>(data: &T) -> String {
    // Strings and options of strings: there is nothing that could fail.
    serde_json::to_string(data).unwrap_or_default()
}

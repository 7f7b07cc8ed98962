//! The hub's own events: what a subscriber gets in addition to published events.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;

use crate::channel::{ChannelName, ChannelPattern};
use crate::clock::Micros;
use crate::event::{ChannelState, GapReason};
use crate::limits::MAX_NAMED_CHANNELS;
use crate::position::Position;
use crate::telemetry::Metrics;

/// The data of `fanfare.open`: a subscription begins at the tail.
#[derive(Serialize)]
pub(super) struct OpeningEvent<'a> {
    /// The channel; `None` for a subscription to many.
    channel: Option<&'a str>,
    state: &'a str,
    /// The first patterns of a subscription to many channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<Vec<&'a str>>,
    /// Number of further patterns.
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<usize>,
}

impl<'a> OpeningEvent<'a> {
    /// Returns the opening event for one channel, in this state.
    pub(super) fn of_one(channel: &'a ChannelName, state: ChannelState) -> Self {
        let channel = Some(channel.as_str());
        let state = state.as_str();
        Self { channel, state, channels: None, more: None }
    }

    /// Returns the opening event for the channels that these patterns select.
    pub(super) fn of_many(patterns: &'a [ChannelPattern]) -> Self {
        let named = patterns.iter().take(MAX_NAMED_CHANNELS).map(ChannelPattern::as_str);
        let more = patterns.len().checked_sub(MAX_NAMED_CHANNELS).filter(|more| *more > 0);
        let state = ChannelState::Open.as_str();
        Self { channel: None, state, channels: Some(named.collect()), more }
    }

    /// Returns the data of the event, as JSON.
    pub(super) fn data(&self) -> String {
        json(self)
    }
}

/// A place where events are missing, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The channel; `None` if it concerns all channels of a subscription to many.
    pub channel: Option<ChannelName>,
    /// The reason why events are missing.
    pub reason: GapReason,
    /// The id after which the subscriber asked to read.
    pub requested: Option<Box<str>>,
    /// The position after which it reads on.
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
    /// Returns the data of the event, as JSON.
    #[must_use]
    pub fn data(&self) -> String {
        let message = match self.reason {
            GapReason::Evicted => "events after the requested id are no longer retained",
            GapReason::Epoch => "the requested id is from another life of the hub's log",
            GapReason::Unknown => "the requested id was never given out by this hub",
            GapReason::Lagged => "the subscriber was too slow and was moved to the tail",
            GapReason::Lost => "the disk of the store has lost these events",
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

/// The state and the reason to close a channel with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The state to end in.
    pub state: ChannelState,
    /// The reason, in words.
    pub reason: Option<Box<str>>,
}

/// The end of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The channel.
    pub channel: ChannelName,
    /// The state in which it ended.
    pub state: ChannelState,
    /// The reason in words, if one was given.
    pub reason: Option<Box<str>>,
}

#[derive(Serialize)]
struct EndData<'a> {
    channel: &'a str,
    state: &'a str,
    reason: Option<&'a str>,
}

impl End {
    /// Returns the end of a channel that is closed like this.
    pub(super) fn of(channel: &ChannelName, close: &Close) -> Self {
        Self { channel: channel.clone(), state: close.state, reason: close.reason.clone() }
    }

    /// Returns the data of the event, as JSON.
    #[must_use]
    pub fn data(&self) -> String {
        json(&EndData {
            channel: self.channel.as_str(),
            state: self.state.as_str(),
            reason: self.reason.as_deref(),
        })
    }
}

/// The end of a channel, as it is sent to a hook.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// The channel.
    pub channel: ChannelName,
    /// The state in which it ended.
    pub state: ChannelState,
    /// The reason in words, if one was given.
    pub reason: Option<Box<str>>,
    /// The format of its events, if it is known.
    pub format: Option<&'static str>,
    /// The text of its events, if their format is known.
    pub text: Option<String>,
    /// The usage as JSON, if the producer sent it.
    pub usage: Option<String>,
    /// Whether its events had content that is not in the text, such as an image.
    pub incomplete: bool,
    /// Number of events in the channel.
    pub events: u64,
    /// The time from the first to the last of them.
    pub duration: Duration,
    /// The id of the first event.
    pub first_id: Option<String>,
    /// The id of the last event.
    pub last_id: Option<String>,
    /// The time of the end.
    pub time: Micros,
}

/// The queue for the ends of channels, and the filter that selects them.
pub(super) struct OnEnd {
    filter: Box<dyn Fn(&ChannelName) -> bool + Send + Sync>,
    queue: mpsc::Sender<Ended>,
}

impl OnEnd {
    pub(super) fn new(
        filter: impl Fn(&ChannelName) -> bool + Send + Sync + 'static,
        queue: mpsc::Sender<Ended>,
    ) -> Self {
        Self { filter: Box::new(filter), queue }
    }

    pub(super) fn wants(&self, channel: &ChannelName) -> bool {
        (self.filter)(channel)
    }

    /// Queues the end. Does not block: an end that does not fit is dropped and counted.
    pub(super) fn queue(&self, ended: Ended, metrics: &Metrics) {
        if self.queue.try_send(ended).is_err() {
            metrics.hook_dropped();
        }
    }
}

impl fmt::Debug for OnEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnEnd").field("queue", &self.queue).finish_non_exhaustive()
    }
}

fn json<T: Serialize>(data: &T) -> String {
    // Strings and options of strings: this cannot fail.
    serde_json::to_string(data).unwrap_or_default()
}

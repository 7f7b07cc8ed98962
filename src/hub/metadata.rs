//! The texts that the store keeps with a channel's events: its metadata, and its end.

use serde::{Deserialize, Serialize};

use super::config::ChannelOptions;
use super::control_events::End;
use crate::channel::ChannelName;
use crate::event::ChannelState;

/// The metadata of a channel in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ChannelMetadata {
    /// The options set on the channel itself.
    #[serde(default)]
    pub(super) options: ChannelOptions,
    /// Whether a producer has begun a generation: without an end it is abandoned.
    #[serde(default)]
    pub(super) produced: bool,
    /// The last offset of earlier channels of this name.
    #[serde(default)]
    pub(super) inherited: u64,
}

impl ChannelMetadata {
    pub(super) fn to_text(self) -> String {
        // Numbers and short texts: this cannot fail.
        serde_json::to_string(&self).unwrap_or_default()
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// The end of a channel, and whether it was a stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndRecord {
    pub(super) end: End,
    pub(super) stopped: bool,
}

#[derive(Serialize, Deserialize)]
struct EndMetadata {
    state: ChannelState,
    reason: Option<Box<str>>,
    stopped: bool,
}

impl EndRecord {
    pub(super) fn to_text(&self) -> String {
        let Self { end, stopped } = self;
        let end = EndMetadata { state: end.state, reason: end.reason.clone(), stopped: *stopped };
        serde_json::to_string(&end).unwrap_or_default()
    }

    pub(super) fn from_text(channel: &ChannelName, text: &str) -> Option<Self> {
        let EndMetadata { state, reason, stopped } = serde_json::from_str(text).ok()?;
        Some(Self { end: End { channel: channel.clone(), state, reason }, stopped })
    }
}

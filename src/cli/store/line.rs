//! The lines of an export: `export` writes them, `import` reads them.
//!
//! Each channel has one line with its settings, one per event, and one with its end, if it has
//! ended. `data` is always a JSON string, the text of the event: a JSON value would lose its
//! formatting, and whether it was a string.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::channel::ChannelName;
use crate::event::EventType;

/// The channel's settings that differ from its configuration, in the form of `PUT`.
#[derive(Debug, Serialize)]
pub(super) struct SettingsLine<'a> {
    pub(super) channel: &'a str,
    pub(super) options: &'a RawValue,
}

/// An event.
#[derive(Debug, Serialize)]
pub(super) struct EventLine<'a> {
    pub(super) channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) event: Option<&'a str>,
    pub(super) data: &'a str,
    pub(super) id: &'a str,
    pub(super) time: &'a str,
}

/// The end of a channel.
#[derive(Debug, Serialize)]
pub(super) struct EndLine<'a> {
    pub(super) channel: &'a str,
    pub(super) state: &'a str,
    pub(super) reason: Option<&'a str>,
}

/// A parsed line.
#[derive(Debug)]
pub(super) struct StoreLine {
    pub(super) channel: ChannelName,
    pub(super) says: Says,
}

/// The content of a line.
#[derive(Debug)]
pub(super) enum Says {
    /// The settings of the channel, as JSON.
    Settings(String),
    /// An event. The data is JSON, in the form of `POST /v1/publish`.
    Event(Option<EventType>, Box<RawValue>),
    /// The end of the channel.
    End(LineEnd, Option<String>),
}

/// The state of an ended channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum LineEnd {
    Complete,
    Error,
    Cancelled,
    Abandoned,
}

impl LineEnd {
    /// Returns the state for a close by a publisher. Only the hub can set `abandoned`.
    pub(super) fn closing(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Error | Self::Abandoned => "error",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The members that a line may have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    channel: String,
    #[serde(default)]
    options: Option<Box<RawValue>>,
    #[serde(default)]
    event: Option<String>,
    #[serde(default)]
    data: Option<Box<RawValue>>,
    #[serde(default)]
    state: Option<LineEnd>,
    #[serde(default)]
    reason: Option<String>,
    // For readers of an export: an import assigns new ones.
    #[serde(default, rename = "id")]
    _id: serde::de::IgnoredAny,
    #[serde(default, rename = "time")]
    _time: serde::de::IgnoredAny,
}

/// An error in a line. The message says what would be right.
#[derive(Debug, thiserror::Error)]
#[error("{0}: expected {EXAMPLE}")]
pub(super) struct InvalidStoreLine(String);

const EXAMPLE: &str = concat!(
    r#"{"channel":"chat/42","event":"token","data":"text"}, "#,
    "or `options` or `state` in place of `event` and `data`"
);

impl StoreLine {
    pub(super) fn parse(text: &[u8]) -> Result<Self, InvalidStoreLine> {
        let invalid = |why: &dyn fmt::Display| InvalidStoreLine(why.to_string());
        let members: Members = serde_json::from_slice(text).map_err(|error| invalid(&error))?;
        let Members { channel, options, event, data, state, reason, .. } = members;
        let channel = channel.parse().map_err(|error| invalid(&error))?;
        let is_event = event.is_none() || data.is_some();
        let is_end = reason.is_none() || state.is_some();
        let says = match (options, data, state) {
            (Some(options), None, None) if is_event && is_end => {
                Says::Settings(object(options.get())?)
            }
            (None, Some(data), None) if is_end => {
                let event = event.map(|text| text.parse::<EventType>()).transpose();
                Says::Event(event.map_err(|error| invalid(&error))?, checked(data)?)
            }
            (None, None, Some(state)) if is_event => Says::End(state, reason),
            (None, None, None) => {
                return Err(invalid(&"it has neither data nor options nor state"));
            }
            _ => return Err(invalid(&"its members do not belong together")),
        };
        Ok(Self { channel, says })
    }
}

fn object(json: &str) -> Result<String, InvalidStoreLine> {
    if json.starts_with('{') {
        return Ok(json.to_owned());
    }
    Err(InvalidStoreLine("`options` is no object".into()))
}

/// Refuses half of a surrogate pair, which is valid JSON but no text.
fn checked(data: Box<RawValue>) -> Result<Box<RawValue>, InvalidStoreLine> {
    if data.get().starts_with('"')
        && let Err(error) = serde_json::from_str::<String>(data.get())
    {
        return Err(InvalidStoreLine(format!("`data`: {error}")));
    }
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> String {
        StoreLine::parse(line.as_bytes()).map_or_else(|error| error.to_string(), |_| "fine".into())
    }

    #[test]
    fn each_kind_of_line_is_understood() {
        for line in [
            r#"{"channel":"a","options":{}}"#,
            r#"{"channel":"a","data":""}"#,
            r#"{"channel":"a","event":"t","data":{"a":1},"id":"e-1","time":"2026"}"#,
            r#"{"channel":"a","event":null,"data":"x"}"#,
            r#"{"channel":"a","state":"abandoned","reason":null}"#,
            r#"{"channel":"a","state":"error","reason":"no"}"#,
        ] {
            assert_eq!(told(line), "fine", "{line}");
        }
    }

    #[test]
    fn what_is_none_is_told_why_and_what_would_be_right() {
        for (line, why) in [
            ("hello", "expected value"),
            (r#"{"channel":"a"}"#, "neither data nor options nor state"),
            (r#"{"channel":"a*","data":"x"}"#, "`*`"),
            (r#"{"data":"x"}"#, "missing field `channel`"),
            (r#"{"channel":"a","dat":"x"}"#, "unknown field `dat`"),
            (r#"{"channel":"a","data":"x","state":"error"}"#, "do not belong together"),
            (r#"{"channel":"a","data":"x","reason":"y"}"#, "do not belong together"),
            (r#"{"channel":"a","options":{},"event":"y"}"#, "do not belong together"),
            (r#"{"channel":"a","options":[]}"#, "`options` is no object"),
            (r#"{"channel":"a","state":"open"}"#, "unknown variant `open`"),
            (r#"{"channel":"a","event":"fanfare.x","data":""}"#, "the hub's own"),
            (r#"{"channel":"a","data":"\ud800"}"#, "`data`: "),
        ] {
            let told = told(line);
            assert!(told.contains(why) && told.contains(r#""data":"text"}"#), "{line}: {told}");
        }
    }
}

//! Events before they have an offset, and the states of a channel.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::json::LazyJson;
use crate::limits::MAX_EVENT_TYPE_BYTES;
use crate::word_enum::words;

/// Event types that begin with this are the hub's own.
pub const RESERVED_PREFIX: &str = "fanfare.";

/// The type of the hub's event that opens a subscription at the tail, and has the id of the tail.
pub const OPEN: &str = "fanfare.open";

/// The type of the hub's event for a stream that is not available now: the client retries later.
pub const BUSY: &str = "fanfare.busy";

/// The type of the hub's event in place of missing events.
pub const GAP: &str = "fanfare.gap";

/// The type of the hub's event that reports the end of a channel, and how it ended.
pub const END: &str = "fanfare.end";

/// The type of the hub's event with a generation so far, folded into one.
pub const SNAPSHOT: &str = "fanfare.snapshot";

/// The type of the event that asks a subscriber to reconnect with another credential. It has no id,
/// so that the client keeps the last one.
pub const UNAUTHENTICATED: &str = "fanfare.unauthenticated";

/// The SSE `event:` field of a published event: one line, not reserved, up to 128 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventType(Box<str>);

impl EventType {
    /// Returns the type as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for EventType {
    type Err = InvalidEventType;

    fn from_str(text: &str) -> Result<Self, InvalidEventType> {
        if text.len() > MAX_EVENT_TYPE_BYTES {
            return Err(InvalidEventType::TooLong(text.len()));
        }
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(InvalidEventType::NotOneLine);
        }
        if text.starts_with(RESERVED_PREFIX) {
            return Err(InvalidEventType::Reserved);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The reason for which a text is not the type of a published event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEventType {
    /// Too long.
    #[error("the event type has {0} bytes: 128 is the most")]
    TooLong(usize),
    /// Empty, or with a control character.
    #[error("the event type is empty or has a control character: give one line of text")]
    NotOneLine,
    /// One that is reserved for the hub.
    #[error("event types that begin with `fanfare.` are the hub's own: choose another")]
    Reserved,
}

/// An event without an offset: what a publisher sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// The SSE `event:` field; without one, browsers call it `message`.
    pub event_type: Option<EventType>,
    /// UTF-8 text. Line ends of any kind become `\n`, because an event stream carries no other.
    pub data: Payload,
}

impl NewEvent {
    /// Returns a copy whose data is in its own memory.
    #[must_use]
    pub fn detached(&self) -> Self {
        Self { event_type: self.event_type.clone(), data: self.data.detached() }
    }
}

impl From<&str> for NewEvent {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<String> for NewEvent {
    fn from(text: String) -> Self {
        Self { event_type: None, data: text.into() }
    }
}

/// The data of an event: UTF-8, checked when it is made.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    bytes: Bytes,
    /// The values, if the data is JSON and was read as such.
    json: LazyJson,
}

impl Payload {
    /// Wraps the bytes, if they are UTF-8.
    ///
    /// # Errors
    /// The index of the first byte that is not UTF-8.
    pub fn new(bytes: Bytes) -> Result<Self, usize> {
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(Self::of(bytes)),
            Err(error) => Err(error.valid_up_to()),
        }
    }

    /// Wraps bytes that are UTF-8.
    fn of(bytes: Bytes) -> Self {
        Self { bytes, json: LazyJson::default() }
    }

    /// Returns a copy in its own memory: the buffer that this one is a slice of may be much larger.
    #[must_use]
    pub fn detached(&self) -> Self {
        // The values of `[1,1,1]` take eight times as many bytes as the text, those of a chunk of a
        // generation about three times.
        let json = self.json.copy_within(4 * self.bytes.len());
        Self { bytes: Bytes::copy_from_slice(&self.bytes), json }
    }

    /// Returns the bytes, which are UTF-8, without copying them.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Returns the bytes, which are UTF-8.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the data as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.bytes).unwrap_or_default()
    }

    /// Returns what was read of the data as JSON.
    pub(crate) fn lazy_json(&self) -> &LazyJson {
        &self.json
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Payload {}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self::of(text.into())
    }
}

impl From<&'static str> for Payload {
    fn from(text: &'static str) -> Self {
        Self::of(Bytes::from_static(text.as_bytes()))
    }
}

words! {
    /// The state of a channel: open, or ended in one of these ways.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum ChannelState {
        /// Events may follow.
        #[default]
        Open = "open",
        /// The publisher has ended it as complete.
        Complete = "complete",
        /// The publisher has reported an error.
        Error = "error",
        /// A viewer has stopped it.
        Cancelled = "cancelled",
        /// Its producer disconnected without an end mark, and did not come back in time.
        Abandoned = "abandoned",
        /// An operator deleted it.
        Deleted = "deleted",
    }
}

impl ChannelState {
    /// The states in which a channel has ended.
    pub const ENDS: [Self; 5] =
        [Self::Complete, Self::Error, Self::Cancelled, Self::Abandoned, Self::Deleted];
}

impl fmt::Display for ChannelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

words! {
    /// The reason for which events are not contiguous with what the client had.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum GapReason {
        /// Retention has evicted the events after the requested id.
        Evicted = "evicted",
        /// The id belongs to another life of the log.
        Epoch = "epoch",
        /// This hub never assigned the id.
        Unknown = "unknown",
        /// The subscriber exceeded its lag limits, and was moved to the tail.
        Lagged = "lagged",
        /// The disk of the store has lost the events.
        Lost = "lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_type_is_one_line_that_is_not_the_hubs_own() {
        assert!("token".parse::<EventType>().is_ok());
        assert_eq!("fanfare.end".parse::<EventType>(), Err(InvalidEventType::Reserved));
        assert_eq!("a\nb".parse::<EventType>(), Err(InvalidEventType::NotOneLine));
        assert_eq!("".parse::<EventType>(), Err(InvalidEventType::NotOneLine));
        assert_eq!("x".repeat(129).parse::<EventType>(), Err(InvalidEventType::TooLong(129)));
    }

    #[test]
    fn a_payload_is_utf8() {
        assert_eq!(Payload::new(Bytes::from_static(b"ab\xff")), Err(2));
    }
}

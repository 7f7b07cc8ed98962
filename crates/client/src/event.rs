//! Events as a subscriber receives them.

use fanfare_sse::ParsedEvent;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The event at which a subscription begins, for its id.
const OPEN: &str = "fanfare.open";

/// The event that reports missing events.
const GAP: &str = "fanfare.gap";

/// The last event of a channel.
const END: &str = "fanfare.end";

/// The event after which a hub ends a stream whose credential has expired.
const UNAUTHENTICATED: &str = "fanfare.unauthenticated";

/// The types of the hub's own events begin with this.
const RESERVED_PREFIX: &str = "fanfare.";

/// An event as received. The hub's own events are events, too: [`gap`](Self::gap) and
/// [`end`](Self::end) read the two that matter most.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The id to resume after.
    pub id: Option<Box<str>>,
    /// The type; without one, browsers call it `message`.
    pub event_type: Option<Box<str>>,
    /// The data.
    pub data: String,
}

/// Events are missing: those after `requested`, up to `resumed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Gap {
    /// The channel, where there are several.
    pub channel: Option<String>,
    /// The reason: a word.
    pub reason: Option<String>,
    /// The id after which the client wanted to read.
    pub requested: Option<String>,
    /// The id after which the stream continues.
    pub resumed: Option<String>,
    /// The explanation, a sentence.
    pub message: Option<String>,
}

/// A channel has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct End {
    /// The channel.
    pub channel: Option<String>,
    /// The final state: `complete`, `error`, `cancelled`, `abandoned` or `deleted`.
    pub state: String,
    /// The reason that was given, or that the hub gives.
    pub reason: Option<String>,
}

/// An event of a subscription to several channels.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Envelope {
    /// The channel of the event.
    pub channel: String,
    /// The type of the event.
    #[serde(default)]
    pub event: Option<String>,
    /// The data of the event.
    pub data: String,
    /// The time of the publish, as RFC 3339.
    #[serde(default)]
    pub time: Option<String>,
}

impl Event {
    /// Creates an event.
    #[must_use]
    pub fn new(id: Option<&str>, event_type: Option<&str>, data: impl Into<String>) -> Self {
        Self { id: id.map(Into::into), event_type: event_type.map(Into::into), data: data.into() }
    }

    /// Returns whether this is an event of the hub's own.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.event_type.as_deref().is_some_and(|name| name.starts_with(RESERVED_PREFIX))
    }

    /// Reads `fanfare.gap`.
    #[must_use]
    pub fn gap(&self) -> Option<Gap> {
        self.control(GAP)
    }

    /// Reads `fanfare.end`.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.control(END)
    }

    /// Returns whether the hub ends the stream because its credential has expired.
    #[must_use]
    pub fn is_unauthenticated(&self) -> bool {
        self.is(UNAUTHENTICATED)
    }

    /// Reads the envelope of an event of a subscription to several channels.
    #[must_use]
    pub fn envelope(&self) -> Option<Envelope> {
        serde_json::from_str(&self.data).ok()
    }

    pub(crate) fn is_end(&self) -> bool {
        self.is(END)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.is(OPEN)
    }

    fn is(&self, name: &str) -> bool {
        self.event_type.as_deref() == Some(name)
    }

    /// Reads a control event. One whose data cannot be read has no fields: a later hub may change
    /// them.
    fn control<T: DeserializeOwned + Default>(&self, name: &str) -> Option<T> {
        self.is(name).then(|| serde_json::from_str(&self.data).unwrap_or_default())
    }
}

impl From<ParsedEvent> for Event {
    fn from(parsed: ParsedEvent) -> Self {
        let ParsedEvent { id, event_type, data } = parsed;
        Self { id, event_type, data }
    }
}

//! An event of a provider's stream, as the formats read it.

use std::borrow::Cow;

use crate::event::{EventType, NewEvent};
use crate::json::{Fields, Json, LazyJson};

/// The end of a stream of OpenAI's APIs, and of many compatible ones.
pub(super) const DONE: &str = "[DONE]";

/// An event: its SSE type, if it has one, and its data. JSON in the data is parsed at most once,
/// for all that read the event.
#[derive(Debug)]
pub struct ModelEvent<'a> {
    event_type: Option<&'a str>,
    data: Cow<'a, str>,
    json: ParsedData<'a>,
}

/// The JSON of an event's data.
#[derive(Debug)]
enum ParsedData<'a> {
    Own(LazyJson),
    /// That of a payload, which keeps it for the next reader.
    Shared(&'a LazyJson),
}

impl<'a> ModelEvent<'a> {
    /// Creates an event with this data.
    #[must_use]
    pub fn new(event_type: Option<&'a str>, data: impl Into<Cow<'a, str>>) -> Self {
        Self { event_type, data: data.into(), json: ParsedData::Own(LazyJson::default()) }
    }

    /// Creates the event that a publisher sent, with the data as its frame has it: with one kind of
    /// line ends.
    #[must_use]
    pub fn of(event: &'a NewEvent) -> Self {
        let event_type = event.event_type.as_ref().map(EventType::as_str);
        let data = event.data.as_str();
        match memchr::memchr(b'\r', data.as_bytes()) {
            Some(_) => Self::new(event_type, data.replace("\r\n", "\n").replace('\r', "\n")),
            None => {
                let json = ParsedData::Shared(event.data.lazy_json());
                Self { event_type, data: data.into(), json }
            }
        }
    }

    pub(super) fn event_type(&self) -> Option<&str> {
        self.event_type
    }

    pub(super) fn data(&self) -> &str {
        &self.data
    }

    /// Returns whether the data is `[DONE]`.
    pub(super) fn is_done(&self) -> bool {
        self.data.len() < 64 && self.data.trim() == DONE
    }

    /// Returns whether nothing can be missing at the end of the data: it is `[DONE]`, or an object.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_done() || self.fields().is_some()
    }

    /// Returns the data, if it is JSON.
    pub(super) fn json(&self) -> Option<Json<'_>> {
        let parsed = match &self.json {
            ParsedData::Own(parsed) => parsed,
            ParsedData::Shared(parsed) => parsed,
        };
        parsed.of(&self.data)
    }

    /// Returns the fields of the data, if it is a JSON object.
    pub(super) fn fields(&self) -> Option<Fields<'_>> {
        self.json().filter(|json| json.is_object()).map(Json::fields)
    }

    /// Returns the type of an event with these fields. The data's `type` decides, as in the
    /// providers' own clients; the SSE type counts only for data without one.
    pub(super) fn name<'e>(&'e self, fields: &Fields<'e>) -> Cow<'e, str> {
        let name = fields.text("type");
        name.or(self.event_type.map(Cow::Borrowed)).unwrap_or_default()
    }
}

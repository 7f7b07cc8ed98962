//! A generation so far: its deltas added up to parts.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::{RawValue, to_raw_value};

use super::Format;
use super::json::{Fields, Json, decode};

/// What the events of a generation add up to.
///
/// Serialised, it is an object with `format`, `text`, `parts`, and `model` and `usage` if they are
/// known.
#[derive(Clone, Debug)]
pub struct Fold {
    format: Format,
    parts: Vec<Part>,
    /// Where the part is that an event may add to.
    places: HashMap<Address<'static>, usize>,
    /// How many parts there were when the current step began.
    step: usize,
    model: Option<Box<str>>,
    usage: Option<Box<RawValue>>,
    /// What the parts, their addresses, the model and the usage take.
    held: usize,
}

/// A run of text, or a tool call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The number of the choice, or candidate, that it belongs to; 0 where there is only one.
    pub choice: u32,
    /// What it is.
    pub kind: PartKind,
    /// Its text; that of a tool call is its arguments, JSON as far as it has come.
    pub text: String,
    /// The first half of a character whose second has not come yet.
    half: Option<u16>,
}

/// What a part is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// The answer.
    Text,
    /// What the model thought, or a summary of it.
    Reasoning,
    /// Why the model does not answer.
    Refusal,
    /// A call of a tool.
    ToolCall {
        /// What the tool's result has to name.
        id: Option<Box<str>>,
        /// The tool.
        name: Option<Box<str>>,
    },
}

/// How events name the part that they add to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address<'a> {
    pub(super) choice: u32,
    pub(super) lane: Lane,
    pub(super) key: Key<'a>,
}

/// The kind of part, as far as a delta tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    Text,
    Reasoning,
    Refusal,
    Tool,
}

/// What tells parts of one choice and lane from each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key<'a> {
    /// The number of an item, and of a piece of it.
    Index(u32, u32),
    /// An id.
    Id(Cow<'a, str>),
}

impl Fold {
    /// Nothing yet.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            parts: Vec::new(),
            places: HashMap::new(),
            step: 0,
            model: None,
            usage: None,
            held: 0,
        }
    }

    /// Adds the next event; one that is not understood adds nothing.
    pub fn push(&mut self, event_type: Option<&str>, data: &str) {
        self.format.provider().fold(event_type, data, self);
    }

    /// The format of the events.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// All text of the first choice, without reasoning, refusals and tool calls.
    #[must_use]
    pub fn text(&self) -> String {
        let parts = self.parts.iter();
        parts
            .filter(|part| part.choice == 0 && part.kind == PartKind::Text)
            .map(|part| part.text.as_str())
            .collect()
    }

    /// The parts, in the order in which they began.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The last usage that was reported, as the provider wrote it.
    #[must_use]
    pub fn usage(&self) -> Option<&RawValue> {
        self.usage.as_deref()
    }

    /// The model that answers.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// How many bytes it holds.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.held
    }

    /// Adds a delta's string to the part at this address.
    pub(super) fn append(&mut self, address: Address<'_>, delta: Json<'_>) {
        let Some(contents) = delta.contents().filter(|contents| !contents.is_empty()) else {
            return;
        };
        let part = self.part(address);
        let before = part.text.capacity();
        decode(contents, &mut part.half, &mut part.text);
        let grown = part.text.capacity() - before;
        self.held += grown;
    }

    /// Adds plain text to the part at this address.
    pub(super) fn append_text(&mut self, address: Address<'_>, text: &str) {
        if text.is_empty() {
            return;
        }
        let part = self.part(address);
        let before = part.text.capacity();
        part.text.push_str(text);
        let grown = part.text.capacity() - before;
        self.held += grown;
    }

    /// What comes for this address from now on is a new part.
    pub(super) fn part_ends(&mut self, address: &Address<'_>) {
        if self.places.remove(&address.clone().into_owned()).is_some() {
            self.held -= address.weight();
        }
    }

    /// A tool call is named, or named again: a new id at an old address is a new call.
    pub(super) fn name_call(
        &mut self,
        address: Address<'_>,
        id: Option<Cow<'_, str>>,
        name: Option<Cow<'_, str>>,
    ) {
        let id = id.filter(|id| !id.is_empty());
        let name = name.filter(|name| !name.is_empty());
        let known = self.places.get(&address).and_then(|place| self.parts.get(*place));
        if let (Some(known), Some(id)) = (known.and_then(Part::call_id), &id)
            && known != id
        {
            self.part_ends(&address);
        }
        let mut grown = 0;
        if let PartKind::ToolCall { id: known_id, name: known_name } = &mut self.part(address).kind
        {
            for (known, said) in [(known_id, id), (known_name, name)] {
                if let (None, Some(said)) = (&known, said) {
                    grown += said.len();
                    *known = Some(said.into());
                }
            }
        }
        self.held += grown;
    }

    /// The arguments of a tool call as a whole, which says nothing new where deltas came.
    pub(super) fn set_arguments(&mut self, address: Address<'_>, arguments: Json<'_>) {
        if !self.part(address.clone()).text.is_empty() {
            return;
        }
        if arguments.is_string() {
            self.append(address, arguments);
        } else {
            self.append_text(address, arguments.raw().get());
        }
    }

    /// A tool call that comes in one piece.
    pub(super) fn add_call(
        &mut self,
        choice: u32,
        id: Option<Cow<'_, str>>,
        name: Option<Cow<'_, str>>,
        arguments: Option<Json<'_>>,
    ) {
        let address = Address { choice, lane: Lane::Tool, key: Key::Index(0, 0) };
        self.part_ends(&address);
        self.name_call(address.clone(), id, name);
        if let Some(arguments) = arguments {
            self.set_arguments(address, arguments);
        }
    }

    /// The model, of which the first name counts.
    pub(super) fn set_model(&mut self, model: Option<Cow<'_, str>>) {
        if let (None, Some(model)) = (&self.model, model.filter(|model| !model.is_empty())) {
            self.held += model.len();
            self.model = Some(model.into());
        }
    }

    /// The whole usage.
    pub(super) fn set_usage(&mut self, usage: Option<Json<'_>>) {
        if let Some(usage) = usage.filter(|usage| usage.is_object()) {
            self.hold_usage(usage.raw().to_owned());
        }
    }

    /// A part of the usage: fields that are not in it stay as they were.
    pub(super) fn update_usage(&mut self, usage: Fields<'_>) {
        if usage.is_empty() {
            return;
        }
        let before = self.usage.take();
        let before_len = before.as_ref().map_or(0, |usage| usage.get().len());
        let known = before.as_deref().and_then(|known| Fields::parse(known.get()));
        let whole = to_raw_value(&usage.or(known.unwrap_or_default()));
        self.held -= before_len;
        if let Ok(whole) = whole {
            self.hold_usage(whole);
        }
    }

    /// A step begins: it can be taken back.
    pub(super) fn begin_step(&mut self) {
        self.step = self.parts.len();
    }

    /// Takes back the parts of the current step.
    pub(super) fn take_back_step(&mut self) {
        for part in self.parts.drain(self.step.min(self.parts.len())..) {
            self.held -= part.weight();
        }
        for (address, _) in self.places.extract_if(|_, place| *place >= self.step) {
            self.held -= address.weight();
        }
    }

    fn hold_usage(&mut self, usage: Box<RawValue>) {
        self.held -= self.usage.as_ref().map_or(0, |usage| usage.get().len());
        self.held += usage.get().len();
        self.usage = Some(usage);
    }

    /// The part at this address, which is new if nothing has come for it yet.
    fn part(&mut self, address: Address<'_>) -> &mut Part {
        let place = if let Some(place) = self.places.get(&address) {
            *place
        } else {
            let (part, address) = (Part::new(&address), address.into_owned());
            self.held += part.weight() + address.weight();
            self.places.insert(address, self.parts.len());
            self.parts.push(part);
            self.parts.len() - 1
        };
        &mut self.parts[place]
    }
}

impl Part {
    fn new(address: &Address<'_>) -> Self {
        let kind = match address.lane {
            Lane::Text => PartKind::Text,
            Lane::Reasoning => PartKind::Reasoning,
            Lane::Refusal => PartKind::Refusal,
            Lane::Tool => PartKind::ToolCall { id: None, name: None },
        };
        Self { choice: address.choice, kind, text: String::new(), half: None }
    }

    fn call_id(&self) -> Option<&str> {
        match &self.kind {
            PartKind::ToolCall { id, .. } => id.as_deref(),
            _ => None,
        }
    }

    fn weight(&self) -> usize {
        let named = match &self.kind {
            PartKind::ToolCall { id, name } => {
                [id, name].into_iter().flatten().map(|text| text.len()).sum()
            }
            _ => 0,
        };
        size_of::<Self>() + self.text.capacity() + named
    }
}

impl Address<'_> {
    fn into_owned(self) -> Address<'static> {
        let key = match self.key {
            Key::Index(item, piece) => Key::Index(item, piece),
            Key::Id(id) => Key::Id(Cow::Owned(id.into_owned())),
        };
        Address { choice: self.choice, lane: self.lane, key }
    }

    /// With its place.
    fn weight(&self) -> usize {
        let id = if let Key::Id(id) = &self.key { id.len() } else { 0 };
        size_of::<(Address<'static>, usize)>() + id
    }
}

impl Serialize for Fold {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("format", self.format.as_str())?;
        if let Some(model) = &self.model {
            map.serialize_entry("model", model)?;
        }
        map.serialize_entry("text", &self.text())?;
        map.serialize_entry("parts", &self.parts)?;
        if let Some(usage) = &self.usage {
            map.serialize_entry("usage", usage)?;
        }
        map.end()
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let (name, text) = match self.kind {
            PartKind::Text => ("text", "text"),
            PartKind::Reasoning => ("reasoning", "text"),
            PartKind::Refusal => ("refusal", "text"),
            PartKind::ToolCall { .. } => ("tool_call", "arguments"),
        };
        map.serialize_entry("type", name)?;
        if self.choice != 0 {
            map.serialize_entry("choice", &self.choice)?;
        }
        if let PartKind::ToolCall { id, name } = &self.kind {
            for (field, value) in [("id", id), ("name", name)] {
                if let Some(value) = value {
                    map.serialize_entry(field, value)?;
                }
            }
        }
        map.serialize_entry(text, &self.text)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(fold: &Fold) -> usize {
        let parts: usize = fold.parts.iter().map(Part::weight).sum();
        let places: usize = fold.places.keys().map(Address::weight).sum();
        let model = fold.model.as_ref().map_or(0, |model| model.len());
        parts + places + model + fold.usage.as_ref().map_or(0, |usage| usage.get().len())
    }

    fn check(format: Format, events: &[&str]) {
        let mut fold = Fold::new(format);
        for data in events {
            fold.push(None, data);
            assert_eq!(fold.held, counted(&fold), "behind {data}");
        }
        assert!(fold.weight() > size_of::<Fold>());
    }

    #[test]
    fn the_weight_is_what_it_holds() {
        check(
            Format::UiMessage,
            &[
                r#"{"type":"start-step"}"#,
                r#"{"type":"text-delta","id":"a","delta":"gone"}"#,
                r#"{"type":"reset-step"}"#,
                r#"{"type":"text-start","id":"a"}"#,
                r#"{"type":"text-delta","id":"a","delta":"stays"}"#,
                r#"{"type":"text-delta","id":"a","delta":" and grows, and grows, and grows"}"#,
                r#"{"type":"start-step"}"#,
                r#"{"type":"tool-input-start","toolCallId":"c1","toolName":"find"}"#,
                r#"{"type":"tool-input-available","toolCallId":"c1","toolName":"find","input":{}}"#,
                r#"{"type":"text-start","id":"a"}"#,
                r#"{"type":"text-delta","id":"a","delta":"new"}"#,
                r#"{"type":"reset-step"}"#,
                r#"{"type":"text-delta","id":"a","delta":"?"}"#,
            ],
        );
        check(
            Format::Anthropic,
            &[
                r#"{"type":"message_start","message":{"model":"m","usage":{"input_tokens":7}}}"#,
                r#"{"type":"content_block_start","index":0,"content_block":{"type":"text"}}"#,
                r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}"#,
                r#"{"type":"message_delta","usage":{"input_tokens":null,"output_tokens":9}}"#,
                r#"{"type":"message_delta","usage":{"output_tokens":10}}"#,
            ],
        );
    }
}

//! The fold of a generation: its deltas added up to parts.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::address::{Address, Lane, call_address};
use super::format::Format;
use super::partial::PartialArguments;
use super::scan::ScanProgress;
use crate::json::{Items, Json, LazyJson, decode};
use crate::limits::MAX_USAGE_BYTES;

/// Number of the last parts that are searched for a call that is named by its id alone.
const MAX_SEARCHED_PARTS: usize = 64;

/// The sum of a generation's events.
///
/// Serialised, it is an object with `format`, `text`, `parts`, `model` and `usage` if they are
/// known, and `incomplete` if events had content that is not in the parts, or too large a usage.
#[derive(Clone, Debug)]
pub struct Fold {
    format: Format,
    parts: Vec<Part>,
    /// Index of the part that the events of an address add to.
    places: HashMap<Address<'static>, usize>,
    /// Number of `places` of each lane.
    counts: [usize; Lane::COUNT],
    /// Number of parts when the current step began.
    step: usize,
    model: Option<Box<str>>,
    /// JSON, as the provider wrote it.
    usage: Option<Box<str>>,
    /// Whether events had content that the fold skipped.
    incomplete: bool,
    /// The call whose arguments arrive value by value.
    partial: Option<Box<PartialArguments>>,
    /// Bytes of the parts, their addresses, the model and the usage.
    held: usize,
}

/// A run of text, or a tool call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The number of the choice, or candidate, that it belongs to; 0 where there is only one.
    pub choice: u32,
    /// Its kind.
    pub kind: PartKind,
    /// Its text; that of a tool call is its arguments, a prefix of JSON.
    pub text: String,
    /// The first half of a surrogate pair whose second half has not arrived.
    half: Option<u16>,
    /// Scan state of a call's arguments, which shows where some servers' calls end.
    progress: ScanProgress,
    /// The arguments came in the event that began the call: deltas replace them.
    provisional: bool,
}

/// The kind of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// The answer.
    Text,
    /// The model's reasoning, or a summary of it.
    Reasoning,
    /// The model's reason for not answering.
    Refusal,
    /// A call of a tool.
    ToolCall {
        /// The id that the tool's result has to name.
        id: Option<Box<str>>,
        /// The tool.
        name: Option<Box<str>>,
    },
}

impl Fold {
    /// Creates an empty fold.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            parts: Vec::new(),
            places: HashMap::new(),
            counts: [0; Lane::COUNT],
            step: 0,
            model: None,
            usage: None,
            incomplete: false,
            partial: None,
            held: 0,
        }
    }

    /// Returns the format of the events.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns all text of the first choice, without reasoning, refusals and tool calls.
    #[must_use]
    pub fn text(&self) -> String {
        let parts = self.parts.iter();
        parts
            .filter(|part| part.choice == 0 && part.kind == PartKind::Text)
            .map(|part| part.text.as_str())
            .collect()
    }

    /// Returns the parts, in the order in which they began.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Returns the last usage that was reported, as the provider wrote it.
    #[must_use]
    pub fn usage(&self) -> Option<&RawValue> {
        self.usage.as_deref().and_then(|usage| serde_json::from_str(usage).ok())
    }

    /// Returns the name of the model.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Returns whether events had content that is not in the parts, such as an image, or a usage
    /// that is too large to keep.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    /// Returns the bytes of memory of the fold.
    #[must_use]
    pub fn weight(&self) -> usize {
        let partial = self.partial.as_ref().map_or(0, |partial| partial.weight());
        size_of::<Self>() + self.held + partial
    }

    /// Notes that an event has content that is skipped.
    pub(super) fn skip(&mut self) {
        self.incomplete = true;
    }

    /// Adds a delta's string to the part at this address. A delta that is not a string is skipped,
    /// except for arguments, which are then added as written.
    pub(super) fn append(&mut self, address: Address<'_>, delta: Json<'_>) {
        let Some(contents) = delta.contents() else {
            if address.lane != Lane::Tool {
                self.incomplete |= !delta.is_empty();
            } else if !delta.is_null() {
                self.append_text(address, delta.raw());
            }
            return;
        };
        if !contents.is_empty() {
            self.grow(address, |part| decode(contents, &mut part.half, &mut part.text));
        }
    }

    /// Adds plain text to the part at this address.
    pub(super) fn append_text(&mut self, address: Address<'_>, text: &str) {
        if !text.is_empty() {
            self.grow(address, |part| part.text.push_str(text));
        }
    }

    /// Makes later events with this address begin a new part.
    pub(super) fn part_ends(&mut self, address: &Address<'_>) {
        if self.places.remove(&address.clone().into_owned()).is_some() {
            self.held -= address.weight();
            self.counts[address.lane as usize] -= 1;
        }
    }

    /// Sets the whole text of a part, unless deltas have already added it.
    pub(super) fn set_text(&mut self, address: Address<'_>, text: Json<'_>) {
        if self.at(&address).is_none_or(|part| part.text.is_empty()) {
            self.append(address, text);
        }
    }

    /// Sets the id and the name of a tool call, unless they are set.
    pub(super) fn name_call(
        &mut self,
        address: Address<'_>,
        id: Option<Cow<'_, str>>,
        name: Option<Cow<'_, str>>,
    ) {
        let id = id.filter(|id| !id.is_empty());
        let name = name.filter(|name| !name.is_empty());
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

    /// Sets the whole arguments of a tool call, unless deltas have already added them.
    pub(super) fn set_arguments(&mut self, address: Address<'_>, arguments: Json<'_>) {
        let part = self.part(address.clone());
        if part.text.is_empty() || part.provisional {
            self.append(address, arguments);
        }
    }

    /// Sets the arguments of the event that begins a call: deltas replace them.
    pub(super) fn begin_arguments(&mut self, address: Address<'_>, arguments: Json<'_>) {
        let part = self.part(address.clone());
        if part.text.is_empty() || part.provisional {
            self.append(address.clone(), arguments);
            let part = self.part(address);
            part.progress.read(&part.text);
            part.provisional = true;
        }
    }

    /// Adds a piece of a call's arguments, and scans it for the end of the JSON value.
    pub(super) fn append_arguments(&mut self, address: Address<'_>, arguments: Json<'_>) {
        let mut goes_on = false;
        self.grow(address, |part| {
            let before = part.text.len();
            match arguments.contents() {
                Some(contents) => decode(contents, &mut part.half, &mut part.text),
                None => part.text.push_str(arguments.raw()),
            }
            part.progress.read(&part.text[before..]);
            goes_on = part.progress.goes_on();
        });
        self.incomplete |= goes_on;
    }

    /// Makes the address that of the call with this id, if one of the last parts has it.
    pub(super) fn find_call(&mut self, address: &Address<'_>, id: &str) {
        let parts = self.parts.iter().enumerate().rev().take(MAX_SEARCHED_PARTS);
        let mut calls = parts.filter(|(_, part)| part.choice == address.choice);
        let Some((place, _)) = calls.find(|(_, part)| part.call_id() == Some(id)) else {
            return;
        };
        self.set_place(address.clone().into_owned(), place);
    }

    /// Returns the part that an event with this address adds to.
    pub(super) fn at(&self, address: &Address<'_>) -> Option<&Part> {
        self.places.get(address).and_then(|place| self.parts.get(*place))
    }

    /// Returns the number of parts of this lane.
    pub(super) fn count(&self, lane: Lane) -> usize {
        self.counts[lane as usize]
    }

    /// Adds a tool call that is sent in one piece.
    pub(super) fn add_call(
        &mut self,
        choice: u32,
        id: Option<Cow<'_, str>>,
        name: Option<Cow<'_, str>>,
        arguments: Option<Json<'_>>,
    ) {
        let address = call_address(choice);
        self.part_ends(&address);
        self.name_call(address.clone(), id, name);
        if let Some(arguments) = arguments {
            self.set_arguments(address, arguments);
        }
    }

    /// Begins a call whose arguments arrive value by value.
    pub(super) fn begin_partial(&mut self, address: Address<'static>) {
        self.partial = Some(Box::new(PartialArguments::new(address)));
    }

    /// Adds values to the arguments of the call that was begun last.
    pub(super) fn add_partial(&mut self, choice: u32, mut values: Items<'_>, ends: bool) {
        let Some(mut partial) = self.partial.take_if(|partial| partial.address().choice == choice)
        else {
            self.incomplete |= !values.is_empty();
            return;
        };
        let mut all = true;
        self.grow(partial.address(), |part| {
            all = values.all(|value| partial.add(&value.fields(), &mut part.text));
            if ends {
                partial.end(&mut part.text);
            }
        });
        self.incomplete |= !all;
        self.partial = Some(partial);
    }

    /// Sets the name of the model, unless it is set.
    pub(super) fn set_model(&mut self, model: Option<Cow<'_, str>>) {
        if let (None, Some(model)) = (&self.model, model.filter(|model| !model.is_empty())) {
            self.held += model.len();
            self.model = Some(model.into());
        }
    }

    /// Sets the whole usage.
    pub(super) fn set_usage(&mut self, usage: Option<Json<'_>>) {
        if let Some(usage) = usage.filter(|usage| usage.is_object() && !usage.is_empty()) {
            self.hold_usage(usage.raw());
        }
    }

    /// Updates the usage with these fields: those that are null or missing keep their values.
    pub(super) fn update_usage<'a>(&mut self, said: impl Iterator<Item = (Json<'a>, Json<'a>)>) {
        let mut size = 0;
        let said: Vec<_> = said
            .take_while(|(name, value)| {
                size += name.raw().len() + value.raw().len();
                size <= MAX_USAGE_BYTES
            })
            .collect();
        self.incomplete |= size > MAX_USAGE_BYTES;
        if said.is_empty() || size > MAX_USAGE_BYTES {
            return;
        }
        let before = LazyJson::default();
        let before = before.of(self.usage.as_deref().unwrap_or_default());
        let before = before.map(Json::fields).unwrap_or_default();
        let said = || said.iter().copied().filter(|(_, value)| !value.is_null());
        let names: HashSet<_> = said().map(|(name, _)| name.raw()).collect();
        let kept = before.all().filter(|(name, _)| !names.contains(name.raw()));
        let mut whole = String::from("{");
        for (name, value) in said().chain(kept) {
            let comma = if whole.len() == 1 { "" } else { "," };
            whole.extend([comma, name.raw(), ":", value.raw()]);
        }
        whole.push('}');
        self.hold_usage(&whole);
    }

    /// Begins a step, which can be undone.
    pub(super) fn begin_step(&mut self) {
        self.step = self.parts.len();
    }

    /// Removes the parts of the current step.
    pub(super) fn take_back_step(&mut self) {
        for part in self.parts.drain(self.step.min(self.parts.len())..) {
            self.held -= part.weight();
        }
        for (address, _) in self.places.extract_if(|_, place| *place >= self.step) {
            self.held -= address.weight();
            self.counts[address.lane as usize] -= 1;
        }
    }

    /// Keeps the usage, unless it is too large: each update reads and writes all of it.
    fn hold_usage(&mut self, usage: &str) {
        if usage.len() > MAX_USAGE_BYTES {
            self.incomplete = true;
            return;
        }
        self.held -= self.usage.as_ref().map_or(0, |usage| usage.len());
        self.held += usage.len();
        self.usage = Some(usage.into());
    }

    /// Makes events with this address add to the part with this index.
    fn set_place(&mut self, address: Address<'static>, place: usize) {
        let (lane, weight) = (address.lane, address.weight());
        if self.places.insert(address, place).is_none() {
            self.held += weight;
            self.counts[lane as usize] += 1;
        }
    }

    /// Writes to the part of this address.
    fn grow(&mut self, address: Address<'_>, write: impl FnOnce(&mut Part)) {
        let part = self.part(address);
        part.begin_deltas();
        let before = part.text.capacity();
        write(part);
        let grown = part.text.capacity() - before;
        self.held += grown;
    }

    /// Returns the part of this address, and creates it if there is none.
    fn part(&mut self, address: Address<'_>) -> &mut Part {
        let place = if let Some(place) = self.places.get(&address) {
            *place
        } else {
            let part = Part::new(&address);
            self.held += part.weight();
            self.set_place(address.into_owned(), self.parts.len());
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
            Lane::Reasoning | Lane::Summary => PartKind::Reasoning,
            Lane::Refusal => PartKind::Refusal,
            Lane::Tool => PartKind::ToolCall { id: None, name: None },
        };
        Self {
            choice: address.choice,
            kind,
            text: String::new(),
            half: None,
            progress: ScanProgress::default(),
            provisional: false,
        }
    }

    /// Discards provisional arguments, because a delta follows.
    fn begin_deltas(&mut self) {
        if self.provisional {
            self.text.clear();
            (self.half, self.progress, self.provisional) = (None, ScanProgress::default(), false);
        }
    }

    /// Returns whether a delta with the address of this call begins another one.
    pub(super) fn is_followed(
        &self,
        id: Option<&str>,
        name: Option<&str>,
        has_arguments: bool,
    ) -> bool {
        let PartKind::ToolCall { id: known_id, name: known_name } = &self.kind else {
            return false;
        };
        let whole = self.progress.is_whole();
        let is_other = |known: &Option<Box<str>>, said: Option<&str>| {
            known.as_deref().zip(said).is_some_and(|(known, said)| known != said)
        };
        if is_other(known_name, name) {
            return true;
        }
        if is_other(known_id, id) {
            // Some servers invent an id for every delta: the call continues until its JSON is
            // complete.
            return whole || (name.is_some() && !self.progress.is_partial());
        }
        let same_id = id.is_some() && known_id.as_deref() == id;
        whole && name.is_some() && has_arguments && !same_id
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

impl Serialize for Fold {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("format", self.format.as_str())?;
        if let Some(model) = &self.model {
            map.serialize_entry("model", model)?;
        }
        map.serialize_entry("text", &self.text())?;
        map.serialize_entry("parts", &self.parts)?;
        if let Some(usage) = self.usage() {
            map.serialize_entry("usage", usage)?;
        }
        if self.incomplete {
            map.serialize_entry("incomplete", &true)?;
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
    use crate::generation::ModelEvent;

    fn counted(fold: &Fold) -> usize {
        let parts: usize = fold.parts.iter().map(Part::weight).sum();
        let places: usize = fold.places.keys().map(Address::weight).sum();
        let model = fold.model.as_ref().map_or(0, |model| model.len());
        parts + places + model + fold.usage.as_ref().map_or(0, |usage| usage.len())
    }

    fn check(format: Format, events: &[&str]) {
        let mut fold = Fold::new(format);
        for data in events {
            fold.push(&ModelEvent::new(None, *data));
            assert_eq!(fold.held, counted(&fold), "after {data}");
            for lane in [Lane::Text, Lane::Reasoning, Lane::Summary, Lane::Refusal, Lane::Tool] {
                let places = fold.places.keys().filter(|address| address.lane == lane).count();
                assert_eq!(fold.count(lane), places, "{lane:?} after {data}");
            }
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
        check(
            Format::OpenAiChat,
            &[
                r#"{"choices":[{"delta":{"tool_calls":[{"id":"a","function":{"name":"f"}}]}}]}"#,
                r#"{"choices":[{"delta":{"tool_calls":[{"index":7},{"id":"a"}]}}]}"#,
                r#"{"choices":[{"delta":{"tool_calls":[{"id":"b","function":{"name":"g"}}]}}]}"#,
            ],
        );
    }

    /// Returns a usage of this many fields.
    fn usage(prefix: char, fields: usize) -> String {
        let fields: Vec<_> = (0..fields).map(|field| format!("\"{prefix}{field}\":1")).collect();
        format!("{{{}}}", fields.join(","))
    }

    fn report(fold: &mut Fold, usage: &str) {
        let data = format!(r#"{{"type":"message_delta","usage":{usage}}}"#);
        fold.push(&ModelEvent::new(None, &*data));
    }

    #[test]
    fn too_large_a_usage_is_left_out() {
        for first in [usage('a', 100_000), usage('a', 1_200)] {
            let mut fold = Fold::new(Format::Anthropic);
            report(&mut fold, r#"{"output_tokens":9}"#);
            report(&mut fold, &first);
            let kept = fold.usage().unwrap().get().len();
            assert!(kept <= MAX_USAGE_BYTES, "{kept}");
            // Alone, or together with the first.
            report(&mut fold, &usage('b', 100_000));
            report(&mut fold, &usage('c', 1_200));
            report(&mut fold, &usage('d', 1_200));
            let kept = fold.usage().unwrap().get();
            assert!(kept.len() <= MAX_USAGE_BYTES && kept.contains(r#""output_tokens":9"#));
            assert!(fold.is_incomplete());
        }
        let mut fold = Fold::new(Format::OpenAiChat);
        let data = |usage| format!(r#"{{"choices":[],"usage":{usage}}}"#);
        fold.push(&ModelEvent::new(None, data(usage('a', 100))));
        assert!(!fold.is_incomplete());
        fold.push(&ModelEvent::new(None, data(usage('b', 100_000))));
        assert_eq!(fold.usage().unwrap().get(), usage('a', 100));
        assert!(fold.is_incomplete());
    }

    /// If each message looked at all parts, this would take minutes.
    #[test]
    fn an_event_may_have_many_parts_and_many_messages() {
        const MANY: usize = 60_000;
        let delta = |choice| format!(r#"{{"index":{choice},"delta":{{"content":"a"}}}}"#);
        let message = |_| r#"{"message":{}}"#.to_owned();
        let choices: Vec<_> = (0..MANY).map(delta).chain((0..MANY).map(message)).collect();
        let data = format!(r#"{{"choices":[{}]}}"#, choices.join(","));
        let mut fold = Fold::new(Format::OpenAiChat);
        fold.push(&ModelEvent::new(None, data));
        assert_eq!((fold.parts().len(), fold.is_incomplete()), (MANY, false));
    }
}

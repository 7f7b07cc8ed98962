//! JSON that is read in place: a value is a slice of the event's data, so that it can be forwarded,
//! compared and cut out byte for byte.
//!
//! Accessors do not fail: a value of another type has no fields, no items and no text.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use memchr::memchr;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// One value, valid and without white space around it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Json<'a>(&'a RawValue);

impl<'a> Json<'a> {
    /// Parses the text, if it is one value.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok().map(Self)
    }

    /// Returns the value as written.
    pub(super) fn raw(self) -> &'a RawValue {
        self.0
    }

    fn first_byte(self) -> Option<u8> {
        self.0.get().bytes().next()
    }

    pub(super) fn is_object(self) -> bool {
        self.first_byte() == Some(b'{')
    }

    pub(super) fn is_array(self) -> bool {
        self.first_byte() == Some(b'[')
    }

    pub(super) fn is_string(self) -> bool {
        self.first_byte() == Some(b'"')
    }

    pub(super) fn is_null(self) -> bool {
        self.first_byte() == Some(b'n')
    }

    /// Returns whether it is null, an empty string, an empty array or an empty object.
    pub(super) fn is_empty(self) -> bool {
        let text = self.0.get();
        match self.first_byte() {
            Some(b'"') => text.len() == 2,
            Some(b'[' | b'{') => text[1..text.len() - 1].trim_ascii().is_empty(),
            first => first == Some(b'n'),
        }
    }

    /// Returns whether it is a non-empty string, array or object: a number or a flag is not
    /// content.
    pub(super) fn is_content(self) -> bool {
        matches!(self.first_byte(), Some(b'"' | b'[' | b'{')) && !self.is_empty()
    }

    pub(super) fn is_true(self) -> bool {
        self.first_byte() == Some(b't')
    }

    /// Returns whether it is a string, a number, true, false or null.
    pub(super) fn is_scalar(self) -> bool {
        !self.is_object() && !self.is_array()
    }

    /// Returns the fields of an object.
    pub(super) fn fields(self) -> Fields<'a> {
        Fields::parse(self.0.get()).unwrap_or_default()
    }

    /// Returns the items of an array.
    pub(super) fn items(self) -> Vec<Self> {
        let items: Vec<&RawValue> = serde_json::from_str(self.0.get()).unwrap_or_default();
        items.into_iter().map(Self).collect()
    }

    /// Returns the item of an array with exactly one.
    pub(super) fn only_item(self) -> Option<Self> {
        match self.items()[..] {
            [item] => Some(item),
            _ => None,
        }
    }

    /// Returns the bytes between the quotes of a string, with its escapes.
    pub(super) fn contents(self) -> Option<&'a str> {
        self.0.get().strip_prefix('"')?.strip_suffix('"')
    }

    /// Returns the text of a string.
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        let contents = self.contents()?;
        if memchr(b'\\', contents.as_bytes()).is_none() {
            return Some(Cow::Borrowed(contents));
        }
        let mut text = String::new();
        let mut half = None;
        decode(contents, &mut half, &mut text);
        Some(Cow::Owned(text))
    }

    /// Returns the position of the value in the text that it was parsed from.
    pub(super) fn span_in(self, data: &str) -> Range<usize> {
        let start = self.0.get().as_ptr().addr().wrapping_sub(data.as_ptr().addr());
        start..start.wrapping_add(self.0.get().len())
    }
}

/// The fields of an object, in order.
#[derive(Debug, Default)]
pub(super) struct Fields<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Fields<'a> {
    /// Parses the text, if it is an object.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Returns the fields that are not null: providers write null for what is missing.
    pub(super) fn present(&self) -> impl Iterator<Item = (&str, Json<'a>)> {
        let present = self.0.iter().filter(|(_, value)| !value.is_null());
        present.map(|(name, value)| (name.as_ref(), *value))
    }

    /// Returns each field with its name, including those that are null.
    pub(super) fn all(&self) -> &[(Cow<'a, str>, Json<'a>)] {
        &self.0
    }

    /// Returns the field, unless it is null.
    pub(super) fn get(&self, name: &str) -> Option<Json<'a>> {
        self.present().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// Returns the text of a field that is a string.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.get(name)?.text()
    }

    /// Returns a field that is a small unsigned number, such as an index.
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        self.get(name)?.raw().get().parse().ok()
    }

    /// Returns the fields of a field that is an object.
    pub(super) fn object(&self, name: &str) -> Self {
        self.get(name).map(Json::fields).unwrap_or_default()
    }

    /// Returns the items of a field that is an array.
    pub(super) fn items(&self, name: &str) -> Vec<Json<'a>> {
        self.get(name).map(Json::items).unwrap_or_default()
    }

    /// Returns these fields, followed by those of `others` that are missing here.
    pub(super) fn or(mut self, others: Self) -> Self {
        let missing = others.0.into_iter().filter(|(name, _)| self.get(name).is_none());
        let missing: Vec<_> = missing.collect();
        self.0.retain(|(_, value)| !value.is_null());
        self.0.extend(missing);
        self
    }

    /// Returns the fields with one of these names.
    pub(super) fn only(&self, names: &[&str]) -> Self {
        Self(self.0.iter().filter(|(name, _)| names.contains(&name.as_ref())).cloned().collect())
    }

    /// Returns the fields without those for whose names `is_one` is true.
    pub(super) fn without(mut self, is_one: impl Fn(&str) -> bool) -> Self {
        self.0.retain(|(name, _)| !is_one(name));
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value.0)))
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// A name, borrowed if it is written without escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Vec::with_capacity(8);
        while let Some((name, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
            fields.push((name.0, Json(value)));
        }
        Ok(Fields(fields))
    }
}

/// Replaces each number that JSON does not have, as some Python servers write them, by `null`;
/// `None` if there is none.
pub(super) fn without_nan(text: &str) -> Option<String> {
    const NUMBERS: [&str; 3] = ["NaN", "-Infinity", "Infinity"];
    let mut mended = String::new();
    let mut copied = 0;
    let mut quoted = false;
    let mut at = 0;
    while let Some(byte) = text.as_bytes().get(at) {
        let rest = &text.as_bytes()[at..];
        let number = NUMBERS.iter().find(|name| !quoted && rest.starts_with(name.as_bytes()));
        match (byte, number) {
            (_, Some(number)) => {
                mended.push_str(&text[copied..at]);
                mended.push_str("null");
                at += number.len();
                copied = at;
            }
            (b'\\', _) if quoted => at += 2,
            (byte, _) => {
                quoted ^= *byte == b'"';
                at += 1;
            }
        }
    }
    mended.push_str(text.get(copied..)?);
    (copied > 0).then_some(mended)
}

/// Scan state of the JSON in a tool call's arguments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ScanProgress {
    depth: u32,
    quoted: bool,
    escaped: bool,
    whole: bool,
    /// Whether another value has begun after the whole one.
    again: bool,
}

impl ScanProgress {
    /// Scans the next piece of the text.
    pub(super) fn read(&mut self, text: &str) {
        for byte in text.bytes() {
            if self.quoted {
                self.quoted = self.escaped || byte != b'"';
                self.escaped = !self.escaped && byte == b'\\';
                continue;
            }
            match byte {
                b'{' | b'[' if self.whole => self.again = true,
                _ if self.whole => {}
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' if self.depth > 0 => {
                    self.depth -= 1;
                    self.whole = self.depth == 0;
                }
                b'"' => self.quoted = true,
                _ => {}
            }
        }
    }

    /// Returns whether an object or an array has begun and not ended.
    pub(super) fn is_partial(self) -> bool {
        self.depth > 0
    }

    /// Returns whether an object or an array has ended.
    pub(super) fn is_whole(self) -> bool {
        self.whole
    }

    /// Returns whether another value has begun after the whole one.
    pub(super) fn goes_on(self) -> bool {
        self.again
    }
}

/// Appends the text that a string literal's contents encode.
///
/// A character beyond U+FFFF is two escapes, and a provider may cut between them: `half` keeps the
/// first until the second arrives. An unpaired half becomes U+FFFD.
pub(super) fn decode(contents: &str, half: &mut Option<u16>, text: &mut String) {
    let mut rest = contents;
    while !rest.is_empty() {
        let plain = memchr(b'\\', rest.as_bytes()).unwrap_or(rest.len());
        if plain > 0 {
            give_up(half, text);
            text.push_str(&rest[..plain]);
            rest = &rest[plain..];
        } else {
            rest = decode_escape(rest, half, text);
        }
    }
}

/// Appends the character of the escape at the beginning, and returns the rest.
fn decode_escape<'a>(escape: &'a str, half: &mut Option<u16>, text: &mut String) -> &'a str {
    let kind = escape.as_bytes().get(1).copied().unwrap_or_default();
    if kind == b'u' {
        let digits = escape.get(2..6).unwrap_or_default();
        decode_unit(u16::from_str_radix(digits, 16).unwrap_or(0xfffd), half, text);
        return escape.get(6..).unwrap_or_default();
    }
    give_up(half, text);
    text.push(match kind {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        itself => char::from(itself),
    });
    escape.get(2..).unwrap_or_default()
}

fn decode_unit(unit: u16, half: &mut Option<u16>, text: &mut String) {
    if let (Some(first), 0xdc00..=0xdfff) = (*half, unit) {
        *half = None;
        text.extend(char::decode_utf16([first, unit]).flatten());
        return;
    }
    give_up(half, text);
    match unit {
        0xd800..=0xdbff => *half = Some(unit),
        _ => text.push(char::from_u32(unit.into()).unwrap_or(char::REPLACEMENT_CHARACTER)),
    }
}

fn give_up(half: &mut Option<u16>, text: &mut String) {
    if half.take().is_some() {
        text.push(char::REPLACEMENT_CHARACTER);
    }
}

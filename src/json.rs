//! JSON that is read in place: a value is a slice of its text, so that it can be forwarded,
//! compared and cut out byte for byte.
//!
//! A text is parsed once, into the flat list of its values. Accessors parse nothing and do not
//! fail: a value of another type has no fields, no items and no text.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::OnceLock;

use memchr::memchr;

/// The values of a text that may be JSON. The text is parsed for the first reader.
#[derive(Clone, Debug, Default)]
pub(crate) struct LazyJson(OnceLock<Option<Vec<Node>>>);

impl LazyJson {
    /// Returns the value, if the text is one. The text must be the same for each call.
    pub(crate) fn of<'a>(&'a self, text: &'a str) -> Option<Json<'a>> {
        let nodes = self.0.get_or_init(|| JsonParser::new(text)?.read()).as_deref()?;
        Some(Json { text, nodes })
    }

    /// Returns a copy of what was parsed, if it has at most this many bytes: what is larger is
    /// parsed again for the next reader.
    pub(crate) fn copy_within(&self, bytes: usize) -> Self {
        let fits = |nodes: &[Node]| size_of_val(nodes) <= bytes;
        match self.0.get() {
            Some(nodes) if nodes.as_deref().is_none_or(fits) => Self(nodes.clone().into()),
            _ => Self::default(),
        }
    }
}

/// The position of a value in the text, or of the name of a field.
#[derive(Clone, Copy, Debug, Default)]
struct Node {
    start: u32,
    end: u32,
    /// Number of nodes of the value: one, and those of the values in it. While it is read, the
    /// index of the array or object around it.
    size: u32,
    /// Whether it is a string with escapes.
    escaped: bool,
}

impl Node {
    /// Returns whether it is the string `this` in the text.
    fn is(&self, this: &str, text: &str) -> bool {
        let contents = self.start as usize + 1..self.end as usize - 1;
        if self.escaped {
            let mut decoded = String::new();
            decode(text.get(contents).unwrap_or_default(), &mut None, &mut decoded);
            return decoded == this;
        }
        // Most names differ in length.
        contents.len() == this.len() && text.as_bytes().get(contents) == Some(this.as_bytes())
    }
}

/// One value, valid and without white space around it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Json<'a> {
    text: &'a str,
    /// Begins with the node of the value.
    nodes: &'a [Node],
}

impl<'a> Json<'a> {
    fn node(self) -> Node {
        self.nodes.first().copied().unwrap_or_default()
    }

    /// Returns the position of the value in the text that it was parsed from.
    pub(crate) fn span(self) -> Range<usize> {
        let Node { start, end, .. } = self.node();
        start as usize..end as usize
    }

    /// Returns the value as written.
    pub(crate) fn raw(self) -> &'a str {
        self.text.get(self.span()).unwrap_or_default()
    }

    fn first_byte(self) -> u8 {
        self.text.as_bytes().get(self.span().start).copied().unwrap_or_default()
    }

    pub(crate) fn is_object(self) -> bool {
        self.first_byte() == b'{'
    }

    pub(crate) fn is_array(self) -> bool {
        self.first_byte() == b'['
    }

    pub(crate) fn is_string(self) -> bool {
        self.first_byte() == b'"'
    }

    pub(crate) fn is_null(self) -> bool {
        self.first_byte() == b'n'
    }

    /// Returns whether it is null, an empty string, an empty array or an empty object.
    pub(crate) fn is_empty(self) -> bool {
        match self.first_byte() {
            b'"' => self.span().len() == 2,
            b'[' | b'{' => self.node().size == 1,
            first => first == b'n',
        }
    }

    /// Returns whether it is a non-empty string, array or object: a number or a flag is not
    /// content.
    pub(crate) fn is_content(self) -> bool {
        matches!(self.first_byte(), b'"' | b'[' | b'{') && !self.is_empty()
    }

    pub(crate) fn is_true(self) -> bool {
        self.first_byte() == b't'
    }

    /// Returns whether it is a string, a number, true, false or null.
    pub(crate) fn is_scalar(self) -> bool {
        !self.is_object() && !self.is_array()
    }

    /// Returns the fields of an object.
    pub(crate) fn fields(self) -> Fields<'a> {
        if self.is_object() { Fields(self.inside()) } else { Fields::default() }
    }

    /// Returns the items of an array.
    pub(crate) fn items(self) -> Items<'a> {
        if self.is_array() { self.inside() } else { Items::default() }
    }

    /// Returns the values in an array; the names and the values in an object.
    fn inside(self) -> Items<'a> {
        let nodes = self.nodes.get(1..self.node().size as usize);
        Items { text: self.text, nodes: nodes.unwrap_or_default() }
    }

    /// Returns the item of an array with exactly one.
    pub(crate) fn only_item(self) -> Option<Self> {
        let mut items = self.items();
        items.next().filter(|_| items.is_empty())
    }

    /// Returns the bytes between the quotes of a string, with its escapes.
    pub(crate) fn contents(self) -> Option<&'a str> {
        let Range { start, end } = self.span();
        if self.is_string() { self.text.get(start + 1..end - 1) } else { None }
    }

    /// Returns the text of a string.
    pub(crate) fn text(self) -> Option<Cow<'a, str>> {
        let contents = self.contents()?;
        if !self.is_escaped() {
            return Some(Cow::Borrowed(contents));
        }
        let mut text = String::new();
        decode(contents, &mut None, &mut text);
        Some(Cow::Owned(text))
    }

    /// Returns whether it is a string with escapes.
    pub(crate) fn is_escaped(self) -> bool {
        self.node().escaped
    }
}

/// The items of an array, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Items<'a> {
    text: &'a str,
    nodes: &'a [Node],
}

impl<'a> Items<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = Json<'a>;

    fn next(&mut self) -> Option<Json<'a>> {
        let item = Json { text: self.text, nodes: self.nodes };
        self.nodes = self.nodes.get(item.nodes.first()?.size as usize..).unwrap_or_default();
        Some(item)
    }
}

/// The fields of an object, in order: a name and a value in turn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields<'a>(Items<'a>);

impl<'a> Fields<'a> {
    /// Returns each field with its name, including those that are null.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Json<'a>, Json<'a>)> + use<'a> {
        let mut items = self.0.clone();
        std::iter::from_fn(move || Some((items.next()?, items.next()?)))
    }

    /// Returns the fields that are not null: providers write null for what is missing.
    pub(crate) fn present(&self) -> impl Iterator<Item = (Cow<'a, str>, Json<'a>)> + use<'a> {
        let present = self.all().filter(|(_, value)| !value.is_null());
        present.filter_map(|(name, value)| Some((name.text()?, value)))
    }

    /// Returns the field, unless it is null.
    pub(crate) fn get(&self, name: &str) -> Option<Json<'a>> {
        let Items { text, mut nodes } = self.0;
        while let [named, value, ..] = nodes {
            let json = |nodes| Json { text, nodes };
            if named.is(name, text) && !json(&nodes[1..]).is_null() {
                return Some(json(&nodes[1..]));
            }
            nodes = nodes.get(1 + value.size as usize..)?;
        }
        None
    }

    /// Returns the text of a field that is a string.
    pub(crate) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        self.get(name)?.text()
    }

    /// Returns a field that is a small unsigned number, such as an index.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        self.get(name)?.raw().parse().ok()
    }

    /// Returns the fields of a field that is an object.
    pub(crate) fn object(&self, name: &str) -> Self {
        self.get(name).map(Json::fields).unwrap_or_default()
    }

    /// Returns the items of a field that is an array.
    pub(crate) fn items(&self, name: &str) -> Items<'a> {
        self.get(name).map(Json::items).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reads one JSON text, as RFC 8259 defines it. Escapes are not decoded, so that half of a
/// surrogate pair is valid.
struct JsonParser<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    /// Index of the innermost array or object that has not ended.
    open: Option<u32>,
}

impl<'a> JsonParser<'a> {
    /// `None` if the text is too large.
    fn new(text: &'a str) -> Option<Self> {
        #[cfg(test)]
        tests::PARSED.set(tests::PARSED.get() + 1);
        u32::try_from(text.len()).ok()?;
        Some(Self {
            bytes: text.trim_end_matches([' ', '\n', '\r', '\t']).as_bytes(),
            at: 0,
            // A chunk of a generation has a value for each five bytes or so, and few have more.
            nodes: Vec::with_capacity((text.len() / 5).clamp(4, 64)),
            open: None,
        })
    }

    /// Returns the nodes of all values; `None` if the text is not one value.
    fn read(mut self) -> Option<Vec<Node>> {
        loop {
            let first = self.peek()?;
            match first {
                b'{' | b'[' => {
                    self.begin();
                    // Both closing brackets are the second byte after the opening one.
                    if self.peek()? != first + 2 {
                        if first == b'{' {
                            self.name()?;
                        }
                        continue;
                    }
                }
                b'"' => self.string()?,
                _ => self.literal()?,
            }
            if self.end_value()? {
                return Some(self.nodes);
            }
        }
    }

    /// Reads what follows a value: the ends of arrays and objects, up to a comma and the name of
    /// the next field, or up to the end of the text. Returns whether the text has ended.
    fn end_value(&mut self) -> Option<bool> {
        while let Some(open) = self.open {
            let first = self.bytes[self.nodes[open as usize].start as usize];
            match self.peek()? {
                b',' => {
                    self.at += 1;
                    if first == b'{' {
                        self.name()?;
                    }
                    return Some(false);
                }
                last if last == first + 2 => self.end(open),
                _ => return None,
            }
        }
        (self.at == self.bytes.len()).then_some(true)
    }

    /// Returns the next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        while let b' ' | b'\n' | b'\r' | b'\t' = self.bytes.get(self.at)? {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    fn push(&mut self, end: usize, size: u32, escaped: bool) {
        // The length of the text is a `u32`.
        self.nodes.push(Node { start: self.at as u32, end: end as u32, size, escaped });
        self.at = end;
    }

    /// Begins an array or an object.
    fn begin(&mut self) {
        let around = self.open.replace(self.nodes.len() as u32);
        self.push(self.at + 1, around.unwrap_or(u32::MAX), false);
    }

    /// Ends the array or the object with this index.
    fn end(&mut self, open: u32) {
        self.at += 1;
        let size = self.nodes.len() as u32 - open;
        let node = &mut self.nodes[open as usize];
        self.open = Some(node.size).filter(|around| *around != u32::MAX);
        (node.end, node.size) = (self.at as u32, size);
    }

    /// Reads the name of a field, and the colon.
    fn name(&mut self) -> Option<()> {
        if self.peek()? != b'"' {
            return None;
        }
        self.string()?;
        let colon = self.peek()? == b':';
        self.at += 1;
        colon.then_some(())
    }

    fn string(&mut self) -> Option<()> {
        let mut escaped = false;
        let mut at = self.at + 1;
        loop {
            at += plain_bytes(self.bytes.get(at..)?);
            match self.bytes.get(at)? {
                b'"' => break,
                b'\\' => at += escape_bytes(&self.bytes[at..])?,
                _ => return None, // a control character
            }
            escaped = true;
        }
        self.push(at + 1, 1, escaped);
        Some(())
    }

    /// Reads a number, true, false or null.
    fn literal(&mut self) -> Option<()> {
        let rest = &self.bytes[self.at..];
        let words: [&[u8]; 3] = [b"null", b"true", b"false"];
        let bytes = match words.iter().find(|word| rest.starts_with(word)) {
            Some(word) => word.len(),
            None => number_bytes(rest)?,
        };
        self.push(self.at + bytes, 1, false);
        Some(())
    }
}

/// Returns the number of bytes before the first quote, backslash or control character.
fn plain_bytes(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    // Eight bytes at a time. Each test sets the top bit of a byte that fits, and perhaps of bytes
    // after it.
    let mut plain = 0;
    for eight in bytes.as_chunks::<8>().0 {
        let word = u64::from_le_bytes(*eight);
        let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
        let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
        let special = (below(word, 0x20) | equal(b'"') | equal(b'\\')) & TOPS;
        if special != 0 {
            return plain + special.trailing_zeros() as usize / 8;
        }
        plain += 8;
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..b' ');
    let rest = &bytes[plain..];
    plain + rest.iter().position(special).unwrap_or(rest.len())
}

/// Returns the length of the escape at the beginning.
fn escape_bytes(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        b'u' => bytes.get(2..6)?.iter().all(u8::is_ascii_hexdigit).then_some(6),
        _ => None,
    }
}

/// Returns the length of the number at the beginning.
fn number_bytes(bytes: &[u8]) -> Option<usize> {
    let digits = |from: usize| {
        let digits = bytes.get(from..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (digits > 0).then_some(digits)
    };
    let mut at = usize::from(bytes.starts_with(b"-"));
    let whole = digits(at)?;
    if whole > 1 && bytes[at] == b'0' {
        return None;
    }
    at += whole;
    if bytes.get(at) == Some(&b'.') {
        at += 1 + digits(at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        at += digits(at)?;
    }
    Some(at)
}

/// Appends the text that a string literal's contents encode.
///
/// A character beyond U+FFFF is two escapes, and a provider may cut between them: `half` keeps the
/// first until the second arrives. An unpaired half becomes U+FFFD.
pub(crate) fn decode(contents: &str, half: &mut Option<u16>, text: &mut String) {
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

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;
    use serde_json::Value;
    use serde_json::value::RawValue;

    use super::*;

    thread_local! {
        /// Number of texts that this thread has parsed.
        pub(crate) static PARSED: Cell<usize> = const { Cell::new(0) };
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let number = any::<f64>().prop_map(Value::from);
        let text = prop_oneof![any::<String>(), "[a\"\\\\\u{7}é]{0,20}"].prop_map(Value::from);
        let scalar =
            prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), number, text];
        scalar.prop_recursive(4, 30, 5, |inner| {
            let field = ("[a\"\\\\]{0,3}", inner.clone());
            prop_oneof![
                prop::collection::vec(inner, 0..5).prop_map(Value::from),
                prop::collection::vec(field, 0..5)
                    .prop_map(|f| Value::Object(f.into_iter().collect())),
            ]
        })
    }

    /// Returns the value that the accessors return piece by piece.
    fn value_of(json: Json<'_>) -> Value {
        if json.is_object() {
            let field =
                |(name, value): (Json<'_>, _)| (name.text().unwrap().into(), value_of(value));
            Value::Object(json.fields().all().map(field).collect())
        } else if json.is_array() {
            json.items().map(value_of).collect()
        } else if let Some(text) = json.text() {
            text.into()
        } else {
            serde_json::from_str(json.raw()).unwrap()
        }
    }

    fn is_valid(text: &str) -> bool {
        LazyJson::default().of(text).is_some()
    }

    #[test]
    fn what_is_not_json_has_no_value() {
        let no = [
            "",
            " ",
            "{",
            "}",
            "[",
            "[,]",
            "[1,]",
            "[1 2]",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "{\"a\":1,}",
            "[}",
            "{]",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "nul",
            "nulls",
            "NaN",
            "\"",
            "\"\\\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\u{1}\"",
            "1 1",
            "[]]",
            "'a'",
            "\u{a0}1",
            "1\u{a0}",
        ];
        for text in no {
            assert!(!is_valid(text), "{text}");
        }
        for text in ["0", "-0.5e+7", " [ ] ", "{ }", "\"\\ud83d\"", "\t[null ,true,\r\n{ } ]"] {
            assert!(is_valid(text), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(!is_valid(&deep));
        assert!(is_valid(&(deep + &"]".repeat(100_000))));
    }

    #[test]
    fn a_text_is_parsed_once() {
        let json = LazyJson::default();
        let before = PARSED.get();
        for _ in 0..2 {
            assert_eq!(json.of("[1]").unwrap().only_item().unwrap().raw(), "1");
        }
        assert_eq!(PARSED.get() - before, 1);
    }

    #[test]
    fn a_copy_has_what_was_parsed_if_it_is_small() {
        let json = LazyJson::default();
        assert!(json.of("[1,1]").is_some());
        let before = PARSED.get();
        let three_values = 3 * size_of::<Node>();
        assert!(json.copy_within(three_values).of("[1,1]").is_some());
        assert_eq!(PARSED.get() - before, 0);
        assert!(json.copy_within(three_values - 1).of("[1,1]").is_some());
        assert_eq!(PARSED.get() - before, 1);
    }

    proptest! {
        #[test]
        fn the_values_are_those_of_another_parser(value in any_json(), pretty in any::<bool>()) {
            let text = if pretty { format!("{value:#}") } else { value.to_string() };
            let json = LazyJson::default();
            let json = json.of(&text).unwrap();
            prop_assert_eq!(json.raw(), &text);
            // A number that is written and read may differ in its last digit.
            let value: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(value_of(json), value.clone());
            for (name, value) in value.as_object().into_iter().flatten() {
                let field = json.fields().get(name).map(value_of);
                prop_assert_eq!(field.unwrap_or_default(), value.clone());
            }
        }

        #[test]
        fn a_text_is_valid_if_another_parser_says_so(
            text in "[\\[\\]{}\":,\\\\0-9eE.+\\-truefalsn\u{1}é \n]{0,14}",
            value in any_json(),
            at in any::<prop::sample::Index>(),
            damage in "[\\[\\]{}\",:\\\\0a\u{1}]{0,2}",
        ) {
            let mut damaged = value.to_string();
            let at = at.index(damaged.len() + 1);
            damaged.insert_str(damaged.floor_char_boundary(at), &damage);
            for text in [text, damaged] {
                prop_assert_eq!(is_valid(&text), serde_json::from_str::<&RawValue>(&text).is_ok());
            }
        }
    }
}

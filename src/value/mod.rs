//! Deserialises a value as a setting, or as a field of a document. The error for a value that does
//! not fit says what was found and what is valid, in the words of the user and not of the Rust
//! types.

mod suggestion;

use std::fmt;

use serde::de::value::{MapAccessDeserializer, MapDeserializer, SeqDeserializer};
use serde::de::{self, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

pub use suggestion::nearest;

/// Maximum number of characters of a wrong value that an error repeats.
const MAX_EXCERPT: usize = 100;

/// Returns the beginning of a text that an error repeats: it may be as long as its document.
#[must_use]
pub fn excerpt(text: &str) -> &str {
    text.char_indices().nth(MAX_EXCERPT).map_or(text, |(end, _)| &text[..end])
}

/// The reason for which a value does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is not what is expected.
    Value {
        /// A description of the value.
        found: String,
        /// A description of valid values.
        expected: String,
    },
    /// A table has an unknown key.
    Key {
        /// The key.
        found: String,
        /// The known keys.
        known: &'static [&'static str],
    },
    /// A table lacks a key.
    Missing(&'static str),
    /// A message of the type itself.
    Said(String),
}

impl Wrong {
    /// Returns the error without the value, which may be a secret.
    #[must_use]
    pub fn without_value(self) -> Self {
        match self {
            Self::Value { expected, .. } => Self::Said(format!("expected {expected}")),
            other => other,
        }
    }

    fn value(found: Unexpected<'_>, expected: &str) -> Self {
        let (found, is_text) = (shown(&found), matches!(found, Unexpected::Str(_)));
        let expected = match expected {
            "u16" | "u64" | "usize" => "a whole number without a sign".into(),
            "u8" => format!("a whole number from 0 to {}", u8::MAX),
            "u32" => format!("a whole number from 0 to {}", u32::MAX),
            "a boolean" => "true or false".into(),
            "a string" | "path string" => "a text".into(),
            "a sequence" if is_text => format!("a list: [{found}]"),
            "a sequence" => "a list".into(),
            "a map" => "a table".into(),
            "a duration" => "a duration such as \"250ms\", \"15s\" or \"1h\"".into(),
            "parsable string" | "an integer or string" | "integer overflow" => {
                "a size such as \"64KiB\" or \"1MiB\"".into()
            }
            "newtype variant" => "a table with one key and its value".into(),
            other => other.to_owned(),
        };
        Self::Value { found, expected }
    }
}

/// Returns a value as it is written, or its type if that may be long.
fn shown(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Float(value) => value.to_string(),
        Unexpected::Str(text) => format!("{:?}", excerpt(text)),
        Unexpected::Unit => "nothing".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map => "a table".into(),
        Unexpected::UnitVariant => "a text".into(),
        other => other.to_string(),
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value { found, expected } => write!(f, "found {found}, expected {expected}"),
            Self::Key { found, known } => {
                write!(f, "unknown key `{}`; ", excerpt(found))?;
                match nearest(found, known.iter().copied()) {
                    Some(likely) => write!(f, "did you mean `{likely}`? There are ")?,
                    None => f.write_str("there are ")?,
                }
                f.write_str(&known.join(", "))
            }
            Self::Missing(key) => write!(f, "`{key}` is missing"),
            Self::Said(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Said(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::value(found, &expected.to_string())
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::value(found, &expected.to_string())
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        Self::value(Unexpected::Str(found), &one_of(known))
    }

    fn unknown_field(found: &str, known: &'static [&'static str]) -> Self {
        Self::Key { found: found.to_owned(), known }
    }

    fn missing_field(key: &'static str) -> Self {
        Self::Missing(key)
    }
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match &quoted[..] {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        all => all.join(""),
    }
}

/// A value to deserialise.
#[derive(Clone, Copy, Debug)]
pub struct Given<'v> {
    value: &'v Value,
    spelled: bool,
}

impl<'v> Given<'v> {
    /// Wraps a value that has its type.
    #[must_use]
    pub fn exact(value: &'v Value) -> Self {
        Self { value, spelled: false }
    }

    /// Wraps a value of a source that has only texts, such as the environment: a text can also be
    /// the number or the boolean that it spells, and the other way round.
    #[must_use]
    pub fn spelled(value: &'v Value) -> Self {
        Self { value, spelled: true }
    }

    fn inside(self, value: &'v Value) -> Self {
        Self { value, ..self }
    }

    /// Returns the text, if it may be read as another type.
    fn spelling(self) -> Option<&'v str> {
        self.value.as_str().filter(|_| self.spelled)
    }

    fn entries<'de>(self, table: &'v serde_json::Map<String, Value>) -> Entries<'de, 'v> {
        MapDeserializer::new(Box::new(
            table.iter().map(move |(key, value)| (key.as_str(), self.inside(value))),
        ))
    }

    fn as_found(self) -> Unexpected<'v> {
        match self.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), ..) => Unexpected::Unsigned(value),
                (_, Some(value), _) => Unexpected::Signed(value),
                (.., Some(value)) => Unexpected::Float(value),
                _ => Unexpected::Other("a number"),
            },
            Value::String(text) => Unexpected::Str(text),
            Value::Object(_) => Unexpected::Map,
            Value::Array(_) => Unexpected::Seq,
        }
    }

    fn integer<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let Some(text) = self.spelling() else { return self.deserialize_any(visitor) };
        match (text.trim().parse::<u64>(), text.trim().parse::<i64>()) {
            (Ok(value), _) => visitor.visit_u64(value),
            (_, Ok(value)) => visitor.visit_i64(value),
            _ => visitor.visit_str(text),
        }
    }

    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.value {
            Value::Bool(_) | Value::Number(_) if self.spelled => {
                visitor.visit_string(self.value.to_string())
            }
            _ => self.deserialize_any(visitor),
        }
    }
}

/// The entries of a table.
type Entries<'de, 'v> =
    MapDeserializer<'de, Box<dyn Iterator<Item = (&'v str, Given<'v>)> + 'v>, Wrong>;

/// Reads a text as a boolean; also those of shells.
fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

macro_rules! as_integer {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
            self.integer(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for Given<'_> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), ..) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (.., Some(value)) => visitor.visit_f64(value),
                _ => Err(de::Error::invalid_type(self.as_found(), &visitor)),
            },
            Value::String(text) => visitor.visit_str(text),
            Value::Array(items) => {
                let items = items.iter().map(|value| self.inside(value));
                visitor.visit_seq(SeqDeserializer::new(items))
            }
            Value::Object(table) => visitor.visit_map(self.entries(table)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let spelled = match self.value {
            Value::Number(number) if self.spelled => boolean(&number.to_string()),
            _ => self.spelling().and_then(boolean),
        };
        match spelled {
            Some(value) => visitor.visit_bool(value),
            None => self.deserialize_any(visitor),
        }
    }

    as_integer! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        self.text(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match self.value {
            Value::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            Value::Object(table) if table.len() == 1 => {
                visitor.visit_enum(MapAccessDeserializer::new(self.entries(table)))
            }
            Value::Object(_) => {
                let expected = format!("one key of {}", one_of(variants));
                Err(Wrong::value(self.as_found(), &expected))
            }
            _ => Err(Wrong::value(self.as_found(), &one_of(variants))),
        }
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Wrong> for Given<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

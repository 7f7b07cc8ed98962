//! Reading a value of a file, of the environment or of a flag as a setting. A value that does not
//! fit is an error that says what was found and what would be right, in words of a configuration
//! and not of the types behind it.

use std::fmt;

use config::{Value, ValueKind};
use serde::de::value::{MapAccessDeserializer, MapDeserializer, SeqDeserializer};
use serde::de::{self, Deserializer, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::near::nearest;

/// Why a value cannot be that of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is something else than what is expected.
    Value {
        /// What it is.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// A table has a key that is none of its keys.
    Key {
        /// The key.
        found: String,
        /// Those that there are.
        known: &'static [&'static str],
    },
    /// A table lacks a key.
    Missing(&'static str),
    /// What the type of the setting says itself.
    Said(String),
}

impl Wrong {
    /// The same without the value, which may be a secret.
    pub(super) fn without_value(self) -> Self {
        match self {
            Self::Value { expected, .. } => Self::Said(format!("expected {expected}")),
            other => other,
        }
    }

    fn value(found: Unexpected<'_>, expected: &str) -> Self {
        let (found, is_text) = (shown(&found), matches!(found, Unexpected::Str(_)));
        let expected = match expected {
            "u8" | "u16" | "u64" | "usize" => "a whole number without a sign".into(),
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

/// A value as it would be written, or what it is if that may be long.
fn shown(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Float(value) => value.to_string(),
        Unexpected::Str(text) => format!("{text:?}"),
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
                write!(f, "unknown key `{found}`; ")?;
                if let Some(likely) = nearest(found, known.iter().copied()) {
                    write!(f, "did you mean `{likely}`? ")?;
                }
                write!(f, "There are {}", known.join(", "))
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

/// A value that is to be read. The environment and flags have texts only, so a text is also the
/// number or the boolean that it spells, and a number also a text.
#[derive(Clone, Copy)]
pub(super) struct Given<'v>(pub(super) &'v Value);

impl Given<'_> {
    fn as_found(&self) -> Unexpected<'_> {
        match &self.0.kind {
            ValueKind::Nil => Unexpected::Unit,
            ValueKind::Boolean(value) => Unexpected::Bool(*value),
            ValueKind::I64(value) => Unexpected::Signed(*value),
            ValueKind::U64(value) => Unexpected::Unsigned(*value),
            ValueKind::Float(value) => Unexpected::Float(*value),
            ValueKind::String(text) => Unexpected::Str(text),
            ValueKind::Table(_) => Unexpected::Map,
            ValueKind::Array(_) => Unexpected::Seq,
            ValueKind::I128(_) | ValueKind::U128(_) => Unexpected::Other("a very large number"),
        }
    }

    fn integer<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let ValueKind::String(text) = &self.0.kind else { return self.deserialize_any(visitor) };
        match (text.trim().parse::<u64>(), text.trim().parse::<i64>()) {
            (Ok(value), _) => visitor.visit_u64(value),
            (_, Ok(value)) => visitor.visit_i64(value),
            _ => visitor.visit_str(text),
        }
    }

    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match &self.0.kind {
            ValueKind::Boolean(value) => visitor.visit_string(value.to_string()),
            ValueKind::I64(value) => visitor.visit_string(value.to_string()),
            ValueKind::Float(value) => visitor.visit_string(value.to_string()),
            _ => self.deserialize_any(visitor),
        }
    }
}

/// Texts that are booleans: those of a shell, too.
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
        match &self.0.kind {
            ValueKind::Nil => visitor.visit_unit(),
            ValueKind::Boolean(value) => visitor.visit_bool(*value),
            ValueKind::I64(value) => visitor.visit_i64(*value),
            ValueKind::U64(value) => visitor.visit_u64(*value),
            ValueKind::I128(_) | ValueKind::U128(_) => {
                Err(de::Error::invalid_type(self.as_found(), &visitor))
            }
            ValueKind::Float(value) => visitor.visit_f64(*value),
            ValueKind::String(text) => visitor.visit_str(text),
            ValueKind::Array(items) => {
                visitor.visit_seq(SeqDeserializer::new(items.iter().map(Given)))
            }
            ValueKind::Table(table) => {
                let entries = table.iter().map(|(key, value)| (key.as_str(), Given(value)));
                visitor.visit_map(MapDeserializer::new(entries))
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let value = match &self.0.kind {
            ValueKind::String(text) => boolean(text),
            ValueKind::I64(number) => boolean(&number.to_string()),
            _ => None,
        };
        match value {
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
        match self.0.kind {
            ValueKind::Nil => visitor.visit_none(),
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
        match &self.0.kind {
            ValueKind::String(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            ValueKind::Table(table) if table.len() == 1 => {
                let entries = table.iter().map(|(key, value)| (key.as_str(), Given(value)));
                visitor.visit_enum(MapAccessDeserializer::new(MapDeserializer::new(entries)))
            }
            ValueKind::Table(_) => {
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

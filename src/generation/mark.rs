//! How a generation ends, and what the providers' end marks have in common.

use std::borrow::Cow;

use memchr::memmem;

use super::json::{Fields, Json};

/// A provider's error message longer than this is cut.
const MAX_MESSAGE_BYTES: usize = 256;

/// An event that says that the generation has ended.
///
/// The first ending that a stream names is its ending, whatever follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The stream ends with this event.
    Last(Ending),
    /// The generation has ended, but an event such as `[DONE]` may follow.
    Nearly(Ending),
}

/// How a generation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The provider says that all is there.
    Complete,
    /// Somebody stopped it.
    Cancelled,
    /// It failed, and this is what the provider says about it: up to 256 bytes.
    Error(Box<str>),
}

impl Ending {
    /// A failure, with what an `error` field says: a text, or an object with a `message`.
    pub(super) fn error(error: Option<Json<'_>>) -> Self {
        let said = error.and_then(|error| {
            let fields = error.fields();
            let names = ["message", "code", "status", "type"].iter();
            error.text().or_else(|| names.filter_map(|name| fields.text(name)).next())
        });
        Self::failed(said.as_deref().unwrap_or("the provider reported an error"))
    }

    /// A failure, with this message.
    pub(super) fn failed(message: &str) -> Self {
        Self::Error(message[..message.floor_char_boundary(MAX_MESSAGE_BYTES)].into())
    }
}

/// Whether the word is a name or a whole string somewhere in the JSON.
///
/// It is what keeps most events from being parsed. The same word inside a longer string has not
/// both quotes: there, a quote is written `\"`.
pub(super) fn mentions(data: &str, word: &str) -> bool {
    let bytes = data.as_bytes();
    memmem::find_iter(bytes, word).any(|at| {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        before == Some(&b'"') && bytes.get(at + word.len()) == Some(&b'"')
    })
}

/// The type and the fields of an event, if its type is one of these.
///
/// The data's `type` decides, as it does in the providers' own clients; only data without one is
/// what its SSE type says.
pub(super) fn typed<'a>(
    event_type: Option<&'a str>,
    data: &'a str,
    types: &[&str],
) -> Option<(Cow<'a, str>, Fields<'a>)> {
    let possible = match event_type {
        Some(name) if types.contains(&name) => true,
        // The data says the same, as a rule near its beginning: another type, and soon known.
        Some(name) if mentions(data, name) => false,
        _ => types.iter().any(|name| mentions(data, name)),
    };
    if !possible {
        return None;
    }
    let fields = Fields::parse(data)?;
    let name = fields.text("type").or(event_type.map(Cow::Borrowed))?;
    types.contains(&name.as_ref()).then_some((name, fields))
}

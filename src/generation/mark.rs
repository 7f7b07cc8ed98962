//! The ends of generations, and what the end marks of the providers have in common.

use std::borrow::Cow;

use memchr::memmem;

use super::format::Format;
use super::json::{Fields, Json};

/// The end of a stream of OpenAI's APIs, and of many compatible ones.
pub(super) const DONE: &str = "[DONE]";

/// Maximum bytes of a provider's error message; a longer one is cut.
const MAX_MESSAGE_BYTES: usize = 256;

/// The meaning of an event that ends the generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The stream ends with this event.
    Last(Ending),
    /// The generation has ended, but an event such as `[DONE]` may follow.
    Nearly(Ending),
    /// The model has stopped: the generation is complete if the stream ends without another event.
    Finished,
}

/// The end of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The provider reports that it is complete.
    Complete,
    /// It was stopped.
    Cancelled,
    /// It failed, with the provider's message: up to 256 bytes.
    Error(Box<str>),
}

impl Ending {
    /// Returns the ending of a generation whose model stopped for this reason.
    pub(super) fn of_reason(reason: &str) -> Self {
        match reason.to_ascii_lowercase().as_str() {
            "failed" | "failure" | "insufficient_system_resource" => Self::stopped_by(reason),
            reason if reason.contains("error") => Self::stopped_by(reason),
            "abort" | "aborted" | "cancelled" | "canceled" => Self::Cancelled,
            _ => Self::Complete,
        }
    }

    fn stopped_by(reason: &str) -> Self {
        Self::failed(&format!("the model stopped with `{reason}`"))
    }

    /// Returns the mark of an event that only has the reason for which the model stopped.
    pub(super) fn into_stop(self) -> Mark {
        if self == Self::Complete { Mark::Finished } else { Mark::Nearly(self) }
    }

    /// Returns a failure with this message.
    pub(super) fn failed(message: &str) -> Self {
        let message = if message.is_empty() { "the provider reported an error" } else { message };
        Self::Error(message[..message.floor_char_boundary(MAX_MESSAGE_BYTES)].into())
    }
}

/// The choices of a generation: each of them ends separately.
#[derive(Clone, Debug, Default)]
pub(super) struct Choices {
    /// A bit for each choice that has had an event.
    seen: u128,
    /// A bit for each choice that has ended.
    done: u128,
}

impl Choices {
    /// Notes the choices of an event, and which of them end. Returns whether a choice has ended.
    pub(super) fn note(&mut self, format: Format, data: &str) -> bool {
        let (list, reason) = match format {
            Format::OpenAiChat => ("choices", "finish_reason"),
            Format::Gemini => ("candidates", "finishReason"),
            _ => return false,
        };
        let ends = has_value(data, reason);
        // Nearly all events belong to the first choice, and are not parsed.
        if !ends && !names_other_index(data) {
            if self.seen & 1 == 0 {
                self.seen |= u128::from(mentions(data, list));
            }
            return false;
        }
        let Some(event) = Fields::parse(data) else { return false };
        let choices = event.get(list).or_else(|| event.object("response").get(list));
        for choice in choices.map(Json::items).unwrap_or_default() {
            let choice = choice.fields();
            let bit = 1 << choice.number("index").unwrap_or(0).min(127);
            self.seen |= bit;
            if is_reason(choice.get(reason)) {
                self.done |= bit;
            }
        }
        ends && self.done != 0
    }

    pub(super) fn are_done(&self) -> bool {
        self.seen & !self.done == 0
    }
}

/// Returns whether the data is `[DONE]`.
pub(super) fn is_done(data: &str) -> bool {
    data.len() < 64 && data.trim() == DONE
}

/// Returns whether a field has the reason for which the model stopped: some servers always send it.
pub(super) fn is_reason(field: Option<Json<'_>>) -> bool {
    field.is_some_and(|reason| !matches!(reason.raw().get(), "\"\"" | "\"null\""))
}

/// Returns whether this name has a value anywhere in the JSON that is neither null nor empty.
pub(super) fn has_value(data: &str, name: &str) -> bool {
    values(data, name).any(|value| !value.starts_with(b"null") && !value.starts_with(b"\"\""))
}

/// Returns whether an `index` in the JSON is not zero.
fn names_other_index(data: &str) -> bool {
    values(data, "index").any(|value| matches!(value.first(), Some(b'1'..=b'9')))
}

/// Returns the bytes after each occurrence of this name in the JSON.
fn values<'a>(data: &'a str, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let bytes = data.as_bytes();
    memmem::find_iter(bytes, name.as_bytes()).filter_map(move |at| {
        let quoted = at > 0 && bytes[at - 1] == b'"';
        let after = bytes[at + name.len()..].strip_prefix(b"\"").filter(|_| quoted)?;
        Some(after.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start())
    })
}

/// Returns whether the word is a name or a whole string anywhere in the JSON.
///
/// This check saves parsing most events. The same word inside a longer string does not have both
/// quotes: there, a quote is written `\"`.
pub(super) fn mentions(data: &str, word: &str) -> bool {
    let bytes = data.as_bytes();
    memmem::find_iter(bytes, word).any(|at| {
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        before == Some(&b'"') && bytes.get(at + word.len()) == Some(&b'"')
    })
}

/// Returns the type and the fields of an event, if its type is one of these.
///
/// The data's `type` decides, as in the providers' own clients; the SSE type counts only for data
/// without one.
pub(super) fn typed<'a>(
    event_type: Option<&'a str>,
    data: &'a str,
    types: &[&str],
) -> Option<(Cow<'a, str>, Fields<'a>)> {
    let possible = match event_type {
        Some(name) if types.contains(&name) => true,
        // The data usually has the same type near its beginning, so it is ruled out cheaply.
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

//! Interprets the events of model providers' streams: detects their format and the end of the
//! generation, folds them into text, and merges neighbouring deltas.
//!
//! An event is its SSE type, if it has one, and its data; a line of NDJSON is data without a type.
//! This module neither stores nor forwards events. What it does not understand is left unchanged:
//! an unknown event marks nothing, adds nothing and merges with nothing; but a fold that skipped
//! content reports it.
//!
//! # How a format is recognised
//!
//! By the first event that determines it, with the first row that fits:
//!
//! | the data | format |
//! |---|---|
//! | nothing, `[DONE]`; or the SSE type is `ping`, `heartbeat` or similar | next event decides |
//! | no JSON object or array: a bare `{`, a number, a quoted string | `text`, but see below |
//! | `type` begins with `response.`; or is `error`, with a `message` | `openai-responses` |
//! | `type` is of the Messages API; or is `error`, with an `error` object | `anthropic` |
//! | `type` is of the UI message stream, with the fields that it must have | `ai-sdk` |
//! | `candidates`, `promptFeedback`, `usageMetadata`; or an `error` with a `status` | `gemini` |
//! | `model` and `done`; or an `error` that is a string | `ollama` |
//! | `choices` with a `delta`, or none of them yet; or an `error` object | `openai-chat` |
//! | any other object, and any array | next event decides |
//!
//! A stream that looked like text changes to another format at an event that adds to that format,
//! if only a few events came before it.
//!
//! `formats` has a file for each provider. `docs/formats.md` describes the same for users.

use crate::words::words;
use std::fmt;
use std::str::FromStr;

mod failure;
mod fold;
mod formats;
mod json;
mod mark;
mod merge;
mod partial;
mod recogniser;
#[cfg(test)]
mod tests;

pub use failure::complaint;
pub use fold::{Fold, Part, PartKind};
pub use mark::{Ending, Mark};
pub use merge::Merge;
pub use recogniser::Recogniser;

use formats::Provider;

/// The end of a stream of OpenAI's APIs, and of many compatible ones.
const DONE: &str = "[DONE]";

words! {
    /// The shape of a generation's events.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Format {
        /// Each event's data is the next piece of text.
        Text = "text",
        /// OpenAI's chat completion chunks, which most other servers speak as well.
        OpenAiChat = "openai-chat",
        /// The events of OpenAI's Responses API.
        OpenAiResponses = "openai-responses",
        /// The events of Anthropic's Messages API.
        Anthropic = "anthropic",
        /// Gemini's `streamGenerateContent?alt=sse`.
        Gemini = "gemini",
        /// The lines of Ollama's `/api/chat` and `/api/generate`.
        Ollama = "ollama",
        /// The UI message stream of Vercel's AI SDK.
        UiMessage = "ai-sdk",
    }
}

/// A name that is not that of a format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no format `{0}`: give one of text, openai-chat, openai-responses, anthropic, \
     gemini, ollama, ai-sdk"
)]
pub struct UnknownFormat(Box<str>);

impl Format {
    /// In this order, because the later ones require less.
    const SNIFFED: [Self; 6] = [
        Self::OpenAiResponses,
        Self::Anthropic,
        Self::UiMessage,
        Self::Gemini,
        Self::Ollama,
        Self::OpenAiChat,
    ];

    /// Returns the mark of this event, if the generation ends with it.
    #[must_use]
    pub fn mark(self, event_type: Option<&str>, data: &str) -> Option<Mark> {
        if self != Self::Text && mark::is_done(data) {
            return Some(Mark::Last(Ending::Complete));
        }
        let own = self.provider().mark(event_type, data);
        if let Some(Mark::Last(_) | Mark::Nearly(_)) = own {
            return own;
        }
        // In the text format, JSON is text.
        let is_text = self == Self::Text && !event_type.is_some_and(failure::is_error_type);
        let failure = if is_text { None } else { failure::failure(event_type, data, true) };
        failure.map(Mark::Nearly).or(own)
    }

    fn provider(self) -> &'static dyn Provider {
        match self {
            Self::Text => &formats::TextFormat,
            Self::OpenAiChat => &formats::OpenAiChat,
            Self::OpenAiResponses => &formats::OpenAiResponses,
            Self::Anthropic => &formats::Anthropic,
            Self::Gemini => &formats::Gemini,
            Self::Ollama => &formats::Ollama,
            Self::UiMessage => &formats::UiMessage,
        }
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        let mut formats = Self::ALL.into_iter();
        formats.find(|format| format.as_str() == name).ok_or_else(|| UnknownFormat(name.into()))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

//! The formats of generations, and their names.

use std::fmt;
use std::str::FromStr;

use crate::word_enum::words;

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
    pub(super) const SNIFFED: [Self; 6] = [
        Self::OpenAiResponses,
        Self::Anthropic,
        Self::UiMessage,
        Self::Gemini,
        Self::Ollama,
        Self::OpenAiChat,
    ];
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

//! The formats of the providers, with a file for each.

mod anthropic;
mod content;
mod gemini;
mod ollama;
mod openai_chat;
mod openai_responses;
mod provider;
mod text;
mod ui_message;

use anthropic::Anthropic;
use gemini::Gemini;
use ollama::Ollama;
use openai_chat::OpenAiChat;
use openai_responses::OpenAiResponses;
use provider::Provider;
use text::TextFormat;
use ui_message::UiMessage;

use super::event::ModelEvent;
use super::failure::{failure, is_error_type};
use super::fold::Fold;
use super::format::Format;
use super::mark::{Ending, Mark};

impl Format {
    /// Returns the mark of this event, if the generation ends with it.
    #[must_use]
    pub fn mark(self, event: &ModelEvent<'_>) -> Option<Mark> {
        if self != Self::Text && event.is_done() {
            return Some(Mark::Last(Ending::Complete));
        }
        let own = self.provider().mark(event);
        if let Some(Mark::Last(_) | Mark::Nearly(_)) = own {
            return own;
        }
        // In the text format, JSON is text.
        let is_text = self == Self::Text && !event.event_type().is_some_and(is_error_type);
        let failed = if is_text { None } else { failure(event, true) };
        failed.map(Mark::Nearly).or(own)
    }

    /// Returns whether the generation ends with this event: it is an end mark, or an error.
    #[must_use]
    pub fn is_end(self, event: &ModelEvent<'_>) -> bool {
        matches!(self.mark(event), Some(Mark::Last(_) | Mark::Nearly(_)))
    }

    /// Returns the implementation of the format.
    pub(super) fn provider(self) -> &'static dyn Provider {
        match self {
            Self::Text => &TextFormat,
            Self::OpenAiChat => &OpenAiChat,
            Self::OpenAiResponses => &OpenAiResponses,
            Self::Anthropic => &Anthropic,
            Self::Gemini => &Gemini,
            Self::Ollama => &Ollama,
            Self::UiMessage => &UiMessage,
        }
    }
}

impl Fold {
    /// Adds the next event; an unknown one adds nothing.
    pub fn push(&mut self, event: &ModelEvent<'_>) {
        self.format().provider().fold(event, self);
    }
}

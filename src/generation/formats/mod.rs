//! What is known of each provider's events: a file for each.

mod anthropic;
mod content;
mod gemini;
mod ollama;
mod openai_chat;
mod openai_responses;
mod text;
mod ui_message;

pub(super) use anthropic::Anthropic;
pub(super) use gemini::Gemini;
pub(super) use ollama::Ollama;
pub(super) use openai_chat::OpenAiChat;
pub(super) use openai_responses::OpenAiResponses;
pub(super) use text::TextFormat;
pub(super) use ui_message::UiMessage;

use super::fold::Fold;
use super::json::Fields;
use super::mark::Mark;
use super::merge::Outline;

/// What a provider's file answers.
pub(super) trait Provider {
    /// Whether this event is the provider's, in a stream of which nothing is known.
    fn recognises(&self, event: &Fields<'_>) -> bool;

    /// Whether the generation ends with this event, and how; `[DONE]` and errors in the dialect of
    /// others are looked for elsewhere. It is asked for every event, so it looks for a word before
    /// it parses anything.
    fn mark(&self, event_type: Option<&str>, data: &str) -> Option<Mark>;

    /// Adds what the event brings.
    fn fold(&self, event_type: Option<&str>, data: &str, fold: &mut Fold) {
        match Fields::parse(data) {
            Some(event) => self.fold_event(event_type, &event, fold),
            None => content::fold_odd(data, fold, |event, fold| {
                self.fold_event(event_type, event, fold);
            }),
        }
    }

    /// Adds what the event brings, of a format whose events are objects. What it leaves out that is
    /// content is skipped.
    fn fold_event(&self, event_type: Option<&str>, event: &Fields<'_>, fold: &mut Fold);

    /// Marks out the delta and what varies without meaning; `None` as soon as the event has
    /// anything else that a merge would lose.
    fn outline(&self, data: &str, outline: &mut Outline) -> Option<()>;
}

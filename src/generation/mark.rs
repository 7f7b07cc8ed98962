//! The ends of generations, and what the end marks of the providers have in common.

use super::event::ModelEvent;
use super::format::Format;
use crate::json::Json;

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
    pub(super) fn note(&mut self, format: Format, event: &ModelEvent<'_>) -> bool {
        let (list, reason) = match format {
            Format::OpenAiChat => ("choices", "finish_reason"),
            Format::Gemini => ("candidates", "finishReason"),
            _ => return false,
        };
        let Some(event) = event.fields() else { return false };
        let choices = event.get(list).or_else(|| event.object("response").get(list));
        for choice in choices.map(Json::items).unwrap_or_default() {
            let choice = choice.fields();
            let bit = 1 << choice.number("index").unwrap_or(0).min(127);
            self.seen |= bit;
            if is_reason(choice.get(reason)) {
                self.done |= bit;
            }
        }
        self.done != 0
    }

    pub(super) fn are_done(&self) -> bool {
        self.seen & !self.done == 0
    }
}

/// Returns whether a field has the reason for which the model stopped: some servers always send it.
pub(super) fn is_reason(field: Option<Json<'_>>) -> bool {
    field.is_some_and(|reason| !matches!(reason.raw(), "\"\"" | "\"null\""))
}

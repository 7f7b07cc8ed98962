//! The lines of Ollama's `/api/chat`, with a `message`, and `/api/generate`, with a `response`. The
//! last line has `"done":true` and the counts.

use super::content::{REASONING, fold_content, fold_reasoning, skip_event, skip_unknown};
use super::provider::Provider;
use crate::generation::address::{Address, Lane, PartKey};
use crate::generation::event::ModelEvent;
use crate::generation::failure::failure_in;
use crate::generation::fold::Fold;
use crate::generation::mark::{Ending, Mark};
use crate::generation::outline::{Field, Outline};
use crate::json::{Fields, Json};

/// The format `ollama`.
pub(in crate::generation) struct Ollama;

/// The counts of the last line, for which Ollama has no object.
const USAGE: [&str; 6] = [
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
];

impl Provider for Ollama {
    fn recognises(&self, first: &Fields<'_>) -> bool {
        let line = first.text("model").is_some()
            && first.get("done").is_some()
            && (first.get("message").is_some_and(Json::is_object)
                || first.text("response").is_some());
        line || first.text("error").is_some()
    }

    fn mark(&self, event: &ModelEvent<'_>) -> Option<Mark> {
        let line = event.fields()?;
        if let Some(failure) = failure_in(event, true) {
            return Some(Mark::Last(failure));
        }
        line.get("done").filter(|done| done.is_true())?;
        let ending = line.text("done_reason").map(|reason| Ending::of_reason(&reason));
        Some(Mark::Last(ending.unwrap_or(Ending::Complete)))
    }

    fn fold_event(&self, _: Option<&str>, line: &Fields<'_>, fold: &mut Fold) {
        fold.set_model(line.text("model"));
        let at = |lane| Address { choice: 0, lane, key: PartKey::Index(0, 0) };
        let message = line.object("message");
        fold_reasoning(
            &at(Lane::Reasoning),
            if message.is_empty() { line } else { &message },
            fold,
        );
        if let Some(text) = message.get("content").or(line.get("response")) {
            fold_content(&at(Lane::Text), text, fold);
        }
        for call in message.items("tool_calls") {
            let call = call.fields();
            let function = call.object("function");
            fold.add_call(0, call.text("id"), function.text("name"), function.get("arguments"));
        }
        let is_known =
            |name: &str| ["content", "tool_calls"].contains(&name) || REASONING.contains(&name);
        skip_unknown(&message, is_known, fold);
        skip_event(line, fold);
        if line.get("done").is_some_and(Json::is_true) {
            let is_count = |name: &str| USAGE.contains(&name);
            fold.update_usage(line.all().filter(|(name, _)| name.contents().is_some_and(is_count)));
        }
    }

    fn outline(&self, event: &ModelEvent<'_>, outline: &mut Outline) -> Option<()> {
        outline.walk(&event.fields()?, |outline, name, value| {
            Some(match name {
                "created_at" => Field::Free,
                "done" if !value.is_true() => Field::Fixed,
                "response" | "thinking" => Field::Delta,
                "message" => {
                    outline.walk(&value.fields(), |_, name, _| match name {
                        "role" => Some(Field::Free),
                        "content" | "thinking" | "reasoning_content" | "reasoning" => {
                            Some(Field::Delta)
                        }
                        _ => None,
                    })?;
                    Field::Fixed
                }
                "model" | "remote_model" | "remote_host" => Field::Fixed,
                _ => return None,
            })
        })
    }
}

//! The lines of Ollama's `/api/chat`, with a `message`, and `/api/generate`, with a `response`. The
//! last line has `"done":true` and the counts.

use memchr::memmem;

use super::content::{REASONING, fold_content, fold_reasoning, skip_event, skip_unknown};
use super::provider::Provider;
use crate::generation::address::{Address, Lane, PartKey};
use crate::generation::failure::failure;
use crate::generation::fold::Fold;
use crate::generation::json::{Fields, Json};
use crate::generation::mark::{Ending, Mark, mentions};
use crate::generation::outline::{Field, Outline};

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

    fn mark(&self, _: Option<&str>, data: &str) -> Option<Mark> {
        // Every line has a `done`, so `true` is searched as well.
        let is_true = || memmem::find(data.as_bytes(), b"true").is_some();
        let may_end = mentions(data, "error") || (is_true() && mentions(data, "done"));
        if !may_end {
            return None;
        }
        let line = Fields::parse(data)?;
        if let Some(failure) = failure(None, data, true) {
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
            fold.update_usage(line.only(&USAGE));
        }
    }

    fn outline(&self, data: &str, outline: &mut Outline) -> Option<()> {
        outline.walk(&Fields::parse(data)?, data, |outline, name, value| {
            Some(match name {
                "created_at" => Field::Free,
                "done" if !value.is_true() => Field::Fixed,
                "response" | "thinking" => Field::Delta,
                "message" => {
                    outline.walk(&value.fields(), data, |_, name, _| match name {
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

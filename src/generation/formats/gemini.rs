//! Gemini's `streamGenerateContent?alt=sse`: every event is a whole response, with the next parts
//! of its candidates and the usage so far. There is no end mark but the `finishReason` of the last
//! event, and some older models write one into every event.

use super::content::{fold_content, skip_event, skip_unknown};
use super::provider::Provider;
use crate::generation::address::{Address, Lane, PartKey, call_address};
use crate::generation::event::ModelEvent;
use crate::generation::failure::failure_in;
use crate::generation::fold::Fold;
use crate::generation::mark::{Ending, Mark, is_reason};
use crate::generation::outline::{Field, Outline};
use crate::json::{Fields, Json};

/// The format `gemini`.
pub(in crate::generation) struct Gemini;

/// The fields of a part that are folded, or belong to the provider's own tools.
const PART: [&str; 8] = [
    "text",
    "thought",
    "functionCall",
    "executableCode",
    "codeExecutionResult",
    "functionResponse",
    "toolCall",
    "toolResponse",
];

impl Provider for Gemini {
    fn recognises(&self, first: &Fields<'_>) -> bool {
        let inner = first.object("response");
        first.get("candidates").or(inner.get("candidates")).is_some_and(Json::is_array)
            || ["promptFeedback", "usageMetadata"]
                .iter()
                .any(|name| first.get(name).is_some_and(Json::is_object))
            || first.object("error").text("status").is_some()
    }

    fn mark(&self, event: &ModelEvent<'_>) -> Option<Mark> {
        let whole = event.fields()?;
        if let Some(failure) = failure_in(event, true) {
            return Some(Mark::Last(failure));
        }
        let inner = whole.object("response");
        let fields = if inner.is_empty() { whole } else { inner };
        let feedback = fields.object("promptFeedback");
        if let Some(reason) = feedback.text("blockReason") {
            let said = feedback.text("blockReasonMessage");
            let said = said.unwrap_or_else(|| format!("the prompt was blocked: {reason}").into());
            return Some(Mark::Nearly(Ending::failed(&said)));
        }
        let mut candidates = fields.items("candidates");
        let finished = |candidate: Json<'_>| is_reason(candidate.fields().get("finishReason"));
        let all = !candidates.is_empty() && candidates.all(finished);
        all.then_some(Mark::Finished)
    }

    fn fold_event(&self, _: Option<&str>, event: &Fields<'_>, fold: &mut Fold) {
        // Some of Google's endpoints wrap the event in a `response`.
        let inner = event.object("response");
        let event = if inner.is_empty() { event } else { &inner };
        fold.set_model(event.text("modelVersion"));
        fold.set_usage(event.get("usageMetadata"));
        let candidates = event.items("candidates");
        if candidates.is_empty() {
            skip_event(event, fold);
        }
        for candidate in candidates {
            let candidate = candidate.fields();
            let number = candidate.number("index").unwrap_or(0);
            let content = candidate.object("content");
            for part in content.items("parts") {
                fold_part(number, &part.fields(), fold);
            }
            skip_unknown(&content, |name| name == "parts", fold);
        }
    }

    fn outline(&self, event: &ModelEvent<'_>, outline: &mut Outline) -> Option<()> {
        outline.walk(&event.fields()?, |outline, name, value| {
            Some(match name {
                "candidates" => {
                    outline_candidate(&value.only_item()?.fields(), outline)?;
                    Field::Fixed
                }
                // It counts everything so far, so the last one is enough.
                "usageMetadata" | "responseId" | "createTime" | "traceId" => Field::Free,
                "error" => return None,
                _ if value.is_scalar() => Field::Fixed,
                _ => return None,
            })
        })
    }
}

fn fold_part(choice: u32, part: &Fields<'_>, fold: &mut Fold) {
    let lane = match part.get("thought") {
        Some(thought) if thought.is_true() => Lane::Reasoning,
        _ => Lane::Text,
    };
    if let Some(text) = part.get("text") {
        fold_content(&Address { choice, lane, key: PartKey::Index(0, 0) }, text, fold);
    }
    if let Some(call) = part.get("functionCall") {
        fold_call(choice, &call.fields(), fold);
    }
    if let Some(code) = part.get("executableCode") {
        fold.add_call(choice, None, Some("code_execution".into()), Some(code));
    }
    skip_unknown(part, |name| PART.contains(&name), fold);
}

/// Folds a call in one piece, or, where arguments are streamed, its beginning, middle or end.
fn fold_call(choice: u32, call: &Fields<'_>, fold: &mut Fold) {
    let values = call.items("partialArgs");
    let goes_on = call.get("willContinue").is_some_and(Json::is_true);
    let name = call.text("name");
    let args = call.get("args");
    if args.is_some_and(|args| !args.is_empty())
        || (!goes_on && values.is_empty() && name.is_some())
    {
        if !values.is_empty() {
            fold.skip(); // their place in the arguments is unknown
        }
        return fold.add_call(choice, call.text("id"), name, args);
    }
    if name.is_some() {
        fold.add_call(choice, call.text("id"), name, None);
        fold.begin_partial(call_address(choice));
    }
    fold.add_partial(choice, values, !goes_on);
}

fn outline_candidate(candidate: &Fields<'_>, outline: &mut Outline) -> Option<()> {
    outline.walk(candidate, |outline, name, value| {
        Some(match name {
            // Results of filters must be equal in both, or the events do not join.
            "index" | "safetyRatings" => Field::Fixed,
            "content" => {
                outline.walk(&value.fields(), |outline, name, value| match name {
                    "role" => Some(Field::Free),
                    "parts" => {
                        outline_part(&value.only_item()?.fields(), outline)?;
                        Some(Field::Fixed)
                    }
                    _ => None,
                })?;
                Field::Fixed
            }
            _ => return None,
        })
    })
}

fn outline_part(part: &Fields<'_>, outline: &mut Outline) -> Option<()> {
    outline.walk(part, |_, name, _| match name {
        "text" => Some(Field::Delta),
        "thought" => Some(Field::Fixed),
        _ => None,
    })
}

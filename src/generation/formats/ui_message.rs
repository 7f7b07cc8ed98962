//! The UI message stream of Vercel's AI SDK, version 5 and later: parts that begin, grow and end,
//! each with its id, which a later step may use again. `finish`, then `[DONE]`.

use super::content::{fold_content, skip_event};
use super::provider::Provider;
use crate::generation::address::{Address, Lane, PartKey};
use crate::generation::event::ModelEvent;
use crate::generation::failure::ending_of;
use crate::generation::fold::Fold;
use crate::generation::mark::{Ending, Mark};
use crate::generation::outline::{Field, Outline};
use crate::json::Fields;

/// The format `ai-sdk`.
pub(in crate::generation) struct UiMessage;

impl Provider for UiMessage {
    fn recognises(&self, first: &Fields<'_>) -> bool {
        let has = |name: &str| first.get(name).is_some();
        match first.text("type").as_deref().unwrap_or_default() {
            // Other protocols have a `start`, too; this one has no other fields.
            "start" => {
                let known = ["type", "messageId", "messageMetadata"];
                first.present().all(|(name, _)| known.contains(&&*name))
            }
            "start-step" | "finish-step" | "reset-step" => first.present().count() == 1,
            "text-start" | "reasoning-start" => has("id"),
            "text-delta" | "reasoning-delta" => has("id") && has("delta"),
            "tool-input-start" | "tool-input-available" => has("toolCallId") && has("toolName"),
            "message-metadata" => has("messageMetadata"),
            "error" => has("errorText"),
            name => name.starts_with("data-") && has("data"),
        }
    }

    fn mark(&self, event: &ModelEvent<'_>) -> Option<Mark> {
        let chunk = event.fields()?;
        Some(Mark::Nearly(match event.name(&chunk).as_ref() {
            "error" => ending_of(Some(chunk.get("errorText")?)),
            "abort" => Ending::Cancelled,
            "finish" => {
                let reason = chunk.text("finishReason");
                reason.map_or(Ending::Complete, |reason| Ending::of_reason(&reason))
            }
            _ => return None,
        }))
    }

    fn fold_event(&self, _: Option<&str>, chunk: &Fields<'_>, fold: &mut Fold) {
        match chunk.text("type").as_deref().unwrap_or_default() {
            "start-step" => fold.begin_step(),
            "reset-step" => fold.take_back_step(),
            "start" | "finish" | "finish-step" | "message-metadata" => fold_usage(chunk, fold),
            "file" | "reasoning-file" => fold.skip(),
            // Data of the application, sources and tool results are not part of the answer.
            name if ["data-", "source-", "tool-output-", "tool-approval-"]
                .iter()
                .any(|beginning| name.starts_with(beginning)) => {}
            name => {
                if fold_part(name, chunk, fold).is_none() {
                    skip_event(chunk, fold);
                }
            }
        }
    }

    fn outline(&self, event: &ModelEvent<'_>, outline: &mut Outline) -> Option<()> {
        let chunk = event.fields()?;
        let (_, id, text) = part_named(chunk.text("type")?.strip_suffix("-delta")?)?;
        outline.walk(&chunk, |_, name, _| match name {
            "type" => Some(Field::Fixed),
            name if name == id => Some(Field::Fixed),
            name if name == text => Some(Field::Delta),
            _ => None,
        })
    }
}

/// Folds the usage, which has no field: applications put it into the metadata of the message.
fn fold_usage(chunk: &Fields<'_>, fold: &mut Fold) {
    let metadata = chunk.object("messageMetadata");
    for object in [chunk, &metadata] {
        fold.set_usage(object.get("totalUsage").or(object.get("usage")));
    }
}

/// Returns the lane of a part with this name, and the fields with its id and its deltas.
fn part_named(name: &str) -> Option<(Lane, &'static str, &'static str)> {
    Some(match name {
        "text" => (Lane::Text, "id", "delta"),
        "reasoning" => (Lane::Reasoning, "id", "delta"),
        "tool-input" => (Lane::Tool, "toolCallId", "inputTextDelta"),
        _ => return None,
    })
}

/// Folds the beginning, a delta, the end or the whole of a part; `None` if it is not a part.
fn fold_part(name: &str, chunk: &Fields<'_>, fold: &mut Fold) -> Option<()> {
    let (part, what) = name.rsplit_once('-')?;
    let (lane, id, text) = part_named(part)?;
    let address = Address { choice: 0, lane, key: PartKey::Id(chunk.text(id)?) };
    if what == "start" {
        fold.part_ends(&address);
    }
    let said = [text, "delta", "text"].iter().find_map(|name| chunk.get(name));
    if lane != Lane::Tool {
        if let (Some(text), "start" | "delta") = (said, what) {
            fold_content(&address, text, fold);
        }
        return Some(());
    }
    if what != "delta" {
        fold.name_call(address.clone(), chunk.text(id), chunk.text("toolName"));
    }
    match (what, chunk.get("input"), said) {
        ("delta", _, Some(text)) => fold.append(address, text),
        ("start", Some(input), _) => fold.begin_arguments(address, input),
        ("available" | "error", Some(input), _) => fold.set_arguments(address, input),
        _ => {}
    }
    Some(())
}

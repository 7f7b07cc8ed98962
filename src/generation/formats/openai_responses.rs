//! The events of OpenAI's Responses API, each with its `type` in the data as well as in the SSE
//! field, and a `sequence_number`.
//!
//! An output item has an `output_index`; a message's content parts have a `content_index`, a
//! reasoning item's summaries a `summary_index`.

use std::borrow::Cow;

use super::content::{fold_content, skip_event, skip_unknown};
use super::provider::Provider;
use crate::generation::address::{Address, Lane, PartKey};
use crate::generation::event::ModelEvent;
use crate::generation::failure::ending_of;
use crate::generation::fold::Fold;
use crate::generation::mark::{Ending, Mark};
use crate::generation::outline::{Field, Outline};
use crate::json::{Fields, Json};

/// The format `openai-responses`.
pub(in crate::generation) struct OpenAiResponses;

/// Items that are calls.
const CALLS: [&str; 4] = ["function_call", "mcp_call", "custom_tool_call", "code_interpreter_call"];

/// Items of tools that the provider runs itself, and of its internals.
const OWN_TOOLS: [&str; 7] = [
    "web_search_call",
    "file_search_call",
    "tool_search_call",
    "mcp_list_tools",
    "mcp_approval_request",
    "additional_tools",
    "compaction",
];

impl Provider for OpenAiResponses {
    fn recognises(&self, first: &Fields<'_>) -> bool {
        match first.text("type").as_deref() {
            Some("error") => first.text("message").is_some(),
            Some(name) => name.starts_with("response."),
            None => false,
        }
    }

    fn mark(&self, event: &ModelEvent<'_>) -> Option<Mark> {
        let fields = event.fields()?;
        Some(match event.name(&fields).as_ref() {
            "response.completed" | "response.incomplete" => {
                let response = fields.object("response");
                Mark::Last(match response.text("status").as_deref() {
                    Some("failed") => ending_of(response.get("error")),
                    _ => Ending::Complete,
                })
            }
            "response.failed" => Mark::Last(ending_of(fields.object("response").get("error"))),
            // In no published schema, but some servers have it.
            "response.cancelled" => Mark::Last(Ending::Cancelled),
            // `response.failed` may follow.
            "error" => {
                let error = fields.get("error").or(fields.get("message"))?;
                Mark::Nearly(ending_of(Some(error)))
            }
            _ => return None,
        })
    }

    fn fold_event(&self, event_type: Option<&str>, event: &Fields<'_>, fold: &mut Fold) {
        let name = event.text("type");
        let name = name.as_deref().or(event_type).unwrap_or_default();
        let index = event.number("output_index");
        match name.strip_prefix("response.").unwrap_or_default() {
            "created" | "queued" | "in_progress" => fold_response(event, false, fold),
            "completed" | "incomplete" | "failed" | "cancelled" | "done" => {
                fold_response(event, true, fold);
            }
            // The content of a new item is repeated, in deltas or as a whole.
            "output_item.added" => fold_item(index, &event.object("item"), false, fold),
            "output_item.done" => fold_item(index, &event.object("item"), true, fold),
            "content_part.done" | "reasoning_part.done" | "reasoning_summary_part.done" => {
                let part = event.object("part");
                match text_of(&part) {
                    Some((lane, text)) => fold.set_text(address(event, lane, fold), text),
                    None => skip_unknown(&part, |_| false, fold),
                }
            }
            "content_part.added"
            | "reasoning_part.added"
            | "reasoning_summary_part.added"
            | "output_text.annotation.added" => {}
            name => {
                if fold_delta(name, event, fold).is_none() {
                    skip_event(event, fold);
                }
            }
        }
    }

    fn outline(&self, event: &ModelEvent<'_>, outline: &mut Outline) -> Option<()> {
        let event = event.fields()?;
        lane(event.text("type")?.strip_prefix("response.")?.strip_suffix(".delta")?)?;
        let is_placed = event.number("output_index").is_some();
        outline.walk(&event, |_, name, _| {
            Some(match name {
                "delta" => Field::Delta,
                "sequence_number" | "obfuscation" | "event_id" => Field::Free,
                "item_id" if is_placed => Field::Free, // some servers make up one for every event
                "type" | "item_id" | "response_id" | "output_index" | "content_index"
                | "summary_index" => Field::Fixed,
                _ => return None,
            })
        })
    }
}

/// Returns the lane of the deltas with this name. Others may not be text: audio is base64, of which
/// two pieces cannot be concatenated.
fn lane(name: &str) -> Option<Lane> {
    Some(match name {
        "output_text" | "text" => Lane::Text,
        "refusal" => Lane::Refusal,
        "reasoning_text" | "reasoning" => Lane::Reasoning,
        "reasoning_summary_text" | "reasoning_summary" => Lane::Summary,
        "function_call_arguments"
        | "mcp_call_arguments"
        | "custom_tool_call_input"
        | "code_interpreter_call_code" => Lane::Tool,
        _ => return None,
    })
}

/// Returns the text of a piece, and its lane.
fn text_of<'a>(piece: &Fields<'a>) -> Option<(Lane, Json<'a>)> {
    let (lane, name) = match piece.text("type")?.as_ref() {
        "output_text" | "text" => (Lane::Text, "text"),
        "refusal" => (Lane::Refusal, "refusal"),
        "reasoning_text" => (Lane::Reasoning, "text"),
        "summary_text" => (Lane::Summary, "text"),
        _ => return None,
    };
    Some((lane, piece.get(name)?))
}

/// Returns the address of an event. Without an index, the id of its item is used.
fn address<'a>(event: &Fields<'a>, lane: Lane, fold: &Fold) -> Address<'a> {
    let piece = event.number("content_index").or(event.number("summary_index")).unwrap_or(0);
    place(event.number("output_index"), piece, event.text("item_id"), lane, fold)
}

fn place<'a>(
    index: Option<u32>,
    piece: u32,
    id: Option<Cow<'a, str>>,
    lane: Lane,
    fold: &Fold,
) -> Address<'a> {
    let at = |key| Address { choice: 0, lane, key };
    match (index, id) {
        (None, None) => at(PartKey::Index(0, piece)),
        (None, Some(id)) => at(PartKey::Id(id)),
        (Some(index), id) => {
            let by_index = at(PartKey::Index(index, piece));
            if fold.at(&by_index).is_some() {
                return by_index;
            }
            let by_id = id.map(|id| at(PartKey::Id(id))).filter(|by_id| fold.at(by_id).is_some());
            by_id.unwrap_or(by_index)
        }
    }
}

/// Folds a delta, or the whole text after the deltas; `None` if it is neither.
fn fold_delta(name: &str, event: &Fields<'_>, fold: &mut Fold) -> Option<()> {
    let (name, what) = name.rsplit_once('.')?;
    let lane = lane(name)?;
    let address = address(event, lane, fold);
    let names = ["text", "refusal", "arguments", "input", "code"];
    match (what, lane) {
        ("delta", Lane::Tool) => fold.append(address, event.get("delta")?),
        ("delta", _) => fold_content(&address, event.get("delta")?, fold),
        ("done", Lane::Tool) => {
            let whole = names.iter().find_map(|name| event.get(name))?;
            fold.name_call(address.clone(), None, event.text("name"));
            fold.set_arguments(address, whole);
        }
        ("done", _) => {
            let whole = names.iter().find_map(|name| event.get(name))?;
            fold.set_text(address, whole);
        }
        _ => return None,
    }
    Some(())
}

/// Folds a response. At its end it has everything, which matters where no deltas came.
fn fold_response(event: &Fields<'_>, ends: bool, fold: &mut Fold) {
    let response = event.object("response");
    fold.set_model(response.text("model"));
    fold.set_usage(response.get("usage").or(event.get("usage")));
    let items: Vec<_> = response.items("output").map(Json::fields).collect();
    if !ends || items.is_empty() {
        return;
    }
    let said = |lane| match lane {
        Lane::Tool => items.iter().filter(|item| is_call(item)).count(),
        lane => items.iter().flat_map(pieces).filter(|piece| piece.0 == lane).count(),
    };
    let lanes = [Lane::Text, Lane::Reasoning, Lane::Summary, Lane::Refusal, Lane::Tool];
    // Indexes may differ from those of the deltas, but not the number of texts and calls.
    let missing = lanes.map(|lane| (lane, said(lane) > fold.count(lane)));
    let is_missing = |lane| missing.contains(&(lane, true));
    for (index, item) in (0..).zip(&items) {
        fold_item_of(Some(index), item, true, is_missing, fold);
    }
}

/// Folds the beginning or the end of an item.
fn fold_item(index: Option<u32>, item: &Fields<'_>, ends: bool, fold: &mut Fold) {
    fold_item_of(index, item, ends, |_| true, fold);
}

/// Folds the wanted lanes of an item.
fn fold_item_of(
    index: Option<u32>,
    item: &Fields<'_>,
    ends: bool,
    is_wanted: impl Fn(Lane) -> bool,
    fold: &mut Fold,
) {
    if is_call(item) {
        if is_wanted(Lane::Tool) {
            fold_call(index, item, ends, fold);
        }
        return;
    }
    match item.text("type").as_deref().unwrap_or_default() {
        "message" | "reasoning" if !ends => {}
        "message" | "reasoning" => {
            for (lane, piece, text) in pieces(item).filter(|piece| is_wanted(piece.0)) {
                fold.set_text(place(index, piece, item.text("id"), lane, fold), text);
            }
            for piece in item.items("content") {
                let piece = piece.fields();
                if text_of(&piece).is_none() {
                    skip_unknown(&piece, |_| false, fold);
                }
            }
        }
        // The work and the results of a provider's own tool are not part of the answer.
        name if OWN_TOOLS.contains(&name) || name.ends_with("_output") => {}
        _ => skip_unknown(item, |name| name == "encrypted_content", fold),
    }
}

/// Returns the texts of a message or of reasoning, each with its lane and number.
fn pieces<'a>(item: &Fields<'a>) -> impl Iterator<Item = (Lane, u32, Json<'a>)> + use<'a> {
    let lists = ["content", "summary"].map(|name| (0..).zip(item.items(name)));
    let texts = lists.into_iter().flatten().filter_map(|(number, piece)| {
        let (lane, text) = text_of(&piece.fields())?;
        Some((lane, number, text))
    });
    texts.filter(|(_, _, text)| !text.is_empty())
}

fn is_call(item: &Fields<'_>) -> bool {
    item.text("type").is_some_and(|name| CALLS.contains(&name.as_ref()))
}

fn fold_call(index: Option<u32>, item: &Fields<'_>, ends: bool, fold: &mut Fold) {
    let id = item.text("id");
    let address = place(index, 0, id.clone(), Lane::Tool, fold);
    let code = item.text("type").filter(|name| name == "code_interpreter_call");
    let name = item.text("name").or(code.and(Some("code_interpreter".into())));
    fold.name_call(address.clone(), item.text("call_id").or(id), name);
    let names = ["arguments", "input", "code"];
    match names.iter().find_map(|name| item.get(name)) {
        Some(arguments) if ends => fold.set_arguments(address, arguments),
        Some(arguments) => fold.begin_arguments(address, arguments),
        None => {}
    }
}

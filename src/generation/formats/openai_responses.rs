//! The events of OpenAI's Responses API, each with its `type` in the data as well as in the SSE
//! field, and a `sequence_number`.
//!
//! An output item has an `output_index`; a message's content parts have a `content_index`, a
//! reasoning item's summaries a `summary_index`.

use super::Provider;
use crate::generation::DONE;
use crate::generation::fold::{Address, Fold, Key, Lane};
use crate::generation::json::Fields;
use crate::generation::mark::{Ending, Mark, typed};
use crate::generation::merge::Outline;

/// See the module.
pub(in crate::generation) struct OpenAiResponses;

const ENDS: [&str; 5] = [
    "response.completed",
    "response.incomplete",
    "response.failed",
    "response.cancelled", // in no published schema, but some servers have it
    "error",
];

impl Provider for OpenAiResponses {
    fn recognises(&self, first: &Fields<'_>) -> bool {
        match first.text("type").as_deref() {
            Some("error") => first.text("message").is_some(),
            Some(name) => name.starts_with("response."),
            None => false,
        }
    }

    fn mark(&self, event_type: Option<&str>, data: &str) -> Option<Mark> {
        if data == DONE {
            return Some(Mark::Last(Ending::Complete)); // some gateways say nothing else
        }
        let (name, event) = typed(event_type, data, &ENDS)?;
        Some(match name.as_ref() {
            "response.failed" => Mark::Last(Ending::error(event.object("response").get("error"))),
            "response.cancelled" => Mark::Last(Ending::Cancelled),
            // `response.failed` may follow.
            "error" => Mark::Nearly(Ending::error(event.get("error").or(event.get("message")))),
            _ => Mark::Last(Ending::Complete),
        })
    }

    fn fold(&self, event_type: Option<&str>, data: &str, fold: &mut Fold) {
        let Some(event) = Fields::parse(data) else {
            return;
        };
        let name = event.text("type");
        let name = name.as_deref().or(event_type).unwrap_or_default();
        if let Some(lane) = lane(name) {
            if let (Some(address), Some(delta)) = (address(&event, lane), event.get("delta")) {
                fold.append(address, delta);
            }
        } else if let "response.output_item.added" | "response.output_item.done" = name {
            fold_item(&event, fold);
        } else if let Some(response) = event.get("response") {
            let response = response.fields();
            fold.set_model(response.text("model"));
            fold.set_usage(response.get("usage"));
        }
    }

    fn outline(&self, data: &str, outline: &mut Outline) -> Option<()> {
        let event = Fields::parse(data)?;
        lane(&event.text("type")?)?;
        for (name, value) in event.present() {
            match name {
                "delta" => outline.set_delta(value, data)?,
                "sequence_number" | "obfuscation" => outline.vary(value, data),
                "logprobs" if value.raw().get() == "[]" => {}
                "type" | "item_id" | "output_index" | "content_index" | "summary_index" => {}
                _ => return None,
            }
        }
        Some(())
    }
}

/// What a delta event of this type adds to. Of the others, some are no text: sound is base64, of
/// which two pieces are not one.
fn lane(event: &str) -> Option<Lane> {
    Some(match event.strip_prefix("response.")?.strip_suffix(".delta")? {
        "output_text" => Lane::Text,
        "refusal" => Lane::Refusal,
        "reasoning_text" | "reasoning_summary_text" => Lane::Reasoning,
        "function_call_arguments" | "mcp_call_arguments" | "custom_tool_call_input" => Lane::Tool,
        _ => return None,
    })
}

fn address<'a>(event: &Fields<'a>, lane: Lane) -> Option<Address<'a>> {
    let piece = event.number("content_index").or(event.number("summary_index")).unwrap_or(0);
    let key = match event.number("output_index") {
        Some(item) => Key::Index(item, piece),
        None => Key::Id(event.text("item_id")?),
    };
    Some(Address { choice: 0, lane, key })
}

/// An item that begins or ends: of interest if it is a tool call.
fn fold_item(event: &Fields<'_>, fold: &mut Fold) {
    let item = event.object("item");
    let calls = ["function_call", "mcp_call", "custom_tool_call"];
    if !item.text("type").is_some_and(|name| calls.contains(&name.as_ref())) {
        return;
    }
    let key = match event.number("output_index") {
        Some(index) => Key::Index(index, 0),
        None => Key::Id(item.text("id").unwrap_or_default()),
    };
    let address = Address { choice: 0, lane: Lane::Tool, key };
    fold.name_call(address.clone(), item.text("call_id").or(item.text("id")), item.text("name"));
    if let Some(arguments) = item.get("arguments").or(item.get("input")) {
        // At its beginning an item has `""`, and what follows is deltas.
        fold.set_arguments(address, arguments);
    }
}

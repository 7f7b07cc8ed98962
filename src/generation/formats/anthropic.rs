//! The events of Anthropic's Messages API: content blocks, each with an `index`, between
//! `message_start` and `message_stop`. The SSE type and the data's `type` are the same.

use super::Provider;
use crate::generation::fold::{Address, Fold, Key, Lane};
use crate::generation::json::{Fields, Json};
use crate::generation::mark::{Ending, Mark, typed};
use crate::generation::merge::Outline;

/// See the module.
pub(in crate::generation) struct Anthropic;

const EVENTS: [&str; 7] = [
    "message_start",
    "ping",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
];

impl Provider for Anthropic {
    fn recognises(&self, first: &Fields<'_>) -> bool {
        match first.text("type").as_deref() {
            Some("error") => first.get("error").is_some_and(Json::is_object),
            Some(name) => EVENTS.contains(&name),
            None => false,
        }
    }

    fn mark(&self, event_type: Option<&str>, data: &str) -> Option<Mark> {
        let (name, event) = typed(event_type, data, &["message_stop", "error"])?;
        Some(Mark::Last(match name.as_ref() {
            "error" => Ending::error(event.get("error")),
            _ => Ending::Complete,
        }))
    }

    fn fold(&self, event_type: Option<&str>, data: &str, fold: &mut Fold) {
        let Some(event) = Fields::parse(data) else {
            return;
        };
        let name = event.text("type");
        let index = event.number("index").unwrap_or(0);
        match name.as_deref().or(event_type).unwrap_or_default() {
            "content_block_delta" => {
                if let Some((lane, text)) = delta(&event.object("delta")) {
                    fold.append(address(lane, index), text);
                }
            }
            "content_block_start" => fold_start(index, &event.object("content_block"), fold),
            "message_start" => {
                let message = event.object("message");
                fold.set_model(message.text("model"));
                fold.update_usage(message.object("usage"));
            }
            // What it counts is the whole so far, but it does not count everything.
            "message_delta" => fold.update_usage(event.object("usage")),
            _ => {}
        }
    }

    fn outline(&self, data: &str, outline: &mut Outline) -> Option<()> {
        let event = Fields::parse(data)?;
        for (name, value) in event.present() {
            match name {
                "type" if value.contents() == Some("content_block_delta") => {}
                "index" => {}
                "delta" => {
                    let fields = value.fields();
                    outline.set_delta(delta(&fields)?.1, data)?;
                    if fields.present().count() != 2 {
                        return None; // more than its type and its text
                    }
                }
                _ => return None,
            }
        }
        Some(())
    }
}

fn address(lane: Lane, index: u32) -> Address<'static> {
    Address { choice: 0, lane, key: Key::Index(index, 0) }
}

/// The text of a delta, and what it adds to. Signatures and citations are no text.
fn delta<'a>(delta: &Fields<'a>) -> Option<(Lane, Json<'a>)> {
    let (lane, name) = match delta.text("type")?.as_ref() {
        "text_delta" => (Lane::Text, "text"),
        "thinking_delta" => (Lane::Reasoning, "thinking"),
        "input_json_delta" => (Lane::Tool, "partial_json"),
        _ => return None,
    };
    Some((lane, delta.get(name)?))
}

/// A block begins, as a rule empty.
fn fold_start(index: u32, block: &Fields<'_>, fold: &mut Fold) {
    let (lane, name) = match block.text("type").as_deref() {
        Some("text") => (Lane::Text, "text"),
        Some("thinking") => (Lane::Reasoning, "thinking"),
        Some("tool_use" | "server_tool_use" | "mcp_tool_use") => (Lane::Tool, "input"),
        _ => return,
    };
    let address = address(lane, index);
    fold.part_ends(&address);
    if lane == Lane::Tool {
        fold.name_call(address.clone(), block.text("id"), block.text("name"));
        if let Some(input) = block.get(name).filter(|input| !input.fields().is_empty()) {
            fold.set_arguments(address, input);
        }
    } else if let Some(text) = block.get(name) {
        fold.append(address, text);
    }
}

//! The events of Anthropic's Messages API: content blocks, each with an `index`, between
//! `message_start` and `message_stop`. The SSE type and the data's `type` are the same.

use super::content::{fold_content, skip_event, skip_unknown};
use super::provider::Provider;
use crate::generation::address::{Address, Lane, PartKey};
use crate::generation::event::ModelEvent;
use crate::generation::failure::ending_of;
use crate::generation::fold::Fold;
use crate::generation::mark::{Ending, Mark};
use crate::generation::outline::{Field, Outline};
use crate::json::{Fields, Json};

/// The format `anthropic`.
pub(in crate::generation) struct Anthropic;

/// Types that determine the format. `ping` is not one: other protocols have it, too.
const EVENTS: [&str; 6] = [
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
];

/// Encrypted fields of a block or a delta, which are not content.
const UNSAID: [&str; 1] = ["data"]; // of thinking that is redacted

impl Provider for Anthropic {
    fn recognises(&self, first: &Fields<'_>) -> bool {
        match first.text("type").as_deref() {
            Some("error") => first.get("error").is_some_and(Json::is_object),
            Some(name) => EVENTS.contains(&name),
            None => false,
        }
    }

    fn mark(&self, event: &ModelEvent<'_>) -> Option<Mark> {
        let fields = event.fields()?;
        match event.name(&fields).as_ref() {
            "message_delta" => {
                let reason = fields.object("delta").text("stop_reason")?;
                (!reason.is_empty()).then(|| Ending::of_reason(&reason).into_stop())
            }
            "message_stop" => Some(Mark::Last(Ending::Complete)),
            "error" => {
                let error = fields.get("error").or(fields.get("message"))?;
                Some(Mark::Last(ending_of(Some(error))))
            }
            _ => None,
        }
    }

    fn fold_event(&self, event_type: Option<&str>, event: &Fields<'_>, fold: &mut Fold) {
        let name = event.text("type");
        let index = event.number("index").unwrap_or(0);
        match name.as_deref().or(event_type).unwrap_or_default() {
            "content_block_delta" => {
                let fields = event.object("delta");
                match delta(&fields) {
                    Some((lane, text)) => fold_text(address(lane, index), text, fold),
                    None => skip_unknown(&fields, |name| UNSAID.contains(&name), fold),
                }
            }
            "content_block_start" => fold_start(index, &event.object("content_block"), fold),
            "message_start" => {
                let message = event.object("message");
                fold.set_model(message.text("model"));
                fold.update_usage(message.object("usage").all());
                for (index, block) in (0..).zip(message.items("content")) {
                    fold_start(index, &block.fields(), fold);
                }
            }
            // Each count is a total so far, but the event does not have every count.
            "message_delta" => {
                fold.update_usage(event.object("delta").object("usage").all());
                fold.update_usage(event.object("usage").all());
            }
            "content_block_stop" | "message_stop" | "ping" | "error" => {}
            _ => skip_event(event, fold),
        }
    }

    fn outline(&self, event: &ModelEvent<'_>, outline: &mut Outline) -> Option<()> {
        outline.walk(&event.fields()?, |outline, name, value| {
            Some(match name {
                "type" if value.contents() == Some("content_block_delta") => Field::Fixed,
                "index" => Field::Fixed,
                "delta" => {
                    let fields = value.fields();
                    let text = delta(&fields)?.1;
                    outline.walk(&fields, |_, name, value| match name {
                        "type" => Some(Field::Fixed), // the other is its text
                        _ => (value.span() == text.span()).then_some(Field::Delta),
                    })?;
                    Field::Fixed
                }
                _ => return None,
            })
        })
    }
}

fn address(lane: Lane, index: u32) -> Address<'static> {
    Address { choice: 0, lane, key: PartKey::Index(index, 0) }
}

/// Returns the text of a delta, and its lane. Signatures and citations are not text.
fn delta<'a>(delta: &Fields<'a>) -> Option<(Lane, Json<'a>)> {
    let texts = [
        ("text_delta", Lane::Text, "text"),
        ("thinking_delta", Lane::Reasoning, "thinking"),
        ("input_json_delta", Lane::Tool, "partial_json"),
    ];
    let said = delta.text("type");
    let mut texts = texts.into_iter().filter(|(name, ..)| said.as_ref().is_none_or(|s| s == name));
    texts.find_map(|(_, lane, name)| Some((lane, delta.get(name)?)))
}

fn fold_text(address: Address<'_>, text: Json<'_>, fold: &mut Fold) {
    if address.lane == Lane::Tool {
        fold.append(address, text);
    } else {
        fold_content(&address, text, fold);
    }
}

/// Begins a block, which is usually empty.
fn fold_start(index: u32, block: &Fields<'_>, fold: &mut Fold) {
    let (lane, name) = match block.text("type").as_deref().unwrap_or_default() {
        "text" => (Lane::Text, "text"),
        "thinking" => (Lane::Reasoning, "thinking"),
        name if name.ends_with("tool_use") => (Lane::Tool, "input"),
        // The result of a provider's own tool is not part of the answer.
        name if name.ends_with("tool_result") => return,
        _ => return skip_unknown(block, |name| UNSAID.contains(&name), fold),
    };
    let address = address(lane, index);
    fold.part_ends(&address);
    if lane == Lane::Tool {
        fold.name_call(address.clone(), block.text("id"), block.text("name"));
        if let Some(input) = block.get(name).filter(|input| !input.is_empty()) {
            fold.begin_arguments(address, input);
        }
    } else if let Some(text) = block.get(name) {
        fold_content(&address, text, fold);
    }
}

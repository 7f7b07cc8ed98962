//! Content as the providers have it in common: a text or a list of typed pieces, the names of
//! reasoning fields, and the distinction of content and metadata.

use std::borrow::Cow;

use crate::generation::address::{Address, Lane};
use crate::generation::event::DONE;
use crate::generation::fold::Fold;
use crate::json::{Fields, Json, LazyJson};

/// Maximum nesting of pieces: a thought is a list of texts.
const MAX_DEPTH: u32 = 6;

/// The names of reasoning in a delta or a message. The first that is not empty counts: a server
/// that sends several repeats the same text in each.
pub(super) const REASONING: [&str; 7] = [
    "reasoning_content",
    "reasoning",
    "thinking",
    "thought",
    "reasoning_text",
    "reasoning_details",
    "thinking_blocks",
];

/// Fields that have content in an event of an unknown type.
const CONTENT: [&str; 15] = [
    "answer",
    "audio",
    "b64_json",
    "completion",
    "content",
    "delta",
    "generated_text",
    "image",
    "images",
    "output",
    "output_text",
    "partial_image_b64",
    "parts",
    "text",
    "transcript",
];

/// Fields with metadata about an answer, which are not part of it.
const METADATA: [&str; 34] = [
    "annotations",
    "cache_control",
    "caller",
    "channel",
    "citation",
    "citationMetadata",
    "citations",
    "container",
    "context",
    "created_at",
    "encrypted_content",
    "extra_content",
    "id",
    "index",
    "logprobs",
    "metadata",
    "model",
    "name",
    "namespace",
    "obfuscation",
    "object",
    "phase",
    "provider_specific_fields",
    "reasoning_opaque",
    "references",
    "role",
    "search_results",
    "signature",
    "status",
    "thoughtSignature",
    "token_ids",
    "type",
    "usage",
    "videoMetadata",
];

/// Suffixes of the names of metadata fields.
const METADATA_ENDS: [&str; 9] =
    ["_id", "_ids", "Id", "_metadata", "Metadata", "_reason", "_signature", "_tokens", "_at"];

/// Adds a content: a text, or typed pieces.
pub(super) fn fold_content(address: &Address<'_>, content: Json<'_>, fold: &mut Fold) {
    fold_piece(address, content, MAX_DEPTH, fold);
}

/// Adds the reasoning of a delta or a message.
pub(super) fn fold_reasoning(address: &Address<'_>, message: &Fields<'_>, fold: &mut Fold) {
    let mut said = REASONING.iter().filter_map(|name| message.get(name));
    if let Some(reasoning) = said.find(|reasoning| !reasoning.is_empty()) {
        fold_content(address, reasoning, fold);
    }
}

fn fold_piece(address: &Address<'_>, piece: Json<'_>, depth: u32, fold: &mut Fold) {
    if piece.is_string() {
        fold.append(address.clone(), piece);
    } else if depth == 0 {
        fold.skip();
    } else if piece.is_array() {
        for item in piece.items() {
            fold_piece(address, item, depth - 1, fold);
        }
    } else if piece.is_object() {
        fold_typed(address, &piece.fields(), depth, fold);
    } else if !piece.is_empty() {
        fold.skip(); // a number or a flag in place of a text
    }
}

/// Adds a piece with a type.
fn fold_typed(address: &Address<'_>, piece: &Fields<'_>, depth: u32, fold: &mut Fold) {
    let (lane, names): (_, &[&str]) = match piece.text("type").as_deref().unwrap_or_default() {
        "" | "text" | "output_text" | "text_delta" => {
            (address.lane, &["text", "content", "value", "thinking"])
        }
        "thinking" | "reasoning" | "reasoning_text" | "reasoning.text" | "summary_text"
        | "reasoning.summary" | "thinking_delta" => {
            (Lane::Reasoning, &["thinking", "reasoning", "text", "summary", "content"])
        }
        "refusal" => (Lane::Refusal, &["refusal"]),
        "reference"
        | "citation"
        | "tool_reference"
        | "reasoning.encrypted"
        | "redacted_thinking"
        | "signature" => return,
        _ => return skip_unknown(piece, |_| false, fold),
    };
    let lane = if address.lane == Lane::Text { lane } else { address.lane };
    match names.iter().find_map(|name| piece.get(name)) {
        Some(text) => {
            fold_piece(&Address { lane, ..address.clone() }, text, depth - 1, fold);
        }
        None => skip_unknown(piece, |_| false, fold),
    }
}

/// Notes skipped content, if the object has content in an unknown field.
pub(super) fn skip_unknown(object: &Fields<'_>, is_known: impl Fn(&str) -> bool, fold: &mut Fold) {
    let mut content = object.present().filter(|(_, value)| value.is_content());
    if content.any(|(name, _)| !is_known(&name) && !is_metadata(&name)) {
        fold.skip();
    }
}

/// Notes skipped content, if an event of an unknown type has any.
pub(super) fn skip_event(event: &Fields<'_>, fold: &mut Fold) {
    let is_error = event.get("error").is_some_and(Json::is_content);
    let has_content = |name: &&str| event.get(name).is_some_and(Json::is_content);
    if !is_error && CONTENT.iter().any(has_content) {
        fold.skip();
    }
}

fn is_metadata(name: &str) -> bool {
    METADATA.contains(&name) || METADATA_ENDS.iter().any(|end| name.ends_with(end))
}

/// Adds an event that is not a JSON object: one with a number that JSON does not have, or several
/// objects, one per line, from a server that separates its events by a single line end. Other JSON
/// is skipped, and text adds nothing.
pub(super) fn fold_odd(
    data: &str,
    fold: &mut Fold,
    mut fold_event: impl FnMut(&Fields<'_>, &mut Fold),
) {
    let data = without_nan(data).map_or(Cow::Borrowed(data), Cow::Owned);
    let whole = LazyJson::default();
    if let Some(event) = whole.of(&data).filter(|event| event.is_object()) {
        return fold_event(&event.fields(), fold);
    }
    let lines = data.lines().map(str::trim).filter(|line| !line.is_empty() && *line != DONE);
    let lines: Vec<_> = lines.map(|line| (line, LazyJson::default())).collect();
    let events = lines.iter().map(|(line, json)| json.of(line).filter(|json| json.is_object()));
    match events.collect::<Option<Vec<_>>>() {
        Some(events) => events.iter().for_each(|event| fold_event(&event.fields(), fold)),
        None if data.trim_start().starts_with(['{', '[']) => fold.skip(),
        None => {}
    }
}

/// Replaces each number that JSON does not have, as some Python servers write them, by `null`;
/// `None` if there is none.
fn without_nan(text: &str) -> Option<String> {
    const NUMBERS: [&str; 3] = ["NaN", "-Infinity", "Infinity"];
    let mut mended = String::new();
    let mut copied = 0;
    let mut quoted = false;
    let mut at = 0;
    while let Some(byte) = text.as_bytes().get(at) {
        let rest = &text.as_bytes()[at..];
        let number = NUMBERS.iter().find(|name| !quoted && rest.starts_with(name.as_bytes()));
        match (byte, number) {
            (_, Some(number)) => {
                mended.push_str(&text[copied..at]);
                mended.push_str("null");
                at += number.len();
                copied = at;
            }
            (b'\\', _) if quoted => at += 2,
            (byte, _) => {
                quoted ^= *byte == b'"';
                at += 1;
            }
        }
    }
    mended.push_str(text.get(copied..)?);
    (copied > 0).then_some(mended)
}

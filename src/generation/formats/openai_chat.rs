//! OpenAI's chat completion chunks, with what DeepSeek, vLLM, llama.cpp, OpenRouter, Groq and Azure
//! add to them, and the chunks of the older `/v1/completions`.
//!
//! `{"id":…,"object":"chat.completion.chunk","created":…,"model":…,"choices":[{"index":0,
//! "delta":{"content":"Hi"},"finish_reason":null}]}`, and at the end `[DONE]`.

use std::borrow::Cow;

use super::content::{REASONING, fold_content, fold_reasoning, skip_event, skip_unknown};
use super::provider::Provider;
use crate::generation::address::{Address, Lane, PartKey};
use crate::generation::event::ModelEvent;
use crate::generation::failure::failure_in;
use crate::generation::fold::Fold;
use crate::generation::mark::{Ending, Mark, is_reason};
use crate::generation::outline::{Field, Outline};
use crate::json::{Fields, Json};

/// The format `openai-chat`.
pub(in crate::generation) struct OpenAiChat;

impl Provider for OpenAiChat {
    fn recognises(&self, event: &Fields<'_>) -> bool {
        let object = event.text("object").unwrap_or_default();
        if object.starts_with("chat.completion") || object == "text_completion" {
            return true;
        }
        let error = event.get("error").is_some_and(Json::is_object);
        let Some(choices) = event.get("choices").filter(|choices| choices.is_array()) else {
            return error;
        };
        match choices.items().next() {
            Some(choice) => choice.fields().get("delta").is_some_and(Json::is_object) || error,
            None => ["prompt_filter_results", "usage", "object"]
                .iter()
                .any(|name| event.get(name).is_some()),
        }
    }

    fn mark(&self, event: &ModelEvent<'_>) -> Option<Mark> {
        let choices = event.fields()?.items("choices");
        let reasons = choices.map(|choice| choice.fields().get("finish_reason"));
        let endings = reasons.clone().flatten().filter_map(Json::text);
        let mut endings = endings.map(|reason| Ending::of_reason(&reason));
        if let Some(bad) = endings.find(|ending| *ending != Ending::Complete) {
            // The event may have details of the error.
            let said = failure_in(event, true).filter(|_| bad != Ending::Cancelled);
            return Some(Mark::Nearly(said.unwrap_or(bad)));
        }
        let mut reasons = reasons.map(is_reason);
        let all = reasons.next() == Some(true) && reasons.all(|is_reason| is_reason);
        all.then_some(Mark::Finished)
    }

    fn fold_event(&self, _: Option<&str>, chunk: &Fields<'_>, fold: &mut Fold) {
        fold.set_model(chunk.text("model"));
        let choices = chunk.items("choices");
        let mut usage = chunk.get("usage").filter(|usage| !usage.is_empty());
        usage = usage.or_else(|| chunk.get("x_groq")?.fields().get("usage"));
        if choices.is_empty() {
            skip_event(chunk, fold);
        }
        for choice in choices {
            let choice = choice.fields();
            usage = usage.or_else(|| choice.get("usage"));
            fold_choice(&choice, fold);
        }
        fold.set_usage(usage);
    }

    fn outline(&self, event: &ModelEvent<'_>, outline: &mut Outline) -> Option<()> {
        outline.walk(&event.fields()?, |outline, name, value| {
            Some(match name {
                "choices" => {
                    outline_choice(&value.only_item()?.fields(), outline)?;
                    Field::Fixed
                }
                "x_groq" if value.fields().get("error").is_some() => return None,
                "id" | "created" | "created_at" | "CreatedAt" | "system_fingerprint"
                | "service_tier" | "usage" | "x_groq" | "timings" | "citations"
                | "search_results" | "obfuscation" | "p" => Field::Free,
                "error" => return None,
                "object" if value.contents() == Some("error") => return None,
                _ if value.is_scalar() => Field::Fixed,
                _ => return None,
            })
        })
    }
}

/// The fields of a delta that are folded.
const TAKEN: [&str; 4] = ["content", "refusal", "tool_calls", "function_call"];

/// The fields of a call that are folded.
const CALL: [&str; 4] = ["function", "custom", "arguments", "input"];

fn fold_choice(choice: &Fields<'_>, fold: &mut Fold) {
    let number = choice.number("index").unwrap_or(0);
    let at = |lane| Address { choice: number, lane, key: PartKey::Index(0, 0) };
    let Some(delta) = choice.get("delta").filter(|delta| delta.is_object()) else {
        if let Some(text) = choice.get("text") {
            fold_content(&at(Lane::Text), text, fold);
        } else if let Some(message) = choice.get("message") {
            // The whole answer, which is skipped where deltas came.
            let lanes = [Lane::Text, Lane::Refusal, Lane::Reasoning, Lane::Tool];
            let folded = lanes.map(|lane| match lane {
                Lane::Tool => (lane, fold.count(lane) > 0),
                lane => (lane, fold.at(&at(lane)).is_some()),
            });
            let is_new = |lane| folded.contains(&(lane, false));
            fold_delta(number, &message.fields(), is_new, fold);
        } else {
            skip_event(choice, fold);
        }
        return;
    };
    let delta = delta.fields();
    fold_delta(number, &delta, |_| true, fold);
    if let Some(text) = choice.get("text").filter(|_| delta.get("content").is_none()) {
        fold_content(&at(Lane::Text), text, fold);
    }
}

/// Folds the lanes of a delta for which `is_new` is true.
fn fold_delta(choice: u32, delta: &Fields<'_>, is_new: impl Fn(Lane) -> bool, fold: &mut Fold) {
    let at = |lane| Address { choice, lane, key: PartKey::Index(0, 0) };
    if is_new(Lane::Reasoning) {
        fold_reasoning(&at(Lane::Reasoning), delta, fold);
    }
    for (lane, name) in [(Lane::Text, "content"), (Lane::Refusal, "refusal")] {
        if let Some(text) = delta.get(name).filter(|_| is_new(lane)) {
            fold_content(&at(lane), text, fold);
        }
    }
    if is_new(Lane::Tool) {
        fold_calls(choice, delta, fold);
    }
    fold.set_usage(delta.get("usage"));
    skip_unknown(delta, |name| TAKEN.contains(&name) || REASONING.contains(&name), fold);
}

fn fold_calls(choice: u32, delta: &Fields<'_>, fold: &mut Fold) {
    for (position, call) in (0..).zip(delta.items("tool_calls")) {
        fold_call(choice, position, &call.fields(), fold);
    }
    if let Some(call) = delta.get("function_call").filter(|call| !call.is_empty()) {
        // The predecessor of tools: one call, without an id.
        let key = PartKey::Id("function_call".into());
        let address = Address { choice, lane: Lane::Tool, key };
        let call = call.fields();
        add_to_call(address, None, call.text("name"), call.get("arguments"), fold);
    }
}

/// Folds a piece of a call, or a whole call. Servers that do not number them usually send each in
/// one piece, in lists in which each begins at 0.
fn fold_call(choice: u32, position: u32, call: &Fields<'_>, fold: &mut Fold) {
    let number = call.number("index");
    let key = PartKey::Index(number.unwrap_or(position), 0);
    let address = Address { choice, lane: Lane::Tool, key };
    let function = call.object("function");
    let custom = call.object("custom");
    let id = call.text("id").filter(|id| !id.is_empty());
    if let (None, Some(id)) = (number, &id) {
        fold.find_call(&address, id);
    }
    let name = function.text("name").or(custom.text("name")).or(call.text("name"));
    skip_unknown(call, |name| CALL.contains(&name), fold);
    if let Some(input) = custom.get("input").or(call.get("input")) {
        begin_call(&address, id.as_deref(), name.as_deref(), true, fold);
        fold.name_call(address.clone(), id, name);
        fold.append(address, input); // not JSON
        return;
    }
    let arguments = function.get("arguments").or(call.get("arguments"));
    add_to_call(address, id, name, arguments, fold);
}

fn add_to_call(
    address: Address<'_>,
    id: Option<Cow<'_, str>>,
    name: Option<Cow<'_, str>>,
    arguments: Option<Json<'_>>,
    fold: &mut Fold,
) {
    let name = name.filter(|name| !name.is_empty());
    let arguments = arguments.filter(|arguments| !arguments.is_empty() || arguments.is_object());
    let is_named = name.is_some();
    if is_named || id.is_some() {
        begin_call(&address, id.as_deref(), name.as_deref(), arguments.is_some(), fold);
        fold.name_call(address.clone(), id, name);
    }
    match arguments {
        // Some servers send it instead of `""` before the deltas.
        Some(arguments) if is_named && ["{}", "\"{}\""].contains(&arguments.raw()) => {
            fold.begin_arguments(address, arguments);
        }
        Some(arguments) => fold.append_arguments(address, arguments),
        None => {}
    }
}

fn begin_call(
    address: &Address<'_>,
    id: Option<&str>,
    name: Option<&str>,
    has_arguments: bool,
    fold: &mut Fold,
) {
    if fold.at(address).is_some_and(|call| call.is_followed(id, name, has_arguments)) {
        fold.part_ends(address);
    }
}

fn outline_choice(choice: &Fields<'_>, outline: &mut Outline) -> Option<()> {
    let delta = choice.object("delta");
    outline.walk(choice, |outline, name, value| {
        Some(match name {
            // Results of Azure's filters must be equal in both, or the events do not join.
            "index" | "content_filter_results" => Field::Fixed,
            "usage" => Field::Free,
            "text" => Field::Delta,
            "delta" => {
                outline_delta(&value.fields(), outline)?;
                Field::Fixed
            }
            // The whole text so far; it is merged unless the delta is the same text.
            "message" => {
                let said = value.fields().get("content")?.contents()?;
                if delta.get("content")?.contents()? == said {
                    return None;
                }
                Field::Free
            }
            _ => return None,
        })
    })
}

fn outline_delta(delta: &Fields<'_>, outline: &mut Outline) -> Option<()> {
    outline.walk(delta, |outline, name, value| {
        Some(match name {
            "role" | "usage" => Field::Free,
            "content" | "refusal" | "reasoning_content" | "reasoning" | "thinking" | "thought"
            | "reasoning_text" => Field::Delta,
            "tool_calls" => {
                outline_call(&value.only_item()?.fields(), outline)?;
                Field::Fixed
            }
            _ => return None,
        })
    })
}

/// Outlines a call. An event with its name begins it, and does not merge.
fn outline_call(call: &Fields<'_>, outline: &mut Outline) -> Option<()> {
    outline.walk(call, |outline, name, value| {
        Some(match name {
            "index" | "type" => Field::Fixed,
            "function" | "custom" => {
                outline.walk(&value.fields(), |_, name, _| match name {
                    "arguments" | "input" => Some(Field::Delta),
                    _ => None,
                })?;
                Field::Fixed
            }
            _ => return None,
        })
    })
}

//! OpenAI's chat completion chunks, with what DeepSeek, vLLM, llama.cpp, OpenRouter, Groq and Azure
//! add to them, and the chunks of the older `/v1/completions`.
//!
//! `{"id":…,"object":"chat.completion.chunk","created":…,"model":…,"choices":[{"index":0,
//! "delta":{"content":"Hi"},"finish_reason":null}]}`, and at the end `[DONE]`.

use super::Provider;
use crate::generation::DONE;
use crate::generation::fold::{Address, Fold, Key, Lane};
use crate::generation::json::{Fields, Json};
use crate::generation::mark::{Ending, Mark, mentions};
use crate::generation::merge::Outline;

/// See the module.
pub(in crate::generation) struct OpenAiChat;

impl Provider for OpenAiChat {
    fn recognises(&self, first: &Fields<'_>) -> bool {
        let error = first.get("error").is_some_and(Json::is_object);
        let Some(choices) = first.get("choices").filter(|choices| choices.is_array()) else {
            return error;
        };
        match choices.items().first() {
            Some(choice) => is_choice(&choice.fields(), first),
            None => ["prompt_filter_results", "usage", "object"]
                .iter()
                .any(|name| first.get(name).is_some()),
        }
    }

    fn mark(&self, _: Option<&str>, data: &str) -> Option<Mark> {
        if data == DONE {
            return Some(Mark::Last(Ending::Complete));
        }
        if !mentions(data, "error") {
            return None;
        }
        let event = Fields::parse(data)?;
        // An old vLLM says `{"object":"error","message":…}`.
        if event.text("object").is_some_and(|object| object == "error") {
            return Some(Mark::Nearly(Ending::error(event.get("message"))));
        }
        let error = event.get("error").filter(|error| is_error(*error))?;
        Some(Mark::Nearly(Ending::error(Some(error)))) // many servers say `[DONE]` even then
    }

    fn fold(&self, _: Option<&str>, data: &str, fold: &mut Fold) {
        let Some(chunk) = Fields::parse(data) else {
            return;
        };
        fold.set_model(chunk.text("model"));
        fold.set_usage(chunk.get("usage"));
        for choice in chunk.items("choices") {
            fold_choice(&choice.fields(), fold);
        }
    }

    fn outline(&self, data: &str, outline: &mut Outline) -> Option<()> {
        let chunk = Fields::parse(data)?;
        for (name, value) in chunk.present() {
            match name {
                "choices" => outline_choice(&value.only_item()?.fields(), data, outline)?,
                "created" | "obfuscation" => outline.vary(value, data),
                "error" | "usage" => return None,
                _ if value.is_scalar() => {}
                _ => return None,
            }
        }
        Some(())
    }
}

fn is_choice(choice: &Fields<'_>, chunk: &Fields<'_>) -> bool {
    let legacy = || chunk.text("object").is_some_and(|object| object == "text_completion");
    choice.get("delta").is_some_and(Json::is_object) || legacy()
}

/// An object, or a text; not the `""` or `false` of a server that always has the field.
fn is_error(error: Json<'_>) -> bool {
    error.is_object() || (error.is_string() && !error.is_empty_string())
}

fn fold_choice(choice: &Fields<'_>, fold: &mut Fold) {
    let number = choice.number("index").unwrap_or(0);
    let delta = choice.object("delta");
    let names = ["reasoning_content", "reasoning"].iter();
    let mut reasoning = names.filter_map(|name| delta.get(name));
    let texts = [
        // A server that has both names for it says the same under both.
        (Lane::Reasoning, reasoning.find(|text| !text.is_empty_string())),
        (Lane::Text, delta.get("content").or(choice.get("text"))),
        (Lane::Refusal, delta.get("refusal")),
    ];
    for (lane, text) in texts {
        if let Some(text) = text {
            fold.append(Address { choice: number, lane, key: Key::Index(0, 0) }, text);
        }
    }
    for call in delta.items("tool_calls") {
        fold_call(number, &call.fields(), fold);
    }
}

fn fold_call(choice: u32, call: &Fields<'_>, fold: &mut Fold) {
    let index = call.number("index").unwrap_or(0);
    let address = Address { choice, lane: Lane::Tool, key: Key::Index(index, 0) };
    let (function, custom) = (call.object("function"), call.object("custom"));
    let name = function.text("name").or(custom.text("name"));
    fold.name_call(address.clone(), call.text("id"), name);
    if let Some(arguments) = function.get("arguments").or(custom.get("input")) {
        fold.append(address, arguments);
    }
}

fn outline_choice(choice: &Fields<'_>, data: &str, outline: &mut Outline) -> Option<()> {
    for (name, value) in choice.present() {
        match name {
            // What Azure's filters found is the same for both, or they do not join.
            "index" | "content_filter_results" => {}
            "text" => outline.set_delta(value, data)?,
            "delta" => outline_delta(&value.fields(), data, outline)?,
            _ => return None,
        }
    }
    Some(())
}

fn outline_delta(delta: &Fields<'_>, data: &str, outline: &mut Outline) -> Option<()> {
    for (name, value) in delta.present() {
        match name {
            "role" => {}
            "content" | "refusal" | "reasoning_content" | "reasoning" => {
                outline.set_delta(value, data)?;
            }
            "tool_calls" => outline_call(&value.only_item()?.fields(), data, outline)?,
            _ => return None,
        }
    }
    Some(())
}

/// A call that is named here begins here, and does not merge.
fn outline_call(call: &Fields<'_>, data: &str, outline: &mut Outline) -> Option<()> {
    for (name, value) in call.present() {
        match name {
            "index" | "type" => {}
            "id" if value.is_empty_string() => {}
            "function" | "custom" => {
                for (name, value) in value.fields().present() {
                    match name {
                        "arguments" | "input" => outline.set_delta(value, data)?,
                        "name" if value.is_empty_string() => {}
                        _ => return None,
                    }
                }
            }
            _ => return None,
        }
    }
    Some(())
}

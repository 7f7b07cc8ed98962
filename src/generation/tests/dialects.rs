//! Dialects: servers that deviate from a provider's format, and rare events of the formats.

use serde_json::{Value, json};

use super::streams::{fold, merge, named, unnamed};
use crate::generation::{Fold, Format, ModelEvent};

const CHAT: Format = Format::OpenAiChat;
const RESPONSES: Format = Format::OpenAiResponses;

fn events(data: &[&str]) -> Vec<(Option<String>, String)> {
    data.iter().map(|data| unnamed(data)).collect()
}

fn fold_all(format: Format, data: &[&str]) -> Value {
    fold(format, &events(data))
}

/// Returns chat chunks with these deltas.
fn deltas(deltas: &[&str]) -> Vec<String> {
    let chunk = |delta| format!(r#"{{"choices":[{{"index":0,"delta":{delta}}}]}}"#);
    deltas.iter().map(chunk).collect()
}

fn chat(all: &[&str]) -> Value {
    let chunks = deltas(all);
    fold_all(CHAT, &chunks.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Returns the calls, each as its name and arguments.
fn calls(folded: &Value) -> Vec<(String, String)> {
    let parts = folded["parts"].as_array().unwrap().iter();
    let text = |part: &Value, key: &str| part[key].as_str().unwrap_or_default().to_owned();
    parts
        .filter(|part| part["type"] == "tool_call")
        .map(|part| (text(part, "name"), text(part, "arguments")))
        .collect()
}

fn reasoning(folded: &Value) -> String {
    let parts = folded["parts"].as_array().unwrap().iter();
    parts
        .filter(|part| part["type"] == "reasoning")
        .map(|part| part["text"].as_str().unwrap())
        .collect()
}

#[track_caller]
fn assert_calls(folded: &Value, expected: &[(&str, &str)]) {
    let calls = calls(folded);
    let calls: Vec<_> = calls.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert_eq!(calls, expected, "{folded}");
    assert_eq!(folded["incomplete"], Value::Null, "{folded}");
}

#[test]
fn chat_content_may_be_a_list_of_pieces() {
    let folded = chat(&[
        r#"{"role":"assistant","content":""}"#,
        r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"Clouds"}]}]}"#,
        r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"."}],"closed":true},
                       {"type":"text","text":"Rain "}]}"#,
        r#"{"content":[{"type":"reference","reference_ids":[1]}, "falls"]}"#,
        r#"{"content":{"type":"text","text":"."}}"#,
    ]);
    assert_eq!(folded["text"], "Rain falls.");
    assert_eq!(reasoning(&folded), "Clouds.");
    assert_eq!(folded["incomplete"], Value::Null, "{folded}");
    for (format, data) in [
        (Format::Ollama, r#"{"message":{"content":[{"type":"text","text":"Hi"}]}}"#),
        (
            Format::Anthropic,
            r#"{"type":"content_block_delta",
                "delta":{"type":"text_delta","text":[{"text":"Hi"}]}}"#,
        ),
        (RESPONSES, r#"{"type":"response.output_text.delta","delta":[{"text":"Hi"}]}"#),
        (Format::Gemini, r#"{"candidates":[{"content":{"parts":[{"text":["Hi"]}]}}]}"#),
        (Format::UiMessage, r#"{"type":"text-delta","id":"1","delta":[{"text":"Hi"}]}"#),
    ] {
        let folded = fold_all(format, &[data]);
        assert_eq!(
            (&folded["text"], &folded["incomplete"]),
            (&json!("Hi"), &Value::Null),
            "{data}"
        );
    }
}

#[test]
fn reasoning_has_many_names_and_counts_once() {
    for delta in [
        r#"{"reasoning_content":"Hm"}"#,
        r#"{"reasoning":"Hm","reasoning_content":"Hm"}"#,
        r#"{"reasoning":"Hm","reasoning_details":[{"type":"reasoning.text","text":"Hm"}]}"#,
        r#"{"reasoning_content":"","thinking":"Hm"}"#,
        r#"{"reasoning_details":[{"type":"reasoning.summary","summary":"Hm"},
                                 {"type":"reasoning.encrypted","data":"eA=="}]}"#,
        r#"{"thinking_blocks":[{"type":"thinking","thinking":"Hm","signature":"eA=="}]}"#,
    ] {
        let folded = chat(&[delta]);
        assert_eq!(reasoning(&folded), "Hm", "{delta}");
        assert_eq!(folded["incomplete"], Value::Null, "{delta}");
    }
}

#[test]
fn chat_arguments_may_be_an_object() {
    assert_calls(
        &chat(&[r#"{"tool_calls":[{"index":0,"id":"a",
                "function":{"name":"bash","arguments":{"cmd":"ls"}}}]}"#]),
        &[("bash", r#"{"cmd":"ls"}"#)],
    );
    assert_calls(
        &chat(&[r#"{"tool_calls":[{"index":0,"id":"a","name":"bash","arguments":{}}]}"#]),
        &[("bash", "{}")],
    );
}

#[test]
fn the_call_of_a_function_from_before_tools_is_a_call() {
    assert_calls(
        &chat(&[
            r#"{"role":"assistant","content":null,"function_call":{"name":"f","arguments":""}}"#,
            r#"{"function_call":{"arguments":"{\"a\":"}}"#,
            r#"{"function_call":{"arguments":"1}"}}"#,
        ]),
        &[("f", r#"{"a":1}"#)],
    );
}

#[test]
fn calls_without_ids_are_distinguished_by_their_names_and_their_ends() {
    let two = [("f", r#"{"city":"A"}"#), ("g", r#"{"tz":"UTC"}"#)];
    for rest in ["", r#""index":0,"#, r#""index":0,"id":"","#, r#""id":null,"#] {
        let call =
            |name: &str, arguments: &str| json!({"name": name, "arguments": arguments}).to_string();
        let f = format!(r#"{{{rest}"function":{}}}"#, call("f", two[0].1));
        let g = format!(r#"{{{rest}"function":{}}}"#, call("g", two[1].1));
        let apart = [format!(r#"{{"tool_calls":[{f}]}}"#), format!(r#"{{"tool_calls":[{g}]}}"#)];
        let apart: Vec<_> = apart.iter().map(String::as_str).collect();
        assert_calls(&chat(&apart), &two);
        assert_calls(&chat(&[&format!(r#"{{"tool_calls":[{f},{g}]}}"#)]), &two);
        // A second call of the same tool.
        let again = format!(r#"{{"tool_calls":[{f}]}}"#);
        assert_calls(&chat(&[&again, &again]), &[two[0], two[0]]);
        // In deltas, of which the first has the name.
        let begin = |name| format!(r#"{{"tool_calls":[{{{rest}"function":{}}}]}}"#, call(name, ""));
        let more = |text| {
            format!(r#"{{"tool_calls":[{{{rest}"function":{}}}]}}"#, json!({"arguments": text}))
        };
        let b = more("{\"tz\":");
        let c = more("\"UTC\"}");
        let streamed = [begin("f"), more(two[0].1), begin("g"), b, c];
        let streamed: Vec<_> = streamed.iter().map(String::as_str).collect();
        assert_calls(&chat(&streamed), &two);
    }
}

#[test]
fn a_call_whose_id_is_another_in_every_delta_continues_until_it_ends() {
    let delta = |id: u32, function: &str| {
        format!(r#"{{"tool_calls":[{{"index":0,"id":"r{id}","function":{function}}}]}}"#)
    };
    let all = [
        delta(1, r#"{"name":"f","arguments":""}"#),
        delta(2, r#"{"arguments":"{\"a\":{\"b\":"}"#),
        delta(3, r#"{"name":"","arguments":"1}"}"#),
        delta(4, r#"{"name":"f","arguments":"}"}"#),
        delta(5, r#"{"name":"f","arguments":"{}"}"#),
        delta(6, r#"{"name":"f","arguments":"{}"}"#),
    ];
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    let folded = chat(&all);
    assert_calls(&folded, &[("f", r#"{"a":{"b":1}}"#), ("f", "{}"), ("f", "{}")]);
    assert_eq!(folded["parts"][0]["id"], "r1");
}

#[test]
fn calls_without_numbers_are_distinguished_by_their_ids() {
    assert_calls(
        &chat(&[
            r#"{"tool_calls":[{"id":"a","function":{"name":"f","arguments":""}},
                              {"id":"b","function":{"name":"f","arguments":""}}]}"#,
            r#"{"tool_calls":[{"id":"b","function":{"arguments":"{\"b\":"}}]}"#,
            r#"{"tool_calls":[{"id":"a","function":{"arguments":"{\"a\":1}"}}]}"#,
            r#"{"tool_calls":[{"id":"b","function":{"arguments":"2}"}}]}"#,
        ]),
        &[("f", r#"{"a":1}"#), ("f", r#"{"b":2}"#)],
    );
}

#[test]
fn arguments_after_a_whole_object_are_not_known_to_be_of_the_call() {
    let folded = chat(&[
        r#"{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{\"a\":\"}{\"}"}}]}"#,
        r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"b\":2}"}}]}"#,
    ]);
    assert_eq!(folded["incomplete"], true);
}

#[test]
fn input_at_the_beginning_of_a_call_counts_if_no_deltas_follow() {
    let start = r#"{"type":"content_block_start","index":1,
        "content_block":{"type":"tool_use","id":"t","name":"f","input":{"a":1}}}"#;
    assert_calls(&fold_all(Format::Anthropic, &[start]), &[("f", r#"{"a":1}"#)]);
    let delta = r#"{"type":"content_block_delta","index":1,
        "delta":{"type":"input_json_delta","partial_json":"{\"b\":"}}"#;
    let rest = delta.replace(r#"{\"b\":"#, "2}");
    let all = fold_all(Format::Anthropic, &[start, delta, &rest]);
    assert_calls(&all, &[("f", r#"{"b":2}"#)]);
    let text = fold_all(
        Format::Anthropic,
        &[
            r#"{"type":"content_block_start","index":0,
                "content_block":{"type":"text","text":"A"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"B"}}"#,
        ],
    );
    assert_eq!(text["text"], "AB");
    let start = r#"{"type":"tool-input-start","toolCallId":"c","toolName":"f","input":{"a":1}}"#;
    let delta = r#"{"type":"tool-input-delta","toolCallId":"c","inputTextDelta":"{\"b\":2}"}"#;
    let whole =
        r#"{"type":"tool-input-available","toolCallId":"c","toolName":"f","input":{"b":2}}"#;
    for (all, arguments) in [
        (vec![start], r#"{"a":1}"#),
        (vec![start, delta], r#"{"b":2}"#),
        (vec![start, whole], r#"{"b":2}"#),
        (vec![start, delta, whole], r#"{"b":2}"#),
    ] {
        assert_calls(&fold_all(Format::UiMessage, &all), &[("f", arguments)]);
    }
    assert_calls(
        &chat(&[
            r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}]}"#,
            r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":1}"}}]}"#,
            r#"{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{\"a\":2}"}}]}"#,
        ]),
        &[("f", r#"{"a":1}"#), ("f", r#"{"a":2}"#)],
    );
}

#[test]
fn usage_is_found_wherever_it_is() {
    let choice =
        |rest: &str| format!(r#"{{"choices":[{{"index":0,"delta":{{"content":"a"}}{rest}}}]}}"#);
    let usage = r#""usage":{"total_tokens":7}"#;
    let cases = [
        (CHAT, format!(r#"{{"choices":[],{usage}}}"#)),
        (CHAT, choice(&format!(",{usage}"))),
        (CHAT, format!(r#"{{"choices":[{{"index":0,"delta":{{}}}}],"x_groq":{{{usage}}}}}"#)),
        (CHAT, format!(r#"{{"choices":[{{"index":0,"delta":{{{usage}}}}}]}}"#)),
        (RESPONSES, format!(r#"{{"type":"response.completed","response":{{{usage}}}}}"#)),
        (Format::UiMessage, format!(r#"{{"type":"finish","messageMetadata":{{{usage}}}}}"#)),
    ];
    for (format, data) in cases {
        let data =
            [data.as_str(), &choice(r#","usage":null"#), &choice(""), &choice(r#","usage":{}"#)];
        let data = if format == CHAT { &data[..] } else { &data[..1] };
        assert_eq!(fold_all(format, data)["usage"], json!({"total_tokens": 7}), "{data:?}");
    }
}

#[test]
fn what_comes_as_a_whole_counts_where_no_deltas_came() {
    let text =
        r#"{"type":"response.output_text.done","output_index":1,"content_index":0,"text":"Hi"}"#;
    let part = r#"{"type":"response.content_part.done","output_index":1,"content_index":0,
        "part":{"type":"output_text","text":"Hi","annotations":[]}}"#;
    let item = r#"{"type":"response.output_item.done","output_index":1,
        "item":{"id":"m","type":"message","content":[{"type":"output_text","text":"Hi"}]}}"#;
    let reasoning_item = r#"{"type":"response.output_item.done","output_index":0,
        "item":{"id":"r","type":"reasoning","summary":[{"type":"summary_text","text":"Hm"}]}}"#;
    let call = r#"{"type":"response.function_call_arguments.done","output_index":2,"item_id":"fc",
        "name":"f","arguments":"{\"a\":1}"}"#;
    let call_item = r#"{"type":"response.output_item.done","output_index":2,"item":{"id":"fc",
        "type":"function_call","call_id":"c","name":"f","arguments":"{\"a\":1}"}}"#;
    let whole = r#"{"type":"response.completed","response":{"output":[
        {"id":"r","type":"reasoning","summary":[{"type":"summary_text","text":"Hm"}]},
        {"id":"m","type":"message","content":[{"type":"output_text","text":"Hi"}]},
        {"id":"fc","type":"function_call","call_id":"c","name":"f","arguments":"{\"a\":1}"}]}}"#;
    let deltas =
        r#"{"type":"response.output_text.delta","output_index":1,"content_index":0,"delta":"Hi"}"#;
    let unplaced = r#"{"type":"response.output_text.delta","item_id":"m","delta":"Hi"}"#;
    let incomplete = whole.replace("response.completed", "response.incomplete");
    for all in [
        vec![whole],
        vec![&incomplete],
        vec![text, whole],
        vec![part, whole],
        vec![reasoning_item, item, call_item],
        vec![deltas, text, part, item, call, call_item, whole],
        vec![unplaced, item, call, whole],
        vec![unplaced, whole],
    ] {
        let folded = fold_all(RESPONSES, &all);
        assert_eq!(folded["text"], "Hi", "{all:?}");
        assert_calls(&folded, &[("f", r#"{"a":1}"#)]);
        assert_eq!(reasoning(&folded), "Hm", "{all:?}");
    }
    let refused = r#"{"type":"response.refusal.done","output_index":0,"refusal":"No"}"#;
    assert_eq!(fold_all(RESPONSES, &[refused])["parts"][0], json!({"type":"refusal","text":"No"}));
    let custom = r#"{"type":"response.custom_tool_call_input.done","output_index":0,"input":"x"}"#;
    assert_calls(&fold_all(RESPONSES, &[custom]), &[("", "x")]);
    let message = r#"{"choices":[{"index":0,"message":{"role":"assistant","content":"Hi"}}]}"#;
    assert_eq!(fold_all(CHAT, &[message])["text"], "Hi");
    let delta = r#"{"choices":[{"index":0,"delta":{"content":"Hi"},"message":{"content":"Hi"}}]}"#;
    assert_eq!(fold_all(CHAT, &[delta, message])["text"], "Hi");
}

#[test]
fn a_summary_is_not_mixed_with_the_reasoning_beside_it() {
    let delta = |name: &str, text: &str| {
        named(&format!(r#"{{"type":"response.{name}.delta","output_index":0,"delta":"{text}"}}"#))
    };
    let text = "reasoning_text";
    let summary = "reasoning_summary_text";
    let all = [delta(text, "a"), delta(summary, "x"), delta(text, "b"), delta(summary, "y")];
    let folded = fold(RESPONSES, &all);
    assert_eq!(folded["parts"][0]["text"], "ab");
    assert_eq!(folded["parts"][1], json!({"type": "reasoning", "text": "xy"}));
}

fn gemini(parts: &[&str]) -> Value {
    let event = |part| format!(r#"{{"candidates":[{{"content":{{"parts":[{part}]}}}}]}}"#);
    let all: Vec<_> = parts.iter().map(event).collect();
    fold_all(Format::Gemini, &all.iter().map(String::as_str).collect::<Vec<_>>())
}

fn call(rest: &str) -> String {
    format!(r#"{{"functionCall":{{{rest}}}}}"#)
}

#[test]
fn arguments_that_come_value_by_value_are_one_call() {
    let value = |values: &str, rest: &str| call(&format!(r#""partialArgs":[{values}]{rest}"#));
    let goes_on = r#","willContinue":true"#;
    let all = [
        call(r#""name":"f","id":"1","willContinue":true"#),
        value(r#"{"jsonPath":"$.city","stringValue":"Neu \"","willContinue":true}"#, goes_on),
        value(r#"{"jsonPath":"$.city","stringValue":"Ulm\\","willContinue":true}"#, goes_on),
        value(r#"{"jsonPath":"$.city","stringValue":""}"#, goes_on),
        value(
            r#"{"jsonPath":"$.days[0].n","numberValue":1},
                {"jsonPath":"$.days[0]['a b']","boolValue":true}"#,
            goes_on,
        ),
        value(r#"{"jsonPath":"$.days[1]","nullValue":"NULL_VALUE"}"#, goes_on),
        value(r#"{"jsonPath":"$.days[2][0]","stringValue":"x"}"#, ""),
        call(""),
        call(r#""name":"g","willContinue":true"#),
        call(""),
        call(r#""name":"h","args":{"a":1}"#),
        call(r#""name":"h""#),
    ];
    let mut parts: Vec<_> = all.iter().map(String::as_str).collect();
    let f = r#"{"city":"Neu \"Ulm\\","days":[{"n":1,"a b":true},null,["x"]]}"#;
    assert_calls(&gemini(&parts), &[("f", f), ("g", "{}"), ("h", r#"{"a":1}"#), ("h", "")]);
    parts.truncate(2);
    assert_calls(&gemini(&parts), &[("f", r#"{"city":"Neu \""#)]);
    // A server that never sends `willContinue`.
    let all = [
        call(r#""name":"f","partialArgs":[{"jsonPath":"$.a","stringValue":"x"}]"#),
        call(r#""partialArgs":[{"jsonPath":"$.a","stringValue":"y"}]"#),
        call(r#""partialArgs":[{"jsonPath":"$.b","numberValue":2}]"#),
    ];
    let parts: Vec<_> = all.iter().map(String::as_str).collect();
    assert_calls(&gemini(&parts), &[("f", r#"{"a":"xy","b":2}"#)]);
}

#[test]
fn arguments_that_have_no_place_are_not_taken() {
    for path in ["$.a.b", "$.a", "$", "a", "$[0]", "$.b[1]", "$.b[x]", "$.b["] {
        let values = format!(
            r#"{{"jsonPath":"$.a","numberValue":1}},{{"jsonPath":"{path}","numberValue":2}}"#
        );
        let folded = gemini(&[&call(&format!(r#""name":"f","partialArgs":[{values}]"#))]);
        assert_eq!(folded["incomplete"], true, "{path}");
        assert_eq!(calls(&folded), [("f".to_owned(), r#"{"a":1}"#.to_owned())], "{path}");
    }
    let lost = call(r#""partialArgs":[{"jsonPath":"$.a","numberValue":1}]"#);
    assert_eq!(gemini(&[&lost])["incomplete"], true);
}

#[test]
fn numbers_that_json_does_not_have_do_not_hide_the_text() {
    let folded = fold_all(
        CHAT,
        &[
            r#"{"choices":[{"index":0,"delta":{"content":"a NaN"},"logprobs":NaN}]}"#,
            r#"{"choices":[{"index":0,"delta":{"content":"ä\"NaN"},"x":[-Infinity, Infinity]}]}"#,
        ],
    );
    assert_eq!((&folded["text"], &folded["incomplete"]), (&json!("a NaNä\"NaN"), &Value::Null));
}

#[test]
fn several_objects_in_one_event_count_each() {
    let lines = deltas(&[r#"{"content":"a"}"#, r#"{"content":"b"}"#]).join("\n");
    let folded = fold_all(CHAT, &[&format!("{lines}\n[DONE]")]);
    assert_eq!((&folded["text"], &folded["incomplete"]), (&json!("ab"), &Value::Null));
}

#[test]
fn content_that_is_not_taken_is_reported() {
    let delta = |delta: &str| deltas(&[delta]).remove(0);
    let cases = [
        (CHAT, delta(r#"{"images":[{"type":"image_url","image_url":{"url":"AAAA"}}]}"#)),
        (CHAT, delta(r#"{"audio":{"id":"a","data":"AAA="}}"#)),
        (CHAT, delta(r#"{"content":[{"type":"image_url","image_url":"x"}]}"#)),
        (CHAT, delta(r#"{"analysis":"Well"}"#)),
        (CHAT, delta(r#"{"content":5}"#)),
        (CHAT, r#"{"type":"content-delta","delta":{"message":{"content":"Hi"}}}"#.into()),
        (CHAT, r#"{"choices":[{"delta":{"content":"Hi"#.into()),
        (RESPONSES, r#"{"type":"response.audio.delta","delta":"AAA="}"#.into()),
        (RESPONSES, r#"{"type":"response.new_thing.delta","delta":"Hi"}"#.into()),
        (
            RESPONSES,
            r#"{"type":"response.image_generation_call.partial_image","partial_image_b64":"AA"}"#
                .into(),
        ),
        (
            RESPONSES,
            r#"{"type":"response.output_item.done","item":{"type":"image_generation_call",
                "result":"AAAA"}}"#
                .into(),
        ),
        (
            RESPONSES,
            r#"{"type":"response.completed","response":{"output":[{"type":"local_shell_call",
                "action":{"command":["ls"]}}]}}"#
                .into(),
        ),
        (
            Format::Anthropic,
            r#"{"type":"content_block_delta","delta":{"type":"new_delta","words":"Hi"}}"#.into(),
        ),
        (
            Format::Anthropic,
            r#"{"type":"content_block_start","content_block":{"type":"image","source":{"a":1}}}"#
                .into(),
        ),
        (Format::Anthropic, r#"{"type":"message","content":[{"type":"text","text":"a"}]}"#.into()),
        (
            Format::Gemini,
            r#"{"candidates":[{"content":{"parts":[{"inlineData":{"mimeType":"image/png",
                "data":"AAAA"}}]}}]}"#
                .into(),
        ),
        (Format::Ollama, r#"{"model":"q","message":{"images":["AAAA"]},"done":false}"#.into()),
        (Format::Ollama, r#"{"model":"q","image":"AAAA","done":false}"#.into()),
        (Format::UiMessage, r#"{"type":"file","url":"AAAA","mediaType":"image/png"}"#.into()),
        (Format::UiMessage, r#"{"type":"new-part","text":"Hi"}"#.into()),
    ];
    for (format, data) in cases {
        assert_eq!(fold_all(format, &[&data])["incomplete"], true, "{data}");
    }
}

#[test]
fn what_is_no_content_is_not_missed() {
    let cases = [
        (
            CHAT,
            r#"{"choices":[{"delta":{"role":"assistant","annotations":[{"type":"url"}],
            "citations":["a"],"provider_specific_fields":{"a":1},"token_ids":[1]},
            "logprobs":{"content":[{"token":"a"}]}}],"citations":["a"],"search_results":[{}]}"#,
        ),
        (CHAT, r#"{"choices":[],"prompt_filter_results":[{"a":1}]}"#),
        (CHAT, r#"{"error":{"message":"no"}}"#),
        (CHAT, r#"{"object":"ping","status":"x"}"#),
        (CHAT, "still alive"),
        (RESPONSES, r#"{"type":"response.output_text.annotation.added","annotation":{"a":1}}"#),
        (RESPONSES, r#"{"type":"response.web_search_call.searching","item_id":"a"}"#),
        (RESPONSES, r#"{"type":"error","message":"no","code":"x"}"#),
        (
            RESPONSES,
            r#"{"type":"response.output_item.done","item":{"type":"web_search_call",
            "action":{"query":"a"}}}"#,
        ),
        (
            Format::Anthropic,
            r#"{"type":"content_block_start","content_block":{
            "type":"web_search_tool_result","tool_use_id":"a","content":[{"a":1}]}}"#,
        ),
        (
            Format::Anthropic,
            r#"{"type":"content_block_start","content_block":{
            "type":"redacted_thinking","data":"AAAA"}}"#,
        ),
        (
            Format::Anthropic,
            r#"{"type":"content_block_delta","delta":{"type":"citations_delta",
            "citation":{"cited_text":"a"}}}"#,
        ),
        (
            Format::Anthropic,
            r#"{"type":"content_block_delta","delta":{"type":"signature_delta",
            "signature":"a"}}"#,
        ),
        (Format::Anthropic, r#"{"type":"vertex_event"}"#),
        (
            Format::Gemini,
            r#"{"candidates":[{"content":{"parts":[{"text":"","thoughtSignature":"a"}],
            "role":"model"},"groundingMetadata":{"a":1},"finishReason":"STOP"}]}"#,
        ),
        (Format::Ollama, r#"{"model":"q","response":"","done":true,"context":[1,2]}"#),
        (Format::UiMessage, r#"{"type":"data-weather","id":"a","data":{"text":"sun"}}"#),
        (Format::UiMessage, r#"{"type":"source-url","sourceId":"a","url":"b"}"#),
        (
            Format::UiMessage,
            r#"{"type":"tool-output-available","toolCallId":"a","output":{"a":1}}"#,
        ),
    ];
    for (format, data) in cases {
        assert_eq!(fold_all(format, &[data])["incomplete"], Value::Null, "{data}");
    }
}

/// Fifty tokens, each with these fields, in which `@` is its number.
fn tokens(fields: &str, delta: &str) -> Vec<(Option<String>, String)> {
    let token = |number: u32| {
        let template = format!(
            r#"{{{fields}"object":"chat.completion.chunk",
            "choices":[{{"index":0,"finish_reason":null,"delta":{{{delta}"content":" tok@"}}}}]}}"#
        );
        unnamed(&template.replace('@', &number.to_string()))
    };
    (0..50).map(token).collect()
}

#[test]
fn chunks_that_differ_in_what_is_no_text_merge() {
    for (fields, delta) in [
        (r#""id":"c@","created":1@,"#, ""),
        (r#""id":"c@","usage":{"total_tokens":@},"#, r#""role":"assistant","#),
        (r#""usage":{},"system_fingerprint":"f@","service_tier":"@","#, r#""tool_calls":[],"#),
        (r#""citations":["@"],"search_results":[{"n":@}],"#, ""),
        (r#""x_groq":{"id":"@","usage":{"n":@}},"obfuscation":"@","#, r#""refusal":null,"#),
    ] {
        let all = tokens(fields, delta);
        let merged = merge(CHAT, &all);
        assert_eq!(merged.len(), 1, "{fields} {delta}");
        let merged: Vec<_> = merged.iter().map(|data| unnamed(data)).collect();
        assert_eq!(fold(CHAT, &merged), fold(CHAT, &all), "{fields} {delta}");
        let texts: String = (0..50).map(|number| format!(" tok{number}")).collect();
        let last = all[49].1.replace(" tok49", &texts);
        assert_eq!(merged[0].1, last, "the last one, with the texts of all");
    }
}

#[test]
fn empty_fields_may_come_and_go() {
    let all = deltas(&[
        r#"{"content":"a"}"#,
        r#"{"content":"b","tool_calls":[]}"#,
        r#"{"role":null,"content":"c"}"#,
        r#"{"role":"","reasoning":"","content":"d","annotations":[ ]}"#,
        r#"{"function_call":null,"content":"e"}"#,
    ]);
    let mut all: Vec<_> = all.iter().map(|data| unnamed(data)).collect();
    for (at, rest) in [(1, r#","usage":{}"#), (2, r#","usage":null,"id":"x""#), (4, r#","id":"y""#)]
    {
        let data = all[at].1.trim_end_matches('}').to_owned() + rest + "}";
        all[at].1 = data.replace(r#"}]"#, "}}]").replace("}}}]", "}}]");
    }
    all[3].1 = all[3].1.replace(r#"{"choices""#, r#"{"id":"z","usage":{ },"choices""#);
    for (_, data) in &all {
        assert!(serde_json::from_str::<Value>(data).is_ok(), "{data}");
    }
    let merged = merge(CHAT, &all);
    assert_eq!(merged, [all[4].1.replace("\"e\"", "\"abcde\"")]);
}

#[test]
fn nothing_that_counts_is_lost_in_a_merge() {
    let chunk = |rest: &str, delta: &str| {
        unnamed(&format!(r#"{{{rest}"choices":[{{"index":0,"delta":{{{delta}}}}}]}}"#))
    };
    let plain = || chunk("", r#""content":"a""#);
    for first in [
        chunk(r#""usage":{"n":1},"#, r#""content":"b""#),
        chunk(r#""citations":["x"],"#, r#""content":"b""#),
        chunk("", r#""role":"assistant","content":"b""#),
        chunk(r#""id":"c","#, r#""content":"b""#),
        chunk(r#""x_groq":{"usage":{"n":1}},"#, r#""content":"b""#),
    ] {
        assert_eq!(merge(CHAT, &[first.clone(), plain()]).len(), 2, "{first:?}");
        assert_eq!(merge(CHAT, &[plain(), first.clone()]).len(), 1, "{first:?}");
        assert_eq!(merge(CHAT, &[first.clone(), first]).len(), 1);
    }
    for other in [
        chunk("", r#""content":"b""#).1.replace("}}]", r#"},"finish_reason":"stop"}]"#),
        chunk(r#""error":{"message":"no"},"#, r#""content":"b""#).1,
        chunk(r#""x_groq":{"error":"no"},"#, r#""content":"b""#).1,
        chunk(r#""model":"other","#, r#""content":"b""#).1,
        chunk("", r#""reasoning":"b""#).1,
        chunk("", r#""reasoning":"","reasoning_content":"b""#).1,
        chunk("", r#""content":"b""#).1.replace("\"index\":0", "\"index\":1"),
        chunk("", r#""content":"b","images":[{}]"#).1,
        chunk("", r#""content":"b""#).1.replace("}}]", r#"},"error":{"code":1}}]"#),
        chunk("", r#""tool_calls":[{"index":0,"id":"b","function":{"arguments":"b"}}]"#).1,
        chunk("", r#""content":"b""#).1.replace("}}]", r#"},"message":{"content":"b"}}]"#),
    ] {
        let all = [plain(), unnamed(&other)];
        assert_eq!(merge(CHAT, &all).len(), 2, "{other}");
    }
    let error = (Some("error".to_owned()), plain().1);
    assert_eq!(merge(CHAT, &[error.clone(), error]).len(), 2);
}

#[test]
fn the_whole_so_far_beside_a_delta_is_that_of_the_last() {
    let chunk = |delta: &str, so_far: &str| {
        unnamed(&format!(
            r#"{{"choices":[{{"index":0,"message":{{"role":"assistant","content":"{so_far}"}},
            "delta":{{"role":"assistant","content":"{delta}"}}}}]}}"#
        ))
    };
    let all = [chunk("a", "a"), chunk("b", "ab"), chunk("c", "abc")];
    assert_eq!(merge(CHAT, &all), [all[0].1.clone(), chunk("bc", "abc").1]);
    assert_eq!(fold(CHAT, &all)["text"], "abc");
}

#[test]
fn ids_that_are_made_up_for_every_event_do_not_keep_others_from_merging() {
    let responses = |n: u32| {
        named(&format!(
            r#"{{"type":"response.output_text.delta","item_id":"m{n}","output_index":0,
            "content_index":0,"sequence_number":{n},"delta":"{n}"}}"#
        ))
    };
    let gemini = |n: u32| {
        unnamed(&format!(
            r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{n}"}}],"role":"model"}}}}],
            "responseId":"{n}","usageMetadata":{{"n":{n}}}}}"#
        ))
    };
    let all: Vec<_> = (0..9).map(responses).collect();
    assert_eq!(
        merge(RESPONSES, &all),
        [responses(8).1.replace(r#""delta":"8""#, r#""delta":"012345678""#)]
    );
    let all: Vec<_> = (0..9).map(gemini).collect();
    assert_eq!(merge(Format::Gemini, &all).len(), 1);
}

#[test]
fn a_text_of_pieces_does_not_become_an_end_mark_with_spaces_around_it() {
    assert_eq!(merge(Format::Text, &events(&[" [DO", "NE] "])), [" [DO", "NE] "]);
}

#[test]
fn an_incomplete_fold_says_so() {
    let mut fold = Fold::new(CHAT);
    fold.push(&ModelEvent::new(None, &deltas(&[r#"{"content":"a"}"#])[0]));
    assert!(!fold.is_incomplete());
    fold.push(&ModelEvent::new(None, &deltas(&[r#"{"audio":{"data":"AAA="}}"#])[0]));
    assert!(fold.is_incomplete());
    assert_eq!(fold.text(), "a");
}

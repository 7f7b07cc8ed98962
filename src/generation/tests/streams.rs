//! A stream of each format as its provider sends it: recognised, marked, folded and merged.

use serde_json::{Value, json};

use crate::generation::{Ending, Fold, Format, Mark, Merge, ModelEvent, Recogniser};

/// An event whose SSE type is its data's `type`.
pub(super) fn named(data: &str) -> (Option<String>, String) {
    let value: Value = serde_json::from_str(data).unwrap();
    (value["type"].as_str().map(str::to_owned), data.to_owned())
}

pub(super) fn unnamed(data: &str) -> (Option<String>, String) {
    (None, data.to_owned())
}

pub(super) fn fold(format: Format, events: &[(Option<String>, String)]) -> Value {
    let mut fold = Fold::new(format);
    for (event_type, data) in events {
        fold.push(&ModelEvent::new(event_type.as_deref(), data));
    }
    serde_json::to_value(&fold).unwrap()
}

/// Merges as many events as possible.
pub(super) fn merge(format: Format, events: &[(Option<String>, String)]) -> Vec<String> {
    let mut merged = Vec::new();
    let mut current = None::<Merge>;
    for (event_type, data) in events {
        if current
            .as_mut()
            .is_some_and(|merge| merge.try_add(&ModelEvent::new(event_type.as_deref(), data)))
        {
            continue;
        }
        merged.extend(current.take().map(Merge::finish));
        current = Merge::begin(format, &ModelEvent::new(event_type.as_deref(), data));
        if current.is_none() {
            merged.push(data.clone());
        }
    }
    merged.extend(current.map(Merge::finish));
    merged
}

fn marks(format: Format, events: &[(Option<String>, String)]) -> Vec<(usize, Mark)> {
    let marks = events.iter().enumerate();
    marks
        .filter_map(|(at, (event_type, data))| {
            format.mark(&ModelEvent::new(event_type.as_deref(), data)).map(|mark| (at, mark))
        })
        .collect()
}

/// Returns the format that an event with this data determines by itself.
pub(super) fn shown(data: &str) -> Option<Format> {
    let mut recogniser = Recogniser::new();
    recogniser.look(&ModelEvent::new(None, data));
    recogniser.format()
}

/// Returns the format that the first event determines by itself.
fn shown_first(events: &[(Option<String>, String)]) -> Option<Format> {
    shown(&events[0].1)
}

fn failed(message: &str) -> Ending {
    Ending::Error(message.into())
}

#[test]
fn names_are_read_as_they_are_written() {
    for format in Format::ALL {
        assert_eq!(format.to_string().parse::<Format>(), Ok(format));
    }
    let error = "openai".parse::<Format>().unwrap_err().to_string();
    for format in Format::ALL {
        assert!(error.contains(format.as_str()), "{error}");
    }
}

#[test]
fn what_is_no_object_is_text() {
    for data in ["Hello", "{", "[", "42", "\"hi\"", "null", "{} and more", "[DONE] is"] {
        assert_eq!(shown(data), Some(Format::Text), "{data}");
    }
    for data in [
        "",
        " \n",
        "[DONE]",
        "{}",
        "[]",
        r#"{"type":"ping"}"#,
        r#"{"choices":[{"delta":{"content":"a"},"logprob":NaN}]}"#,
        "[{\"candidates\":[]}]",
        r#"{"type":"tick"}"#,
        r#"{"choices":["a"]}"#,
        r#"{"type":"start","engine":1}"#,
        r#"{"error":null}"#,
    ] {
        assert_eq!(shown(data), None, "{data}");
    }
}

#[test]
fn a_first_event_that_is_an_error_is_recognised_by_its_shape() {
    let cases = [
        (r#"{"error":{"message":"no","type":"server_error"}}"#, Format::OpenAiChat),
        (r#"{"error":{"code":429,"message":"no","status":"RESOURCE_EXHAUSTED"}}"#, Format::Gemini),
        (r#"{"error":"model not found"}"#, Format::Ollama),
        (
            r#"{"type":"error","error":{"type":"overloaded_error","message":"no"}}"#,
            Format::Anthropic,
        ),
        (
            r#"{"type":"error","code":"x","message":"no","sequence_number":0}"#,
            Format::OpenAiResponses,
        ),
        (r#"{"type":"error","errorText":"no"}"#, Format::UiMessage),
    ];
    for (data, format) in cases {
        assert_eq!(shown(data), Some(format), "{data}");
        let mark = format.mark(&ModelEvent::new(None, data)).unwrap();
        assert!(
            matches!(mark, Mark::Last(Ending::Error(_)) | Mark::Nearly(Ending::Error(_))),
            "{data}"
        );
    }
}

#[test]
fn text() {
    let events = ["One ", "{", "\"", "[DONE] is", " [DONE]", "\n", "[DONE]"].map(unnamed);
    assert_eq!(shown_first(&events), Some(Format::Text));
    assert_eq!(marks(Format::Text, &events), [(6, Mark::Last(Ending::Complete))]);
    assert_eq!(Format::Text.mark(&ModelEvent::new(Some("token"), "[DONE]")), None);
    let whole = "One {\"[DONE] is [DONE]\n";
    assert_eq!(fold(Format::Text, &events)["text"], whole);
    assert_eq!(merge(Format::Text, &events), [whole, "[DONE]"]);
}

#[test]
fn pieces_of_text_do_not_become_an_end_mark() {
    let events = ["[DO", "NE]", "!"].map(unnamed);
    assert_eq!(merge(Format::Text, &events), ["[DO", "NE]!"]);
}

fn chat(delta: &str, rest: &str) -> (Option<String>, String) {
    unnamed(&format!(
        r#"{{"id":"c1","object":"chat.completion.chunk","created":17{rest},"model":"gpt","#
    ))
    .map_data(|head| {
        format!(
            r#"{head}
            "choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}]}}"#
        )
    })
}

trait MapData {
    fn map_data(self, map: impl FnOnce(String) -> String) -> Self;
}

impl MapData for (Option<String>, String) {
    fn map_data(self, map: impl FnOnce(String) -> String) -> Self {
        (self.0, map(self.1))
    }
}

#[test]
fn openai_chat() {
    let azure = r#"{"choices":[],"created":0,"id":"","model":"","object":"",
        "prompt_filter_results":[{"prompt_index":0}]}"#;
    let events = [
        unnamed(azure),
        chat(r#"{"role":"assistant","content":""}"#, "1"),
        chat(r#"{"content":null,"reasoning_content":"Let me "}"#, "1"),
        chat(r#"{"content":null,"reasoning_content":"see."}"#, "2"),
        chat(r#"{"content":"Say [DONE"}"#, "2"),
        chat(r#"{"content":"]\n"}"#, "3"),
        chat(r#"{"content":"\ud83d"}"#, "3"),
        chat(r#"{"content":"\ude00"}"#, "3"),
        chat(
            r#"{"tool_calls":[{"index":0,"id":"t1","type":"function",
                "function":{"name":"find","arguments":""}}]}"#,
            "4",
        ),
        chat(r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"q\":"}}]}"#, "4"),
        chat(r#"{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}"#, "4"),
        chat(
            r#"{"tool_calls":[{"index":1,"id":"t2","function":{"name":"go","arguments":"{}"}}]}"#,
            "5",
        ),
        unnamed(r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#),
        unnamed(r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9}}"#),
        unnamed("[DONE]"),
    ];
    assert_eq!(shown_first(&events), Some(Format::OpenAiChat));
    assert_eq!(shown_first(&events[1..]), Some(Format::OpenAiChat));
    let ends = [(12, Mark::Finished), (14, Mark::Last(Ending::Complete))];
    assert_eq!(marks(Format::OpenAiChat, &events), ends);
    let folded = fold(Format::OpenAiChat, &events);
    assert_eq!(
        folded,
        json!({
            "format": "openai-chat",
            "model": "gpt",
            "text": "Say [DONE]\n😀",
            "parts": [
                {"type": "reasoning", "text": "Let me see."},
                {"type": "text", "text": "Say [DONE]\n😀"},
                {"type": "tool_call", "id": "t1", "name": "find", "arguments": "{\"q\":1}"},
                {"type": "tool_call", "id": "t2", "name": "go", "arguments": "{}"},
            ],
            "usage": {"prompt_tokens": 3, "completion_tokens": 9},
        })
    );
    let merged = merge(Format::OpenAiChat, &events);
    assert_eq!(merged.len(), 10);
    assert_eq!(merged[2], chat(r#"{"content":null,"reasoning_content":"Let me see."}"#, "2").1);
    assert_eq!(merged[3], chat(r#"{"content":"Say [DONE]\n\ud83d\ude00"}"#, "3").1);
    let merged: Vec<_> = merged.iter().map(|data| unnamed(data)).collect();
    assert_eq!(fold(Format::OpenAiChat, &merged), folded);
}

#[test]
fn openai_chat_errors_and_other_servers() {
    let format = Format::OpenAiChat;
    let error = r#"{"error":{"message":"overloaded","code":503}}"#;
    assert_eq!(
        format.mark(&ModelEvent::new(None, error)),
        Some(Mark::Nearly(failed("overloaded")))
    );
    let old = r#"{"object":"error","message":"too long","code":400}"#;
    assert_eq!(format.mark(&ModelEvent::new(None, old)), Some(Mark::Nearly(failed("too long"))));
    for data in [
        r#"{"error":null,"choices":[]}"#,
        r#"{"choices":[{"delta":{"content":"\"error\""}}]}"#,
        r#"{"choices":[{"delta":{"content":"error"}}]}"#,
        r#"{"choices":[{"delta":{"content":"[DONE]"}}]}"#,
        r#""error""#,
        r#"{"error":{"#,
    ] {
        assert_eq!(format.mark(&ModelEvent::new(None, data)), None, "{data}");
    }
    // OpenRouter repeats the role, and sends an empty content with its reasoning.
    let events = [
        chat(r#"{"role":"assistant","content":"","reasoning":"a"}"#, ""),
        chat(r#"{"role":"assistant","content":"","reasoning":"b"}"#, ""),
        chat(r#"{"role":"assistant","content":"c","reasoning":""}"#, ""),
        chat(r#"{"role":"assistant","content":"d","reasoning":""}"#, ""),
    ];
    assert_eq!(merge(format, &events).len(), 2);
    assert_eq!(fold(format, &events)["text"], "cd");
    // The older endpoint.
    let old = |text: &str| {
        unnamed(&format!(
            r#"{{"object":"text_completion","choices":[{{"text":"{text}","index":0}}]}}"#
        ))
    };
    let events = [old("a"), old("b")];
    assert_eq!(shown_first(&events), Some(format));
    assert_eq!(merge(format, &events), [old("ab").1]);
    assert_eq!(fold(format, &events)["text"], "ab");
}

#[test]
fn openai_chat_deltas_with_more_than_text_do_not_merge() {
    let delta = r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#;
    assert!(Merge::begin(Format::OpenAiChat, &ModelEvent::new(None, delta)).is_some());
    for data in [
        r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"a"},"logprobs":{"content":[]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"a"},"token_ids":[7]}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"a"}}],"error":"x"}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"a","annotations":[{}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"a","refusal":"b"}}]}"#,
        r#"{"choices":[{"delta":{"content":"a"}},{"index":1,"delta":{"content":"b"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":["a"]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"id":"t","function":{"arguments":"a"}}]}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"function":{"name":"f","arguments":""}}]}}]}"#,
        r#"{"choices":[{"index":0,"delta":{}}]}"#,
        r#"{"choices":[]}"#,
        "[DONE]",
    ] {
        assert!(Merge::begin(Format::OpenAiChat, &ModelEvent::new(None, data)).is_none(), "{data}");
        let mut merge = Merge::begin(Format::OpenAiChat, &ModelEvent::new(None, delta)).unwrap();
        assert!(!merge.try_add(&ModelEvent::new(None, data)), "{data}");
        assert_eq!(merge.finish(), delta);
    }
    let mut merge = Merge::begin(Format::OpenAiChat, &ModelEvent::new(None, delta)).unwrap();
    assert!(!merge.try_add(&ModelEvent::new(Some("other"), delta)));
    assert!(!merge.try_add(&ModelEvent::new(None, delta.replace("\"index\":0", "\"index\":1"))));
}

#[test]
fn openai_chat_choices_are_distinguished() {
    let choice = |index: u32, text: &str| {
        unnamed(&format!(r#"{{"choices":[{{"index":{index},"delta":{{"content":"{text}"}}}}]}}"#))
    };
    let events = [choice(0, "a"), choice(1, "x"), choice(0, "b"), choice(1, "y"), choice(1, "z")];
    let folded = fold(Format::OpenAiChat, &events);
    assert_eq!(folded["text"], "ab");
    assert_eq!(folded["parts"][1], json!({"type": "text", "choice": 1, "text": "xyz"}));
    assert_eq!(merge(Format::OpenAiChat, &events).len(), 4);
}

#[test]
fn openai_responses() {
    let events: Vec<_> = include_str!("openai-responses.jsonl").lines().map(named).collect();
    let format = Format::OpenAiResponses;
    assert_eq!(shown_first(&events), Some(format));
    assert_eq!(marks(format, &events), [(12, Mark::Last(Ending::Complete))]);
    let unnamed: Vec<_> = events.iter().map(|(_, data)| (None, data.clone())).collect();
    assert_eq!(marks(format, &unnamed), marks(format, &events));
    assert_eq!(
        fold(format, &events),
        json!({
            "format": "openai-responses",
            "model": "gpt",
            "text": "\"response.completed\"!?",
            "parts": [
                {"type": "reasoning", "text": "Hmm."},
                {"type": "reasoning", "text": "Two."},
                {"type": "text", "text": "\"response.completed\"!?"},
                {"type": "tool_call", "id": "call", "name": "find", "arguments": "{\"a\":1}"},
            ],
            "usage": {"input_tokens": 1, "output_tokens": 2},
        })
    );
    let merged = merge(format, &events);
    assert_eq!(merged.len(), 10);
    let summary = events[3].1.replace("\"m.\"", "\"Hmm.\"");
    assert_eq!(merged[2], summary, "the last one's sequence number is kept");
}

#[test]
fn openai_responses_ends() {
    let format = Format::OpenAiResponses;
    let cases = [
        (r#"{"type":"response.incomplete","response":{}}"#, Mark::Last(Ending::Complete)),
        (
            r#"{"type":"response.failed","response":{"error":{"code":"x","message":"broke"}}}"#,
            Mark::Last(failed("broke")),
        ),
        (r#"{"type":"response.cancelled","response":{}}"#, Mark::Last(Ending::Cancelled)),
        (r#"{"type":"error","code":"c","message":"quota"}"#, Mark::Nearly(failed("quota"))),
        ("[DONE]", Mark::Last(Ending::Complete)),
    ];
    for (data, mark) in cases {
        assert_eq!(format.mark(&ModelEvent::new(None, data)), Some(mark), "{data}");
    }
    let sound = r#"{"type":"response.audio.delta","sequence_number":1,"delta":"AAA="}"#;
    assert!(Merge::begin(format, &ModelEvent::new(None, sound)).is_none());
}

#[test]
fn anthropic() {
    let events: Vec<_> = include_str!("anthropic.jsonl").lines().map(named).collect();
    let format = Format::Anthropic;
    assert_eq!(shown_first(&events), Some(format));
    assert_eq!(shown_first(&events[1..]), None, "others have a ping as well");
    let ends = [(17, Mark::Finished), (18, Mark::Last(Ending::Complete))];
    assert_eq!(marks(format, &events), ends);
    let unnamed: Vec<_> = events.iter().map(|(_, data)| (None, data.clone())).collect();
    assert_eq!(marks(format, &unnamed), marks(format, &events));
    assert_eq!(
        fold(format, &events),
        json!({
            "format": "anthropic",
            "model": "claude",
            "text": "message_stop {\"type\":\"message_stop\"}",
            "parts": [
                {"type": "reasoning", "text": "Well…"},
                {"type": "text", "text": "message_stop {\"type\":\"message_stop\"}"},
                {"type": "tool_call", "id": "tu", "name": "find", "arguments": "{\"q\": \"ab\"}"},
            ],
            "usage": {"input_tokens": 25, "output_tokens": 15},
        })
    );
    let merged = merge(format, &events);
    assert_eq!(merged.len(), 14);
    assert_eq!(merged[3], events[3].1.replace("Well", "Well\\u2026"));
    // A publisher's own SSE type has no effect.
    assert_eq!(
        format.mark(&ModelEvent::new(Some("chunk"), &events[18].1)),
        Some(Mark::Last(Ending::Complete))
    );
    assert_eq!(format.mark(&ModelEvent::new(Some("message_stop"), &events[8].1)), None);
    let error =
        named(r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#);
    assert_eq!(marks(format, &[error]), [(0, Mark::Last(failed("Overloaded")))]);
}

#[test]
fn anthropic_deltas_with_more_than_text_do_not_merge() {
    for (delta, merges) in [
        (r#"{"type":"thinking_delta","thinking":"a"}"#, true),
        (r#"{"type":"thinking_delta","thinking":"a","estimated_tokens":50}"#, false),
        (r#"{"type":"thinking_delta","text":"a"}"#, false),
        (r#"{"type":"signature_delta","signature":"a"}"#, false),
        (r#"{"type":"citations_delta","citation":{"cited_text":"a"}}"#, false),
    ] {
        let data = format!(r#"{{"type":"content_block_delta","index":0,"delta":{delta}}}"#);
        assert_eq!(
            Merge::begin(Format::Anthropic, &ModelEvent::new(None, &data)).is_some(),
            merges,
            "{data}"
        );
    }
}

#[test]
fn gemini() {
    let event = |part: &str, rest: &str, tokens: u32| {
        unnamed(&format!(
            r#"{{"candidates": [{{"content": {{"parts": [{part}],"role": "model"}}{rest}}}],
            "usageMetadata": {{"totalTokenCount": {tokens}}},
            "modelVersion": "gemini","responseId": "r"}}"#
        ))
    };
    let events = [
        event(r#"{"text": "Think","thought": true}"#, r#","index": 0"#, 1),
        event(r#"{"text": "ing","thought": true}"#, r#","index": 0"#, 2),
        event(r#"{"text": "finishReason"}"#, r#","index": 0"#, 3),
        event(r#"{"text": " \"finishReason\": 1"}"#, r#","index": 0"#, 4),
        event(r#"{"text": "!","thoughtSignature": "abc"}"#, r#","index": 0"#, 5),
        event(r#"{"functionCall": {"name": "find","args": {"q": 1}}}"#, r#","index": 0"#, 6),
        event(r#"{"functionCall": {"name": "find","args": {"q": 2}}}"#, r#","index": 0"#, 7),
        event(r#"{"text": ""}"#, r#","finishReason": "STOP","index": 0"#, 8),
    ];
    let format = Format::Gemini;
    assert_eq!(shown_first(&events), Some(format));
    assert_eq!(marks(format, &events), [(7, Mark::Finished)]);
    assert_eq!(
        fold(format, &events),
        json!({
            "format": "gemini",
            "model": "gemini",
            "text": "finishReason \"finishReason\": 1!",
            "parts": [
                {"type": "reasoning", "text": "Thinking"},
                {"type": "text", "text": "finishReason \"finishReason\": 1!"},
                {"type": "tool_call", "name": "find", "arguments": "{\"q\": 1}"},
                {"type": "tool_call", "name": "find", "arguments": "{\"q\": 2}"},
            ],
            "usage": {"totalTokenCount": 8},
        })
    );
    let merged = merge(format, &events);
    assert_eq!(merged.len(), 6);
    assert_eq!(merged[0], events[1].1.replace("\"ing\"", "\"Thinking\""));
    let blocked = r#"{"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{}}"#;
    assert_eq!(shown(blocked), Some(format));
    let ending = failed("the prompt was blocked: SAFETY");
    assert_eq!(format.mark(&ModelEvent::new(None, blocked)), Some(Mark::Nearly(ending)));
    let half = r#"{"candidates":[{"finishReason":"STOP"},{"index":1}]}"#;
    assert_eq!(format.mark(&ModelEvent::new(None, half)), None);
}

#[test]
fn ollama() {
    let line = |message: &str, rest: &str| {
        unnamed(&format!(
            r#"{{"model":"q","created_at":"2025-{rest}",
            "message":{{"role":"assistant",{message}}},"done":false}}"#
        ))
    };
    let events = [
        line(r#""content":"","thinking":"Let""#, "1"),
        line(r#""content":"","thinking":" me""#, "2"),
        line(r#""content":"It is true""#, "3"),
        line(r#""content":" \"done\":true""#, "44"),
        line(
            r#""content":"","tool_calls":[{"function":{"name":"find","arguments":{"q":1}}}]"#,
            "5",
        ),
        unnamed(
            r#"{"model":"q","created_at":"2025","message":{"role":"assistant","content":""},
            "done_reason":"stop","done":true,"eval_count":9,"prompt_eval_count":4}"#,
        ),
    ];
    let format = Format::Ollama;
    assert_eq!(shown_first(&events), Some(format));
    assert_eq!(marks(format, &events), [(5, Mark::Last(Ending::Complete))]);
    assert_eq!(
        fold(format, &events),
        json!({
            "format": "ollama",
            "model": "q",
            "text": "It is true \"done\":true",
            "parts": [
                {"type": "reasoning", "text": "Let me"},
                {"type": "text", "text": "It is true \"done\":true"},
                {"type": "tool_call", "name": "find", "arguments": "{\"q\":1}"},
            ],
            "usage": {"eval_count": 9, "prompt_eval_count": 4},
        })
    );
    let merged = merge(format, &events);
    assert_eq!(merged.len(), 4);
    assert_eq!(merged[0], line(r#""content":"","thinking":"Let me""#, "2").1);
    let generate = r#"{"model":"q","created_at":"2025","response":"Hi","done":false}"#;
    assert_eq!(shown(generate), Some(format));
    assert!(Merge::begin(format, &ModelEvent::new(None, generate)).is_some());
    let spaced = r#"{"model": "q", "response": "", "done": true}"#;
    assert_eq!(format.mark(&ModelEvent::new(None, spaced)), Some(Mark::Last(Ending::Complete)));
    let error = r#"{"error":"out of memory"}"#;
    assert_eq!(
        format.mark(&ModelEvent::new(None, error)),
        Some(Mark::Last(failed("out of memory")))
    );
}

#[test]
fn ui_message() {
    let events: Vec<_> = include_str!("ai-sdk.jsonl").lines().map(unnamed).collect();
    let format = Format::UiMessage;
    assert_eq!(shown_first(&events), Some(format));
    assert_eq!(
        marks(format, &events),
        [(24, Mark::Nearly(Ending::Complete)), (25, Mark::Last(Ending::Complete))]
    );
    assert_eq!(
        fold(format, &events),
        json!({
            "format": "ai-sdk",
            "text": "Oneabort [DONE]",
            "parts": [
                {"type": "reasoning", "text": "Hmm!"},
                {"type": "tool_call", "id": "c", "name": "find", "arguments": "{\"q\":1}"},
                {"type": "tool_call", "id": "d", "name": "go", "arguments": "{\"w\":2}"},
                {"type": "text", "text": "One"},
                {"type": "text", "text": "abort"},
                {"type": "text", "text": " [DONE]"},
            ],
        })
    );
    let merged = merge(format, &events);
    assert_eq!(merged.len(), events.len() - 2);
    assert_eq!(merged[6], events[6].1.replace("Hm", "Hmm"));
    let abort = r#"{"type":"abort","reason":"user"}"#;
    assert_eq!(format.mark(&ModelEvent::new(None, abort)), Some(Mark::Nearly(Ending::Cancelled)));
    let error = r#"{"type":"error","errorText":"rate limit"}"#;
    assert_eq!(
        format.mark(&ModelEvent::new(None, error)),
        Some(Mark::Nearly(failed("rate limit")))
    );
}

#[test]
fn a_long_error_is_cut_between_characters() {
    let data = json!({"error": {"message": "ä".repeat(200)}}).to_string();
    let Some(Mark::Nearly(Ending::Error(message))) =
        Format::OpenAiChat.mark(&ModelEvent::new(None, &data))
    else {
        panic!("no error");
    };
    assert_eq!(message.len(), 256);
    let data = json!({"error": {"message": "a".to_owned() + &"ä".repeat(200)}}).to_string();
    let Some(Mark::Nearly(Ending::Error(message))) =
        Format::OpenAiChat.mark(&ModelEvent::new(None, &data))
    else {
        panic!("no error");
    };
    assert_eq!(message.len(), 255);
}

#[test]
fn half_a_character_that_stays_alone_is_replaced() {
    let delta = |text: &str| {
        format!(
            r#"{{"type":"content_block_delta","index":0,
            "delta":{{"type":"text_delta","text":"{text}"}}}}"#
        )
    };
    let mut fold = Fold::new(Format::Anthropic);
    for text in [r"a\ud83d", r"b\ude00", r"\ud83d\ud83d", r"\ude00\/\b\f\t", r"\ud83d"] {
        fold.push(&ModelEvent::new(None, delta(text)));
    }
    assert_eq!(fold.text(), "a\u{fffd}b\u{fffd}\u{fffd}😀/\u{8}\u{c}\t");
}

#[test]
fn deep_json_is_looked_at_without_descending() {
    let deep = "[".repeat(20_000) + &"]".repeat(20_000);
    for format in Format::ALL {
        for data in [
            format!(r#"{{"error":{deep}}}"#),
            format!(r#"{{"choices":{deep},"usage":{{"a":{deep}}},"done":true}}"#),
            format!(r#"{{"type":"message_delta","usage":{{"a":{deep}}},"candidates":{deep}}}"#),
        ] {
            let _ = (shown(&data), format.mark(&ModelEvent::new(None, &data)));
            let mut fold = Fold::new(format);
            fold.push(&ModelEvent::new(None, &data));
            assert!(fold.weight() < 3 * data.len());
            assert_eq!(
                Merge::begin(format, &ModelEvent::new(None, &data)).is_some(),
                format == Format::Text
            );
        }
    }
}

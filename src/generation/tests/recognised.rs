//! Streams as servers send them: what comes before the first event that determines the format,
//! errors in any dialect, and ends without the last frame.

use proptest::prelude::*;

use crate::generation::{Ending, Format, Mark, ModelEvent, Recogniser};

type Event<'a> = (Option<&'a str>, &'a str);

const CHUNK: &str = r#"{"choices":[{"index":0,"delta":{"content":"Hi"}}]}"#;
const STOP: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;

/// A first event of each format that is detected, and the end of its stream.
const STREAMS: [(Format, &str, &str); 6] = [
    (Format::OpenAiChat, CHUNK, "[DONE]"),
    (
        Format::OpenAiResponses,
        r#"{"type":"response.created","response":{"model":"m"}}"#,
        r#"{"type":"response.completed","response":{}}"#,
    ),
    (
        Format::Anthropic,
        r#"{"type":"message_start","message":{"model":"m"}}"#,
        r#"{"type":"message_stop"}"#,
    ),
    (
        Format::Gemini,
        r#"{"candidates":[{"content":{"parts":[{"text":"Hi"}]}}]}"#,
        r#"{"candidates":[{"finishReason":"STOP"}]}"#,
    ),
    (
        Format::Ollama,
        r#"{"model":"m","message":{"content":"Hi"},"done":false}"#,
        r#"{"model":"m","message":{"content":""},"done":true}"#,
    ),
    (Format::UiMessage, r#"{"type":"text-delta","id":"a","delta":"Hi"}"#, "[DONE]"),
];

/// Events that determine no format.
const NOTHING: [Event<'_>; 20] = [
    (None, ""),
    (None, " "),
    (Some("ping"), "2024-04-27 01:35"),
    (Some("PING"), "{}"),
    (Some("heartbeat"), "ok"),
    (Some("keep-alive"), "."),
    (None, r#"{"type":"ping"}"#),
    (Some("vertex_event"), r#"{"type":"vertex_event"}"#),
    (None, r#"{"id":"c","model":"m"}"#),
    (None, r#"{"choices":null}"#),
    (None, r#"{"choices":[{"index":0}]}"#),
    (None, r#"{"choices":[{"index":0,"delta":null}]}"#),
    (None, r#"{"sources":[{"url":"https://a.example"}]}"#),
    (None, r#"{"citations":["a"]}"#),
    (None, r#"[{"title":"a"}]"#),
    (None, r#"{"choices":[{"delta":{"content":"a"},"logprob":NaN}]}"#),
    (None, "{}"),
    (None, "[]"),
    (None, r#"{"error":null}"#),
    (None, r#"{"item":1,"error":"not found","done":3}"#),
];

fn ending<'a>(events: impl IntoIterator<Item = Event<'a>>) -> (Recogniser, Option<Ending>) {
    let mut recogniser = Recogniser::new();
    let mut first = None;
    for (event_type, data) in events {
        match recogniser.mark(&ModelEvent::new(event_type, data)) {
            Some(Mark::Last(ending) | Mark::Nearly(ending)) if first.is_none() => {
                first = Some(ending);
            }
            _ => {}
        }
    }
    (recogniser, first)
}

fn failed(message: &str) -> Option<Ending> {
    Some(Ending::Error(message.into()))
}

#[test]
fn an_ambiguous_event_does_not_decide_the_format() {
    for (format, first, last) in STREAMS {
        for nothing in NOTHING {
            let (recogniser, end) = ending([nothing, (None, first), (None, last)]);
            assert_eq!(recogniser.format(), Some(format), "{nothing:?}");
            let complete = end == Some(Ending::Complete) || recogniser.has_finished();
            assert!(complete, "{format} after {nothing:?}: {end:?}");
        }
    }
    let (recogniser, _) = ending(NOTHING.map(|(event_type, data)| (event_type, data)));
    assert_eq!(recogniser.format(), None);
}

#[test]
fn a_line_of_text_in_front_is_no_text_stream() {
    for (format, first, _) in STREAMS {
        let events = [(None, "2024-04-27"), (None, "connected"), (None, first)];
        assert_eq!(ending(events).0.format(), Some(format));
        let mut long = vec![(None, "a line of a log"); 8];
        long.push((None, first));
        assert_eq!(ending(long).0.format(), Some(Format::Text), "text is text in the end");
    }
}

#[test]
fn json_in_a_text_is_text() {
    for data in [
        r#"{"type":"message_stop"}"#,
        r#"{"type":"response.completed"}"#,
        r#"{"type":"finish"}"#,
        r#"{"type":"start"}"#,
        r#"{"error":"x"}"#,
        r#"{"error":{"message":"x"}}"#,
        r#"{"choices":[]}"#,
        r#"{"usageMetadata":{}}"#,
    ] {
        let (recogniser, end) = ending([(None, "Beware of "), (None, data)]);
        assert_eq!((recogniser.format(), end), (Some(Format::Text), None), "{data}");
    }
    let (_, end) = ending([(None, "One "), (Some("error"), "the model is gone")]);
    assert_eq!(end, failed("the model is gone"));
}

#[test]
fn an_error_is_one_in_any_dialect_and_any_place() {
    let errors: [(Option<&str>, &str, &str); 21] = [
        (None, r#"{"error":{"message":"boom","code":502}}"#, "boom"),
        (None, r#"{"error":"boom"}"#, "boom"),
        (None, r#"{"error":{"code":429,"message":"boom","status":"X"}}"#, "boom"),
        (None, r#"{"type":"error","error":{"type":"x","message":"boom"}}"#, "boom"),
        (None, r#"{"type":"error","code":"x","message":"boom"}"#, "boom"),
        (None, r#"{"type":"error","errorText":"boom"}"#, "boom"),
        (None, r#"{"object":"error","message":"boom","code":400}"#, "boom"),
        (None, r#"{"error":true,"message":"boom"}"#, "boom"),
        (None, r#"{"error":{"code":502}}"#, "502"),
        (None, r#"{"success":false,"errors":[{"message":"boom"}]}"#, "boom"),
        (None, r#"[{"error":{"message":"boom"}}]"#, "boom"),
        (None, r#"{"type":"response.failed","response":{"error":{"message":"boom"}}}"#, "boom"),
        (None, r#"{"choices":[{"index":0,"delta":{"content":""}}],"error":"boom"}"#, "boom"),
        (None, r#"{"choices":[{"delta":{},"error":{"message":"boom"}}]}"#, "boom"),
        (None, r#"{"choices":[{"delta":{"error":{"message":"boom"}}}]}"#, "boom"),
        (
            None,
            r#"{"choices":[{"delta":{},"finish_reason":"error","error":{"message":"boom"}}]}"#,
            "boom",
        ),
        (Some("error"), r#"{"code":"x","message":"boom"}"#, "boom"),
        (Some("error"), r#"{"detail":"boom"}"#, "boom"),
        (Some("error"), "boom", "boom"),
        (Some("error"), "\"boom\"", "boom"),
        (Some("error"), "", "the provider reported an error"),
    ];
    for (event_type, data, message) in errors {
        for (format, first, _) in STREAMS {
            let events = [(None, first), (event_type, data), (None, "[DONE]")];
            assert_eq!(ending(events).1, failed(message), "{format}: {event_type:?} {data}");
        }
        assert_eq!(ending([(event_type, data), (None, "[DONE]")]).1, failed(message), "{data}");
    }
    let reasons = ["error", "network_error", "server_error", "failed"];
    for reason in reasons {
        let data = STOP.replace("stop", reason);
        let said = format!("the model stopped with `{reason}`");
        assert_eq!(ending([(None, CHUNK), (None, &data)]).1, failed(&said));
    }
}

#[test]
fn a_field_that_is_empty_or_of_an_item_is_no_error() {
    for data in [
        r#"{"choices":[{"index":0,"delta":{"content":"a"}}],"error":null}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"a"}}],"error":""}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"a"}}],"error":false,"errors":[]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"a"}}],"error":{}}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"a"}}],"error":{"code":0,"message":""}}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"\"error\":{\"message\":1}"}}]}"#,
    ] {
        assert_eq!(ending([(None, CHUNK), (None, data)]).1, None, "{data}");
    }
    let items = [r#"{"page":1}"#, r#"{"page":2,"error":"not found"}"#, r#"{"page":3}"#];
    let (recogniser, end) = ending(items.map(|data| (None, data)));
    assert_eq!((recogniser.format(), end), (None, None));
}

#[test]
fn a_stop_reason_is_an_end_if_nothing_follows() {
    let delta =
        |choice: u32| format!(r#"{{"choices":[{{"index":{choice},"delta":{{"content":"a"}}}}]}}"#);
    let stop =
        |choice: u32| format!(r#"{{"choices":[{{"index":{choice},"finish_reason":"stop"}}]}}"#);
    let d0 = delta(0);
    let d1 = delta(1);
    let s0 = stop(0);
    let s1 = stop(1);
    let anthropic = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#;
    let start = STREAMS[2].1;
    let tool_calls = STOP.replace("stop", "tool_calls");
    let cases: [(Vec<&str>, bool); 12] = [
        (vec![CHUNK], false),
        (vec![CHUNK, STOP], true),
        (vec![CHUNK, &tool_calls], true),
        (vec![CHUNK, STOP, r#"{"choices":[],"usage":{"total_tokens":1}}"#], true),
        (vec![&d0, &d1, &s0], false),
        (vec![&d0, &d1, &s0, &s1], true),
        (vec![&d0, &d1, &s1], false),
        (vec![&d0, &s0, &d1], false),
        (vec![&d1, &s1], true),
        (vec![CHUNK, r#"{"choices":[{"index":0,"delta":{},"finish_reason":""}]}"#], false),
        (vec![start, anthropic], true),
        (vec![start, r#"{"type":"message_delta","delta":{"stop_reason":null}}"#], false),
    ];
    for (events, finished) in cases {
        let (recogniser, end) = ending(events.iter().map(|data| (None, *data)));
        assert_eq!((recogniser.has_finished(), end), (finished, None), "{events:?}");
    }
}

#[test]
fn done_is_an_end_in_every_format_and_in_none() {
    for first in STREAMS.map(|(_, first, _)| first).into_iter().chain([r#"{"a":1}"#]) {
        for done in ["[DONE]", "[DONE] ", " [DONE]\n"] {
            let end = ending([(None, first), (None, done)]).1;
            assert_eq!(end, Some(Ending::Complete), "{done:?} after {first}");
        }
    }
}

proptest! {
    #[test]
    fn whatever_comes_first_a_format_is_recognised_and_its_error_found(
        stream in prop::sample::select(STREAMS.to_vec()),
        nothing in prop::collection::vec(prop::sample::select(NOTHING.to_vec()), 0..30),
    ) {
        let (format, first, _) = stream;
        let mut events = nothing;
        events.push((None, first));
        events.push((None, r#"{"error":{"message":"boom"}}"#));
        let (recogniser, end) = ending(events);
        prop_assert_eq!(recogniser.format(), Some(format));
        prop_assert_eq!(end, failed("boom"));
    }
}

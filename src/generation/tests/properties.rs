//! Properties of all streams: random generations, cut into random deltas, merged at random.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::streams::shown;
use crate::generation::{Ending, Fold, Format, Mark, Merge, ModelEvent};
use crate::json::{Json, LazyJson};

/// A unit of a model's output.
#[derive(Clone, Debug)]
enum Run {
    Text(String),
    Reasoning(String),
    Call(String),
}

impl Run {
    /// Returns whether arguments are more than one object: they cannot be those of one call.
    fn is_odd_call(&self) -> bool {
        matches!(self, Self::Call(text) if text.matches(['{', '[']).count() > 1)
    }

    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Reasoning(text) | Self::Call(text) => text,
        }
    }
}

/// An event, and the part that it is a delta of.
#[derive(Clone, Debug)]
struct Event {
    event_type: Option<String>,
    data: String,
    part: Option<String>,
}

impl Event {
    fn read(&self) -> ModelEvent<'_> {
        ModelEvent::new(self.event_type.as_deref(), &self.data)
    }
}

fn read(events: &[Event]) -> impl Iterator<Item = ModelEvent<'_>> {
    events.iter().map(Event::read)
}

/// Writes a stream.
struct Writer {
    format: Format,
    events: Vec<Event>,
    /// Whether characters beyond ASCII are written as escapes.
    escaped: bool,
    /// A bit for each optional field without meaning, by which events have it or not.
    noise: u32,
}

impl Writer {
    fn put(&mut self, part: Option<String>, data: String) {
        let named = matches!(self.format, Format::Anthropic | Format::OpenAiResponses);
        let json = LazyJson::default();
        let fields = json.of(&data).filter(|_| named).map(Json::fields);
        let event_type = fields.and_then(|fields| Some(fields.text("type")?.into_owned()));
        self.events.push(Event { event_type, data, part });
    }

    fn other(&mut self, data: &Value) {
        self.put(None, data.to_string());
    }

    /// Returns fields of a chunk that differ between chunks, or are in some of them only.
    fn noise(&self) -> (String, &'static str) {
        let now = self.now();
        let bits = self.noise >> (self.events.len() % 24);
        let mut fields = String::new();
        for (bit, field) in [
            format!(r#""id":"c{now}","#),
            format!(r#""system_fingerprint":"f{now}","#),
            r#""usage":{},"#.to_owned(),
            format!(r#""usage":{{"total_tokens":{now}}},"#),
            format!(r#""citations":["{now}"],"service_tier":null,"#),
        ]
        .iter()
        .enumerate()
        {
            fields += if bits >> bit & 1 == 1 { field } else { "" };
        }
        let delta = [r#""tool_calls":[],"#, r#""role":"assistant","#, r#""refusal":null,"#, ""];
        (fields, delta[bits as usize >> 5 & 3])
    }

    /// Returns a number that grows with each event.
    fn now(&self) -> usize {
        self.events.len() * 37
    }

    /// Returns the pieces of a JSON string, cut between UTF-16 units if it is escaped.
    fn literals(&self, text: &str, cuts: &[usize]) -> Vec<String> {
        let mut pieces = Vec::new();
        let mut rest: Vec<String> = if self.escaped {
            text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect()
        } else {
            let quoted = text.chars().map(|c| serde_json::to_string(&c).unwrap());
            quoted.map(|quoted| quoted[1..quoted.len() - 1].to_owned()).collect()
        };
        for cut in cuts {
            let tail = rest.split_off((*cut).min(rest.len()));
            pieces.push(format!("\"{}\"", rest.concat()));
            rest = tail;
        }
        pieces.push(format!("\"{}\"", rest.concat()));
        pieces
    }
}

fn write_run(writer: &mut Writer, number: usize, run: &Run, cuts: &[usize]) {
    match writer.format {
        Format::Text => {
            let mut rest: Vec<char> = run.text().chars().collect();
            for cut in cuts.iter().copied().chain([usize::MAX]) {
                let tail = rest.split_off(cut.min(rest.len()));
                let piece: String = rest.iter().collect();
                let mark = if piece == "[DONE]" { "." } else { "" }; // or it would be a mark
                writer.put(Some("text".to_owned()), piece + mark);
                rest = tail;
            }
        }
        Format::OpenAiChat => write_chat(writer, number, run, cuts),
        Format::OpenAiResponses => write_responses(writer, number, run, cuts),
        Format::Anthropic => write_anthropic(writer, number, run, cuts),
        Format::Gemini => write_gemini(writer, run, cuts),
        Format::Ollama => write_ollama(writer, run, cuts),
        Format::UiMessage => write_ui(writer, number, run, cuts),
    }
}

fn write_chat(writer: &mut Writer, number: usize, run: &Run, cuts: &[usize]) {
    if let Run::Call(_) = run {
        let function = json!({"name": "f", "arguments": ""});
        let call = json!({"index": number, "id": format!("c{number}"), "function": function});
        writer.other(&json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}));
    }
    for literal in writer.literals(run.text(), cuts) {
        let (part, delta) = match run {
            Run::Text(_) => ("text".to_owned(), format!(r#""content":{literal}"#)),
            Run::Reasoning(_) => {
                ("reasoning".to_owned(), format!(r#""content":"","reasoning":{literal}"#))
            }
            Run::Call(_) => (
                format!("call {number}"),
                format!(
                    r#""tool_calls":[{{"index":{number},"function":{{"arguments":{literal}}}}}]"#
                ),
            ),
        };
        let now = writer.now();
        let pad = "x".repeat(writer.now() % 5);
        let (fields, empty) = writer.noise();
        // A call has its own list of calls.
        let empty = if part.starts_with("call") { "" } else { empty };
        writer.put(
            Some(part),
            format!(
                r#"{{{fields}"created":{now},"model":"m",
                "choices":[{{"index":0,"delta":{{{empty}{delta}}},"finish_reason":null}}],
                "obfuscation":"{pad}"}}"#
            ),
        );
    }
}

fn write_responses(writer: &mut Writer, number: usize, run: &Run, cuts: &[usize]) {
    let name = match run {
        Run::Text(_) => "output_text",
        Run::Reasoning(_) => "reasoning_text",
        Run::Call(_) => "function_call_arguments",
    };
    let item = json!({"id": "i", "type": "function_call", "call_id": "c", "name": "f"});
    if let Run::Call(_) = run {
        let added = "response.output_item.added";
        writer.other(&json!({"type": added, "output_index": number, "item": item}));
    }
    for literal in writer.literals(run.text(), cuts) {
        let now = writer.now();
        let data = format!(
            r#"{{"type":"response.{name}.delta","sequence_number":{now},"output_index":{number},
            "content_index":0,"delta":{literal}}}"#
        );
        writer.put(Some(format!("{name} {number}")), data);
    }
}

fn write_anthropic(writer: &mut Writer, number: usize, run: &Run, cuts: &[usize]) {
    let (block, name, field) = match run {
        Run::Text(_) => (json!({"type": "text", "text": ""}), "text_delta", "text"),
        Run::Reasoning(_) => {
            (json!({"type": "thinking", "thinking": ""}), "thinking_delta", "thinking")
        }
        Run::Call(_) => {
            let block = json!({"type": "tool_use", "id": "t", "name": "f", "input": {}});
            (block, "input_json_delta", "partial_json")
        }
    };
    let start = "content_block_start";
    writer.other(&json!({"type": start, "index": number, "content_block": block}));
    for literal in writer.literals(run.text(), cuts) {
        let delta = format!(r#"{{"type":"{name}","{field}":{literal}}}"#);
        let data = format!(r#"{{"type":"content_block_delta","index":{number},"delta":{delta}}}"#);
        writer.put(Some(format!("block {number}")), data);
    }
    writer.other(&json!({"type": "content_block_stop", "index": number}));
}

fn write_gemini(writer: &mut Writer, run: &Run, cuts: &[usize]) {
    if let Run::Call(text) = run {
        let part = json!({"functionCall": {"name": "f", "args": {"text": text}}});
        writer.other(&json!({"candidates": [{"content": {"parts": [part]}}]}));
        return;
    }
    let (part, thought) = match run {
        Run::Reasoning(_) => ("reasoning", r#","thought":true"#),
        _ => ("text", ""),
    };
    for literal in writer.literals(run.text(), cuts) {
        let now = writer.now();
        let data = format!(
            r#"{{"candidates":[{{"content":{{"parts":[{{"text":{literal}{thought}}}]}}}}],
            "usageMetadata":{{"n":{now}}}}}"#
        );
        writer.put(Some(part.to_owned()), data);
    }
}

fn write_ollama(writer: &mut Writer, run: &Run, cuts: &[usize]) {
    if let Run::Call(text) = run {
        let call = json!({"function": {"name": "f", "arguments": {"text": text}}});
        writer.other(&json!({"message": {"content": "", "tool_calls": [call]}, "done": false}));
        return;
    }
    for literal in writer.literals(run.text(), cuts) {
        let (part, message) = match run {
            Run::Reasoning(_) => ("reasoning", format!(r#""content":"","thinking":{literal}"#)),
            _ => ("text", format!(r#""content":{literal}"#)),
        };
        let now = writer.now();
        let data =
            format!(r#"{{"model":"m","created_at":"{now}","message":{{{message}}},"done":false}}"#);
        writer.put(Some(part.to_owned()), data);
    }
}

fn write_ui(writer: &mut Writer, number: usize, run: &Run, cuts: &[usize]) {
    let (name, id, field) = match run {
        Run::Text(_) => ("text", "id", "delta"),
        Run::Reasoning(_) => ("reasoning", "id", "delta"),
        Run::Call(_) => ("tool-input", "toolCallId", "inputTextDelta"),
    };
    let start = format!("{name}-start");
    // Ids are reused, as by steps.
    writer.other(&json!({"type": start, id: number % 2, "toolName": "f"}));
    writer.other(&json!({"type": start, id: (number % 2).to_string(), "toolName": "f"}));
    for literal in writer.literals(run.text(), cuts) {
        let id_value = number % 2;
        let data = format!(r#"{{"type":"{name}-delta","{id}":"{id_value}","{field}":{literal}}}"#);
        writer.put(Some(format!("{name} {id_value}")), data);
    }
}

fn write_end(writer: &mut Writer) {
    let events: &[&str] = match writer.format {
        Format::Text => &["[DONE]"],
        Format::OpenAiChat => &[
            r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
            r#"{"choices":[],"usage":{"total_tokens":7}}"#,
            "[DONE]",
        ],
        Format::OpenAiResponses => {
            &[r#"{"type":"response.completed","response":{"usage":{"total_tokens":7}}}"#]
        }
        Format::Anthropic => &[
            r#"{"type":"message_delta","delta":{},"usage":{"output_tokens":7}}"#,
            r#"{"type":"message_stop"}"#,
        ],
        Format::Gemini => &[r#"{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"n":7}}"#],
        Format::Ollama => &[r#"{"message":{"content":""},"done":true,"eval_count":7}"#],
        Format::UiMessage => &[r#"{"type":"finish"}"#, "[DONE]"],
    };
    for data in events {
        if *data == "[DONE]" {
            writer.events.push(Event { event_type: None, data: "[DONE]".into(), part: None });
        } else {
            writer.put(None, (*data).to_owned());
        }
    }
}

fn write(format: Format, runs: &[(Run, Vec<usize>)], escaped: bool) -> Vec<Event> {
    write_with(format, runs, escaped, 0)
}

fn write_with(format: Format, runs: &[(Run, Vec<usize>)], escaped: bool, noise: u32) -> Vec<Event> {
    let mut writer = Writer { format, events: Vec::new(), escaped, noise };
    for (number, (run, cuts)) in runs.iter().enumerate() {
        write_run(&mut writer, number, run, cuts);
    }
    write_end(&mut writer);
    writer.events
}

fn fold(format: Format, events: &[Event]) -> Fold {
    let mut fold = Fold::new(format);
    for event in read(events) {
        fold.push(&event);
    }
    fold
}

/// Merges neighbours as long as `joins` is true; panics if events of different parts merge.
fn merge(format: Format, events: &[Event], joins: &[bool]) -> Vec<Event> {
    let mut merged: Vec<Event> = Vec::new();
    let mut current: Option<(Merge, &Event)> = None;
    let mut joins = joins.iter().cycle();
    for event in events {
        if let Some((merge, first)) = current.as_mut()
            && *joins.next().unwrap()
            && merge.try_add(&event.read())
        {
            assert_eq!(first.part, event.part, "{first:?} and {event:?}");
            assert!(event.part.is_some(), "{event:?} is no delta");
            continue;
        }
        merged.extend(current.take().map(finish));
        match Merge::begin(format, &event.read()) {
            Some(merge) => current = Some((merge, event)),
            None => merged.push(event.clone()),
        }
    }
    merged.extend(current.map(finish));
    merged
}

fn finish((merge, first): (Merge, &Event)) -> Event {
    let len = merge.len();
    let data = merge.finish();
    assert_eq!(data.len(), len);
    Event { data, ..first.clone() }
}

/// Texts that could be mistaken for something else.
fn any_text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        4 => "[a-z ]{0,6}".boxed(),
        1 => "\\PC{0,4}".boxed(),
        1 => any::<char>().prop_map(String::from).boxed(),
        1 => prop::sample::select(vec![
            "[DONE]", "[DO", "NE]", "message_stop", "\"done\":true", "finishReason", "error",
            "\"error\":{}", "response.completed", "finish", "\\", "\"", "\n", "{", "}", "😀",
            r#"{"type":"message_stop"}"#,
        ]).prop_map(str::to_owned).boxed(),
    ];
    prop::collection::vec(word, 0..6).prop_map(|words| words.concat())
}

fn any_runs() -> impl Strategy<Value = Vec<(Run, Vec<usize>)>> {
    let run = (0..3, any_text()).prop_map(|(kind, text)| match kind {
        0 => Run::Text(text),
        1 => Run::Reasoning(text),
        _ => Run::Call(text),
    });
    prop::collection::vec((run, prop::collection::vec(0usize..5, 0..6)), 0..6)
}

fn any_format() -> impl Strategy<Value = Format> {
    prop::sample::select(Format::ALL.to_vec())
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..9).prop_map(Value::from),
        prop::sample::select(vec![
            "",
            "error",
            "text-delta",
            "text_delta",
            "message_stop",
            "finish",
            "a",
            "content_block_delta",
            "response.output_text.delta",
            "response.failed",
        ])
        .prop_map(Value::from),
    ];
    let name = prop::sample::select(vec![
        "type",
        "choices",
        "delta",
        "content",
        "error",
        "usage",
        "index",
        "tool_calls",
        "done",
        "function",
        "arguments",
        "candidates",
        "parts",
        "text",
        "message",
        "id",
        "response",
        "finishReason",
        "created",
        "model",
        "promptFeedback",
        "blockReason",
        "item",
        "thinking",
    ]);
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..5).prop_map(|fields| {
                let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
                Value::Object(fields.collect())
            }),
        ]
    })
}

/// Calls every function; none may panic.
fn try_all(format: Format, events: &[Event]) {
    for event in events {
        let _ = shown(&event.data);
        let _ = format.mark(&event.read());
    }
    let fold = fold(format, events);
    let _ = serde_json::to_string(&fold).unwrap();
    let unlabelled: Vec<_> =
        events.iter().map(|event| Event { part: Some(String::new()), ..event.clone() }).collect();
    let merged = merge(format, &unlabelled, &[true]);
    assert_eq!(
        serde_json::to_value(&fold).unwrap(),
        serde_json::to_value(self::fold(format, &merged)).unwrap()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn merged_events_say_the_same(
        format in any_format(),
        runs in any_runs(),
        escaped in any::<bool>(),
        noise in any::<u32>(),
        joins in prop::collection::vec(prop::bool::weighted(0.8), 1..20),
    ) {
        let events = write_with(format, &runs, escaped, noise);
        let merged = merge(format, &events, &joins);
        prop_assert!(merged.len() <= events.len());
        let before = fold(format, &events);
        let after = fold(format, &merged);
        prop_assert_eq!(before.parts(), after.parts());
        prop_assert_eq!(
            serde_json::to_value(&before).unwrap(),
            serde_json::to_value(&after).unwrap()
        );
        let ends = |events: &[Event]| -> Vec<Mark> {
            read(events).filter_map(|event| format.mark(&event)).collect()
        };
        prop_assert_eq!(ends(&events), ends(&merged));
    }

    /// `merge` panics if events of different parts merge: here they come in any order.
    #[test]
    fn deltas_of_different_parts_do_not_merge(
        format in any_format(),
        runs in any_runs(),
        order in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        let mut deltas = write(format, &runs, true);
        deltas.retain(|event| event.part.is_some());
        let mut order = order.iter().cycle();
        deltas.sort_by_cached_key(|_| order.next());
        let merged = merge(format, &deltas, &[true]);
        let before = fold(format, &deltas);
        let after = fold(format, &merged);
        prop_assert_eq!(before.parts(), after.parts());
    }

    #[test]
    fn all_that_was_said_is_folded(
        format in any_format(),
        runs in any_runs(),
        escaped in any::<bool>(),
    ) {
        let fold = fold(format, &write(format, &runs, escaped));
        prop_assert!(!fold.is_incomplete() || runs.iter().any(|(run, _)| run.is_odd_call()));
        if format != Format::Text {
            let texts = runs.iter().filter_map(|(run, _)| match run {
                Run::Text(text) => Some(text.as_str()),
                _ => None,
            });
            prop_assert_eq!(fold.text(), texts.collect::<String>());
            let calls = runs.iter().filter(|(run, _)| matches!(run, Run::Call(_))).count();
            let folded = serde_json::to_value(&fold).unwrap();
            let parts = folded["parts"].as_array().unwrap();
            prop_assert!(parts.iter().filter(|part| part["type"] == "tool_call").count() >= calls);
            prop_assert!(format == Format::UiMessage || fold.usage().is_some());
        }
    }

    #[test]
    fn a_merge_of_one_event_is_that_event(
        format in any_format(),
        runs in any_runs(),
        escaped in any::<bool>(),
    ) {
        for event in write(format, &runs, escaped) {
            let merge = Merge::begin(format, &event.read());
            prop_assert_eq!(merge.is_some(), event.part.is_some(), "{:?}", event);
            if let Some(merge) = merge {
                prop_assert_eq!(merge.finish(), event.data);
            }
        }
    }

    #[test]
    fn a_stream_that_breaks_off_is_never_complete(
        format in any_format(),
        runs in any_runs(),
        escaped in any::<bool>(),
        kept in any::<prop::sample::Index>(),
    ) {
        let events = write(format, &runs, escaped);
        let mut marks = read(&events).map(|event| format.mark(&event));
        let end = marks.position(|mark| mark.is_some());
        let end = end.expect("a whole stream ends");
        prop_assert!(matches!(
            format.mark(&events[end].read()),
            Some(Mark::Last(Ending::Complete) | Mark::Nearly(Ending::Complete) | Mark::Finished)
        ));
        prop_assert!(events[end..].iter().all(|event| event.part.is_none()), "it ended early");
        // A truncated event does not count either.
        let event = &events[end];
        let cut = &event.data[..event.data.floor_char_boundary(kept.index(event.data.len()))];
        prop_assert_eq!(format.mark(&ModelEvent::new(event.event_type.as_deref(), cut)), None);
    }

    #[test]
    fn garbage_does_no_harm(
        format in any_format(),
        events in prop::collection::vec((prop::option::of("[a-z_]{0,9}"), ".{0,20}"), 0..4),
        values in prop::collection::vec(any_json(), 0..6),
    ) {
        let texts = events.into_iter();
        let texts = texts.map(|(event_type, data)| Event { event_type, data, part: None });
        let values = values.into_iter().map(|value| value.to_string());
        let values = values.map(|data| Event { event_type: None, data, part: None });
        try_all(format, &texts.chain(values).collect::<Vec<_>>());
    }

    #[test]
    fn events_that_were_damaged_do_no_harm(
        format in any_format(),
        other in any_format(),
        runs in any_runs(),
        at in any::<prop::sample::Index>(),
        damage in "[\\[\\]{}\",:\\\\0a]{0,2}",
    ) {
        let mut events = write(other, &runs, true);
        for event in &mut events {
            let place = at.index(event.data.len() + 1);
            let place = event.data.floor_char_boundary(place);
            event.data.insert_str(place, &damage);
        }
        try_all(format, &events);
    }
}

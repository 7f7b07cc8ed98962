//! The cost of an event of a generation: to fold it, and to merge it with its neighbours.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a benchmark may, as a test may

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use fanfare::internals::generation::{Fold, Format, Merge, ModelEvent};

const EVENTS: usize = 1000;

/// A chunk of a chat completion; with its own id, time and usage, if `own`.
fn chat(number: usize, own: bool) -> String {
    let (id, usage) = if own {
        (number, format!(r#"{{"prompt_tokens":9,"total_tokens":{number}}}"#))
    } else {
        (0, "null".to_owned())
    };
    format!(
        r#"{{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5q{id:06}","object":"chat.completion.chunk","created":{},"model":"gpt-4.1-mini","service_tier":"default","system_fingerprint":"fp_b5c8d24e1f","choices":[{{"index":0,"delta":{{"content":" tok{number}"}},"logprobs":null,"finish_reason":null}}],"usage":{usage}}}"#,
        1_741_569_952 + id
    )
}

fn call(number: usize) -> String {
    format!(
        r#"{{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion.chunk","created":1741569952,"model":"gpt-4.1-mini","choices":[{{"index":0,"delta":{{"tool_calls":[{{"index":0,"function":{{"arguments":"[{number}, "}}}}]}},"finish_reason":null}}]}}"#
    )
}

fn anthropic(number: usize) -> String {
    format!(
        r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":" tok{number}"}}}}"#
    )
}

fn responses(number: usize) -> String {
    format!(
        r#"{{"type":"response.output_text.delta","sequence_number":{number},"item_id":"msg_67c9fdcecf488190","output_index":0,"content_index":0,"delta":" tok{number}","logprobs":[],"obfuscation":"aNq0"}}"#
    )
}

fn gemini(number: usize) -> String {
    format!(
        r#"{{"candidates": [{{"content": {{"parts": [{{"text": " tok{number}"}}],"role": "model"}},"index": 0}}],"usageMetadata": {{"promptTokenCount": 8,"totalTokenCount": {number}}},"modelVersion": "gemini-2.5-flash","responseId": "5uGPaM2mOqqm1"}}"#
    )
}

fn streams() -> Vec<(&'static str, Format, Vec<String>)> {
    let stream = |event: fn(usize) -> String| (0..EVENTS).map(event).collect();
    vec![
        ("openai-chat", Format::OpenAiChat, stream(|number| chat(number, false))),
        ("openai-chat, own ids", Format::OpenAiChat, stream(|number| chat(number, true))),
        ("openai-chat, a call", Format::OpenAiChat, stream(call)),
        ("openai-responses", Format::OpenAiResponses, stream(responses)),
        ("anthropic", Format::Anthropic, stream(anthropic)),
        ("gemini", Format::Gemini, stream(gemini)),
    ]
}

fn fold(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fold");
    group.throughput(Throughput::Elements(EVENTS as u64));
    for (name, format, events) in streams() {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut fold = Fold::new(format);
                for data in &events {
                    fold.push(&ModelEvent::new(None, black_box(data)));
                }
                black_box(fold.weight())
            });
        });
    }
    group.finish();
}

fn merge(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("merge");
    group.throughput(Throughput::Elements(EVENTS as u64));
    for (name, format, events) in streams() {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut open = None::<Merge>;
                let mut merged = 0;
                for data in &events {
                    let event = ModelEvent::new(None, black_box(data));
                    if open.as_mut().is_some_and(|open| open.try_add(&event)) {
                        continue;
                    }
                    merged += open.take().map_or(0, |open| open.finish().len());
                    open = Merge::begin(format, &event);
                }
                black_box(merged)
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    fold(&mut criterion);
    merge(&mut criterion);
    criterion.final_summary();
}

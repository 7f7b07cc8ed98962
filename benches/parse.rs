//! The cost of reading a publisher's body: the event-stream parser alone, and both streamed kinds
//! of body through ingest, which is decoder and append together.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a benchmark may, as a test may

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use fanfare::internals::channel::ChannelName;
use fanfare::internals::hub::{self, Hub};
use fanfare::internals::ingest::{self, Begun, BodyKind, Ingest, PublishOptions};
use fanfare::internals::telemetry::Metrics;
use fanfare_sse::Parser;
use futures_util::FutureExt;

/// Events of one body: a long answer.
const EVENTS: usize = 2000;

/// The pieces of a body: of a slow producer, and of a fast one.
const PIECES: [(&str, usize); 2] = [("1 KiB pieces", 1024), ("64 KiB pieces", 64 * 1024)];

/// One token in the form of language model providers.
fn chunk(number: usize) -> String {
    format!(
        "{{\"id\":\"chatcmpl-9fKq3xY7\",\"object\":\"chat.completion.chunk\",\
         \"created\":1767225600,\"model\":\"a-model-2026-01-01\",\"system_fingerprint\":\"fp_ab12\",\
         \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" tök{number}\"}},\"logprobs\":null,\
         \"finish_reason\":null}}]}}"
    )
}

fn event_stream() -> Bytes {
    (0..EVENTS).map(|number| format!("data: {}\n\n", chunk(number))).collect::<String>().into()
}

fn ndjson() -> Bytes {
    (0..EVENTS).map(|number| format!("{}\n", chunk(number))).collect::<String>().into()
}

/// Splits the body like a network: into pieces that share one allocation, cut anywhere.
fn cut(body: &Bytes, size: usize) -> Vec<Bytes> {
    (0..body.len()).step_by(size).map(|at| body.slice(at..body.len().min(at + size))).collect()
}

fn parser(group: &mut BenchmarkGroup<'_, WallTime>) {
    let body = event_stream();
    group.throughput(Throughput::Bytes(body.len() as u64));
    for (name, size) in PIECES {
        let pieces = cut(&body, size);
        group.bench_function(format!("parser, {name}"), |bencher| {
            bencher.iter(|| {
                let mut parser = Parser::new(1 << 20);
                let mut parsed = Vec::new();
                for piece in &pieces {
                    parsed.clear();
                    parser.feed(black_box(piece), &mut parsed).unwrap();
                    black_box(&parsed);
                }
            });
        });
    }
}

fn through_ingest(group: &mut BenchmarkGroup<'_, WallTime>, kind: BodyKind, body: &Bytes) {
    let hub = Hub::new(hub::Config::default(), Arc::new(Metrics::new()));
    let ingest = Ingest::new(hub, ingest::Config::default());
    group.throughput(Throughput::Bytes(body.len() as u64));
    for (name, size) in PIECES {
        let pieces = cut(body, size);
        let kind_name = if kind == BodyKind::Ndjson { "NDJSON" } else { "event stream" };
        group.bench_function(format!("ingest {kind_name}, {name}"), |bencher| {
            bencher.iter(|| publish(&ingest, kind, black_box(&pieces)));
        });
    }
}

/// Polls once, because channels in memory never wait.
fn at_once<T>(done: impl Future<Output = T>) -> T {
    done.now_or_never().expect("channels in memory")
}

fn publish(ingest: &Ingest, kind: BodyKind, pieces: &[Bytes]) {
    let channel: ChannelName = "chat/1".parse().unwrap();
    let begun = at_once(ingest.publish(channel, kind, PublishOptions::default()));
    let Ok(Begun::Publish(mut publish)) = begun else {
        panic!("it begins");
    };
    for piece in pieces {
        at_once(publish.feed(piece)).unwrap();
    }
    assert_eq!(at_once(publish.finish()).unwrap().events as usize, EVENTS);
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("parse");
    parser(&mut group);
    through_ingest(&mut group, BodyKind::EventStream, &event_stream());
    through_ingest(&mut group, BodyKind::Ndjson, &ndjson());
    group.finish();
    criterion.final_summary();
}

//! The rate at which a fresh replica applies the log, in events per second.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a benchmark may, as a test may

use std::hint::black_box;
use std::time::Duration;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fanfare_cluster::batch::{Codec, Header, write_command};
use fanfare_cluster::command::{Append, Command, Hello, NewEvent, SessionId};
use fanfare_cluster::log::{LogTime, Message, Sequence};
use fanfare_cluster::state_machine::StateMachine;

/// Generations that publish at the same time.
const CHANNELS: usize = 2000;

const BATCHES: u64 = 1000;

/// Bytes of an event: a token with its JSON.
const EVENT: usize = 60;

fn message(sequence: u64, header: Header, body: &[u8]) -> Message {
    let content = Codec::default().encode(header, body);
    Message { sequence: Sequence(sequence), time: LogTime(sequence * 1_000_000), content }
}

/// Returns a log of batches with this many appends, each of this many events.
fn log(appends: usize, events: usize) -> Vec<Message> {
    let mut body = BytesMut::new();
    write_command(&Command::Hello(Hello::default()), &mut body);
    let mut messages = vec![message(1, Header::default(), &body)];
    let event = NewEvent { event_type: None, data: "x".repeat(EVENT).into() };
    let mut channel = 0;
    for number in 1..=BATCHES {
        body.clear();
        for _ in 0..appends {
            channel = (channel + 1) % CHANNELS;
            let append = Append {
                channel: format!("generations/{channel:06}").into(),
                events: vec![event.clone(); events],
                ..Append::default()
            };
            write_command(&Command::Append(append), &mut body);
        }
        let header = Header { session: SessionId(Sequence(1)), number, ..Header::default() };
        messages.push(message(number + 1, header, &body));
    }
    messages
}

fn apply(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.sample_size(10);
    for (appends, events) in [(1, 1), (100, 1), (100, 4)] {
        let messages = log(appends, events);
        group.throughput(Throughput::Elements(BATCHES * (appends * events) as u64));
        group.bench_function(format!("{appends} appends of {events}"), |bencher| {
            bencher.iter(|| {
                let mut state =
                    StateMachine::new(Codec::default(), "epoch".into(), Duration::from_secs(5));
                for message in &messages {
                    black_box(state.apply(message).unwrap());
                }
                state
            });
        });
    }
    group.finish();
}

criterion_group!(benches, apply);
criterion_main!(benches);

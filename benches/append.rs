//! The cost of publishing inside the hub, from events to a log with retention: without HTTP and
//! without readers.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a benchmark may, as a test may

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use fanfare::internals::channel::ChannelName;
use fanfare::internals::egress;
use fanfare::internals::event::NewEvent;
use fanfare::internals::hub::{Bounds, Config, Hub, OnLag, Opened, Selection, Subscription};
use fanfare::internals::position::StartFrom;
use fanfare::internals::telemetry::Metrics;

/// Large enough that the registry and the logs exceed every cache.
const CHANNELS: usize = 10_000;

/// The number of listeners in the benchmark that has some.
const LISTENERS: usize = 1000;

fn hub() -> Hub {
    Hub::new(Config::default(), Arc::new(Metrics::new()))
}

fn name(number: usize) -> ChannelName {
    format!("chat/{number}").parse().unwrap()
}

/// Events of forty bytes, the size of tokens in JSON.
fn events(count: usize) -> Vec<NewEvent> {
    let event = |number| format!("token {number:4} of what somebody has to say");
    (0..count).map(|number| NewEvent { event_type: None, data: event(number).into() }).collect()
}

fn append(group: &mut BenchmarkGroup<'_, WallTime>, id: &str, hub: &Hub, count: usize) {
    let channel = name(0);
    let events = events(count);
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function(id, |bencher| {
        bencher.iter(|| hub.append(black_box(&channel), black_box(&events), None).unwrap());
    });
}

/// A subscription at the tail that is never polled: from the second event on, its latch is set.
fn listen(hub: &Hub) -> Subscription {
    let config = egress::Config::default();
    let bounds = Bounds {
        max_lag_events: config.max_lag_events,
        max_lag_bytes: config.max_lag_bytes.as_u64(),
        on_lag: OnLag::Disconnect,
    };
    match hub.subscribe(Selection::One(name(0)), &StartFrom::Tail, bounds).unwrap() {
        Opened::Live(subscription) => subscription,
        Opened::Over | Opened::Later(_) => panic!("the channel is open"),
    }
}

fn one_channel(group: &mut BenchmarkGroup<'_, WallTime>) {
    for count in [1, 100, 1000] {
        append(group, &format!("{count} at a time"), &hub(), count);
    }
    let hub = hub();
    let _listeners: Vec<_> = (0..LISTENERS).map(|_| listen(&hub)).collect();
    append(group, &format!("1 at a time, {LISTENERS} listeners"), &hub, 1);
}

/// One event to each of many channels in turn.
fn many_channels(group: &mut BenchmarkGroup<'_, WallTime>) {
    let hub = hub();
    let events = events(1);
    let names: Vec<_> = (0..CHANNELS).map(name).collect();
    for name in &names {
        hub.append(name, &events, None).unwrap();
    }
    let mut turn = names.iter().cycle();
    group.throughput(Throughput::Elements(1));
    group.bench_function(format!("1 at a time, {CHANNELS} channels"), |bencher| {
        bencher.iter(|| hub.append(turn.next().unwrap(), black_box(&events), None).unwrap());
    });
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("append");
    one_channel(&mut group);
    many_channels(&mut group);
    group.finish();
    criterion.final_summary();
}

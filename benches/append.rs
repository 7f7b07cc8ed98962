//! The cost of publishing inside the hub, from events to a log with retention: without HTTP and
//! without readers.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a benchmark may, as a test may

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use bytesize::ByteSize;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use fanfare::internals::channel::ChannelName;
use fanfare::internals::egress;
use fanfare::internals::event::NewEvent;
use fanfare::internals::hub::{
    Append, Appended, Bounds, Config, Hub, OnLag, Opened, Selection, Subscription,
    ThreadCompletions,
};
use fanfare::internals::position::StartFrom;
use fanfare::internals::store::disk::{self, Disk, Durability, OpenOptions};
use fanfare::internals::telemetry::Metrics;
use tokio::task::LocalSet;
use tokio::time::Instant;

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

fn submit(hub: &Hub, to: &ChannelName, events: &[NewEvent]) -> Appended {
    hub.submit(to, Append::of(events, None)).unwrap().committed().unwrap()
}

fn append(group: &mut BenchmarkGroup<'_, WallTime>, id: &str, hub: &Hub, count: usize) {
    let channel = name(0);
    let events = events(count);
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function(id, |bencher| {
        bencher.iter(|| submit(hub, black_box(&channel), black_box(&events)));
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
        submit(&hub, name, &events);
    }
    let mut turn = names.iter().cycle();
    group.throughput(Throughput::Elements(1));
    group.bench_function(format!("1 at a time, {CHANNELS} channels"), |bencher| {
        bencher.iter(|| submit(&hub, turn.next().unwrap(), black_box(&events)));
    });
}

/// Publishers of one durable channel at the same time, on two threads that serve requests.
fn durable_channel(group: &mut BenchmarkGroup<'_, WallTime>) {
    let folder = tempfile::tempdir().unwrap();
    let store = disk::Config {
        path: folder.path().to_owned(),
        durability: Durability::Async,
        min_free: ByteSize(1),
        ..disk::Config::default()
    };
    let metrics = Arc::new(Metrics::new());
    let (disk, found) = Disk::open(&store, OpenOptions::default(), metrics.clone()).unwrap();
    let hub = Hub::resume(Config::default(), metrics, &disk, &store, &found);
    group.throughput(Throughput::Elements(1));
    for publishers in [2, 64, 1000] {
        group.bench_function(format!("1 at a time, durable, {publishers} publishers"), |bencher| {
            bencher.iter_custom(|events| publish(&hub, publishers, events));
        });
    }
    disk.close();
}

/// Returns the time that publishers of one channel, each with one event at a time, take for this
/// number of events.
fn publish(hub: &Hub, publishers: u64, events: u64) -> Duration {
    let left = &AtomicU64::new(events);
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                LocalSet::new().block_on(&runtime, publish_here(hub, publishers / 2, left));
            });
        }
    });
    began.elapsed()
}

async fn publish_here(hub: &Hub, publishers: u64, left: &AtomicU64) {
    let completions = tokio::task::spawn_local(ThreadCompletions::serve());
    tokio::task::yield_now().await;
    let take = |left: u64| left.checked_sub(1);
    let publish = async || {
        let channel = name(0);
        let events = events(1);
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            hub.append(&channel, Append::of(&events, None)).await.unwrap();
        }
    };
    futures_util::future::join_all((0..publishers).map(|_| publish())).await;
    completions.abort();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("append");
    one_channel(&mut group);
    many_channels(&mut group);
    durable_channel(&mut group);
    group.finish();
    criterion.final_summary();
}

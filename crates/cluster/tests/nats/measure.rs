//! Measurements, which are no tests:
//! `cargo test --release -p fanfare-cluster --test nats measure -- --ignored --nocapture`.

use std::time::Duration;

use fanfare_cluster::nats::Config;
use tokio::time::Instant;

use crate::hub::{Hub, config};
use crate::refusals::replicated;
use crate::server::{NatsCluster, NatsServer};

#[test]
#[ignore = "a measurement"]
fn one_server() {
    let server = NatsServer::one();
    report("one server", &config(&[server.url()]));
}

#[test]
#[ignore = "a measurement"]
fn three_servers() {
    let cluster = NatsCluster::three();
    report("three servers", &replicated(config(&cluster.urls())));
}

fn report(servers: &str, config: &Config) {
    let mut hub = Hub::start(config.clone()).opened();
    hub.load(500, 200, 1);
    let mut times: Vec<Duration> = (0..1000)
        .map(|_| {
            let begin = Instant::now();
            hub.load(1, 200, 1);
            begin.elapsed()
        })
        .collect();
    times.sort();
    println!("{servers}: sent to read p50 {:?}, p99 {:?}", times[500], times[990]);
    for (size, window, count) in [(200, 2, 5000), (200, 32, 20_000), (65_536, 2, 1000)] {
        let begin = Instant::now();
        hub.load(count, size, window);
        let rate = f64::from(count) / begin.elapsed().as_secs_f64();
        println!("{servers}: {rate:.0} messages/s of {size} bytes, {window} in flight");
    }
    let begin = Instant::now();
    let late = Hub::start(config.clone()).opened();
    let read = late.recorded(|recorded| recorded.messages.len());
    let megabytes =
        late.recorded(|it| it.messages.iter().map(|it| it.content.len()).sum::<usize>());
    let (took, megabytes) = (begin.elapsed(), megabytes >> 20);
    println!("{servers}: a late hub reads {read} messages, {megabytes} MiB, in {took:?}");
}

//! Fifteen thousand subscribers come, get an event and leave, ten times over: what the hub holds
//! does not grow from crowd to crowd, and is close to what it was before the first.
//!
//! A test binary of its own, because it needs the machine for itself. The hub is a process, and so
//! is each crowd (`fanfare bench`): their descriptors are counted apart, and each raises its limit.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests may: helpers are not seen as tests

mod process;

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use process::{FANFARE, Hub, PATIENCE};

const CROWDS: usize = 10;
const SUBSCRIBERS: u64 = 15_000;

/// The crowd after which nothing may grow any more: by then everything has had its largest size.
const SETTLED: usize = 2;

/// What the last crowd may leave after beyond that one: 14 bytes for each subscriber that came in
/// between. About half of it is used: heartbeats that are no longer due (4 bytes for each who came
/// in the last 15 seconds), and where the allocator happens to find room.
const GROWTH: u64 = SUBSCRIBERS * (CROWDS - SETTLED) as u64 * 14;

/// What all of them may leave after, in bytes. Nearly all of it is free, and kept by the allocator:
/// what the HTTP library had for the connections that were opened at the same time. A crowd of a
/// thousand leaves most of it already.
const REST: u64 = 8 << 20;

/// A hub, and the crowds that come to it.
struct Venue(Hub);

impl Venue {
    /// So many come, all get one event, all leave.
    fn receive(&self, subscribers: u64) {
        let output = Command::new(FANFARE)
            .args(["bench", "--json", "--quiet", "--url", &format!("http://{}", self.0.addr)])
            .args(["--subscribers", &subscribers.to_string(), "--source-addresses", "8"])
            .args(["--rate", "2", "--duration", "500ms", "--warmup", "0s"])
            .output()
            .expect("a crowd");
        let error = String::from_utf8_lossy(&output.stderr);
        let report: Value = serde_json::from_slice(&output.stdout).expect(&error);
        assert!(output.status.success(), "{error}{report:#}");
        assert_eq!(report["delivered"], subscribers, "one event each: {report:#}");
        self.wait_until_empty();
    }

    fn wait_until_empty(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let gauges = ["fanfare_subscriptions", "fanfare_connections"];
            let left = gauges.map(|name| self.0.gauge(name));
            // The connection is the one that asks.
            if left == [0, 1] {
                return;
            }
            assert!(Instant::now() < deadline, "subscriptions and connections left: {left:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn memory_returns_to_its_start_after_15000_subscribers_come_and_go_ten_times() {
    let hub = Venue(Hub::start(&[("FANFARE_SUBSCRIBERS__SHARDS", "2")]));
    hub.receive(1);
    let start = hub.0.anonymous();
    let mut after = Vec::new();
    for _ in 0..CROWDS {
        hub.receive(SUBSCRIBERS);
        after.push(hub.0.anonymous());
    }
    let kib: Vec<u64> = after.iter().map(|bytes| bytes / 1024).collect();
    println!("{} KiB at the start, then {kib:?}", start / 1024);
    let (settled, last) = (after[SETTLED - 1], after[CROWDS - 1]);
    assert!(last <= settled + GROWTH, "it grows: {} KiB, {kib:?}", start / 1024);
    assert!(last <= start + REST, "it does not return: {} KiB, {kib:?}", start / 1024);
}

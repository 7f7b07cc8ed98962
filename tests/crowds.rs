//! Fifteen thousand subscribers connect, get an event and leave, ten times: the memory of the hub
//! does not grow from crowd to crowd, and stays close to that before the first.
//!
//! A separate test binary, because it needs the machine for itself. The hub is a process, and so is
//! each crowd (`fanfare bench`): their descriptors are counted separately, and each raises its
//! limit.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests may: helpers are not seen as tests

use std::process::Command;

use fanfare_testing::{HubProcess, until};
use serde_json::Value;

const FANFARE: &str = env!("CARGO_BIN_EXE_fanfare");

const CROWDS: usize = 10;
const SUBSCRIBERS: u64 = 15_000;

/// The crowd after which nothing may grow any more: every structure has its largest size then.
const SETTLED: usize = 2;

/// The growth allowed after that crowd, in bytes: 14 for each subscriber since. About half of it is
/// used: heartbeats that are no longer due (4 bytes for each subscriber of the last 15 seconds),
/// and fragmentation of the allocator.
const GROWTH: u64 = SUBSCRIBERS * (CROWDS - SETTLED) as u64 * 14;

/// The growth allowed by all crowds, in bytes. Nearly all of it is free memory kept by the
/// allocator, which the HTTP library used for connections opened at the same time. A crowd of a
/// thousand leaves most of it already.
const REST: u64 = 8 << 20;

/// A hub to which crowds connect.
struct Venue(HubProcess);

impl Venue {
    /// Connects this many subscribers, sends all one event, and disconnects them.
    fn receive(&self, subscribers: u64) {
        let output = Command::new(FANFARE)
            .args(["bench", "--json", "--quiet", "--url", &format!("http://{}", self.0.addr())])
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
        until("subscriptions and connections to end", || {
            let gauges = ["fanfare_subscriptions", "fanfare_connections"];
            let left = gauges.map(|name| self.0.gauge(name));
            // The remaining connection is that of this request.
            (left == [0, 1]).then_some(())
        });
    }
}

#[test]
fn memory_returns_to_its_start_after_15000_subscribers_come_and_go_ten_times() {
    let hub = Venue(HubProcess::measured(FANFARE, &[("FANFARE_SUBSCRIBERS__SHARDS", "2")]));
    hub.receive(1);
    let start = hub.0.anonymous();
    let mut after = Vec::new();
    for _ in 0..CROWDS {
        hub.receive(SUBSCRIBERS);
        after.push(hub.0.anonymous());
    }
    let kib: Vec<u64> = after.iter().map(|bytes| bytes / 1024).collect();
    println!("{} KiB at the start, then {kib:?}", start / 1024);
    let settled = after[SETTLED - 1];
    let last = after[CROWDS - 1];
    assert!(last <= settled + GROWTH, "it grows: {} KiB, {kib:?}", start / 1024);
    assert!(last <= start + REST, "it does not return: {} KiB, {kib:?}", start / 1024);
}

//! Fifteen thousand subscribers come, get an event and leave, ten times over: what the hub holds
//! does not grow from crowd to crowd, and is close to what it was before the first.
//!
//! A test binary of its own, because it needs the machine for itself. The hub is a process, and so
//! is each crowd (`fanfare bench`): their descriptors are counted apart, and each raises its limit.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests may: helpers are not seen as tests

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

const FANFARE: &str = env!("CARGO_BIN_EXE_fanfare");

const CROWDS: usize = 10;
const SUBSCRIBERS: u64 = 15_000;

/// The crowd after which nothing may grow any more: by then everything has had its largest size.
const SETTLED: usize = 2;

/// What the last crowd may leave behind beyond that one: 14 bytes for each subscriber that came in
/// between. About half of it is used: heartbeats that are no longer due (4 bytes for each who came
/// in the last 15 seconds), and where the allocator happens to find room.
const GROWTH: u64 = SUBSCRIBERS * (CROWDS - SETTLED) as u64 * 14;

/// What all of them may leave behind, in bytes. Nearly all of it is free, and kept by the allocator:
/// what the HTTP library had for the connections that were opened at the same time. A crowd of a
/// thousand leaves most of it already.
const REST: u64 = 8 << 20;

/// Far more than closing fifteen thousand sockets takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A hub that is a process. Dropped, it is killed.
struct Hub {
    child: Child,
    addr: SocketAddr,
    admin: SocketAddr,
}

impl Hub {
    fn start() -> Self {
        let mut child = Command::new(FANFARE)
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            // Each thread has a store of free memory: as many of them on every machine.
            .envs([("TOKIO_WORKER_THREADS", "2"), ("FANFARE_SUBSCRIBERS__SHARDS", "2")])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the hub starts");
        let mut log = BufReader::new(child.stderr.take().expect("a log"));
        let mut line = String::new();
        while !line.contains("listening") {
            line.clear();
            assert!(log.read_line(&mut line).expect("a log") > 0, "the hub ended at once");
        }
        // Whoever writes to a pipe that nobody reads stops.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let (addr, admin) = (address(&line, " addr="), address(&line, " admin_addr="));
        Self { child, addr, admin }
    }

    /// So many come, all get one event, all leave.
    fn receive(&self, subscribers: u64) {
        let output = Command::new(FANFARE)
            .args(["bench", "--json", "--quiet", "--url", &format!("http://{}", self.addr)])
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
            let page = self.metrics();
            let left = (gauge(&page, "fanfare_subscriptions"), gauge(&page, "fanfare_connections"));
            // The connection is the one that asks.
            if left == (0, 1) {
                return;
            }
            assert!(Instant::now() < deadline, "subscriptions and connections left: {left:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn metrics(&self) -> String {
        let mut tcp = TcpStream::connect(self.admin).expect("a connection");
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        tcp.write_all(request.as_bytes()).expect("a request");
        let mut page = String::new();
        tcp.read_to_string(&mut page).expect("an answer");
        page
    }

    /// The memory that is the process's alone: no pages of the program's file, which come in as
    /// they are used and which the system takes back.
    fn anonymous(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = fs::read_to_string(path).expect("the hub is there");
        let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("a sum");
        line.trim().strip_suffix(" kB").expect("kilobytes").parse::<u64>().expect("a size") * 1024
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(line: &str, field: &str) -> SocketAddr {
    let (_, rest) = line.split_once(field).expect("the log names its addresses");
    rest.split_whitespace().next().unwrap().parse().expect("an address")
}

fn gauge(page: &str, name: &str) -> u64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect("the metric").parse().expect("a count")
}

#[test]
fn memory_returns_to_its_start_after_15000_subscribers_come_and_go_ten_times() {
    let hub = Hub::start();
    hub.receive(1);
    let start = hub.anonymous();
    let mut after = Vec::new();
    for _ in 0..CROWDS {
        hub.receive(SUBSCRIBERS);
        after.push(hub.anonymous());
    }
    let kib: Vec<u64> = after.iter().map(|bytes| bytes / 1024).collect();
    println!("{} KiB at the start, then {kib:?}", start / 1024);
    let (settled, last) = (after[SETTLED - 1], after[CROWDS - 1]);
    assert!(last <= settled + GROWTH, "it grows: {} KiB, {kib:?}", start / 1024);
    assert!(last <= start + REST, "it does not return: {} KiB, {kib:?}", start / 1024);
}

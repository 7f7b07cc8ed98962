//! What some clients do is not paid by others: those who do not read, or read a great deal, or send
//! what is refused, cost a bounded amount of memory and of the threads that serve publishes.
//!
//! A test binary of its own, because it needs the machine for itself. The hub is a process, whose
//! memory is counted alone.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests may: helpers are not seen as tests

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};
use tokio::time::Instant;

const FANFARE: &str = env!("CARGO_BIN_EXE_fanfare");

/// What all channels together have, for whoever begins at the earliest event: more than kernels and
/// libraries buffer for a client that does not read.
const CHANNELS: usize = 10;
const EVENTS: usize = 800;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Each of these wants the processors for itself.
static ALONE: Mutex<()> = Mutex::new(());

/// A hub that is a process. Dropped, it is killed.
struct Hub {
    child: Child,
    addr: SocketAddr,
    admin: SocketAddr,
}

impl Hub {
    fn start(settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(FANFARE)
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            // Each thread has a store of free memory: as many of them on every machine.
            .envs([("TOKIO_WORKER_THREADS", "2"), ("FANFARE_SERVER__WORKERS", "2")])
            .envs([
                ("FANFARE_QUOTAS__ADDRESS_CONNECTIONS", "off"),
                ("FANFARE_QUOTAS__BYTES", "off"),
            ])
            .envs(settings.iter().copied())
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

    /// Fills the channels.
    fn fill(&self) {
        for channel in 0..CHANNELS {
            let event = format!("data: {}\n\n", "z".repeat(1000));
            let to = format!("/v1/channels/m/{channel}");
            let response = self.post(&to, "text/event-stream", &event.repeat(EVENTS));
            assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        }
    }

    fn post(&self, to: &str, kind: &str, body: &str) -> String {
        let head = format!(
            "POST {to} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        ask(self.addr, &[head.as_bytes(), body.as_bytes()].concat())
    }

    /// A client that sends this, and reads nothing.
    fn unread(&self, request: &[u8]) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        // What the kernel keeps for it is of no interest.
        socket.set_recv_buffer_size(1024).expect("a small buffer");
        socket.connect(&self.addr.into()).expect("a connection");
        let mut tcp = TcpStream::from(socket);
        tcp.write_all(request).expect("a request");
        tcp
    }

    fn gauge(&self, name: &str) -> u64 {
        let page = ask(
            self.admin,
            b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        );
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect("the metric").parse().expect("a count")
    }

    fn wait_for(&self, name: &str, wanted: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.gauge(name) != wanted {
            assert!(Instant::now() < deadline, "{name} is {}, not {wanted}", self.gauge(name));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The memory that is the process's alone, once it stays as it is.
    fn settled(&self) -> u64 {
        let mut last = self.anonymous();
        loop {
            std::thread::sleep(Duration::from_millis(300));
            let now = self.anonymous();
            if now.abs_diff(last) < 64 << 10 {
                return now;
            }
            last = now;
        }
    }

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

fn ask(to: SocketAddr, request: &[u8]) -> String {
    let mut tcp = TcpStream::connect(to).expect("a connection");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    tcp.write_all(request).expect("a request");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).expect("an answer");
    answer
}

fn get(to: &str, accept: &str) -> Vec<u8> {
    format!("GET {to} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n").into_bytes()
}

/// How many bytes each of these clients costs the hub.
fn cost_of_each(hub: &Hub, streams: u64, clients: impl Iterator<Item = Vec<u8>>) -> u64 {
    let before = hub.settled();
    let clients: Vec<TcpStream> = clients.map(|request| hub.unread(&request)).collect();
    hub.wait_for("fanfare_subscriptions", streams);
    let each = hub.settled().saturating_sub(before) / streams;
    drop(clients);
    hub.wait_for("fanfare_subscriptions", 0);
    each
}

#[test]
fn a_subscriber_that_does_not_read_costs_little_in_every_form() {
    const CLIENTS: u64 = 500;
    /// A connection of the HTTP library and its tasks, and one piece.
    const MOST: u64 = 40 << 10;
    let _alone = ALONE.lock();
    let stream = "text/event-stream";
    for (form, to, accept) in [
        ("event stream", "/v1/channels/m/1?from=earliest", stream),
        ("lines", "/v1/channels/m/1?from=earliest", "application/x-ndjson"),
        ("many channels", "/v1/events?channel=**&from=earliest", stream),
    ] {
        let hub = Hub::start(&[("FANFARE_SUBSCRIBERS__TAKEOVER", "false")]);
        hub.fill();
        let each = cost_of_each(&hub, CLIENTS, (0..CLIENTS).map(|_| get(to, accept)));
        println!("{form}: {each} bytes");
        assert!(each <= MOST, "{form}: {each} bytes each");
    }
}

/// A connection of HTTP/2 that opens so many streams, and lets nothing be sent on any.
fn without_window(streams: u32) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    };
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE is 0.
    bytes.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    let path = b"/v1/channels/m/1?from=earliest";
    for number in 0..streams {
        // :method GET, :scheme http, :path, :authority; HEADERS that end both head and stream.
        let mut fields = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
        fields.extend_from_slice(path);
        fields.extend_from_slice(b"\x01\x09localhost");
        bytes.extend(frame(1, 5, 2 * number + 1, &fields));
    }
    bytes
}

#[test]
fn a_stream_of_http_2_without_a_window_costs_little_and_all_is_given_back() {
    const CONNECTIONS: u64 = 10;
    const STREAMS: u32 = 250;
    /// The library's state of a stream, its task, and an event or two.
    const MOST: u64 = 8 << 10;
    let _alone = ALONE.lock();
    let hub = Hub::start(&[]);
    hub.fill();
    let start = hub.settled();
    let clients = (0..CONNECTIONS).map(|_| without_window(STREAMS));
    let each = cost_of_each(&hub, CONNECTIONS * u64::from(STREAMS), clients);
    println!("{each} bytes");
    assert!(each <= MOST, "{each} bytes each");
    hub.wait_for("fanfare_unwritten_bytes", 0);
    let left = hub.settled().saturating_sub(start);
    assert!(left <= 24 << 20, "{left} bytes are left of it");
}

#[test]
fn what_clients_do_not_read_has_a_budget_and_those_who_read_nothing_for_longest_go() {
    const CLIENTS: usize = 400;
    let _alone = ALONE.lock();
    let settings = [
        ("FANFARE_SUBSCRIBERS__TAKEOVER", "false"),
        ("FANFARE_SUBSCRIBERS__MAX_UNWRITTEN", "1MiB"),
    ];
    let hub = Hub::start(&settings);
    hub.fill();
    let request = get("/v1/channels/m/1?from=earliest", "text/event-stream");
    let _clients: Vec<TcpStream> = (0..CLIENTS).map(|_| hub.unread(&request)).collect();
    let ended = "fanfare_limit_hits_total{limit=\"subscribers.max_unwritten\"}";
    let deadline = Instant::now() + PATIENCE;
    while hub.gauge(ended) == 0 || hub.gauge("fanfare_unwritten_bytes") > 1 << 20 {
        assert!(Instant::now() < deadline, "{} bytes", hub.gauge("fanfare_unwritten_bytes"));
        std::thread::sleep(Duration::from_millis(20));
    }
    // Others are served meanwhile.
    let page = ask(
        hub.addr,
        b"GET /v1/channels/m/2?from=earliest&limit=3 HTTP/1.1\r\nHost: localhost\r\n\
          Accept: application/json\r\nConnection: close\r\n\r\n",
    );
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
}

#[test]
fn a_publish_waits_for_no_crowd_that_reads_many_channels() {
    const READERS: usize = 300;
    const PUBLISHES: usize = 40;
    /// All of them together. A crowd that is given its turn before each takes many times as long.
    const MOST: Duration = Duration::from_secs(5);
    let _alone = ALONE.lock();
    let hub = Hub::start(&[]);
    hub.fill();
    let names: Vec<String> = (0..60).map(|number| format!("&channel=x/{number}/**")).collect();
    let to = format!("/v1/events?from=earliest&channel=**{}", names.concat());
    let request = get(&to, "text/event-stream");
    let readers: Vec<TcpStream> = (0..READERS).map(|_| hub.unread(&request)).collect();
    let began = Instant::now();
    for _ in 0..PUBLISHES {
        let answer = hub.post("/v1/channels/m/0", "text/plain", "news");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let took = began.elapsed();
    println!("{PUBLISHES} publishes: {took:?}");
    assert!(took <= MOST, "{took:?}");
    hub.wait_for("fanfare_subscriptions", READERS as u64);
    drop(readers);
}

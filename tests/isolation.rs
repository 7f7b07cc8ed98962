//! Clients do not affect others: those that do not read, or read a great deal, or send refused
//! requests, cost a bounded amount of memory and of the threads that serve publishes.
//!
//! A separate test binary, because it needs the machine for itself. The hub is a process, whose
//! memory is counted separately.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests may: helpers are not seen as tests

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use fanfare_testing::http::request_blocking;
use fanfare_testing::{HubProcess, until};
use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};
use tokio::time::Instant;

/// The content of all channels together, for readers from the earliest event: more than kernels and
/// libraries buffer for a client that does not read.
const CHANNELS: usize = 10;
const EVENTS: usize = 800;

/// Serialises the tests, each of which needs the processors for itself.
static ALONE: Mutex<()> = Mutex::new(());

/// A hub with many clients and large bodies.
struct Hub(HubProcess);

impl Hub {
    fn start(settings: &[(&str, &str)]) -> Self {
        let quotas =
            [("FANFARE_QUOTAS__ADDRESS_CONNECTIONS", "off"), ("FANFARE_QUOTAS__BYTES", "off")];
        Self(HubProcess::measured(env!("CARGO_BIN_EXE_fanfare"), &[&quotas, settings].concat()))
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
        let length = body.len();
        let headers = format!("Content-Type: {kind}\r\nContent-Length: {length}");
        request_blocking(self.0.addr(), &format!("POST {to} HTTP/1.1\r\n{headers}"), body)
    }

    /// Opens a client that sends this request, and reads nothing.
    fn unread(&self, request: &[u8]) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        // The kernel's buffer is not part of the measurement.
        socket.set_recv_buffer_size(1024).expect("a small buffer");
        socket.connect(&self.0.addr().into()).expect("a connection");
        let mut tcp = TcpStream::from(socket);
        tcp.write_all(request).expect("a request");
        tcp
    }

    fn gauge(&self, name: &str) -> u64 {
        self.0.gauge(name)
    }

    fn wait_for(&self, name: &str, wanted: u64) {
        until(&format!("{name} to be {wanted}"), || (self.gauge(name) == wanted).then_some(()));
    }

    /// Returns the anonymous memory of the process, once it is stable.
    fn settled(&self) -> u64 {
        let mut last = self.0.anonymous();
        loop {
            sleep(Duration::from_millis(300));
            let now = self.0.anonymous();
            if now.abs_diff(last) < 64 << 10 {
                return now;
            }
            last = now;
        }
    }
}

fn get(to: &str, accept: &str) -> Vec<u8> {
    format!("GET {to} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n").into_bytes()
}

/// Returns the memory that each of these clients costs the hub, in bytes.
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

/// Encodes an HTTP/2 connection that opens this many streams with a flow-control window of zero.
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
    until("unwritten bytes to be within the budget", || {
        let is_within = hub.gauge("fanfare_unwritten_bytes") <= 1 << 20;
        (hub.gauge(ended) > 0 && is_within).then_some(())
    });
    // Other clients are served meanwhile.
    let head = "GET /v1/channels/m/2?from=earliest&limit=3 HTTP/1.1\r\nAccept: application/json";
    let page = request_blocking(hub.0.addr(), head, "");
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
}

#[test]
fn a_publish_waits_for_no_crowd_that_reads_many_channels() {
    const READERS: usize = 300;
    const PUBLISHES: usize = 40;
    /// All of them together. Clients served one after the other take many times as long.
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

/// Returns the peak memory of the hub during a function, and the function's result.
fn peak<T>(hub: &Hub, meanwhile: impl FnOnce() -> T) -> (u64, T) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            while !is_over.load(Ordering::Relaxed) {
                peak = hub.0.anonymous().max(peak);
                sleep(Duration::from_millis(10));
            }
            peak
        });
        let outcome = meanwhile();
        is_over.store(true, Ordering::Relaxed);
        (watch.join().expect("the watch"), outcome)
    })
}

/// Returns the head of a request with an endless body.
fn endless(line: &str, kind: &str) -> Vec<u8> {
    format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n\
             Content-Length: 50000000\r\n\r\n"
    )
    .into_bytes()
}

impl Hub {
    /// Opens clients that each send this request, as far as the hub accepts it: a refusal ends the
    /// sending.
    fn send_all(&self, clients: usize, request: &[u8]) -> Vec<TcpStream> {
        let connect = || TcpStream::connect(self.0.addr()).expect("a connection");
        let mut clients: Vec<TcpStream> = (0..clients).map(|_| connect()).collect();
        std::thread::scope(|scope| {
            for some in clients.chunks_mut(16) {
                scope.spawn(move || some.iter_mut().for_each(|tcp| drop(tcp.write_all(request))));
            }
        });
        clients
    }

    /// Waits until the memory in use is below this limit.
    fn wait_until_given_back(&self, most: u64) {
        until(&format!("at most {most} bytes"), || (self.0.anonymous() <= most).then_some(()));
    }
}

#[test]
fn unfinished_bodies_take_little_more_than_their_budget_and_all_is_given_back() {
    const CLIENTS: usize = 200;
    const BUDGET: u64 = 32 << 20;
    /// Connections and their tasks, discarded bytes of refused requests, and free memory.
    const BESIDE: u64 = 28 << 20;
    const LEFT: u64 = 16 << 20;
    let _alone = ALONE.lock();
    let lines = format!("data: {}\n", "u".repeat(1000)).repeat(1100);
    let line = |begins: &str| format!("{begins}{}", "u".repeat(1_100_000));
    for (to, kind, body) in [
        ("/v1/channels/u", "text/event-stream", line("data: ")),
        ("/v1/channels/u", "text/event-stream", lines),
        ("/v1/channels/u", "image/png", line("")),
        ("/v1/publish", "application/x-ndjson", line("{")),
    ] {
        let hub = Hub::start(&[("FANFARE_PUBLISH__MAX_UNFINISHED", "32MiB")]);
        let start = hub.settled();
        let request = [&endless(&format!("POST {to}"), kind), body.as_bytes()].concat();
        // The second time reuses the memory of the first.
        for _ in 0..2 {
            let (peak, clients) = peak(&hub, || {
                let clients = hub.send_all(CLIENTS, &request);
                hub.settled();
                clients
            });
            let peak = peak.saturating_sub(start);
            println!("{kind} to {to}: {} KiB", peak >> 10);
            assert!(peak >= BUDGET / 2, "{kind} to {to}: {peak} bytes: nothing was held");
            assert!(peak <= BUDGET + BESIDE, "{kind} to {to}: {peak} bytes");
            drop(clients);
            hub.wait_until_given_back(start + LEFT);
        }
    }
}

#[test]
fn what_a_publisher_has_sent_and_is_published_takes_no_memory_of_its_stream() {
    const FIRST: usize = 10;
    const CLIENTS: usize = 60;
    const MOST: u64 = 96 << 10;
    let _alone = ALONE.lock();
    let large = format!("data: {}\n\n", "u".repeat(500_000));
    let lines = "{\"channel\":\"u\",\"data\":0}\n".repeat(2000);
    let stream = "text/event-stream";
    let ndjson = "application/x-ndjson";
    for (to, kind, body, events) in [
        ("/v1/channels/u", stream, large, 1),
        ("/v1/channels/u", stream, "data:\n\n".repeat(4000), 4000),
        ("/v1/publish", ndjson, lines, 2000),
    ] {
        let settings = [("FANFARE_CHANNELS__MAX_BYTES", "1MiB"), ("FANFARE_QUOTAS__EVENTS", "off")];
        let hub = Hub::start(&settings);
        let request = [&endless(&format!("POST {to}"), kind), body.as_bytes()].concat();
        let send = |clients: usize, before: usize| {
            let clients = hub.send_all(clients, &request);
            let events = (clients.len() + before) * events;
            hub.wait_for("fanfare_events_published_total", events as u64);
            clients
        };
        // Now the log has its largest size, and each thread its own memory.
        let _first = send(FIRST, 0);
        let before = hub.settled();
        let _clients = send(CLIENTS, FIRST);
        hub.wait_until_given_back(before + CLIENTS as u64 * MOST);
    }
}

#[test]
fn a_long_id_of_a_publisher_is_not_copied_for_each_of_its_events() {
    const MOST: u64 = 64 << 20;
    let _alone = ALONE.lock();
    let hub = Hub::start(&[]);
    let start = hub.settled();
    let body = format!("id: {}\n\n{}", "i".repeat(200_000), "data:\n\n".repeat(20_000));
    let (peak, answer) = peak(&hub, || hub.post("/v1/channels/u", "text/event-stream", &body));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let peak = peak.saturating_sub(start);
    println!("{} KiB", peak >> 10);
    assert!(peak <= MOST, "{peak} bytes");
}

#[test]
fn a_document_that_comes_byte_by_byte_takes_no_more_than_its_size() {
    const CLIENTS: usize = 50;
    const BYTES: usize = 600;
    /// A connection with its buffer, and the document.
    const MOST: u64 = 128 << 10;
    let _alone = ALONE.lock();
    let hub = Hub::start(&[]);
    let before = hub.settled();
    let mut clients = hub.send_all(CLIENTS, &endless("PUT /v1/channels/u", "application/json"));
    clients.iter().for_each(|tcp| tcp.set_nodelay(true).expect("an option"));
    for _ in 0..BYTES {
        clients.iter_mut().for_each(|tcp| tcp.write_all(b" ").expect("a byte"));
    }
    let each = hub.settled().saturating_sub(before) / CLIENTS as u64;
    println!("{each} bytes");
    assert!(each <= MOST, "{each} bytes each");
}

#[test]
fn documents_that_are_not_there_yet_count_as_unfinished_bodies() {
    let _alone = ALONE.lock();
    let settings =
        [("FANFARE_PUBLISH__MAX_EVENT_BYTES", "1MiB"), ("FANFARE_PUBLISH__MAX_UNFINISHED", "1MiB")];
    for line in ["PUT /v1/channels/u", "POST /v1/signals/u", "POST /v1/tokens"] {
        let hub = Hub::start(&settings);
        let request = [endless(line, "application/json"), vec![b' '; 40_000]].concat();
        let clients = hub.send_all(60, &request);
        // Some were refused: one of them has an answer.
        let answered = |mut tcp: &TcpStream| {
            tcp.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out");
            let mut answer = [0; 2000];
            let read = tcp.read(&mut answer).ok().filter(|read| *read > 0)?;
            Some(String::from_utf8_lossy(&answer[..read]).into_owned())
        };
        let answer = until(&format!("an answer to {line}"), || clients.iter().find_map(answered));
        assert!(answer.starts_with("HTTP/1.1 503"), "{line}: {answer}");
        assert!(answer.contains("publish.max_unfinished"), "{line}: {answer}");
    }
}

//! Malicious HTTP/2 clients, frame by frame: each is stopped, and others are not affected.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{SseClient, TestHub, eventually, within};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Encodes the fields of a request, with the initial table of every client.
fn fields(method: u8, path: &str) -> Vec<u8> {
    let mut fields = vec![method, 0x86]; // :method, :scheme http
    for (index, value) in [(0x04, path), (0x01, "hub.test")] {
        fields.push(index); // :path, :authority, not to be kept
        fields.push(u8::try_from(value.len()).expect("a short text"));
        fields.extend_from_slice(value.as_bytes());
    }
    fields
}

const GET: u8 = 0x82;
const POST: u8 = 0x83;

/// Returns the `n`th stream id of a client.
fn stream(n: u32) -> u32 {
    2 * n + 1
}

/// A connection on which a test writes frames itself.
struct Raw {
    tcp: TcpStream,
    unread: Vec<u8>,
}

/// A frame that the hub has sent.
#[derive(Debug)]
struct Frame {
    kind: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    /// Returns the error code of a `RST_STREAM` or a `GOAWAY`.
    fn reason(&self) -> u32 {
        let at = if self.kind == GO_AWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("a reason"))
    }
}

impl Raw {
    /// Opens a connection and sends the preface and these settings.
    async fn open(hub: &TestHub, settings: &[u8]) -> Self {
        let mut tcp = TcpStream::connect(hub.addr()).await.expect("a connection");
        let begin = [PREFACE, &frame(SETTINGS, 0, 0, settings)].concat();
        tcp.write_all(&begin).await.expect("a beginning");
        Self { tcp, unread: Vec::new() }
    }

    /// Sends these bytes; returns whether the hub accepted them.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        within("a write", self.tcp.write_all(bytes)).await.is_ok()
    }

    /// Returns the next frame, or `None` when the hub has closed.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if self.unread.len() >= 9 {
                let head = &self.unread[..9];
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if self.unread.len() >= 9 + length {
                    let stream = u32::from_be_bytes(head[5..9].try_into().expect("four bytes"));
                    let kind = head[3];
                    let payload = self.unread[9..9 + length].to_vec();
                    self.unread.drain(..9 + length);
                    return Some(Frame { kind, stream, payload });
                }
            }
            match within("a frame", self.tcp.read_buf(&mut self.unread)).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Returns the next frame of this kind.
    async fn next_of(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await.expect("a frame, not the end");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Reads to the end of the connection; returns the error code, if the hub sent one.
    async fn end(&mut self) -> Option<u32> {
        let mut reason = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GO_AWAY {
                reason = Some(frame.reason());
            }
        }
        reason
    }
}

/// Another client, which must not be affected.
struct Bystander {
    client: SseClient,
    published: usize,
}

impl Bystander {
    async fn of(hub: &TestHub) -> Self {
        Self { client: hub.subscribe("quiet").await, published: 0 }
    }

    async fn is_well(&mut self, hub: &TestHub) {
        self.published += 1;
        let data = self.published.to_string();
        hub.publish("quiet", &data).await;
        assert_eq!(self.client.next().await.data, data);
    }
}

/// Sends until the hub closes, and asserts that fewer than `most` bytes were sent.
async fn flood(raw: &mut Raw, piece: &[u8], most: usize) {
    let mut sent = 0;
    while raw.send(piece).await {
        sent += piece.len();
        assert!(sent < most, "the hub takes it without end: {sent} bytes");
    }
}

#[tokio::test]
async fn streams_that_are_reset_as_soon_as_they_are_opened_end_the_connection() {
    let hub = TestHub::start().await;
    let mut bystander = Bystander::of(&hub).await;
    let mut raw = Raw::open(&hub, b"").await;
    let mut attack = Vec::new();
    for n in 0..10_000 {
        let head = fields(GET, "/v1/channels/c");
        attack.extend(frame(HEADERS, END_STREAM | END_HEADERS, stream(n), &head));
        attack.extend(frame(RESET, 0, stream(n), &8u32.to_be_bytes()));
    }
    raw.send(&attack).await;
    let reason = raw.end().await;
    assert!(matches!(reason, None | Some(ENHANCE_YOUR_CALM)), "{reason:?}");
    bystander.is_well(&hub).await;
    eventually("its subscriptions to go", async || hub.metric("fanfare_subscriptions").await < 2.0)
        .await;
    let begun = hub.metric("fanfare_subscriptions_started_total").await;
    assert!(begun < 100.0, "{begun} subscriptions were begun for it");
}

#[tokio::test]
async fn a_head_without_end_ends_the_connection() {
    let hub = TestHub::start().await;
    let mut bystander = Bystander::of(&hub).await;
    // Empty, small, and as large as allowed: the hub's own limit is 32 KiB.
    for size in [0, 10, 16_000] {
        let mut raw = Raw::open(&hub, b"").await;
        raw.send(&frame(HEADERS, END_STREAM, 1, &fields(GET, "/healthz"))).await;
        // A literal field without indexing: `x: …`.
        let mut field = vec![0x00, 1, b'x', 0x7f];
        let mut rest = size;
        if size > 0 {
            rest -= 0x7f.min(rest);
            while rest >= 0x80 {
                field.push(u8::try_from(rest % 0x80).expect("seven bits") | 0x80);
                rest /= 0x80;
            }
            field.push(u8::try_from(rest).expect("seven bits"));
            field.extend(std::iter::repeat_n(b'a', size));
        } else {
            field.clear();
        }
        flood(&mut raw, &frame(CONTINUATION, 0, 1, &field), 64 << 20).await;
        let reason = raw.end().await;
        assert!(reason.is_none_or(|reason| reason != 0), "an error: {reason:?}");
        bystander.is_well(&hub).await;
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_and_the_connection_continues() {
    let hub = TestHub::start().await;
    let mut raw = Raw::open(&hub, b"").await;
    // 40 KB in three frames.
    let mut field = vec![0x00, 1, b'x', 0x7f, 0xc1, 0xb7, 0x02];
    field.extend(std::iter::repeat_n(b'a', 0x7f + 0x41 + (0x37 << 7) + (2 << 14)));
    let block = [fields(GET, "/healthz"), field].concat();
    let mut parts = block.chunks(16_000);
    raw.send(&frame(HEADERS, END_STREAM, 1, parts.next().expect("a part"))).await;
    let parts: Vec<_> = parts.collect();
    for (n, part) in parts.iter().enumerate() {
        let flags = if n + 1 == parts.len() { END_HEADERS } else { 0 };
        raw.send(&frame(CONTINUATION, flags, 1, part)).await;
    }
    let answer = raw.next_of(HEADERS).await;
    assert_eq!(answer.stream, 1);
    assert!(contains(&answer.payload, &[0x69, 0x90, 0xff]), "431 in Huffman's code: {answer:?}");
    raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 3, &fields(GET, "/healthz"))).await;
    let answer = raw.next_of(HEADERS).await;
    assert_eq!((answer.stream, answer.payload[0]), (3, 0x88), "`:status: 200`");
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn empty_frames_of_data_end_the_connection() {
    let hub = TestHub::start().await;
    let mut bystander = Bystander::of(&hub).await;
    let mut raw = Raw::open(&hub, b"").await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, &fields(POST, "/v1/channels/c"))).await;
    flood(&mut raw, &frame(DATA, 0, 1, b"").repeat(20), 64 << 20).await;
    let reason = raw.end().await;
    assert!(matches!(reason, None | Some(ENHANCE_YOUR_CALM)), "{reason:?}");
    bystander.is_well(&hub).await;
}

#[tokio::test]
async fn a_publisher_of_single_bytes_is_slow_and_welcome() {
    let hub = TestHub::start().await;
    let mut raw = Raw::open(&hub, b"").await;
    raw.send(&frame(HEADERS, END_HEADERS, 1, &fields(POST, "/v1/channels/c"))).await;
    let text = "0123456789".repeat(1000);
    for bytes in text.as_bytes().chunks(100) {
        let frames: Vec<u8> = bytes.iter().flat_map(|byte| frame(DATA, 0, 1, &[*byte])).collect();
        assert!(raw.send(&frames).await);
        // No faster than the hub reads: that is the limit.
        raw.send(&frame(PING, 0, 0, b"are you?")).await;
        raw.next_of(PING).await;
    }
    raw.send(&frame(DATA, END_STREAM, 1, b"")).await;
    let answer = raw.next_of(HEADERS).await;
    assert_eq!(answer.payload[0], 0x88, "`:status: 200`");
    let page = hub.page("c", "from=earliest").await;
    assert_eq!(page["events"][0]["data"], text);
}

#[tokio::test]
async fn streams_past_the_limit_are_refused_and_a_client_that_continues_is_cut() {
    let hub = TestHub::with("server.max_h2_streams = 4").await;
    let mut bystander = Bystander::of(&hub).await;
    let mut raw = Raw::open(&hub, b"").await;
    let open =
        |n| frame(HEADERS, END_STREAM | END_HEADERS, stream(n), &fields(GET, "/v1/channels/c"));
    for n in 0..6 {
        raw.send(&open(n)).await;
    }
    for n in 4..6 {
        let refused = raw.next_of(RESET).await;
        assert_eq!((refused.stream, refused.reason()), (stream(n), REFUSED_STREAM));
    }
    hub.until_metric("fanfare_subscriptions", 5.0).await;
    bystander.is_well(&hub).await;
    let more: Vec<u8> = (6..10_000).flat_map(open).collect();
    raw.send(&more).await;
    let reason = raw.end().await;
    assert!(matches!(reason, None | Some(ENHANCE_YOUR_CALM)), "{reason:?}");
    eventually("its subscriptions to go", async || hub.metric("fanfare_subscriptions").await < 2.0)
        .await;
    bystander.is_well(&hub).await;
}

#[tokio::test]
async fn questions_without_end_from_a_client_that_does_not_read_are_cut() {
    let hub = TestHub::with("subscribers.write_timeout = \"300ms\"").await;
    let mut bystander = Bystander::of(&hub).await;
    for question in [frame(PING, 0, 0, b"12345678"), frame(SETTINGS, 0, 0, b"")] {
        let mut raw = Raw::open(&hub, b"").await;
        // A request, so that the limit of connections without one does not apply.
        raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &fields(GET, "/healthz"))).await;
        // Fills the buffers of both kernels with requests and answers, until the connection is
        // stuck.
        flood(&mut raw, &question.repeat(4000), 1 << 30).await;
        bystander.is_well(&hub).await;
    }
    let cut = hub.metric("fanfare_limit_hits_total{limit=\"subscribers.write_timeout\"}").await;
    assert!(cut >= 2.0, "{cut}");
}

#[tokio::test]
async fn a_connection_with_a_stuck_subscriber_counts_as_one_timeout() {
    let hub = TestHub::with("subscribers.write_timeout = \"1s\"").await;
    let before = hub.metric("fanfare_connections").await;
    let mut raw = Raw::open(&hub, &[0, 4, 0x7f, 0xff, 0xff, 0xff]).await;
    raw.send(&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0, 0])).await;
    let head = fields(GET, "/v1/channels/c");
    raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &head)).await;
    assert_eq!(raw.next_of(HEADERS).await.stream, 1);
    // From here on the client reads nothing, and the buffers of both kernels fill up.
    for _ in 0..15 {
        hub.publish("c", &"x".repeat(1_000_000)).await;
    }
    hub.until_metric("fanfare_subscriptions_ended_total{reason=\"write_timeout\"}", 1.0).await;
    eventually("the cut", async || hub.metric("fanfare_connections").await <= before).await;
    let hits = "fanfare_limit_hits_total{limit=\"subscribers.write_timeout\"}";
    assert_eq!(hub.metric(hits).await, 1.0);
}

#[tokio::test]
async fn a_subscriber_with_a_window_of_nothing_is_ended() {
    let hub = TestHub::with("subscribers.write_timeout = \"300ms\"").await;
    let mut bystander = Bystander::of(&hub).await;
    let no_window = [0, 4, 0, 0, 0, 0];
    let mut raw = Raw::open(&hub, &no_window).await;
    let head = fields(GET, "/v1/channels/c");
    raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &head)).await;
    assert_eq!(raw.next_of(HEADERS).await.stream, 1);
    hub.until_metric("fanfare_subscriptions", 2.0).await;
    for _ in 0..20 {
        hub.publish("c", &"x".repeat(100_000)).await;
    }
    let ended = "fanfare_subscriptions_ended_total{reason=\"write_timeout\"}";
    hub.until_metric(ended, 1.0).await;
    bystander.is_well(&hub).await;
    // The stream is reset; the connection and its other streams are not affected.
    let reset = raw.next_of(RESET).await;
    assert_eq!(reset.stream, 1);
    raw.send(&frame(HEADERS, END_STREAM | END_HEADERS, 3, &fields(GET, "/healthz"))).await;
    assert_eq!(raw.next_of(HEADERS).await.stream, 3);
}

#[tokio::test]
async fn a_connection_without_a_request_is_cut_in_time() {
    let hub = TestHub::with("server.header_timeout = \"300ms\"").await;
    let mut raw = Raw::open(&hub, b"").await;
    raw.send(&frame(PRIORITY, 0, 1, &[0; 5])).await;
    raw.end().await;
    let mut half = TcpStream::connect(hub.addr()).await.expect("a connection");
    half.write_all(&PREFACE[..20]).await.expect("a write");
    let mut rest = Vec::new();
    let _reset = within("the cut", half.read_to_end(&mut rest)).await;
    let head = frame(HEADERS, END_STREAM, 1, &fields(GET, "/healthz"));
    let mut open = Raw::open(&hub, b"").await;
    open.send(&head).await;
    open.end().await;
    hub.until_metric("fanfare_limit_hits_total{limit=\"server.header_timeout\"}", 3.0).await;
}

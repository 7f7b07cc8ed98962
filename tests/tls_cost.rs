//! The cost of a subscriber over TLS, compared with a plain one: resident memory and processor time
//! for each event. A measurement, and not a test: `docs/tls.md` has its numbers, made with
//!
//! ```sh
//! cargo test --release --test tls_cost -- --ignored --nocapture
//! ```
#![allow(clippy::unwrap_used, clippy::expect_used)] // a measurement may

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fanfare_testing::{HubProcess, usage};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Subscribers of one channel.
const SUBSCRIBERS: usize = 1000;

/// Events for each of them, one every few milliseconds, like tokens.
const EVENTS: usize = 300;

/// The pause between two events.
const PACE: Duration = Duration::from_millis(10);

/// Subscribers that share one connection of HTTP/2.
const STREAMS: usize = 50;

/// Handshakes, measured separately.
const HANDSHAKES: usize = 500;

/// Starts a hub whose resource use can be read.
fn start(way: &Way) -> HubProcess {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command.envs(way.settings.iter().map(|(key, value)| (key, value)));
    HubProcess::new(command).started()
}

/// A transport of subscribers.
#[derive(Clone)]
struct Way {
    name: &'static str,
    tls: Option<TlsConnector>,
    http2: bool,
    settings: Vec<(&'static str, String)>,
}

/// An object-safe combination of both traits.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Way {
    async fn connect(&self, to: SocketAddr) -> Box<dyn Duplex> {
        let tcp = TcpStream::connect(to).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        match &self.tls {
            Some(tls) => {
                let name = ServerName::try_from("localhost").unwrap();
                Box::new(tls.connect(name, tcp).await.unwrap())
            }
            None => Box::new(tcp),
        }
    }

    async fn subscribe(&self, to: SocketAddr, seen: &Arc<AtomicUsize>) {
        if self.http2 {
            let io = TokioIo::new(self.connect(to).await);
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            for _ in 0..STREAMS {
                let request = hyper::Request::get("https://localhost/v1/channels/c");
                let request = request.body(Full::<Bytes>::default()).unwrap();
                let mut body = sender.clone().send_request(request).await.unwrap().into_body();
                // After the first bytes, no event is missed.
                body.frame().await.unwrap().unwrap();
                // The connection would end if its sender were dropped.
                tokio::spawn(read(body, seen.clone(), sender.clone()));
            }
            return;
        }
        let mut stream = self.connect(to).await;
        let head = b"GET /v1/channels/c HTTP/1.1\r\nHost: localhost\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut preamble = String::new();
        while !preamble.contains("\nid: ") {
            let mut room = [0; 2048];
            let read = stream.read(&mut room).await.unwrap();
            preamble.push_str(std::str::from_utf8(&room[..read]).unwrap());
        }
        let seen = seen.clone();
        tokio::spawn(async move {
            let mut room = [0; 2048];
            while let Ok(read @ 1..) = stream.read(&mut room).await {
                count(&room[..read], &seen);
            }
        });
    }
}

async fn read(mut body: Incoming, seen: Arc<AtomicUsize>, _open: impl Send) {
    while let Some(Ok(frame)) = body.frame().await {
        count(frame.data_ref().unwrap(), &seen);
    }
}

/// Counts events: each has one `@` in it, and no other byte is one.
fn count(bytes: &[u8], seen: &AtomicUsize) {
    seen.fetch_add(bytes.iter().filter(|byte| **byte == b'@').count(), Ordering::Relaxed);
}

async fn until(what: &str, is: impl Fn() -> bool) {
    let waiting = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(120), waiting).await.is_ok(), "{what}");
}

async fn measure(way: &Way, publishes: &Way, table: &mut String) {
    let hub = start(way);
    let seen = Arc::new(AtomicUsize::new(0));
    let io = TokioIo::new(publishes.connect(hub.addr()).await);
    let (mut publisher, connection) = http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    publish(&mut publisher).await;
    let before = hub.anonymous();
    let mut there = 0;
    while there < SUBSCRIBERS {
        way.subscribe(hub.addr(), &seen).await;
        there += if way.http2 { STREAMS } else { 1 };
    }
    publish(&mut publisher).await;
    until("the first event", || seen.load(Ordering::Relaxed) >= SUBSCRIBERS).await;
    let cpu = usage::processor_time(hub.id());
    for _ in 0..EVENTS {
        publish(&mut publisher).await;
        tokio::time::sleep(PACE).await;
    }
    let all = SUBSCRIBERS * (EVENTS + 1);
    until("all events", || seen.load(Ordering::Relaxed) >= all).await;
    let each =
        (usage::processor_time(hub.id()) - cpu).as_secs_f64() * 1e6 / (SUBSCRIBERS * EVENTS) as f64;
    let memory = hub.anonymous().saturating_sub(before) as f64 / SUBSCRIBERS as f64 / 1024.0;
    writeln!(table, "| {} | {memory:.1} KiB | {each:.1} µs |", way.name).unwrap();
}

async fn publish(publisher: &mut http1::SendRequest<Full<Bytes>>) {
    publisher.ready().await.unwrap();
    let body = format!("@{}", "x".repeat(100));
    let request = hyper::Request::post("/v1/channels/c").header("Host", "localhost");
    let request = request.body(Full::from(body)).unwrap();
    let answer = publisher.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await.unwrap();
}

async fn handshakes(way: &Way, what: &str, table: &mut String) {
    let hub = start(way);
    let cpu = usage::processor_time(hub.id());
    for _ in 0..HANDSHAKES {
        let mut stream = way.connect(hub.addr()).await;
        let head = b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
    let each = (usage::processor_time(hub.id()) - cpu).as_secs_f64() * 1e3 / HANDSHAKES as f64;
    writeln!(table, "| {what} | {each:.2} ms |").unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: see the top of the file"]
async fn what_a_subscriber_costs() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let cert = folder.path().join("cert.pem");
    let key = folder.path().join("key.pem");
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let files = [
        ("FANFARE_TLS__CERT", cert.display().to_string()),
        ("FANFARE_TLS__KEY", key.display().to_string()),
    ];
    let mut trusted = RootCertStore::empty();
    trusted.add(made.cert.der().clone()).unwrap();
    let connector = |protocol: &str, resume: bool| {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(trusted.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        if !resume {
            config.resumption = rustls::client::Resumption::disabled();
        }
        TlsConnector::from(Arc::new(config))
    };
    let no_takeover = vec![("FANFARE_SUBSCRIBERS__TAKEOVER", "false".to_owned())];
    let way = |name, protocol: Option<&str>, settings: &[(&'static str, String)]| Way {
        name,
        tls: protocol.map(|protocol| connector(protocol, true)),
        http2: protocol == Some("h2"),
        settings: settings.to_vec(),
    };
    let ways = [
        way("plain HTTP/1.1, taken over by a shard", None, &[]),
        way("plain HTTP/1.1, as an HTTP body", None, &no_takeover),
        way("TLS, HTTP/1.1", Some("http/1.1"), &files),
        way("TLS, HTTP/2, 50 on a connection", Some("h2"), &files),
    ];
    let mut table = String::new();
    for way in &ways[..3] {
        measure(way, way, &mut table).await;
    }
    // Its publisher uses HTTP/1.1 like the others: only the subscribers differ.
    measure(&ways[3], &ways[2], &mut table).await;
    println!("{table}");
    let mut table = String::new();
    handshakes(&ways[1], "a connection and a request, plain", &mut table).await;
    handshakes(&ways[2], "the same with TLS, by a client that comes back", &mut table).await;
    let new = Way { tls: Some(connector("http/1.1", false)), ..ways[2].clone() };
    handshakes(&new, "the same with TLS, by a new client", &mut table).await;
    println!("{table}");
}

//! Client addresses from proxies: the PROXY protocol, and the headers of trusted proxies.

use std::net::SocketAddr;
use std::sync::Arc;

use fanfare::internals::egress::{self, Egress};
use fanfare::internals::http::{
    App, ClientInfo, ConnectionLimit, Cors, ForwardedHeader, Listener, Networks, Proxies, Serving,
    Workers, document,
};
use fanfare::internals::hub::{self, Hub};
use fanfare::internals::quota::{self, Quotas};
use fanfare::internals::shutdown::Shutdown;
use fanfare::internals::telemetry::{self, Metrics};
use tokio::net::TcpListener;

use crate::support::tls::Identity;
use crate::support::{SseClient, TestHub, Wire, within};

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A listener that answers each request with the client address it determined.
struct Mirror {
    addr: SocketAddr,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
}

impl Mirror {
    async fn start(trusted: &[&str], protocol: bool, header: ForwardedHeader) -> Self {
        let trusted: Vec<_> = trusted.iter().map(ToString::to_string).collect();
        let metrics = Arc::new(Metrics::new());
        let shutdown = Shutdown::default();
        let hub = Hub::new(hub::Config::default(), metrics.clone());
        let app: App = Arc::new(|request| {
            let client = request.extensions().get::<ClientInfo>().expect("a client");
            let seen = format!("{} {}", client.peer, client.secure);
            Box::pin(async move { document("text/plain", seen) })
        });
        let serving = Serving {
            app,
            config: Arc::default(),
            shutdown: shutdown.clone(),
            egress: Egress::new(egress::Config::default(), &hub, || {}).expect("shards"),
            tls: None,
            proxies: Proxies::new(
                Networks::try_from(trusted).expect("networks"),
                protocol,
                header,
                metrics.clone(),
            ),
            cors: Cors::default(),
        };
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = tcp.local_addr().expect("its address");
        let tcp = tcp.into_std().expect("a socket");
        let workers = Workers::start(1, || async {}).expect("a worker");
        let slots = ConnectionLimit::new(10, metrics.clone());
        let quotas = Arc::new(Quotas::new(quota::Config::default()));
        tokio::spawn(Listener::new(tcp, serving, workers, slots, quotas, metrics.clone()).run());
        Self { addr, metrics, shutdown }
    }

    /// Returns the answer to a request after these bytes.
    async fn ask(&self, before: &[u8], headers: &[(&str, &str)]) -> String {
        let mut wire = Wire::connect(self.addr).await;
        wire.send(before).await;
        wire.send_head("GET", "/", headers).await;
        wire.response().await.text()
    }

    fn errors(&self, reason: &str) -> String {
        let text = String::from_utf8(telemetry::encode(&self.metrics)).expect("text");
        let name = format!("fanfare_transport_errors_total{{reason=\"{reason}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).expect("the metric").to_owned()
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.shutdown.stop();
    }
}

/// Encodes a header of version 2, of a TCP connection from this IPv4 address, with extensions.
fn version_2(from: [u8; 4], port: u16, extensions: &[u8]) -> Vec<u8> {
    let length = u16::try_from(12 + extensions.len()).expect("a length");
    let mut header = [V2, b"\x21\x11", &length.to_be_bytes(), &from, &[10, 0, 0, 9]].concat();
    header.extend_from_slice(&port.to_be_bytes());
    header.extend_from_slice(&443u16.to_be_bytes());
    header.extend_from_slice(extensions);
    header
}

#[tokio::test]
async fn both_versions_of_the_proxy_protocol_say_who_the_client_is() {
    let mirror = Mirror::start(&["127.0.0.0/8"], true, ForwardedHeader::XForwardedFor).await;
    let line = b"PROXY TCP4 192.0.2.1 10.0.0.9 5100 443\r\n";
    assert_eq!(mirror.ask(line, &[]).await, "192.0.2.1:5100 false");
    let line = b"PROXY TCP6 2001:db8::1 2001:db8::9 5100 443\r\n";
    assert_eq!(mirror.ask(line, &[]).await, "[2001:db8::1]:5100 false");
    assert_eq!(mirror.ask(&version_2([192, 0, 2, 7], 77, b""), &[]).await, "192.0.2.7:77 false");
    let extensions = [b"\x05\x04\0".as_slice(), &[7; 1024]].concat();
    let long = version_2([192, 0, 2, 8], 78, &extensions);
    assert_eq!(mirror.ask(&long, &[]).await, "192.0.2.8:78 false");
    // The address in the header must be a trusted proxy for `X-Forwarded-For` to count.
    let claim = [("X-Forwarded-For", "1.1.1.1")];
    assert_eq!(mirror.ask(&version_2([192, 0, 2, 7], 77, b""), &claim).await, "192.0.2.7:77 false");
    assert_eq!(mirror.ask(&version_2([127, 0, 0, 5], 77, b""), &claim).await, "1.1.1.1:0 false");
    // A health check of the proxy itself has no client address.
    let local = [V2, b"\x20\0\0\0"].concat();
    assert!(mirror.ask(&local, &[]).await.starts_with("127.0.0.1:"));
    assert!(mirror.ask(b"PROXY UNKNOWN\r\n", &[]).await.starts_with("127.0.0.1:"));
    assert_eq!(mirror.errors("proxy_header"), "0");
}

#[tokio::test]
async fn headers_say_who_the_client_is_if_the_proxy_is_trusted() {
    let trusted = Mirror::start(&["127.0.0.1"], false, ForwardedHeader::Forwarded).await;
    let claim = [("Forwarded", "for=1.1.1.1, for=\"192.0.2.1:80\";proto=https")];
    assert_eq!(trusted.ask(b"", &claim).await, "192.0.2.1:80 true");
    assert_eq!(trusted.errors("forwarded"), "0");
    let broken = [("Forwarded", "for=1.1.1.1, for=\"\u{e4}\"")];
    assert!(trusted.ask(b"", &broken).await.starts_with("127.0.0.1:"));
    assert_eq!(trusted.errors("forwarded"), "1");
    let stranger = Mirror::start(&["10.0.0.0/8"], false, ForwardedHeader::Forwarded).await;
    assert!(stranger.ask(b"", &claim).await.starts_with("127.0.0.1:"));
}

#[tokio::test]
async fn a_connection_without_a_proxy_header_is_closed_and_counted() {
    let settings = "server.proxy_protocol = true\nserver.trusted_proxies = [\"127.0.0.1\"]\n\
                    server.header_timeout = \"300ms\"";
    let hub = TestHub::with(settings).await;
    for (n, wrong) in [
        &b"GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PROXY TCP4 here there 1 2\r\nGET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n",
        // A header of version 2 with a length over the limit.
        &[V2, b"\x21\x11\xff\xff", &[0; 8000]].concat(),
    ]
    .iter()
    .enumerate()
    {
        let mut wire = Wire::connect(hub.addr()).await;
        wire.send(wrong).await;
        assert_eq!(wire.hang_up().await, b"", "{n}");
        let counted = "fanfare_transport_errors_total{reason=\"proxy_header\"}";
        hub.until_metric(counted, n as f64 + 1.0).await;
    }
    // An incomplete or missing header is cut off by its deadline.
    for half in [&b"PROXY TCP4 192.0.2.1 10."[..], V2, b""] {
        let mut wire = Wire::connect(hub.addr()).await;
        wire.send(half).await;
        assert_eq!(wire.hang_up().await, b"");
    }
    hub.until_metric("fanfare_limit_hits_total{limit=\"server.header_timeout\"}", 3.0).await;
    assert_eq!(hub.admin_get("/healthz").await.status(), 200, "operators come directly");
}

#[tokio::test]
async fn a_proxy_header_from_elsewhere_is_not_read() {
    let settings = "server.proxy_protocol = true\nserver.trusted_proxies = [\"192.0.2.0/24\"]";
    let hub = TestHub::with(settings).await;
    let mut wire = Wire::connect(hub.addr()).await;
    wire.send("PROXY TCP4 192.0.2.1 10.0.0.9 5100 443\r\n").await;
    wire.send_head("GET", "/healthz", &[]).await;
    assert_eq!(wire.hang_up().await, b"");
    hub.until_metric("fanfare_transport_errors_total{reason=\"untrusted_proxy\"}", 1.0).await;
}

#[tokio::test]
async fn with_a_proxy_header_all_is_as_ever_taken_over_sockets_http2_and_tls() {
    let proxied = "server.proxy_protocol = true\nserver.trusted_proxies = [\"127.0.0.1\"]\n";
    let header = b"PROXY TCP4 192.0.2.1 10.0.0.9 5100 443\r\n";
    let hub = TestHub::with(proxied).await;
    // In pieces, as a network may deliver it.
    let mut wire = Wire::connect(hub.addr()).await;
    for piece in header.chunks(7) {
        wire.send(piece).await;
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    wire.send_head("GET", "/v1/channels/c", &[]).await;
    let mut subscriber = SseClient::read(wire).await.settled().await;
    let mut publisher = Wire::connect(hub.addr()).await;
    publisher.send(header).await;
    publisher.send_head("POST", "/v1/channels/c", &[("Content-Length", "2")]).await;
    publisher.send("hi").await;
    assert_eq!(publisher.response().await.status(), 200);
    assert_eq!(subscriber.next().await.data, "hi");

    let identity = Identity::new();
    let hub = TestHub::with(&format!("{proxied}{}", identity.settings())).await;
    for protocol in ["h2", "http/1.1"] {
        let client = identity.client(protocol);
        let mut requests = client.requests_after(header, hub.addr()).await;
        let mut stream = requests.subscribe("c", &[]).await;
        let mut publisher = client.requests_after(header, hub.addr()).await;
        within("a publish", publisher.publish("c", protocol)).await;
        stream.until(&format!("data: {protocol}\n")).await;
    }
}

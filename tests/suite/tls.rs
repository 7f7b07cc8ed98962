//! TLS: both protocols, certificates that are replaced while streams are open, and clients with
//! incomplete handshakes.

use fanfare::Config;
use fanfare::Server;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::tls::{Identity, settings, was_resumed};
use crate::support::{TestHub, eventually, within};

const PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];

#[tokio::test]
async fn both_protocols_publish_subscribe_and_resume_over_tls() {
    let identity = Identity::new();
    let hub = TestHub::with(&identity.settings()).await;
    for protocol in PROTOCOLS {
        let client = identity.client(protocol);
        let mut publisher = client.requests(hub.addr()).await;
        let mut subscriber = client.requests(hub.addr()).await;
        let mut live = subscriber.subscribe("c", &[]).await;
        let one = publisher.publish("c", "one").await;
        let two = publisher.publish("c", "two").await;
        live.until(&format!("data: one\nid: {one}\n\ndata: two\nid: {two}\n\n")).await;
        let mut resumed =
            client.requests(hub.addr()).await.subscribe("c", &[("Last-Event-ID", &one)]).await;
        resumed.until(&format!("data: two\nid: {two}\n\n")).await;
        assert!(!resumed.text.contains("data: one"), "{}", resumed.text);
    }
}

#[tokio::test]
async fn one_connection_carries_a_hundred_subscribers() {
    let identity = Identity::new();
    let hub = TestHub::with(&identity.settings()).await;
    let mut requests = identity.client("h2").requests(hub.addr()).await;
    let mut streams = Vec::new();
    for n in 0..100 {
        streams.push(requests.subscribe(&format!("c/{n}"), &[]).await);
    }
    for (n, stream) in streams.iter_mut().enumerate() {
        requests.publish(&format!("c/{n}"), &format!("for {n}")).await;
        stream.until(&format!("data: for {n}\n")).await;
    }
    assert_eq!(hub.metric("fanfare_connections").await, 2.0, "this one and the one that asks");
}

#[tokio::test]
async fn tls_1_2_is_spoken_and_a_long_event_arrives_whole() {
    let identity = Identity::new();
    let hub = TestHub::with(&identity.settings()).await;
    let long = "0123456789abcdef".repeat(40_000);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for protocol in PROTOCOLS {
            let client = identity.client_of(protocol, &[version]);
            let mut subscriber = client.requests(hub.addr()).await;
            let mut stream = subscriber.subscribe("c", &[]).await;
            client.requests(hub.addr()).await.publish("c", &long).await;
            stream.until(&format!("data: {long}\n")).await;
        }
    }
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_streams_continue() {
    let mut identity = Identity::new();
    let hub = TestHub::with(&identity.settings()).await;
    let old = [identity.client("h2"), identity.client("http/1.1")];
    let mut streams = Vec::new();
    for client in &old {
        streams.push(client.requests(hub.addr()).await.subscribe("c", &[]).await);
    }
    identity.renew();
    hub.reload(&identity.settings()).await.expect("the new certificate");
    let mut publisher = identity.client("h2").requests(hub.addr()).await;
    publisher.publish("c", "after").await;
    for stream in &mut streams {
        stream.until("data: after\n").await;
    }
    let stranger = Identity::new();
    let refused = stranger.client("h2").try_connect(hub.addr()).await;
    assert!(refused.is_err(), "a client that trusts another certificate");
    // A broken file changes nothing, whichever it is.
    for (file, setting) in [(identity.cert(), "tls.cert"), (identity.key(), "tls.key")] {
        let good = std::fs::read(&file).expect("a file");
        for broken in ["", "-----BEGIN CERTIFICATE-----\nAAAA", "nothing of the kind"] {
            std::fs::write(&file, broken).expect("a file");
            let error = hub.reload(&identity.settings()).await.unwrap_err();
            assert!(error.contains(setting), "{error}");
            assert!(error.contains(file.to_str().unwrap()), "{error}");
        }
        std::fs::write(&file, good).expect("a file");
    }
    publisher = identity.client("http/1.1").requests(hub.addr()).await;
    publisher.publish("c", "still").await;
    for stream in &mut streams {
        stream.until("data: still\n").await;
    }
}

#[tokio::test]
async fn files_that_do_not_belong_together_stop_the_start_and_are_named() {
    let one = Identity::new();
    let other = Identity::new();
    let missing = one.cert().with_file_name("missing.pem");
    for (cert, key, says) in [
        (one.cert(), other.key(), "(`tls.key`) cannot be used with the certificate"),
        (one.key(), one.key(), "(`tls.cert`) has no certificate"),
        (one.cert(), one.cert(), "(`tls.key`) has no private key"),
        (missing.clone(), one.key(), "(`tls.cert`): No such file"),
        (one.cert(), missing.clone(), "(`tls.key`): No such file"),
    ] {
        let free = "server.listen = \"127.0.0.1:0\"\nserver.admin_listen = \"127.0.0.1:0\"\n";
        let config = Config::from_toml(&format!("{free}{}", settings(&cert, &key))).unwrap();
        let Err(error) = Server::bind(config).await else { panic!("it starts: {says}") };
        let error = error.to_string();
        assert!(error.starts_with("cannot serve TLS: ") && error.contains(says), "{error}");
        let names = [&cert, &key].map(|file| error.contains(file.to_str().unwrap()));
        assert!(names.contains(&true), "{error}");
    }
}

#[tokio::test]
async fn who_comes_back_saves_half_of_the_handshake_and_the_hub_remembers_nothing() {
    let mut identity = Identity::new();
    let hub = TestHub::with(&identity.settings()).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let client = identity.client_of("http/1.1", &[version]);
        for resumed in [false, true] {
            let mut stream = client.connect(hub.addr()).await;
            assert_eq!(was_resumed(&stream), resumed, "{version:?}");
            // The ticket follows the handshake: it has arrived when an answer has.
            stream.write_all(b"HEAD /healthz HTTP/1.1\r\nHost: hub\r\n\r\n").await.unwrap();
            let mut answer = [0; 100];
            assert!(within("an answer", stream.read(&mut answer)).await.unwrap() > 0);
        }
        // Tickets stay valid over a reload: no client needs a full handshake for a new certificate.
        identity.renew();
        hub.reload(&identity.settings()).await.expect("the new certificate");
        assert!(was_resumed(&client.connect(hub.addr()).await), "{version:?}");
    }
}

#[tokio::test]
async fn half_a_handshake_is_cut_and_so_is_a_whole_one_without_a_request() {
    let identity = Identity::new();
    let hub =
        TestHub::with(&format!("server.header_timeout = \"300ms\"\n{}", identity.settings())).await;
    // An incomplete record, and no record.
    for begun in [&b"\x16\x03\x01\x02\x00\x01\x00\x01"[..], b""] {
        let mut tcp = TcpStream::connect(hub.addr()).await.unwrap();
        tcp.write_all(begun).await.unwrap();
        let mut rest = Vec::new();
        let _reset = within("the cut", tcp.read_to_end(&mut rest)).await;
    }
    hub.until_metric("fanfare_limit_hits_total{limit=\"server.header_timeout\"}", 2.0).await;
    for protocol in PROTOCOLS {
        let mut stream = identity.client(protocol).connect(hub.addr()).await;
        if protocol == "h2" {
            stream
                .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
                .await
                .unwrap();
        }
        let mut rest = Vec::new();
        let _reset = within("the cut", stream.read_to_end(&mut rest)).await;
    }
    hub.until_metric("fanfare_limit_hits_total{limit=\"server.header_timeout\"}", 4.0).await;
    // A connection with a stream on it is not cut, even if the client stays silent.
    let mut requests = identity.client("h2").requests(hub.addr()).await;
    let mut stream = requests.subscribe("c", &[]).await;
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    requests.publish("c", "late").await;
    stream.until("data: late\n").await;
}

#[tokio::test]
async fn what_is_no_handshake_is_counted_and_disturbs_no_other() {
    let identity = Identity::new();
    let hub = TestHub::with(&identity.settings()).await;
    let mut stream = identity.client("h2").requests(hub.addr()).await.subscribe("c", &[]).await;
    for rubbish in
        [&b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n"[..], &[0xff; 5000], b"PRI * HTTP/2.0\r\n\r\n"]
    {
        let mut tcp = TcpStream::connect(hub.addr()).await.unwrap();
        tcp.write_all(rubbish).await.unwrap();
        let mut answer = Vec::new();
        let _reset = within("a refusal", tcp.read_to_end(&mut answer)).await;
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    hub.until_metric("fanfare_transport_errors_total{reason=\"tls_handshake\"}", 3.0).await;
    identity.client("http/1.1").requests(hub.addr()).await.publish("c", "on").await;
    stream.until("data: on\n").await;
}

#[tokio::test]
async fn a_drain_ends_streams_properly_over_tls() {
    let identity = Identity::new();
    let mut hub = TestHub::with(&format!("drain.window = \"1s\"\n{}", identity.settings())).await;
    let mut streams = Vec::new();
    for protocol in PROTOCOLS {
        let mut requests = identity.client(protocol).requests(hub.addr()).await;
        streams.push((requests.subscribe("c", &[]).await, requests));
    }
    hub.drain();
    for (stream, _) in &mut streams {
        stream.end().await;
        assert_eq!(stream.text.matches("retry: ").count(), 2, "a goodbye: {}", stream.text);
    }
    hub.stopped().await;
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_is_cut_over_tls_too() {
    let identity = Identity::new();
    let hub = TestHub::with(&format!(
        "subscribers.write_timeout = \"300ms\"\nsubscribers.max_lag_bytes = \"1GiB\"\n{}",
        identity.settings()
    ))
    .await;
    let ended = "fanfare_subscriptions_ended_total{reason=\"write_timeout\"}";
    for (n, protocol) in PROTOCOLS.iter().enumerate() {
        let mut stream = identity.client("http/1.1").connect(hub.addr()).await;
        let mut other = None;
        if *protocol == "http/1.1" {
            let head = b"GET /v1/channels/c HTTP/1.1\r\nHost: localhost\r\n\r\n";
            stream.write_all(head).await.unwrap();
        } else {
            // The library reads the socket, but the test does not read the stream: its window
            // fills.
            let mut requests = identity.client("h2").requests(hub.addr()).await;
            other = Some((requests.subscribe("c", &[]).await, requests));
        }
        hub.until_metric("fanfare_subscriptions", 1.0).await;
        let mut publisher = identity.client("http/1.1").requests(hub.addr()).await;
        let event = "x".repeat(500_000);
        for _ in 0..40 {
            publisher.publish("c", &event).await;
        }
        hub.until_metric(ended, n as f64 + 1.0).await;
        eventually("no subscriber to be left", async || {
            hub.metric("fanfare_subscriptions").await < 1.0
        })
        .await;
        drop((stream, other));
    }
}

#[tokio::test]
async fn a_connection_over_the_limit_is_refused_over_tls() {
    let identity = Identity::new();
    let hub = TestHub::with(&format!("server.max_connections = 1\n{}", identity.settings())).await;
    let mut first = identity.client("h2").requests(hub.addr()).await;
    let mut stream = first.subscribe("c", &[]).await;
    for protocol in PROTOCOLS {
        let mut second = identity.client(protocol).requests(hub.addr()).await;
        let answer = second.ask("GET", "/v1/channels/c", &[], "").await;
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key("retry-after"));
        let _ = answer.into_body().collect().await;
    }
    first.publish("c", "room").await;
    stream.until("data: room\n").await;
}

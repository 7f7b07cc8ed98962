//! The rules of HTTP/1: malformed requests, and clients that close their side.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::support::tls::Identity;
use crate::support::{
    Head, TestHub, Wire, assert_problem, event_stream, eventually, page_texts, within,
};

const POST: &str = "POST /v1/channels/c HTTP/1.1\r\n";

/// Sends this text unchanged; returns the answer, and whether the connection was closed after it.
async fn say(hub: &TestHub, text: &str) -> crate::support::Response {
    let mut wire = Wire::connect(hub.addr()).await;
    wire.send(text).await;
    let response = wire.response().await;
    assert_eq!(wire.hang_up().await, b"", "nothing behind the answer to {text:?}");
    response
}

#[tokio::test]
async fn a_request_against_the_rules_is_refused_and_its_connection_closed() {
    let hub = TestHub::start().await;
    let host = "Host: hub\r\n";
    let chunked = "1\r\nx\r\n0\r\n\r\n";
    for (text, hint) in [
        ("GET /healthz HTTP/1.1\r\n\r\n".to_owned(), "no `host`"),
        (format!("GET /healthz HTTP/1.1\r\n{host}{host}\r\n"), "more than one"),
        (format!("GET /healthz HTTP/1.0\r\n{host}{host}\r\n"), "more than one"),
        ("GET /healthz HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), "not a host"),
        ("GET /healthz HTTP/1.1\r\nHost: u@hub\r\n\r\n".to_owned(), "not a host"),
        (format!("{POST}{host}Transfer-Encoding: chunked, chunked\r\n\r\n{chunked}"), "chunked"),
        (format!("{POST}{host}Transfer-Encoding: gzip, chunked\r\n\r\n{chunked}"), "chunked"),
        (format!("{POST}{host}Transfer-Encoding: identity\r\n\r\n"), "chunked"),
        (format!("{POST}{host}Transfer-Encoding: \r\n\r\n"), "chunked"),
        (format!("{POST}{host}Transfer-Encoding: xchunked\r\n\r\n{chunked}"), "chunked"),
        (
            format!(
                "{POST}{host}Transfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n\
                 {chunked}"
            ),
            "once",
        ),
        (
            format!("{POST}{host}Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n{chunked}"),
            "both",
        ),
        (
            format!("{POST}{host}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"),
            "both",
        ),
        (
            format!(
                "{}{host}Transfer-Encoding: chunked\r\n\r\n{chunked}",
                POST.replace("1.1", "1.0")
            ),
            "1.1",
        ),
        (format!("{POST}{host}Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy"), "differ"),
        (format!("{POST}{host}Content-Length: +1\r\n\r\nx"), "number"),
        (format!("POST /v1/channels/c#d HTTP/1.1\r\n{host}Content-Length: 1\r\n\r\nx"), "%23"),
        (format!("POST /v1/channels/c?a=#d HTTP/1.1\r\n{host}Content-Length: 1\r\n\r\nx"), "%23"),
        (format!("GET /healthz HTTP/1.1\r\n{host}no colon\r\n\r\n"), "cannot be read"),
        (format!("GET /healthz HTTP/3.0\r\n{host}\r\n"), "version"),
    ] {
        let response = say(&hub, &text).await;
        assert_problem(&response, 400, "invalid_request", hint);
        assert_eq!(response.header("connection"), Some("close"), "{text:?}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
    }
    assert_eq!(hub.head("c").await.status(), 404, "nothing was published");
    // Valid forms are accepted.
    for text in [
        "GET /healthz HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n".to_owned(),
        format!("{POST}{host}Connection: close\r\nTransfer-Encoding: Chunked\r\n\r\n{chunked}"),
        format!("{POST}{host}Connection: close\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
        format!(
            "POST /v1/channels/c%23d HTTP/1.1\r\n{host}Connection: close\r\nContent-Length: 0\r\n\r\n"
        ),
    ] {
        say(&hub, &text).await.ok();
    }
    let mut old = Wire::connect(hub.addr()).await;
    old.send("GET /healthz HTTP/1.0\r\n\r\n").await;
    assert!(old.hang_up().await.starts_with(b"HTTP/1.0 200"), "which asks for no name");
}

#[tokio::test]
async fn the_refusal_of_a_head_request_has_no_body() {
    let hub = TestHub::start().await;
    let host = "Host: hub\r\n";
    for text in [
        "HEAD /healthz HTTP/1.1\r\n\r\n".to_owned(),
        format!("HEAD /v1/channels/c#d HTTP/1.1\r\n{host}\r\n"),
        format!("HEAD /healthz HTTP/1.1\r\n{host}no colon\r\n\r\n"),
        format!("HEAD /healthz HTTP/1.1\r\n{host}X: {}\r\n\r\n", "x".repeat(70_000)),
    ] {
        let mut wire = Wire::connect(hub.addr()).await;
        wire.send(&text).await;
        let status = wire.response_to(true).await.status();
        assert!(matches!(status, 400 | 431), "{status}");
        assert_eq!(wire.hang_up().await, b"", "a body after the answer to `HEAD`");
    }
}

#[tokio::test]
async fn a_later_request_of_a_connection_is_held_to_the_rules_as_well() {
    let hub = TestHub::start().await;
    let good = [
        format!("{POST}Host: hub\r\nContent-Length: 2\r\n\r\nhi"),
        format!(
            "{POST}Host: hub\r\nTransfer-Encoding: chunked\r\n\r\n2;x=\"\\\"\"\r\nhi\r\n0\r\nA: b\r\n\r\n"
        ),
        format!(
            "{POST}Host: hub\r\nTransfer-Encoding: chunked\r\n\r\n000A\r\n0123456789\r\n0\r\n\r\n"
        ),
        "GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n".to_owned(),
    ];
    let bad = "POST /v1/channels/c#d HTTP/1.1\r\nHost: hub\r\nContent-Length: 1\r\n\r\nx";
    for together in [false, true] {
        for size in [1, 3, 4096] {
            let mut wire = Wire::connect(hub.addr()).await;
            if together {
                let all = good.concat() + bad;
                for piece in all.as_bytes().chunks(size.max(7)) {
                    wire.send(piece).await;
                }
                for _ in &good {
                    wire.response().await.ok();
                }
            } else {
                for text in &good {
                    for piece in text.as_bytes().chunks(size) {
                        wire.send(piece).await;
                    }
                    wire.response().await.ok();
                }
                wire.send(bad).await;
            }
            assert_problem(&wire.response().await, 400, "invalid_request", "%23");
            wire.hang_up().await;
        }
    }
    assert_eq!(hub.metric("fanfare_events_published_total").await, 18.0);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused_with_the_setting() {
    let hub = TestHub::with("server.max_headers = 20").await;
    let long = "x".repeat(64 * 1024);
    let response = say(&hub, &format!("GET / HTTP/1.1\r\nHost: hub\r\nX: {long}\r\n\r\n")).await;
    assert_problem(&response, 431, "head_too_large", "server.max_header_bytes");
    let many: String = (0..30).map(|n| format!("X-{n}: 1\r\n")).collect();
    let response = say(&hub, &format!("GET / HTTP/1.1\r\nHost: hub\r\n{many}\r\n")).await;
    assert_problem(&response, 431, "head_too_large", "server.max_headers");
    let limit = "fanfare_limit_hits_total{limit=\"server.max_header_bytes\"}";
    hub.until_metric(limit, 2.0).await;
}

#[tokio::test]
async fn a_head_may_have_as_many_headers_as_the_setting_says() {
    for most in [20, 64, 65, 100] {
        let hub = TestHub::with(&format!("server.max_headers = {most}")).await;
        let with = |count: usize| {
            let others: String = (1..count).map(|n| format!("X-{n}: 1\r\n")).collect();
            format!("GET /healthz HTTP/1.1\r\nHost: hub\r\n{others}\r\n")
        };
        assert_eq!(say(&hub, &with(most)).await.status(), 200, "{most}");
        let response = say(&hub, &with(most + 1)).await;
        assert_problem(&response, 431, "head_too_large", "server.max_headers");
    }
}

#[tokio::test]
async fn a_page_can_read_why_its_request_is_none() {
    let hub = TestHub::with("cors.allow_origins = [\"https://app.example.com\"]").await;
    let text = "GET /healthz HTTP/1.1\r\nOrigin: https://app.example.com\r\n\r\n";
    let response = say(&hub, text).await;
    assert_problem(&response, 400, "invalid_request", "host");
    assert_eq!(response.header("access-control-allow-origin"), Some("https://app.example.com"));
}

/// Sends a request and closes the client's side at once; returns the answer.
async fn half_closed(hub: &TestHub, text: &str) -> (Head, Vec<u8>) {
    let mut wire = Wire::connect(hub.addr()).await;
    wire.send(text).await;
    wire.close_side().await;
    let head = wire.head().await;
    let mut body = Vec::new();
    loop {
        match wire.piece().await {
            crate::support::Piece::Data(data) => body.extend(data),
            crate::support::Piece::End => break,
            crate::support::Piece::Broken => panic!("broken off: {head:?}"),
        }
    }
    (head, body)
}

#[tokio::test]
async fn a_client_that_closes_its_side_is_always_answered() {
    let hub = TestHub::start().await;
    let events: Vec<_> = (0..2000).map(|n| format!("{n} {}", "x".repeat(200))).collect();
    hub.post("/v1/channels/ended?close=complete", "text/event-stream", event_stream(&events))
        .await
        .ok();
    let get = |to: &str, more: &str| format!("GET {to} HTTP/1.1\r\nHost: hub\r\n{more}\r\n");
    let last = hub.page("ended", "from=last:1").await["next"].as_str().unwrap().to_owned();
    for (text, status, end) in [
        (get("/healthz", ""), 200, "ok\n"),
        (get("/v1/channels/ended?from=earliest", "Accept: application/json\r\n"), 200, "}\n"),
        (get("/v1/channels/ended?from=earliest", ""), 200, "\n\n"),
        (get("/v1/channels/ended?from=earliest", "Accept: application/x-ndjson\r\n"), 200, "}\n"),
        (get("/v1/channels/ended?from=earliest&bare", ""), 200, "\n\n"),
        (get("/v1/events?channel=ended&from=earliest", ""), 200, "\n"),
        (get("/v1/signals/ended", ""), 200, "}\n\n"),
        (get("/v1/channels/ended", &format!("Last-Event-ID: {last}\r\n")), 204, ""),
        (get("/nowhere", ""), 404, "}\n"),
        (format!("{POST}Host: hub\r\nContent-Length: 1\r\n\r\nx"), 200, "}\n"),
        (
            format!("{POST}Host: hub\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"),
            200,
            "}\n",
        ),
        (
            format!("{POST}Host: hub\r\nContent-Length: 1\r\nContent-Encoding: br\r\n\r\nx"),
            415,
            "}\n",
        ),
        ("GET /healthz HTTP/1.1\r\n\r\n".to_owned(), 400, "}\n"),
        (get("/healthz", "").repeat(2), 200, "ok\n"),
    ] {
        for _ in 0..20 {
            let (head, body) = half_closed(&hub, &text).await;
            assert_eq!(head.status, status, "{text:?}");
            let body = String::from_utf8(body).unwrap();
            assert!(body.ends_with(end), "{text:?}: {}", &body[body.len().saturating_sub(200)..]);
            if text.contains("from=earliest") && !text.contains("application/json") {
                assert_eq!(body.matches(&"x".repeat(200)).count(), 2000, "{text:?}");
            }
        }
    }
    assert_eq!(hub.metric("fanfare_events_published_total").await, 2040.0);
}

#[tokio::test]
async fn a_live_stream_of_a_client_that_closes_its_side_ends_when_all_is_said() {
    let hub = TestHub::start().await;
    hub.publish_all("c", &["a", "b"]).await;
    for (to, accept) in [
        ("/v1/channels/c?from=earliest", "text/event-stream"),
        ("/v1/channels/c?from=earliest&coalesce=10s", "text/event-stream"),
        ("/v1/channels/c?from=earliest", "application/x-ndjson"),
        ("/v1/events?channel=c&from=earliest", "text/event-stream"),
        ("/v1/signals/c", "text/event-stream"),
        ("/v1/channels/c?wait=60s", "application/json"),
    ] {
        let text = format!("GET {to} HTTP/1.1\r\nHost: hub\r\nAccept: {accept}\r\n\r\n");
        let (head, body) = half_closed(&hub, &text).await;
        assert_eq!(head.status, 200);
        let body = String::from_utf8(body).unwrap();
        if to.contains("from=earliest") {
            assert!(body.contains('a') && body.contains('b'), "{to}: {body}");
        }
        eventually("no subscriber to be left", async || {
            hub.metric("fanfare_subscriptions").await == 0.0
        })
        .await;
    }
    // A bare stream can only break off to show that this is not the end of the generation.
    let mut wire = hub.open("/v1/channels/c?from=earliest&bare", &[]).await;
    wire.close_side().await;
    wire.head().await;
    loop {
        match wire.piece().await {
            crate::support::Piece::Data(_) => {}
            crate::support::Piece::End => panic!("it looks like the end of the generation"),
            crate::support::Piece::Broken => break,
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_at_once_wherever_it_waits() {
    let hub = TestHub::start().await;
    hub.publish("c", "a").await;
    for (to, accept) in [
        ("/v1/channels/c", "text/event-stream"),
        ("/v1/channels/c", "application/x-ndjson"),
        ("/v1/channels/c?bare", "text/event-stream"),
        ("/v1/events?channel=c", "text/event-stream"),
        ("/v1/channels/c?wait=60s", "application/json"),
    ] {
        let wire = hub.open(to, &[("Accept", accept)]).await;
        hub.until_metric("fanfare_subscriptions", 1.0).await;
        let before = Instant::now();
        drop(wire);
        eventually("the client to be gone", async || {
            hub.metric("fanfare_subscriptions").await == 0.0
        })
        .await;
        // Far sooner than a heartbeat, or the wait.
        assert!(before.elapsed() < Duration::from_secs(10), "{to}");
    }
    let gone = "fanfare_subscriptions_ended_total{reason=\"client_gone\"}";
    assert!(hub.metric(gone).await >= 4.0);
}

#[tokio::test]
async fn a_publisher_that_closes_its_side_in_the_middle_is_answered_with_what_was_kept() {
    let hub = TestHub::start().await;
    let mut wire = Wire::connect(hub.addr()).await;
    wire.send(
        "POST /v1/channels/c HTTP/1.1\r\nHost: hub\r\nContent-Type: text/event-stream\r\n\
               Content-Length: 1000\r\n\r\ndata: a\n\n",
    )
    .await;
    hub.until_metric("fanfare_events_published_total", 1.0).await;
    wire.close_side().await;
    let problem = assert_problem(&wire.response().await, 400, "invalid_event", "broke off");
    assert_eq!(problem["events"], 1);
    assert_eq!(page_texts(&hub.page("c", "from=earliest").await), ["a"]);
}

#[tokio::test]
async fn a_client_that_closes_its_side_is_answered_over_tls_too() {
    let identity = Identity::new();
    let hub = TestHub::with(&identity.settings()).await;
    let mut first = identity.client("http/1.1").requests(hub.addr()).await;
    first.publish("c", "x").await;
    for (text, start, end) in [
        ("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP/1.1 200", "ok\n"),
        (
            "POST /v1/channels/c HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx",
            "HTTP/1.1 200",
            "}\n",
        ),
        (
            "GET /v1/channels/c?from=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "HTTP/1.1 200",
            "0\r\n\r\n",
        ),
        ("GET /healthz HTTP/1.1\r\n\r\n", "HTTP/1.1 400", "}\n"),
    ] {
        for _ in 0..20 {
            let mut stream = identity.client("http/1.1").connect(hub.addr()).await;
            stream.write_all(text.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            within("the answer", stream.read_to_end(&mut answer)).await.unwrap();
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.starts_with(start) && answer.ends_with(end), "{text:?}: {answer}");
        }
    }
}

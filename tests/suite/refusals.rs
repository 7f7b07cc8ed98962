//! Refusals and their messages: foreign host names, encoded bodies, paths of the other listener,
//! requests without a credential.

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::keys::{Client, Keys, key};
use crate::support::{Response, TestHub, Wire, assert_problem, within};

/// Sends a request with this `Host` header.
async fn called(hub: &TestHub, line: &str, host: &str) -> crate::support::Response {
    let mut wire = Wire::connect(hub.addr()).await;
    let head = format!("{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\n\r\nx");
    wire.send(head).await;
    wire.response().await
}

#[tokio::test]
async fn a_hub_without_credentials_answers_to_addresses_and_localhost_only() {
    let hub = TestHub::with("server.hosts = [\"hub.test\"]").await;
    for host in ["127.0.0.1:4100", "[::1]", "localhost:80", "app.localhost", "10.1.2.3"] {
        called(&hub, "POST /v1/channels/c", host).await.ok();
    }
    for (line, host) in [
        ("POST /v1/channels/evil", "evil.example"),
        ("POST /v1/channels/evil", "evil.example:4100"),
        ("GET /v1/channels/c?from=earliest", "evil.example"),
        ("DELETE /v1/channels/c", "localhost.evil.example"),
        ("GET /openapi.yaml", "evil.example"),
        ("GET /no/such/path", "evil.example"),
        ("POST http://evil.example/v1/channels/evil", "localhost"),
    ] {
        let reply = called(&hub, line, host).await;
        let problem = assert_problem(&reply, 421, "misdirected_request", "server.hosts");
        assert_eq!(
            (&problem["retryable"], &problem["setting"]),
            (&json!(false), &json!("server.hosts"))
        );
    }
    for path in ["/healthz", "/readyz"] {
        called(&hub, &format!("GET {path}"), "evil.example").await.ok();
    }
    assert_eq!(hub.metric("fanfare_auth_refused_total{reason=\"host\"}").await, 7.0);
    assert_eq!(hub.metric("fanfare_events_published_total").await, 5.0);
}

#[tokio::test]
async fn the_admin_listener_is_as_careful_about_its_name() {
    let hub = TestHub::with("server.hosts = []").await;
    for path in ["/metrics", "/v1/channels"] {
        let mut wire = Wire::connect(hub.admin_addr()).await;
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n")).await;
        assert_problem(&wire.response().await, 421, "misdirected_request", "server.hosts");
    }
}

#[tokio::test]
async fn names_are_added_by_a_setting_and_asked_of_no_hub_with_credentials() {
    let hub = TestHub::with("server.hosts = [\"hub.example\", \"*.example.net\"]").await;
    for host in ["hub.example", "HUB.example:8080", "a.example.net"] {
        called(&hub, "POST /v1/channels/c", host).await.ok();
    }
    let reply = called(&hub, "POST /v1/channels/c", "a.hub.example").await;
    assert_problem(&reply, 421, "misdirected_request", "a.hub.example");
    let any = TestHub::with("server.hosts = [\"*\"]").await;
    called(&any, "POST /v1/channels/c", "evil.example").await.ok();
    let keys = Keys::new(&[]);
    let asks = keys.hub("server.hosts = []\n").await;
    let reply = called(&asks, "POST /v1/channels/c", "evil.example").await;
    assert_problem(&reply, 401, "unauthenticated", "");
}

#[tokio::test]
async fn a_page_of_a_name_that_may_be_used_is_answered_so_that_it_can_read_why() {
    let hub =
        TestHub::with("server.hosts = []\ncors.allow_origins = [\"https://app.example.com\"]")
            .await;
    let mut wire = Wire::connect(hub.addr()).await;
    wire.send(
        "GET /v1/channels/c HTTP/1.1\r\nHost: hub.example\r\nOrigin: https://app.example.com\r\n\r\n",
    )
    .await;
    let reply = wire.response().await;
    assert_problem(&reply, 421, "misdirected_request", "");
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.example.com"));
}

#[tokio::test]
async fn a_body_in_a_coding_is_refused_by_name() {
    let hub = TestHub::start().await;
    for (method, to) in [
        ("POST", "/v1/channels/c"),
        ("PUT", "/v1/channels/c"),
        ("POST", "/v1/publish"),
        ("POST", "/v1/signals/c"),
    ] {
        for coding in ["gzip", "br", "identity, gzip", "GZIP", "x"] {
            let headers = [("Content-Encoding", coding), ("Content-Type", "text/plain")];
            let reply = hub.request(method, to, &headers, "{}").await;
            assert_problem(&reply, 415, "unsupported_media_type", "content-encoding");
            assert_eq!(reply.header("accept-encoding"), Some("identity"));
        }
    }
    for coding in ["identity", "Identity", ""] {
        let headers = [("Content-Encoding", coding)];
        hub.request("POST", "/v1/channels/c", &headers, "x").await.ok();
    }
    // Without a body, its encoding does not matter.
    let headers = [("Content-Encoding", "gzip"), ("Accept", "application/json")];
    hub.get("/v1/channels/c?from=earliest", &headers).await.ok();
}

#[tokio::test]
async fn a_form_with_files_is_not_taken_for_an_event() {
    let hub = TestHub::start().await;
    for kind in ["multipart/form-data; boundary=x", "Multipart/Mixed;boundary=x"] {
        let body = "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x--\r\n";
        let reply = hub.post("/v1/channels/c", kind, body).await;
        assert_problem(&reply, 415, "unsupported_media_type", "--data-binary");
    }
    assert_eq!(hub.head("c").await.status(), 404);
}

#[tokio::test]
async fn a_path_of_the_other_listener_is_refused_with_its_name() {
    let hub = TestHub::start().await;
    for path in ["/metrics", "/v1/channels", "/v1/channels?prefix=a"] {
        let reply = hub.get(path, &[]).await;
        assert_problem(&reply, 404, "not_found", "server.admin_listen");
    }
    for path in ["/v1/channels/a/b", "/v1/events", "/v1/publish", "/v1/signals/a"] {
        assert_problem(&hub.admin_get(path).await, 404, "not_found", "server.listen");
    }
    assert_problem(&hub.get("/v2", &[]).await, 404, "not_found", "/openapi.yaml");
}

#[tokio::test]
async fn a_credential_in_the_wrong_form_or_place_is_refused_with_the_right_one() {
    let keys = Keys::new(&[("page", "{ subscribe = [\"a\"] }")]);
    let hub = keys.hub("auth.query_token = true\n").await;
    let to = "/v1/channels/a?from=earliest";
    for authorization in ["Basic dTpw", "Digest username=a", "sk-without-a-scheme"] {
        let reply = hub.get(to, &[("Authorization", authorization)]).await;
        assert_problem(&reply, 401, "unauthenticated", "must be `bearer`");
    }
    let reply = hub.get(&format!("{to}&access_token={}", key("page")), &[]).await;
    assert_problem(&reply, 401, "unauthenticated", "x-api-key");
}

#[tokio::test]
async fn those_who_show_nothing_are_asked_to_where_their_role_does_not_do() {
    let keys = Keys::new(&[]);
    let hub = keys.hub("auth.anonymous = { subscribe = [\"public/**\"] }\n").await;
    for (method, to) in [
        ("POST", "/v1/channels/public/a"),
        ("GET", "/v1/channels/private"),
        ("GET", "/v1/events?channel=private"),
        ("POST", "/v1/publish"),
    ] {
        let reply = Client::anonymous(&hub).request(method, to, &[], "x").await;
        let problem = assert_problem(&reply, 401, "unauthenticated", "no credential");
        assert_eq!(problem["reason"], "missing");
        assert!(reply.header("www-authenticate").is_some());
    }
}

#[tokio::test]
async fn documents_end_with_a_line_end() {
    let hub = TestHub::start().await;
    let receipt = hub.post("/v1/channels/c", "text/plain", "x").await.ok();
    let page = hub.get("/v1/channels/c?from=earliest", &[("Accept", "application/json")]).await;
    let problem = hub.get("/nowhere", &[]).await;
    let list = hub.admin_get("/v1/channels").await.ok();
    for reply in [receipt, page, problem, list] {
        assert!(reply.text().ends_with("}\n"), "{}", reply.text());
    }
}

#[tokio::test]
async fn pages_may_send_the_headers_that_tools_for_tracing_add() {
    let hub = TestHub::with("cors.allow_origins = [\"https://app.example.com:443\"]").await;
    let headers = [
        ("Origin", "https://app.example.com"),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "traceparent,tracestate,baggage,sentry-trace"),
    ];
    let reply = hub.request("OPTIONS", "/v1/channels/c", &headers, "").await;
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.example.com"));
    let allowed = reply.header("access-control-allow-headers").unwrap_or_default();
    for name in ["traceparent", "tracestate", "baggage", "sentry-trace"] {
        assert!(allowed.contains(name), "{name}: {allowed}");
    }
}

const EVENT_SOURCE: (&str, &str) = ("Accept", "text/event-stream");
const ORIGIN: (&str, &str) = ("Origin", "https://app.example.com");
const CORS: &str = "cors.allow_origins = [\"https://app.example.com\"]\n";

/// Asserts that a stream was refused temporarily, with an answer that a web page may read.
#[track_caller]
fn assert_busy(reply: &Response, code: &str, hint: &str) {
    let text = reply.text();
    assert_eq!(reply.status(), 200, "{text}");
    assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(reply.header("access-control-allow-origin"), Some(ORIGIN.1));
    let rest = text.strip_prefix("retry: ").or_else(|| text.strip_prefix("retry:"));
    let (retry, rest) = rest.unwrap_or_else(|| panic!("{text}")).split_once('\n').unwrap();
    let retry: u64 = retry.trim().parse().unwrap();
    let event = rest.trim_start().strip_prefix("event: fanfare.busy\ndata: ");
    let data = event.and_then(|event| event.strip_suffix("\n\n"));
    let data = data.unwrap_or_else(|| panic!("one event, without an id: {text}"));
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["code"], code, "{text}");
    assert!(data["detail"].as_str().unwrap().contains(hint), "{text}");
    let after = data["retry_after"].as_u64().unwrap();
    assert!(after >= 1 && (after * 750..=after * 1250).contains(&retry), "{text}");
}

#[tokio::test]
async fn a_hub_that_is_full_sends_event_sources_away_so_that_they_come_back() {
    let hub = TestHub::with(&format!("{CORS}server.max_connections = 1")).await;
    let _there = hub.subscribe("c").await;
    let to = "/v1/channels/c";
    assert_busy(
        &hub.get(to, &[EVENT_SOURCE, ORIGIN]).await,
        "overloaded",
        "server.max_connections",
    );
    for (method, to, accept) in [
        ("GET", to, "*/*"),
        ("GET", to, "application/json"),
        ("GET", "/v1/channels/c?bare", "text/event-stream"),
        ("POST", to, "text/event-stream"),
    ] {
        let reply = hub.request(method, to, &[("Accept", accept), ORIGIN], "").await;
        assert_problem(&reply, 503, "overloaded", "server.max_connections");
        assert_eq!(reply.header("access-control-allow-origin"), Some(ORIGIN.1), "{method} {to}");
        assert_eq!(reply.header("retry-after"), Some("1"));
    }
    let limit = "fanfare_limit_hits_total{limit=\"server.max_connections\"}";
    assert_eq!(hub.metric(limit).await, 5.0);
}

#[tokio::test]
async fn limits_of_the_hub_and_of_a_principal_send_event_sources_away_in_the_same_way() {
    let hub = TestHub::with(&format!("{CORS}channels.max_channels = 1")).await;
    hub.publish("one", "x").await;
    let full = hub.get("/v1/channels/two", &[EVENT_SOURCE, ORIGIN]).await;
    assert_busy(&full, "overloaded", "channels.max_channels");
    let plain = hub.get("/v1/channels/two", &[ORIGIN]).await;
    assert_problem(&plain, 503, "overloaded", "channels.max_channels");
    let keys = Keys::new(&[("page", "{ subscribe = true }")]);
    let hub = keys.hub(&format!("{CORS}quotas.max_subscriptions = 1\n")).await;
    let page = Client::key(&hub, "page");
    let _there = page.open("/v1/channels/c", &[]).await;
    hub.until_metric("fanfare_subscriptions", 1.0).await;
    let over = page.get("/v1/channels/c", &[EVENT_SOURCE, ORIGIN]).await;
    assert_busy(&over, "quota_exceeded", "streams");
    let plain = page.get("/v1/channels/c", &[("Accept", "*/*")]).await;
    assert_problem(&plain, 429, "quota_exceeded", "");
}

#[tokio::test]
async fn a_refusal_reaches_a_client_that_still_sends_its_body() {
    let hub = TestHub::start().await;
    // More than the buffers of two sockets, and less than the hub reads on.
    let body = vec![b'x'; 12 << 20];
    for (method, to, status, code) in [
        ("PUT", "/v1/channels/c", 413, "payload_too_large"),
        ("POST", "/v1/signals/c", 413, "payload_too_large"),
        ("POST", "/v1/tokens", 413, "payload_too_large"),
        ("PUT", "/v1/channels/a//b", 400, "invalid_channel_name"),
        ("POST", "/v1/signals/a//b", 400, "invalid_channel_name"),
        ("DELETE", "/v1/channels/c", 404, "not_found"),
        ("POST", "/nowhere", 404, "not_found"),
        ("PATCH", "/v1/channels/c", 405, "method_not_allowed"),
    ] {
        let mut stream = TcpStream::connect(hub.addr()).await.unwrap();
        let length = body.len();
        let head = format!("{method} {to} HTTP/1.1\r\nHost: hub.test\r\nContent-Length: {length}");
        let request = [head.as_bytes(), b"\r\n\r\n", &body].concat();
        // A reset would fail the write, and on other systems lose the answer.
        within("the whole request", stream.write_all(&request)).await.expect(to);
        assert_problem(&Wire::new(stream).response().await, status, code, "");
    }
}

#[tokio::test]
async fn an_error_repeats_only_the_beginning_of_a_long_text() {
    let hub = TestHub::start().await;
    let long = "x".repeat(30_000);
    let mut documents = vec![
        ("PUT", "/v1/channels/c", json!({ &long: 1 })),
        ("PUT", "/v1/channels/c", json!({"when_unwatched": { &long: 1 }})),
        ("PUT", "/v1/channels/c", json!({"when_unwatched": {"after": "1s", "signal": long}})),
        ("POST", "/v1/signals/c", json!({ &long: 1 })),
        ("POST", "/v1/signals/c", json!({"signal": long})),
        ("POST", "/v1/tokens", json!({ &long: 1 })),
        ("POST", "/v1/tokens", json!({"ttl": long})),
    ];
    for field in ["max_events", "max_bytes", "max_age", "producer_grace", "coalesce"] {
        documents.push(("PUT", "/v1/channels/c", json!({ field: long })));
    }
    for (method, to, document) in documents {
        let reply = hub.request(method, to, &[], document.to_string()).await;
        let problem = assert_problem(&reply, 400, "invalid_parameter", "");
        assert!(reply.body.len() < 1000, "{} bytes: {method} {to}", reply.body.len());
        assert!(problem["parameter"].as_str().is_none_or(|name| name.len() <= 100), "{problem}");
    }
}

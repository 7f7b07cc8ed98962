//! Bad input: each kind is answered with its own code and a helpful message.

use serde_json::json;

use crate::support::{Publisher, TestHub, Wire, assert_problem, event_stream, page_texts, within};

const SSE: &str = "text/event-stream";
const NDJSON: &str = "application/x-ndjson";

#[tokio::test]
async fn a_bad_channel_name_is_refused_with_the_reason() {
    let hub = TestHub::start().await;
    let long = "x".repeat(300);
    let by_one = "x".repeat(256);
    for (name, hint) in [
        ("a%0Ab", "control"),
        ("a%00", "control"),
        ("%7F", "control"),
        ("a/%2E%2E/b", ".."),
        ("%2e", "."),
        (long.as_str(), "300"),
        (by_one.as_str(), "255"),
        ("a//b", "segment"),
        ("a/", "segment"),
        ("/a", "segment"),
        ("logs/*", "*"),
        ("%FF%FE", "UTF-8"),
    ] {
        let to = format!("/v1/channels/{name}");
        for (method, body) in [("GET", ""), ("POST", "x"), ("PUT", ""), ("DELETE", "")] {
            let reply = hub.request(method, &to, &[], body).await;
            assert_problem(&reply, 400, "invalid_channel_name", hint);
        }
    }
}

#[tokio::test]
async fn dots_in_a_raw_path_lead_nowhere() {
    let hub = TestHub::start().await;
    for to in ["/v1/channels/a/../b", "/v1/channels/..", "/v1/channels/./a"] {
        let reply = hub.request("POST", to, &[], "x").await;
        assert_problem(&reply, 400, "invalid_channel_name", ".");
    }
    assert_eq!(hub.head("b").await.status(), 404, "nothing was published anywhere");
}

#[tokio::test]
async fn data_that_is_not_utf8_is_refused() {
    let hub = TestHub::start().await;
    for (kind, body) in [
        ("text/plain", &b"ab\xffcd"[..]),
        (SSE, b"data: ab\xffcd\n\n"),
        (SSE, b"event: \xc3\ndata: x\n\n"),
        (NDJSON, b"\"ab\xff\"\n"),
        ("text/plain", b"cut off \xf0\x9f\x8e"),
    ] {
        let reply = hub.post("/v1/channels/c", kind, body).await;
        assert_problem(&reply, 400, "invalid_event", "UTF-8");
    }
    assert_eq!(page_texts(&hub.page("c", "from=earliest").await), [""; 0]);
}

#[tokio::test]
async fn a_broken_line_of_ndjson_keeps_the_lines_before_it_and_says_so() {
    let hub = TestHub::start().await;
    let body = "{\"n\":1}\n{\"n\":2}\n{\"n\":\n{\"n\":4}\n";
    let reply = hub.post("/v1/channels/c", NDJSON, body).await;
    let problem = assert_problem(&reply, 400, "invalid_event", "line 3");
    assert_eq!((&problem["events"], &problem["line"]), (&json!(2), &json!(3)), "{problem}");
    assert_eq!(problem["retryable"], false);
    let page = hub.page("c", "from=earliest").await;
    assert_eq!(page_texts(&page), ["{\"n\":1}", "{\"n\":2}"]);
    assert_eq!(problem["last_id"], page["events"][1]["id"]);
    assert_eq!(page["state"], "open");
}

#[tokio::test]
async fn a_broken_line_is_reported_while_the_body_is_still_open() {
    let hub = TestHub::start().await;
    let mut client = hub.subscribe("c").await;
    let mut producer = Publisher::begin(&hub, "/v1/channels/c", NDJSON, &[]).await;
    producer.send("1\n").await;
    assert_eq!(client.next().await.data, "1");
    producer.send("not json\n").await;
    let problem = assert_problem(&producer.early_reply().await, 400, "invalid_event", "line 2");
    assert_eq!(problem["events"], 1);
}

#[tokio::test]
async fn an_event_over_the_cap_is_refused_whatever_the_body() {
    let hub = TestHub::with("publish.max_event_bytes = \"1KiB\"").await;
    let most = "x".repeat(1024);
    let large = "x".repeat(1025);
    hub.publish("c", &most).await;
    let reply = hub.post("/v1/channels/c", "text/plain", &large).await;
    assert_problem(&reply, 413, "event_too_large", "1");
    let reply = hub.post("/v1/channels/c", SSE, event_stream([&most, &large, &most])).await;
    let problem = assert_problem(&reply, 413, "event_too_large", "");
    assert_eq!((&problem["events"], &problem["event"]), (&json!(1), &json!(2)), "{problem}");
    let reply = hub.post("/v1/channels/c", NDJSON, format!("1\n2\n\"{large}\"\n")).await;
    let problem = assert_problem(&reply, 413, "event_too_large", "");
    assert_eq!((&problem["events"], &problem["line"]), (&json!(2), &json!(3)), "{problem}");
    assert_eq!(page_texts(&hub.page("c", "from=earliest").await), [&most, &most, "1", "2"]);
}

#[tokio::test]
async fn an_event_without_an_end_is_cut_short_at_the_cap() {
    let hub = TestHub::with("publish.max_event_bytes = \"64KiB\"").await;
    for (kind, start) in [(SSE, "data: "), (NDJSON, "\""), ("text/plain", "")] {
        let mut endless = Publisher::begin(&hub, "/v1/channels/c", kind, &[]).await;
        endless.send(start).await;
        for _ in 0..6 {
            endless.send("x".repeat(16 * 1024)).await;
        }
        let reply = endless.early_reply().await;
        assert_problem(&reply, 413, "event_too_large", "");
    }
}

#[tokio::test]
async fn many_data_lines_count_as_one_event() {
    let hub = TestHub::with("publish.max_event_bytes = \"1KiB\"").await;
    let body = "data: 0123456789\n".repeat(200) + "\n";
    let reply = hub.post("/v1/channels/c", SSE, body).await;
    assert_problem(&reply, 413, "event_too_large", "");
}

#[tokio::test]
async fn a_declared_length_over_the_cap_needs_no_body_to_be_refused() {
    let hub = TestHub::with("publish.max_event_bytes = \"1KiB\"").await;
    let mut wire = Wire::connect(hub.addr()).await;
    let headers = [("Content-Type", "text/plain"), ("Content-Length", "1000000000")];
    wire.send_head("POST", "/v1/channels/c", &headers).await;
    wire.send("x".repeat(2048)).await;
    assert_problem(&wire.response().await, 413, "event_too_large", "");
}

#[tokio::test]
async fn event_types_of_the_hub_are_its_own() {
    let hub = TestHub::start().await;
    for kind in ["fanfare.x", "fanfare.gap", "fanfare.end", "fanfare."] {
        let to = format!("/v1/channels/c?event={kind}");
        let reply = hub.post(&to, "text/plain", "x").await;
        let code = reply.json()["code"].as_str().unwrap_or_default().to_owned();
        assert!(["invalid_event", "invalid_parameter"].contains(&code.as_str()), "{code}");
        assert_problem(&reply, 400, &code, "fanfare.");
        let body = format!("data: kept\n\nevent: {kind}\ndata: x\n\n");
        let reply = hub.post("/v1/channels/kept", SSE, body).await;
        let problem = assert_problem(&reply, 400, "invalid_event", "fanfare.");
        assert_eq!((&problem["events"], &problem["event"]), (&json!(1), &json!(2)), "{problem}");
    }
    assert_eq!(hub.head("c").await.status(), 404);
    assert_eq!(page_texts(&hub.page("kept", "from=earliest").await), ["kept"; 4]);
}

#[tokio::test]
async fn an_event_type_is_one_line_of_bounded_length() {
    let hub = TestHub::start().await;
    let long = "x".repeat(200);
    for kind in ["a%0Ab", "a%0Ddata:%20x", "%00", long.as_str()] {
        let to = format!("/v1/channels/c?event={kind}");
        let reply = hub.post(&to, "text/plain", "x").await;
        assert_eq!(reply.status(), 400, "{kind}: {}", reply.text());
    }
    assert_eq!(hub.head("c").await.status(), 404);
}

#[tokio::test]
async fn a_bad_start_is_refused() {
    let hub = TestHub::start().await;
    hub.publish("c", "x").await;
    for from in ["beginning", "last", "last:", "last:-1", "last:x", "LAST:1", "-1"] {
        for to in ["/v1/channels/c?", "/v1/events?channel=c&"] {
            let reply = hub.get(&format!("{to}from={from}"), &[]).await;
            assert_problem(&reply, 400, "invalid_parameter", "from");
        }
    }
}

#[tokio::test]
async fn no_id_is_ever_an_http_error() {
    let hub = TestHub::start().await;
    let id = hub.publish("c", "x").await;
    let (epoch, _) = id.rsplit_once('-').unwrap();
    let future = format!("{epoch}-999999999");
    let huge = format!("{epoch}-99999999999999999999999999");
    for bad in ["zzzzzz-1", &future, &huge, "garbage", "%", "a b", "💬"] {
        for accept in [SSE, NDJSON, "application/json"] {
            let headers = [("Accept", accept), ("Last-Event-ID", bad)];
            let mut wire = hub.open("/v1/channels/c", &headers).await;
            assert_eq!(wire.head().await.status, 200, "{bad} {accept}");
        }
        let mut client = hub.resume("c", bad).await;
        assert_eq!(client.next().await.event.as_deref(), Some("fanfare.gap"), "{bad}");
        assert_eq!(client.next().await.data, "x", "{bad}");
    }
}

#[tokio::test]
async fn publishing_to_a_closed_channel_is_a_conflict() {
    let hub = TestHub::start().await;
    hub.close("c", "complete").await;
    for (kind, body) in [("text/plain", "x"), (SSE, "data: x\n\n"), (NDJSON, "1\n")] {
        let reply = hub.post("/v1/channels/c", kind, body).await;
        let problem = assert_problem(&reply, 409, "channel_closed", "closed");
        assert_eq!(problem["events"], 0, "{problem}");
    }
}

#[tokio::test]
async fn a_document_that_is_too_large_is_refused() {
    let hub = TestHub::start().await;
    let body = format!("{{\"max_events\":1{}}}", " ".repeat(100 * 1024));
    let reply = hub.request("PUT", "/v1/channels/c", &[], body).await;
    assert_problem(&reply, 413, "payload_too_large", "");
    assert_eq!(hub.head("c").await.status(), 404);
}

#[tokio::test]
async fn unknown_parameters_are_ignored() {
    let hub = TestHub::start().await;
    hub.post("/v1/channels/d?utm_source=x", "text/plain", "x").await.ok();
    assert_eq!(page_texts(&hub.page("d", "from=earliest&utm=1").await), ["x"]);
}

#[tokio::test]
async fn a_parameter_that_is_nearly_known_is_refused_by_name() {
    let hub = TestHub::start().await;
    for (method, to, written, right) in [
        ("GET", "/v1/channels/d?form=earliest", "form", "from"),
        ("GET", "/v1/channels/d?From=earliest", "From", "from"),
        ("GET", "/v1/channels/d?heart_beat=4s", "heart_beat", "heartbeat"),
        ("GET", "/v1/channels/d?last_evnt_id=1", "last_evnt_id", "last_event_id"),
        ("GET", "/v1/events?chanel=d", "chanel", "channel"),
        ("POST", "/v1/channels/d?evnet=token", "evnet", "event"),
        ("POST", "/v1/channels/d?colse=complete", "colse", "close"),
    ] {
        let reply = hub.request(method, to, &[], "x").await;
        let problem = assert_problem(&reply, 400, "invalid_parameter", &format!("`{right}`"));
        assert_eq!(problem["parameter"], written, "{to}");
    }
    assert_eq!(hub.head("d").await.status(), 404, "nothing was published");
}

#[tokio::test]
async fn a_request_head_that_never_ends_is_given_up() {
    let hub = TestHub::with("server.header_timeout = \"500ms\"").await;
    let mut loris = Wire::connect(hub.addr()).await;
    loris.send("GET /v1/channels/c HTTP/1.1\r\nHost: hub\r\nX-Slow: ").await;
    let said = String::from_utf8_lossy(&loris.hang_up().await).into_owned();
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    let mut silent = Wire::connect(hub.addr()).await;
    silent.hang_up().await;
    hub.publish("c", "others are served").await;
}

#[tokio::test]
async fn a_slow_head_is_given_up_on_the_admin_listener_too() {
    let hub = TestHub::with("server.header_timeout = \"500ms\"").await;
    let mut loris = Wire::connect(hub.admin_addr()).await;
    loris.send("GET /metrics HTTP/1.1\r\n").await;
    loris.hang_up().await;
}

#[tokio::test]
async fn ten_thousand_headers_are_refused() {
    let hub = TestHub::start().await;
    let mut wire = Wire::connect(hub.addr()).await;
    wire.send("GET /v1/channels/c HTTP/1.1\r\nHost: hub\r\n").await;
    for n in 0..10_000 {
        wire.send(format!("X-{n}: {n}\r\n")).await;
    }
    wire.send("\r\n").await;
    if let Some(head) = within("a reply or a hang-up", wire.try_head(false)).await {
        assert_eq!(head.status, 431, "{head:?}");
    }
    hub.publish("c", "others are served").await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let hub = TestHub::start().await;
    let mut wire = Wire::connect(hub.addr()).await;
    let large = format!("GET / HTTP/1.1\r\nHost: hub\r\nX: {}\r\n\r\n", "x".repeat(256 * 1024));
    wire.send(large).await;
    if let Some(head) = within("a reply or a hang-up", wire.try_head(false)).await {
        assert!(matches!(head.status, 414 | 431), "{head:?}");
    }
    hub.publish("c", "others are served").await;
}

#[tokio::test]
async fn what_is_not_http_is_no_harm() {
    let hub = TestHub::start().await;
    let hello = &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..];
    for noise in [hello, b"hello\r\n\r\n", b"\0\0\0\r\n\r\n"] {
        let mut wire = Wire::connect(hub.addr()).await;
        wire.send(noise).await;
        assert_problem(&wire.response().await, 400, "invalid_request", "cannot be read");
        assert_eq!(wire.hang_up().await, b"", "the connection is closed after the answer");
    }
    hub.publish("c", "others are served").await;
}

#[tokio::test]
async fn a_key_that_is_too_long_is_refused() {
    let hub = TestHub::start().await;
    let key = "k".repeat(2000);
    let reply = hub.request("POST", "/v1/channels/c", &[("Idempotency-Key", &key)], "x").await;
    assert_eq!(reply.status(), 400, "{}", reply.text());
    assert_eq!(hub.head("c").await.status(), 404);
}

#[tokio::test]
async fn a_query_parameter_that_is_nearly_ours_is_a_400_that_names_the_right_one() {
    let hub = TestHub::start().await;
    for (to, wrong, right) in [
        ("/v1/channels/c?form=earliest", "form", "from"),
        ("/v1/channels/c?from=tail&last_event-ids=x", "last_event-ids", "last_event_id"),
        ("/v1/channels/c?Bare", "Bare", "bare"),
        ("/v1/events?chanel=c", "chanel", "channel"),
        ("/v1/events?channel=c&channels=d", "channels", "channel"),
        ("/v1/events?channel=c&wiat=1s", "wiat", "wait"),
    ] {
        let reply = hub.get(to, &[]).await;
        let problem = assert_problem(&reply, 400, "invalid_parameter", &format!("`{right}`"));
        assert_eq!(problem["parameter"], wrong, "{to}");
    }
    for (to, wrong, right) in [
        ("/v1/channels/c?evnet=token", "evnet", "event"),
        ("/v1/channels/c?colse=complete", "colse", "close"),
        ("/v1/channels/c?close=error&raeson=x", "raeson", "reason"),
    ] {
        let reply = hub.post(to, "text/plain", "x").await;
        let problem = assert_problem(&reply, 400, "invalid_parameter", &format!("`{right}`"));
        assert_eq!(problem["parameter"], wrong, "{to}");
    }
    let reply = hub.admin_get("/v1/channels?prefx=a").await;
    assert_problem(&reply, 400, "invalid_parameter", "`prefix`");
    assert_eq!(hub.head("c").await.status(), 404, "nothing was published");
    hub.post("/v1/channels/c?_=17&utm_source=x&t=1&cb=2", "text/plain", "x").await.ok();
    let page = hub.page("c", "from=earliest&_=17&utm_source=x&t=1&cb=2&v=3&to=4&token=5").await;
    assert_eq!(page["events"].as_array().unwrap().len(), 1);
}

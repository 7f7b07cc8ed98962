//! Attempts to crash a hub, or to make it report something false.

use serde_json::{Value, json};

use tokio::io::AsyncWriteExt as _;

use crate::support::{Publisher, TestHub, Wire, assert_problem, event_stream, eventually, within};

const SSE: &str = "text/event-stream";

#[tokio::test]
async fn times_that_no_clock_can_reach_are_refused_by_name() {
    let hub = TestHub::start().await;
    let for_ever = "18446744073709551615s";
    for (field, options) in [
        ("producer_grace", json!({"producer_grace": for_ever})),
        ("producer_grace", json!({"producer_grace": "2days"})),
        ("when_unwatched", json!({"when_unwatched": {"after": for_ever, "signal": "stop"}})),
    ] {
        let reply = hub.put("c", options.to_string()).await;
        let problem = assert_problem(&reply, 400, "invalid_parameter", field);
        assert!(problem["parameter"].as_str().unwrap().starts_with(field), "{problem}");
    }
}

#[tokio::test]
async fn texts_of_generations_that_are_over_make_room_for_those_who_are_live() {
    let hub = TestHub::with("channels.memory_budget = \"4MiB\"").await;
    let token = json!({"object":"chat.completion.chunk",
        "choices":[{"index":0,"delta":{"content":"x".repeat(2000)}}]})
    .to_string();
    let mut events = vec![token.as_str(); 100];
    events.push("[DONE]");
    for n in 0..40 {
        let to = format!("/v1/channels/chat/{n}?close=auto");
        hub.post(&to, SSE, event_stream(&events)).await.ok();
        // A late viewer makes the hub keep the text itself as well.
        hub.page(&format!("chat/{n}"), "from=snapshot").await;
    }
    let mut viewer = hub.subscribe("live").await;
    for n in 0..200 {
        let id = hub.publish("live", &n.to_string()).await;
        let event = viewer.next().await;
        assert_eq!((event.id(), event.data.as_str()), (id.as_str(), n.to_string().as_str()));
    }
    let retained = hub.metric("fanfare_retained_bytes").await;
    assert!(retained < 4.4 * 1024.0 * 1024.0, "{retained}");
}

#[tokio::test]
async fn a_producer_whose_channel_is_deleted_does_not_continue_in_the_next() {
    let hub = TestHub::start().await;
    let mut first = Publisher::begin(&hub, "/v1/channels/c?close=auto", SSE, &[]).await;
    first.send("data: one\n\n").await;
    hub.until_metric("fanfare_events_published_total", 1.0).await;
    assert_eq!(hub.request("DELETE", "/v1/channels/c", &[], "").await.status(), 204);
    let problem = assert_problem(&first.early_reply().await, 409, "channel_closed", "deleted");
    assert_eq!(problem["events"], 1);
    let second = hub.post("/v1/channels/c?close=auto", SSE, event_stream(["two", "[DONE]"])).await;
    assert_eq!(second.ok().json()["state"], "complete");
    let page = hub.page("c", "from=earliest").await;
    assert_eq!(page["events"][0]["data"], "two");
}

#[tokio::test]
async fn a_snapshot_outlives_the_events_that_age_has_taken() {
    let hub = TestHub::with("channels.max_age = \"1s\"").await;
    let mut producer = Publisher::begin(&hub, "/v1/channels/c?close=auto", SSE, &[]).await;
    producer.send(event_stream(["once ", "upon "])).await;
    eventually("age to take them", async || {
        hub.head("c").await.header("fanfare-events") == Some("0")
    })
    .await;
    producer.send(event_stream(["a time"])).await;
    hub.until_metric("fanfare_events_published_total", 3.0).await;
    let page = hub.page("c", "from=snapshot").await;
    let first = &page["events"][0];
    assert_eq!(first["event"], "fanfare.snapshot", "{page}");
    let data: Value = serde_json::from_str(first["data"].as_str().unwrap()).unwrap();
    let rest: String = page["events"].as_array().unwrap()[1..]
        .iter()
        .map(|e| e["data"].as_str().unwrap())
        .collect();
    assert_eq!(data["text"].as_str().unwrap().to_owned() + &rest, "once upon a time");
}

#[tokio::test]
async fn a_generation_that_had_all_but_ended_when_it_broke_off_has_its_receipt() {
    let hub = TestHub::start().await;
    let headers = [("Content-Type", SSE), ("Idempotency-Key", "k")];
    let to = "/v1/channels/c?close=auto";
    let mut producer = Publisher::begin(&hub, to, SSE, &headers[1..]).await;
    let body = event_stream([
        r#"{"type":"start"}"#,
        r#"{"type":"text-delta","id":"1","delta":"a"}"#,
        r#"{"type":"finish"}"#,
    ]);
    producer.send(&body).await;
    hub.until_metric("fanfare_events_published_total", 3.0).await;
    producer.break_off();
    eventually("the end", async || hub.head("c").await.header("fanfare-state") == Some("complete"))
        .await;
    let again = hub.request("POST", to, &headers, format!("{body}data: [DONE]\n\n")).await.ok();
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!((&again.json()["events"], &again.json()["state"]), (&json!(3), &json!("complete")));
}

#[tokio::test]
async fn a_body_that_continues_in_the_middle_is_read_as_what_it_is() {
    let hub = TestHub::start().await;
    let to = "/v1/channels/c?close=auto";
    let begun = event_stream([r#"{"type":"start"}"#, r#"{"type":"text-start","id":"1"}"#]);
    assert_eq!(hub.post(to, SSE, begun).await.ok().json()["state"], "open");
    let rest = event_stream([r#"{"type":"text-end","id":"1"}"#, r#"{"type":"finish"}"#, "[DONE]"]);
    assert_eq!(hub.post(to, SSE, rest).await.ok().json()["state"], "complete");
}

#[tokio::test]
async fn the_heartbeat_of_bare_lines_is_no_line() {
    let hub = TestHub::with("subscribers.heartbeat = \"1s\"").await;
    let mut wire = hub.open("/v1/channels/c?bare=lines", &[]).await;
    wire.head().await;
    let crate::support::Piece::Data(beat) = wire.piece().await else { panic!("no heartbeat") };
    assert_eq!(beat, b" ");
}

#[tokio::test]
async fn the_head_of_a_request_may_come_in_as_many_pieces_as_it_likes() {
    let hub = TestHub::start().await;
    let request = "POST /v1/channels/c HTTP/1.1\r\nHost: hub\r\nContent-Length: 2\r\n\r\nhi";
    for size in [1, 2, 7] {
        let mut wire = Wire::connect(hub.addr()).await;
        for piece in request.as_bytes().chunks(size) {
            wire.send(piece).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(wire.response().await.ok().json()["events"], 1);
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_request_leaves_nothing() {
    let hub = TestHub::with("server.header_timeout = \"1h\"").await;
    let before = hub.metric("fanfare_connections").await;
    let mut halves = Vec::new();
    for half in ["G", "PRI * HTTP/2.0\r\n", "GET /healthz HTTP/1.1\r\nHost: h"] {
        let mut wire = Wire::connect(hub.addr()).await;
        wire.send(half).await;
        halves.push(wire);
    }
    hub.until_metric("fanfare_connections", before + 3.0).await;
    drop(halves);
    eventually("the halves to be forgotten", async || {
        hub.metric("fanfare_connections").await <= before
    })
    .await;
}

#[tokio::test]
async fn what_is_no_request_is_refused_before_it_is_complete() {
    let hub = TestHub::with("server.header_timeout = \"1h\"").await;
    // The beginning of TLS, on a listener without TLS; and an unknown method.
    for start in ["\x16\x03\x01\x02\0\x01\0\x01", "what is this?\r\n"] {
        let mut wire = Wire::connect(hub.addr()).await;
        wire.send(start).await;
        assert_eq!(wire.response().await.status(), 400, "{start:?}");
    }
}

#[tokio::test]
async fn a_client_that_only_listens_and_sends_without_end_is_ended_and_another_is_not() {
    if std::env::var_os("FANFARE_TEST_NO_TAKEOVER").is_some() {
        return; // a socket that the HTTP library keeps is not read while it is written to
    }
    let hub = TestHub::start().await;
    let mut quiet = hub.subscribe("c").await;
    let mut loud = tokio::net::TcpStream::connect(hub.addr()).await.expect("a connection");
    let request = b"GET /v1/channels/c HTTP/1.1\r\nHost: hub.test\r\n\r\n";
    loud.write_all(request).await.expect("a request");
    hub.until_metric("fanfare_subscriptions", 2.0).await;
    // A request that is sent early does no harm.
    loud.write_all(request).await.expect("another");
    let id = hub.publish("c", "one").await;
    assert_eq!(quiet.next().await.id(), id);
    let flood = vec![0; 64 * 1024];
    let sent = async { while loud.write_all(&flood).await.is_ok() {} };
    within("the end of the flood", sent).await;
    let id = hub.publish("c", "two").await;
    assert_eq!(quiet.next().await.id(), id);
    hub.until_metric("fanfare_subscriptions", 1.0).await;
    hub.until_metric("fanfare_limit_hits_total{limit=\"heard_bytes\"}", 1.0).await;
}

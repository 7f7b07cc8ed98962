//! Subscribing: the bytes on the wire, in each format, from each start.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};

use crate::support::{
    Piece, Publisher, SseClient, TestHub, Wire, assert_problem, assert_time, event_stream,
    eventually,
    generation::{Format, Generation},
    in_cluster, keys, opening_text, page_texts, texts, within,
};

const SSE: &str = "text/event-stream";

#[tokio::test]
async fn the_headers_are_exactly_those_that_keep_a_stream_a_stream() {
    let hub = TestHub::start().await;
    for accept in [&[][..], &[("Accept", "*/*")], &[("Accept", SSE)]] {
        let client = hub.stream("/v1/channels/c", accept).await;
        let head = &client.head;
        assert_eq!(head.status, 200);
        let kind = head.header("content-type");
        assert_eq!(kind.as_deref(), Some("text/event-stream; charset=utf-8"));
        assert_eq!(head.header("cache-control").as_deref(), Some("no-store, no-transform"));
        assert_eq!(head.header("x-accel-buffering").as_deref(), Some("no"));
        assert_eq!(head.header("vary").as_deref(), Some("Accept-Encoding, Origin"));
        assert_eq!(head.header("content-length"), None);
        assert_eq!(head.header("transfer-encoding").as_deref(), Some("chunked"));
        assert_eq!(head.header("access-control-allow-origin"), None);
    }
    for to in ["/v1/channels/c?bare", "/v1/events?channel=c", "/v1/channels/c/signals"] {
        let head = hub.open(to, &[("Accept", SSE)]).await.head().await;
        let kind = head.header("content-type");
        assert_eq!(kind.as_deref(), Some("text/event-stream; charset=utf-8"), "{to}");
    }
}

#[tokio::test]
async fn the_first_bytes_at_the_tail_are_one_event_with_an_id_to_resume_from() {
    let hub = TestHub::start().await;
    let id = hub.publish("c", "x").await;
    for query in ["", "?from=tail", "?from=last:0"] {
        let mut client = hub.stream(&format!("/v1/channels/c{query}"), &[]).await;
        let raw = client.raw_until("the first bytes", |raw| raw.ends_with("\n\n")).await;
        assert_eq!(raw, opening_text("c", &id), "{query}");
    }
    let mut client = hub.stream("/v1/channels/empty?from=last:5", &[]).await.settled().await;
    assert_eq!(client.opening().unwrap().json(), json!({"channel": "empty", "state": "open"}));
    hub.publish("empty", "first").await;
    assert_eq!(client.next().await.data, "first");
}

#[tokio::test]
async fn subscribers_that_begin_together_get_the_events_of_their_own_channels() {
    let hub = TestHub::start().await;
    for channel in 0..8 {
        hub.publish(&format!("c{channel}"), &format!("of {channel}")).await;
    }
    for _ in 0..10 {
        let subscribers = (0..64).map(async |number| {
            let channel = number % 8;
            let path = format!("/v1/channels/c{channel}?from=earliest");
            let mut client = hub.stream(&path, &[]).await;
            assert_eq!(client.next().await.data, format!("of {channel}"));
        });
        futures_util::future::join_all(subscribers).await;
    }
}

#[tokio::test]
async fn only_a_subscription_that_begins_at_the_tail_is_opened_with_an_id() {
    let hub = TestHub::start().await;
    let id = hub.publish("c", "x").await;
    let resume = format!("last_event_id={id}");
    for query in ["from=earliest", "from=last:1", "from=snapshot", resume.as_str()] {
        let mut client = hub.stream(&format!("/v1/channels/c?{query}"), &[]).await;
        hub.publish("c", "y").await;
        let events = client.until("y").await;
        assert!(client.opening().is_none(), "{query}: {events:?}");
    }
    for query in ["bare", "bare=lines"] {
        let mut client = hub.open(&format!("/v1/channels/c?{query}"), &[]).await;
        client.head().await;
        hub.publish("c", "z").await;
        let Piece::Data(bytes) = client.piece().await else { panic!("bytes") };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!text.contains("fanfare") && !text.contains("id:"), "{query}: {text}");
    }
    let page = hub.page("c", "from=tail").await;
    assert_eq!(page["events"], json!([]));
}

#[tokio::test]
async fn the_opening_says_how_the_channel_has_ended() {
    let hub = TestHub::start().await;
    hub.publish("c", "x").await;
    hub.close("c", "cancelled").await;
    let mut client = hub.subscribe("c").await;
    client.next().await.assert_end("cancelled");
    let opening = client.opening().unwrap();
    assert_eq!(opening.json(), json!({"channel": "c", "state": "cancelled"}));
    client.assert_eof().await;
}

#[tokio::test]
async fn lines_of_json_are_opened_at_the_tail_as_an_event_stream_is() {
    let hub = TestHub::start().await;
    let id = hub.publish("c", "x").await;
    for (to, data) in [
        ("/v1/channels/c", json!({"channel": "c", "state": "open"})),
        (
            "/v1/events?channel=c&channel=d/*",
            json!({"channel": null, "state": "open", "channels": ["c", "d/*"]}),
        ),
    ] {
        let mut wire = hub.open(to, &[("Accept", "application/x-ndjson")]).await;
        wire.head().await;
        let first: Value =
            serde_json::from_str(&line(&mut wire, &mut String::new()).await).unwrap();
        assert_eq!(first["event"], "fanfare.open", "{to}");
        // In a cluster, the tail of many channels is that of the log, which has heartbeats.
        if !in_cluster() || to == "/v1/channels/c" {
            assert_eq!(first["id"], json!(id), "{to}");
        }
        assert_eq!(serde_json::from_str::<Value>(first["data"].as_str().unwrap()).unwrap(), data);
        assert!(first["time"].is_string(), "{first}");
    }
}

#[tokio::test]
async fn the_reconnect_delay_is_what_the_operator_set() {
    let hub = TestHub::with("subscribers.reconnect_delay = \"1500ms\"").await;
    let client = hub.subscribe("c").await;
    assert_eq!(client.retry(), Some(1500));
}

#[tokio::test]
async fn an_event_on_the_wire_is_type_then_a_data_line_for_each_line_then_id() {
    let hub = TestHub::start().await;
    let a = hub.publish("c", "plain").await;
    let receipt = hub.post("/v1/channels/c?event=token", "text/plain", "two\n lines").await.ok();
    let b = receipt.json()["last_id"].as_str().unwrap().to_owned();
    let c = hub.publish("c", "").await;
    let mut client = hub.stream("/v1/channels/c?from=earliest", &[]).await;
    let raw = client.raw_until("three events", |raw| raw.matches("\n\n").count() == 3).await;
    let expected = format!(
        "retry: 3000\ndata: plain\nid: {a}\n\n\
         event: token\ndata: two\ndata:  lines\nid: {b}\n\n\
         data: \nid: {c}\n\n"
    );
    assert_eq!(raw, expected);
}

#[tokio::test]
async fn the_tail_is_the_default_and_history_is_not_sent() {
    let hub = TestHub::start().await;
    hub.publish("c", "old").await;
    for query in ["", "?from=tail", "?unheard=of"] {
        let mut client = hub.stream(&format!("/v1/channels/c{query}"), &[]).await.settled().await;
        hub.publish("c", "new").await;
        assert_eq!(client.next().await.data, "new", "{query:?}");
    }
}

#[tokio::test]
async fn earliest_replays_everything_and_continues_live_without_a_seam() {
    let hub = TestHub::start().await;
    hub.publish_all("c", &["1", "2", "3"]).await;
    let mut client = hub.stream("/v1/channels/c?from=earliest", &[]).await;
    assert_eq!(texts(&client.take(3).await), ["1", "2", "3"]);
    hub.publish_all("c", &["4", "5"]).await;
    assert_eq!(texts(&client.take(2).await), ["4", "5"]);
    assert_eq!(client.last_id(), hub.head("c").await.header("fanfare-tail"));
}

#[tokio::test]
async fn last_n_replays_so_many_events() {
    let hub = TestHub::start().await;
    hub.publish_all("c", &["1", "2", "3"]).await;
    for (n, expected) in [(1, 1), (2, 2), (3, 3), (99, 3)] {
        let to = format!("/v1/channels/c?from=last:{n}");
        let mut client = hub.stream(&to, &[]).await;
        let seen = client.take(expected).await;
        assert_eq!(texts(&seen), ["1", "2", "3"][3 - expected..], "last:{n}");
    }
}

#[tokio::test]
async fn last_0_is_the_tail() {
    let hub = TestHub::start().await;
    hub.publish("c", "old").await;
    let mut client = hub.stream("/v1/channels/c?from=last:0", &[]).await;
    client.raw_until("the first bytes", |raw| raw.starts_with("retry: 3000\n")).await;
    hub.publish("c", "new").await;
    assert_eq!(client.next().await.data, "new");
}

#[tokio::test]
async fn a_channel_without_a_publish_is_waited_for() {
    let hub = TestHub::start().await;
    for query in ["from=tail", "from=earliest", "from=last:5"] {
        let channel = query.replace([':', '='], "/");
        let to = format!("/v1/channels/{channel}?{query}");
        let mut client = hub.stream(&to, &[]).await;
        client.raw_until("the first bytes", |raw| raw.starts_with("retry: 3000\n")).await;
        hub.publish(&channel, "first").await;
        assert_eq!(client.next().await.data, "first", "{query}");
    }
}

#[tokio::test]
async fn every_subscriber_sees_the_same_events_with_the_same_ids() {
    let hub = TestHub::start().await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(hub.subscribe("c").await);
    }
    let ids = hub.publish_all("c", &["1", "2", "3"]).await;
    for client in &mut clients {
        let seen = client.take(3).await;
        assert_eq!(seen.iter().map(|event| event.id()).collect::<Vec<_>>(), ids);
    }
    hub.until_metric("fanfare_events_delivered_total", 30.0).await;
    assert_eq!(hub.metric("fanfare_subscriptions").await, 10.0);
    assert_eq!(hub.metric("fanfare_subscriptions_started_total").await, 10.0);
}

#[tokio::test]
async fn a_subscriber_that_leaves_is_noticed_and_counted() {
    let hub = TestHub::with("subscribers.heartbeat = \"200ms\"").await;
    hub.publish("c", "x").await;
    let client = hub.subscribe("c").await;
    assert_eq!(hub.head("c").await.header("fanfare-subscribers"), Some("1"));
    drop(client);
    hub.until_metric("fanfare_subscriptions_ended_total{reason=\"client_gone\"}", 1.0).await;
    assert_eq!(hub.metric("fanfare_subscriptions").await, 0.0);
}

/// Returns the next line of an NDJSON stream, without its line end.
async fn line(wire: &mut Wire, read: &mut String) -> String {
    loop {
        if let Some(at) = read.find('\n') {
            let line = read[..at].to_owned();
            read.drain(..=at);
            return line;
        }
        match within("a line", wire.piece()).await {
            Piece::Data(bytes) => read.push_str(std::str::from_utf8(&bytes).unwrap()),
            other => panic!("the stream ended: {other:?}"),
        }
    }
}

#[tokio::test]
async fn ndjson_is_a_line_for_each_event() {
    let hub = TestHub::start().await;
    let id = hub.publish("c", "two\nlines").await;
    let accept = [("Accept", "application/x-ndjson")];
    let mut wire = hub.open("/v1/channels/c?from=earliest", &accept).await;
    let head = wire.head().await;
    assert_eq!(head.header("content-type").as_deref(), Some("application/x-ndjson"));
    assert_eq!(head.header("cache-control").as_deref(), Some("no-store, no-transform"));
    assert_eq!(head.header("x-accel-buffering").as_deref(), Some("no"));
    let mut read = String::new();
    let first: Value = serde_json::from_str(&line(&mut wire, &mut read).await).unwrap();
    assert_eq!(keys(&first), ["data", "event", "id", "time"]);
    assert_eq!((&first["id"], &first["data"]), (&json!(id), &json!("two\nlines")));
    assert_eq!(first["event"], Value::Null);
    assert_time(&first["time"]);
    hub.post("/v1/channels/c?event=token", "text/plain", "{\"a\":1}").await.ok();
    let second: Value = serde_json::from_str(&line(&mut wire, &mut read).await).unwrap();
    assert_eq!((&second["event"], &second["data"]), (&json!("token"), &json!("{\"a\":1}")));
    hub.close("c", "error").await;
    let end: Value = serde_json::from_str(&line(&mut wire, &mut read).await).unwrap();
    assert_eq!(end["event"], "fanfare.end");
    let data: Value = serde_json::from_str(end["data"].as_str().unwrap()).unwrap();
    assert_eq!((&data["channel"], &data["state"]), (&json!("c"), &json!("error")));
    assert!(matches!(within("the end", wire.piece()).await, Piece::End));
}

/// Returns the first bytes of a stream's body.
async fn first_bytes(hub: &TestHub, to: &str, accept: &str) -> String {
    let mut wire = hub.open(to, &[("Accept", accept)]).await;
    wire.head().await;
    match within("the first bytes", wire.piece()).await {
        Piece::Data(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        other => panic!("{to}: {other:?}"),
    }
}

#[tokio::test]
async fn the_first_bytes_come_at_once_in_a_form_that_the_clients_of_the_format_survive() {
    let hub = TestHub::start().await;
    let ndjson = "application/x-ndjson";
    assert_eq!(first_bytes(&hub, "/v1/channels/c?from=earliest", ndjson).await, "\n");
    let resumed = format!("/v1/channels/c?last_event_id={}", hub.publish("x", "y").await);
    assert_eq!(first_bytes(&hub, &resumed, ndjson).await, "\n");
    // The reader's format is not known yet.
    assert_eq!(first_bytes(&hub, "/v1/channels/empty?bare", "*/*").await, "\n");
    assert_eq!(first_bytes(&hub, "/v1/channels/empty?bare=lines", "*/*").await, " ");
    for (format, beat) in [
        (Format::Text, ":\n"),
        (Format::OpenaiChat, ":\n"),
        (Format::OpenaiResponses, ":\n"),
        (Format::Anthropic, ":\n"),
        (Format::AiSdk, ":\n"),
        (Format::Gemini, "\n"),
    ] {
        let channel = format!("of/{}", format.name());
        let generation = Generation::numbered(format, 3);
        let mut producer = generation.producer(&hub, &channel).await;
        producer.send(generation.wire(0..2)).await;
        let published = async || {
            let head = hub.head(&channel).await;
            head.status() == 200 && head.header("fanfare-events") != Some("0")
        };
        eventually("the events", published).await;
        let to = format!("/v1/channels/{channel}?bare");
        assert_eq!(first_bytes(&hub, &to, "*/*").await, beat, "{format:?}");
        let replayed = first_bytes(&hub, &format!("{to}&from=earliest"), "*/*").await;
        assert!(replayed.contains("data: "), "what is there is sign enough: {replayed:?}");
    }
    let put = hub.put("declared", "").await;
    assert_eq!(put.status(), 201);
    let to = "/v1/channels/declared?format=gemini&close=auto";
    let _producer = Publisher::begin(&hub, to, SSE, &[]).await;
    eventually("the producer", async || {
        hub.head("declared").await.header("fanfare-producer") == Some("streaming")
    })
    .await;
    assert_eq!(first_bytes(&hub, "/v1/channels/declared?bare", "*/*").await, "\n");
}

/// Waits for several of this heartbeat after the head, and nothing else; returns the time they
/// took.
async fn beats(hub: &TestHub, to: &str, accept: &str, beat: &str) -> Duration {
    let mut wire = hub.open(to, &[("Accept", accept)]).await;
    assert_eq!(wire.head().await.status, 200, "{to}");
    let mut text = String::new();
    let begun = tokio::time::Instant::now();
    while !text.ends_with(&beat.repeat(3)) {
        match within("a heartbeat", wire.piece()).await {
            Piece::Data(bytes) => text.push_str(std::str::from_utf8(&bytes).unwrap()),
            other => panic!("{to}: {other:?}"),
        }
    }
    begun.elapsed()
}

#[tokio::test]
async fn a_subscriber_may_ask_for_more_heartbeats() {
    let hub = TestHub::start().await;
    hub.publish("c", "x").await;
    let ndjson = "application/x-ndjson";
    let streams = [
        ("/v1/channels/c?heartbeat=1s", SSE, ":\n"),
        ("/v1/channels/c?heartbeat=1500ms&from=earliest", SSE, ":\n"),
        ("/v1/channels/c?heartbeat=1s", ndjson, "\n"),
        ("/v1/channels/c?heartbeat=1s&bare", SSE, ":\n"),
        ("/v1/channels/c?heartbeat=1s&bare=lines", SSE, " "),
        ("/v1/events?channel=c&heartbeat=1s", SSE, ":\n"),
        ("/v1/events?channel=*&heartbeat=1s", ndjson, "\n"),
        ("/v1/signals/d?heartbeat=1s", SSE, ":\n"),
    ];
    let beating = streams.map(|(to, accept, beat)| beats(&hub, to, accept, beat));
    let took = futures_util::future::join_all(beating).await;
    let paced =
        |took: &Duration| (Duration::from_millis(1400)..Duration::from_secs(8)).contains(took);
    assert!(took.iter().all(paced), "{took:?}");
}

#[tokio::test]
async fn a_heartbeat_is_asked_for_within_bounds() {
    let hub = TestHub::start().await;
    for to in ["/v1/channels/c?", "/v1/channels/c?bare&", "/v1/events?channel=c&", "/v1/signals/c?"]
    {
        for wrong in ["", "0s", "999ms", "16s", "1h", "4", "-4s", "often"] {
            let reply = hub.get(&format!("{to}heartbeat={wrong}"), &[]).await;
            let right = "`1s` to `15s` (`subscribers.heartbeat`)";
            let problem = assert_problem(&reply, 400, "invalid_parameter", right);
            assert_eq!(problem["parameter"], "heartbeat");
        }
    }
    for right in ["1s", "15s", "4000ms", "14s%20999ms"] {
        let client = hub.stream(&format!("/v1/channels/c?heartbeat={right}"), &[]).await;
        assert_eq!(client.head.status, 200, "{right}");
    }
}

#[tokio::test]
async fn a_stream_ends_without_cutting_a_client_that_has_asked_for_more() {
    let hub = TestHub::start().await;
    let mut wire = Wire::connect(hub.addr()).await;
    wire.send_head("GET", "/v1/channels/c", &[]).await;
    let mut client = SseClient::read(wire).await.settled().await;
    assert_eq!(client.head.header("connection"), None, "it cannot be distinguished from a cut");
    hub.publish("c", "x").await;
    assert_eq!(client.next().await.data, "x");
    client.ask_again("/healthz").await;
    hub.close("c", "complete").await;
    client.next().await.assert_end("complete");
    client.assert_eof().await;
    let close = [("Connection", "close")];
    let head = hub.stream("/v1/channels/d", &close).await.head;
    assert_eq!(head.header("connection").as_deref(), Some("close"));
}

#[tokio::test]
async fn the_heartbeat_of_ndjson_is_an_empty_line() {
    let hub = TestHub::with("subscribers.heartbeat = \"200ms\"").await;
    let accept = [("Accept", "application/x-ndjson")];
    let mut wire = hub.open("/v1/channels/c?from=earliest", &accept).await;
    assert_eq!(wire.head().await.status, 200);
    let mut read = String::new();
    for _ in 0..2 {
        assert_eq!(line(&mut wire, &mut read).await, "");
    }
}

#[tokio::test]
async fn the_heartbeat_is_a_bare_comment_line_from_the_first_second_on() {
    let hub = TestHub::with("subscribers.heartbeat = \"200ms\"").await;
    let mut client = hub.subscribe("c").await;
    let two_beats = |raw: &str| raw.ends_with(":\n:\n");
    let raw = client.raw_until("two heartbeats", two_beats).await;
    let start = opening_text("c", client.last_id().unwrap());
    let beats = raw.strip_prefix(&start).expect("the first bytes come first");
    assert_eq!(beats.replace(":\n", ""), "", "nothing but heartbeats: {raw:?}");
    let id = hub.publish("c", "x").await;
    assert_eq!(client.next().await.data, "x");
    let raw = client.raw_until("two more", two_beats).await;
    let event = format!("data: x\nid: {id}\n\n");
    let beats = raw.strip_prefix(&start).unwrap().replacen(&event, "", 1);
    assert_eq!(beats.replace(":\n", ""), "", "nothing but heartbeats around the event: {raw}");
    assert!(client.comments() >= 4);
}

#[tokio::test]
async fn a_heartbeat_before_the_first_event_does_not_break_it() {
    let hub = TestHub::with("subscribers.heartbeat = \"100ms\"").await;
    let mut client = hub.stream("/v1/channels/c?from=earliest", &[]).await;
    let raw = client.raw_until("a heartbeat", |raw| raw.ends_with(":\n")).await;
    assert!(raw.starts_with("retry: 3000\n:\n"), "no blank line before the first event: {raw:?}");
    let id = hub.publish("c", "x").await;
    let event = client.next().await;
    assert_eq!((event.id(), event.data.as_str()), (id.as_str(), "x"));
}

#[tokio::test]
async fn a_stream_that_is_busy_needs_no_heartbeat() {
    let hub = TestHub::start().await;
    let mut client = hub.subscribe("c").await;
    hub.post("/v1/channels/c", SSE, event_stream(0..100)).await.ok();
    client.take(100).await;
    assert_eq!(client.comments(), 0);
}

#[tokio::test]
async fn a_json_page_is_bounded_and_its_next_leads_on() {
    let hub = TestHub::start().await;
    hub.post("/v1/channels/c?event=t", SSE, event_stream(1..=5)).await.ok();
    let first = hub.page("c", "from=earliest&limit=2").await;
    assert_eq!(keys(&first), ["events", "next", "state"]);
    assert_eq!(first["state"], "open");
    assert_eq!(keys(&first["events"][0]), ["data", "event", "id", "time"]);
    assert_time(&first["events"][0]["time"]);
    assert_eq!(page_texts(&first), ["1", "2"]);
    assert_eq!(first["next"], first["events"][1]["id"]);
    let next = first["next"].as_str().unwrap();
    let second = hub.page("c", &format!("last_event_id={next}&limit=2")).await;
    assert_eq!(page_texts(&second), ["3", "4"]);
    let next = second["next"].as_str().unwrap();
    let third = hub.page("c", &format!("last_event_id={next}&limit=2")).await;
    assert_eq!(page_texts(&third), ["5"]);
    let next = third["next"].as_str().unwrap();
    let last = hub.page("c", &format!("last_event_id={next}&limit=2")).await;
    assert_eq!(page_texts(&last), [""; 0]);
    assert_eq!(last["next"], next, "nothing new: the same place");
}

#[tokio::test]
async fn a_page_of_an_event_stream_keeps_the_types_of_the_stream() {
    let hub = TestHub::start().await;
    hub.post("/v1/channels/c", SSE, "event: a\ndata: 1\n\ndata: 2\n\n").await.ok();
    let page = hub.page("c", "from=earliest").await;
    assert_eq!(page["events"][0]["event"], "a");
    assert_eq!(page["events"][1]["event"], Value::Null);
}

#[tokio::test]
async fn a_page_has_100_events_by_default_and_at_most_1000() {
    let hub = TestHub::start().await;
    hub.post("/v1/channels/c", SSE, event_stream(0..1200)).await.ok();
    assert_eq!(page_texts(&hub.page("c", "from=earliest").await).len(), 100);
    assert_eq!(page_texts(&hub.page("c", "from=earliest&limit=1000").await).len(), 1000);
    assert_eq!(page_texts(&hub.page("c", "from=last:7").await).len(), 7);
    for limit in ["0", "1001", "-1", "many"] {
        let to = format!("/v1/channels/c?from=earliest&limit={limit}");
        let reply = hub.get(&to, &[("Accept", "application/json")]).await;
        assert_problem(&reply, 400, "invalid_parameter", "limit");
    }
}

#[tokio::test]
async fn an_unknown_channel_is_an_empty_page_that_can_be_resumed() {
    let hub = TestHub::start().await;
    let page = hub.page("unused", "from=earliest").await;
    assert_eq!(page["events"], json!([]));
    assert_eq!(page["state"], "open");
    let next = page["next"].as_str().expect("an id, even here").to_owned();
    hub.publish("unused", "first").await;
    let page = hub.page("unused", &format!("last_event_id={next}")).await;
    assert_eq!(page_texts(&page), ["first"]);
}

#[tokio::test]
async fn a_page_at_the_tail_is_empty_and_leads_to_what_follows() {
    let hub = TestHub::start().await;
    hub.publish("c", "old").await;
    let page = hub.page("c", "").await;
    assert_eq!(page_texts(&page), [""; 0]);
    hub.publish("c", "new").await;
    let next = page["next"].as_str().unwrap();
    assert_eq!(page_texts(&hub.page("c", &format!("last_event_id={next}")).await), ["new"]);
}

#[tokio::test]
async fn a_long_poll_answers_when_something_happens() {
    let hub = TestHub::start().await;
    let accept = [("Accept", "application/json"), ("Connection", "close")];
    let mut next = hub.page("c", "").await["next"].as_str().expect("an id").to_owned();
    for text in ["1", "2", "3"] {
        let to = format!("/v1/channels/c?last_event_id={next}&wait=60s");
        let mut wire = hub.open(&to, &accept).await;
        // The page before the polls counts as well.
        let started = 1.0 + text.parse::<f64>().unwrap();
        hub.until_metric("fanfare_subscriptions_started_total", started).await;
        let id = hub.publish("c", text).await;
        let page = wire.response().await.ok().json();
        assert_eq!(page_texts(&page), [text]);
        assert_eq!(page["next"], id);
        next = id;
    }
    let at_once = hub.page("c", "from=earliest&wait=60s").await;
    assert_eq!(page_texts(&at_once), ["1", "2", "3"]);
}

#[tokio::test]
async fn a_long_poll_without_events_is_an_empty_page() {
    let hub = TestHub::start().await;
    let id = hub.publish("c", "x").await;
    let page = hub.page("c", &format!("last_event_id={id}&wait=300ms")).await;
    assert_eq!((&page["events"], &page["next"]), (&json!([]), &json!(id)));
    assert_eq!(page["state"], "open");
}

#[tokio::test]
async fn a_wait_that_makes_no_sense_is_refused() {
    let hub = TestHub::start().await;
    for wait in ["61s", "soon", "-1s", "1h"] {
        let to = format!("/v1/channels/c?wait={wait}");
        let reply = hub.get(&to, &[("Accept", "application/json")]).await;
        assert_problem(&reply, 400, "invalid_parameter", "wait");
    }
}

#[tokio::test]
async fn a_long_poll_ends_when_the_channel_does() {
    let hub = TestHub::start().await;
    let id = hub.publish("c", "x").await;
    let accept = [("Accept", "application/json"), ("Connection", "close")];
    let mut wire = hub.open(&format!("/v1/channels/c?last_event_id={id}&wait=60s"), &accept).await;
    hub.close("c", "complete").await;
    let page = wire.response().await.ok().json();
    assert_eq!(page["state"], "complete");
    let next = page["next"].as_str().unwrap();
    let after = hub.page("c", &format!("last_event_id={next}&wait=60s")).await;
    assert_eq!((&after["events"], &after["state"]), (&json!([]), &json!("complete")));
}

#[tokio::test]
async fn accept_chooses_the_format() {
    let hub = TestHub::start().await;
    hub.publish("c", "x").await;
    for (accept, kind) in [
        ("text/event-stream", "text/event-stream"),
        ("text/event-stream;q=0.5", "text/event-stream"),
        ("text/*", "text/event-stream"),
        ("*/*", "text/event-stream"),
        ("application/json", "application/json"),
        ("application/x-ndjson", "application/x-ndjson"),
        ("application/json;q=0.2, text/event-stream", "text/event-stream"),
        ("text/html, application/x-ndjson;q=0.9", "application/x-ndjson"),
        ("APPLICATION/JSON", "application/json"),
    ] {
        let mut wire = hub.open("/v1/channels/c", &[("Accept", accept)]).await;
        let head = wire.head().await;
        let charset = if kind == SSE { "; charset=utf-8" } else { "" };
        let expected = format!("{kind}{charset}");
        assert_eq!(head.header("content-type"), Some(expected), "{accept}");
    }
}

#[tokio::test]
async fn http2_without_tls_carries_publishers_and_many_subscribers_on_one_connection() {
    let hub = TestHub::start().await;
    let stream = tokio::net::TcpStream::connect(hub.addr()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let uri = |path: &str| format!("http://{}{path}", hub.addr());
    let mut bodies = Vec::new();
    for _ in 0..3 {
        let request = hyper::Request::get(uri("/v1/channels/c")).body(Full::<Bytes>::default());
        let reply = within("a head", sender.send_request(request.unwrap())).await.unwrap();
        assert_eq!(reply.status(), 200);
        assert_eq!(reply.headers()["content-type"], "text/event-stream; charset=utf-8");
        assert_eq!(reply.headers()["cache-control"], "no-store, no-transform");
        let mut body = reply.into_body();
        let mut read = Vec::new();
        read_until(&mut body, &mut read, "\n\n").await;
        bodies.push((body, read));
    }
    let publish = hyper::Request::post(uri("/v1/channels/c")).body(Full::from("over h2"));
    let receipt = within("a receipt", sender.send_request(publish.unwrap())).await.unwrap();
    let receipt = receipt.into_body().collect().await.unwrap().to_bytes();
    let receipt: Value = serde_json::from_slice(&receipt).unwrap();
    assert_eq!(receipt["subscribers"], 3);
    for (body, read) in &mut bodies {
        let expected = format!("data: over h2\nid: {}\n\n", receipt["last_id"].as_str().unwrap());
        read_until(body, read, &expected).await;
    }
    connection.abort();
}

/// Reads frames until the text ends with this.
async fn read_until(body: &mut hyper::body::Incoming, read: &mut Vec<u8>, end: &str) {
    while !read.ends_with(end.as_bytes()) {
        let frame = within("a frame", body.frame()).await.expect("more").expect("no error");
        read.extend_from_slice(frame.data_ref().expect("data"));
    }
}

#[tokio::test]
async fn an_http2_subscriber_that_resets_its_stream_leaves() {
    let hub = TestHub::with("subscribers.heartbeat = \"200ms\"").await;
    let stream = tokio::net::TcpStream::connect(hub.addr()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let uri = format!("http://{}/v1/channels/c", hub.addr());
    let request = hyper::Request::get(&uri).body(Empty::<Bytes>::new()).unwrap();
    let reply = within("a head", sender.send_request(request)).await.unwrap();
    hub.until_metric("fanfare_subscriptions", 1.0).await;
    drop(reply);
    hub.until_metric("fanfare_subscriptions_ended_total{reason=\"client_gone\"}", 1.0).await;
}

#[tokio::test]
async fn heartbeats_reach_every_subscriber_and_do_not_hold_up_events() {
    let hub = TestHub::with("subscribers.heartbeat = \"50ms\"").await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(hub.subscribe("c").await);
    }
    for client in &mut clients {
        client.raw_until("a heartbeat", |raw| raw.ends_with(":\n")).await;
    }
    hub.publish("c", "x").await;
    for client in &mut clients {
        assert_eq!(client.next().await.data, "x");
    }
}

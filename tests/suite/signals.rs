//! Signals: a stop reaches the producer over each of its connections, and a producer gets the
//! number of viewers.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::generation::{Format, Generation, Viewer};
use crate::support::{
    Publisher, Response, SseClient, SseEvent, TestHub, assert_problem, assert_time, event_stream,
    eventually, keys, page_texts, texts,
};

const SSE: &str = "text/event-stream";
const CONTENT_TYPE: &str = "text/event-stream; charset=utf-8";
const JSON: &str = "application/json";

async fn signal(hub: &TestHub, channel: &str, body: &Value) -> Response {
    hub.post(&format!("/v1/signals/{channel}"), JSON, body.to_string()).await
}

/// Sends the stop signal.
async fn stop(hub: &TestHub, channel: &str) -> Value {
    signal(hub, channel, &json!({"signal":"stop","reason":"user"})).await.ok().json()
}

/// Opens the feed of a channel's signals.
async fn feed(hub: &TestHub, channel: &str) -> SseClient {
    let client = hub.stream(&format!("/v1/signals/{channel}"), &[]).await;
    assert_eq!(client.head.status, 200, "{:?}", client.head);
    assert_eq!(client.head.header("content-type").as_deref(), Some(CONTENT_TYPE));
    client
}

/// Returns the next signal of the feed, which must have no id.
async fn next_signal(feed: &mut SseClient) -> (String, Value) {
    let SseEvent { id, event, data } = feed.next().await;
    assert_eq!(id, None, "a feed of signals cannot be resumed");
    (event.expect("a type"), serde_json::from_str(&data).expect("JSON"))
}

/// Reads until the number of viewers is `wanted`; only counts of viewers may precede it.
async fn until_viewers(feed: &mut SseClient, wanted: u64) {
    loop {
        let (event, data) = next_signal(feed).await;
        assert_eq!(event, "viewers", "{data}");
        assert_eq!(keys(&data), ["channel", "viewers"]);
        if data["viewers"] == wanted {
            return;
        }
    }
}

/// Returns the next signal that is no count of viewers.
async fn after_viewers(feed: &mut SseClient) -> (String, Value) {
    loop {
        let (event, data) = next_signal(feed).await;
        if event != "viewers" {
            return (event, data);
        }
    }
}

async fn delete(hub: &TestHub, channel: &str) {
    let reply = hub.request("DELETE", &format!("/v1/channels/{channel}"), &[], "").await;
    assert_eq!(reply.status(), 204, "{}", reply.text());
}

async fn state(hub: &TestHub, channel: &str) -> String {
    hub.head(channel).await.header("fanfare-state").unwrap_or("unknown").to_owned()
}

#[tokio::test]
async fn a_stop_is_answered_and_sent_to_the_producer_and_all_viewers() {
    let hub = TestHub::start().await;
    let generation = Generation::numbered(Format::OpenaiChat, 20);
    let mut clients = [hub.subscribe("c").await, hub.subscribe("c").await];
    let mut producer = generation.producer(&hub, "c").await;
    producer.send(generation.wire(0..8)).await;
    let seen = clients[0].take(8).await;
    let answer = stop(&hub, "c").await;
    assert_eq!(answer, json!({"channel":"c","signal":"stop","stopped":true,"state":"cancelled"}));
    let reply = producer.early_reply().await;
    let problem = assert_problem(&reply, 409, "channel_stopped", "stopped");
    assert_eq!(problem["retryable"], false);
    assert_eq!(problem["events"], 8, "how many were kept: {problem}");
    assert_eq!(problem["first_id"], seen[0].id());
    assert_eq!(problem["last_id"], seen[7].id());
    assert_eq!(problem["reason"], "user");
    let end = clients[0].next().await.assert_end("cancelled");
    assert_eq!(end["reason"], "user");
    clients[0].assert_eof().await;
    assert_eq!(clients[1].take(8).await, seen);
    clients[1].next().await.assert_end("cancelled");
    assert_eq!(state(&hub, "c").await, "cancelled");
    assert_eq!(hub.page("c", "from=earliest").await["state"], "cancelled");
}

#[tokio::test]
async fn the_producer_knows_within_a_tenth_of_a_second() {
    let hub = TestHub::start().await;
    let generation = Generation::numbered(Format::Anthropic, 20);
    let mut took = Vec::new();
    for n in 0..5 {
        let channel = format!("c/{n}");
        let mut client = hub.subscribe(&channel).await;
        let mut producer = generation.producer(&hub, &channel).await;
        producer.send(generation.wire(0..8)).await;
        client.take(8).await;
        let pressed = Instant::now();
        stop(&hub, &channel).await;
        assert_problem(&producer.early_reply().await, 409, "channel_stopped", "");
        took.push(pressed.elapsed());
    }
    took.sort();
    assert!(took[2] < Duration::from_millis(100), "as a rule: {took:?}");
}

#[tokio::test]
async fn every_kind_of_body_that_is_under_way_is_answered_early() {
    let hub = TestHub::start().await;
    for (n, (query, kind, part)) in [
        ("", SSE, "data: \"x\"\n\n"),
        ("", "application/x-ndjson", "\"x\"\n"),
        ("?close=complete", SSE, "data: \"x\"\n\n"),
        ("?format=text", "text/plain", "\"x\""),
    ]
    .into_iter()
    .enumerate()
    {
        let channel = format!("c/{n}");
        let mut client = hub.subscribe(&channel).await;
        let to = format!("/v1/channels/{channel}{query}");
        let mut producer = Publisher::begin(&hub, &to, kind, &[]).await;
        producer.send(part).await;
        let id = client.next().await.id().to_owned();
        assert_eq!(stop(&hub, &channel).await["stopped"], true);
        let problem = assert_problem(&producer.early_reply().await, 409, "channel_stopped", "");
        assert_eq!((&problem["events"], &problem["last_id"]), (&json!(1), &json!(id)), "{to}");
        client.next().await.assert_end("cancelled");
    }
}

#[tokio::test]
async fn a_producer_that_posts_event_by_event_sees_a_stop_in_the_next_reply() {
    let hub = TestHub::start().await;
    hub.publish("c", "kept").await;
    stop(&hub, "c").await;
    for (to, kind, body) in [
        ("/v1/channels/c", "text/plain", "x"),
        ("/v1/channels/c", SSE, "data: x\n\n"),
        ("/v1/channels/c?close=auto", SSE, "data: x\n\n"),
        ("/v1/channels/c?close=complete", "text/plain", "x"),
        ("/v1/publish", "application/x-ndjson", "{\"channel\":\"c\",\"data\":\"x\"}\n"),
    ] {
        let reply = hub.post(to, kind, body).await;
        let problem = assert_problem(&reply, 409, "channel_stopped", "stopped");
        assert_eq!(problem["retryable"], false);
    }
    let page = hub.page("c", "from=earliest").await;
    assert_eq!(page_texts(&page)[..1], ["kept"]);
    assert_eq!(page["events"].as_array().unwrap().len(), 2, "it and the end");
    delete(&hub, "c").await;
    hub.publish("c", "anew").await;
    assert_eq!(state(&hub, "c").await, "open");
}

#[tokio::test]
async fn a_stop_that_comes_before_the_producer_is_kept_for_it() {
    let hub = TestHub::start().await;
    let mut waiting = hub.subscribe("watched").await;
    for channel in ["c", "watched"] {
        let answer = stop(&hub, channel).await;
        assert_eq!((&answer["stopped"], &answer["state"]), (&json!(true), &json!("cancelled")));
        let generation = Generation::numbered(Format::OpenaiChat, 3);
        let producer = generation.producer(&hub, channel).await;
        let reply = producer.early_reply().await;
        let problem = assert_problem(&reply, 409, "channel_stopped", "");
        assert_eq!((&problem["events"], &problem["reason"]), (&json!(0), &json!("user")));
        let reply = hub.post(&format!("/v1/channels/{channel}"), "text/plain", "x").await;
        assert_problem(&reply, 409, "channel_stopped", "");
    }
    assert_eq!(waiting.next().await.assert_end("cancelled")["reason"], "user");
    let mut late = hub.stream("/v1/channels/c?from=earliest", &[]).await;
    late.next().await.assert_end("cancelled");
}

#[tokio::test]
async fn a_late_stop_does_not_end_the_next_generation() {
    let hub = TestHub::start().await;
    let elsewhere = hub.publish("elsewhere", "x").await;
    let former = hub.publish("c", "former").await;
    delete(&hub, "c").await;
    let id = hub.publish("c", "present").await;
    let mut client = hub.resume("c", &id).await;
    for over in [&former, &elsewhere] {
        let body = json!({"signal":"stop","generation":over});
        let reply = signal(&hub, "c", &body).await;
        assert_problem(&reply, 409, "generation_over", "generation");
    }
    for garbage in ["garbage", "", "zzzzzz-7", "7"] {
        // Not an event id, or one of another epoch: refused in any case.
        let reply = signal(&hub, "c", &json!({"signal":"stop","generation":garbage})).await;
        let code = reply.json()["code"].clone();
        assert!(code == "generation_over" || code == "invalid_parameter", "{}", reply.text());
        assert!(matches!(reply.status(), 400 | 409), "{}", reply.text());
    }
    let reply = signal(&hub, "unused", &json!({"signal":"stop","generation":id})).await;
    assert_problem(&reply, 409, "generation_over", "");
    hub.publish("unused", "is not stopped").await;
    assert_eq!(state(&hub, "c").await, "open");
    let more = hub.publish("c", "more").await;
    assert_eq!(client.next().await.id(), more);
    let body = json!({"signal":"stop","generation":id});
    let answer = signal(&hub, "c", &body).await.ok().json();
    assert_eq!((&answer["stopped"], &answer["state"]), (&json!(true), &json!("cancelled")));
    assert_eq!(client.next().await.assert_end("cancelled")["reason"], Value::Null);
}

#[tokio::test]
async fn any_event_of_the_present_generation_names_it() {
    let hub = TestHub::with("channels.max_events = 2").await;
    for which in [0, 2, 4] {
        let channel = format!("c/{which}");
        let ids = hub.publish_all(&channel, &["1", "2", "3", "4", "5"]).await;
        let body = json!({"signal":"stop","generation":ids[which]});
        let answer = signal(&hub, &channel, &body).await.ok().json();
        assert_eq!(answer["stopped"], true, "an evicted event is one of this life too");
    }
}

#[tokio::test]
async fn a_second_stop_stops_nothing_and_says_how_it_ended() {
    let hub = TestHub::start().await;
    hub.publish("c", "x").await;
    assert_eq!(stop(&hub, "c").await["stopped"], true);
    let second = stop(&hub, "c").await;
    assert_eq!(second, json!({"channel":"c","signal":"stop","stopped":false,"state":"cancelled"}));
    for how in ["complete", "error"] {
        hub.close(how, how).await;
        let answer = stop(&hub, how).await;
        assert_eq!((&answer["stopped"], &answer["state"]), (&json!(false), &json!(how)));
        let reply = hub.post(&format!("/v1/channels/{how}"), "text/plain", "x").await;
        assert_problem(&reply, 409, "channel_closed", "");
    }
    Generation::rich(Format::Gemini).publish(&hub, "generated").await;
    let answer = stop(&hub, "generated").await;
    assert_eq!((&answer["stopped"], &answer["state"]), (&json!(false), &json!("complete")));
}

#[tokio::test]
async fn the_feed_has_the_viewers_then_the_stop_and_then_the_end() {
    let hub = TestHub::with("subscribers.heartbeat = \"100ms\"").await;
    let generation = Generation::numbered(Format::OpenaiChat, 20);
    let mut feed = feed(&hub, "c").await;
    let (event, data) = next_signal(&mut feed).await;
    assert_eq!((event.as_str(), &data), ("viewers", &json!({"channel":"c","viewers":0})));
    let first = hub.subscribe("c").await;
    until_viewers(&mut feed, 1).await;
    let mut second = hub.subscribe("c").await;
    until_viewers(&mut feed, 2).await;
    drop(first);
    until_viewers(&mut feed, 1).await;
    let mut producer = generation.producer(&hub, "c").await;
    producer.send(generation.wire(0..4)).await;
    second.take(4).await;
    stop(&hub, "c").await;
    let (event, data) = after_viewers(&mut feed).await;
    assert_eq!(event, "stop");
    assert_eq!(keys(&data), ["channel", "reason", "signal", "time"]);
    assert_eq!((&data["channel"], &data["signal"]), (&json!("c"), &json!("stop")));
    assert_eq!(data["reason"], "user");
    assert_time(&data["time"]);
    let (event, data) = after_viewers(&mut feed).await;
    assert_eq!(event, "end");
    assert_eq!(data, json!({"channel":"c","state":"cancelled","reason":"user"}));
    feed.assert_eof().await;
}

#[tokio::test]
async fn the_feed_of_a_generation_that_ends_by_itself_has_only_the_end() {
    let hub = TestHub::start().await;
    let mut feed = feed(&hub, "c").await;
    until_viewers(&mut feed, 0).await;
    Generation::rich(Format::Ollama).publish(&hub, "c").await;
    let (event, data) = after_viewers(&mut feed).await;
    assert_eq!(event, "end");
    assert_eq!(data, json!({"channel":"c","state":"complete","reason":null}));
    feed.assert_eof().await;
}

#[tokio::test]
async fn a_late_request_for_signals_is_answered_at_once() {
    let hub = TestHub::start().await;
    hub.publish("c", "x").await;
    stop(&hub, "c").await;
    stop(&hub, "never/begun").await;
    for channel in ["c", "never/begun"] {
        let mut feed = feed(&hub, channel).await;
        let (event, data) = after_viewers(&mut feed).await;
        assert_eq!((event.as_str(), &data["reason"]), ("stop", &json!("user")));
        let (event, data) = after_viewers(&mut feed).await;
        assert_eq!((event.as_str(), &data["state"]), ("end", &json!("cancelled")));
        feed.assert_eof().await;
    }
    hub.close("closed", "complete").await;
    let mut feed = feed(&hub, "closed").await;
    let (event, data) = after_viewers(&mut feed).await;
    assert_eq!((event.as_str(), &data["state"]), ("end", &json!("complete")));
    feed.assert_eof().await;
}

#[tokio::test]
async fn the_feed_has_heartbeats_and_cors_as_everything_has() {
    let hub = TestHub::with(
        "subscribers.heartbeat = \"100ms\"\ncors.allow_origins = [\"https://app.example\"]",
    )
    .await;
    let origin = ("Origin", "https://app.example");
    let mut feed = hub.stream("/v1/signals/c", &[origin]).await;
    feed.raw_until("two heartbeats", |raw| raw.ends_with(":\n:\n")).await;
    let allow = feed.head.header("access-control-allow-origin");
    assert_eq!(allow.as_deref(), Some("https://app.example"));
    let asks = [origin, ("Access-Control-Request-Method", "POST")];
    let reply = hub.request("OPTIONS", "/v1/signals/c", &asks, "").await;
    assert!(matches!(reply.status(), 200 | 204), "{}", reply.status());
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.example"));
    let headers = [origin, ("Content-Type", JSON)];
    let reply = hub.request("POST", "/v1/signals/c", &headers, "{\"signal\":\"stop\"}").await.ok();
    assert_eq!(reply.header("access-control-allow-origin"), Some("https://app.example"));
}

#[tokio::test]
async fn viewers_that_come_and_go_quickly_are_reported_at_most_four_times_a_second() {
    let hub = TestHub::with("subscribers.heartbeat = \"100ms\"").await;
    let mut feed = feed(&hub, "c").await;
    until_viewers(&mut feed, 0).await;
    let begun = Instant::now();
    let mut viewers = Vec::new();
    for _ in 0..40 {
        viewers.push(hub.subscribe("c").await);
    }
    let mut reports = 0;
    loop {
        let (event, data) = next_signal(&mut feed).await;
        assert_eq!(event, "viewers");
        reports += 1;
        if data["viewers"] == 40 {
            break;
        }
    }
    let most = 2.0 + begun.elapsed().as_secs_f64() * 4.0;
    assert!(f64::from(reports) <= most, "{reports} times in {:?}", begun.elapsed());
}

#[tokio::test]
async fn wrong_signals_are_refused_and_stop_nothing() {
    let hub = TestHub::start().await;
    hub.publish("c", "x").await;
    let long = json!({"signal":"stop","reason":"x".repeat(257)}).to_string();
    for (body, hint) in [
        ("{\"signal\":\"pause\"}", "signal"),
        ("{\"signal\":\"STOP\"}", "signal"),
        ("{\"signal\":7}", ""),
        ("{}", "signal"),
        ("", ""),
        ("[]", ""),
        ("stop", ""),
        ("{\"signal\":\"stop\"", ""),
        ("{\"signal\":\"stop\",\"reason\":7}", ""),
        ("{\"signal\":\"stop\",\"generation\":7}", ""),
        (long.as_str(), "reason"),
    ] {
        let reply = hub.post("/v1/signals/c", JSON, body).await;
        assert_problem(&reply, 400, "invalid_parameter", hint);
    }
    let reply = hub.post("/v1/signals/a//b", JSON, "{\"signal\":\"stop\"}").await;
    assert_problem(&reply, 400, "invalid_channel_name", "");
    let reply = hub.get("/v1/signals/a//b", &[]).await;
    assert_problem(&reply, 400, "invalid_channel_name", "");
    let reply = hub.request("PUT", "/v1/signals/c", &[], "").await;
    assert_problem(&reply, 405, "method_not_allowed", "");
    assert_eq!(state(&hub, "c").await, "open");
    let longest = "x".repeat(256);
    let body = json!({"signal":"stop","reason":longest});
    assert_eq!(signal(&hub, "c", &body).await.ok().json()["stopped"], true);
    let mut client = hub.stream("/v1/channels/c", &[]).await;
    assert_eq!(client.next().await.assert_end("cancelled")["reason"], longest);
}

#[tokio::test]
async fn a_stop_says_nothing_of_a_reason_if_there_is_none() {
    let hub = TestHub::start().await;
    let mut client = hub.subscribe("c").await;
    let mut feed = feed(&hub, "c").await;
    signal(&hub, "c", &json!({"signal":"stop"})).await.ok();
    assert_eq!(client.next().await.assert_end("cancelled")["reason"], Value::Null);
    let (_, data) = after_viewers(&mut feed).await;
    assert_eq!(data["reason"], Value::Null);
}

#[tokio::test]
async fn a_viewer_that_goes_away_stops_nothing() {
    let hub = TestHub::with("subscribers.heartbeat = \"100ms\"").await;
    let generation = Generation::numbered(Format::Anthropic, 4);
    let mut client = hub.subscribe("c").await;
    let mut producer = generation.producer(&hub, "c").await;
    producer.send(generation.wire(0..2)).await;
    client.take(2).await;
    drop(client);
    eventually("no viewer to be left", async || {
        hub.head("c").await.header("fanfare-subscribers") == Some("0")
    })
    .await;
    producer.send(generation.wire(2..generation.chunks.len())).await;
    assert_eq!(producer.finish().await.ok().json()["state"], "complete");
    let viewer = Viewer::watch(&hub, generation.format, "/v1/channels/c?from=earliest").await;
    viewer.assert_complete(&generation);
}

#[tokio::test]
async fn a_generation_without_viewers_is_stopped_if_the_channel_asks_for_it() {
    let hub = TestHub::with(
        "subscribers.heartbeat = \"100ms\"\n\
         [[channels.rules]]\npattern = \"chat/**\"\n\
         when_unwatched = { after = \"300ms\", signal = \"stop\" }\n",
    )
    .await;
    let body = "{\"when_unwatched\":{\"after\":\"300ms\",\"signal\":\"stop\"}}";
    let put = hub.put("put", body).await;
    assert_eq!(put.status(), 201, "{}", put.text());
    let generation = Generation::numbered(Format::OpenaiChat, 4);
    for channel in ["chat/1", "put"] {
        let mut client = hub.subscribe(channel).await;
        let mut producer = generation.producer(&hub, channel).await;
        producer.send(generation.wire(0..2)).await;
        let seen = client.take(2).await;
        drop(client);
        let problem = assert_problem(&producer.early_reply().await, 409, "channel_stopped", "");
        assert_eq!((&problem["reason"], &problem["events"]), (&json!("unwatched"), &json!(2)));
        let mut late = hub.stream(&format!("/v1/channels/{channel}?from=earliest"), &[]).await;
        let all = late.rest().await;
        assert_eq!(texts(&all[..2]), texts(&seen));
        assert_eq!(all[2].assert_end("cancelled")["reason"], "unwatched");
    }
    let never = generation.producer(&hub, "chat/never/watched").await;
    let problem = assert_problem(&never.early_reply().await, 409, "channel_stopped", "");
    assert_eq!(problem["reason"], "unwatched");
    let mut elsewhere = generation.producer(&hub, "elsewhere").await;
    elsewhere.send(generation.whole()).await;
    assert_eq!(elsewhere.finish().await.ok().json()["state"], "complete");
}

#[tokio::test]
async fn a_viewer_who_comes_back_in_time_keeps_the_generation_alive() {
    let hub = TestHub::with(
        "subscribers.heartbeat = \"100ms\"\n\
         channels.when_unwatched = { after = \"1s\", signal = \"stop\" }\n",
    )
    .await;
    let generation = Generation::numbered(Format::OpenaiChat, 4);
    let mut client = hub.subscribe("c").await;
    let mut producer = generation.producer(&hub, "c").await;
    producer.send(generation.wire(0..2)).await;
    let id = client.take(2).await[1].id().to_owned();
    drop(client);
    eventually("no viewer to be left", async || {
        hub.head("c").await.header("fanfare-subscribers") == Some("0")
    })
    .await;
    let mut back = hub.resume("c", &id).await;
    let left = Instant::now();
    // Twelve heartbeats of a tenth of a second: longer than the channel may be without viewers.
    back.raw_until("many heartbeats", |raw| raw.matches(":\n").count() >= 12).await;
    assert!(left.elapsed() > Duration::from_secs(1));
    assert_eq!(state(&hub, "c").await, "open");
    producer.send(generation.wire(2..generation.chunks.len())).await;
    assert_eq!(producer.finish().await.ok().json()["state"], "complete");
    back.rest().await.last().unwrap().assert_end("complete");
}

#[tokio::test]
async fn without_a_streaming_producer_no_viewer_is_needed() {
    let hub =
        TestHub::with("channels.when_unwatched = { after = \"200ms\", signal = \"stop\" }").await;
    hub.publish("c", "x").await;
    hub.post("/v1/channels/c", SSE, event_stream(["y"])).await.ok();
    let clock = Generation::numbered(Format::Text, 2).producer(&hub, "clock").await;
    assert_problem(&clock.early_reply().await, 409, "channel_stopped", "");
    assert_eq!(state(&hub, "c").await, "open");
    hub.publish("c", "z").await;
}

#[tokio::test]
async fn a_wrong_when_unwatched_is_refused() {
    let hub = TestHub::start().await;
    for bad in [
        "{\"when_unwatched\":\"30s\"}",
        "{\"when_unwatched\":{\"after\":\"soon\",\"signal\":\"stop\"}}",
        "{\"when_unwatched\":{\"after\":\"30s\",\"signal\":\"explode\"}}",
        "{\"when_unwatched\":{\"signal\":\"stop\"}}",
    ] {
        let reply = hub.put("c", bad).await;
        assert_problem(&reply, 400, "invalid_parameter", "");
    }
    assert_eq!(hub.head("c").await.status(), 404);
}

#[tokio::test]
async fn what_is_missing_is_named_and_no_field_is_made_up_for_it() {
    let hub = TestHub::start().await;
    let reply = signal(&hub, "c", &json!({})).await;
    let problem = assert_problem(&reply, 400, "invalid_parameter", "`signal` is missing");
    assert_eq!(problem.get("parameter"), None, "{problem}");
}

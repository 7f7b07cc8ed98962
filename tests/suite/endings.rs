//! The ends of channels: live and late subscribers get the state of a closed channel.

use serde_json::{Value, json};

use crate::support::{
    Piece, Publisher, TestHub, assert_ascending, assert_problem, event_stream, keys, offset,
    opening_text, page_texts, texts, within,
};

const SSE: &str = "text/event-stream";

async fn delete(hub: &TestHub, channel: &str) {
    let reply = hub.request("DELETE", &format!("/v1/channels/{channel}"), &[], "").await;
    assert_eq!(reply.status(), 204, "{}", reply.text());
    assert_eq!(reply.body, b"");
}

#[tokio::test]
async fn each_way_to_end_reaches_live_subscribers_receipts_heads_and_pages() {
    let hub = TestHub::start().await;
    for state in ["complete", "error", "cancelled"] {
        let mut client = hub.subscribe(state).await;
        hub.publish(state, "x").await;
        let receipt = hub.close(state, state).await.json();
        assert_eq!((&receipt["state"], &receipt["events"]), (&json!(state), &json!(0)));
        assert_eq!(receipt["last_id"], Value::Null);
        assert_eq!(client.next().await.data, "x");
        let end = client.next().await.assert_end(state);
        assert_eq!(keys(&end), ["channel", "reason", "state"]);
        assert_eq!((&end["channel"], &end["reason"]), (&json!(state), &Value::Null));
        client.assert_eof().await;
        assert_eq!(hub.head(state).await.header("fanfare-state"), Some(state));
        assert_eq!(hub.page(state, "from=earliest").await["state"], state);
    }
    hub.until_metric("fanfare_subscriptions_ended_total{reason=\"closed\"}", 3.0).await;
}

#[tokio::test]
async fn the_end_has_the_form_of_an_event_after_all_others() {
    let hub = TestHub::start().await;
    let mut client = hub.subscribe("c").await;
    let start = opening_text("c", client.last_id().unwrap());
    let id = hub.publish("c", "x").await;
    hub.close("c", "complete").await;
    let seen = client.rest().await;
    client.assert_eof().await;
    let raw = client.raw_until("all of it", |_| true).await;
    let end = &seen[1];
    let end_id = end.id();
    let data = &end.data;
    let rest = format!(
        "data: x
id: {id}

\
         retry: 60000
event: fanfare.end
data: {data}
id: {end_id}

"
    );
    assert_eq!(raw, start + &rest);
    assert!(offset(end_id) > offset(&id));
}

#[tokio::test]
async fn an_end_asks_clients_that_reconnect_to_wait() {
    for (setting, expected) in [("1m", Some(60_000)), ("5s", Some(5_000)), ("0s", None)] {
        let settings = format!("subscribers.end_reconnect_delay = \"{setting}\"");
        let hub = TestHub::with(&settings).await;
        let mut live = hub.subscribe("c").await;
        let mut feed = hub.stream("/v1/signals/c", &[]).await;
        hub.publish("c", "x").await;
        hub.close("c", "complete").await;
        let mut late = hub.stream("/v1/channels/c?from=earliest", &[]).await;
        for client in [&mut live, &mut late, &mut feed] {
            client.rest().await;
            assert_eq!(client.retry(), expected.or(Some(3000)), "{setting}");
            let raw = client.raw_until("all of it", |_| true).await;
            let blocks = expected.map_or(1, |_| 2);
            assert_eq!(raw.matches("retry: ").count(), blocks, "{raw}");
            assert!(!raw.contains("\n\nretry: 60000\n\n"), "a block of its own: {raw}");
        }
    }
}

#[tokio::test]
async fn on_many_channels_only_the_last_end_changes_how_long_a_client_waits() {
    let hub = TestHub::start().await;
    let mut live = hub.stream("/v1/events?channel=a&channel=b", &[]).await.settled().await;
    hub.close("a", "complete").await;
    hub.publish("b", "x").await;
    live.next().await.assert_end("complete");
    assert!(live.next().await.data.contains("\"b\""));
    assert_eq!(live.retry(), Some(3000), "the others go on");
    hub.close("b", "complete").await;
    live.next().await.assert_end("complete");
    live.assert_eof().await;
    assert_eq!(live.retry(), Some(60_000));
    let raw = live.raw_until("all of it", |_| true).await;
    assert!(raw.ends_with("\n\nretry: 60000\n"), "a line, and no block: {raw}");
}

#[tokio::test]
async fn the_body_comes_first_and_then_the_channel_closes() {
    let hub = TestHub::start().await;
    let mut client = hub.subscribe("c").await;
    let to = "/v1/channels/c?close=complete";
    let receipt = hub.post(to, SSE, event_stream(["1", "2"])).await.ok().json();
    assert_eq!((&receipt["state"], &receipt["events"]), (&json!("complete"), &json!(2)));
    let seen = client.rest().await;
    assert_eq!(texts(&seen[..2]), ["1", "2"]);
    seen[2].assert_end("complete");
    assert_eq!(receipt["last_id"], seen[1].id(), "the end is the hub's, not the publisher's");
}

#[tokio::test]
async fn a_streamed_body_closes_its_channel_when_it_ends() {
    let hub = TestHub::start().await;
    let mut client = hub.subscribe("c").await;
    let mut producer = Publisher::begin(&hub, "/v1/channels/c?close=complete", SSE, &[]).await;
    producer.send("data: 1\n\n").await;
    assert_eq!(client.next().await.data, "1");
    assert_eq!(hub.head("c").await.header("fanfare-state"), Some("open"));
    assert_eq!(producer.finish().await.ok().json()["state"], "complete");
    client.next().await.assert_end("complete");
    client.assert_eof().await;
}

#[tokio::test]
async fn a_late_viewer_gets_what_was_missed_and_then_the_end() {
    let hub = TestHub::start().await;
    let ids = hub.publish_all("c", &["1", "2"]).await;
    hub.close("c", "complete").await;
    let mut all = hub.stream("/v1/channels/c?from=earliest", &[]).await;
    let seen = all.rest().await;
    all.assert_eof().await;
    assert_eq!(texts(&seen[..2]), ["1", "2"]);
    seen[2].assert_end("complete");
    assert_eq!(seen.len(), 3);
    let mut behind_1 = hub.resume("c", &ids[0]).await;
    assert_eq!(behind_1.rest().await, seen[1..]);
    let mut behind_2 = hub.resume("c", &ids[1]).await;
    assert_eq!(behind_2.rest().await, seen[2..]);
    let mut at_the_tail = hub.stream("/v1/channels/c", &[]).await;
    at_the_tail.next().await.assert_end("complete");
    at_the_tail.assert_eof().await;
}

#[tokio::test]
async fn a_reconnect_after_the_end_gets_204() {
    let hub = TestHub::start().await;
    hub.publish("c", "x").await;
    hub.close("c", "complete").await;
    let seen = hub.stream("/v1/channels/c?from=earliest", &[]).await.rest().await;
    let end = seen.last().unwrap().id();
    for accept in [SSE, "*/*", "application/x-ndjson"] {
        let headers = [("Accept", accept), ("Last-Event-ID", end), ("Connection", "close")];
        let reply = hub.get("/v1/channels/c", &headers).await;
        assert_eq!((reply.status(), reply.text().as_str()), (204, ""), "{accept}");
    }
    let by_query = hub.get(&format!("/v1/channels/c?last_event_id={end}"), &[]).await;
    assert_eq!(by_query.status(), 204);
    let page = hub.page("c", &format!("last_event_id={end}&wait=60s")).await;
    assert_eq!((&page["events"], &page["state"]), (&json!([]), &json!("complete")));
}

#[tokio::test]
async fn a_page_of_an_ended_channel_has_its_end() {
    let hub = TestHub::start().await;
    hub.publish("c", "x").await;
    hub.close("c", "complete").await;
    let page = hub.page("c", "from=earliest").await;
    assert_eq!(page_texts(&page)[0], "x");
    assert_eq!(page["events"][1]["event"], "fanfare.end");
    let next = page["next"].as_str().unwrap();
    assert_eq!(page["next"], page["events"][1]["id"]);
    assert_eq!(hub.resume("c", next).await.head.status, 204);
}

#[tokio::test]
async fn closed_stays_closed_until_it_is_deleted() {
    let hub = TestHub::start().await;
    hub.publish("c", "x").await;
    hub.close("c", "complete").await;
    let reply = hub.post("/v1/channels/c", "text/plain", "more").await;
    let problem = assert_problem(&reply, 409, "channel_closed", "closed");
    assert_eq!(problem["retryable"], false);
    let reply =
        hub.post("/v1/publish", "application/x-ndjson", "{\"channel\":\"c\",\"data\":\"\"}");
    assert_problem(&reply.await, 409, "channel_closed", "closed");
    assert_eq!(hub.page("c", "from=earliest").await["state"], "complete");
    delete(&hub, "c").await;
    let receipt = hub.post("/v1/channels/c", "text/plain", "anew").await.ok().json();
    assert_eq!(receipt["state"], "open");
    assert_eq!(page_texts(&hub.page("c", "from=earliest").await), ["anew"]);
}

#[tokio::test]
async fn a_streamed_publish_ends_when_another_closes_the_channel() {
    let hub = TestHub::start().await;
    let mut client = hub.subscribe("c").await;
    let mut producer = Publisher::events(&hub, "c").await;
    producer.send("data: kept\n\n").await;
    client.next().await;
    hub.close("c", "cancelled").await;
    producer.send("data: too late\n\n").await;
    let reply = producer.early_reply().await;
    let problem = assert_problem(&reply, 409, "channel_closed", "closed");
    assert_eq!(problem["events"], 1, "how many were kept: {problem}");
    client.next().await.assert_end("cancelled");
}

#[tokio::test]
async fn a_body_that_is_refused_half_way_never_closes_the_channel() {
    let hub = TestHub::start().await;
    let to = "/v1/channels/c?close=complete";
    let reply = hub.post(to, "application/x-ndjson", "1\nbroken\n").await;
    assert_problem(&reply, 400, "invalid_event", "");
    assert_eq!(hub.head("c").await.header("fanfare-state"), Some("open"));
    hub.publish("c", "2").await;
    assert_eq!(page_texts(&hub.page("c", "from=earliest").await), ["1", "2"]);
}

#[tokio::test]
async fn a_way_to_end_that_does_not_exist_is_refused_before_anything_is_published() {
    let hub = TestHub::start().await;
    for close in ["open", "deleted", "done"] {
        let to = format!("/v1/channels/c?close={close}");
        let reply = hub.post(&to, "text/plain", "x").await;
        assert_problem(&reply, 400, "invalid_parameter", "close");
    }
    assert_eq!(hub.head("c").await.status(), 404);
}

#[tokio::test]
async fn deleting_ends_the_subscribers_and_frees_the_name() {
    let hub = TestHub::start().await;
    let before = hub.publish("c", "old").await;
    let mut client = hub.subscribe("c").await;
    delete(&hub, "c").await;
    let end = client.next().await;
    assert_eq!(end.assert_end("deleted")["channel"], "c");
    client.assert_eof().await;
    assert_eq!(hub.head("c").await.status(), 404);
    assert_eq!(hub.resume("c", end.id()).await.head.status, 204, "until the name is used again");
    let after = hub.publish("c", "new").await;
    assert_ascending([before.as_str(), end.id(), after.as_str()]);
    assert_eq!(page_texts(&hub.page("c", "from=earliest").await), ["new"]);
    let mut resumed = hub.resume("c", end.id()).await;
    assert_eq!(resumed.next().await.data, "new", "behind the end, nothing is missing");
}

#[tokio::test]
async fn a_subscriber_that_missed_deleted_events_gets_a_gap() {
    let hub = TestHub::start().await;
    let ids = hub.publish_all("c", &["seen", "missed"]).await;
    delete(&hub, "c").await;
    hub.publish("c", "new").await;
    let mut client = hub.resume("c", &ids[0]).await;
    let gap = client.next().await.assert_gap("evicted");
    assert_eq!(gap["requested"], ids[0]);
    assert_eq!(client.next().await.data, "new");
}

#[tokio::test]
async fn deleting_a_channel_that_was_closed_frees_it_too() {
    let hub = TestHub::start().await;
    hub.close("c", "error").await;
    delete(&hub, "c").await;
    let again = hub.request("DELETE", "/v1/channels/c", &[], "").await;
    assert_problem(&again, 404, "not_found", "");
    hub.publish("c", "x").await;
}

#[tokio::test]
async fn the_end_reaches_an_ndjson_subscriber_as_a_line_and_then_the_stream_ends() {
    let hub = TestHub::start().await;
    hub.publish("c", "x").await;
    let accept = [("Accept", "application/x-ndjson")];
    let mut wire = hub.open("/v1/channels/c?from=earliest", &accept).await;
    assert_eq!(wire.head().await.status, 200);
    hub.close("c", "complete").await;
    let mut text = String::new();
    loop {
        match within("the end", wire.piece()).await {
            Piece::Data(bytes) => text += std::str::from_utf8(&bytes).unwrap(),
            Piece::End => break,
            Piece::Broken => panic!("broken: {text}"),
        }
    }
    let lines: Vec<Value> =
        text.trim_start().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(lines[1]["event"], "fanfare.end");
    assert!(lines[1]["data"].as_str().unwrap().contains("\"complete\""));
}

#[tokio::test]
async fn a_close_may_have_a_reason() {
    let hub = TestHub::start().await;
    let mut client = hub.subscribe("c").await;
    let to = "/v1/channels/c?close=error&reason=out%20of%20%22luck%22";
    assert_eq!(hub.post(to, SSE, "").await.ok().json()["state"], "error");
    let end = client.next().await.assert_end("error");
    assert_eq!(end["reason"], "out of \"luck\"");
    let long = "x".repeat(257);
    for (query, hint) in [
        (format!("close=error&reason={long}"), "at most 256 bytes"),
        ("reason=why".into(), "together with `close`"),
        ("close=auto&reason=why".into(), "the events say why"),
    ] {
        let refused = hub.post(&format!("/v1/channels/d?{query}"), SSE, "").await;
        assert_problem(&refused, 400, "invalid_parameter", hint);
        assert_eq!(hub.head("d").await.status(), 404);
    }
    let most = format!("/v1/channels/d?close=complete&reason={}", &long[1..]);
    assert_eq!(hub.post(&most, SSE, "").await.status(), 200);
}

#[tokio::test]
async fn the_end_is_not_counted_among_the_events() {
    let hub = TestHub::start().await;
    hub.publish_all("c", &["1", "2"]).await;
    for close in [false, true] {
        if close {
            hub.post("/v1/channels/c?close=complete", SSE, "").await.ok();
        }
        assert_eq!(hub.head("c").await.header("fanfare-events"), Some("2"));
        let list = hub.admin_get("/v1/channels").await.ok().json();
        assert_eq!(list["channels"][0]["events"], 2, "{list}");
    }
}

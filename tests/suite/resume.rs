//! Resuming: exactly after the last seen event, or one gap that says why not.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::{
    Publisher, SseClient, TestHub, event_stream, offset, page_ids, page_texts, texts, within,
};

/// Returns an id of the same epoch, this far after (or, if negative, before) another.
fn moved(id: &str, by: i64) -> String {
    let (epoch, _) = id.rsplit_once('-').expect("an id");
    format!("{epoch}-{}", offset(id).checked_add_signed(by).expect("a place"))
}

/// Returns an id of an epoch that this hub never had.
fn of_another_epoch(id: &str) -> String {
    let (epoch, offset) = id.rsplit_once('-').expect("an id");
    format!("0other{epoch}-{offset}")
}

#[tokio::test]
async fn a_subscriber_continues_exactly_after_the_id_it_names() {
    let hub = TestHub::start().await;
    let ids = hub.publish_all("c", &["1", "2", "3", "4", "5"]).await;
    for (n, id) in ids.iter().enumerate() {
        let mut client = hub.resume("c", id).await;
        let seen = client.take(4 - n).await;
        assert_eq!(texts(&seen), ["1", "2", "3", "4", "5"][n + 1..]);
        hub.publish("live", "elsewhere").await;
    }
    let mut third = hub.resume("c", &ids[2]).await;
    let raw = third.raw_until("two events", |raw| raw.matches("\n\n").count() == 2).await;
    let d = &ids[3];
    let e = &ids[4];
    assert_eq!(raw, format!("retry: 3000\ndata: 4\nid: {d}\n\ndata: 5\nid: {e}\n\n"));
    hub.publish("c", "6").await;
    assert_eq!(texts(&third.take(3).await), ["4", "5", "6"]);
}

#[tokio::test]
async fn a_subscriber_who_missed_nothing_waits_for_the_next_event() {
    let hub = TestHub::start().await;
    let id = hub.publish("c", "seen").await;
    let mut client = hub.resume("c", &id).await;
    client.raw_until("the first bytes", |raw| raw.starts_with("retry: 3000\n")).await;
    hub.publish("c", "next").await;
    assert_eq!(client.next().await.data, "next");
}

#[tokio::test]
async fn polyfills_resume_by_their_own_names_of_the_parameter() {
    let hub = TestHub::start().await;
    let ids = hub.publish_all("c", &["1", "2", "3"]).await;
    for name in ["lastEventId", "lastEventID", "Last-Event-ID", "LASTEVENTID", "last-event-id"] {
        let query = format!("from=earliest&{name}={}", ids[0]);
        for to in ["/v1/channels/c?", "/v1/events?channel=c&"] {
            let mut client = hub.stream(&format!("{to}{query}"), &[]).await;
            assert_eq!(client.next().await.id(), ids[1], "{to}{query}");
        }
        let page = hub.page("c", &query).await;
        assert_eq!(page_texts(&page), ["2", "3"], "{name}");
        let header = [("Last-Event-ID", ids[1].as_str())];
        let mut client = hub.stream(&format!("/v1/channels/c?{query}"), &header).await;
        assert_eq!(client.next().await.id(), ids[2], "the header goes first");
        let begun = format!("/v1/channels/c?last_event_id={}&{name}={}", ids[0], ids[1]);
        let mut client = hub.stream(&begun, &[]).await;
        assert_eq!(client.next().await.id(), ids[2], "what is added later goes first");
    }
}

#[tokio::test]
async fn the_header_goes_before_the_query_and_the_query_before_from() {
    let hub = TestHub::start().await;
    let ids = hub.publish_all("c", &["1", "2", "3"]).await;
    let first = ids[0].as_str();
    let second = ids[1].as_str();
    let both = format!("/v1/channels/c?from=earliest&last_event_id={first}");
    for (to, header, expected) in [
        (both.as_str(), Some(second), "3"),
        (both.as_str(), Some(""), "2"),
        (both.as_str(), None, "2"),
        ("/v1/channels/c?from=earliest", Some(second), "3"),
        ("/v1/channels/c?from=earliest", None, "1"),
        ("/v1/channels/c?from=earliest&last_event_id=", None, "1"),
    ] {
        let headers: Vec<_> = header.map(|id| ("Last-Event-ID", id)).into_iter().collect();
        let mut client = hub.stream(to, &headers).await;
        assert_eq!(client.next().await.data, expected, "{to} {header:?}");
    }
}

#[tokio::test]
async fn a_viewer_who_loses_the_connection_before_the_first_event_loses_nothing() {
    let hub = TestHub::start().await;
    hub.publish("c", "old").await;
    for channel in ["c", "not/yet/there"] {
        let client = hub.subscribe(channel).await;
        let id = client.last_id().expect("an id from the first second on").to_owned();
        drop(client);
        hub.publish_all(channel, &["1", "2"]).await;
        let mut client = hub.resume(channel, &id).await;
        assert_eq!(texts(&client.take(2).await), ["1", "2"]);
        hub.publish(channel, "3").await;
        assert_eq!(client.next().await.data, "3", "and nothing comes twice");
    }
}

#[tokio::test]
async fn an_id_seen_on_another_channel_is_a_place_in_the_hubs_one_order() {
    let hub = TestHub::start().await;
    hub.publish("a", "a1").await;
    let b = hub.publish("b", "b1").await;
    hub.publish("a", "a2").await;
    let mut client = hub.resume("a", &b).await;
    assert_eq!(client.next().await.data, "a2");
}

/// Returns the gap that answers a resume, and the data of the `n` events after it.
async fn gap_then(client: &mut SseClient, reason: &str, n: usize) -> (Value, Vec<String>) {
    let gap = client.next().await.assert_gap(reason);
    let events = client.take(n).await;
    (gap, texts(&events).into_iter().map(str::to_owned).collect())
}

#[tokio::test]
async fn what_retention_took_is_one_gap_and_then_all_that_is_left() {
    let hub = TestHub::with("channels.max_events = 3").await;
    let ids = hub.publish_all("c", &["1", "2", "3", "4", "5"]).await;
    let mut client = hub.resume("c", &ids[0]).await;
    let (gap, events) = gap_then(&mut client, "evicted", 3).await;
    assert_eq!(events, ["3", "4", "5"]);
    assert_eq!((&gap["channel"], &gap["requested"]), (&json!("c"), &json!(ids[0])));
    let resumed = gap["resumed"].as_str().unwrap();
    assert!(offset(resumed) >= offset(&ids[1]) && offset(resumed) < offset(&ids[2]), "{gap}");
    let mut behind_the_gap = hub.resume("c", resumed).await;
    assert_eq!(texts(&behind_the_gap.take(3).await), ["3", "4", "5"]);
    hub.publish("c", "6").await;
    assert_eq!(client.next().await.data, "6");
    assert!(hub.metric("fanfare_gaps_total{reason=\"evicted\"}").await >= 1.0);
}

#[tokio::test]
async fn a_gap_has_the_form_of_an_event() {
    let hub = TestHub::with("channels.max_events = 1").await;
    let ids = hub.publish_all("c", &["1", "2", "3"]).await;
    let mut client = hub.resume("c", &ids[0]).await;
    let raw = client.raw_until("a gap", |raw| raw.matches("\n\n").count() == 2).await;
    let resumed = raw.lines().nth(3).unwrap().strip_prefix("id: ").unwrap();
    assert!(raw.starts_with("retry: 3000\nevent: fanfare.gap\ndata: {"), "{raw}");
    let rest = format!("}}\nid: {resumed}\n\ndata: 3\nid: {}\n\n", ids[2]);
    assert!(raw.ends_with(&rest), "{raw}");
}

#[tokio::test]
async fn there_is_no_gap_when_nothing_is_missing() {
    let hub = TestHub::with("channels.max_events = 3").await;
    let ids = hub.publish_all("c", &["1", "2", "3", "4", "5"]).await;
    let mut client = hub.resume("c", &ids[1]).await;
    assert_eq!(texts(&client.take(3).await), ["3", "4", "5"], "the event behind 2 is retained");
    let mut client = hub.stream("/v1/channels/c?from=earliest", &[]).await;
    assert_eq!(texts(&client.take(3).await), ["3", "4", "5"], "earliest is what is there");
    let mut client = hub.stream("/v1/channels/c?from=last:5", &[]).await;
    assert_eq!(texts(&client.take(3).await), ["3", "4", "5"]);
}

#[tokio::test]
async fn an_id_that_means_nothing_here_is_a_gap_and_then_everything() {
    let hub = TestHub::start().await;
    let ids = hub.publish_all("c", &["1", "2"]).await;
    let long = "x".repeat(200);
    for (id, reason) in [
        (of_another_epoch(&ids[0]).as_str(), "epoch"),
        (moved(&ids[1], 1_000_000).as_str(), "unknown"),
        ("garbage", "unknown"),
        ("42", "unknown"),
        ("-", "unknown"),
        (long.as_str(), "unknown"),
    ] {
        let mut client = hub.resume("c", id).await;
        assert_eq!(client.head.status, 200, "{id}");
        let (gap, events) = gap_then(&mut client, reason, 2).await;
        assert_eq!(events, ["1", "2"], "{id}");
        assert_eq!(gap["channel"], "c");
        if id.len() < 100 {
            assert_eq!(gap["requested"], id);
        }
        assert!(offset(gap["resumed"].as_str().unwrap()) < offset(&ids[0]), "{gap}");
        hub.publish("elsewhere", "x").await;
    }
    assert_eq!(hub.metric("fanfare_gaps_total{reason=\"epoch\"}").await, 1.0);
    assert_eq!(hub.metric("fanfare_gaps_total{reason=\"unknown\"}").await, 5.0);
}

#[tokio::test]
async fn after_the_gap_of_an_unknown_id_the_stream_continues_live() {
    let hub = TestHub::start().await;
    let mut client = hub.resume("nobody/yet", "zzzzzz-7").await;
    client.next().await.assert_gap("epoch");
    hub.publish("nobody/yet", "first").await;
    assert_eq!(client.next().await.data, "first");
    let again = client.last_id().unwrap().to_owned();
    hub.publish("nobody/yet", "second").await;
    let mut client = hub.resume("nobody/yet", &again).await;
    assert_eq!(client.next().await.data, "second");
}

#[tokio::test]
async fn a_page_and_an_ndjson_stream_report_the_gap_in_their_own_form() {
    let hub = TestHub::start().await;
    hub.publish("c", "1").await;
    let page = hub.page("c", "last_event_id=zzzzzz-7").await;
    assert_eq!(page["events"][0]["event"], "fanfare.gap");
    let gap: Value = serde_json::from_str(page["events"][0]["data"].as_str().unwrap()).unwrap();
    assert_eq!((&gap["reason"], &gap["requested"]), (&json!("epoch"), &json!("zzzzzz-7")));
    assert_eq!(page_texts(&page)[1..], ["1"]);
    assert_eq!(page["next"], page["events"][1]["id"]);

    let accept = [("Accept", "application/x-ndjson"), ("Last-Event-ID", "zzzzzz-7")];
    let mut wire = hub.open("/v1/channels/c", &accept).await;
    assert_eq!(wire.head().await.status, 200);
    let mut text = String::new();
    while text.trim_start().lines().count() < 2 || !text.ends_with('\n') {
        match within("two lines", wire.piece()).await {
            crate::support::Piece::Data(bytes) => text += std::str::from_utf8(&bytes).unwrap(),
            other => panic!("{other:?} behind {text}"),
        }
    }
    let lines: Vec<Value> =
        text.trim_start().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["event"], "fanfare.gap");
    assert_eq!(lines[0]["id"], page["events"][0]["id"]);
    assert_eq!(lines[1]["data"], "1");
}

#[tokio::test]
async fn a_page_never_repeats_or_loses_when_retention_overtakes_the_reader() {
    let hub = TestHub::with("channels.max_events = 10").await;
    hub.post("/v1/channels/c", "text/event-stream", event_stream(0..10)).await.ok();
    let page = hub.page("c", "from=earliest&limit=4").await;
    assert_eq!(page_texts(&page), ["0", "1", "2", "3"]);
    hub.post("/v1/channels/c", "text/event-stream", event_stream(10..20)).await.ok();
    let next = page["next"].as_str().unwrap();
    let page = hub.page("c", &format!("last_event_id={next}")).await;
    let events = page["events"].as_array().unwrap();
    assert_eq!(events[0]["event"], "fanfare.gap");
    assert_eq!(
        page_texts(&page)[1..],
        ["10", "11", "12", "13", "14", "15", "16", "17", "18", "19"]
    );
    assert_eq!(page_ids(&page).last().unwrap(), page["next"].as_str().unwrap());
}

#[tokio::test]
async fn a_hub_that_was_restarted_says_that_its_memory_is_another() {
    let before = TestHub::start().await;
    let id = before.publish("c", "lost").await;
    drop(before);
    let after = TestHub::start().await;
    after.publish("c", "new").await;
    let mut client = after.resume("c", &id).await;
    let (gap, events) = gap_then(&mut client, "epoch", 1).await;
    assert_eq!(gap["requested"], id);
    assert_eq!(events, ["new"]);
}

/// Reads 500 events over many connections: each is closed after some events, the next resumes.
async fn come_and_go(hub: &TestHub, seed: usize) -> Vec<String> {
    let mut seen = Vec::new();
    let mut id: Option<String> = None;
    for round in seed.. {
        let mut client = match &id {
            None => hub.stream("/v1/channels/c?from=earliest", &[]).await,
            Some(id) => hub.resume("c", id).await,
        };
        let some = (500 - seen.len()).min(1 + round * 7919 % 83);
        for event in client.take(some).await {
            id = Some(event.id().to_owned());
            seen.push(event.data);
        }
        if seen.len() == 500 {
            break;
        }
    }
    seen
}

#[tokio::test]
async fn ten_subscribers_that_come_and_go_see_each_event_once() {
    let hub = Arc::new(TestHub::start().await);
    let mut producer = Publisher::events(&hub, "c").await;
    let watchers: Vec<_> = (0..10)
        .map(|seed| {
            let hub = Arc::clone(&hub);
            tokio::spawn(async move { come_and_go(&hub, seed).await })
        })
        .collect();
    for n in 0..500 {
        producer.send(format!("data: {n}\n\n")).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(producer.finish().await.ok().json()["events"], 500);
    let expected: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    for watcher in watchers {
        assert_eq!(watcher.await.expect("all of them"), expected);
    }
}

//! Many channels on one connection: in the hub's one order, resumable with one id.

use serde_json::{Value, json};

use crate::support::{
    Publisher, SseClient, SseEvent, TestHub, Wire, assert_ascending, assert_time, event_stream,
    keys, page_ids, page_texts, within,
};

/// Returns `(channel, data)` of an envelope.
fn opened(event: &SseEvent) -> (String, String) {
    let envelope = event.json();
    let text = |key: &str| envelope[key].as_str().unwrap_or_default().to_owned();
    (text("channel"), text("data"))
}

/// Returns `channel:data` of each envelope.
fn brief(events: &[SseEvent]) -> Vec<String> {
    events.iter().map(opened).map(|(channel, data)| format!("{channel}:{data}")).collect()
}

async fn subscribe(hub: &TestHub, query: &str) -> SseClient {
    hub.stream(&format!("/v1/events?{query}"), &[]).await.settled().await
}

async fn resume(hub: &TestHub, query: &str, id: &str) -> SseClient {
    hub.stream(&format!("/v1/events?{query}"), &[("Last-Event-ID", id)]).await
}

#[tokio::test]
async fn each_event_comes_in_an_envelope_that_says_where_it_is_from() {
    let hub = TestHub::start().await;
    let mut client = subscribe(&hub, "channel=a&channel=logs/*").await;
    let kind = client.head.header("content-type");
    assert_eq!(kind.as_deref(), Some("text/event-stream; charset=utf-8"));
    assert_eq!(client.head.header("cache-control").as_deref(), Some("no-store, no-transform"));
    assert_eq!(client.retry(), Some(3000));
    let id = hub.publish("a", "one\ntwo").await;
    let event = client.next().await;
    assert_eq!(event.event, None, "one handler for all of them");
    assert_eq!(event.id(), id);
    let envelope = event.json();
    assert_eq!(keys(&envelope), ["channel", "data", "event", "time"]);
    assert_eq!((&envelope["channel"], &envelope["data"]), (&json!("a"), &json!("one\ntwo")));
    assert_eq!(envelope["event"], Value::Null);
    assert_time(&envelope["time"]);
    hub.post("/v1/channels/logs/web?event=line", "text/plain", "x").await.ok();
    assert_eq!(client.next().await.json()["event"], "line");
}

#[tokio::test]
async fn a_pattern_selects_by_segments() {
    let hub = TestHub::start().await;
    let mut client = subscribe(&hub, "channel=logs/*&channel=chat/**&channel=caf%C3%A9").await;
    for channel in ["logs/a/b", "logs/a", "chat", "chat/1", "chat/1/2", "other", "caf%C3%A9"] {
        hub.publish(channel, "x").await;
    }
    let seen = brief(&client.take(4).await);
    assert_eq!(seen, ["logs/a:x", "chat/1:x", "chat/1/2:x", "café:x"]);
}

#[tokio::test]
async fn everything_is_two_stars() {
    let hub = TestHub::start().await;
    let mut client = subscribe(&hub, "channel=**").await;
    for channel in ["a", "b/c", "d/e/f"] {
        hub.publish(channel, "x").await;
    }
    assert_eq!(brief(&client.take(3).await), ["a:x", "b/c:x", "d/e/f:x"]);
}

#[tokio::test]
async fn a_channel_that_is_named_twice_is_delivered_once() {
    let hub = TestHub::start().await;
    let mut client = subscribe(&hub, "channel=a&channel=a&channel=*&channel=**").await;
    hub.publish_all("a", &["1", "2"]).await;
    hub.publish("b", "3").await;
    assert_eq!(brief(&client.take(3).await), ["a:1", "a:2", "b:3"]);
}

#[tokio::test]
async fn a_channel_that_appears_later_is_seen_from_its_first_event() {
    let hub = TestHub::start().await;
    let mut client = subscribe(&hub, "channel=run/**").await;
    for n in 0..20 {
        hub.publish(&format!("run/{n}"), "first").await;
        assert_eq!(brief(&client.take(1).await), [format!("run/{n}:first")]);
    }
}

/// Publishes 40 events to `a`, `b` and `c` in turn, and returns their ids.
async fn interleaved(hub: &TestHub) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..40 {
        ids.push(hub.publish(["a", "b", "c", "b"][n % 4], &n.to_string()).await);
    }
    ids
}

#[tokio::test]
async fn the_order_is_that_of_the_hub() {
    let hub = TestHub::start().await;
    let ids = interleaved(&hub).await;
    let mut client = hub.stream("/v1/events?channel=**&from=earliest", &[]).await;
    let seen = client.take(40).await;
    assert_eq!(seen.iter().map(|event| event.id()).collect::<Vec<_>>(), ids);
    for (n, event) in seen.iter().enumerate() {
        assert_eq!(opened(event).1, n.to_string());
    }
}

#[tokio::test]
async fn any_id_that_was_seen_resumes_all_the_channels() {
    let hub = TestHub::start().await;
    let ids = interleaved(&hub).await;
    for (n, id) in ids.iter().enumerate() {
        let mut client = resume(&hub, "channel=a&channel=b&channel=c", id).await;
        let seen = client.take(39 - n).await;
        assert_eq!(seen.iter().map(|e| e.id()).collect::<Vec<_>>(), ids[n + 1..], "behind {id}");
    }
}

#[tokio::test]
async fn a_subscription_that_began_at_the_tail_resumes_from_its_first_second() {
    let hub = TestHub::start().await;
    hub.publish("a", "old").await;
    let client = subscribe(&hub, "channel=a&channel=new/*").await;
    let id = client.last_id().unwrap().to_owned();
    drop(client);
    hub.publish("new/1", "1").await;
    hub.publish("a", "2").await;
    let mut client = resume(&hub, "channel=a&channel=new/*", &id).await;
    assert_eq!(brief(&client.take(2).await), ["new/1:1", "a:2"]);
}

#[tokio::test]
async fn under_load_no_id_follows_a_larger_one_and_every_resume_is_exact() {
    const EACH: usize = 1500;
    let hub = TestHub::start().await;
    let mut client = subscribe(&hub, "channel=load/*").await;
    let begin = client.last_id().unwrap().to_owned();
    let mut producers = Vec::new();
    for name in ["load/a", "load/b"] {
        let mut producer = Publisher::events(&hub, name).await;
        producers.push(tokio::spawn(async move {
            for n in 0..EACH {
                producer.send(format!("data: {n}\n\n")).await;
            }
            producer.finish().await
        }));
    }
    let seen = client.take(2 * EACH).await;
    assert_ascending(seen.iter().map(|event| event.id()));
    for channel in ["load/a", "load/b"] {
        let data = seen.iter().map(opened).filter(|(from, _)| from == channel);
        let numbers: Vec<usize> = data.map(|(_, data)| data.parse().unwrap()).collect();
        assert!(numbers.into_iter().eq(0..EACH), "{channel} in order, each once");
    }
    for producer in producers {
        let receipt = within("a receipt", producer).await.unwrap().ok().json();
        assert_eq!(receipt["events"], EACH);
    }
    let ids: Vec<&str> = seen.iter().map(|event| event.id()).collect();
    for from in (0..ids.len()).step_by(307).chain([ids.len() - 2]) {
        let mut again = resume(&hub, "channel=load/*", ids[from]).await;
        let rest = again.take(ids.len() - 1 - from).await;
        assert!(rest.iter().map(|event| event.id()).eq(ids[from + 1..].iter().copied()));
    }
    let mut again = resume(&hub, "channel=load/a&channel=load/b", &begin).await;
    let all = again.take(ids.len()).await;
    assert!(all.iter().map(|event| event.id()).eq(ids.iter().copied()));
}

#[tokio::test]
async fn a_subscriber_that_comes_and_goes_under_load_misses_and_repeats_nothing() {
    const EACH: usize = 600;
    let hub = TestHub::start().await;
    let first = subscribe(&hub, "channel=x/**").await;
    let mut id = first.last_id().unwrap().to_owned();
    drop(first);
    let mut producers = Vec::new();
    for name in ["x/1", "x/2"] {
        let mut producer = Publisher::events(&hub, name).await;
        producers.push(tokio::spawn(async move {
            for n in 0..EACH {
                producer.send(format!("data: {n}\n\n")).await;
            }
            producer.finish().await
        }));
    }
    let mut seen = Vec::new();
    while seen.len() < 2 * EACH {
        let mut client = resume(&hub, "channel=x/**", &id).await;
        let n = (2 * EACH - seen.len()).min(97);
        seen.extend(client.take(n).await);
        id = seen.last().unwrap().id().to_owned();
    }
    assert_ascending(seen.iter().map(|event| event.id()));
    for channel in ["x/1", "x/2"] {
        let data = seen.iter().map(opened).filter(|(from, _)| from == channel);
        assert!(data.map(|(_, data)| data.parse::<usize>().unwrap()).eq(0..EACH), "{channel}");
    }
}

#[tokio::test]
async fn the_end_of_one_channel_is_not_the_end_of_the_stream() {
    let hub = TestHub::start().await;
    let mut client = subscribe(&hub, "channel=a&channel=b").await;
    hub.close("a", "complete").await;
    assert_eq!(client.next().await.assert_end("complete")["channel"], "a");
    hub.publish("b", "goes on").await;
    assert_eq!(brief(&client.take(1).await), ["b:goes on"]);
    hub.close("b", "error").await;
    assert_eq!(client.next().await.assert_end("error")["channel"], "b");
    client.assert_eof().await;
    let last = client.last_id().unwrap().to_owned();
    let again = resume(&hub, "channel=a&channel=b", &last).await;
    assert_eq!(again.head.status, 204);
}

#[tokio::test]
async fn a_stream_with_a_pattern_waits_for_the_channels_to_come() {
    let hub = TestHub::start().await;
    let mut client = subscribe(&hub, "channel=run/*").await;
    hub.close("run/1", "complete").await;
    client.next().await.assert_end("complete");
    hub.publish("run/2", "x").await;
    assert_eq!(brief(&client.take(1).await), ["run/2:x"]);
}

#[tokio::test]
async fn a_late_viewer_of_ended_channels_gets_the_events_and_the_ends() {
    let hub = TestHub::start().await;
    hub.publish("a", "1").await;
    hub.close("a", "complete").await;
    hub.publish("b", "2").await;
    hub.close("b", "cancelled").await;
    let to = "/v1/events?channel=a&channel=b&from=earliest";
    let seen = hub.stream(to, &[]).await.rest().await;
    assert_eq!(seen.len(), 4);
    assert_eq!(brief(&seen[..1]), ["a:1"]);
    assert_eq!(seen[1].assert_end("complete")["channel"], "a");
    assert_eq!(brief(&seen[2..3]), ["b:2"]);
    assert_eq!(seen[3].assert_end("cancelled")["channel"], "b");
    let mut behind_a = resume(&hub, "channel=a&channel=b", seen[1].id()).await;
    assert_eq!(behind_a.rest().await, seen[2..]);
}

#[tokio::test]
async fn a_deleted_channel_that_is_used_again_continues_in_the_same_stream() {
    let hub = TestHub::start().await;
    let mut client = subscribe(&hub, "channel=**").await;
    hub.publish("a", "1").await;
    assert_eq!(hub.request("DELETE", "/v1/channels/a", &[], "").await.status(), 204);
    hub.publish("a", "2").await;
    let seen = client.take(3).await;
    assert_eq!(brief(&seen[..1]), ["a:1"]);
    seen[1].assert_end("deleted");
    assert_eq!(brief(&seen[2..]), ["a:2"]);
    assert_ascending(seen.iter().map(|event| event.id()));
}

#[tokio::test]
async fn what_one_channel_lost_is_one_gap_in_its_name() {
    let rule = "[[channels.rules]]\npattern = \"short/*\"\nmax_events = 1\n";
    let hub = TestHub::with(rule).await;
    let begin = hub.publish("long", "0").await;
    let ids = hub.publish_all("short/1", &["1", "2", "3"]).await;
    let after = hub.publish("long", "4").await;
    let mut client = resume(&hub, "channel=long&channel=short/*", &begin).await;
    let seen = client.take(3).await;
    let gap = seen[0].assert_gap("evicted");
    assert_eq!((&gap["channel"], &gap["requested"]), (&json!("short/1"), &json!(begin)));
    assert_eq!(brief(&seen[1..]), ["short/1:3", "long:4"]);
    assert_eq!((seen[1].id(), seen[2].id()), (ids[2].as_str(), after.as_str()));
    let resumed = gap["resumed"].as_str().unwrap();
    let mut again = resume(&hub, "channel=long&channel=short/*", resumed).await;
    assert_eq!(brief(&again.take(2).await), ["short/1:3", "long:4"], "behind the gap");
}

#[tokio::test]
async fn a_gap_in_one_channel_hides_no_earlier_event_of_another() {
    let rule = "[[channels.rules]]\npattern = \"short\"\nmax_events = 1\n";
    let hub = TestHub::with(rule).await;
    let begin = hub.publish("short", "0").await;
    hub.publish("long", "1").await;
    hub.publish_all("short", &["2", "3"]).await;
    hub.publish("long", "4").await;
    hub.publish("short", "5").await;
    let mut client = resume(&hub, "channel=long&channel=short", &begin).await;
    let seen = client.take(4).await;
    let gaps = seen.iter().filter(|event| event.event.is_some()).count();
    assert_eq!(gaps, 1, "{seen:?}");
    let events: Vec<SseEvent> = seen.iter().filter(|e| e.event.is_none()).cloned().collect();
    assert_eq!(brief(&events), ["long:1", "long:4", "short:5"]);
    let ids: Vec<&str> = seen.iter().map(|event| event.id()).collect();
    assert_ascending(ids.iter().copied());
    for (n, id) in ids[..3].iter().enumerate() {
        let mut again = resume(&hub, "channel=long&channel=short", id).await;
        let rest: Vec<SseEvent> = again.until(&seen[3].data).await;
        let rest = rest.iter().filter(|event| event.event.is_none());
        let expected = seen[n + 1..].iter().filter(|event| event.event.is_none());
        assert!(rest.eq(expected), "resumed behind {id}");
    }
}

#[tokio::test]
async fn an_id_of_another_epoch_is_one_gap_for_all_of_them() {
    let hub = TestHub::start().await;
    hub.publish("a", "1").await;
    hub.publish("b", "2").await;
    for (id, reason) in [("zzzzzz-1", "epoch"), ("garbage", "unknown")] {
        let mut client = resume(&hub, "channel=a&channel=b", id).await;
        let gap = client.next().await.assert_gap(reason);
        assert_eq!((&gap["channel"], &gap["requested"]), (&Value::Null, &json!(id)));
        assert_eq!(brief(&client.take(2).await), ["a:1", "b:2"]);
    }
}

#[tokio::test]
async fn ndjson_and_pages_name_the_channel_of_each_event() {
    let hub = TestHub::start().await;
    hub.publish("a", "1").await;
    hub.publish("b", "2").await;
    hub.publish("a", "3").await;
    let page = hub.get_json("/v1/events?channel=a&channel=b&from=earliest&limit=2").await;
    assert_eq!(page_texts(&page), ["1", "2"]);
    assert_eq!(keys(&page["events"][0]), ["channel", "data", "event", "id", "time"]);
    assert_eq!(page["events"][1]["channel"], "b");
    assert_eq!(page["next"], page_ids(&page)[1]);
    let next = page["next"].as_str().unwrap();
    let page = hub.get_json(&format!("/v1/events?channel=a&channel=b&last_event_id={next}")).await;
    assert_eq!(page_texts(&page), ["3"]);

    let mut wire: Wire =
        hub.open("/v1/events?channel=*&from=earliest", &[("Accept", "application/x-ndjson")]).await;
    assert_eq!(wire.head().await.header("content-type").as_deref(), Some("application/x-ndjson"));
    let mut text = String::new();
    while text.trim_start().matches('\n').count() < 3 {
        match within("three lines", wire.piece()).await {
            crate::support::Piece::Data(bytes) => text += std::str::from_utf8(&bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }
    let lines: Vec<Value> =
        text.trim_start().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(keys(&lines[0]), ["channel", "data", "event", "id", "time"]);
    let names: Vec<_> = lines.iter().map(|line| line["channel"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "a"]);
}

#[tokio::test]
async fn a_long_poll_on_many_channels_answers_to_any_of_them() {
    let hub = TestHub::start().await;
    let next = hub.get_json("/v1/events?channel=a&channel=b/*").await["next"].clone();
    let next = next.as_str().expect("an id");
    let to = format!("/v1/events?channel=a&channel=b/*&wait=60s&last_event_id={next}");
    let accept = [("Accept", "application/json"), ("Connection", "close")];
    let mut wire = hub.open(&to, &accept).await;
    hub.publish("b/1", "x").await;
    let page = wire.response().await.ok().json();
    assert_eq!(page_texts(&page), ["x"]);
    assert_eq!(page["events"][0]["channel"], "b/1");
}

#[tokio::test]
async fn a_busy_neighbour_does_not_starve_a_quiet_channel() {
    let hub = TestHub::start().await;
    let mut client = subscribe(&hub, "channel=busy&channel=quiet").await;
    hub.post("/v1/channels/busy", "text/event-stream", event_stream(0..3000)).await.ok();
    hub.publish("quiet", "here").await;
    let seen = client.take(3001).await;
    assert_eq!(opened(seen.last().unwrap()), ("quiet".to_owned(), "here".to_owned()));
    assert_ascending(seen.iter().map(|event| event.id()));
}

#[tokio::test]
async fn which_channels_must_be_said_and_not_too_many_of_them() {
    let hub = TestHub::with("subscribers.max_channels = 3").await;
    let at_most = subscribe(&hub, "channel=a&channel=b&channel=c").await;
    assert_eq!(at_most.head.status, 200);
    for query in [
        "",
        "?channel=",
        "?channel=a&channel=b&channel=c&channel=d",
        "?channel=a//b",
        "?channel=**/a",
        "?channel=a*",
        "?channel=%01",
        "?channel=%ff",
    ] {
        let reply = hub.get(&format!("/v1/events{query}"), &[]).await;
        assert_eq!(reply.status(), 400, "{query}: {}", reply.text());
        let problem = reply.json();
        let code = problem["code"].as_str().unwrap_or_default();
        assert!(["invalid_channel_name", "invalid_parameter"].contains(&code), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|text| text.len() > 20), "{problem}");
    }
}

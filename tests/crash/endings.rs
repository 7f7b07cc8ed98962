//! The ends of channels, and their states, over a kill: promise 6 of durable channels.

use serde_json::Value;

use fanfare_testing::{eventually, within};

use super::support::Hub;
use super::wire::{Answer, Client, Event, Request, Stream, Upload};

const DURABILITIES: [&str; 2] = ["sync", "async"];

fn durable(durability: &str) -> String {
    format!("store.durability = \"{durability}\"\n")
}

fn post(channel: &str) -> Request {
    Request::new("POST", &format!("/v1/channels/{channel}"))
}

async fn open(hub: &Hub, path: &str, after: Option<&str>) -> Stream {
    let opened = within(path, Stream::open(hub.addr(), path, after, None)).await;
    opened.expect("an answer").expect("a stream, and not its end")
}

/// Reads to the end of a subscription to a channel.
async fn view(hub: &Hub, channel: &str, after: Option<&str>) -> Vec<Event> {
    let path = format!("/v1/channels/{channel}?from=earliest");
    let mut stream = open(hub, &path, after).await;
    let mut events = Vec::new();
    while let Some(event) = within(&path, stream.next()).await.expect("a stream that goes on") {
        events.push(event);
    }
    events
}

async fn put(hub: &Hub, channel: &str, options: &str) -> Answer {
    let request = Request::new("PUT", &format!("/v1/channels/{channel}"))
        .header("Content-Type", "application/json");
    hub.ask(&request.text(options)).await
}

async fn signal(hub: &Hub, channel: &str) -> Value {
    let request = Request::new("POST", &format!("/v1/signals/{channel}"));
    hub.ask(&request.text(r#"{"signal":"stop","reason":"enough"}"#)).await.expect(200).json()
}

#[tokio::test]
async fn a_closed_channel_stays_closed_and_its_options_stay() {
    for durability in DURABILITIES {
        let mut hub = Hub::start(&durable(durability));
        for state in ["complete", "error", "cancelled"] {
            let channel = format!("ends/{state}");
            let first = hub.publish(&channel, "one").await["last_id"].clone();
            hub.publish(&channel, "two").await;
            hub.ask(&post(&format!("{channel}?close={state}"))).await.expect(200);
            let before = view(&hub, &channel, None).await;
            hub.restart();
            let state_now = hub.head(&channel).await.expect(200);
            assert_eq!(state_now.header("fanfare-state"), Some(state), "{durability}");
            let after = view(&hub, &channel, None).await;
            assert_eq!(after, before, "{durability}: the same events and the same end");
            let missed = view(&hub, &channel, first.as_str()).await;
            assert_eq!(missed, before[1..], "{durability}: what was missed, and the end");
            missed[1].assert_end(state);
            assert_over(&hub, &channel, &missed[1].id).await;
            hub.ask(&post(&channel).text("late")).await.expect_problem(409, "channel_closed");
        }
    }
}

/// Asserts that a client that resumes after the end gets a 204.
async fn assert_over(hub: &Hub, channel: &str, end: &str) {
    let path = format!("/v1/channels/{channel}");
    let opened = Stream::open(hub.addr(), &path, Some(end), None);
    let opened = within("an answer behind the end", opened).await.expect("an answer");
    assert!(opened.is_none(), "`{channel}` has ended, and a subscriber is to wait at {end}");
}

#[tokio::test]
async fn a_channel_that_was_stopped_stays_stopped_with_its_reason() {
    for durability in DURABILITIES {
        let mut hub = Hub::start(&durable(durability));
        hub.publish("chat", "one").await;
        let stopped = signal(&hub, "chat").await;
        assert_eq!((&stopped["stopped"], &stopped["state"]), (&true.into(), &"cancelled".into()));
        hub.restart();
        let seen = view(&hub, "chat", None).await;
        assert_eq!(seen.len(), 2, "{durability}: the event and the end: {seen:?}");
        let end = seen[1].assert_end("cancelled");
        assert_eq!(end["reason"], "enough", "{durability}: {end}");
        assert_over(&hub, "chat", &seen[1].id).await;
        let late = hub.ask(&post("chat").text("late")).await;
        let late = late.expect_problem(409, "channel_stopped").json();
        assert_eq!(late["reason"], "enough", "{durability}: {late}");
    }
}

#[tokio::test]
async fn an_end_without_any_event_is_kept() {
    for durability in DURABILITIES {
        let mut hub = Hub::start(&durable(durability));
        let close = post("empty?close=error").header("Content-Type", "application/x-ndjson");
        hub.ask(&close).await.expect(200);
        hub.restart();
        let head = hub.head("empty").await.expect(200);
        assert_eq!(head.header("fanfare-state"), Some("error"), "{durability}");
        let seen = view(&hub, "empty", None).await;
        assert_eq!(seen.len(), 1, "{durability}: the end alone: {seen:?}");
        seen[0].assert_end("error");
    }
}

#[tokio::test]
async fn options_stay_also_of_a_channel_without_events() {
    const OPTIONS: &str = r#"{"max_events":7,"max_bytes":"1MiB","max_age":"10m",
        "idle_timeout":"30m","producer_grace":"77s","coalesce":"40ms",
        "when_unwatched":{"after":"30s","signal":"stop"}}"#;
    for durability in DURABILITIES {
        let mut hub = Hub::start(&durable(durability));
        let of_empty = put(&hub, "empty", OPTIONS).await.expect(201).json();
        hub.restart();
        hub.publish("used", "one").await;
        let of_used = put(&hub, "used", OPTIONS).await.expect(200).json();
        hub.restart();
        let changed = put(&hub, "changed", OPTIONS).await.expect(201).json();
        let changed_again = put(&hub, "changed", r#"{"max_events":9}"#).await.expect(200).json();
        assert_ne!(changed["retention"], changed_again["retention"]);
        hub.restart();
        for (channel, before) in
            [("empty", of_empty), ("used", of_used), ("changed", changed_again)]
        {
            let after = put(&hub, channel, "{}").await.expect(200).json();
            for key in ["retention", "options", "state", "earliest", "tail", "events"] {
                assert_eq!(
                    after[key], before[key],
                    "{durability}: `{key}` of `{channel}`: {after}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_deleted_channel_stays_deleted_and_its_old_ids_get_a_gap() {
    for durability in DURABILITIES {
        let mut hub = Hub::start(&durable(durability));
        let old = hub.publish("gone", "old").await["last_id"].as_str().expect("an id").to_owned();
        hub.publish("stays", "one").await;
        hub.ask(&Request::new("DELETE", "/v1/channels/gone")).await.expect(204);
        hub.restart();
        hub.head("gone").await.expect(404);
        hub.head("stays").await.expect(200);

        // A subscriber whose position was dropped gets the gap at once, not at the next publish.
        let mut waiting = open(&hub, "/v1/channels/gone", Some(&old)).await;
        let gap = within("a gap for the old id", waiting.next()).await.expect("a stream");
        gap.expect("a gap").assert_gap("evicted", &old);

        let new = hub.publish("gone", "new").await;
        let next = within("the new event", waiting.next()).await.expect("a stream").expect("one");
        assert_eq!((next.data.as_str(), Some(next.id.as_str())), ("new", new["last_id"].as_str()));
        let all = hub.read("gone", None).await;
        assert_eq!(all.len(), 1, "{durability}: nothing of the old channel is back: {all:?}");

        hub.restart();
        let again = hub.read("gone", None).await;
        assert_eq!(again, all, "{durability}: the name's new channel, and not its old one");
    }
}

const TYPE: &str = "text/event-stream";

fn token(text: &str) -> String {
    let delta = r#"{"index":0,"delta":{"content":"TEXT"}}"#.replace("TEXT", text);
    format!("data: {{\"object\":\"chat.completion.chunk\",\"choices\":[{delta}]}}\n\n")
}

/// A producer in the middle of its answer, with two tokens that are published.
async fn generate(hub: &Hub, request: &Request) -> Upload {
    let mut producer = Upload::begin(hub.addr(), request).await.expect("a connection");
    producer.say(&token("one")).await.expect("taken");
    producer.say(&token("two")).await.expect("taken");
    producer.say(&token("three")[..20]).await.expect("taken");
    eventually("two tokens", async || (hub.read("chat/1", None).await.len() == 2).then_some(()))
        .await;
    producer
}

#[tokio::test]
async fn a_generation_whose_producer_died_with_the_hub_is_abandoned_after_its_grace() {
    for durability in DURABILITIES {
        let settings = durable(durability) + "channels.producer_grace = \"1s\"\n";
        let mut hub = Hub::start(&settings);
        let request = post("chat/1?close=auto").header("Content-Type", TYPE);
        let producer = generate(&hub, &request).await;
        let last = hub.read("chat/1", None).await[1].id.clone();
        hub.kill();
        drop(producer);
        hub.start();
        let seen = view(&hub, "chat/1", Some(&last)).await;
        assert_eq!(seen.len(), 1, "{durability}: nothing but the end is new: {seen:?}");
        seen[0].assert_end("abandoned");
        let head = hub.head("chat/1").await.expect(200);
        assert_eq!(head.header("fanfare-state"), Some("abandoned"), "{durability}");

        // The end outlives a restart like any other.
        hub.restart();
        let all = view(&hub, "chat/1", None).await;
        assert_eq!((all.len(), all.last()), (3, seen.last()), "{durability}: {all:?}");
    }
}

#[tokio::test]
async fn a_generation_whose_producer_comes_back_in_time_continues() {
    for durability in DURABILITIES {
        let settings = durable(durability) + "channels.producer_grace = \"50s\"\n";
        let mut hub = Hub::start(&settings);
        let request = post("chat/1?close=auto")
            .header("Content-Type", TYPE)
            .header("Idempotency-Key", "answer-1");
        let producer = generate(&hub, &request).await;
        let last = hub.read("chat/1", None).await[1].id.clone();
        hub.kill();
        drop(producer);
        hub.start();
        let head = hub.head("chat/1").await.expect(200);
        assert_eq!(head.header("fanfare-state"), Some("open"), "{durability}: {head:?}");
        assert_eq!(head.header("fanfare-producer"), Some("away"), "{durability}: {head:?}");

        // The whole answer again, under the same key: the hub skips the events that it has.
        let whole = ["one", "two", "three", "four"].map(token).concat() + "data: [DONE]\n\n";
        let again = Client::new(hub.addr()).send(&request.clone().text(&whole)).await;
        let receipt = again.expect("an answer").expect(200).json();
        assert_eq!((&receipt["events"], &receipt["state"]), (&5.into(), &"complete".into()));
        let missed = view(&hub, "chat/1", Some(&last)).await;
        assert_eq!(missed.len(), 4, "{durability}: two tokens, the mark, the end: {missed:?}");
        let texts = missed.iter().map(|event| event.data.as_str());
        let texts: Vec<_> = texts.take(3).collect();
        assert!(texts[0].contains("three") && texts[1].contains("four"), "{texts:?}");
        assert_eq!(texts[2], "[DONE]");
        missed[3].assert_end("complete");

        // The key is done, also for a hub that only read it from disk.
        hub.restart();
        let replay = hub.ask(&request.text(&whole)).await.expect(200);
        assert_eq!(replay.header("idempotency-replayed"), Some("true"), "{replay:?}");
        let replay = replay.json();
        for key in ["events", "first_id", "last_id"] {
            assert_eq!(replay[key], receipt[key], "{durability}: {replay} after {receipt}");
        }
        assert_eq!(view(&hub, "chat/1", None).await.len(), 6, "{durability}: nothing came twice");
    }
}

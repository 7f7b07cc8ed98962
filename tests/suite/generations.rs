//! Generations: a provider's stream is published unchanged, and the hub detects its end.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::generation::{Chunk, Format, Generation, Viewer, page_events};
use crate::support::{
    Publisher, Response, TestHub, assert_problem, eventually, keys, page_texts, texts, within,
};

const SSE: &str = "text/event-stream";
const NDJSON: &str = "application/x-ndjson";
const ABANDONED: &str = "the producer left without an end mark";
const LOST: &str = "the producer was cut off: the request body broke off";

async fn state(hub: &TestHub, channel: &str) -> String {
    hub.head(channel).await.header("fanfare-state").unwrap_or("unknown").to_owned()
}

async fn until_state(hub: &TestHub, channel: &str, wanted: &str) {
    let what = format!("{channel} to be {wanted}");
    eventually(&what, async || state(hub, channel).await == wanted).await;
}

async fn until_producer(hub: &TestHub, channel: &str, wanted: Option<&str>) {
    eventually("the hub to notice the producer", async || {
        hub.head(channel).await.header("fanfare-producer") == wanted
    })
    .await;
}

/// Returns the data of `fanfare.end`, which follows the retained events of a channel.
async fn end_of(hub: &TestHub, channel: &str) -> Value {
    let page = hub.page(channel, "from=earliest&limit=1000").await;
    let end = page_events(&page).pop().expect("an end");
    assert_eq!(end.event.as_deref(), Some("fanfare.end"), "{page}");
    assert_eq!(end.json()["state"], page["state"]);
    end.json()
}

/// A generation of two tokens, with these events instead of its end mark.
fn ending(format: Format, marks: &[(Option<&'static str>, &str)]) -> Generation {
    let mut generation = Generation::of(format, ["one", " two"]);
    generation.chunks.truncate(generation.mark());
    for (event, data) in marks {
        generation.chunks.push(Chunk { event: *event, data: (*data).to_owned() });
    }
    generation.marks = marks.len();
    generation
}

#[tokio::test]
async fn each_format_completes_with_its_end_mark_and_says_so_everywhere() {
    let hub = TestHub::start().await;
    for format in Format::ALL {
        let generation = Generation::rich(format);
        let mut client = hub.subscribe(format.name()).await;
        let receipt = generation.publish(&hub, format.name()).await;
        assert_eq!(receipt["events"], generation.chunks.len(), "{receipt}");
        let members = ["channel", "events", "first_id", "last_id", "state", "subscribers"];
        assert_eq!(keys(&receipt), members);
        let mut viewer = Viewer::of(format);
        viewer.follow(&mut client).await;
        viewer.assert_complete(&generation);
        let end = viewer.end.as_ref().unwrap();
        assert_eq!(end["channel"], format.name());
        let data: Vec<&str> = generation.chunks.iter().map(|chunk| chunk.data.as_str()).collect();
        assert_eq!(texts(&viewer.seen), data, "with its bytes, the end mark before the end");
        assert_eq!(receipt["first_id"], viewer.seen[0].id());
        assert_eq!(receipt["last_id"], viewer.seen.last().unwrap().id());
        let types = viewer.seen.iter().map(|event| event.event.as_deref());
        assert!(types.eq(generation.chunks.iter().map(|chunk| chunk.event)), "and its types");
        let head = hub.head(format.name()).await;
        assert_eq!(head.header("fanfare-state"), Some("complete"));
        assert_eq!(head.header("fanfare-format"), Some(format.name()));
        let page = hub.page(format.name(), "from=earliest").await;
        assert_eq!(page["state"], "complete");
        assert_eq!(end_of(&hub, format.name()).await["reason"], Value::Null);
        let reply = hub.post(&format!("/v1/channels/{}", format.name()), SSE, "data: x\n\n").await;
        assert_problem(&reply, 409, "channel_closed", "closed");
    }
}

#[tokio::test]
async fn a_replay_is_the_providers_stream_with_an_id_added_to_each_event() {
    let hub = TestHub::start().await;
    let body = "data: {\"id\" : \"chatcmpl-1\",  \"object\":\"chat.completion.chunk\",\
                \"choices\":[ {\"index\":0,\"delta\":{\"content\":\"\\u00fc\\ud83c\\udfba \\/\"},\
                \"finish_reason\":null} ]}\n\ndata: [DONE]\n\n";
    hub.post("/v1/channels/c?close=auto", SSE, body).await.ok();
    let mut client = hub.stream("/v1/channels/c?from=earliest", &[]).await;
    client.rest().await;
    let raw = client.raw_until("all of it", |_| true).await;
    let without_ids: String =
        raw.split_inclusive('\n').filter(|line| !line.starts_with("id: ")).collect();
    let behind_retry = without_ids.strip_prefix("retry: 3000\n").expect("the preamble");
    assert!(behind_retry.trim_start().starts_with(body), "{raw}");
}

#[tokio::test]
async fn a_last_mark_closes_at_once_while_the_body_is_still_open() {
    let hub = TestHub::start().await;
    for format in [
        Format::Text,
        Format::OpenaiChat,
        Format::OpenaiResponses,
        Format::Anthropic,
        Format::Ollama,
    ] {
        let generation = Generation::numbered(format, 3);
        let mut client = hub.subscribe(format.name()).await;
        let mut producer = generation.producer(&hub, format.name()).await;
        producer.send(generation.wire(0..generation.mark())).await;
        client.take(generation.mark()).await;
        assert_eq!(state(&hub, format.name()).await, "open");
        let rest = generation.wire(generation.mark()..generation.chunks.len());
        producer.send(rest).await;
        let mark = client.next().await;
        assert_eq!(mark.data, generation.chunks.last().unwrap().data, "the mark comes first");
        client.next().await.assert_end("complete");
        client.assert_eof().await;
        let receipt = producer.early_reply().await.ok().json();
        assert_eq!(receipt["state"], "complete", "{format:?}");
        assert_eq!(receipt["events"], generation.chunks.len());
        assert_eq!(receipt["last_id"], mark.id());
    }
}

#[tokio::test]
async fn what_follows_a_last_mark_is_read_away() {
    let hub = TestHub::start().await;
    for format in [Format::OpenaiResponses, Format::Anthropic] {
        let generation = Generation::of(format, ["one"]);
        let body = format!("{}data: [DONE]\n\n", generation.whole());
        let receipt = generation.post(&hub, format.name(), &body).await.ok().json();
        assert_eq!(
            (&receipt["state"], &receipt["events"]),
            (&json!("complete"), &json!(generation.chunks.len()))
        );
        let viewer =
            Viewer::watch(&hub, format, &format!("/v1/channels/{}?from=earliest", format.name()))
                .await;
        viewer.assert_complete(&generation);
        assert_eq!(viewer.seen.len(), generation.chunks.len());
    }
}

#[tokio::test]
async fn after_a_nearly_mark_the_done_is_delivered_too() {
    let hub = TestHub::start().await;
    let generation = Generation::of(Format::AiSdk, ["one"]);
    let mut client = hub.subscribe("c").await;
    let mut producer = generation.producer(&hub, "c").await;
    let done = generation.chunks.len() - 1;
    producer.send(generation.wire(0..done)).await;
    client.take(done).await;
    producer.send(generation.wire(done..done + 1)).await;
    assert_eq!(client.next().await.data, "[DONE]");
    client.next().await.assert_end("complete");
    let receipt = producer.early_reply().await.ok().json();
    assert_eq!(receipt["state"], "complete");
    assert_eq!(receipt["events"], generation.chunks.len());
}

#[tokio::test]
async fn a_nearly_mark_is_enough_when_the_body_ends_or_breaks_off_after_it() {
    let hub = TestHub::start().await;
    for format in [Format::AiSdk, Format::Gemini] {
        let mut generation = Generation::of(format, ["one", " two"]);
        generation.chunks.retain(|chunk| chunk.data != "[DONE]");
        let ends = format!("ends/{}", format.name());
        generation.publish(&hub, &ends).await;
        let breaks = format!("breaks/{}", format.name());
        let mut client = hub.subscribe(&breaks).await;
        let mut producer = generation.producer(&hub, &breaks).await;
        producer.send(generation.whole()).await;
        let seen = client.take(generation.chunks.len()).await;
        assert_eq!(seen.last().unwrap().data, generation.chunks.last().unwrap().data);
        producer.break_off();
        client.next().await.assert_end("complete");
        client.assert_eof().await;
    }
}

#[tokio::test]
async fn the_first_mark_decides_how_it_ended() {
    let hub = TestHub::start().await;
    let quota = "{\"error\":{\"message\":\"You exceeded your quota\",\"type\":\"insufficient_quota\",\
                 \"param\":null,\"code\":\"insufficient_quota\"}}";
    let done = (None, "[DONE]");
    let failed = "{\"type\":\"response.failed\",\"sequence_number\":9,\"response\":{\
                  \"id\":\"resp_1\",\"object\":\"response\",\"status\":\"failed\",\"error\":{\
                  \"code\":\"server_error\",\"message\":\"The model failed\"},\"output\":[]}}";
    let incomplete = "{\"type\":\"response.incomplete\",\"sequence_number\":9,\"response\":{\
                      \"id\":\"resp_1\",\"object\":\"response\",\"status\":\"incomplete\",\
                      \"incomplete_details\":{\"reason\":\"max_output_tokens\"},\"output\":[]}}";
    let error = "{\"type\":\"error\",\"sequence_number\":9,\"code\":\"server_error\",\
                 \"message\":\"It is on fire\",\"param\":null}";
    let overloaded = "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\
                      \"message\":\"Overloaded\"}}";
    let broken = "{\"type\":\"error\",\"errorText\":\"The tool is broken\"}";
    type Marks<'a> = &'a [(Option<&'static str>, &'a str)];
    let cases: [(Format, Marks<'_>, &str, Option<&str>); 9] = [
        (Format::OpenaiChat, &[(None, quota), done], "error", Some("You exceeded your quota")),
        (Format::OpenaiChat, &[(None, quota)], "error", Some("You exceeded your quota")),
        (
            Format::OpenaiResponses,
            &[(Some("response.failed"), failed)],
            "error",
            Some("The model failed"),
        ),
        (Format::OpenaiResponses, &[(Some("response.incomplete"), incomplete)], "complete", None),
        (Format::OpenaiResponses, &[(Some("error"), error)], "error", Some("It is on fire")),
        (Format::Anthropic, &[(Some("error"), overloaded)], "error", Some("Overloaded")),
        (
            Format::Ollama,
            &[(None, "{\"error\":\"model runner has stopped\"}")],
            "error",
            Some("model runner has stopped"),
        ),
        (Format::AiSdk, &[(None, broken), done], "error", Some("The tool is broken")),
        (Format::AiSdk, &[(None, "{\"type\":\"abort\"}"), done], "cancelled", None),
    ];
    for (n, (format, marks, wanted, reason)) in cases.into_iter().enumerate() {
        let generation = ending(format, marks);
        let channel = format!("c/{n}");
        let receipt = generation.post(&hub, &channel, &generation.whole()).await.ok().json();
        assert_eq!(receipt["state"], wanted, "{format:?}: {receipt}");
        assert_eq!(receipt["events"], generation.chunks.len(), "the mark and all: {receipt}");
        let end = end_of(&hub, &channel).await;
        assert_eq!(end["state"], wanted);
        if let Some(reason) = reason {
            assert_eq!(end["reason"], reason, "what the provider said");
        }
        assert_eq!(state(&hub, &channel).await, wanted);
    }
}

#[tokio::test]
async fn an_end_mark_within_a_text_closes_nothing() {
    let hub = TestHub::with("channels.producer_grace = \"1m\"").await;
    let traps = [
        "[DONE]",
        "data: [DONE]\n\n",
        "event: message_stop",
        "\"done\":true",
        "{\"type\":\"message_stop\"}",
        "{\"type\":\"response.completed\"}",
        "{\"type\":\"finish\"} \"finishReason\": \"STOP\"",
        "{\"error\":\"x\"}",
    ];
    for format in Format::ALL {
        let plain = |trap: &&str| format == Format::Text && *trap == "[DONE]";
        let tokens = traps.iter().filter(|trap| !plain(trap)).map(|trap| format!("{trap} "));
        let tokens = std::iter::once("Beware of ".to_owned()).chain(tokens);
        let generation = Generation::of(format, tokens);
        let body = generation.truncated();
        let receipt = generation.post(&hub, format.name(), &body).await.ok().json();
        assert_eq!(receipt["state"], "open", "{format:?}");
        assert_eq!(receipt["events"], generation.stop(), "{format:?}");
        assert_eq!(state(&hub, format.name()).await, "open", "{format:?}");
    }
}

#[tokio::test]
async fn a_truncated_generation_is_never_complete() {
    let hub = TestHub::with("channels.producer_grace = \"300ms\"").await;
    for format in Format::ALL {
        let generation = Generation::rich(format);
        let mut client = hub.subscribe(format.name()).await;
        let reply = generation.post(&hub, format.name(), &generation.truncated()).await;
        let receipt = reply.ok().json();
        assert_eq!(receipt["state"], "open", "{format:?}: {receipt}");
        assert_eq!(receipt["events"], generation.stop());
        let mut viewer = Viewer::of(format);
        viewer.follow(&mut client).await;
        assert_eq!(viewer.content, generation.content);
        let end = viewer.end.unwrap();
        assert_eq!((&end["state"], &end["reason"]), (&json!("abandoned"), &json!(ABANDONED)));
        assert_eq!(state(&hub, format.name()).await, "abandoned");
        let page = hub.page(format.name(), "from=earliest").await;
        assert_eq!(page["state"], "abandoned");
        let late = generation.post(&hub, format.name(), &generation.whole()).await;
        assert_problem(&late, 409, "channel_closed", "");
    }
}

#[tokio::test]
async fn a_producer_that_dies_in_the_middle_of_a_token_abandons_its_channel() {
    let hub = TestHub::with("channels.producer_grace = \"300ms\"").await;
    let generation = Generation::numbered(Format::OpenaiChat, 5);
    let mut client = hub.subscribe("c").await;
    let mut producer = generation.producer(&hub, "c").await;
    let body = generation.truncated();
    producer.send(&body[..body.len() - 30]).await;
    client.take(generation.stop() - 1).await;
    assert_eq!(hub.head("c").await.header("fanfare-producer"), Some("streaming"));
    producer.break_off();
    let end = client.next().await.assert_end("abandoned");
    assert!(end["reason"] == LOST || end["reason"] == "the connection of the producer was lost");
    client.assert_eof().await;
}

#[tokio::test]
async fn another_post_within_the_grace_continues_and_completes() {
    let hub = TestHub::start().await;
    for format in Format::ALL {
        let generation = Generation::rich(format);
        let half = generation.chunks.len() / 2;
        let mut client = hub.subscribe(format.name()).await;
        let mut first = generation.producer(&hub, format.name()).await;
        first.send(generation.wire(0..half)).await;
        let mut viewer = Viewer::of(format);
        viewer.until(&mut client, |viewer| viewer.seen.len() == half).await;
        first.break_off();
        until_producer(&hub, format.name(), Some("away")).await;
        assert_eq!(state(&hub, format.name()).await, "open");
        let rest = generation.wire(half..generation.chunks.len());
        let receipt = generation.post(&hub, format.name(), &rest).await.ok().json();
        assert_eq!(receipt["state"], "complete", "{format:?}: {receipt}");
        assert_eq!(receipt["events"], generation.chunks.len() - half, "those of this request");
        viewer.follow(&mut client).await;
        viewer.assert_complete(&generation);
        assert_eq!(viewer.seen.len(), generation.chunks.len());
    }
}

#[tokio::test]
async fn while_a_producer_streams_no_grace_runs_out() {
    let hub = TestHub::with("channels.producer_grace = \"300ms\"").await;
    let generation = Generation::numbered(Format::Anthropic, 4);
    let reply = generation.post(&hub, "c", &generation.wire(0..3)).await.ok();
    assert_eq!(reply.json()["state"], "open");
    let mut second = generation.producer(&hub, "c").await;
    until_producer(&hub, "c", Some("streaming")).await;
    // The grace of the other channel began later than that of `c`, so it ends later.
    generation.post(&hub, "clock", &generation.wire(0..3)).await.ok();
    until_state(&hub, "clock", "abandoned").await;
    assert_eq!(state(&hub, "c").await, "open");
    second.send(generation.wire(3..generation.chunks.len())).await;
    assert_eq!(second.finish().await.ok().json()["state"], "complete");
}

#[tokio::test]
async fn only_a_producer_that_asked_for_it_can_abandon_a_channel() {
    let hub = TestHub::with("channels.producer_grace = \"100ms\"").await;
    let generation = Generation::numbered(Format::OpenaiChat, 3);
    hub.post("/v1/channels/c", SSE, generation.truncated()).await.ok();
    assert_eq!(hub.head("c").await.header("fanfare-producer"), None);
    let mut broken = Publisher::events(&hub, "c").await;
    broken.send("data: half").await;
    broken.break_off();
    generation.post(&hub, "clock", &generation.truncated()).await.ok();
    until_state(&hub, "clock", "abandoned").await;
    assert_eq!(state(&hub, "c").await, "open");
    hub.publish("c", "more").await;
}

#[tokio::test]
async fn without_close_auto_an_end_mark_closes_nothing() {
    let hub = TestHub::start().await;
    for format in Format::ALL {
        let generation = Generation::of(format, ["one"]);
        let to = format!("/v1/channels/{}", format.name());
        let receipt = hub.post(&to, format.content_type(), generation.whole()).await.ok().json();
        assert_eq!(receipt["state"], "open", "{format:?}");
        assert_eq!(state(&hub, format.name()).await, "open");
    }
}

#[tokio::test]
async fn a_rule_and_a_put_set_the_grace_of_their_channels() {
    let hub = TestHub::with(
        "channels.producer_grace = \"1h\"\n\
         [[channels.rules]]\npattern = \"short/*\"\nproducer_grace = \"100ms\"\n",
    )
    .await;
    let put = hub.put("put", "{\"producer_grace\":\"100ms\"}").await;
    assert_eq!(put.status(), 201, "{}", put.text());
    let generation = Generation::numbered(Format::Ollama, 3);
    for channel in ["long", "short/one", "put"] {
        generation.post(&hub, channel, &generation.truncated()).await.ok();
    }
    until_state(&hub, "short/one", "abandoned").await;
    until_state(&hub, "put", "abandoned").await;
    assert_eq!(state(&hub, "long").await, "open");
    for bad in ["{\"producer_grace\":\"soon\"}", "{\"producer_grace\":5}"] {
        let reply = hub.put("bad", bad).await;
        assert_problem(&reply, 400, "invalid_parameter", "");
    }
}

#[tokio::test]
async fn a_second_producer_is_refused_while_the_first_streams() {
    let hub = TestHub::start().await;
    let generation = Generation::numbered(Format::OpenaiChat, 4);
    let mut client = hub.subscribe("c").await;
    let mut first = generation.producer(&hub, "c").await;
    first.send(generation.wire(0..2)).await;
    client.take(2).await;
    let second = generation.post(&hub, "c", &generation.whole()).await;
    let problem = assert_problem(&second, 409, "publish_in_progress", "");
    assert_eq!(problem["retryable"], true);
    assert_eq!(second.header("retry-after"), Some("1"));
    let id = hub.publish("c", "{\"note\":\"a single event is taken\"}").await;
    assert_eq!(client.next().await.id(), id);
    first.send(generation.wire(2..generation.chunks.len())).await;
    let receipt = first.finish().await.ok().json();
    assert_eq!(receipt["state"], "complete");
    assert_eq!(receipt["events"], generation.chunks.len(), "its own events");
    let elsewhere = generation.post(&hub, "d", &generation.whole()).await.ok();
    assert_eq!(elsewhere.json()["state"], "complete");
}

#[tokio::test]
async fn head_shows_the_format_and_the_producer() {
    let hub = TestHub::start().await;
    let generation = Generation::numbered(Format::Gemini, 3);
    let mut client = hub.subscribe("c").await;
    let mut producer = generation.producer(&hub, "c").await;
    until_producer(&hub, "c", Some("streaming")).await;
    producer.send(generation.wire(0..1)).await;
    client.next().await;
    assert_eq!(hub.head("c").await.header("fanfare-format"), Some("gemini"));
    producer.break_off();
    until_producer(&hub, "c", Some("away")).await;
    hub.publish("unknown", "{\"foo\":1}").await;
    let head = hub.head("unknown").await;
    assert_eq!((head.header("fanfare-format"), head.header("fanfare-producer")), (None, None));
    hub.post("/v1/channels/named?format=anthropic", SSE, "data: {}\n\n").await.ok();
    assert_eq!(hub.head("named").await.header("fanfare-format"), Some("anthropic"));
}

/// Publishes with a key, repeatedly until the hub has noticed that an earlier attempt is
/// disconnected.
async fn publish_with_key(
    hub: &TestHub,
    channel: &str,
    kind: &str,
    key: &str,
    body: &str,
) -> Response {
    let to = format!("/v1/channels/{channel}?close=auto");
    let headers = [("Idempotency-Key", key), ("Content-Type", kind)];
    let mut reply = None;
    eventually("the hub to notice that the first request is gone", async || {
        let answer = hub.request("POST", &to, &headers, body).await;
        let busy = answer.status() == 409 && answer.json()["code"] == "publish_in_progress";
        reply = Some(answer);
        !busy
    })
    .await;
    reply.expect("a reply")
}

#[tokio::test]
async fn a_generation_that_broke_off_is_resumed_by_its_key_and_nothing_comes_twice() {
    let hub = TestHub::start().await;
    for format in Format::ALL {
        let generation = Generation::rich(format);
        let channel = format.name();
        let half = generation.chunks.len() / 2;
        let mut client = hub.subscribe(channel).await;
        let to = format!("/v1/channels/{channel}?close=auto");
        let key = [("Idempotency-Key", "once")];
        let mut first = Publisher::begin(&hub, &to, format.content_type(), &key).await;
        first.send(generation.wire(0..half)).await;
        first.send(&generation.wire(half..half + 1)[..5]).await;
        let mut viewer = Viewer::of(format);
        viewer.until(&mut client, |viewer| viewer.seen.len() == half).await;
        first.break_off();
        let whole = generation.whole();
        let kind = format.content_type();
        let receipt = publish_with_key(&hub, channel, kind, "once", &whole).await.ok().json();
        assert_eq!(receipt["state"], "complete", "{format:?}: {receipt}");
        viewer.follow(&mut client).await;
        viewer.assert_complete(&generation);
        let data: Vec<&str> = generation.chunks.iter().map(|chunk| chunk.data.as_str()).collect();
        assert_eq!(texts(&viewer.seen), data);
        assert_eq!(receipt["last_id"], viewer.seen.last().unwrap().id());
        let again = publish_with_key(&hub, channel, kind, "once", &whole).await.ok();
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(again.json(), receipt);
    }
}

#[tokio::test]
async fn a_body_that_ended_without_its_mark_is_resumed_by_its_key_too() {
    let hub = TestHub::start().await;
    let generation = Generation::numbered(Format::OpenaiResponses, 6);
    let kind = generation.format.content_type();
    for n in [3, 5, 8] {
        let part = generation.wire(0..n);
        let reply = publish_with_key(&hub, "c", kind, "k", &part).await.ok();
        assert_eq!(reply.json()["state"], "open");
        let page = hub.page("c", "from=earliest").await;
        assert_eq!(page_texts(&page).len(), n, "each try goes on where the last one stopped");
    }
    let reply = publish_with_key(&hub, "c", kind, "k", &generation.whole()).await.ok();
    assert_eq!(reply.json()["state"], "complete");
    let viewer = Viewer::watch(&hub, generation.format, "/v1/channels/c?from=earliest").await;
    viewer.assert_complete(&generation);
    assert_eq!(viewer.seen.len(), generation.chunks.len());
}

#[tokio::test]
async fn what_is_passed_over_is_counted_and_not_compared() {
    let hub = TestHub::start().await;
    let first = Generation::of(Format::Text, ["a", "b", "c"]);
    publish_with_key(&hub, "c", SSE, "k", &first.truncated()).await.ok();
    let second = Generation::of(Format::Text, ["x", "y", "z", "d"]);
    let reply = publish_with_key(&hub, "c", SSE, "k", &second.whole()).await.ok();
    assert_eq!(reply.json()["state"], "complete");
    let page = hub.page("c", "from=earliest").await;
    assert_eq!(page_texts(&page)[..5], ["a", "b", "c", "d", "[DONE]"]);
}

#[tokio::test]
async fn a_key_without_close_auto_is_as_before() {
    let hub = TestHub::start().await;
    let headers = [("Idempotency-Key", "k"), ("Content-Type", SSE)];
    let body = "data: a\n\n";
    let first = hub.request("POST", "/v1/channels/c", &headers, body).await.ok();
    let again = hub.request("POST", "/v1/channels/c", &headers, "data: a\n\ndata: b\n\n").await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.json(), again.ok().json());
}

#[tokio::test]
async fn raw_text_is_published_piece_by_piece_at_character_boundaries() {
    let hub = TestHub::start().await;
    let mut client = hub.subscribe("c").await;
    let to = "/v1/channels/c?format=text&close=complete";
    let mut producer = Publisher::begin(&hub, to, "text/plain", &[]).await;
    let mut read = String::new();
    let steps: [(&[u8], &str); 6] = [
        (b"Gr", "Gr"),
        ("ü".as_bytes(), "Grü"),
        (&"ß🎺".as_bytes()[..4], "Grüß"),
        (&"ß🎺".as_bytes()[4..], "Grüß🎺"),
        (b" two\nlines\n\n", "Grüß🎺 two\nlines\n\n"),
        (b"[DONE] is text: data: x", "Grüß🎺 two\nlines\n\n[DONE] is text: data: x"),
    ];
    for (piece, wanted) in steps {
        producer.send(piece).await;
        while read.len() < wanted.len() {
            let event = client.next().await;
            assert_eq!(event.event, None);
            read.push_str(&event.data);
        }
        assert_eq!(read, wanted, "what arrived can be seen, and no half of a character");
    }
    let receipt = producer.finish().await.ok().json();
    assert_eq!(receipt["state"], "complete");
    assert!(receipt["events"].as_u64().unwrap() >= 6, "one event a piece: {receipt}");
    client.next().await.assert_end("complete");
    assert_eq!(hub.head("c").await.header("fanfare-format"), Some("text"));
}

#[tokio::test]
async fn raw_text_has_no_end_mark_of_its_own_and_may_be_abandoned() {
    let hub = TestHub::with("channels.producer_grace = \"300ms\"").await;
    let mut client = hub.subscribe("c").await;
    let to = "/v1/channels/c?format=text&close=auto";
    let mut producer = Publisher::begin(&hub, to, "text/plain", &[]).await;
    producer.send("once upon").await;
    assert_eq!(client.next().await.data, "once upon");
    assert_eq!(hub.head("c").await.header("fanfare-producer"), Some("streaming"));
    assert_eq!(producer.finish().await.ok().json()["state"], "open");
    assert_eq!(client.next().await.assert_end("abandoned")["reason"], ABANDONED);
}

#[tokio::test]
async fn raw_text_must_be_utf_8_and_what_came_before_is_kept() {
    let hub = TestHub::start().await;
    let mut client = hub.subscribe("c").await;
    let to = "/v1/channels/c?format=text&close=auto";
    let mut producer = Publisher::begin(&hub, to, "text/plain", &[]).await;
    producer.send("kept").await;
    assert_eq!(client.next().await.data, "kept");
    producer.send(b"\xff\xfe broken").await;
    assert_problem(&producer.finish().await, 400, "invalid_event", "");
    assert_eq!(state(&hub, "c").await, "open");
    assert_eq!(page_texts(&hub.page("c", "from=earliest").await), ["kept"]);
}

#[tokio::test]
async fn a_bad_event_in_a_generation_is_refused_and_closes_nothing() {
    let hub = TestHub::start().await;
    let body = "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"x\"},\
                \"done\":false}\nbroken\n";
    let reply = hub.post("/v1/channels/c?close=auto", NDJSON, body).await;
    let problem = assert_problem(&reply, 400, "invalid_event", "");
    assert_eq!(problem["events"], 1);
    assert_eq!(state(&hub, "c").await, "open");
}

#[tokio::test]
async fn wrong_values_are_refused_before_anything_is_published() {
    let hub = TestHub::start().await;
    let json = "application/json";
    for (query, kind, names) in [
        ("close=auto", "text/plain", "close"),
        ("close=auto", json, "close"),
        ("close=automatic", SSE, "close"),
        ("close=abandoned", SSE, "close"),
        ("format=gpt", SSE, "format"),
        ("format=openai", NDJSON, "format"),
        ("close=auto&format=plain", "text/plain", "format"),
        ("close=auto&format=openai-chat", "text/plain", "close"),
    ] {
        let reply = hub.post(&format!("/v1/channels/c?{query}"), kind, "data: x\n\n").await;
        let problem = assert_problem(&reply, 400, "invalid_parameter", names);
        assert_eq!(problem["parameter"], names, "{query}: {problem}");
    }
    assert_eq!(hub.head("c").await.status(), 404);
}

#[tokio::test]
async fn a_body_without_any_event_leaves_the_channel_open() {
    let hub = TestHub::start().await;
    let receipt = hub.post("/v1/channels/c?close=auto", SSE, ": nothing\n\n").await.ok().json();
    assert_eq!((&receipt["events"], &receipt["state"]), (&json!(0), &json!("open")));
}

#[tokio::test]
async fn the_bytes_of_a_generation_may_be_cut_anywhere() {
    let hub = TestHub::start().await;
    for format in [Format::Anthropic, Format::Gemini, Format::Ollama] {
        let generation = Generation::rich(format);
        let mut client = hub.subscribe(format.name()).await;
        let mut producer = generation.producer(&hub, format.name()).await;
        for piece in generation.whole().as_bytes().chunks(7) {
            producer.send(piece).await;
        }
        let reply = within("the receipt", producer.finish()).await.ok().json();
        assert_eq!(reply["state"], "complete");
        let mut viewer = Viewer::of(format);
        viewer.follow(&mut client).await;
        viewer.assert_complete(&generation);
    }
}

#[tokio::test]
async fn nothing_is_abandoned_before_its_grace_is_over() {
    let hub = TestHub::with("channels.producer_grace = \"700ms\"").await;
    let generation = Generation::of(Format::Text, ["one"]);
    let mut client = hub.subscribe("c").await;
    let begun = tokio::time::Instant::now();
    generation.post(&hub, "c", &generation.truncated()).await.ok();
    client.next().await;
    client.next().await.assert_end("abandoned");
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(650), "{waited:?}");
}

const TOKEN: &str = r#"{"choices":[{"index":0,"delta":{"content":"Hi"}}]}"#;

fn stream(events: &[(Option<&str>, &str)]) -> String {
    let event = |(event_type, data): &(Option<&str>, &str)| {
        let event_type = event_type.map(|name| format!("event: {name}\n")).unwrap_or_default();
        format!("{event_type}data: {data}\n\n")
    };
    events.iter().map(event).collect()
}

/// Publishes a body with `close=auto`; returns the status and the document of the answer.
async fn close_auto(hub: &TestHub, channel: &str, kind: &str, body: &str) -> (u16, Value) {
    let reply = hub.post(&format!("/v1/channels/{channel}?close=auto"), kind, body).await;
    (reply.status(), reply.json())
}

#[tokio::test]
async fn an_event_that_is_cut_at_the_end_of_a_body_is_not_published_and_a_retry_brings_it() {
    let hub = TestHub::start().await;
    let tokens = ["It", " rains", " today", " a\u{e4}"];
    let mut whole: String = tokens
        .iter()
        .map(|token| format!("event: t\ndata: {{\"choices\":[{{\"delta\":\ndata: {{\"content\":\"{token}\"}}}}]}}\n\n"))
        .collect();
    let third = whole.match_indices("\n\n").nth(2).unwrap().0 + 2;
    let torn = third + 1..whole.len();
    whole += "data: [DONE]\n\n";
    for cut in torn {
        let channel = format!("torn/{cut}");
        let part = &whole.as_bytes()[..cut];
        let to = format!("/v1/channels/{channel}?close=auto");
        let headers = [("Idempotency-Key", "k"), ("Content-Type", SSE)];
        let receipt = hub.request("POST", &to, &headers, part).await.ok().json();
        assert_eq!((&receipt["events"], &receipt["state"]), (&json!(3), &json!("open")), "{cut}");
        let begun = part.len() - third;
        let discarded = receipt["discarded_bytes"].as_u64().unwrap() as usize;
        assert!((begun..=begun + 1).contains(&discarded), "{cut}: {receipt}");
        let receipt = publish_with_key(&hub, &channel, SSE, "k", &whole).await.ok().json();
        assert_eq!((&receipt["events"], &receipt["state"]), (&json!(5), &json!("complete")));
        let page = hub.page(&channel, "from=earliest").await;
        let text: String = page_texts(&page)[..4]
            .iter()
            .map(|data| serde_json::from_str::<Value>(data).unwrap())
            .map(|data| data["choices"][0]["delta"]["content"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(text, tokens.concat(), "cut at {cut}");
    }
}

#[tokio::test]
async fn an_end_mark_without_its_empty_line_is_an_end() {
    let hub = TestHub::start().await;
    let stop = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    for (n, (last, state)) in [
        ("data: [DONE]", "complete"),
        ("data: [DONE]\n", "complete"),
        ("data:[DONE] \r\n", "complete"),
        ("data: {\"error\":{\"message\":\"boom\"}}", "error"),
        ("error: {\"message\":\"boom\"}", "error"),
        (&format!("data: {stop}\n"), "complete"),
        ("data: [DON", "open"),
        ("data: {\"error\":{\"message\":\"bo", "open"),
        ("event: error\ndata: the model is g", "open"),
        (&format!("data: {TOKEN}"), "open"),
    ]
    .into_iter()
    .enumerate()
    {
        let body = stream(&[(None, TOKEN)]) + last;
        let (status, receipt) = close_auto(&hub, &format!("c/{n}"), SSE, &body).await;
        assert_eq!((status, &receipt["state"]), (200, &json!(state)), "{last:?}: {receipt}");
        let events = if state == "open" { 1 } else { 2 };
        assert_eq!(receipt["events"], events, "{last:?}");
        assert_eq!(receipt["discarded_bytes"].is_u64(), state == "open", "{receipt}");
    }
    let plain = hub.post("/v1/channels/plain", SSE, "data: a\n\ndata: [DONE]").await.ok().json();
    assert_eq!(plain["events"], 2);
    assert!(plain["hint"].as_str().unwrap().contains("close=auto"), "{plain}");
}

#[tokio::test]
async fn what_is_no_stream_is_refused_and_reported_to_all() {
    let hub = TestHub::start().await;
    let key = "{\n  \"error\": {\n    \"message\": \"Incorrect API key provided: sk-x.\"\n  }\n}\n";
    let nginx = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n</body></html>";
    for (n, (kind, body, reason)) in [
        (SSE, key, "Incorrect API key provided: sk-x."),
        (SSE, nginx, "502 Bad Gateway"),
        (SSE, "Unauthorized\n", "no stream came, but `Unauthorized`"),
        (SSE, "{\"detail\":\"Not authenticated\"}", "Not authenticated"),
        (NDJSON, nginx, "502 Bad Gateway"),
        (NDJSON, key, "Incorrect API key provided: sk-x."),
    ]
    .into_iter()
    .enumerate()
    {
        let channel = format!("c/{n}");
        let mut client = hub.subscribe(&channel).await;
        let (status, problem) = close_auto(&hub, &channel, kind, body).await;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_event")), "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        let begins: String = body.chars().take(5).take_while(|char| *char >= ' ').collect();
        assert!(detail.contains(&begins) && !detail.contains(['\n', '\r']), "{detail}");
        if !reason.contains("no stream") {
            assert_eq!(problem["reason"], reason);
        }
        let end = client.next().await.assert_end("error");
        assert_eq!(end["reason"], reason);
        // Without `close=auto` it is refused as well, and closes nothing.
        let plain = format!("/v1/channels/plain/{n}");
        for query in ["", "?close=complete"] {
            let reply = hub.post(&format!("{plain}{query}"), kind, body).await;
            assert_problem(&reply, 400, "invalid_event", "");
        }
        assert_ne!(state(&hub, &format!("plain/{n}")).await, "complete");
    }
    for body in ["", ": note\n\n", ":\n:\n", "\n\n", "\u{feff}"] {
        let (status, receipt) = close_auto(&hub, "empty", SSE, body).await;
        assert_eq!(
            (status, &receipt["events"], &receipt["state"]),
            (200, &json!(0), &json!("open"))
        );
        assert!(receipt["hint"].is_string(), "{receipt}");
    }
    for body in ["data: x", "event: x\ndata: torn", "id: 7\n\n"] {
        let (status, problem) = close_auto(&hub, "torn", SSE, body).await;
        assert_eq!(status, 400, "{body:?}: {problem}");
        assert_eq!(state(&hub, "torn").await, "open", "its producer may come back");
    }
}

#[tokio::test]
async fn errors_of_any_kind_end_a_generation_with_their_message() {
    let hub = TestHub::start().await;
    let anthropic = r#"{"type":"message_start","message":{"model":"m"}}"#;
    let inside = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"error","error":{"code":502,"message":"boom"}}]}"#;
    let cases: [(&str, String); 7] = [
        ("inside", stream(&[(None, TOKEN), (None, inside), (None, "[DONE]")])),
        (
            "field",
            stream(&[(None, TOKEN)])
                + "error: {\"code\":400,\"message\":\"boom\"}\n\ndata: [DONE]\n\n",
        ),
        ("typed", stream(&[(None, TOKEN), (Some("error"), r#"{"code":"x","message":"boom"}"#)])),
        ("text", stream(&[(None, TOKEN), (Some("error"), "boom")])),
        ("foreign", stream(&[(None, anthropic), (None, r#"{"error":{"message":"boom"}}"#)])),
        (
            "ping",
            stream(&[
                (Some("ping"), "2024-04-27 01:35"),
                (None, TOKEN),
                (None, r#"{"error":{"message":"boom"}}"#),
                (None, "[DONE]"),
            ]),
        ),
        (
            "finished",
            stream(&[
                (None, TOKEN),
                (None, &TOKEN.replace("}}]}", "},\"finish_reason\":\"stop\"}]}")),
                (None, r#"{"error":"boom"}"#),
            ]),
        ),
    ];
    for (name, body) in cases {
        let (status, receipt) = close_auto(&hub, name, SSE, &body).await;
        assert_eq!((status, &receipt["state"]), (200, &json!("error")), "{name}: {receipt}");
        assert_eq!(end_of(&hub, name).await["reason"], "boom", "{name}");
    }
    assert_eq!(hub.head("ping").await.header("fanfare-format"), Some("openai-chat"));
    let snapshot = hub.page("ping", "from=snapshot").await;
    let snapshot: Value = serde_json::from_str(page_texts(&snapshot)[0]).unwrap();
    assert_eq!((&snapshot["text"], &snapshot["events"]), (&json!("Hi"), &json!(4)), "{snapshot}");
}

#[tokio::test]
async fn what_comes_first_does_not_hide_the_format() {
    let hub = TestHub::with("channels.max_events = 8").await;
    let vertex = (Some("vertex_event"), r#"{"type":"vertex_event"}"#);
    let start = (None, r#"{"type":"message_start","message":{"model":"m"}}"#);
    let delta = (
        None,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}"#,
    );
    let stop = (None, r#"{"type":"message_stop"}"#);
    let empty = (None, "");
    let many = std::iter::repeat_n(vertex, 30).chain([empty, start, delta, stop]).collect();
    for (n, events) in
        [vec![vertex, start, delta, stop], vec![empty, start, delta, stop], many].iter().enumerate()
    {
        let channel = format!("c/{n}");
        let (_, receipt) = close_auto(&hub, &channel, SSE, &stream(events)).await;
        assert_eq!(receipt["state"], "complete", "{receipt}");
        let head = hub.head(&channel).await;
        assert_eq!(head.header("fanfare-format"), Some("anthropic"));
        let snapshot = hub.page(&channel, "from=snapshot").await;
        let snapshot: Value = serde_json::from_str(page_texts(&snapshot)[0]).unwrap();
        assert_eq!((&snapshot["text"], &snapshot["events"]), (&json!("Hi"), &json!(events.len())));
    }
}

#[tokio::test]
async fn a_clean_end_after_a_stop_reason_is_complete() {
    let hub = TestHub::start().await;
    let stop = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
    let start = r#"{"type":"message_start","message":{"model":"c"}}"#;
    let turn = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#;
    let other = r#"{"choices":[{"index":1,"delta":{"content":"a"}}]}"#;
    for (n, (events, wanted)) in [
        (vec![(None, TOKEN), (None, stop)], "complete"),
        (vec![(None, start), (None, turn)], "complete"),
        (vec![(None, TOKEN), (None, "[DONE] ")], "complete"),
        (vec![(None, r#"{"delta":1}"#), (None, "[DONE]")], "complete"),
        (vec![(None, TOKEN), (None, other), (None, stop)], "open"),
        (vec![(None, TOKEN)], "open"),
    ]
    .into_iter()
    .enumerate()
    {
        let channel = format!("c/{n}");
        let (_, receipt) = close_auto(&hub, &channel, SSE, &stream(&events)).await;
        assert_eq!(receipt["state"], wanted, "{events:?}: {receipt}");
        assert_eq!(receipt["hint"].is_string(), wanted == "open", "{receipt}");
    }
}

#[tokio::test]
async fn an_abandoned_channel_says_what_has_happened() {
    let hub = TestHub::with(
        "channels.producer_grace = \"100ms\"\npublish.max_event_bytes = \"2KiB\"\n\
         publish.idle_timeout = \"200ms\"\n",
    )
    .await;
    let token = stream(&[(None, TOKEN)]);
    let large = format!("{token}data: {}\n\n", "x".repeat(3000));
    for (channel, body, reason) in [
        ("large", large.as_bytes(), "event 2: the data is larger than 2048 bytes"),
        ("type", b"data: a\n\nevent: fanfare.x\ndata: b\n\n", "event types that begin with"),
        ("utf8", b"data: a\n\ndata: \xff\n\n", "not UTF-8"),
        ("torn", b"data: a\n\ndata: b", "ended within an event"),
        ("left", token.as_bytes(), ABANDONED),
    ] {
        let mut client = hub.subscribe(channel).await;
        let to = format!("/v1/channels/{channel}?close=auto");
        hub.request("POST", &to, &[("Content-Type", SSE)], body).await;
        client.next().await;
        let end = client.next().await.assert_end("abandoned");
        assert!(end["reason"].as_str().unwrap().contains(reason), "{end}");
    }
    let mut client = hub.subscribe("silent").await;
    let mut producer = Publisher::begin(&hub, "/v1/channels/silent?close=auto", SSE, &[]).await;
    producer.send(token).await;
    client.next().await;
    let end = client.next().await.assert_end("abandoned");
    assert!(end["reason"].as_str().unwrap().contains("publish.idle_timeout"), "{end}");
}

//! Generations: a provider's stream goes in as it is, and the hub knows how it ended.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::generation::{Chunk, Format, Generation, Viewer, page_events};
use crate::support::{
    Publisher, Response, TestHub, assert_problem, eventually, keys, page_texts, texts, within,
};

const SSE: &str = "text/event-stream";
const NDJSON: &str = "application/x-ndjson";
const ABANDONED: &str = "the producer left without an end mark";

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

/// The data of `fanfare.end` behind everything that the channel retains.
async fn end_of(hub: &TestHub, channel: &str) -> Value {
    let page = hub.page(channel, "from=earliest&limit=1000").await;
    let end = page_events(&page).pop().expect("an end");
    assert_eq!(end.event.as_deref(), Some("fanfare.end"), "{page}");
    assert_eq!(end.json()["state"], page["state"]);
    end.json()
}

/// A generation of two tokens, and instead of its end mark these events.
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
        producer.send(generation.truncated()).await;
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
async fn behind_a_nearly_mark_the_done_is_delivered_too() {
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
async fn a_nearly_mark_is_enough_when_the_body_ends_or_breaks_off_behind_it() {
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
        assert_eq!(receipt["events"], generation.mark(), "{format:?}");
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
        assert_eq!(receipt["events"], generation.mark());
        let mut viewer = Viewer::of(format);
        viewer.follow(&mut client).await;
        assert_eq!(viewer.told, generation.told);
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
    client.take(generation.mark() - 1).await;
    assert_eq!(hub.head("c").await.header("fanfare-producer"), Some("streaming"));
    producer.break_off();
    let end = client.next().await.assert_end("abandoned");
    assert_eq!(end["reason"], ABANDONED);
    client.assert_eof().await;
}

#[tokio::test]
async fn another_post_within_the_grace_goes_on_and_completes() {
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
    // The other channel's grace begins later than the one of `c` did, and so it ends later.
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
async fn head_tells_of_the_format_and_of_the_producer() {
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

/// Publishes with a key, as often as it takes for the hub to notice that an earlier try is gone.
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

//! Coalescing: neighbouring deltas are sent as one event, and the text is the same.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::generation::{Chunk, Format, Generation, Ledger, Viewer, lines, page_events};
use crate::support::{
    Publisher, SseClient, TestHub, Wire, assert_ascending, assert_problem, event_stream,
    eventually, offset, texts,
};

const SSE: &str = "text/event-stream";

/// Limits so high that a reader that pauses for a while is kept.
const WIDE: &str = "channels.max_events = 1000000\n\
                    channels.max_bytes = \"256MiB\"\n\
                    channels.memory_budget = \"512MiB\"\n\
                    subscribers.max_lag_events = 1000000\n\
                    subscribers.max_lag_bytes = \"256MiB\"\n";

/// Asserts that the viewer saw everything, at each id exactly the channel's text up to it, in a
/// number of events in this range.
#[track_caller]
fn assert_merged(
    ledger: &Ledger,
    generation: &Generation,
    viewer: &Viewer,
    events: RangeInclusive<usize>,
) {
    viewer.assert_complete(generation);
    ledger.assert_follows(generation.format, None, &viewer.seen);
    let count = viewer.seen.len();
    assert!(events.contains(&count), "{:?}: {count} events", generation.format);
    assert_eq!(viewer.seen.last().unwrap().data, generation.chunks.last().unwrap().data);
}

/// Asserts that resuming after any of the seen events, with and without coalescing, gives exactly
/// the rest.
async fn assert_resumable(hub: &TestHub, ledger: &Ledger, generation: &Generation, v: &Viewer) {
    for event in &v.seen {
        for query in ["", "?coalesce=40ms", "?coalesce=adaptive", "?coalesce=off"] {
            let headers = [("Last-Event-ID", event.id())];
            let mut client = hub.stream(&format!("/v1/channels/c{query}"), &headers).await;
            let mut rest = Viewer::of(generation.format);
            rest.follow(&mut client).await;
            ledger.assert_follows(generation.format, Some(event.id()), &rest.seen);
            let last = rest.seen.last().unwrap_or(event);
            assert_eq!(ledger.count(last.id()), ledger.len(), "behind {event:?} with {query}");
            if query.is_empty() || query.ends_with("off") {
                assert_eq!(rest.seen.len(), ledger.len() - ledger.count(event.id()), "{query}");
            }
        }
    }
}

#[tokio::test]
async fn deltas_within_a_window_become_one_event_and_the_text_is_the_same() {
    let hub = TestHub::start().await;
    for format in Format::ALL {
        let generation = Generation::numbered(format, 100);
        let channel = format.name();
        let plain = hub.subscribe(channel).await;
        let to = format!("/v1/channels/{channel}?coalesce=100ms");
        let merged = hub.stream(&to, &[]).await.settled().await;
        let mut producer = generation.producer(&hub, channel).await;
        let begun = Instant::now();
        for chunk in &generation.chunks {
            producer.send(format.wire(chunk)).await;
            tokio::time::sleep(Duration::from_millis(2)).await; // the pace of the producer
        }
        producer.finish().await.ok();
        let took = begun.elapsed();
        let mut all = Viewer::of(format);
        let mut few = Viewer::of(format);
        let mut plain = plain;
        let mut merged = merged;
        all.follow(&mut plain).await;
        few.follow(&mut merged).await;
        assert_eq!(all.seen.len(), generation.chunks.len(), "each its own unless asked for");
        let ledger = Ledger::of(format, &all.seen);
        let around = generation.chunks.len() - 100;
        // A busy machine ends windows early and begins them late.
        let windows = 2 * usize::try_from(took.as_millis() / 100).unwrap();
        assert_merged(&ledger, &generation, &few, around + 1..=around + 6 + windows);
    }
}

#[tokio::test]
async fn parts_are_never_merged_with_each_other() {
    let hub = TestHub::start().await;
    for format in Format::ALL {
        let generation = Generation::rich(format);
        let channel = format.name();
        generation.publish(&hub, channel).await;
        let to = format!("/v1/channels/{channel}?from=earliest&coalesce=10s");
        let viewer = Viewer::watch(&hub, format, &to).await;
        let ledger = Ledger::read(&hub, format, channel).await;
        assert_merged(&ledger, &generation, &viewer, 2..=generation.chunks.len() - 3);
        for event in &viewer.seen {
            let mut one = Viewer::of(format);
            one.see(event);
            let kinds = [&one.content.text, &one.content.reasoning, &one.content.arguments];
            let some = kinds.into_iter().filter(|text| !text.is_empty()).count();
            assert!(some <= 1, "two parts in one event: {event:?}");
        }
    }
}

#[tokio::test]
async fn chunks_with_ids_usage_and_empty_fields_of_their_own_become_few() {
    let hub = TestHub::start().await;
    let chunk = |n: usize| {
        format!(
            r#"{{"id":"c{n}","created":{n},"choices":[{{"index":0,"delta":{{"content":" {n}","tool_calls":[]}}}}],"usage":{{"total_tokens":{n}}},"citations":["{n}"]}}"#
        )
    };
    let mut events: Vec<String> = (0..50).map(chunk).collect();
    events.push("[DONE]".to_owned());
    hub.post("/v1/channels/c?close=auto", SSE, event_stream(&events)).await.ok();
    let mut client = hub.stream("/v1/channels/c?from=earliest&coalesce=100ms", &[]).await;
    let seen = client.rest().await;
    assert_eq!(seen.len(), 3, "{seen:?}");
    let all: String = (0..50).map(|n| format!(" {n}")).collect();
    assert_eq!(seen[0].data, chunk(49).replace(" 49", &all), "the last one, with all texts");
    assert_eq!(seen[1].data, "[DONE]");
}

#[tokio::test]
async fn a_merged_event_is_a_valid_one_of_its_format_with_the_last_ones_id() {
    let hub = TestHub::start().await;
    let generation = Generation::of(Format::Anthropic, ["a", "b", "c", "d"]);
    generation.publish(&hub, "c").await;
    let all = page_events(&hub.page("c", "from=earliest&coalesce=off").await);
    let mut client = hub.stream("/v1/channels/c?from=earliest&coalesce=1s", &[]).await;
    let seen = client.rest().await;
    let at = all.iter().position(|event| event.data.contains("text_delta")).unwrap();
    assert_eq!(seen[..at], all[..at]);
    let merged = &seen[at];
    assert_eq!(merged.event.as_deref(), Some("content_block_delta"));
    assert_eq!(merged.id(), all[at + 3].id());
    assert_eq!(
        merged.json(),
        json!({"type":"content_block_delta","index":0,
               "delta":{"type":"text_delta","text":"abcd"}})
    );
    assert_eq!(seen[at + 1..], all[at + 4..], "what is no delta is as it was, byte for byte");
}

#[tokio::test]
async fn the_id_of_a_merged_event_resumes_exactly_after_it() {
    let hub = TestHub::start().await;
    for format in [Format::Text, Format::OpenaiChat] {
        let generation = Generation::numbered(format, 24);
        let mut merged = hub.stream("/v1/channels/c?coalesce=50ms", &[]).await.settled().await;
        let mut producer = generation.producer(&hub, "c").await;
        for chunk in &generation.chunks {
            producer.send(format.wire(chunk)).await;
            tokio::time::sleep(Duration::from_millis(8)).await; // the pace of the producer
        }
        producer.finish().await.ok();
        let mut viewer = Viewer::of(format);
        viewer.follow(&mut merged).await;
        let ledger = Ledger::read(&hub, format, "c").await;
        assert_merged(&ledger, &generation, &viewer, 2..=generation.chunks.len() - 4);
        assert_resumable(&hub, &ledger, &generation, &viewer).await;
        hub.request("DELETE", "/v1/channels/c", &[], "").await;
    }
}

#[tokio::test]
async fn the_first_token_goes_out_at_once_and_the_next_ones_wait_for_the_window() {
    let hub = TestHub::start().await;
    let mut client = hub.stream("/v1/channels/c?coalesce=1s", &[]).await.settled().await;
    let begun = Instant::now();
    hub.publish("c", "one").await;
    assert_eq!(client.next().await.data, "one");
    let first = begun.elapsed();
    assert!(first < Duration::from_millis(500), "{first:?}");
    let last = hub.publish_all("c", &[" two", " three", " four"]).await.pop().unwrap();
    let merged = client.next().await;
    assert_eq!((merged.data.as_str(), merged.id()), (" two three four", last.as_str()));
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(900), "{waited:?}");
    // The tested pause, which is longer than the window.
    tokio::time::sleep(Duration::from_millis(1300)).await;
    let again = Instant::now();
    hub.publish("c", " five").await;
    assert_eq!(client.next().await.data, " five");
    let took = again.elapsed();
    assert!(took < Duration::from_millis(500), "behind a pause: {took:?}");
}

#[tokio::test]
async fn what_cannot_be_merged_is_not_delayed_nor_what_comes_before_it() {
    let hub = TestHub::start().await;
    for format in Format::ALL {
        let generation = Generation::numbered(format, 4);
        let channel = format.name();
        let to = format!("/v1/channels/{channel}?coalesce=10s");
        let mut client = hub.stream(&to, &[]).await.settled().await;
        let begun = Instant::now();
        let mut producer = generation.producer(&hub, channel).await;
        for chunk in &generation.chunks[..generation.mark()] {
            producer.send(format.wire(chunk)).await;
        }
        producer.send(generation.wire(generation.mark()..generation.chunks.len())).await;
        let mut viewer = Viewer::of(format);
        let last = &generation.chunks.last().unwrap().data;
        let marked = |viewer: &Viewer| viewer.seen.last().is_some_and(|e| e.data == *last);
        viewer.until(&mut client, marked).await;
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "{format:?}: not held back: {took:?}");
        assert_eq!(viewer.content, generation.content, "all that comes before the mark");
        producer.finish().await.ok();
        viewer.follow(&mut client).await;
        viewer.assert_complete(&generation);
    }
}

#[tokio::test]
async fn a_tool_call_an_error_and_unknown_json_flush_too() {
    let hub = TestHub::start().await;
    let tool = "{\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\
                \"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"call_1\",\"type\":\"function\",\
                \"function\":{\"name\":\"f\",\"arguments\":\"\"}}]},\"finish_reason\":null}]}";
    let error = "{\"error\":{\"message\":\"boom\",\"type\":\"server_error\"}}";
    let unknown = "{\"my\" : \"own\",  \"thing\":[1, 2]}";
    let tokens = Generation::numbered(Format::OpenaiChat, 3);
    for (n, data) in [tool, error, unknown].into_iter().enumerate() {
        let to = format!("/v1/channels/c/{n}?coalesce=10s");
        let mut client = hub.stream(&to, &[]).await.settled().await;
        let mut producer = Publisher::events(&hub, &format!("c/{n}")).await;
        let begun = Instant::now();
        producer.send(tokens.wire(0..4)).await;
        producer.send(Format::OpenaiChat.wire(&Chunk { event: None, data: data.into() })).await;
        let mut viewer = Viewer::of(Format::OpenaiChat);
        viewer.until(&mut client, |v| v.seen.last().is_some_and(|e| e.data == data)).await;
        assert!(begun.elapsed() < Duration::from_secs(5), "not held back: {data}");
        assert_eq!(viewer.content.text, tokens.content.text, "and after the tokens: {data}");
    }
}

#[tokio::test]
async fn events_that_are_no_deltas_keep_their_bytes_and_their_order() {
    let hub = TestHub::start().await;
    let mut client = hub.stream("/v1/channels/c?coalesce=10s", &[]).await.settled().await;
    let odd = ["{\"foo\": 1}", "[1,  2]", "{ }", "{\"text\":\"no format has this\"}"];
    for data in odd {
        hub.publish("c", data).await;
        assert_eq!(client.next().await.data, data, "at once, as it is");
    }
    let mut replay = hub.stream("/v1/channels/c?from=earliest&coalesce=40ms", &[]).await;
    assert_eq!(texts(&replay.take(4).await), odd);
}

#[tokio::test]
async fn texts_of_different_types_are_not_merged() {
    let hub = TestHub::start().await;
    for (event, data) in [("a", "1"), ("a", "2"), ("b", "3"), ("a", "4")] {
        hub.post(&format!("/v1/channels/c?event={event}"), "text/plain", data).await.ok();
    }
    let mut client = hub.stream("/v1/channels/c?from=earliest&coalesce=40ms", &[]).await;
    let seen = client.take(3).await;
    let types: Vec<_> = seen.iter().map(|event| event.event.as_deref().unwrap()).collect();
    assert_eq!((types, texts(&seen)), (vec!["a", "b", "a"], vec!["12", "3", "4"]));
}

#[tokio::test]
async fn a_replay_is_merged_too() {
    let hub = TestHub::start().await;
    for format in Format::ALL {
        let generation = Generation::numbered(format, 1000);
        let channel = format.name();
        generation.publish(&hub, channel).await;
        let ledger = Ledger::read(&hub, format, channel).await;
        let around = generation.chunks.len() - 1000;
        let pieces = generation.whole().len() / (32 * 1024) + 2;
        let to = format!("/v1/channels/{channel}?from=earliest&coalesce=40ms");
        let viewer = Viewer::watch(&hub, format, &to).await;
        assert_merged(&ledger, &generation, &viewer, around + 1..=around + pieces);
        let largest = viewer.seen.iter().map(|event| event.data.len()).max().unwrap();
        assert!(largest <= 68 * 1024, "in pieces of up to 64 KiB: {largest}");
    }
}

#[tokio::test]
async fn the_channel_has_a_default_and_a_subscriber_may_want_otherwise() {
    let hub = TestHub::with(
        "[[channels.rules]]\npattern = \"rule/*\"\ncoalesce = \"40ms\"\n\
         [[channels.rules]]\npattern = \"off/*\"\ncoalesce = \"off\"\n",
    )
    .await;
    let put = hub.put("put", "{\"coalesce\":\"40ms\"}").await;
    assert_eq!(put.status(), 201, "{}", put.text());
    let generation = Generation::numbered(Format::OpenaiChat, 100);
    let all = generation.chunks.len();
    for (channel, default) in [("rule/a", true), ("put", true), ("off/a", false), ("c", false)] {
        generation.publish(&hub, channel).await;
        let to = format!("/v1/channels/{channel}?from=earliest");
        for (query, merges) in [
            ("", default),
            ("&coalesce=off", false),
            ("&coalesce=1ms", true),
            ("&coalesce=10s", true),
        ] {
            let viewer = Viewer::watch(&hub, generation.format, &format!("{to}{query}")).await;
            viewer.assert_complete(&generation);
            let count = viewer.seen.len();
            assert_eq!(count < all / 2, merges, "{to}{query}: {count} events");
            assert!(merges || count == all, "{to}{query}: {count} events");
        }
    }
}

#[tokio::test]
async fn the_whole_hub_may_have_a_default() {
    let hub = TestHub::with("channels.coalesce = \"40ms\"").await;
    let generation = Generation::numbered(Format::Text, 50);
    generation.publish(&hub, "c").await;
    let viewer = Viewer::watch(&hub, generation.format, "/v1/channels/c?from=earliest").await;
    viewer.assert_complete(&generation);
    assert!(viewer.seen.len() < 10, "{} events", viewer.seen.len());
}

#[tokio::test]
async fn wrong_windows_are_refused() {
    let hub = TestHub::start().await;
    hub.publish("c", "x").await;
    let wrong = ["0ms", "500us", "11s", "1m", "soon", "40", "-5ms", "Adaptive", "on"];
    for value in wrong {
        for to in [
            format!("/v1/channels/c?coalesce={value}"),
            format!("/v1/events?channel=c&coalesce={value}"),
        ] {
            let reply = hub.get(&to, &[("Connection", "close")]).await;
            let problem = assert_problem(&reply, 400, "invalid_parameter", "coalesce");
            assert_eq!(problem["parameter"], "coalesce", "{to}");
        }
        let body = json!({"coalesce":value}).to_string();
        let reply = hub.put("new", body).await;
        assert_problem(&reply, 400, "invalid_parameter", "");
    }
    let reply = hub.put("new", "{\"coalesce\":40}").await;
    assert_problem(&reply, 400, "invalid_parameter", "");
    assert_eq!(hub.head("new").await.status(), 404);
    for right in ["1ms", "10s", "adaptive", "off"] {
        let client = hub.stream(&format!("/v1/channels/c?coalesce={right}"), &[]).await;
        assert_eq!(client.head.status, 200, "{right}");
    }
}

#[tokio::test]
async fn adaptive_merges_nothing_while_the_reader_keeps_up() {
    let hub = TestHub::start().await;
    let generation = Generation::numbered(Format::OpenaiChat, 40);
    let mut client = hub.stream("/v1/channels/c?coalesce=adaptive", &[]).await.settled().await;
    let mut producer = generation.producer(&hub, "c").await;
    let mut viewer = Viewer::of(generation.format);
    for (n, chunk) in generation.chunks.iter().enumerate() {
        let begun = Instant::now();
        producer.send(generation.format.wire(chunk)).await;
        viewer.until(&mut client, |viewer| viewer.seen.len() == n + 1).await;
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!(viewer.seen[n].data, chunk.data, "each its own");
    }
    producer.finish().await.ok();
    viewer.follow(&mut client).await;
    viewer.assert_complete(&generation);
}

/// A subscriber at the tail with small buffers, which does not read until asked.
async fn narrow(hub: &TestHub, to: &str) -> SseClient {
    let mut wire = Wire::connect_narrow(hub.addr()).await;
    wire.send_head("GET", to, &[]).await;
    SseClient::read(wire).await.settled().await
}

#[tokio::test]
async fn adaptive_merges_what_piled_up_while_the_reader_did_not_read() {
    let hub = TestHub::with(WIDE).await;
    // Some MB, more than the kernels buffer, also where the hub does not set its send buffer.
    let tokens = (0..5000).map(|n| format!(" {n}{}", "x".repeat(2000)));
    let generation = Generation::of(Format::OpenaiChat, tokens);
    let mut slow = narrow(&hub, "/v1/channels/c?coalesce=adaptive").await;
    let mut producer = generation.producer(&hub, "c").await;
    let after = generation.mark();
    for from in (0..after).step_by(100) {
        producer.send(generation.wire(from..after.min(from + 100))).await;
    }
    let all = after.to_string();
    let mut last = None;
    eventually("all of it to be in the log", async || {
        let head = hub.head("c").await;
        last = head.header("fanfare-tail").map(str::to_owned);
        head.header("fanfare-events") == Some(&all)
    })
    .await;
    let mut viewer = Viewer::of(generation.format);
    viewer.until(&mut slow, |v| v.seen.last().and_then(|e| e.id.as_ref()) == last.as_ref()).await;
    let count = viewer.seen.len();
    assert!(viewer.content == generation.content, "the same text");
    assert_ascending(viewer.seen.iter().map(|event| event.id()));
    assert!(count < after * 3 / 4, "fewer events: {count} of {after}");
    let longest = viewer.seen.iter().map(|event| event.data.len()).max().unwrap();
    assert!(longest > 8 * 1024, "larger events: {longest}");
    // Once the reader has caught up, events are no longer merged.
    for n in 0..10 {
        let id = hub.publish("c", &generation.chunks[n + 1].data).await;
        let event = slow.next().await;
        assert_eq!((event.id(), &event.data), (id.as_str(), &generation.chunks[n + 1].data));
    }
    producer.send(generation.wire(after..generation.chunks.len())).await;
    producer.finish().await.ok();
    assert_eq!(slow.next().await.data, "[DONE]");
    slow.next().await.assert_end("complete");
}

#[tokio::test]
async fn a_page_merges_what_it_has() {
    let hub = TestHub::start().await;
    for format in Format::ALL {
        let generation = Generation::numbered(format, 60);
        let channel = format.name();
        generation.publish(&hub, channel).await;
        let ledger = Ledger::read(&hub, format, channel).await;
        let mut viewer = Viewer::of(format);
        let mut query = "from=earliest".to_owned();
        let mut pages = 0;
        while viewer.end.is_none() {
            let page = hub.page(channel, &format!("{query}&coalesce=40ms&limit=25")).await;
            let events = page_events(&page);
            assert_eq!(page["next"], events.last().expect("some").id(), "{page}");
            events.iter().for_each(|event| viewer.see(event));
            query = format!("last_event_id={}", page["next"].as_str().unwrap());
            pages += 1;
        }
        let around = generation.chunks.len() - 60;
        assert_merged(&ledger, &generation, &viewer, around + 1..=around + pages);
        let plain = hub.page(channel, "from=earliest&limit=1000").await;
        assert_eq!(page_events(&plain).len(), generation.chunks.len() + 1, "and not unasked");
    }
}

#[tokio::test]
async fn ndjson_is_merged_as_the_event_stream_is() {
    let hub = TestHub::start().await;
    let generation = Generation::rich(Format::Ollama);
    generation.publish(&hub, "c").await;
    let to = "/v1/channels/c?from=earliest&coalesce=40ms";
    let mut wire = hub.open(to, &[("Accept", "application/x-ndjson")]).await;
    assert_eq!(wire.head().await.status, 200);
    let by_line = lines(&mut wire).await;
    let by_event = hub.stream(to, &[]).await.rest().await;
    assert_eq!(by_line, by_event);
    let mut viewer = Viewer::of(generation.format);
    by_line.iter().for_each(|event| viewer.see(event));
    let ledger = Ledger::read(&hub, generation.format, "c").await;
    assert_merged(&ledger, &generation, &viewer, 4..=generation.chunks.len() - 3);
}

#[tokio::test]
async fn on_many_channels_too_an_end_mark_does_not_wait_for_the_window() {
    let hub = TestHub::start().await;
    let mut client =
        hub.stream("/v1/events?channel=a&channel=b&coalesce=10s", &[]).await.settled().await;
    let mut producer = Publisher::events(&hub, "a").await;
    producer.send("data: one\n\n").await;
    assert_eq!(client.next().await.json()["data"], "one");
    let begun = Instant::now();
    producer.send("data: two\n\ndata: three\n\ndata: [DONE]\n\n").await;
    assert_eq!(client.next().await.json()["data"], "twothree");
    assert_eq!(client.next().await.json()["data"], "[DONE]");
    assert!(begun.elapsed() < Duration::from_secs(5), "the window is ten seconds");
    producer.finish().await.ok();
}

#[tokio::test]
async fn on_many_channels_neighbours_of_one_channel_are_merged() {
    let hub = TestHub::start().await;
    for (channel, tokens) in [("a", 0..20), ("b", 20..40), ("a", 40..60)] {
        let to = format!("/v1/channels/{channel}");
        hub.post(&to, SSE, event_stream(tokens.map(|n| format!("t{n}")))).await.ok();
    }
    let to = "/v1/events?channel=a&channel=b&from=earliest&coalesce=40ms";
    let mut client = hub.stream(to, &[]).await;
    let text =
        |range: std::ops::Range<usize>| -> String { range.map(|n| format!("t{n}")).collect() };
    let mut seen: Vec<(Value, String)> = Vec::new();
    let mut count = 0;
    let mut last = 0;
    while seen.last().is_none_or(|(_, data)| !data.ends_with("t59")) {
        let event = client.next().await;
        count += 1;
        assert!(offset(event.id()) > last, "ids ascend: {event:?}");
        last = offset(event.id());
        let envelope = event.json();
        let data = envelope["data"].as_str().unwrap();
        match seen.last_mut() {
            Some((channel, text)) if *channel == envelope["channel"] => text.push_str(data),
            _ => seen.push((envelope["channel"].clone(), data.to_owned())),
        }
    }
    let expected: Vec<(Value, String)> =
        vec![(json!("a"), text(0..20)), (json!("b"), text(20..40)), (json!("a"), text(40..60))];
    assert_eq!(seen, expected);
    assert!(count <= 9, "{count} events of 60");
}

#[tokio::test]
async fn a_snapshot_and_what_follows_it_may_be_coalesced() {
    let hub = TestHub::start().await;
    let generation = Generation::numbered(Format::Gemini, 60);
    let mut early = hub.subscribe("c").await;
    let mut producer = generation.producer(&hub, "c").await;
    producer.send(generation.wire(0..30)).await;
    early.take(30).await;
    let to = "/v1/channels/c?from=snapshot&coalesce=1s";
    let mut client = hub.stream(to, &[]).await;
    let mut viewer = Viewer::of(generation.format);
    viewer.see(&client.next().await);
    producer.send(generation.wire(30..generation.chunks.len())).await;
    producer.finish().await.ok();
    viewer.follow(&mut client).await;
    viewer.assert_complete(&generation);
    let ledger = Ledger::read(&hub, generation.format, "c").await;
    ledger.assert_snapshot(&viewer);
    ledger.assert_follows(generation.format, viewer.joined.as_deref(), &viewer.seen);
    assert!(viewer.seen.len() < 15, "{} events", viewer.seen.len());
}

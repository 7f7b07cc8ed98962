//! Snapshots: a late viewer gets the text so far in one event, and then live events.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::generation::{
    Content, Format, Generation, Ledger, Viewer, json_event, lines, page_events,
};
use crate::support::{SseClient, TestHub, assert_problem, event_stream, keys, texts, within};

const SSE: &str = "text/event-stream";
const JOIN: &str = "/v1/channels/c?from=snapshot";

/// Asserts that the viewer saw everything, in a snapshot and after it, and nothing twice.
#[track_caller]
fn assert_joined(ledger: &Ledger, generation: &Generation, viewer: &Viewer) {
    viewer.assert_complete(generation);
    let before = viewer.joined.as_deref().map_or(0, |id| ledger.count(id));
    assert_eq!(before + viewer.seen.len(), ledger.len(), "each event, folded in or live");
    if viewer.snapshot.is_some() {
        ledger.assert_snapshot(viewer);
    }
    ledger.assert_follows(generation.format, viewer.joined.as_deref(), &viewer.seen);
}

#[tokio::test]
async fn a_snapshot_has_the_text_so_far_and_the_rest_follows_live() {
    let hub = TestHub::start().await;
    for format in Format::ALL {
        let generation = Generation::rich(format);
        let channel = format.name();
        for cut in 1..generation.mark() {
            let channel = format!("{channel}/{cut}");
            let mut early = hub.subscribe(&channel).await;
            let mut producer = generation.producer(&hub, &channel).await;
            producer.send(generation.wire(0..cut)).await;
            let last = early.take(cut).await.pop().unwrap();
            let to = format!("/v1/channels/{channel}?from=snapshot");
            let mut client = hub.stream(&to, &[]).await;
            let first = client.next().await;
            assert_eq!(first.event.as_deref(), Some("fanfare.snapshot"), "{first:?}");
            assert_eq!(first.id(), last.id(), "the last event that is folded in");
            let snapshot = first.json();
            assert_eq!(snapshot["channel"], channel);
            assert_eq!(snapshot["state"], "open");
            assert_eq!(snapshot["events"], cut);
            let mut viewer = Viewer::of(format);
            viewer.see(&first);
            producer.send(generation.wire(cut..generation.chunks.len())).await;
            assert_eq!(producer.finish().await.ok().json()["state"], "complete");
            viewer.follow(&mut client).await;
            let ledger = Ledger::read(&hub, format, &channel).await;
            assert_joined(&ledger, &generation, &viewer);
        }
    }
}

#[tokio::test]
async fn a_snapshot_names_its_parts_the_model_and_the_usage() {
    let hub = TestHub::start().await;
    for format in Format::ALL {
        let generation = Generation::rich(format);
        generation.publish(&hub, format.name()).await;
        let to = format!("/v1/channels/{}?from=snapshot", format.name());
        let snapshot = hub.stream(&to, &[]).await.next().await.json();
        for member in ["channel", "events", "format", "parts", "state", "text"] {
            assert!(keys(&snapshot).contains(&member), "{member} in {snapshot}");
        }
        assert_eq!(snapshot["text"], generation.content.text);
        assert_eq!(snapshot["incomplete"], Value::Null, "all of it is folded");
        let parts = snapshot["parts"].as_array().unwrap();
        let kinds: Vec<&str> = parts.iter().map(|part| part["type"].as_str().unwrap()).collect();
        let model = match format {
            Format::Text => {
                assert_eq!(kinds, ["text"]);
                continue;
            }
            Format::OpenaiChat => json!("gpt-4.1-mini"),
            Format::OpenaiResponses => json!("gpt-4.1"),
            Format::Anthropic => json!("claude-sonnet-4-5"),
            Format::Gemini => json!("gemini-2.5-flash"),
            Format::Ollama => json!("llama3.2"),
            Format::AiSdk => Value::Null,
        };
        assert_eq!(kinds, ["reasoning", "text", "tool_call"], "{snapshot}");
        assert_eq!(parts[0]["text"], generation.content.reasoning);
        assert_eq!(parts[1]["text"], generation.content.text);
        assert_eq!(parts[2]["name"], "get_weather");
        assert_eq!(parts[2]["arguments"], generation.content.arguments);
        assert_eq!(snapshot["model"], model, "{snapshot}");
        match format {
            Format::OpenaiChat => assert_eq!(snapshot["usage"]["total_tokens"], 19),
            Format::OpenaiResponses => assert_eq!(snapshot["usage"]["total_tokens"], 48),
            Format::Anthropic => assert_eq!(snapshot["usage"]["output_tokens"], 15),
            Format::Gemini => assert_eq!(snapshot["usage"]["promptTokenCount"], 8),
            Format::Ollama => assert_eq!(snapshot["usage"]["eval_count"], 282),
            _ => assert_eq!(snapshot["usage"], Value::Null),
        }
        let id = &parts[2]["id"];
        match format {
            Format::OpenaiChat => assert_eq!(id, "call_DdmO9pD3xa9XTPNJ32zg2hcA"),
            Format::OpenaiResponses => assert!(id == "call_DdmO9pD3" || id == "fc_2", "{id}"),
            Format::Anthropic => assert_eq!(id, "toolu_01T1x1fJ34qAma2tNTrN7Up6"),
            Format::AiSdk => assert_eq!(id, "call_2"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_snapshot_that_leaves_content_out_says_so() {
    let hub = TestHub::start().await;
    let delta = |delta: &str| format!(r#"{{"choices":[{{"index":0,"delta":{delta}}}]}}"#);
    let pieces = r#"{"content":[{"type":"thinking","thinking":[{"type":"text","text":"Clouds"}]},
                     {"type":"text","text":"Rain "}]}"#;
    let pieces = delta(&pieces.replace('\n', " "));
    let image = delta(r#"{"images":[{"type":"image_url","image_url":{"url":"AAAA"}}]}"#);
    let text = delta(r#"{"content":"falls."}"#);
    for (channel, events) in
        [("whole", vec![pieces.clone(), text.clone()]), ("part", vec![pieces, image, text])]
    {
        let to = format!("/v1/channels/{channel}?close=complete");
        hub.post(&to, SSE, event_stream(&events)).await.ok();
        let page = hub.page(channel, "from=snapshot").await;
        let snapshot = json_event(&page["events"][0]).json();
        assert_eq!(snapshot["text"], "Rain falls.");
        assert_eq!(snapshot["parts"][0], json!({"type": "reasoning", "text": "Clouds"}));
        let incomplete = if channel == "part" { json!(true) } else { Value::Null };
        assert_eq!(snapshot["incomplete"], incomplete, "{snapshot}");
    }
}

#[tokio::test]
async fn many_who_join_in_the_middle_all_end_with_the_whole_text() {
    let hub = Arc::new(TestHub::start().await);
    let generation = Generation::numbered(Format::OpenaiChat, 400);
    let watch = |hub: &Arc<TestHub>, to: &str| {
        let hub = Arc::clone(hub);
        let to = to.to_owned();
        tokio::spawn(async move { Viewer::watch(&hub, Format::OpenaiChat, &to).await })
    };
    let mut joiners = Vec::new();
    let mut producer = generation.producer(&hub, "c").await;
    for (n, chunk) in generation.chunks.iter().enumerate() {
        if n % 10 == 0 {
            joiners.push(watch(&hub, JOIN));
        }
        producer.send(generation.format.wire(chunk)).await;
        tokio::time::sleep(Duration::from_millis(1)).await; // the pace of the producer
    }
    producer.finish().await.ok();
    joiners.push(watch(&hub, JOIN));
    let ledger = Ledger::read(&hub, generation.format, "c").await;
    let mut in_the_middle = 0;
    for joiner in joiners {
        let viewer = within("a joiner", joiner).await.unwrap();
        assert_joined(&ledger, &generation, &viewer);
        let live = viewer.seen.len();
        in_the_middle += usize::from(viewer.snapshot.is_some() && live > 0);
    }
    assert!(in_the_middle > 10, "the test met what it is about: {in_the_middle}");
}

#[tokio::test]
async fn ndjson_has_the_snapshot_as_its_first_line() {
    let hub = TestHub::start().await;
    for format in [Format::Anthropic, Format::Ollama] {
        let generation = Generation::rich(format);
        let mut early = hub.subscribe(format.name()).await;
        let mut producer = generation.producer(&hub, format.name()).await;
        producer.send(generation.wire(0..5)).await;
        early.take(5).await;
        let accept = [("Accept", "application/x-ndjson")];
        let to = format!("/v1/channels/{}?from=snapshot", format.name());
        let mut wire = hub.open(&to, &accept).await;
        assert_eq!(wire.head().await.status, 200);
        producer.send(generation.wire(5..generation.chunks.len())).await;
        producer.finish().await.ok();
        let seen = lines(&mut wire).await;
        assert_eq!(seen[0].event.as_deref(), Some("fanfare.snapshot"));
        let mut viewer = Viewer::of(format);
        for event in &seen {
            viewer.see(event);
        }
        let ledger = Ledger::read(&hub, format, format.name()).await;
        assert_joined(&ledger, &generation, &viewer);
    }
}

#[tokio::test]
async fn a_page_begins_with_the_snapshot_and_leads_on_after_it() {
    let hub = TestHub::start().await;
    let generation = Generation::rich(Format::OpenaiResponses);
    let mut early = hub.subscribe("c").await;
    let mut producer = generation.producer(&hub, "c").await;
    producer.send(generation.wire(0..6)).await;
    early.take(6).await;
    let page = hub.page("c", "from=snapshot").await;
    assert_eq!(page["state"], "open");
    let snapshot = json_event(&page["events"][0]);
    assert_eq!(snapshot.event.as_deref(), Some("fanfare.snapshot"), "{page}");
    assert_eq!(page["events"].as_array().unwrap().len(), 1, "{page}");
    assert_eq!(page["next"], snapshot.id());
    producer.send(generation.wire(6..generation.chunks.len())).await;
    producer.finish().await.ok();
    let mut viewer = Viewer::of(generation.format);
    viewer.see(&snapshot);
    let rest = hub.page("c", &format!("last_event_id={}&limit=1000", snapshot.id())).await;
    for event in page_events(&rest) {
        viewer.see(&event);
    }
    let ledger = Ledger::read(&hub, generation.format, "c").await;
    assert_joined(&ledger, &generation, &viewer);
}

#[tokio::test]
async fn an_ended_channel_is_a_snapshot_and_the_end() {
    let hub = TestHub::start().await;
    for format in Format::ALL {
        let generation = Generation::rich(format);
        let channel = format.name();
        let receipt = generation.publish(&hub, channel).await;
        let to = format!("/v1/channels/{channel}?from=snapshot");
        let mut client = hub.stream(&to, &[]).await;
        let seen = client.rest().await;
        client.assert_eof().await;
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert_eq!(seen[0].id(), receipt["last_id"].as_str().unwrap());
        let snapshot = seen[0].json();
        assert_eq!(snapshot["state"], "complete");
        assert_eq!(Content::of_snapshot(&snapshot), generation.content, "{snapshot}");
        seen[1].assert_end("complete");
        assert_eq!(hub.resume(channel, seen[1].id()).await.head.status, 204);
        let page = hub.page(channel, "from=snapshot").await;
        assert_eq!(page_events(&page), seen);
        assert_eq!((&page["state"], &page["next"]), (&json!("complete"), &json!(seen[1].id())));
    }
}

#[tokio::test]
async fn a_snapshot_of_a_channel_that_was_stopped_says_so() {
    let hub = TestHub::start().await;
    hub.publish_all("c", &["once", " upon"]).await;
    hub.close("c", "cancelled").await;
    let seen = hub.stream(JOIN, &[]).await.rest().await;
    let snapshot = seen[0].json();
    assert_eq!((&snapshot["state"], &snapshot["text"]), (&json!("cancelled"), &json!("once upon")));
    seen[1].assert_end("cancelled");
}

#[tokio::test]
async fn plain_text_is_folded_by_concatenation() {
    let hub = TestHub::start().await;
    hub.publish_all("c", &["Grüß", "e\n", " 🎺"]).await;
    let mut client = hub.stream(JOIN, &[]).await;
    let snapshot = client.next().await.json();
    assert_eq!(snapshot["format"], "text");
    assert_eq!(snapshot["text"], "Grüße\n 🎺");
    assert_eq!(snapshot["parts"], json!([{"type":"text","text":"Grüße\n 🎺"}]));
    hub.publish("c", "!").await;
    assert_eq!(client.next().await.data, "!");
}

#[tokio::test]
async fn a_format_that_was_named_is_the_one_that_is_folded() {
    let hub = TestHub::start().await;
    let to = "/v1/channels/c?format=text";
    hub.post(to, SSE, event_stream(["{\"a\":1}", "{\"b\":2}"])).await.ok();
    let snapshot = hub.stream(JOIN, &[]).await.next().await.json();
    assert_eq!(
        (&snapshot["format"], &snapshot["text"]),
        (&json!("text"), &json!("{\"a\":1}{\"b\":2}"))
    );
}

#[tokio::test]
async fn json_of_unknown_shape_is_replayed_as_from_earliest() {
    let hub = TestHub::start().await;
    hub.publish_all("c", &["{\"foo\":1}", "{\"foo\":2}"]).await;
    let mut client = hub.stream(JOIN, &[]).await;
    assert_eq!(texts(&client.take(2).await), ["{\"foo\":1}", "{\"foo\":2}"]);
    hub.publish("c", "{\"foo\":3}").await;
    assert_eq!(client.next().await.data, "{\"foo\":3}");
    let page = hub.page("c", "from=snapshot").await;
    assert_eq!(page_events(&page).len(), 3);
}

#[tokio::test]
async fn a_text_that_is_larger_than_the_channel_may_be_is_replayed_as_from_earliest() {
    let hub = TestHub::with("channels.max_bytes = \"16KiB\"").await;
    let generation =
        Generation::of(Format::Text, (0..64).map(|n| format!("{n} {}", "x".repeat(1000))));
    generation.post(&hub, "c", &generation.truncated()).await.ok();
    let retained = page_events(&hub.page("c", "from=earliest").await);
    assert!(retained.len() < 64, "retention has done its work");
    let mut client = hub.stream(JOIN, &[]).await;
    assert_eq!(client.take(retained.len()).await, retained);
    hub.publish("c", "live").await;
    assert_eq!(client.next().await.data, "live");
}

#[tokio::test]
async fn a_channel_without_events_has_no_snapshot_and_is_live_from_the_tail() {
    let hub = TestHub::start().await;
    let mut client = hub.stream(JOIN, &[]).await;
    client.raw_until("the first bytes", |raw| raw.starts_with("retry: 3000\n")).await;
    let page = hub.page("c", "from=snapshot").await;
    assert_eq!(page["events"], json!([]));
    let id = hub.publish("c", "first").await;
    let first = client.next().await;
    assert_eq!((first.event.as_deref(), first.data.as_str()), (None, "first"));
    assert_eq!(first.id(), id);
    let put = hub.put("created", "").await;
    assert_eq!(put.status(), 201);
    let mut client = hub.stream("/v1/channels/created?from=snapshot", &[]).await;
    client.raw_until("the first bytes", |raw| raw.starts_with("retry: 3000\n")).await;
    hub.publish("created", "first").await;
    assert_eq!(client.next().await.data, "first");
}

#[tokio::test]
async fn many_channels_at_once_have_no_snapshot() {
    let hub = TestHub::start().await;
    hub.publish("a", "x").await;
    for query in ["channel=a&from=snapshot", "channel=a&channel=b&from=snapshot"] {
        let reply = hub.get(&format!("/v1/events?{query}"), &[("Connection", "close")]).await;
        assert_problem(&reply, 400, "invalid_parameter", "snapshot");
    }
}

#[tokio::test]
async fn a_reconnect_after_a_snapshot_resumes_as_always() {
    let hub = TestHub::start().await;
    let generation = Generation::numbered(Format::AiSdk, 30);
    let mut early = hub.subscribe("c").await;
    let mut producer = generation.producer(&hub, "c").await;
    producer.send(generation.wire(0..10)).await;
    early.take(10).await;
    let mut viewer = Viewer::of(generation.format);
    viewer.see(&hub.stream(JOIN, &[]).await.next().await);
    producer.send(generation.wire(10..20)).await;
    early.take(10).await;
    let id = [("Last-Event-ID", viewer.joined.as_deref().unwrap())];
    let mut client = hub.stream(JOIN, &id).await;
    producer.send(generation.wire(20..generation.chunks.len())).await;
    producer.finish().await.ok();
    viewer.follow(&mut client).await;
    let ledger = Ledger::read(&hub, generation.format, "c").await;
    assert_joined(&ledger, &generation, &viewer);
}

#[tokio::test]
async fn a_snapshot_still_has_all_the_text_when_retention_has_taken_the_beginning() {
    let hub = TestHub::with("channels.max_events = 10").await;
    for format in Format::ALL {
        let generation = Generation::numbered(format, 200);
        let channel = format.name();
        let to = format!("/v1/channels/{channel}?from=snapshot");
        let mut watcher = hub.subscribe(channel).await;
        let mut early = Viewer::of(format);
        let mut producer = generation.producer(&hub, channel).await;
        let mut joined: Option<(Viewer, SseClient)> = None;
        // In small steps, so that no event is evicted before a viewer has seen it.
        for from in (0..generation.chunks.len()).step_by(5) {
            if from == 120 {
                let mut client = hub.stream(&to, &[]).await;
                let mut viewer = Viewer::of(format);
                viewer.see(&client.next().await);
                joined = Some((viewer, client));
            }
            let until = generation.chunks.len().min(from + 5);
            producer.send(generation.wire(from..until)).await;
            early.until(&mut watcher, |viewer| viewer.seen.len() == until).await;
            if let Some((viewer, client)) = &mut joined {
                viewer.until(client, |viewer| viewer.seen.len() == until - 120).await;
            }
        }
        producer.finish().await.ok();
        early.follow(&mut watcher).await;
        let ledger = Ledger::of(format, &early.seen);
        let retained = page_events(&hub.page(channel, "from=earliest").await);
        assert!(retained.len() <= 11, "the beginning is gone: {}", retained.len());
        let (mut viewer, mut client) = joined.expect("one who joined");
        viewer.follow(&mut client).await;
        assert_joined(&ledger, &generation, &viewer);
        assert_eq!(viewer.snapshot.as_ref().expect("a snapshot")["events"], 120);
        let last = Viewer::watch(&hub, format, &to).await;
        assert_joined(&ledger, &generation, &last);
        assert!(last.snapshot.is_some() && last.seen.is_empty());
    }
}

#[tokio::test]
async fn a_deleted_channel_leaves_nothing_in_the_snapshot_of_the_next() {
    let hub = TestHub::start().await;
    Generation::rich(Format::OpenaiChat).publish(&hub, "c").await;
    let deleted = hub.request("DELETE", "/v1/channels/c", &[], "").await;
    assert_eq!(deleted.status(), 204);
    let generation = Generation::of(Format::Anthropic, ["anew"]);
    generation.publish(&hub, "c").await;
    let viewer = Viewer::watch(&hub, Format::Anthropic, JOIN).await;
    viewer.assert_complete(&generation);
    let snapshot = viewer.snapshot.unwrap();
    assert_eq!(snapshot["events"], generation.chunks.len());
}

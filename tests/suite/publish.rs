//! Publishing: the three kinds of streamed body, accurate receipts, and safe retries.

use serde_json::{Value, json};

use crate::support::{
    Publisher, TestHub, Wire, assert_ascending, assert_problem, event_stream, eventually, keys,
    offset, page_ids, page_texts, texts, within,
};

const SSE: &str = "text/event-stream";
const NDJSON: &str = "application/x-ndjson";

/// Returns `(event, data)` of all retained events of the channel.
async fn retained(hub: &TestHub, channel: &str) -> Vec<(Value, String)> {
    let page = hub.page(channel, "from=earliest&limit=1000").await;
    let events = page["events"].as_array().expect("events").iter();
    events.map(|e| (e["event"].clone(), e["data"].as_str().unwrap().to_owned())).collect()
}

/// Returns the data of all retained events of the channel.
async fn retained_texts(hub: &TestHub, channel: &str) -> Vec<String> {
    retained(hub, channel).await.into_iter().map(|(_, data)| data).collect()
}

#[tokio::test]
async fn a_plain_body_is_the_data_of_one_event_and_the_receipt_says_so() {
    let hub = TestHub::start().await;
    let reply = hub.post("/v1/channels/chat/42", "text/plain", "hello").await.ok();
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let receipt = reply.json();
    let members = ["channel", "events", "first_id", "last_id", "state", "subscribers"];
    assert_eq!(keys(&receipt), members);
    assert_eq!(receipt["channel"], "chat/42");
    assert_eq!(receipt["events"], 1);
    assert_eq!(receipt["subscribers"], 0);
    assert_eq!(receipt["state"], "open");
    assert_eq!(receipt["first_id"], receipt["last_id"]);
    let page = hub.page("chat/42", "from=earliest").await;
    assert_eq!(page["events"][0]["id"], receipt["last_id"]);
    assert_eq!(page["events"][0]["data"], "hello");
    assert_eq!(page["events"][0]["event"], Value::Null);
}

#[tokio::test]
async fn any_other_content_type_or_none_is_one_event_unchanged() {
    let hub = TestHub::start().await;
    let body = "data: not parsed\n\n{\"a\":1}";
    for kind in ["application/x-www-form-urlencoded", "application/json", "image/png", "nonsense"] {
        assert_eq!(hub.post("/v1/channels/c", kind, body).await.ok().json()["events"], 1, "{kind}");
    }
    hub.request("POST", "/v1/channels/c", &[], body).await.ok();
    assert_eq!(retained_texts(&hub, "c").await, [body; 5]);
}

#[tokio::test]
async fn the_event_parameter_sets_the_type() {
    let hub = TestHub::start().await;
    hub.post("/v1/channels/c?event=token", "text/plain", "a").await.ok();
    hub.post("/v1/channels/c?event=two%20words", "text/plain", "b").await.ok();
    let all = retained(&hub, "c").await;
    assert_eq!(all, [(json!("token"), "a".into()), (json!("two words"), "b".into())]);
}

#[tokio::test]
async fn an_event_stream_body_is_published_event_by_event_without_its_own_ids() {
    let hub = TestHub::start().await;
    let mut watcher = hub.subscribe("c").await;
    let body = ": a comment\nid: mine-1\nretry: 5\nevent: token\ndata: one\n\n\
                data:two\ndata:  lines\n\n: ping\n\nevent: nothing\n\nid: 7\n\ndata\n\n\
                unknown: field\ndata: last\n\n";
    let receipt = hub.post("/v1/channels/c", SSE, body).await.ok().json();
    assert_eq!(receipt["events"], 4);
    let seen = watcher.take(4).await;
    assert_eq!(texts(&seen), ["one", "two\n lines", "", "last"]);
    assert_eq!(seen[0].event.as_deref(), Some("token"));
    assert!(seen[1..].iter().all(|event| event.event.is_none()));
    assert_eq!(seen[0].id(), receipt["first_id"].as_str().unwrap());
    assert_eq!(seen[3].id(), receipt["last_id"].as_str().unwrap());
    assert_eq!(watcher.retry(), Some(3000), "a producer's retry is not forwarded");
    assert_ascending(seen.iter().map(|event| event.id()));
}

#[tokio::test]
async fn the_content_type_may_have_parameters_and_capitals() {
    let hub = TestHub::start().await;
    for kind in ["text/event-stream; charset=utf-8", "Text/Event-Stream"] {
        assert_eq!(hub.post("/v1/channels/c", kind, "data: x\n\n").await.ok().json()["events"], 1);
    }
    let kind = "application/x-ndjson;charset=UTF-8";
    assert_eq!(hub.post("/v1/channels/c", kind, "1\n2\n").await.ok().json()["events"], 2);
    assert_eq!(retained_texts(&hub, "c").await, ["x", "x", "1", "2"]);
}

#[tokio::test]
async fn an_ndjson_body_is_one_event_per_line() {
    let hub = TestHub::start().await;
    let body = "{\"a\": 1}\r\n\n[\"é\"]\n\"text\"\n42";
    let receipt = hub.post("/v1/channels/c", NDJSON, body).await.ok().json();
    assert_eq!(receipt["events"], 4);
    assert_eq!(retained_texts(&hub, "c").await, ["{\"a\": 1}", "[\"é\"]", "\"text\"", "42"]);
}

#[tokio::test]
async fn the_first_token_is_seen_before_the_second_is_sent() {
    let hub = TestHub::start().await;
    for (kind, part) in [(SSE, "data: <>\n\n"), (NDJSON, "\"<>\"\n")] {
        let mut watcher = hub.subscribe("live").await;
        let mut producer = Publisher::begin(&hub, "/v1/channels/live", kind, &[]).await;
        for token in ["one", "two", "three"] {
            producer.send(part.replace("<>", token)).await;
            let seen = watcher.next().await;
            assert_eq!(seen.data.trim_matches('"'), token, "{kind}");
        }
        assert_eq!(producer.finish().await.ok().json()["events"], 3);
    }
}

#[tokio::test]
async fn line_ends_of_every_kind_and_a_byte_order_mark_are_understood() {
    let hub = TestHub::start().await;
    for end in ["\n", "\r", "\r\n"] {
        let body = format!("\u{feff}data: a{end}data: b{end}{end}event: t{end}data: c{end}{end}");
        let receipt = hub.post("/v1/channels/c", SSE, &body).await.ok().json();
        assert_eq!(receipt["events"], 2, "{end:?}");
    }
    let pair = [(Value::Null, "a\nb".to_owned()), (json!("t"), "c".to_owned())];
    assert_eq!(retained(&hub, "c").await, [pair.clone(), pair.clone(), pair].concat());
}

#[tokio::test]
async fn a_body_may_be_cut_anywhere_even_within_a_character_or_a_line_end() {
    let hub = TestHub::start().await;
    let mut watcher = hub.subscribe("c").await;
    let body = "\u{feff}event: 信号\r\ndata: grüße 🎺\r\ndata: naïve\r\n\r\ndata: zwei\r\n\r\n";
    let mut producer = Publisher::events(&hub, "c").await;
    for byte in body.as_bytes() {
        producer.send([*byte]).await;
    }
    assert_eq!(producer.finish().await.ok().json()["events"], 2);
    let seen = watcher.take(2).await;
    assert_eq!(seen[0].event.as_deref(), Some("信号"));
    assert_eq!(texts(&seen), ["grüße 🎺\nnaïve", "zwei"]);
    let mut lines = Publisher::begin(&hub, "/v1/channels/c", NDJSON, &[]).await;
    for byte in "\"🎺\"\r\n\"ü\"\r\n".as_bytes() {
        lines.send([*byte]).await;
    }
    assert_eq!(lines.finish().await.ok().json()["events"], 2);
    assert_eq!(texts(&watcher.take(2).await), ["\"🎺\"", "\"ü\""]);
}

#[tokio::test]
async fn an_event_is_visible_at_its_blank_line_even_when_that_is_a_lone_cr() {
    let hub = TestHub::start().await;
    let mut watcher = hub.subscribe("c").await;
    let mut producer = Publisher::events(&hub, "c").await;
    producer.send("data: a\r\r").await;
    assert_eq!(watcher.next().await.data, "a");
    producer.send("data: b\r\n\r").await;
    assert_eq!(watcher.next().await.data, "b");
    producer.send("\ndata: c\n\n").await;
    assert_eq!(watcher.next().await.data, "c");
    assert_eq!(producer.finish().await.ok().json()["events"], 3);
}

#[tokio::test]
async fn every_line_break_within_plain_data_reaches_the_subscriber_as_a_newline() {
    let hub = TestHub::start().await;
    let mut watcher = hub.subscribe("c").await;
    hub.publish("c", "a\nb\r\nc\rd\n\ne").await;
    hub.publish("c", "ends\n").await;
    hub.publish("c", " leading and trailing ").await;
    let seen = watcher.take(3).await;
    assert_eq!(texts(&seen), ["a\nb\nc\nd\n\ne", "ends\n", " leading and trailing "]);
    let page = hub.page("c", "from=earliest").await;
    assert_eq!(page_texts(&page), texts(&seen), "the page and the stream agree");
}

#[tokio::test]
async fn data_that_looks_like_fields_stays_data() {
    let hub = TestHub::start().await;
    let mut watcher = hub.subscribe("c").await;
    let tricky = "id: 1\nevent: fanfare.end\ndata: x\n\nretry: 1\n: comment\n\u{0}\u{feff}";
    hub.publish("c", tricky).await;
    let seen = watcher.next().await;
    assert_eq!((seen.event.as_deref(), seen.data.as_str()), (None, tricky));
}

#[tokio::test]
async fn an_event_of_the_largest_size_passes_whole() {
    let hub = TestHub::start().await;
    let mut watcher = hub.subscribe("c").await;
    let large = "é".repeat(512 * 1024);
    hub.publish("c", &large).await;
    hub.post("/v1/channels/c", SSE, event_stream([&large])).await.ok();
    for seen in watcher.take(2).await {
        assert!(seen.data == large, "1 MiB, unchanged; got {} bytes", seen.data.len());
    }
}

#[tokio::test]
async fn a_receipt_counts_the_subscribers() {
    let hub = TestHub::start().await;
    let _watchers = [hub.subscribe("c").await, hub.subscribe("c").await];
    let _elsewhere = hub.subscribe("d").await;
    let receipt = hub.post("/v1/channels/c", "text/plain", "x").await.ok().json();
    assert_eq!(receipt["subscribers"], 2);
}

#[tokio::test]
async fn a_body_without_events_publishes_nothing() {
    let hub = TestHub::start().await;
    let receipt = hub.post("/v1/channels/c", SSE, ": only a comment\n\n").await.ok().json();
    assert_eq!(receipt["events"], 0);
    assert_eq!(receipt["first_id"], Value::Null);
    assert_eq!(receipt["last_id"], Value::Null);
    assert_eq!(receipt["state"], "open");
    assert_eq!(retained_texts(&hub, "c").await, [""; 0]);
}

#[tokio::test]
async fn a_name_is_percent_decoded() {
    let hub = TestHub::start().await;
    let receipt = hub.post("/v1/channels/a%20b/%F0%9F%8E%BA", "text/plain", "x").await.ok().json();
    assert_eq!(receipt["channel"], "a b/🎺");
    assert_eq!(retained_texts(&hub, "a%20b/%f0%9f%8e%ba").await, ["x"]);
    let most = "n".repeat(255);
    assert_eq!(hub.post(&format!("/v1/channels/{most}"), "text/plain", "x").await.status(), 200);
}

#[tokio::test]
async fn offsets_grow_over_the_whole_hub() {
    let hub = TestHub::start().await;
    let mut ids = Vec::new();
    for n in 0..30 {
        ids.push(hub.publish(&format!("c/{}", n % 3), "x").await);
    }
    assert_ascending(ids.iter().map(String::as_str));
    let epochs: std::collections::HashSet<_> =
        ids.iter().map(|id| id.rsplit_once('-').unwrap().0).collect();
    assert_eq!(epochs.len(), 1);
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let hub = TestHub::start().await;
    let mut wire = Wire::connect(hub.addr()).await;
    let headers = [("Content-Length", "5"), ("Expect", "100-continue")];
    wire.send_head("POST", "/v1/channels/c", &headers).await;
    assert_eq!(wire.head().await.status, 100);
    wire.send("hello").await;
    assert_eq!(wire.response().await.ok().json()["events"], 1);
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another() {
    let hub = TestHub::start().await;
    let mut wire = Wire::connect(hub.addr()).await;
    for n in 1..=3 {
        wire.send_head("POST", "/v1/channels/c", &[("Content-Length", "1")]).await;
        wire.send(n.to_string()).await;
        wire.response().await.ok();
    }
    assert_eq!(retained_texts(&hub, "c").await, ["1", "2", "3"]);
}

#[tokio::test]
async fn a_body_that_breaks_off_keeps_what_was_published_and_leaves_the_channel_open() {
    let hub = TestHub::start().await;
    let mut watcher = hub.subscribe("c").await;
    let mut producer = Publisher::begin(&hub, "/v1/channels/c?close=complete", SSE, &[]).await;
    producer.send("data: one\n\ndata: two\n\ndata: half").await;
    watcher.take(2).await;
    producer.break_off();
    hub.publish("c", "still open").await;
    assert_eq!(watcher.next().await.data, "still open");
    assert_eq!(hub.head("c").await.header("fanfare-state"), Some("open"));
    assert_eq!(retained_texts(&hub, "c").await, ["one", "two", "still open"]);
}

#[tokio::test]
async fn publishing_many_channels_takes_one_request() {
    let hub = TestHub::start().await;
    let mut watcher = hub.subscribe("b").await;
    let body = "{\"channel\":\"a\",\"event\":\"t\",\"data\":\"1\"}\n\
                {\"channel\":\"b\",\"data\":\"two\\nlines\"}\n\
                {\"channel\":\"a\",\"event\":null,\"data\":\"3\"}\n";
    let receipt = hub.post("/v1/publish", NDJSON, body).await.ok().json();
    assert_eq!(keys(&receipt), ["channels", "events", "first_id", "last_id", "subscribers"]);
    assert_eq!((&receipt["events"], &receipt["channels"]), (&json!(3), &json!(2)));
    assert_eq!(receipt["subscribers"], 1);
    let a = hub.page("a", "from=earliest").await;
    assert_eq!(page_texts(&a), ["1", "3"]);
    assert_eq!(a["events"][0]["event"], "t");
    assert_eq!(a["events"][0]["id"], receipt["first_id"]);
    assert_eq!(a["events"][1]["id"], receipt["last_id"]);
    let b = watcher.next().await;
    assert_eq!(b.data, "two\nlines");
    assert!(offset(&page_ids(&a)[0]) < offset(b.id()) && offset(b.id()) < offset(&page_ids(&a)[1]));
}

#[tokio::test]
async fn publishing_many_channels_happens_while_the_lines_arrive() {
    let hub = TestHub::start().await;
    let mut a = hub.subscribe("a").await;
    let mut b = hub.subscribe("b").await;
    let mut producer = Publisher::begin(&hub, "/v1/publish", NDJSON, &[]).await;
    producer.send("{\"channel\":\"a\",\"data\":\"1\"}\n{\"channel\":\"b\",").await;
    assert_eq!(a.next().await.data, "1");
    producer.send("\"data\":\"2\"}\n").await;
    assert_eq!(b.next().await.data, "2");
    assert_eq!(producer.finish().await.ok().json()["events"], 2);
}

#[tokio::test]
async fn a_bad_line_for_many_channels_keeps_the_lines_before_it() {
    let hub = TestHub::start().await;
    for (line, code) in [
        ("{\"channel\":\"a//b\",\"data\":\"x\"}", "invalid_channel_name"),
        ("{\"channel\":\"a\",\"event\":\"fanfare.gap\",\"data\":\"x\"}", "invalid_event"),
        ("{\"channel\":\"a\"", "invalid_event"),
        ("{\"data\":\"no channel\"}", "invalid_event"),
        ("{\"channel\":\"a\",\"data\":\"half a pair: \\ud800\"}", "invalid_event"),
    ] {
        let body = format!("{{\"channel\":\"kept\",\"data\":\"first\"}}\n{line}\n");
        let reply = hub.post("/v1/publish", NDJSON, body).await;
        let problem = assert_problem(&reply, 400, code, "");
        assert_eq!((&problem["line"], &problem["events"]), (&json!(2), &json!(1)), "{problem}");
    }
    assert_eq!(retained_texts(&hub, "kept").await, ["first"; 5]);
}

#[tokio::test]
async fn a_retry_with_the_same_key_gets_the_same_receipt_and_publishes_nothing_twice() {
    let hub = TestHub::start().await;
    let key = [("Idempotency-Key", "k-1"), ("Content-Type", SSE)];
    let body = "data: a\n\ndata: b\n\n";
    let first = hub.request("POST", "/v1/channels/c", &key, body).await.ok();
    assert_eq!(first.header("idempotency-replayed"), None);
    let again = hub.request("POST", "/v1/channels/c", &key, body).await.ok();
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.json(), again.json());
    assert_eq!(retained_texts(&hub, "c").await, ["a", "b"]);
    let other = [("Idempotency-Key", "k-2"), ("Content-Type", SSE)];
    let other = hub.request("POST", "/v1/channels/c", &other, body).await.ok();
    assert_eq!(other.header("idempotency-replayed"), None);
    assert_eq!(retained_texts(&hub, "c").await, ["a", "b", "a", "b"]);
}

#[tokio::test]
async fn a_key_that_closed_the_channel_still_replays_its_receipt() {
    let hub = TestHub::start().await;
    let key = [("Idempotency-Key", "closing")];
    let to = "/v1/channels/c?close=complete";
    let first = hub.request("POST", to, &key, "bye").await.ok();
    let again = hub.request("POST", to, &key, "bye").await.ok();
    assert_eq!(first.json()["state"], "complete");
    assert_eq!(first.json(), again.json());
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
}

#[tokio::test]
async fn a_key_belongs_to_its_channel() {
    let hub = TestHub::start().await;
    let key = [("Idempotency-Key", "1")];
    hub.request("POST", "/v1/channels/a", &key, "for a").await.ok();
    let b = hub.request("POST", "/v1/channels/b", &key, "for b").await.ok();
    assert_eq!(b.json()["channel"], "b", "never the receipt of another channel");
    assert_eq!(retained_texts(&hub, "b").await, ["for b"]);
}

#[tokio::test]
async fn a_retry_while_the_first_request_runs_is_asked_to_wait() {
    let hub = TestHub::start().await;
    let mut watcher = hub.subscribe("c").await;
    let key = [("Idempotency-Key", "slow")];
    let mut first = Publisher::begin(&hub, "/v1/channels/c", SSE, &key).await;
    first.send("data: a\n\n").await;
    watcher.next().await;
    let both = [("Idempotency-Key", "slow"), ("Content-Type", SSE)];
    let second = hub.request("POST", "/v1/channels/c", &both, "data: a\n\n").await;
    let problem = assert_problem(&second, 409, "publish_in_progress", "");
    assert_eq!(problem["retryable"], true);
    first.send("data: b\n\n").await;
    let receipt = first.finish().await.ok().json();
    assert_eq!(receipt["events"], 2);
    let third = hub.request("POST", "/v1/channels/c", &both, "data: a\n\n").await.ok();
    assert_eq!(third.json(), receipt);
    assert_eq!(retained_texts(&hub, "c").await, ["a", "b"]);
}

#[tokio::test]
async fn a_retry_of_a_request_that_broke_off_continues_where_it_stopped() {
    let hub = TestHub::start().await;
    let mut watcher = hub.subscribe("c").await;
    let key = [("Idempotency-Key", "broken"), ("Content-Type", SSE)];
    let mut first = Publisher::begin(&hub, "/v1/channels/c", SSE, &key[..1]).await;
    first.send("data: 1\n\ndata: 2\n\nda").await;
    watcher.take(2).await;
    first.break_off();
    let body = event_stream(1..=4);
    let mut retried = None;
    eventually("the hub to notice that the first request is gone", async || {
        let reply = hub.request("POST", "/v1/channels/c", &key, &body).await;
        let busy = reply.status() == 409;
        retried = Some(reply);
        !busy
    })
    .await;
    let receipt = retried.expect("a reply").ok().json();
    assert_eq!(texts(&watcher.take(2).await), ["3", "4"]);
    let page = hub.page("c", "from=earliest").await;
    assert_eq!(page_texts(&page), ["1", "2", "3", "4"]);
    assert_eq!(receipt["last_id"], page["events"][3]["id"]);
}

#[tokio::test]
async fn a_retry_of_a_body_that_was_refused_half_way_continues_after_what_was_kept() {
    let hub = TestHub::start().await;
    let key = [("Idempotency-Key", "fixed"), ("Content-Type", NDJSON)];
    let bad = hub.request("POST", "/v1/channels/c", &key, "1\n2\noops\n").await;
    assert_problem(&bad, 400, "invalid_event", "");
    let good = hub.request("POST", "/v1/channels/c", &key, "1\n2\n3\n").await.ok();
    assert_eq!(retained_texts(&hub, "c").await, ["1", "2", "3"]);
    let again = hub.request("POST", "/v1/channels/c", &key, "1\n2\n3\n").await.ok();
    assert_eq!(good.json(), again.json());
    assert_eq!(retained_texts(&hub, "c").await, ["1", "2", "3"]);
}

#[tokio::test]
async fn a_key_covers_many_channels_too() {
    let hub = TestHub::start().await;
    let key = [("Idempotency-Key", "many"), ("Content-Type", NDJSON)];
    let body = "{\"channel\":\"a\",\"data\":\"1\"}\n{\"channel\":\"b\",\"data\":\"2\"}\n";
    let first = hub.request("POST", "/v1/publish", &key, body).await.ok();
    let again = hub.request("POST", "/v1/publish", &key, body).await.ok();
    assert_eq!(first.json(), again.json());
    assert_eq!(retained_texts(&hub, "a").await, ["1"]);
    assert_eq!(retained_texts(&hub, "b").await, ["2"]);
}

#[tokio::test]
async fn a_key_is_forgotten_after_its_window() {
    let hub = TestHub::with("publish.idempotency_window = \"200ms\"").await;
    let key = [("Idempotency-Key", "k")];
    hub.request("POST", "/v1/channels/c", &key, "x").await.ok();
    eventually("the key to be forgotten", async || {
        let reply = hub.request("POST", "/v1/channels/c", &key, "x").await.ok();
        reply.header("idempotency-replayed").is_none()
    })
    .await;
    assert_eq!(retained_texts(&hub, "c").await, ["x", "x"]);
}

#[tokio::test]
async fn a_long_stream_arrives_whole_and_in_order() {
    // A reader on a busy machine may fall behind an unthrottled publisher.
    let bounds = "channels.max_events = 100000\nsubscribers.max_lag_events = 100000";
    let hub = TestHub::with(bounds).await;
    let mut watcher = hub.subscribe("c").await;
    let body = event_stream((0..20_000).map(|n| format!("token {n}")));
    let sent = tokio::spawn({
        let mut producer = Publisher::events(&hub, "c").await;
        async move {
            for part in body.as_bytes().chunks(10_007) {
                producer.send(part).await;
            }
            producer.finish().await
        }
    });
    let seen = watcher.take(20_000).await;
    for (n, event) in seen.iter().enumerate() {
        assert_eq!(event.data, format!("token {n}"));
    }
    assert_ascending(seen.iter().map(|event| event.id()));
    let receipt = within("the receipt", sent).await.unwrap().ok().json();
    assert_eq!(receipt["events"], 20_000);
    assert_eq!(receipt["last_id"], seen.last().unwrap().id());
}

#[tokio::test]
async fn what_was_published_is_counted() {
    let hub = TestHub::start().await;
    hub.publish_all("c", &["four", "four"]).await;
    assert_eq!(hub.metric("fanfare_events_published_total").await, 2.0);
    assert!(hub.metric("fanfare_published_bytes_total").await >= 8.0);
    assert_eq!(hub.metric("fanfare_publishes_total").await, 2.0);
}

/// Inline delivery while subscribers attach and detach must not deadlock.
#[tokio::test]
async fn publishers_and_those_who_come_and_go_do_not_lock_each_other_out() {
    let hub = std::sync::Arc::new(TestHub::start().await);
    let mut steady = hub.subscribe("c").await;
    let coming: Vec<_> = (0..4)
        .map(|_| {
            let hub = hub.clone();
            tokio::spawn(async move {
                for _ in 0..100 {
                    drop(hub.subscribe("c").await);
                }
            })
        })
        .collect();
    let publishing: Vec<_> = (0..4)
        .map(|_| {
            let hub = hub.clone();
            tokio::spawn(async move {
                let mut producer = Publisher::events(&hub, "c").await;
                for n in 0..500 {
                    producer.send(format!("data: {n}\n\n")).await;
                }
                producer.finish().await.ok()
            })
        })
        .collect();
    for task in coming {
        within("those who come and go", task).await.unwrap();
    }
    for task in publishing {
        within("a publisher", task).await.unwrap();
    }
    assert_eq!(steady.take(2000).await.len(), 2000);
}

#[tokio::test]
async fn ndjson_has_several_names_and_may_begin_with_a_byte_order_mark() {
    let hub = TestHub::start().await;
    for (n, kind) in [
        "application/x-ndjson",
        "application/ndjson",
        "application/ndjson; charset=utf-8",
        "Application/NDJSON;charset=UTF-8",
        "application/jsonl",
        "application/x-jsonl",
        "application/jsonlines",
        "application/x-jsonlines",
    ]
    .into_iter()
    .enumerate()
    {
        let to = format!("/v1/channels/c/{n}");
        let body = "\u{feff}{\"a\":1}\r\n\n{\"a\":2}\n";
        let receipt = hub.post(&format!("{to}?close=complete"), kind, body).await.ok();
        assert_eq!(receipt.json()["events"], 2, "{kind}");
        let accept = kind.split(';').next().unwrap();
        let page = hub.get(&format!("{to}?from=earliest"), &[("Accept", kind)]).await.ok();
        let given = page.header("content-type").unwrap().to_owned();
        assert_eq!(given, accept.to_ascii_lowercase());
        assert!(page.text().starts_with("{\"id\":"), "{}", page.text());
        assert_eq!(page_texts(&hub.page(&format!("c/{n}"), "from=earliest").await)[0], "{\"a\":1}");
    }
    // A byte order mark is skipped only there: in the middle it is no white space.
    let reply = hub.post("/v1/channels/d", "application/jsonl", "1\n\u{feff}2\n").await;
    assert_problem(&reply, 400, "invalid_event", "line 2");
    let lines = "\u{feff}{\"channel\":\"e\",\"data\":\"x\"}\n";
    assert_eq!(hub.post("/v1/publish", "application/jsonl", lines).await.ok().json()["events"], 1);
}

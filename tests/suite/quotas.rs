//! Quotas: the share of one principal, which does not reduce that of others.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::keys::{Client, Keys};
use crate::support::{
    Publisher, Response, TestHub, assert_problem, event_stream, eventually, page_texts,
};

const SSE: &str = "text/event-stream";
const NDJSON: &str = "application/x-ndjson";
const JSON: &str = "application/json";

const EVERYTHING: &str = "{ publish = true, subscribe = true, signal = true, admin = true }";

fn two() -> Keys {
    Keys::new(&[("alice", EVERYTHING), ("bob", EVERYTHING)])
}

/// Repeats the request until it is refused for its rate; returns the number of successes.
async fn until_refused(limit: &str, mut request: impl AsyncFnMut() -> Response) -> usize {
    for done in 0..500 {
        let answer = request().await;
        if answer.status() == 429 {
            let problem = assert_problem(&answer, 429, "rate_limited", limit);
            assert_eq!((&problem["limit"], &problem["retryable"]), (&json!(limit), &json!(true)));
            let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
            assert!((1..=60).contains(&after), "{after}");
            return done;
        }
        assert!(matches!(answer.status(), 200 | 201), "{}", answer.text());
    }
    panic!("never refused for {limit}")
}

#[track_caller]
fn assert_over_quota(answer: &Response, limit: &str) {
    let problem = assert_problem(answer, 429, "quota_exceeded", "");
    assert_eq!(problem["limit"], limit, "{problem}");
}

#[tokio::test]
async fn quota_a_publisher_over_its_rate_waits_and_no_other_does() {
    let hub = two().hub("quotas.publishes = \"1/s, burst 5\"\n").await;
    let alice = Client::key(&hub, "alice");
    let bob = Client::key(&hub, "bob");
    let done = until_refused("quotas.publishes", async || alice.try_publish("a", "x").await).await;
    assert!(done >= 5, "{done}");
    bob.publish("a", "of bob").await;
    hub.until_metric("fanfare_limit_hits_total{limit=\"quotas.publishes\"}", 1.0).await;
    let line = "{\"channel\":\"a\",\"data\":\"x\"}\n";
    let by_lines = async || alice.post("/v1/publish", NDJSON, line).await;
    until_refused("quotas.publishes", by_lines).await;
    // Refused events were not published, and the others were; later the quota refills.
    let texts = bob.page("a", "from=earliest&limit=1000").await;
    assert!(page_texts(&texts).contains(&"of bob"));
    eventually("a rate to come back", async || alice.try_publish("a", "y").await.status() == 200)
        .await;
}

#[tokio::test]
async fn quota_signals_and_tokens_have_rates_of_their_own() {
    let rates = "quotas.signals = \"1/s, burst 2\"\nquotas.tokens = \"1/s, burst 2\"\n";
    let hub = two().hub(rates).await;
    let alice = Client::key(&hub, "alice");
    let bob = Client::key(&hub, "bob");
    bob.publish("a", "x").await;
    let stop = "{\"signal\":\"stop\"}";
    let done =
        until_refused("quotas.signals", async || alice.post("/v1/signals/a", JSON, stop).await)
            .await;
    assert!(done >= 2, "{done}");
    bob.post("/v1/signals/a", JSON, stop).await.ok();
    let token = "{\"subscribe\":[\"a\"]}";
    let done =
        until_refused("quotas.tokens", async || alice.post("/v1/tokens", JSON, token).await).await;
    assert!(done >= 2, "{done}");
    assert_eq!(bob.post("/v1/tokens", JSON, token).await.status(), 201);
    alice.publish("b", "publishing is another thing").await;
}

#[tokio::test]
async fn quota_a_stream_past_its_rate_is_read_more_slowly_and_loses_nothing() {
    for (rate, least) in [
        // 60 events with a burst of 10: 50 at 40 a second, minus the debt of the last one.
        ("quotas.events = \"40/s, burst 10\"\n", Duration::from_millis(1200)),
        // 60 events of 1 KiB.
        ("quotas.bytes = \"40KiB/s, burst 10KiB\"\n", Duration::from_millis(1200)),
    ] {
        let hub = two().hub(rate).await;
        let alice = Client::key(&hub, "alice");
        let bob = Client::key(&hub, "bob");
        let texts: Vec<String> = (0..60).map(|n| format!("{n:0>1024}")).collect();
        let mut viewer = bob.subscribe("a").await;
        let began = Instant::now();
        let mut body = Publisher::begin(&hub, "/v1/channels/a", SSE, &alice.headers(&[])).await;
        for text in &texts {
            body.send(event_stream([text])).await;
            // One by one, so that the hub reads them separately.
            assert_eq!(&viewer.next().await.data, text);
        }
        let receipt = body.finish().await.ok().json();
        assert_eq!(receipt["events"], 60);
        // Only the minimum duration can be asserted reliably.
        assert!(began.elapsed() >= least, "{rate}: {:?}", began.elapsed());
        let limit = rate.split(' ').next().unwrap();
        assert!(hub.metric(&format!("fanfare_limit_hits_total{{limit=\"{limit}\"}}")).await >= 1.0);
        let page = bob.page("a", "from=earliest&limit=100").await;
        assert_eq!(page_texts(&page), texts);
        bob.publish("a", "at once").await;
    }
}

#[tokio::test]
async fn quota_documents_past_the_events_or_bytes_are_refused_until_paid() {
    let hub = two().hub("quotas.bytes = \"1KiB/s, burst 4KiB\"\n").await;
    let alice = Client::key(&hub, "alice");
    let bob = Client::key(&hub, "bob");
    let text = "x".repeat(3000);
    let done = until_refused("quotas.bytes", async || alice.try_publish("a", &text).await).await;
    assert!(done >= 1);
    bob.publish("a", &text).await;
}

#[tokio::test]
async fn quota_events_of_bodies_that_end_in_an_error_are_paid_for_too() {
    let hub = two().hub("quotas.events = \"1/s, burst 50\"\n").await;
    let alice = Client::key(&hub, "alice");
    let good = "{\"channel\":\"a\",\"data\":\"x\"}\n".repeat(40);
    let bad = format!("{good}no line at all\n");
    for _ in 0..3 {
        let answer = alice.post("/v1/publish", NDJSON, &bad).await;
        if answer.status() == 429 {
            return;
        }
        assert_eq!(answer.json()["events"], 40, "{}", answer.text());
    }
    let answer = alice.post("/v1/publish", NDJSON, &bad).await;
    assert_eq!(answer.status(), 429, "160 events where 50 are given: {}", answer.text());
}

#[tokio::test]
async fn quota_channels_are_counted_by_who_made_them_and_given_back() {
    let hub = two().hub("quotas.max_channels = 2\n").await;
    let alice = Client::key(&hub, "alice");
    let bob = Client::key(&hub, "bob");
    let limit = "quotas.max_channels";
    alice.publish("a", "x").await;
    assert!(matches!(alice.put("b", &json!({})).await.status(), 200 | 201));
    for refused in [
        alice.try_publish("c", "x").await,
        alice.put("c", &json!({})).await,
        alice.get("/v1/channels/c", &[]).await,
        alice.get("/v1/signals/c", &[]).await,
        alice.post("/v1/channels/c", SSE, "data: x\n\n").await,
    ] {
        assert_over_quota(&refused, limit);
    }
    let lines = ["a", "b", "c", "a"].map(|name| json!({"channel": name, "data": "y"}).to_string());
    let refused = alice.post("/v1/publish", NDJSON, lines.join("\n")).await;
    assert_problem(&refused, 429, "quota_exceeded", limit);
    assert_eq!((&refused.json()["line"], &refused.json()["events"]), (&json!(3), &json!(2)));
    let listed = hub.admin_get("/v1/channels").await.ok().text();
    assert!(!listed.contains("\"c\""), "{listed}");
    // Others have their own quota, and existing channels are open to all.
    bob.publish("c", "x").await;
    alice.publish("c", "x").await;
    alice.publish("a", "x").await;
    assert_eq!(alice.try_publish("d", "x").await.status(), 429);
    assert_eq!(alice.delete("a").await.status(), 204);
    alice.publish("d", "x").await;
    assert_over_quota(&alice.try_publish("e", "x").await, limit);
    // A deletion by another principal also frees the quota of the channel's creator.
    assert_eq!(bob.delete("b").await.status(), 204);
    alice.publish("e", "x").await;
}

#[tokio::test]
async fn quota_a_line_past_the_quota_names_it_as_every_other_answer_does() {
    let hub = two().hub("quotas.max_channels = 1\n").await;
    let alice = Client::key(&hub, "alice");
    alice.publish("a", "x").await;
    let refused = alice.post("/v1/publish", NDJSON, "{\"channel\":\"b\",\"data\":\"y\"}").await;
    assert_over_quota(&refused, "quotas.max_channels");
    hub.until_metric("fanfare_limit_hits_total{limit=\"quotas.max_channels\"}", 1.0).await;
}

#[tokio::test]
async fn quota_a_channel_whose_body_comes_late_is_counted() {
    let hub = two().hub("quotas.max_channels = 1\n").await;
    let alice = Client::key(&hub, "alice");
    let headers = alice.headers(&[("Expect", "100-continue")]);
    let mut body = Publisher::begin(&hub, "/v1/channels/a", "text/plain", &headers).await;
    // The hub asks for the body after it has claimed the channel.
    body.until_continue().await;
    let channels = async || hub.metric("fanfare_channels").await;
    eventually("the channel to be evicted", async || channels().await == 0.0).await;
    body.send("x").await;
    assert_eq!(body.finish().await.ok().json()["events"], 1);
    assert_over_quota(&alice.try_publish("b", "x").await, "quotas.max_channels");
}

#[tokio::test]
async fn quota_what_one_retains_takes_from_no_other() {
    let hub = two().hub("quotas.max_retained = \"256KiB\"\n").await;
    let alice = Client::key(&hub, "alice");
    let bob = Client::key(&hub, "bob");
    let text = |n: usize| format!("{n:0>1024}");
    let body = |from: usize, to: usize| event_stream((from..to).map(text));
    bob.post("/v1/channels/of/bob", SSE, body(0, 10)).await.ok();
    for n in 0..60 {
        let to = format!("/v1/channels/{}", ["of/alice", "too"][n % 2]);
        alice.post(&to, SSE, body(n * 10, n * 10 + 10)).await.ok();
    }
    let page = bob.page("of/bob", "from=earliest").await;
    assert_eq!(page_texts(&page), (0..10).map(text).collect::<Vec<_>>());
    let mut all = 0;
    for (channel, newest) in [("of/alice", 589), ("too", 599)] {
        let page = alice.page(channel, "from=earliest&limit=1000").await;
        let kept: Vec<usize> = page_texts(&page).iter().map(|t| t.parse().unwrap()).collect();
        assert_eq!(kept.last(), Some(&newest), "of both channels the oldest go, and no newer");
        assert!(kept[0] > 200, "{kept:?}");
        all += kept.len();
    }
    assert!((64..256).contains(&all), "{all}");
    let hits = hub.metric("fanfare_limit_hits_total{limit=\"quotas.max_retained\"}").await;
    assert!(hits >= 1.0);
}

#[tokio::test]
async fn quota_streams_are_counted_while_they_last() {
    let hub = two().hub("quotas.max_subscriptions = 2\n").await;
    let alice = Client::key(&hub, "alice");
    let bob = Client::key(&hub, "bob");
    let limit = "quotas.max_subscriptions";
    let first = alice.subscribe("a").await;
    let second = alice.stream("/v1/events?channel=a", &[]).await.settled().await;
    for to in ["/v1/channels/a", "/v1/events?channel=a", "/v1/signals/a", "/v1/channels/a?bare"] {
        assert_over_quota(&alice.get(to, &[]).await, limit);
    }
    let _of_bob = bob.subscribe("a").await;
    alice.publish("a", "publishing is another thing").await;
    for stream in [first, second] {
        drop(stream);
        eventually("a place", async || {
            let mut next = alice.stream("/v1/channels/a", &[]).await;
            next.head.status == 200
                && !next.raw_until("it", |text| !text.is_empty()).await.is_empty()
        })
        .await;
    }
    // A page holds a subscription only while it is read.
    for _ in 0..5 {
        eventually("a place", async || {
            alice.get("/v1/channels/a", &[("Accept", JSON)]).await.status() == 200
        })
        .await;
    }
    assert!(hub.metric(&format!("fanfare_limit_hits_total{{limit=\"{limit}\"}}")).await >= 4.0);
}

#[tokio::test]
async fn quota_half_a_document_is_not_waited_for() {
    let hub = TestHub::with("server.body_timeout = \"1s\"\n").await;
    for (method, to, kind) in [
        ("POST", "/v1/channels/a", "text/plain"),
        ("PUT", "/v1/channels/a", JSON),
        ("POST", "/v1/signals/a", JSON),
    ] {
        let mut wire = crate::support::Wire::connect(hub.addr()).await;
        let headers = [("Content-Type", kind), ("Content-Length", "100")];
        wire.send_head(method, to, &headers).await;
        wire.send("{\"half\":").await;
        let answer = wire.response().await;
        let problem = assert_problem(&answer, 408, "request_timeout", "server.body_timeout");
        assert_eq!(problem["limit"], "server.body_timeout", "{method} {to}");
    }
    assert_eq!(page_texts(&hub.page("a", "from=earliest").await), [""; 0]);
    // A stream has no total time limit.
    let mut body = Publisher::events(&hub, "a").await;
    for n in 0..8 {
        body.send(event_stream([n])).await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(body.finish().await.ok().json()["events"], 8);
}

#[tokio::test]
async fn quota_a_stream_that_falls_silent_ends_and_one_that_says_so_does_not() {
    let hub = TestHub::with("publish.idle_timeout = \"6s\"\n").await;
    let mut silent = Publisher::events(&hub, "silent").await;
    silent.send("data: 1\n\ndata: 2\n\ndata: half").await;
    let mut lines = Publisher::begin(&hub, "/v1/publish", NDJSON, &[]).await;
    lines.send("{\"channel\":\"lines\",\"data\":\"1\"}\n").await;
    let mut alive = Publisher::events(&hub, "alive").await;
    alive.send("data: 1\n\n").await;
    let silence = async { tokio::join!(silent.early_reply(), lines.early_reply()) };
    tokio::pin!(silence);
    // Sends comments until the others have timed out.
    let (silent, lines) = loop {
        tokio::select! {
            answers = &mut silence => break answers,
            () = tokio::time::sleep(Duration::from_millis(100)) => alive.send(":\n").await,
        }
    };
    let alive = alive.finish().await.ok().json()["events"].clone();
    for (answer, events) in [(silent, 2), (lines, 1)] {
        let problem = assert_problem(&answer, 408, "request_timeout", "publish.idle_timeout");
        assert_eq!(problem["events"], events, "{problem}");
        assert_eq!(problem["limit"], "publish.idle_timeout");
        assert!(problem["last_id"].is_string(), "{problem}");
    }
    assert_eq!(alive, 1);
    assert_eq!(page_texts(&hub.page("silent", "from=earliest").await), ["1", "2"]);
    assert_eq!(hub.page("silent", "").await["state"], "open");
}

#[tokio::test]
async fn quota_a_hub_without_credentials_counts_no_principal() {
    let hub = TestHub::with(
        "quotas = { publishes = \"1/s, burst 1\", events = \"1/s, burst 1\", \
         bytes = \"1/s, burst 1\", signals = \"1/s, burst 1\", max_subscriptions = 1, \
         max_channels = 1, max_retained = \"1B\", address_publishes = \"1/s, burst 1\", \
         address_connections = \"1/s, burst 1\" }\n",
    )
    .await;
    let mut viewers = Vec::new();
    for n in 0..20 {
        viewers.push(hub.subscribe(&n.to_string()).await);
        hub.publish(&n.to_string(), "x").await;
        hub.post("/v1/signals/signalled", JSON, "{\"signal\":\"stop\"}").await.ok();
    }
    for (n, viewer) in viewers.iter_mut().enumerate() {
        assert_eq!(viewer.next().await.data, "x");
        assert_eq!(page_texts(&hub.page(&n.to_string(), "from=earliest").await), ["x"]);
    }
}

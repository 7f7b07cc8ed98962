//! Limits: a slow or dead subscriber costs a bounded amount, and costs other subscribers nothing.

use std::time::Duration;

use crate::support::{
    Piece, Publisher, SseClient, SseEvent, TestHub, Wire, assert_problem, event_stream, eventually,
    texts, within,
};

const SSE: &str = "text/event-stream";

/// Limits so high that only the tested one can be reached, and retention that keeps everything.
const WIDE: &str = "channels.max_events = 10000000\n\
                    channels.max_bytes = \"1GiB\"\n\
                    channels.memory_budget = \"2GiB\"\n";

/// More than any kernel buffers for one subscriber that does not read.
const FLOOD: usize = 24 * 1024 * 1024;

/// A subscriber at the tail that does not read until it is asked to.
async fn stalled(hub: &TestHub, channel: &str) -> SseClient {
    let mut wire = Wire::connect_narrow(hub.addr()).await;
    wire.send_head("GET", &format!("/v1/channels/{channel}"), &[]).await;
    SseClient::read(wire).await.settled().await
}

/// A numbered event of about this many bytes.
fn heavy(n: usize, bytes: usize) -> String {
    format!("{n} {}", "x".repeat(bytes))
}

/// Returns the number of a heavy event.
fn number(event: &SseEvent) -> usize {
    event.data.split(' ').next().unwrap().parse().expect("a numbered event")
}

/// Publishes numbered events of this size until the metric moves; returns how many.
async fn flood_until(hub: &TestHub, channel: &str, bytes: usize, metric: &str) -> usize {
    let batch = (256 * 1024 / bytes).max(1);
    let mut n = 0;
    while n * bytes < FLOOD {
        let body = event_stream((n..n + batch).map(|n| heavy(n, bytes)));
        hub.post(&format!("/v1/channels/{channel}"), SSE, body).await.ok();
        n += batch;
        if hub.metric(metric).await >= 1.0 {
            return n;
        }
    }
    hub.until_metric(metric, 1.0).await;
    n
}

#[tokio::test]
async fn a_subscriber_too_many_events_behind_is_ended_and_may_resume() {
    let hub = TestHub::with(&format!(
        "{WIDE}subscribers.max_lag_events = 50\nsubscribers.max_lag_bytes = \"1GiB\""
    ))
    .await;
    let mut slow = stalled(&hub, "c").await;
    let reason = "fanfare_subscriptions_ended_total{reason=\"lagged_events\"}";
    let n = flood_until(&hub, "c", 16 * 1024, reason).await;
    let mut seen = slow.rest().await;
    assert!(seen.len() < n, "ended before it had everything");
    let last = seen.last().map_or(slow.last_id().unwrap(), |event| event.id()).to_owned();
    let mut again = hub.resume("c", &last).await;
    seen.extend(again.take(n - seen.len()).await);
    assert!(seen.iter().map(number).eq(0..n), "a contiguous run over both connections");
}

#[tokio::test]
async fn a_subscriber_too_many_bytes_behind_is_ended() {
    let hub = TestHub::with(&format!(
        "{WIDE}subscribers.max_lag_events = 10000000\nsubscribers.max_lag_bytes = \"256KiB\""
    ))
    .await;
    let mut slow = stalled(&hub, "c").await;
    let reason = "fanfare_subscriptions_ended_total{reason=\"lagged_bytes\"}";
    let n = flood_until(&hub, "c", 16 * 1024, reason).await;
    let seen = slow.rest().await;
    assert!(seen.len() < n);
    assert!(seen.iter().map(number).eq(0..seen.len()), "contiguous as far as it goes");
}

#[tokio::test]
async fn a_subscriber_that_never_reads_is_ended_by_its_deadline_while_publishing_continues() {
    let hub = TestHub::with(&format!(
        "{WIDE}subscribers.max_lag_events = 10000000\nsubscribers.max_lag_bytes = \"1GiB\"\n\
         subscribers.write_timeout = \"1s\"\nsubscribers.heartbeat = \"100ms\""
    ))
    .await;
    let _dead = stalled(&hub, "c").await;
    let body = event_stream((0..64).map(|n| heavy(n, 128 * 1024)));
    hub.post("/v1/channels/c", SSE, body).await.ok();
    // Now the kernel's buffers are full, and there is an event every few milliseconds: far more
    // often than the deadline, so that a timer that each publish rearmed would never fire.
    let reason = "fanfare_subscriptions_ended_total{reason=\"write_timeout\"}";
    eventually("the deadline", async || {
        hub.publish("c", "on and on").await;
        hub.metric(reason).await >= 1.0
    })
    .await;
    assert_eq!(hub.metric("fanfare_subscriptions").await, 0.0);
    assert_eq!(hub.head("c").await.header("fanfare-subscribers"), Some("0"));
}

#[tokio::test]
async fn a_stuck_connection_and_its_subscription_count_as_one_timeout() {
    let hub = TestHub::with(&format!("{WIDE}subscribers.write_timeout = \"1s\"")).await;
    let before = hub.metric("fanfare_connections").await;
    let mut wire = Wire::connect_narrow(hub.addr()).await;
    let lines = [("Accept", "application/x-ndjson")];
    wire.send_head("GET", "/v1/channels/c", &lines).await;
    assert_eq!(wire.head().await.status, 200);
    hub.post("/v1/channels/c", SSE, event_stream((0..64).map(|n| heavy(n, 128 * 1024)))).await.ok();
    hub.until_metric("fanfare_subscriptions_ended_total{reason=\"write_timeout\"}", 1.0).await;
    eventually("the cut", async || hub.metric("fanfare_connections").await <= before).await;
    let hits = "fanfare_limit_hits_total{limit=\"subscribers.write_timeout\"}";
    assert_eq!(hub.metric(hits).await, 1.0);
}

#[tokio::test]
async fn a_slow_client_that_closes_its_side_is_sent_the_events_of_very_many_channels() {
    let hub = TestHub::with(WIDE).await;
    let mut wire = Wire::connect_narrow(hub.addr()).await;
    wire.send_head("GET", "/v1/events?channel=m/*", &[]).await;
    assert_eq!(wire.head().await.status, 200);
    let body = event_stream((0..64).map(|n| heavy(n, 128 * 1024)));
    hub.post("/v1/channels/m/heavy", SSE, body).await.ok();
    // More new channels than one read checks.
    let lines = (0..2000).map(|n| format!("{{\"channel\":\"m/{n}\",\"data\":\"light\"}}\n"));
    hub.post("/v1/publish", "application/x-ndjson", lines.collect::<String>()).await.ok();
    wire.close_side().await;
    let mut body = Vec::new();
    while let Piece::Data(data) = within("the end of a stream", wire.piece()).await {
        body.extend(data);
    }
    assert_eq!(String::from_utf8(body).unwrap().matches("light").count(), 2000);
}

#[tokio::test]
async fn a_subscriber_that_reads_slowly_makes_progress_and_is_not_ended_by_the_deadline() {
    let hub = TestHub::with(&format!("{WIDE}subscribers.write_timeout = \"2s\"")).await;
    hub.post("/v1/channels/c", SSE, event_stream((0..40).map(|n| heavy(n, 64 * 1024)))).await.ok();
    let mut wire = Wire::connect_narrow(hub.addr()).await;
    wire.send_head("GET", "/v1/channels/c?from=earliest", &[]).await;
    let mut slow = SseClient::read(wire).await;
    for n in 0..40 {
        tokio::time::sleep(Duration::from_millis(50)).await; // slow, but never stopped
        assert_eq!(number(&slow.next().await), n);
    }
}

#[tokio::test]
async fn an_idle_subscriber_has_no_write_that_could_be_late() {
    let hub =
        TestHub::with("subscribers.write_timeout = \"200ms\"\nsubscribers.heartbeat = \"100ms\"")
            .await;
    let mut idle = hub.subscribe("c").await;
    idle.raw_until("ten heartbeats", |raw| raw.matches(":\n").count() > 10).await;
    hub.publish("c", "x").await;
    assert_eq!(idle.next().await.data, "x");
}

#[tokio::test]
async fn others_see_every_event_while_one_stalls() {
    let hub = TestHub::with(&format!("{WIDE}subscribers.write_timeout = \"5s\"")).await;
    let _dead = [stalled(&hub, "c").await, stalled(&hub, "c").await];
    let mut alive = hub.subscribe("c").await;
    let mut producer = Publisher::events(&hub, "c").await;
    let sending = tokio::spawn(async move {
        for n in 0..600 {
            producer.send(event_stream([heavy(n, 16 * 1024)])).await;
        }
        producer.finish().await
    });
    for n in 0..600 {
        assert_eq!(number(&alive.next().await), n);
    }
    within("the receipt", sending).await.unwrap().ok();
    let mut late = hub.stream("/v1/channels/c?from=last:1", &[]).await;
    assert_eq!(number(&late.next().await), 599);
}

#[tokio::test]
async fn with_skip_a_slow_subscriber_jumps_to_the_tail_after_one_gap() {
    let hub = TestHub::with(&format!(
        "{WIDE}subscribers.max_lag_events = 50\nsubscribers.max_lag_bytes = \"1GiB\"\n\
         subscribers.on_lag = \"skip\"\nsubscribers.write_timeout = \"10m\""
    ))
    .await;
    let mut slow = stalled(&hub, "c").await;
    let n = FLOOD / (16 * 1024);
    for from in (0..n).step_by(16) {
        let body = event_stream((from..from + 16).map(|n| heavy(n, 16 * 1024)));
        hub.post("/v1/channels/c", SSE, body).await.ok();
    }
    assert_eq!(hub.metric("fanfare_subscriptions").await, 1.0, "it is still subscribed");
    let reading = async {
        let mut seen = vec![slow.next().await];
        while seen.last().is_some_and(|event| event.event.is_none()) {
            seen.push(slow.next().await);
        }
        seen
    };
    let mut seen = within("the gap", reading).await;
    let gap = seen.pop().unwrap();
    let data = gap.assert_gap("lagged");
    assert_eq!(data["channel"], "c");
    assert!(seen.iter().map(number).eq(0..seen.len()), "contiguous up to the gap");
    let before = seen.last().map(|event| event.id().to_owned());
    hub.publish("c", "the last").await;
    let rest = slow.until("the last").await;
    assert!(rest.iter().all(|event| event.event.is_none()), "exactly one gap");
    let numbers: Vec<usize> = rest[..rest.len() - 1].iter().map(number).collect();
    assert!(numbers.iter().copied().eq(n - numbers.len()..n), "contiguous behind the gap");
    assert!(seen.len() + numbers.len() < n, "something was skipped");
    hub.until_metric("fanfare_gaps_total{reason=\"lagged\"}", 1.0).await;
    let before = before.expect("some events before the gap");
    let mut whole = hub.resume("c", &before).await;
    let missed = whole.take(n - seen.len()).await;
    assert!(missed.iter().map(number).eq(seen.len()..n), "a resume finds what was skipped");
}

#[tokio::test]
async fn what_is_evicted_under_a_stalled_reader_is_a_gap_at_its_place() {
    let hub = TestHub::with(
        "channels.max_events = 20\nsubscribers.max_lag_events = 1000000\n\
         subscribers.max_lag_bytes = \"1GiB\"\nchannels.max_bytes = \"1GiB\"\n\
         subscribers.write_timeout = \"10m\"",
    )
    .await;
    let mut slow = stalled(&hub, "c").await;
    let n = FLOOD / (16 * 1024);
    for from in (0..n).step_by(16) {
        let body = event_stream((from..from + 16).map(|n| heavy(n, 16 * 1024)));
        hub.post("/v1/channels/c", SSE, body).await.ok();
    }
    hub.publish("c", "the last").await;
    let seen = slow.until("the last").await;
    let mut next = 0;
    let mut gaps = 0;
    let mut after_gap = false;
    for event in &seen[..seen.len() - 1] {
        if event.event.is_some() {
            event.assert_gap("evicted");
            assert!(!after_gap, "one gap, not two in a row");
            (gaps, after_gap) = (gaps + 1, true);
            continue;
        }
        let expected = if after_gap { number(event) > next } else { number(event) == next };
        assert!(expected, "{} where {next} was due; gap: {after_gap}", number(event));
        (next, after_gap) = (number(event) + 1, false);
    }
    assert_eq!(next, n, "up to the tail");
    assert!(gaps >= 1 && seen.len() < n);
}

#[tokio::test]
async fn replay_at_ones_own_pace_is_not_lag() {
    let hub =
        TestHub::with("subscribers.max_lag_events = 10\nsubscribers.max_lag_bytes = \"1KiB\"")
            .await;
    hub.post("/v1/channels/c", SSE, event_stream((0..3000).map(|n| heavy(n, 500)))).await.ok();
    let mut client = hub.stream("/v1/channels/c?from=earliest", &[]).await;
    assert!(client.take(3000).await.iter().map(number).eq(0..3000));
    hub.publish("c", "live").await;
    assert_eq!(client.next().await.data, "live");
}

#[tokio::test]
async fn a_subscription_has_a_longest_life_if_the_operator_wants_one() {
    let hub = TestHub::with("subscribers.max_lifetime = \"300ms\"").await;
    let mut client = hub.subscribe("c").await;
    let id = client.last_id().unwrap().to_owned();
    client.assert_eof().await;
    hub.until_metric("fanfare_subscriptions_ended_total{reason=\"lifetime\"}", 1.0).await;
    hub.publish("c", "meanwhile").await;
    assert_eq!(hub.resume("c", &id).await.next().await.data, "meanwhile");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_asked_to_retry() {
    let hub = TestHub::with("server.max_connections = 2").await;
    let one = hub.subscribe("c").await;
    let _two = hub.subscribe("c").await;
    let mut third = Wire::connect(hub.addr()).await;
    third.send_head("GET", "/v1/channels/c", &[("Connection", "close")]).await;
    let reply = third.response().await;
    assert_problem(&reply, 503, "overloaded", "connections");
    assert!(reply.header("retry-after").is_some());
    assert!(hub.metric("fanfare_limit_hits_total").await >= 1.0, "the limit is seen to be hit");
    drop(one);
    eventually("a free place", async || {
        let mut wire = Wire::connect(hub.addr()).await;
        wire.send_head("GET", "/healthz", &[("Connection", "close")]).await;
        within("a reply", wire.try_head(false)).await.is_some_and(|head| head.status == 200)
    })
    .await;
}

#[tokio::test]
async fn channels_beyond_the_limit_are_refused() {
    let hub = TestHub::with("channels.max_channels = 2").await;
    hub.publish("a", "x").await;
    hub.publish("b", "x").await;
    let reply = hub.post("/v1/channels/c", "text/plain", "x").await;
    let problem = assert_problem(&reply, 503, "overloaded", "channels");
    assert_eq!(problem["retryable"], true);
    assert!(reply.header("retry-after").is_some());
    hub.publish("a", "still").await;
    assert!(hub.metric("fanfare_limit_hits_total").await >= 1.0);
    let gone = hub.request("DELETE", "/v1/channels/b", &[], "").await;
    assert_eq!(gone.status(), 204);
    hub.publish("c", "now").await;
}

#[tokio::test]
async fn streamed_publishes_beyond_the_limit_are_refused() {
    let hub = TestHub::with("publish.max_streams = 1").await;
    let mut client = hub.subscribe("c").await;
    let mut first = Publisher::events(&hub, "c").await;
    first.send("data: 1\n\n").await;
    client.next().await;
    let mut second = Publisher::events(&hub, "c").await;
    second.send("data: 2\n\n").await;
    let reply = second.early_reply().await;
    assert_problem(&reply, 503, "overloaded", "");
    assert!(reply.header("retry-after").is_some());
    first.send("data: 3\n\n").await;
    assert_eq!(client.next().await.data, "3");
    first.finish().await.ok();
    let mut third = Publisher::events(&hub, "c").await;
    third.send("data: 4\n\n").await;
    third.finish().await.ok();
    assert_eq!(texts(&client.take(1).await), ["4"]);
}

#[tokio::test]
async fn a_single_event_is_no_lag_however_large() {
    let hub = TestHub::with(
        "subscribers.max_lag_bytes = \"64KiB\"\nsubscribers.on_lag = \"skip\"\n\
         channels.max_bytes = \"64KiB\"",
    )
    .await;
    let mut live = hub.stream("/v1/channels/c", &[]).await;
    for n in 0..3 {
        let data = format!("{n}{}", "x".repeat(512 * 1024));
        hub.publish("c", &data).await;
        assert!(live.next().await.data == data, "event {n} did not come as it was");
    }
}

#[tokio::test]
async fn pages_that_are_not_read_hold_no_connection_for_ever() {
    let hub = TestHub::with("subscribers.write_timeout = \"200ms\"").await;
    let body = event_stream((0..600).map(|n| heavy(n, 2048)));
    hub.post("/v1/channels/c", SSE, body).await.ok();
    let mut tcp = tokio::net::TcpStream::connect(hub.addr()).await.unwrap();
    let page = "GET /v1/channels/c?from=earliest&limit=1000 HTTP/1.1\r\nHost: hub\r\n\
                Accept: application/json\r\n\r\n";
    // Far more answers than the kernel buffers for a client that reads none.
    tokio::io::AsyncWriteExt::write_all(&mut tcp, page.repeat(30).as_bytes()).await.unwrap();
    let hit = "fanfare_limit_hits_total{limit=\"subscribers.write_timeout\"}";
    hub.until_metric(hit, 1.0).await;
}

//! Drain: subscriptions are ended one by one, publishes may finish, then the hub stops.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Piece, Publisher, TestHub, Wire, assert_problem, eventually, within};

/// Waits until the hub is not ready.
async fn until_not_ready(hub: &TestHub) {
    eventually("the hub to be unready", async || hub.get("/readyz", &[]).await.status() == 503)
        .await;
}

#[tokio::test]
async fn readiness_ends_at_once_and_health_does_not() {
    let mut hub = TestHub::with("drain.window = \"5s\"").await;
    let _watcher = hub.subscribe("c").await;
    let mut producer = Publisher::events(&hub, "c").await; // so that there is something to wait for
    producer.send("data: 1\n\n").await;
    hub.until_metric("fanfare_events_published_total", 1.0).await;
    hub.drain();
    until_not_ready(&hub).await;
    assert_eq!(hub.admin_get("/readyz").await.status(), 503);
    assert_eq!(hub.get("/healthz", &[]).await.status(), 200);
    hub.admin_get("/metrics").await.ok();
    producer.finish().await.ok();
    hub.stopped().await;
}

#[tokio::test]
async fn subscribers_are_ended_one_by_one_each_with_a_delay() {
    let mut hub = TestHub::with("drain.window = \"4s\"").await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(hub.subscribe("c").await);
    }
    hub.drain();
    let leaving = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            client.assert_eof().await;
            (Instant::now(), client.retry().expect("a reconnection time"))
        })
    });
    let leaving: Vec<_> = leaving.collect();
    let mut moments = Vec::new();
    let mut delays = Vec::new();
    for client in leaving {
        let (moment, delay) = within("the end of the stream", client).await.expect("a proper end");
        moments.push(moment);
        delays.push(delay);
    }
    moments.sort();
    let spread = *moments.last().unwrap() - moments[0];
    assert!(spread > Duration::from_millis(400), "one by one, not all at once: {spread:?}");
    delays.sort_unstable();
    delays.dedup();
    assert!(delays.len() > 5, "each with a delay of its own: {delays:?}");
    assert!(delays.iter().all(|&delay| delay > 0 && delay < 120_000), "{delays:?}");
    hub.stopped().await;
}

#[tokio::test]
async fn a_subscriber_that_is_sent_away_has_seen_everything_up_to_its_end() {
    let mut hub = TestHub::with("drain.window = \"3s\"").await;
    let mut client = hub.subscribe("c").await;
    let mut producer = Publisher::events(&hub, "c").await;
    for n in 0..10 {
        producer.send(format!("data: {n}\n\n")).await;
    }
    assert_eq!(client.next().await.data, "0");
    hub.until_metric("fanfare_events_published_total", 10.0).await;
    hub.drain();
    let seen = client.rest().await;
    for (n, event) in seen.iter().enumerate() {
        assert_eq!(event.data, (n + 1).to_string());
        assert_eq!(event.event, None, "the channel has not ended, only the hub leaves");
    }
    assert_eq!(seen.len(), 9);
    producer.finish().await.ok();
    hub.stopped().await;
}

#[tokio::test]
async fn a_new_publish_is_sent_elsewhere_and_a_new_subscriber_is_asked_to_wait() {
    let mut hub = TestHub::with("drain.window = \"6s\"").await;
    let mut producer = Publisher::events(&hub, "c").await;
    producer.send("data: 1\n\n").await;
    eventually("the event", async || hub.head("c").await.status() == 200).await;
    hub.drain();
    until_not_ready(&hub).await;
    let reply = hub.post("/v1/channels/c", "text/plain", "x").await;
    let problem = assert_problem(&reply, 503, "draining", "");
    assert_eq!(problem["retryable"], true);
    assert!(reply.header("retry-after").is_some());
    let reply = hub.post("/v1/publish", "application/x-ndjson", "{\"channel\":\"c\"}").await;
    assert_problem(&reply, 503, "draining", "");
    let mut clients = Vec::new();
    for to in ["/v1/channels/c", "/v1/events?channel=c", "/v1/signals/c"] {
        clients.push((to, hub.stream(to, &[]).await));
    }
    for (to, client) in &mut clients {
        assert_eq!(client.head.status, 200);
        client.rest().await;
        client.assert_eof().await;
        assert!(client.retry().is_some_and(|delay| delay != 3000), "{to}: a time to come back");
        let raw = client.raw_until("all of it", |_| true).await;
        assert!(!raw.ends_with("\n\n"), "{to}: a block would be an event to some clients: {raw}");
    }
    producer.send("data: 2\n\n").await;
    let receipt = producer.finish().await.ok().json();
    assert_eq!(receipt["events"], 2, "a publish that runs may finish");
    hub.stopped().await;
}

/// Reconnects at once whenever its stream ends, until the hub is gone; returns the number of
/// connections.
async fn comes_back_at_once(hub: &TestHub, to: &str) -> usize {
    let mut times = 0;
    while let Ok(tcp) = tokio::net::TcpStream::connect(hub.addr()).await {
        let mut wire = Wire::new(tcp);
        wire.send_head("GET", to, &[]).await;
        let Some(head) = within("a head", wire.try_head(false)).await else { break };
        assert_eq!(head.status, 200, "{to}");
        times += 1;
        while let Piece::Data(_) = within("the end of a stream", wire.piece()).await {}
    }
    times
}

#[tokio::test]
async fn a_subscriber_that_comes_during_a_drain_is_held_until_a_moment_of_its_own() {
    let mut hub = TestHub::with("drain.window = \"4s\"").await;
    let mut producer = Publisher::events(&hub, "c").await;
    producer.send("data: 1\n\n").await;
    hub.until_metric("fanfare_events_published_total", 1.0).await;
    hub.drain();
    until_not_ready(&hub).await;
    let begun = Instant::now();
    let streams = ["/v1/channels/c", "/v1/events?channel=c", "/v1/signals/c"];
    let streams = streams.iter().cycle().take(18);
    let mut clients = Vec::new();
    for to in streams {
        let mut client = hub.stream(to, &[]).await;
        assert_eq!(client.head.status, 200);
        client.raw_until("the first bytes", |raw| raw.starts_with("retry: 3000\n")).await;
        assert_eq!(client.opening().is_some(), !to.contains("signals"), "{to}");
        clients.push(client);
    }
    let leaving = clients.into_iter().map(|mut client| {
        tokio::spawn(async move {
            client.rest().await;
            assert!(client.retry().is_some_and(|delay| delay != 3000), "a time to come back");
            begun.elapsed()
        })
    });
    let mut moments = Vec::new();
    for client in leaving.collect::<Vec<_>>() {
        moments.push(within("the end of the stream", client).await.expect("a proper end"));
    }
    moments.sort();
    assert!(moments[0] > Duration::from_millis(300), "not at once: {moments:?}");
    assert!(moments[17] - moments[0] > Duration::from_millis(300), "one by one: {moments:?}");
    drop(producer);
    hub.stopped().await;
}

#[tokio::test]
async fn a_client_that_comes_back_at_once_does_not_do_so_hundreds_of_times() {
    let mut hub = TestHub::with("drain.window = \"3s\"").await;
    let _watcher = hub.subscribe("c").await;
    hub.drain();
    until_not_ready(&hub).await;
    let times = futures_util::future::join_all(
        ["/v1/channels/c", "/v1/events?channel=c", "/v1/signals/c"]
            .map(|to| comes_back_at_once(&hub, to)),
    );
    let times = times.await;
    assert!(times.iter().all(|times| (1..=20).contains(times)), "{times:?}");
    hub.stopped().await;
}

#[tokio::test]
async fn a_publish_that_outlasts_the_window_is_answered_with_what_was_kept() {
    let mut hub = TestHub::with("drain.window = \"1s\"").await;
    let mut client = hub.subscribe("c").await;
    let mut producer = Publisher::events(&hub, "c").await;
    producer.send("data: 1\n\ndata: 2\n\n").await;
    client.take(2).await;
    hub.drain();
    let reply = producer.early_reply().await;
    let problem = assert_problem(&reply, 503, "draining", "");
    assert_eq!(problem["events"], 2);
    assert!(problem["last_id"].is_string(), "{problem}");
    hub.stopped().await;
}

#[tokio::test]
async fn those_who_were_sent_away_are_counted() {
    let mut hub = TestHub::with("drain.window = \"4s\"").await;
    let mut clients = [hub.subscribe("c").await, hub.subscribe("c").await];
    let mut producer = Publisher::events(&hub, "other").await; // keeps the hub until it is counted
    producer.send("data: 1\n\n").await;
    hub.until_metric("fanfare_events_published_total", 1.0).await;
    hub.drain();
    for client in &mut clients {
        client.assert_eof().await;
    }
    hub.until_metric("fanfare_subscriptions_ended_total{reason=\"draining\"}", 2.0).await;
    producer.finish().await;
    hub.stopped().await;
}

#[tokio::test]
async fn a_long_poll_is_answered_before_the_hub_leaves() {
    let mut hub = TestHub::with("drain.window = \"2s\"").await;
    let id = hub.publish("c", "x").await;
    let producer = Publisher::events(&hub, "other").await; // keeps the hub until it is asked
    let accept = [("Accept", "application/json")];
    let mut wire = hub.open(&format!("/v1/channels/c?last_event_id={id}&wait=60s"), &accept).await;
    hub.until_metric("fanfare_subscriptions", 1.0).await;
    hub.drain();
    let page = wire.response().await;
    assert!(matches!(page.status(), 200 | 503), "{}", page.text());
    drop(producer);
    hub.stopped().await;
}

#[tokio::test]
async fn a_hub_without_clients_leaves_and_frees_its_ports() {
    let mut hub = TestHub::with("drain.window = \"300ms\"").await;
    hub.publish("c", "x").await;
    hub.drain();
    hub.stopped().await;
    // The port may belong to another test's hub since; it does not know the channel.
    if tokio::net::TcpStream::connect(hub.addr()).await.is_ok() {
        assert_eq!(hub.head("c").await.status(), 404, "the listener is closed");
    }
}

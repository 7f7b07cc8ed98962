//! Retention: the limits of a channel, their precedence, and the hub's memory budget.

use serde_json::{Value, json};

use crate::support::{TestHub, assert_problem, event_stream, eventually, keys, page_texts};

const SSE: &str = "text/event-stream";

/// Returns the data of all retained events of the channel.
async fn retained(hub: &TestHub, channel: &str) -> Vec<String> {
    let page = hub.page(channel, "from=earliest&limit=1000").await;
    page_texts(&page).into_iter().map(str::to_owned).collect()
}

async fn put(hub: &TestHub, channel: &str, body: &str) -> crate::support::Response {
    let to = format!("/v1/channels/{channel}");
    hub.request("PUT", &to, &[("Content-Type", "application/json")], body).await
}

#[tokio::test]
async fn a_channel_keeps_its_last_max_events() {
    let hub = TestHub::with("channels.max_events = 3").await;
    let ids = hub.publish_all("c", &["1", "2", "3", "4", "5"]).await;
    assert_eq!(retained(&hub, "c").await, ["3", "4", "5"]);
    let head = hub.head("c").await;
    assert_eq!(head.header("fanfare-events"), Some("3"));
    assert_eq!(head.header("fanfare-earliest"), Some(ids[2].as_str()));
    assert_eq!(head.header("fanfare-tail"), Some(ids[4].as_str()));
    assert_eq!(hub.metric("fanfare_events_evicted_total").await, 2.0);
}

#[tokio::test]
async fn a_channel_keeps_its_last_max_bytes() {
    let hub = TestHub::with("channels.max_bytes = \"64KiB\"").await;
    for n in 0..40 {
        hub.post("/v1/channels/c", SSE, event_stream([format!("{n} {}", "x".repeat(4096))]))
            .await
            .ok();
    }
    let kept = retained(&hub, "c").await;
    let bytes: usize = kept.iter().map(String::len).sum();
    assert!(bytes <= 64 * 1024, "{bytes} bytes in {} events", kept.len());
    assert!(kept.len() >= 8, "and not much less than it may: {}", kept.len());
    let first = 40 - kept.len();
    for (n, data) in kept.iter().enumerate() {
        assert!(data.starts_with(&format!("{} ", first + n)), "the newest, in order");
    }
}

#[tokio::test]
async fn an_event_larger_than_the_channel_may_keep_is_still_delivered() {
    let hub = TestHub::with("channels.max_bytes = \"16KiB\"").await;
    let mut client = hub.subscribe("c").await;
    let large = "x".repeat(100 * 1024);
    hub.publish("c", &large).await;
    assert_eq!(client.next().await.data.len(), large.len());
    hub.publish("c", "small").await;
    assert_eq!(client.next().await.data, "small");
    assert_eq!(retained(&hub, "c").await, ["small"]);
}

#[tokio::test]
async fn what_is_older_than_max_age_is_evicted_without_a_publish() {
    let hub = TestHub::with("channels.max_age = \"1s\"").await;
    let id = hub.publish("c", "x").await;
    eventually("the event to age", async || retained(&hub, "c").await.is_empty()).await;
    let next = hub.publish("c", "y").await;
    assert_eq!(retained(&hub, "c").await, ["y"]);
    let mut client = hub.resume("c", &id).await;
    let event = client.next().await;
    assert_eq!((event.id(), event.data.as_str()), (next.as_str(), "y"), "nothing is missing");
    hub.until_metric("fanfare_events_evicted_total", 1.0).await;
}

#[tokio::test]
async fn the_hub_keeps_to_its_memory_budget_and_lets_the_oldest_go() {
    let hub = TestHub::with("channels.memory_budget = \"2MiB\"").await;
    for n in 0..64 {
        let body = event_stream((0..16).map(|m| format!("{n}/{m} {}", "x".repeat(8192))));
        hub.post(&format!("/v1/channels/c/{n}"), SSE, body).await.ok();
    }
    let budget = f64::from(2 * 1024 * 1024);
    eventually("the budget to be kept", async || {
        hub.metric("fanfare_retained_bytes").await <= budget
    })
    .await;
    assert!(hub.metric("fanfare_retained_bytes").await > budget / 4.0, "but it is used");
    assert!(hub.metric("fanfare_events_evicted_total").await >= 64.0 * 16.0 - 256.0);
    assert_eq!(retained(&hub, "c/0").await, [""; 0], "the oldest went");
    let newest = retained(&hub, "c/63").await;
    assert!(newest.last().is_some_and(|data| data.starts_with("63/15 ")), "the newest stayed");
}

#[tokio::test]
async fn an_idle_channel_is_evicted_and_one_that_is_watched_is_not() {
    let hub = TestHub::with("channels.idle_timeout = \"500ms\"").await;
    let mut client = hub.subscribe("watched").await;
    hub.publish("watched", "1").await;
    let first = hub.publish("idle", "1").await;
    hub.publish("idle", "2").await;
    eventually("the idle channel to go", async || hub.head("idle").await.status() == 404).await;
    assert_eq!(hub.head("watched").await.status(), 200);
    assert_eq!(retained(&hub, "watched").await, ["1"]);
    hub.publish("watched", "2").await;
    assert_eq!((client.next().await.data, client.next().await.data), ("1".into(), "2".into()));
    hub.publish("idle", "3").await;
    let mut resumed = hub.resume("idle", &first).await;
    resumed.next().await.assert_gap("evicted");
    assert_eq!(resumed.next().await.data, "3");
}

#[tokio::test]
async fn a_resume_on_an_evicted_channel_gets_a_gap_at_once() {
    let hub = TestHub::with("channels.idle_timeout = \"300ms\"").await;
    let first = hub.publish("c", "seen").await;
    let last = hub.publish("c", "missed").await;
    eventually("the channel to go", async || hub.head("c").await.status() == 404).await;
    let mut after = hub.resume("c", &first).await;
    after.next().await.assert_gap("evicted");
    let mut complete = hub.resume("c", &last).await;
    hub.publish("c", "new").await;
    assert_eq!(after.next().await.data, "new");
    assert_eq!(complete.next().await.data, "new", "this one missed nothing");
}

#[tokio::test]
async fn a_channel_that_was_only_waited_for_is_gone_with_the_last_who_waits() {
    let hub = TestHub::with("subscribers.heartbeat = \"100ms\"").await;
    let client = hub.subscribe("c").await;
    drop(client);
    hub.until_metric("fanfare_subscriptions_ended_total{reason=\"client_gone\"}", 1.0).await;
    eventually("the channel to go", async || hub.metric("fanfare_channels").await == 0.0).await;
    assert_eq!(hub.head("c").await.status(), 404);
}

#[tokio::test]
async fn the_first_rule_that_matches_overrides_what_it_names() {
    let hub = TestHub::with(
        "channels.max_events = 4\n\
         [[channels.rules]]\npattern = \"logs/audit\"\nmax_events = 3\n\
         [[channels.rules]]\npattern = \"logs/**\"\nmax_events = 2\n\
         [[channels.rules]]\npattern = \"logs/*\"\nmax_events = 1\n",
    )
    .await;
    for (channel, keeps) in [("logs/audit", 3), ("logs/web", 2), ("logs/a/b", 2), ("other", 4)] {
        hub.publish_all(channel, &["1", "2", "3", "4", "5"]).await;
        assert_eq!(retained(&hub, channel).await.len(), keeps, "{channel}");
    }
}

#[tokio::test]
async fn put_creates_a_channel_with_retention_of_its_own() {
    let hub = TestHub::start().await;
    let created = put(&hub, "c", "{\"max_events\":2}").await;
    assert_eq!(created.status(), 201, "{}", created.text());
    let answer = created.json();
    for member in ["channel", "earliest", "retention", "state", "subscribers", "tail"] {
        assert!(keys(&answer).contains(&member), "{member} in {answer}");
    }
    assert_eq!((&answer["channel"], &answer["state"]), (&json!("c"), &json!("open")));
    assert_eq!(answer["retention"]["max_events"], 2);
    assert_eq!(answer["options"]["producer_grace"], "10s");
    assert_eq!(answer["subscribers"], 0);
    assert_eq!(hub.head("c").await.status(), 200);
    hub.publish_all("c", &["1", "2", "3"]).await;
    assert_eq!(retained(&hub, "c").await, ["2", "3"]);
    let updated = put(&hub, "c", "{\"max_events\":1,\"max_age\":\"5m\",\"max_bytes\":4096}").await;
    assert_eq!(updated.status(), 200, "{}", updated.text());
    assert_eq!(updated.json()["retention"]["max_events"], 1);
    assert_eq!(retained(&hub, "c").await, ["3"], "a smaller bound holds at once");
    let again = put(&hub, "c", "").await;
    assert_eq!(again.status(), 200);
    assert_eq!(again.json()["tail"], hub.head("c").await.header("fanfare-tail").unwrap());
}

#[tokio::test]
async fn put_takes_sizes_and_durations_as_people_write_them() {
    let hub = TestHub::start().await;
    let all =
        "{\"max_events\":5,\"max_bytes\":\"1MiB\",\"max_age\":\"1h\",\"idle_timeout\":\"2h\"}";
    assert_eq!(put(&hub, "a", all).await.status(), 201);
    assert_eq!(put(&hub, "b", "{}").await.status(), 201);
    assert_eq!(put(&hub, "d", "").await.status(), 201);
    for (body, hint) in [
        ("{\"max_event\":5}", "max_event"),
        ("{\"max_events\":\"many\"}", "max_events"),
        ("{\"max_events\":-1}", "max_events"),
        ("{\"max_events\":0}", "at least 1"),
        ("{\"max_bytes\":\"lots\"}", "max_bytes"),
        ("{\"max_age\":\"soon\"}", "max_age"),
        ("{\"max_events\":5", ""),
        ("[]", ""),
        ("\u{0}", ""),
    ] {
        let reply = put(&hub, "c", body).await;
        assert_problem(&reply, 400, "invalid_parameter", hint);
    }
    assert_eq!(hub.head("c").await.status(), 404, "nothing was created");
}

#[tokio::test]
async fn put_bounds_age_and_idleness_of_one_channel() {
    let hub = TestHub::with("store.durability = \"memory\"").await;
    assert_eq!(put(&hub, "aging", "{\"max_age\":\"500ms\"}").await.status(), 201);
    assert_eq!(put(&hub, "idle", "{\"idle_timeout\":\"500ms\"}").await.status(), 201);
    for channel in ["aging", "idle", "kept"] {
        hub.publish(channel, "x").await;
    }
    eventually("the event to age", async || retained(&hub, "aging").await.is_empty()).await;
    eventually("the channel to go", async || hub.head("idle").await.status() == 404).await;
    assert_eq!(retained(&hub, "kept").await, ["x"]);
}

#[tokio::test]
async fn retention_passes_over_a_closed_channel_too() {
    let hub =
        TestHub::with("channels.idle_timeout = \"300ms\"\nchannels.max_age = \"300ms\"").await;
    hub.publish("c", "x").await;
    hub.close("c", "complete").await;
    eventually("the closed channel to go", async || hub.head("c").await.status() == 404).await;
    let page = hub.page("c", "from=earliest").await;
    assert_eq!((&page["events"], &page["state"]), (&json!([]), &json!("open")));
    let receipt = hub.post("/v1/channels/c", "text/plain", "anew").await.ok().json();
    assert_eq!(receipt["state"], Value::from("open"), "its retention has passed");
}

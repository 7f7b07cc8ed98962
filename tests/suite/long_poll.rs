//! Long poll: a page without an `EventSource` follows a generation to its end with `wait` alone.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::support::generation::{Format, Generation, Ledger, Viewer, page_events};
use crate::support::{TestHub, within};

/// Polls from this start until the channel has ended; returns the viewer and the number of
/// requests.
async fn poll(hub: &TestHub, format: Format, start: &str, more: &str) -> (Viewer, usize) {
    let mut viewer = Viewer::of(format);
    let mut query = start.to_owned();
    let mut polls = 0;
    let polling = async {
        loop {
            let page = hub.page("c", &format!("{query}&wait=10s{more}")).await;
            page_events(&page).iter().for_each(|event| viewer.see(event));
            polls += 1;
            if page["state"] != "open" && viewer.end.is_some() {
                return;
            }
            query = format!("last_event_id={}", page["next"].as_str().expect("an id"));
        }
    };
    within("the end of the generation", polling).await;
    (viewer, polls)
}

/// Streams the generation while the viewers poll, and returns them.
async fn follow(
    hub: &Arc<TestHub>,
    generation: &Generation,
    viewers: &[(&'static str, &'static str)],
) -> Vec<(Viewer, usize)> {
    let polling: Vec<_> = viewers
        .iter()
        .map(|&(start, more)| {
            let hub = Arc::clone(hub);
            let format = generation.format;
            tokio::spawn(async move { poll(&hub, format, start, more).await })
        })
        .collect();
    let mut producer = generation.producer(hub, "c").await;
    for chunk in &generation.chunks {
        producer.send(generation.format.wire(chunk)).await;
        tokio::time::sleep(Duration::from_millis(3)).await; // the pace of the producer
    }
    producer.finish().await.ok();
    let mut followed = Vec::new();
    for one in polling {
        followed.push(within("one who polls", one).await.expect("all of it"));
    }
    followed
}

#[tokio::test]
async fn a_generation_can_be_followed_with_long_poll_alone() {
    for format in [Format::OpenaiChat, Format::Ollama, Format::Text] {
        let hub = Arc::new(TestHub::start().await);
        let generation = Generation::numbered(format, 120);
        let starts = [("from=earliest", ""), ("from=snapshot", ""), ("from=earliest", "&limit=3")];
        let followed = follow(&hub, &generation, &starts).await;
        let ledger = Ledger::read(&hub, format, "c").await;
        for (viewer, polls) in followed {
            viewer.assert_complete(&generation);
            ledger.assert_follows(format, viewer.joined.as_deref(), &viewer.seen);
            let before = viewer.joined.as_deref().map_or(0, |id| ledger.count(id));
            assert_eq!(before + viewer.seen.len(), ledger.len());
            assert!(polls > 1, "while it was made");
        }
    }
}

#[tokio::test]
async fn a_long_poll_may_be_coalesced() {
    let hub = Arc::new(TestHub::start().await);
    let generation = Generation::rich(Format::AiSdk);
    let starts = [("from=earliest", "&coalesce=40ms"), ("from=snapshot", "&coalesce=adaptive")];
    let followed = follow(&hub, &generation, &starts).await;
    let ledger = Ledger::read(&hub, generation.format, "c").await;
    for (viewer, _) in followed {
        viewer.assert_complete(&generation);
        ledger.assert_follows(generation.format, viewer.joined.as_deref(), &viewer.seen);
    }
}

#[tokio::test]
async fn a_long_poll_ends_at_once_when_a_generation_was_stopped_or_abandoned() {
    let hub = Arc::new(TestHub::with("channels.producer_grace = \"300ms\"").await);
    let generation = Generation::numbered(Format::OpenaiChat, 4);
    let reply = generation.post(&hub, "c", &generation.truncated()).await.ok();
    assert_eq!(reply.json()["state"], "open");
    let begun = Instant::now();
    let (viewer, _) = poll(&hub, generation.format, "from=snapshot", "").await;
    assert_eq!(viewer.end.as_ref().expect("an end")["state"], "abandoned");
    assert_eq!(viewer.content, generation.content);
    let deleted = hub.request("DELETE", "/v1/channels/c", &[], "").await;
    assert_eq!(deleted.status(), 204);
    let id = hub.publish("c", "once").await;
    let polling = tokio::spawn({
        let hub = Arc::clone(&hub);
        let start = format!("last_event_id={id}");
        async move { poll(&hub, Format::Text, &start, "").await }
    });
    let body = "{\"signal\":\"stop\",\"reason\":\"user\"}";
    hub.post("/v1/signals/c", "application/json", body).await.ok();
    let (viewer, _) = within("the end", polling).await.expect("the end");
    let end = viewer.end.expect("an end");
    assert_eq!((&end["state"], &end["reason"]), (&Value::from("cancelled"), &Value::from("user")));
    assert!(begun.elapsed() < Duration::from_secs(8), "the polls did not run out");
}

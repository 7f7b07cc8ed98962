//! One generation with all kinds of viewers: from the first token, late, disconnected, and too
//! slow. All of them end with the same text.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::generation::{Format, Generation, Ledger, Viewer};
use crate::support::{SseClient, TestHub, Wire, within};

const TOKENS: usize = 2000;

/// The pace of the producer: the tokens of one burst, and the pause after it.
const AT_ONCE: usize = 10;
const PAUSE: Duration = Duration::from_millis(15);

/// Small buffers on the way to a subscriber, so that the backlog of the slow one is in the hub.
const SETTINGS: &str = "subscribers.send_buffer = \"16KiB\"\n";

/// Waits until the producer has sent this many chunks.
async fn until_sent(sent: &mut watch::Receiver<usize>, chunks: usize) {
    let what = format!("{chunks} chunks to be sent");
    within(&what, sent.wait_for(|now| *now >= chunks)).await.expect("a producer");
}

/// Watches from the first byte to the end.
fn watching(format: Format, mut client: SseClient) -> JoinHandle<Viewer> {
    tokio::spawn(async move {
        let mut viewer = Viewer::of(format);
        viewer.follow(&mut client).await;
        viewer
    })
}

/// Subscribes from this start when this many chunks are sent.
fn late(
    hub: &Arc<TestHub>,
    format: Format,
    from: &'static str,
    mut sent: watch::Receiver<usize>,
    chunks: usize,
) -> JoinHandle<Viewer> {
    let hub = Arc::clone(hub);
    tokio::spawn(async move {
        until_sent(&mut sent, chunks).await;
        Viewer::watch(&hub, format, &format!("/v1/channels/c?from={from}")).await
    })
}

/// Disconnects after each run of this many events, and resumes.
fn killed(
    hub: &Arc<TestHub>,
    format: Format,
    mut client: SseClient,
    lives: &'static [usize],
) -> JoinHandle<Viewer> {
    let hub = Arc::clone(hub);
    tokio::spawn(async move {
        let mut viewer = Viewer::of(format);
        for &events in lives {
            let until = viewer.seen.len() + events;
            viewer.until(&mut client, |viewer| viewer.seen.len() == until).await;
            drop(client);
            let id = viewer.seen.last().expect("some").id().to_owned();
            client = hub.resume("c", &id).await;
        }
        viewer.follow(&mut client).await;
        viewer
    })
}

/// Does not read before this many chunks are sent.
fn slow(
    format: Format,
    mut client: SseClient,
    mut sent: watch::Receiver<usize>,
    chunks: usize,
) -> JoinHandle<Viewer> {
    tokio::spawn(async move {
        until_sent(&mut sent, chunks).await;
        let mut viewer = Viewer::of(format);
        viewer.follow(&mut client).await;
        viewer
    })
}

#[tokio::test]
async fn all_viewers_of_a_long_generation_end_with_the_same_text() {
    let hub = Arc::new(TestHub::with(SETTINGS).await);
    let generation = Generation::numbered(Format::OpenaiChat, TOKENS);
    let format = generation.format;
    let all = generation.chunks.len();
    let (tell, sent) = watch::channel(0);
    let mut whole = Vec::new();
    for _ in 0..10 {
        let client = hub.subscribe("c").await;
        whole.push(watching(format, client));
    }
    for lives in [&[300, 5, 900][..], &[1, 1000]] {
        let client = hub.subscribe("c").await;
        whole.push(killed(&hub, format, client, lives));
    }
    let mut narrow = Wire::connect_narrow(hub.addr()).await;
    narrow.send_head("GET", "/v1/channels/c?coalesce=adaptive", &[]).await;
    let narrow = SseClient::read(narrow).await.settled().await;
    let slow = slow(format, narrow, sent.clone(), all);
    let earliest = late(&hub, format, "earliest", sent.clone(), 700);
    let snapshot = late(&hub, format, "snapshot", sent.clone(), 1100);
    let tail = late(&hub, format, "tail", sent.clone(), 1500);

    let mut producer = generation.producer(&hub, "c").await;
    for from in (0..all).step_by(AT_ONCE) {
        let until = all.min(from + AT_ONCE);
        producer.send(generation.wire(from..until)).await;
        tell.send_replace(until);
        tokio::time::sleep(PAUSE).await;
    }
    assert_eq!(producer.finish().await.ok().json()["state"], "complete");

    let ledger = Ledger::read(&hub, format, "c").await;
    assert_eq!(ledger.len(), all);
    whole.push(earliest);
    for viewer in whole {
        let viewer = within("a viewer", viewer).await.expect("all of it");
        viewer.assert_complete(&generation);
        assert_eq!(viewer.seen.len(), all, "each event once");
        ledger.assert_follows(format, None, &viewer.seen);
    }
    let snapshot = within("the one with a snapshot", snapshot).await.expect("all of it");
    snapshot.assert_complete(&generation);
    ledger.assert_snapshot(&snapshot);
    ledger.assert_follows(format, snapshot.joined.as_deref(), &snapshot.seen);
    let folded = ledger.count(snapshot.joined.as_deref().expect("an id"));
    assert_eq!(folded + snapshot.seen.len(), all, "each event once");
    let tail = within("the one at the tail", tail).await.expect("all of the rest");
    assert!(generation.content.text.ends_with(&tail.content.text) && !tail.content.text.is_empty());
    assert!(tail.seen.len() < all && tail.end.is_some());
    let slow = within("the slow one", slow).await.expect("all of it");
    slow.assert_complete(&generation);
    ledger.assert_follows(format, None, &slow.seen);
    let most = slow.seen.iter().map(|event| event.data.len()).max().unwrap_or_default();
    if std::env::var_os("FANFARE_TEST_NO_TAKEOVER").is_some() {
        return; // the kernel's send buffer holds the whole generation: the hub has no backlog
    }
    assert!(slow.seen.len() < all * 3 / 4, "fewer events: {} of {all}", slow.seen.len());
    assert!(most > 1024, "larger events: {most}");
}

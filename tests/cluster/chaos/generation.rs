//! Generations: streamed bodies with `close=auto`, of which some are stopped through another hub,
//! and some are left by their producers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use fanfare_testing::publishes::moment;
use fanfare_testing::seen::Seen;
use fanfare_testing::wire::{Answer, Client, Request, Stream, Upload};
use fanfare_testing::within;

use super::cluster::Targets;
use super::load::Tally;
use super::publisher::{attempt, until_answered};
use super::viewer::Viewer;

/// Tokens of a generation that reaches its end mark.
const TOKENS: usize = 40;

/// Tokens of one that is stopped: more than can be sent until then.
const MANY: usize = 4000;

/// The time between two tokens.
const PAUSE: Duration = Duration::from_millis(20);

/// The time limit of one attempt: longer than a whole body, and an election of the servers.
const PATIENCE: Duration = Duration::from_secs(8);

/// How a generation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its producer sends the end mark.
    Complete,
    /// A client stops it.
    Stopped,
    /// Its producer breaks off, and does not come back.
    Left,
}

/// A generation that has ended, or will.
pub(crate) struct Generation {
    pub(crate) channel: String,
    fate: Fate,
    viewer: Viewer,
}

/// Runs one generation after the other until the load stops.
pub(crate) async fn run(
    producer: usize,
    targets: Targets,
    mut rng: fastrand::Rng,
    tally: Arc<Tally>,
) -> Vec<Generation> {
    let mut generations = Vec::new();
    while !tally.stop.load(Ordering::Relaxed) {
        let fate = [Fate::Complete, Fate::Stopped, Fate::Left][rng.usize(..3)];
        let folder = if fate == Fate::Left { "left" } else { "generations" };
        let channel = format!("{folder}/{producer}-{}", generations.len());
        let viewer = Viewer::of_channel(&targets, &channel, rng.fork());
        match fate {
            Fate::Complete => complete(&channel, &targets, &mut rng, &tally).await,
            Fate::Stopped => stop(&channel, &targets, &mut rng, &tally).await,
            Fate::Left => leave(&channel, &targets, &mut rng, &tally).await,
        }
        generations.push(Generation { channel, fate, viewer });
    }
    generations
}

impl Generation {
    /// Asserts that it has ended in the right state, and that its viewer has seen all of it.
    pub(crate) async fn assert_ended(self, log: &[Seen], state: &str, targets: &Targets) {
        let Self { channel, fate, viewer } = self;
        let expected = match fate {
            Fate::Complete => "complete",
            Fate::Stopped => "cancelled",
            Fate::Left => "abandoned",
        };
        assert_eq!(state, expected, "the state of `{channel}`");
        let texts: Vec<_> = log.iter().map(|seen| seen.text.clone()).collect();
        let mut tokens: Vec<_> = (0..texts.len()).map(|number| json(&channel, number)).collect();
        if fate == Fate::Complete {
            assert_eq!(texts.len(), TOKENS + 1, "events of `{channel}`");
            tokens[TOKENS] = "[DONE]".to_owned();
        }
        assert_eq!(texts, tokens, "tokens of `{channel}`, once and in order");
        viewer.assert_saw(log, Some(expected)).await;
        if fate == Fate::Complete {
            assert_snapshots(&channel, targets).await;
        }
    }
}

/// Asserts that each hub has the whole text.
async fn assert_snapshots(channel: &str, targets: &Targets) {
    let path = format!("/v1/channels/{channel}?from=snapshot");
    let text: String = (0..TOKENS).map(|number| format!("{number} ")).collect();
    for addr in targets.0.iter() {
        let opened = within(&path, Stream::open(*addr, &path, None, None)).await;
        let mut stream = opened.expect("an answer").expect("a stream");
        let snapshot = within(&path, stream.next()).await.expect("a stream").expect("an event");
        assert_eq!(snapshot.name, "fanfare.snapshot", "{snapshot:?}");
        assert_eq!(snapshot.json()["text"], text, "the text of `{channel}` at {addr}");
    }
}

/// Returns the data of a token.
fn json(channel: &str, number: usize) -> String {
    format!(
        "{{\"id\":\"{channel}\",\"object\":\"chat.completion.chunk\",\
         \"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{number} \"}}}}]}}"
    )
}

fn request(channel: &str) -> Request {
    Request::new("POST", &format!("/v1/channels/{channel}?close=auto"))
        .header("Content-Type", "text/event-stream")
        .header("Idempotency-Key", channel)
}

fn pieces(channel: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("data: {}\n\n", json(channel, number))).collect()
}

/// Sends the whole body to any hub until one has taken it.
async fn produce(
    body: &Request,
    targets: &Targets,
    rng: &mut fastrand::Rng,
    tally: &Tally,
    patience: Duration,
) -> Answer {
    within(body.line(), async {
        loop {
            if let Some(answer) = attempt(targets.any(rng), body, patience).await {
                return answer;
            }
            tally.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(moment(rng, 200)).await;
        }
    })
    .await
}

async fn complete(channel: &str, targets: &Targets, rng: &mut fastrand::Rng, tally: &Tally) {
    let mut pieces = pieces(channel, TOKENS);
    pieces.push("data: [DONE]\n\n".to_owned());
    let body = request(channel).streamed(pieces, PAUSE);
    let receipt = produce(&body, targets, rng, tally, PATIENCE).await.expect(200).json();
    assert_eq!(receipt["events"], TOKENS + 1, "{receipt}");
    assert_eq!(receipt["state"], "complete", "{receipt}");
}

/// Streams to one hub, and stops through any.
async fn stop(channel: &str, targets: &Targets, rng: &mut fastrand::Rng, tally: &Arc<Tally>) {
    let body = request(channel).streamed(pieces(channel, MANY), PAUSE);
    let mut producers_rng = rng.fork();
    let producer = async {
        let patience = PAUSE * MANY as u32;
        let answer = produce(&body, targets, &mut producers_rng, tally, patience).await;
        answer.expect_problem(409, "channel_stopped");
        Instant::now()
    };
    let stopper = async {
        // A stop that comes before the first event would be kept for the next.
        until_events(channel, targets, rng).await;
        tokio::time::sleep(moment(rng, 500)).await;
        let signal = Request::new("POST", &format!("/v1/signals/{channel}"))
            .text(r#"{"signal":"stop","reason":"enough"}"#);
        let answer = until_answered(&signal, targets, rng, tally).await.expect(200).json();
        assert_eq!(answer["state"], "cancelled", "{answer}");
        Instant::now()
    };
    let (ended, stopped) = tokio::join!(producer, stopper);
    tally.record_stop(ended.saturating_duration_since(stopped));
}

/// Waits until the channel has events at one of the hubs.
async fn until_events(channel: &str, targets: &Targets, rng: &mut fastrand::Rng) {
    let head = Request::new("HEAD", &format!("/v1/channels/{channel}"));
    within(&format!("events of `{channel}`"), async {
        while !head_says(targets.any(rng), &head, |answer| {
            answer.header("fanfare-events").is_some_and(|events| events != "0")
        })
        .await
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Breaks off a body that the cluster knows as streaming.
async fn leave(channel: &str, targets: &Targets, rng: &mut fastrand::Rng, tally: &Tally) {
    let head = Request::new("HEAD", &format!("/v1/channels/{channel}"));
    let pieces = pieces(channel, TOKENS);
    let is_streaming = AtomicBool::new(false);
    let sent = AtomicUsize::new(0);
    within(&format!("a producer of `{channel}`"), async {
        loop {
            let addr = targets.any(rng);
            let body = async {
                let mut upload = Upload::begin(addr, &request(channel)).await.ok()?;
                // The body is the same in each attempt.
                for (number, piece) in pieces.iter().enumerate() {
                    upload.say(piece).await.ok()?;
                    sent.fetch_max(number + 1, Ordering::Relaxed);
                    let answer = head_says(addr, &head, |answer| {
                        answer.header("fanfare-producer") == Some("streaming")
                            && answer.header("fanfare-events").is_some_and(|count| count != "0")
                    });
                    is_streaming.store(answer.await, Ordering::Relaxed);
                    if is_streaming.load(Ordering::Relaxed) {
                        return Some(());
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                None
            };
            if timeout(PATIENCE, body).await.ok().flatten().is_some() {
                return;
            }
            tally.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(moment(rng, 200)).await;
        }
    })
    .await;
}

async fn head_says(addr: SocketAddr, head: &Request, holds: impl Fn(&Answer) -> bool) -> bool {
    let answer = timeout(Duration::from_secs(2), async { Client::new(addr).send(head).await });
    answer
        .await
        .is_ok_and(|answer| answer.is_ok_and(|answer| answer.status == 200 && holds(&answer)))
}

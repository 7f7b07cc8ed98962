//! A thousand subscribers reconnect at the same time, thousands of events behind the tail, while
//! events are published: all catch up, each without a gap, and the hub does not read the log into
//! memory once for each subscriber.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::{Instant, MissedTickBehavior};

use fanfare_testing::seen::{Seen, halves};
use fanfare_testing::{usage, within};

use super::support::{ALONE, Hub};
use super::wire::{Client, Event, Request, Stream, Upload};

const SUBSCRIBERS: usize = 1000;

/// The number of events before the kill, and the number that each subscriber has not seen.
const BEFORE: u64 = 10_000;
const BEHIND: u64 = 5_000;

/// Events published every 20 milliseconds: 500 in a second, or fewer where a machine is too busy
/// with reading what a thousand subscribers receive.
const EVENTS_A_TICK: u64 = 10;
const TICK: Duration = Duration::from_millis(20);

/// The minimum number of events published while they catch up.
const MEANWHILE: u64 = 1_000;

/// The limit of the hub's memory, in bytes. A copy of the backlog for each subscriber would be more
/// than a gigabyte.
const BOUND: u64 = 400 << 20;

const CHANNEL: &str = "logs/busy";
const TYPE: &str = "application/x-ndjson";

/// About two hundred bytes on the wire.
fn line(number: u64) -> String {
    format!("{{\"n\":\"{number:06}\",\"pad\":\"{}\"}}\n", "x".repeat(140))
}

fn number(event: &Event) -> u64 {
    let digits = event.data.strip_prefix("{\"n\":\"").and_then(|rest| rest.get(..6));
    let number = digits.and_then(|digits| digits.parse().ok());
    number.unwrap_or_else(|| panic!("neither gap nor anything else, but numbers: {event:?}"))
}

/// Counters of all subscribers together.
#[derive(Default)]
struct Tally {
    /// Subscribers that have seen every event from before the kill.
    caught_up: AtomicUsize,
    /// Reconnects of subscribers whose stream was cut.
    resumed: AtomicU64,
}

/// Reads a contiguous run of events from this one to the end of the channel, and returns the last
/// number.
async fn follow(addr: SocketAddr, start: Seen, from: u64, tally: Arc<Tally>) -> u64 {
    let path = format!("/v1/channels/{CHANNEL}");
    let (epoch, mut last) = halves(&start.id);
    let mut last_id = start.id.clone();
    let mut expected = from;
    loop {
        let opened = Stream::open(addr, &path, Some(&last_id), None).await;
        let mut stream = opened.expect("a connection").expect("a stream, and not its end");
        while let Ok(Some(event)) = stream.next().await {
            if event.name == "fanfare.end" {
                event.assert_end("complete");
                return expected - 1;
            }
            assert_eq!(number(&event), expected, "the next event: {event:?}");
            let (same_epoch, offset) = halves(&event.id);
            assert!(same_epoch == epoch && last < offset, "{} behind {last_id}", event.id);
            (last_id, last) = (event.id, offset);
            expected += 1;
            if expected == BEFORE {
                tally.caught_up.fetch_add(1, Ordering::Relaxed);
            }
        }
        // It lagged beyond the hub's limit, which ended the stream: it resumes.
        tally.resumed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Publishes until no subscriber lags behind, closes the channel, and returns the last number.
async fn publish(addr: SocketAddr, tally: Arc<Tally>) -> u64 {
    let path = format!("/v1/channels/{CHANNEL}?close=complete");
    let request = Request::new("POST", &path).header("Content-Type", TYPE);
    let mut upload = Upload::begin(addr, &request).await.expect("a connection");
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = BEFORE;
    while tally.caught_up.load(Ordering::Relaxed) < SUBSCRIBERS || next < BEFORE + MEANWHILE {
        ticks.tick().await;
        let lines: String = (next..next + EVENTS_A_TICK).map(line).collect();
        upload.say(&lines).await.expect("taken");
        next += EVENTS_A_TICK;
    }
    let receipt = upload.finish().await.expect("an answer").expect(200).json();
    assert_eq!(receipt["events"], next - BEFORE, "{receipt}");
    next - 1
}

async fn fill(hub: &Hub) -> Vec<Seen> {
    let mut client = Client::new(hub.addr());
    for from in (0..BEFORE).step_by(1000) {
        let lines: String = (from..from + 1000).map(line).collect();
        let request = Request::new("POST", &format!("/v1/channels/{CHANNEL}"));
        let request = request.header("Content-Type", TYPE).text(&lines);
        let answer = within("a receipt", client.send(&request)).await.expect("an answer");
        assert_eq!(answer.expect(200).json()["events"], 1000);
    }
    let log = hub.read(CHANNEL, None).await;
    assert_eq!(log.len() as u64, BEFORE, "all is retained");
    log
}

/// Each subscriber needs a descriptor here.
fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let needed = SUBSCRIBERS as u64 + 100;
    assert!(descriptors >= needed, "{needed} descriptors are needed, {descriptors} allowed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_reconnect_far_behind_while_publishing_continues() {
    let _alone = ALONE.lock().await;
    raise_descriptor_limit();
    let mut hub = Hub::start(
        "store.durability = \"sync\"\n\
         channels.max_events = 200000\n\
         channels.max_bytes = \"1GiB\"\n",
    );
    let log = fill(&hub).await;
    hub.restart();

    let addr = hub.addr();
    let tally = Arc::new(Tally::default());
    let begun = Instant::now();
    let publisher = tokio::spawn(publish(addr, Arc::clone(&tally)));
    let subscribers: Vec<_> = (0..SUBSCRIBERS as u64)
        .map(|subscriber| {
            // The start varies, so that subscribers do not read the same pieces.
            let from = BEFORE - BEHIND - subscriber % 50;
            let start = log[from as usize - 1].clone();
            tokio::spawn(follow(addr, start, from, Arc::clone(&tally)))
        })
        .collect();

    let done = Arc::new(AtomicBool::new(false));
    let mut highest = 0;
    let all = {
        let done = Arc::clone(&done);
        tokio::spawn(async move {
            let mut lasts = Vec::new();
            for subscriber in subscribers {
                lasts.push(subscriber.await.expect("a subscriber that has not failed"));
            }
            done.store(true, Ordering::Relaxed);
            lasts
        })
    };
    let patience = Duration::from_secs(240);
    while !done.load(Ordering::Relaxed) && !all.is_finished() {
        assert!(hub.is_running(), "the hub has ended");
        highest = highest.max(usage::resident(hub.id()));
        let caught_up = tally.caught_up.load(Ordering::Relaxed);
        assert!(highest < BOUND, "{highest} bytes of memory, and {caught_up} have caught up");
        assert!(begun.elapsed() < patience, "only {caught_up} have caught up in {patience:?}");
        tokio::time::sleep(TICK).await;
    }
    let lasts = all.await.expect("subscribers that have not failed");
    let last = within("the publisher", publisher).await.expect("a publisher that has not failed");
    assert!(lasts.iter().all(|seen| *seen == last), "not all have seen {last}: {lasts:?}");
    eprintln!(
        "caught up and ended in {:?}, with {} MiB at most and {} events meanwhile; {} resumed",
        begun.elapsed(),
        highest >> 20,
        last + 1 - BEFORE,
        tally.resumed.load(Ordering::Relaxed)
    );
}

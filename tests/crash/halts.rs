//! `async` channels, over some kills: acknowledged events are kept, and the kept events are the
//! beginning of what was sent, without a hole. No publisher retries here, so the end may be
//! missing.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use tokio::sync::watch;

use fanfare_testing::publishes::{label, moment};
use fanfare_testing::seen::{Seen, assert_ids_grow, assert_same, halves};
use fanfare_testing::within;

use super::kills::{ROOMY, numbers};
use super::support::{ALONE, Hub, chance, rounds};
use super::viewer::Viewer;
use super::wire::{Client, Request, Upload};

const ROUNDS: u64 = 20;
const PUBLISHERS: usize = 4;

/// The maximum time from the first publish to the kill, in milliseconds.
const LONGEST_LIFE: u64 = 120;

/// The channel of all publishers; the others have one publisher each.
const SHARED: &str = "halts/shared";

fn own(publisher: usize) -> String {
    format!("halts/{publisher}")
}

/// The progress of a publisher in one channel, in events of all rounds.
#[derive(Clone, Copy, Default)]
struct Progress {
    sent: u64,
    acknowledged: u64,
}

type Channels = HashMap<String, Progress>;

/// Publishes during one life of the hub, and records its progress.
struct Publisher {
    name: usize,
    addr: SocketAddr,
    rng: fastrand::Rng,
    channels: Channels,
    begun: watch::Sender<u64>,
}

impl Publisher {
    async fn until_halted(mut self) -> Channels {
        let mut client = Client::new(self.addr);
        loop {
            let channel = if self.rng.bool() { own(self.name) } else { SHARED.to_owned() };
            let mut progress = self.channels.get(&channel).copied().unwrap_or_default();
            let published = match self.rng.u8(..3) {
                0 => self.lines(&mut client, &channel, &mut progress, 1).await,
                1 => self.lines(&mut client, &channel, &mut progress, 50).await,
                _ => self.stream(&channel, &mut progress).await,
            };
            self.channels.insert(channel, progress);
            match published {
                Ok(()) => tokio::time::sleep(moment(&mut self.rng, 2)).await,
                Err(_) => return self.channels,
            }
        }
    }

    /// Some events in one piece.
    async fn lines(
        &self,
        client: &mut Client,
        channel: &str,
        progress: &mut Progress,
        count: u64,
    ) -> io::Result<()> {
        let numbers = progress.sent..progress.sent + count;
        let lines = numbers.map(|number| format!("\"{}\"\n", label(self.name, number)));
        let request = Request::new("POST", &format!("/v1/channels/{channel}"))
            .header("Content-Type", "application/x-ndjson")
            .text(&lines.collect::<String>());
        client.connect().await?;
        self.begun.send_modify(|begun| *begun += 1);
        progress.sent += count;
        let receipt = client.send(&request).await?.expect(200).json();
        assert_eq!(receipt["events"], count, "{receipt}");
        progress.acknowledged = progress.sent;
        Ok(())
    }

    /// Many events in one body, which is mostly still under way when the hub is killed.
    async fn stream(&mut self, channel: &str, progress: &mut Progress) -> io::Result<()> {
        let request = Request::new("POST", &format!("/v1/channels/{channel}"))
            .header("Content-Type", "text/event-stream");
        let mut upload = Upload::begin(self.addr, &request).await?;
        self.begun.send_modify(|begun| *begun += 1);
        let pieces = self.rng.u64(1..=50);
        for _ in 0..pieces {
            let numbers = progress.sent..progress.sent + 10;
            let events = numbers.map(|n| format!("data: {}\n\n", label(self.name, n)));
            progress.sent += 10;
            upload.say(&events.collect::<String>()).await?;
            tokio::time::sleep(moment(&mut self.rng, 2)).await;
        }
        let receipt = upload.finish().await?.expect(200).json();
        assert_eq!(receipt["events"], pieces * 10, "{receipt}");
        progress.acknowledged = progress.sent;
        Ok(())
    }
}

/// The kept events by channel, and the progress of their publishers.
struct Ledger {
    publishers: Vec<Channels>,
    logs: HashMap<String, Vec<Seen>>,
    /// Events that were sent and neither acknowledged nor kept, and those only not acknowledged.
    lost: u64,
    kept_unheard: u64,
}

impl Ledger {
    fn new() -> Self {
        let publishers = vec![Channels::new(); PUBLISHERS];
        Self { publishers, logs: HashMap::new(), lost: 0, kept_unheard: 0 }
    }

    /// Reads the events since the last check, and compares them with those sent.
    async fn check(&mut self, hub: &Hub) {
        for channel in (0..PUBLISHERS).map(own).chain([SHARED.to_owned()]) {
            let log = self.logs.entry(channel.clone()).or_default();
            let after = log.last().map(|last| last.id.clone());
            log.extend(hub.read(&channel, after.as_deref()).await);
            assert_ids_grow(log);
            for (publisher, channels) in self.publishers.iter_mut().enumerate() {
                let kept = numbers(log, publisher);
                let hole = (0..).zip(&kept).find(|(number, kept)| number != *kept);
                assert_eq!(hole, None, "publisher {publisher} in `{channel}`: expected, and kept");
                let kept = kept.len() as u64;
                let progress = channels.entry(channel.clone());
                let progress = progress.or_default();
                let Progress { sent, acknowledged } = *progress;
                assert!(
                    acknowledged <= kept && kept <= sent,
                    "publisher {publisher} in `{channel}`: {sent} sent, {acknowledged} \
                     acknowledged, {kept} kept"
                );
                self.lost += sent - kept;
                self.kept_unheard += kept - acknowledged;
                *progress = Progress { sent: kept, acknowledged: kept };
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_async_channel_keeps_what_was_acknowledged_when_the_process_is_killed() {
    let _alone = ALONE.lock().await;
    let mut rng = chance();
    let mut hub = Hub::start(&format!("store.durability = \"async\"\n{ROOMY}"));
    let viewers =
        [Viewer::of_channel(hub.addr(), SHARED), Viewer::of_pattern(hub.addr(), "halts/**")];
    let mut ledger = Ledger::new();
    let begun = watch::Sender::new(0);
    for round in 0..rounds(ROUNDS).max(1) {
        let before = *begun.borrow();
        let mut publishers = Vec::new();
        for (name, channels) in ledger.publishers.drain(..).enumerate() {
            let addr = hub.addr();
            let rng = rng.fork();
            let begun = begun.clone();
            let publisher = Publisher { name, addr, rng, channels, begun };
            publishers.push(tokio::spawn(publisher.until_halted()));
        }
        let mut some = begun.subscribe();
        within("a publish", some.wait_for(|now| *now > before)).await.expect("one");
        tokio::time::sleep(moment(&mut rng, LONGEST_LIFE)).await;
        assert!(hub.is_running(), "the hub ended by itself in round {round}");
        hub.kill();
        for publisher in publishers {
            let halted = within("a publisher without a hub", publisher).await;
            ledger.publishers.push(halted.expect("a publisher that has not failed"));
        }
        hub.start();
        ledger.check(&hub).await;
    }

    // Read at once, the log equals what was read piece by piece, and what the viewers saw.
    for (channel, log) in &ledger.logs {
        assert_same(channel, &hub.read_all(channel).await, log);
    }
    let mut all: Vec<Seen> = ledger.logs.values().flatten().cloned().collect();
    all.sort_by_key(|seen| halves(&seen.id).1);
    assert_ids_grow(&all);
    for (viewer, log) in viewers.into_iter().zip([&ledger.logs[SHARED], &all]) {
        let what = viewer.what().to_owned();
        assert_same(&what, &viewer.all(log).await, log);
    }
    let Ledger { lost, kept_unheard, .. } = ledger;
    eprintln!(
        "{} events kept, of them {kept_unheard} not acknowledged; {lost} more were sent",
        all.len()
    );
}

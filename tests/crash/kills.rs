//! Promise 5 in `sync` channels, over many kills: each acknowledged event is there, once, in order,
//! and each subscriber has seen it once. Publishers retry with their `Idempotency-Key` until they
//! get an answer, so nothing is missing at all.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use fanfare_testing::publishes::{Entry, Operation, Operations, label, moment};
use fanfare_testing::seen::{Seen, assert_ids_grow, assert_same, halves};
use fanfare_testing::within;

use super::support::{ALONE, Hub, chance, rounds};
use super::viewer::Viewer;
use super::wire::{Answer, Client, Request};

const ROUNDS: u64 = 200;
const PUBLISHERS: usize = 4;

/// The maximum time from the first publish to the kill, in milliseconds.
const LONGEST_LIFE: u64 = 120;

/// One start in this many is killed, too, before it is finished.
const KILLED_STARTS: u64 = 8;

const SHARED: &str = "crash/shared";

/// All that is published is retained.
pub(crate) const ROOMY: &str = "channels.max_events = 1000000\nchannels.max_bytes = \"1GiB\"\n";

fn own(publisher: usize) -> String {
    format!("crash/{publisher}")
}

/// The numbers that a publisher's events have, in the order of the log.
pub(crate) fn numbers(log: &[Seen], publisher: usize) -> Vec<u64> {
    let labels = log.iter().map(|seen| seen.text.trim_matches('"').split_once('-'));
    let labels = labels.map(|label| label.expect("a label"));
    let own = labels.filter(|(name, _)| *name == publisher.to_string());
    own.map(|(_, number)| number.parse().expect("a number")).collect()
}

/// Counters of all publishers together.
#[derive(Default)]
struct Tally {
    begun: watch::Sender<u64>,
    acknowledged: AtomicU64,
    unanswered: AtomicU64,
    /// Receipts that were requested again, from a hub that did not write the first.
    repeated: AtomicU64,
    stop: AtomicBool,
    failed: AtomicBool,
}

struct Publisher {
    client: Client,
    rng: fastrand::Rng,
    operations: Operations,
    ledger: Vec<Entry>,
    tally: Arc<Tally>,
}

impl Publisher {
    fn start(
        name: usize,
        addr: SocketAddr,
        rng: fastrand::Rng,
        tally: &Arc<Tally>,
    ) -> JoinHandle<Vec<Entry>> {
        let client = Client::new(addr);
        let tally = Arc::clone(tally);
        let operations = Operations::new(name, [SHARED.to_owned(), own(name)], 4);
        let ledger = Vec::new();
        tokio::spawn(Self { client, rng, operations, ledger, tally }.publish())
    }

    async fn publish(mut self) -> Vec<Entry> {
        while !self.tally.stop.load(Ordering::Relaxed) {
            let operation = self.operations.make(&mut self.rng);
            let receipt = self.until_acknowledged(&operation).await;
            self.tally.acknowledged.fetch_add(operation.count, Ordering::Relaxed);
            self.ledger.push(Entry { operation, receipt });
            tokio::time::sleep(moment(&mut self.rng, 4)).await;
        }
        std::mem::take(&mut self.ledger)
    }

    /// Repeats the request until the hub lives long enough to answer.
    async fn until_acknowledged(&mut self, operation: &Operation) -> Value {
        let what = format!("a receipt for {}", operation.request.line());
        within(&what, async {
            loop {
                if let Some(answer) = self.attempt(&operation.request).await {
                    return answer.json();
                }
                self.repeat_the_last().await;
            }
        })
        .await
    }

    /// Repeats the request acknowledged before the kill and expects the same receipt.
    async fn repeat_the_last(&mut self) {
        let Some(Entry { operation, receipt }) = self.ledger.last() else { return };
        let (operation, receipt) = (operation.clone(), receipt.clone());
        if let Some(answer) = self.attempt(&operation.request).await {
            Entry { operation, receipt }.assert_same(&answer.json());
            self.tally.repeated.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the answer, or `None` if the hub is killed meanwhile or is down.
    async fn attempt(&mut self, request: &Request) -> Option<Answer> {
        if self.client.connect().await.is_err() {
            tokio::time::sleep(Duration::from_millis(3)).await;
            return None;
        }
        self.tally.begun.send_modify(|begun| *begun += 1);
        match self.client.send(request).await {
            Ok(answer) => Some(answer.expect(200)),
            Err(_) => {
                self.tally.unanswered.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tally.failed.store(true, Ordering::Relaxed);
            self.tally.begun.send_modify(|begun| *begun += 1); // ends the wait of the killer
        }
    }
}

/// Kills the hub repeatedly, each time at a random moment after publishing began.
async fn live_and_die(hub: &mut Hub, rng: &mut fastrand::Rng, tally: &Tally, viewers: &[Viewer]) {
    let mut begun = tally.begun.subscribe();
    for round in 0..rounds(ROUNDS) {
        let before = *begun.borrow_and_update();
        let what = format!("a publish in round {round}");
        within(&what, begun.wait_for(|begun| *begun > before)).await.expect("publishers");
        tokio::time::sleep(moment(rng, LONGEST_LIFE)).await;
        assert!(!tally.failed.load(Ordering::Relaxed), "a publisher failed: see above");
        assert!(hub.is_running(), "the hub ended by itself in round {round}");
        hub.kill();
        if rng.u64(..KILLED_STARTS) == 0 {
            hub.start_and_kill(moment(rng, LONGEST_LIFE)).await;
        }
        hub.start();
        if let Some(viewer) = viewers.iter().find(|viewer| viewer.has_failed()) {
            panic!("{} failed in round {round}: see above", viewer.what());
        }
    }
    let enough = *begun.borrow_and_update() + 50 * PUBLISHERS as u64;
    let more = begun.wait_for(|begun| *begun > enough);
    within("publishers who are not disturbed any more", more).await.expect("publishers");
}

/// Asserts that the log has all acknowledged events and no others, each once and in order.
fn assert_kept(ledgers: &[Vec<Entry>], log: &[Seen], channel: &str) {
    let places: HashMap<_, _> = log.iter().enumerate().map(|(at, seen)| (&*seen.id, at)).collect();
    for (publisher, ledger) in ledgers.iter().enumerate() {
        let entries = ledger.iter().filter(|entry| entry.operation.channel == channel);
        let published: u64 = entries.clone().map(|entry| entry.operation.count).sum();
        let kept = numbers(log, publisher);
        let all = (0..published).collect::<Vec<_>>();
        let parting = kept.iter().zip(&all).find(|(kept, number)| kept != number);
        assert_eq!(parting, None, "publisher {publisher} in `{channel}`: kept, and acknowledged");
        assert_eq!(kept.len(), all.len(), "publisher {publisher} in `{channel}`: kept and sent");
        for Entry { operation, receipt } in entries {
            assert_eq!(receipt["events"], operation.count, "{receipt}");
            let last = operation.first + operation.count - 1;
            for (key, number) in [("first_id", operation.first), ("last_id", last)] {
                let id = receipt[key].as_str().expect("an id");
                let place = places.get(id).unwrap_or_else(|| panic!("{id} is not in `{channel}`"));
                let text = log[*place].text.trim_matches('"');
                assert_eq!(text, label(publisher, number), "{key} of {receipt}");
            }
        }
    }
}

/// Asserts that later events of a publisher have greater ids, across channels and with other events
/// between.
fn assert_ids_of_receipts_grow(ledger: &[Entry]) {
    let id = |entry: &Entry, key: &str| halves(entry.receipt[key].as_str().expect("an id")).1;
    for pair in ledger.windows(2) {
        let earlier = &pair[0];
        let later = &pair[1];
        let grew = id(earlier, "last_id") < id(later, "first_id");
        assert!(grew, "{} came before {}", earlier.receipt, later.receipt);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_acknowledged_is_lost_over_many_kills() {
    let _alone = ALONE.lock().await;
    let mut rng = chance();
    let mut hub = Hub::start(&format!("store.durability = \"sync\"\n{ROOMY}"));
    let addr = hub.addr();
    let tally = Arc::new(Tally::default());
    let viewers = vec![
        Viewer::of_channel(addr, &own(0)),
        Viewer::of_channel(addr, SHARED),
        Viewer::of_pattern(addr, "crash/*"),
        Viewer::slow(addr, &own(1), rng.fork()),
    ];
    let publishers: Vec<_> =
        (0..PUBLISHERS).map(|name| Publisher::start(name, addr, rng.fork(), &tally)).collect();
    live_and_die(&mut hub, &mut rng, &tally, &viewers).await;
    tally.stop.store(true, Ordering::Relaxed);
    let mut ledgers = Vec::new();
    for publisher in publishers {
        ledgers.push(publisher.await.expect("a publisher that has not failed"));
    }

    let mut logs = HashMap::new();
    for channel in (0..PUBLISHERS).map(own).chain([SHARED.to_owned()]) {
        let log = hub.read_all(&channel).await;
        assert_ids_grow(&log);
        assert_kept(&ledgers, &log, &channel);
        logs.insert(channel, log);
    }
    ledgers.iter().for_each(|ledger| assert_ids_of_receipts_grow(ledger));
    let mut all: Vec<Seen> = logs.values().flatten().cloned().collect();
    all.sort_by_key(|seen| halves(&seen.id).1);
    assert_ids_grow(&all);

    let expected = [&logs[&own(0)], &logs[SHARED], &all, &logs[&own(1)]];
    let late = Viewer::of_pattern(addr, "crash/*");
    for (viewer, log) in viewers.into_iter().zip(expected).chain([(late, &all)]) {
        let what = viewer.what().to_owned();
        let subscribed = viewer.subscribed();
        let seen = viewer.all(log).await;
        assert_same(&what, &seen, log);
        eprintln!("{what} subscribed {subscribed} times and saw {} events", seen.len());
    }
    report(&tally, all.len());
}

/// Prints the effects of the kills, and asserts that there were some.
fn report(tally: &Tally, events: usize) {
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let acknowledged = count(&tally.acknowledged);
    let unanswered = count(&tally.unanswered);
    let repeated = count(&tally.repeated);
    eprintln!(
        "{events} events of {acknowledged} acknowledged; {unanswered} requests had no answer; \
         {repeated} receipts were the same once more"
    );
    let rounds = rounds(ROUNDS);
    assert!(acknowledged >= rounds, "too little was published to say anything");
    assert!(repeated >= rounds / 2, "too few receipts were asked for again");
    assert!(unanswered >= rounds / 2, "too few requests were under way when the hub was killed");
}

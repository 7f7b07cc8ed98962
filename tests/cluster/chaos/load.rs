//! The load on a cluster while something fails, and what must hold in the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use fanfare_testing::publishes::Entry;
use fanfare_testing::seen::{self, Seen, assert_ids_grow, assert_same, halves};
use fanfare_testing::wire::Request;
use fanfare_testing::{eventually, within};

use super::cluster::Cluster;
use super::generation::{self, Generation};
use super::publisher::{Publisher, SHARED, assert_ids_of_receipts_grow, assert_kept, own};
use super::viewer::Viewer;

const PUBLISHERS: usize = 3;
const PRODUCERS: usize = 3;
const PATTERNS: [&str; 3] = ["load/**", "generations/**", "left/**"];

/// Counters of all clients together.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) stop: AtomicBool,
    pub(crate) retries: AtomicU64,
    longest_reply: Mutex<Duration>,
    stops: Mutex<Vec<Duration>>,
}

impl Tally {
    /// Records the time from the first attempt of a publish to its receipt.
    pub(crate) fn record_reply(&self, time: Duration) {
        let mut longest = self.longest_reply.lock();
        *longest = longest.max(time);
    }

    /// Records the time from the reply to a stop until the producer's.
    pub(crate) fn record_stop(&self, time: Duration) {
        self.stops.lock().push(time);
    }
}

/// Clients that publish and watch.
pub(crate) struct Load {
    tally: Arc<Tally>,
    publishers: Vec<JoinHandle<Vec<Entry>>>,
    producers: Vec<JoinHandle<Vec<Generation>>>,
    of_patterns: Viewer,
    of_channels: Vec<(String, Viewer)>,
}

impl Load {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let mut rng = chance();
        let targets = cluster.targets();
        let tally = Arc::<Tally>::default();
        let channels = [SHARED.to_owned(), own(0), own(1)];
        let of_channels = channels.into_iter().map(|channel| {
            let viewer = Viewer::of_channel(&targets, &channel, rng.fork());
            (channel, viewer)
        });
        let of_channels = of_channels.collect();
        let of_patterns = Viewer::of_patterns(&targets, &PATTERNS, rng.fork());
        let publishers = (0..PUBLISHERS)
            .map(|name| tokio::spawn(Publisher::new(name, &targets, rng.fork(), &tally).run()));
        let publishers = publishers.collect();
        let producers = (0..PRODUCERS).map(|name| {
            let (targets, tally) = (targets.clone(), Arc::clone(&tally));
            tokio::spawn(generation::run(name, targets, rng.fork(), tally))
        });
        let producers = producers.collect();
        Self { tally, publishers, producers, of_patterns, of_channels }
    }

    /// Ends the load, and asserts that nothing was lost, doubled or reordered.
    pub(crate) async fn finish(self, scenario: &str, cluster: &Cluster) {
        self.tally.stop.store(true, Ordering::Relaxed);
        let mut ledgers = Vec::new();
        for publisher in self.publishers {
            ledgers.push(within("a publisher", publisher).await.expect("one that has not failed"));
        }
        let mut generations = Vec::new();
        for producer in self.producers {
            generations.extend(within("a producer", producer).await.expect("one without failure"));
        }
        cluster.ready().await;
        let named = generations.iter().map(|generation| generation.channel.clone());
        let channels: Vec<_> = (0..PUBLISHERS).map(own).chain([SHARED.to_owned()]).collect();
        let ended = generations.len();
        let states = states(cluster, named).await;
        let logs = logs(cluster, channels.iter().chain(states.keys())).await;
        for channel in &channels {
            assert_ids_grow(&logs[channel]);
            assert_kept(&ledgers, &logs[channel], channel);
        }
        ledgers.iter().for_each(|ledger| assert_ids_of_receipts_grow(ledger));
        for generation in generations {
            let (log, state) = (&logs[&generation.channel], &states[&generation.channel]);
            generation.assert_ended(log, state, &cluster.targets()).await;
        }
        for (channel, viewer) in self.of_channels {
            viewer.assert_saw(&logs[&channel], None).await;
        }
        let hops = self.of_patterns.hops();
        let silence = self.of_patterns.longest_silence();
        let events = assert_saw_all(self.of_patterns, &logs, &states).await;
        assert_agreement(cluster).await;
        let retries = self.tally.retries.load(Ordering::Relaxed);
        let reply = *self.tally.longest_reply.lock();
        let stop = self.tally.stops.lock().iter().max().copied().unwrap_or_default();
        // Printed only: times depend on the load of the machine.
        println!(
            "{scenario}: {events} events, {ended} generations, {retries} retries, {hops} hops; \
             longest reply {reply:.1?}, longest silence {silence:.1?}, longest stop {stop:.1?}"
        );
    }
}

/// Returns the states of channels that end, which are the same at all hubs.
async fn states(
    cluster: &Cluster,
    channels: impl Iterator<Item = String>,
) -> BTreeMap<String, String> {
    let mut states = BTreeMap::new();
    for channel in channels {
        let head = Request::new("HEAD", &format!("/v1/channels/{channel}"));
        for hub in &cluster.hubs {
            let state = eventually(&format!("the end of `{channel}`"), async || {
                let answer = hub.ask(&head).await;
                answer.header("fanfare-state").filter(|state| *state != "open").map(str::to_owned)
            })
            .await;
            let first = states.entry(channel.clone()).or_insert_with(|| state.clone());
            assert_eq!(*first, state, "`{channel}` at {}, and at the first hub", hub.addr);
        }
    }
    states
}

/// Returns the logs of channels, which are the same at all hubs.
async fn logs<'a>(
    cluster: &Cluster,
    channels: impl Iterator<Item = &'a String>,
) -> BTreeMap<String, Vec<Seen>> {
    let mut logs = BTreeMap::new();
    for channel in channels {
        let (log, end) = seen::read(cluster.hubs[0].addr, channel, None).await;
        for hub in &cluster.hubs[1..] {
            let what = format!("`{channel}` at {}", hub.addr);
            let (other, other_end) = eventually(&what, async || {
                let (other, other_end) = seen::read(hub.addr, channel, None).await;
                (other.len() >= log.len()).then_some((other, other_end))
            })
            .await;
            assert_same(&what, &other, &log);
            assert_eq!(other_end, end, "{what}");
        }
        logs.insert(channel.clone(), log);
    }
    logs
}

/// Asserts that a viewer of all channels has seen all of them in one order, and all ends.
async fn assert_saw_all(
    viewer: Viewer,
    logs: &BTreeMap<String, Vec<Seen>>,
    states: &BTreeMap<String, String>,
) -> usize {
    let mut all: Vec<Seen> = logs.values().flatten().cloned().collect();
    all.sort_by_key(|seen| halves(&seen.id).1);
    eventually("a viewer of patterns to see all ends", async || {
        (viewer.ends().len() >= states.len()).then_some(())
    })
    .await;
    let mut ends = viewer.ends();
    ends.sort();
    assert_eq!(ends, states.clone().into_iter().collect::<Vec<_>>(), "each end once");
    viewer.assert_saw(&all, None).await;
    all.len()
}

/// Waits until each hub has the other two, with the same settings. A hub whose state differs from
/// theirs would have left.
async fn assert_agreement(cluster: &Cluster) {
    for hub in &cluster.hubs {
        eventually("a cluster of three hubs", async || {
            let nodes = hub.nodes().await;
            (nodes.len() == 3 && nodes.iter().all(|node| node["agrees"] == true)).then_some(())
        })
        .await;
    }
}

/// Returns the random source of a test, and prints how to repeat its choices.
fn chance() -> fastrand::Rng {
    let given = std::env::var_os("FANFARE_CHAOS_SEED");
    let given = given.map(|text| text.to_str().and_then(|text| text.parse().ok()));
    let seed = given.map_or_else(|| fastrand::u64(..), |number| number.expect("a number"));
    eprintln!("FANFARE_CHAOS_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

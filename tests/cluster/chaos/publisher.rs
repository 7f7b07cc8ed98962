//! Publishers that retry with their idempotency key at another hub until they have a receipt.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use fanfare_testing::publishes::{Entry, Operations, label, moment};
use fanfare_testing::seen::{Seen, halves};
use fanfare_testing::wire::{Answer, Client, Request};
use fanfare_testing::within;

use super::cluster::Targets;
use super::load::Tally;

/// The time after which a client gives up a request: longer than an election of the servers, and
/// shorter than a hub that is paused.
const PATIENCE: Duration = Duration::from_secs(4);

/// The channel of all publishers.
pub(crate) const SHARED: &str = "load/shared";

/// Returns the channel of one publisher.
pub(crate) fn own(publisher: usize) -> String {
    format!("load/{publisher}")
}

/// Sends a request to any hub until one gives an answer that is not to be retried.
pub(crate) async fn until_answered(
    request: &Request,
    targets: &Targets,
    rng: &mut fastrand::Rng,
    tally: &Tally,
) -> Answer {
    within(&format!("an answer to {}", request.line()), async {
        loop {
            if let Some(answer) = attempt(targets.any(rng), request, PATIENCE).await {
                return answer;
            }
            tally.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(moment(rng, 100)).await;
        }
    })
    .await
}

/// Returns the answer, or `None` if there is none in this time, or if it is to be retried.
pub(crate) async fn attempt(
    addr: SocketAddr,
    request: &Request,
    patience: Duration,
) -> Option<Answer> {
    let answer = timeout(patience, Client::new(addr).send(request)).await.ok()?.ok()?;
    let is_problem = answer.header("content-type") == Some("application/problem+json");
    (!is_problem || answer.json()["retryable"] == false).then_some(answer)
}

/// A publisher, and what it has published.
pub(crate) struct Publisher {
    targets: Targets,
    rng: fastrand::Rng,
    operations: Operations,
    ledger: Vec<Entry>,
    tally: Arc<Tally>,
}

impl Publisher {
    pub(crate) fn new(
        name: usize,
        targets: &Targets,
        rng: fastrand::Rng,
        tally: &Arc<Tally>,
    ) -> Self {
        let targets = targets.clone();
        let tally = Arc::clone(tally);
        let operations = Operations::new(name, [SHARED.to_owned(), own(name)], 20);
        Self { targets, rng, operations, ledger: Vec::new(), tally }
    }

    /// Publishes until the load stops, and returns what was acknowledged, which is all.
    pub(crate) async fn run(mut self) -> Vec<Entry> {
        while !self.tally.stop.load(Ordering::Relaxed) {
            let operation = self.operations.make(&mut self.rng);
            let begun = Instant::now();
            let (request, rng) = (&operation.request, &mut self.rng);
            let answer = until_answered(request, &self.targets, rng, &self.tally).await;
            self.tally.record_reply(begun.elapsed());
            let receipt = answer.expect(200).json();
            self.ledger.push(Entry { operation, receipt });
            if self.rng.u8(..4) == 0 {
                self.repeat_the_last().await;
            }
            tokio::time::sleep(moment(&mut self.rng, 10)).await;
        }
        self.ledger
    }

    /// Repeats a request that was acknowledged, at any hub, and expects the same receipt.
    async fn repeat_the_last(&mut self) {
        let Some(entry) = self.ledger.last() else { return };
        let addr = self.targets.any(&mut self.rng);
        let Some(answer) = attempt(addr, &entry.operation.request, PATIENCE).await else { return };
        entry.assert_same(&answer.expect(200).json());
    }
}

/// Asserts that the log has all events of the publishers and no others, each once and in order, at
/// the ids of the receipts.
pub(crate) fn assert_kept(ledgers: &[Vec<Entry>], log: &[Seen], channel: &str) {
    let places: HashMap<_, _> = log.iter().map(|seen| (&*seen.id, unquoted(seen))).collect();
    let mut total = 0;
    for (publisher, ledger) in ledgers.iter().enumerate() {
        let entries = ledger.iter().filter(|entry| entry.operation.channel == channel);
        let published: u64 = entries.clone().map(|entry| entry.operation.count).sum();
        let name = format!("{publisher}-");
        let own = log.iter().filter_map(|seen| unquoted(seen).strip_prefix(&name));
        let kept: Vec<u64> = own.map(|number| number.parse().expect("a number")).collect();
        let all: Vec<u64> = (0..published).collect();
        let parting = kept.iter().zip(&all).find(|(kept, number)| kept != number);
        assert_eq!(parting, None, "publisher {publisher} in `{channel}`: kept, and acknowledged");
        assert_eq!(kept.len(), all.len(), "publisher {publisher} in `{channel}`: kept and sent");
        total += published;
        for Entry { operation, receipt } in entries {
            assert_eq!(receipt["events"], operation.count, "{receipt}");
            let last = operation.first + operation.count - 1;
            for (key, number) in [("first_id", operation.first), ("last_id", last)] {
                let id = receipt[key].as_str().expect("an id");
                assert_eq!(places.get(id), Some(&&*label(publisher, number)), "{key} of {receipt}");
            }
        }
    }
    assert_eq!(log.len() as u64, total, "events in `{channel}`, and acknowledged ones");
}

/// Asserts that later events of a publisher have greater ids, whichever hubs took them.
pub(crate) fn assert_ids_of_receipts_grow(ledger: &[Entry]) {
    let id = |entry: &Entry, key: &str| halves(entry.receipt[key].as_str().expect("an id")).1;
    for pair in ledger.windows(2) {
        let grew = id(&pair[0], "last_id") < id(&pair[1], "first_id");
        assert!(grew, "{} came before {}", pair[0].receipt, pair[1].receipt);
    }
}

fn unquoted(seen: &Seen) -> &str {
    seen.text.trim_matches('"')
}

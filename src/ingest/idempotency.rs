//! What is remembered of publish requests that carry an `Idempotency-Key`.
//!
//! A key belongs to a channel. While its request runs, the key is taken. When the request ends
//! well, its receipt is kept and given again. When it breaks off, the number of events that were
//! published is kept: a retry passes over as many and publishes the rest.

use std::collections::{HashMap, VecDeque};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::publish::{Receipt, Tally};
use crate::channel::ChannelName;
use crate::limits::MAX_IDEMPOTENCY_KEY_BYTES;

/// The value of an `Idempotency-Key` header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Box<str>);

/// The text is not an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the `Idempotency-Key` has {0} bytes: 1 to {MAX_IDEMPOTENCY_KEY_BYTES} are right")]
pub struct InvalidIdempotencyKey(usize);

impl FromStr for IdempotencyKey {
    type Err = InvalidIdempotencyKey;

    fn from_str(text: &str) -> Result<Self, InvalidIdempotencyKey> {
        if (1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&text.len()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidIdempotencyKey(text.len()))
        }
    }
}

type Key = (ChannelName, IdempotencyKey);

/// All keys within the window.
#[derive(Clone)]
pub(super) struct Ledger {
    window: Duration,
    max_keys: usize,
    entries: Arc<Mutex<Entries>>,
}

#[derive(Default)]
struct Entries {
    by_key: HashMap<Key, Entry>,
    /// Keys by the time at which they were last settled; some of them have been settled again.
    order: VecDeque<(Instant, Key)>,
}

struct Entry {
    settled: Option<Instant>,
    outcome: Outcome,
}

#[derive(Clone)]
enum Outcome {
    Running,
    Partial(Tally),
    Done(Receipt),
}

/// What a key's request finds.
pub(super) enum Claimed {
    /// It may run; so much was published under this key before.
    Run(Claim, Tally),
    /// It has run.
    Replay(Receipt),
    /// It runs.
    Running,
}

impl Ledger {
    pub(super) fn new(window: Duration, max_keys: usize) -> Self {
        Self { window, max_keys, entries: Arc::default() }
    }

    /// Takes a key for a request.
    pub(super) fn claim(&self, channel: &ChannelName, key: &IdempotencyKey) -> Claimed {
        let key = (channel.clone(), key.clone());
        let mut entries = self.entries.lock();
        entries.forget(Instant::now(), self.window, self.max_keys);
        let before = match entries.by_key.get(&key).map(|entry| &entry.outcome) {
            Some(Outcome::Running) => return Claimed::Running,
            Some(Outcome::Done(receipt)) => return Claimed::Replay(receipt.clone()),
            Some(Outcome::Partial(tally)) => tally.clone(),
            None => Tally::default(),
        };
        let running = Entry { settled: None, outcome: Outcome::Running };
        entries.by_key.insert(key.clone(), running);
        Claimed::Run(
            Claim { ledger: self.clone(), key, outcome: Outcome::Partial(before.clone()) },
            before,
        )
    }

    fn settle(&self, key: &Key, outcome: Outcome) {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        entries.by_key.insert(key.clone(), Entry { settled: Some(now), outcome });
        entries.order.push_back((now, key.clone()));
    }
}

impl Entries {
    fn forget(&mut self, now: Instant, window: Duration, max_keys: usize) {
        while let Some((settled, key)) = self.order.front() {
            let expired = now.duration_since(*settled) >= window;
            if !expired && self.by_key.len() < max_keys {
                break;
            }
            if self.by_key.get(key).is_some_and(|entry| entry.settled == Some(*settled)) {
                self.by_key.remove(key);
            }
            self.order.pop_front();
        }
    }
}

/// A key that is taken by a request. Dropped without a receipt, it remembers how far that came.
pub(super) struct Claim {
    ledger: Ledger,
    key: Key,
    outcome: Outcome,
}

impl Claim {
    /// So much has been published under the key.
    pub(super) fn note(&mut self, published: &Tally) {
        self.outcome = Outcome::Partial(published.clone());
    }

    /// The request ended well.
    pub(super) fn complete(mut self, receipt: &Receipt) {
        self.outcome = Outcome::Done(receipt.clone());
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.ledger.settle(&self.key, self.outcome.clone());
    }
}

//! The receipts of publish requests with an idempotency key.
//!
//! A key belongs to a scope: the channel that is published to. While its request runs, the key is
//! claimed. When the request succeeds, its receipt is kept and returned to retries. When it breaks
//! off, the published events are noted: a retry skips those and publishes the rest.

use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::hash::{BuildHasher, Hash, RandomState};
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::receipt::Tally;
use crate::clock::Moment;
use crate::limits::MAX_IDEMPOTENCY_KEY_BYTES;
use crate::store::disk;
use crate::telemetry::Metrics;

/// A client's name for a publish.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Box<str>);

/// The text is not an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the idempotency key has {bytes} bytes: 1 to {MAX_IDEMPOTENCY_KEY_BYTES} are right")]
pub struct InvalidIdempotencyKey {
    /// Its length.
    pub bytes: usize,
}

impl IdempotencyKey {
    /// Returns the key as text.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = InvalidIdempotencyKey;

    fn from_str(text: &str) -> Result<Self, InvalidIdempotencyKey> {
        if (1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&text.len()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidIdempotencyKey { bytes: text.len() })
        }
    }
}

/// All keys of scopes `S` within the window, with their receipts `R`.
pub(super) struct Ledger<S, R> {
    /// The prefix that separates its scopes in the store from those of other ledgers.
    kind: &'static str,
    window: Duration,
    max_keys: usize,
    metrics: Arc<Metrics>,
    hashers: [RandomState; 2],
    entries: Arc<Mutex<KeyEntries>>,
    of: PhantomData<fn(S) -> R>,
}

#[derive(Default)]
struct KeyEntries {
    by_key: HashMap<Fingerprint, KeyEntry>,
    /// Keys by the time at which they were last settled; outdated entries included.
    order: VecDeque<(Instant, Fingerprint)>,
}

/// Two hashes of a key and its scope, with random seeds of the process: keys may be long, and there
/// are many.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Fingerprint([u64; 2]);

struct KeyEntry {
    settled: Option<Instant>,
    /// The outcome as JSON, as in the store; `None` while the request runs. One text takes less
    /// memory than the parsed outcome.
    outcome: Option<Box<str>>,
}

/// The state of a key's request.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum KeyOutcome<R> {
    /// The request has no outcome yet.
    #[serde(skip)]
    Running,
    /// This much is published.
    Partial(Tally),
    /// The request has succeeded.
    Done(R),
}

/// The result of a claim.
#[expect(clippy::large_enum_variant, reason = "matched at once")]
pub(super) enum Claimed<S: Scope, R: Kept> {
    /// The request may run; this much was published under its key before.
    Run(KeyClaim<S, R>, Tally),
    /// An earlier request has succeeded, with this receipt.
    Replay(R),
    /// An earlier request is still running.
    Running,
}

/// The scope of a key.
pub(super) trait Scope: Clone + Eq + Hash + Display {}

impl<S: Clone + Eq + Hash + Display> Scope for S {}

/// The receipt of a request that has succeeded.
pub(super) trait Kept: Clone + Serialize + DeserializeOwned {}

impl<R: Clone + Serialize + DeserializeOwned> Kept for R {}

impl<S: Scope, R: Kept> Ledger<S, R> {
    pub(super) fn new(
        kind: &'static str,
        window: Duration,
        max_keys: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (hashers, entries) = Default::default();
        Self { kind, window, max_keys, metrics, hashers, entries, of: PhantomData }
    }

    /// Restores an entry from the store. Returns whether it belongs to this ledger. An entry that
    /// cannot be parsed was written by another version, and is dropped.
    pub(super) fn restore(&self, kept: &disk::StoredReceipt, now: Moment) -> bool
    where
        S: for<'a> TryFrom<&'a str>,
    {
        let Some(scope) = kept.scope.strip_prefix(self.kind) else { return false };
        if let (Ok(scope), Ok(key), Ok(_)) = (
            S::try_from(scope),
            kept.key.parse(),
            serde_json::from_str::<KeyOutcome<R>>(&kept.outcome),
        ) {
            let instant = Instant::now();
            // If the clock has no instant so early, the key is kept for longer.
            let settled = instant.checked_sub(now.since(kept.time)).unwrap_or(instant);
            let outcome = Some(kept.outcome.clone());
            let entry = KeyEntry { settled: Some(settled), outcome };
            self.entries.lock().settle(self.fingerprint(&scope, &key), settled, entry);
        }
        true
    }

    /// Claims a key for a request.
    pub(super) fn claim(&self, scope: S, key: IdempotencyKey) -> Claimed<S, R> {
        let fingerprint = self.fingerprint(&scope, &key);
        let mut entries = self.entries.lock();
        if entries.forget(Instant::now(), self.window, self.max_keys) {
            self.metrics.limit_hit("publish.max_idempotency_keys");
        }
        let before = match entries.by_key.get(&fingerprint).map(KeyEntry::outcome) {
            Some(KeyOutcome::Running) => return Claimed::Running,
            Some(KeyOutcome::Done(receipt)) => return Claimed::Replay(receipt),
            Some(KeyOutcome::Partial(tally)) => tally,
            None => Tally::default(),
        };
        entries.by_key.insert(fingerprint, KeyEntry { settled: None, outcome: None });
        let kind = self.kind;
        let entries = self.entries.clone();
        let dependency = disk::WriteDependency::new();
        let outcome = KeyOutcome::Partial(before.clone());
        Claimed::Run(
            KeyClaim { kind, entries, fingerprint, scope, key, outcome, dependency },
            before,
        )
    }

    fn fingerprint(&self, scope: &S, key: &IdempotencyKey) -> Fingerprint {
        Fingerprint(self.hashers.each_ref().map(|hasher| hasher.hash_one((scope, key))))
    }
}

impl KeyEntry {
    fn outcome<R: Kept>(&self) -> KeyOutcome<R> {
        let Some(outcome) = &self.outcome else { return KeyOutcome::Running };
        // It was written here, or was parsed when it was restored.
        serde_json::from_str(outcome).unwrap_or_else(|_| KeyOutcome::Partial(Tally::default()))
    }
}

impl KeyEntries {
    fn settle(&mut self, fingerprint: Fingerprint, now: Instant, entry: KeyEntry) {
        self.by_key.insert(fingerprint, entry);
        self.order.push_back((now, fingerprint));
    }

    /// Removes the keys that are older than the window, and the oldest over `max_keys`. Returns
    /// whether a key within the window was removed.
    fn forget(&mut self, now: Instant, window: Duration, max_keys: usize) -> bool {
        let mut early = false;
        // A key that is settled repeatedly leaves an entry each time: only its last one counts.
        if self.order.len() >= max_keys.saturating_mul(2).max(2) {
            let Self { by_key, order } = self;
            order.retain(|(settled, key)| {
                by_key.get(key).is_some_and(|entry| entry.settled == Some(*settled))
            });
        }
        while let Some((settled, key)) = self.order.front() {
            let expired = now.duration_since(*settled) >= window;
            if !expired && self.by_key.len() < max_keys {
                break;
            }
            if self.by_key.get(key).is_some_and(|entry| entry.settled == Some(*settled)) {
                self.by_key.remove(key);
                early |= !expired;
            }
            self.order.pop_front();
        }
        early
    }
}

/// A key that a request has claimed. Dropped without a receipt, it keeps the progress of the
/// request.
pub(super) struct KeyClaim<S: Scope, R: Kept> {
    kind: &'static str,
    entries: Arc<Mutex<KeyEntries>>,
    fingerprint: Fingerprint,
    scope: S,
    key: IdempotencyKey,
    outcome: KeyOutcome<R>,
    /// Makes a stored outcome fail if an earlier one of this request has failed: it includes that
    /// one.
    dependency: disk::WriteDependency,
}

impl<S: Scope, R: Kept> KeyClaim<S, R> {
    /// Notes what has been published under the key.
    pub(super) fn note(&mut self, published: &Tally) {
        self.outcome = KeyOutcome::Partial(published.clone());
    }

    /// Returns the stored form of this outcome, with the current time.
    pub(super) fn to_keep(&self, outcome: &KeyOutcome<R>, now: Moment) -> disk::StoredReceipt {
        disk::StoredReceipt {
            scope: format!("{}{}", self.kind, self.scope).into(),
            key: self.key.0.clone(),
            outcome: outcome.to_json(),
            time: now,
            offset: 0,
            dependency: self.dependency.clone(),
        }
    }

    /// Keeps the receipt of a request that has succeeded.
    pub(super) fn complete(mut self, receipt: &R) {
        self.outcome = KeyOutcome::Done(receipt.clone());
    }
}

impl<R: Kept> KeyOutcome<R> {
    fn to_json(&self) -> Box<str> {
        // Numbers and texts: this cannot fail.
        serde_json::to_string(self).unwrap_or_default().into()
    }
}

impl<S: Scope, R: Kept> Drop for KeyClaim<S, R> {
    fn drop(&mut self) {
        let now = Instant::now();
        let outcome = Some(self.outcome.to_json());
        let settled = KeyEntry { settled: Some(now), outcome };
        self.entries.lock().settle(self.fingerprint, now, settled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(max_keys: usize) -> Ledger<&'static str, u64> {
        Ledger::new("test ", Duration::from_secs(300), max_keys, Arc::new(Metrics::new()))
    }

    fn key(text: &str) -> IdempotencyKey {
        text.parse().unwrap()
    }

    #[test]
    fn a_key_that_fails_again_and_again_takes_no_more_room() {
        let ledger = ledger(10);
        for _ in 0..1000 {
            assert!(matches!(ledger.claim("", key("same")), Claimed::Run(..)));
        }
        assert!(ledger.entries.lock().order.len() <= 20);
    }

    #[test]
    fn the_notes_of_one_key_drive_out_no_other() {
        let ledger = ledger(10);
        if let Claimed::Run(claim, _) = ledger.claim("", key("good")) {
            claim.complete(&7);
        }
        for _ in 0..1000 {
            drop(ledger.claim("", key("bad")));
        }
        assert!(matches!(ledger.claim("", key("good")), Claimed::Replay(7)));
    }
}

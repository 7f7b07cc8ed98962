//! Meters: the recent usage of each principal and each address.

use std::hash::Hash;
use std::sync::Arc;

use dashmap::DashMap;

use super::account::Account;
use super::bucket::Bucket;
use crate::limits::MAX_METERS;

/// The usage of one principal or address.
#[derive(Debug, Default)]
pub(super) struct Meter {
    pub(super) publishes: Bucket,
    pub(super) events: Bucket,
    pub(super) bytes: Bucket,
    pub(super) signals: Bucket,
    pub(super) tokens: Bucket,
    pub(super) connections: Bucket,
    pub(super) refusals: Bucket,
    pub(super) account: Arc<Account>,
}

/// All meters of one kind.
pub(super) struct Meters<K> {
    by_key: DashMap<K, Arc<Meter>>,
}

impl<K: Eq + Hash + Clone> Meters<K> {
    pub(super) fn new() -> Self {
        Self { by_key: DashMap::new() }
    }

    pub(super) fn each(&self, does: impl Fn(&Meter)) {
        self.by_key.iter().for_each(|meter| does(&meter));
    }

    /// Returns the meter of this key. Above the maximum number of keys, a new key gets a meter that
    /// is not stored: counting strangers together, or refusing them, would be worse.
    pub(super) fn of(&self, key: K, account: impl FnOnce() -> Account) -> Arc<Meter> {
        if let Some(meter) = self.by_key.get(&key) {
            return meter.clone();
        }
        let new = || Arc::new(Meter { account: Arc::new(account()), ..Meter::default() });
        if self.by_key.len() >= MAX_METERS {
            return new();
        }
        self.by_key.entry(key).or_insert_with(new).clone()
    }

    /// Drops the meters that are unused and without recent usage.
    pub(super) fn forget(&self, now: u64) {
        self.by_key.retain(|_, meter| Arc::strong_count(meter) > 1 || !meter.is_blank(now));
    }

    #[cfg(test)]
    pub(super) fn names(&self) -> Vec<K> {
        self.by_key.iter().map(|entry| entry.key().clone()).collect()
    }
}

impl Meter {
    fn is_blank(&self, now: u64) -> bool {
        let buckets = [
            &self.publishes,
            &self.events,
            &self.bytes,
            &self.signals,
            &self.tokens,
            &self.connections,
            &self.refusals,
        ];
        self.account.is_empty() && buckets.iter().all(|bucket| bucket.is_full(now))
    }
}

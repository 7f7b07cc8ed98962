//! The receipts of the store in memory.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::clock_steps::Steps;
use super::record::StoredReceipt;
use crate::clock::Moment;
use crate::position::Offset;

/// The latest receipt of each key: a long request leaves many.
#[derive(Debug)]
pub(super) struct Receipts {
    /// In order of arrival, numbered.
    all: BTreeMap<u64, StoredReceipt>,
    /// The number of the receipt of each scope and key.
    by_key: HashMap<(Box<str>, Box<str>), u64>,
    added: u64,
    /// Maximum number of receipts.
    most: usize,
    /// Maximum age of a receipt.
    window: Duration,
}

impl Default for Receipts {
    fn default() -> Self {
        Self::within(usize::MAX, Duration::MAX)
    }
}

impl Receipts {
    /// Keeps at most this number of receipts, and drops the oldest above it; and each for this
    /// time, at the least until the next [`forget_expired`](Self::forget_expired).
    pub(super) fn within(most: usize, window: Duration) -> Self {
        Self { all: BTreeMap::new(), by_key: HashMap::new(), added: 0, most, window }
    }

    pub(super) fn add(&mut self, receipt: StoredReceipt) {
        self.added += 1;
        if let Some(before) = self.by_key.insert(key_of(&receipt), self.added) {
            self.all.remove(&before);
        }
        self.all.insert(self.added, receipt);
        while self.all.len() > self.most
            && let Some((_, oldest)) = self.all.pop_first()
        {
            self.by_key.remove(&key_of(&oldest));
        }
    }

    /// Drops receipts older than the window.
    pub(super) fn forget_expired(&mut self, now: Moment) {
        let oldest = now.steady_before(self.window);
        let Self { all, by_key, .. } = self;
        all.retain(|_, receipt| receipt.time.steady >= oldest);
        by_key.retain(|_, number| all.contains_key(number));
    }

    /// Sets the steady times of all receipts.
    pub(super) fn date(&mut self, steps: &Steps, opened: Moment) {
        for receipt in self.all.values_mut() {
            receipt.time = steps.date(Offset(receipt.offset), receipt.time, opened);
        }
    }

    /// Returns all receipts, oldest first.
    pub(super) fn to_vec(&self) -> Vec<StoredReceipt> {
        self.all.values().cloned().collect()
    }
}

fn key_of(receipt: &StoredReceipt) -> (Box<str>, Box<str>) {
    (receipt.scope.clone(), receipt.key.clone())
}

//! What ties records together whose receipts speak of each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A publish that hands in records of many streams, and waits for none before the next, says in the
/// receipt of each what came before it. So after one of them that was refused, all are: what a
/// stored receipt speaks of is stored.
#[derive(Clone, Debug, Default)]
pub struct WriteDependency(Option<Arc<AtomicBool>>);

impl WriteDependency {
    /// A dependency of records that are handed in one after the other.
    #[must_use]
    pub fn new() -> Self {
        Self(Some(Arc::default()))
    }

    /// Whether it ties nothing: what it came with was handed in by itself.
    pub(super) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Whether one of them was refused. Only the writer asks, and only the writer fails.
    pub(super) fn has_failed(&self) -> bool {
        self.0.as_ref().is_some_and(|torn| torn.load(Ordering::Relaxed))
    }

    pub(super) fn fail(&self) {
        if let Some(torn) = &self.0 {
            torn.store(true, Ordering::Relaxed);
        }
    }
}

/// A receipt is the same whatever it was handed in with.
impl PartialEq for WriteDependency {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for WriteDependency {}

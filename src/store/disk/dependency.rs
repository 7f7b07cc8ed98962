//! Dependencies between records whose receipts refer to each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Makes the later records of a publish fail after the first that fails. A publish to many streams
/// submits its records without waiting, and the receipt of each refers to those before it: so
/// everything that a stored receipt refers to is stored.
#[derive(Clone, Debug, Default)]
pub struct WriteDependency(Option<Arc<AtomicBool>>);

impl WriteDependency {
    /// Returns a dependency for records that are submitted one after the other.
    #[must_use]
    pub fn new() -> Self {
        Self(Some(Arc::default()))
    }

    /// Returns whether the record depends on no other.
    pub(super) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Returns whether a record of the group was refused. Only the writer reads and sets it.
    pub(super) fn has_failed(&self) -> bool {
        self.0.as_ref().is_some_and(|failed| failed.load(Ordering::Relaxed))
    }

    pub(super) fn fail(&self) {
        if let Some(failed) = &self.0 {
            failed.store(true, Ordering::Relaxed);
        }
    }
}

/// Always equal: a receipt is compared without its dependency.
impl PartialEq for WriteDependency {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for WriteDependency {}

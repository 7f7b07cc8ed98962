//! The memory of request bodies that are not events yet, counted against one budget.

use std::sync::Arc;

use super::Ingest;
use crate::limits::{MAX_READ_BYTES, MAX_SMALL_BODY_BYTES};

/// The setting of the budget.
const MAX_UNFINISHED: &str = "publish.max_unfinished";

/// The memory of one body; a drop frees it. `N` gives access to the [`Ingest`], and is what the
/// reader of the body holds anyway.
pub struct Share<N: AsRef<Ingest>> {
    home: Arc<N>,
    taken: usize,
    /// Bytes received, up to a limit: an estimate of the connection's read buffer.
    read: usize,
}

/// The budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("as much of unfinished bodies waits as `publish.max_unfinished` allows")]
pub struct NoRoom;

impl NoRoom {
    /// The name of the setting that limits the memory.
    pub const LIMIT: &'static str = MAX_UNFINISHED;
}

impl<N: AsRef<Ingest>> Share<N> {
    /// Creates a share of zero bytes.
    pub fn new(home: Arc<N>) -> Self {
        Self { home, taken: 0, read: 0 }
    }

    /// Returns the value that gives access to the [`Ingest`].
    pub fn home(&self) -> &Arc<N> {
        &self.home
    }

    /// Notes that bytes were received.
    pub fn note_read(&mut self, bytes: usize) {
        self.read = self.read.saturating_add(bytes).min(MAX_READ_BYTES);
    }

    /// Sets the memory held by an incomplete event. Over the budget, bodies that hold much are
    /// refused; events of the usual size are not.
    ///
    /// # Errors
    /// The budget is used up.
    pub fn hold(&mut self, held: usize) -> Result<(), NoRoom> {
        self.take(held + self.read);
        let ingest = self.home.as_ref().as_ref();
        if held <= MAX_SMALL_BODY_BYTES || !ingest.unfinished().is_exceeded() {
            return Ok(());
        }
        ingest.metrics().limit_hit(MAX_UNFINISHED);
        Err(NoRoom)
    }

    fn take(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.taken, bytes);
        self.home.as_ref().as_ref().unfinished().replace(before, bytes);
    }
}

impl<N: AsRef<Ingest>> Drop for Share<N> {
    fn drop(&mut self) {
        self.take(0);
    }
}

//! What bodies of requests take of memory before they are events, against one budget.

use std::sync::Arc;

use super::Ingest;
use crate::limits::{MAX_READ_BYTES, MAX_SMALL_BODY_BYTES};

/// The setting that bounds it.
const MAX_UNFINISHED: &str = "publish.max_unfinished";

/// What one body takes. Dropped, it is given back. `N` is what has the way in, and what whoever
/// reads the body holds anyway.
pub struct Share<N: AsRef<Ingest>> {
    home: Arc<N>,
    taken: usize,
    /// Bytes that have come, as far as they say how large the buffer is that they come through.
    read: usize,
}

/// There is no room for so much of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("as much of unfinished bodies waits as `publish.max_unfinished` allows")]
pub struct NoRoom;

impl NoRoom {
    /// The setting that says how much there is.
    pub const LIMIT: &'static str = MAX_UNFINISHED;
}

impl<N: AsRef<Ingest>> Share<N> {
    /// Nothing yet.
    pub fn new(home: Arc<N>) -> Self {
        Self { home, taken: 0, read: 0 }
    }

    /// What has the way in.
    pub fn home(&self) -> &Arc<N> {
        &self.home
    }

    /// So many bytes have come.
    pub fn note_read(&mut self, bytes: usize) {
        self.read = self.read.saturating_add(bytes).min(MAX_READ_BYTES);
    }

    /// Notes how much memory is taken by what has come and is of no use yet. When there is no room
    /// for all, those go who hold much: whoever sends events of the usual size does not notice.
    ///
    /// # Errors
    /// There is no room for so much.
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

//! The batches read from disk for replay: shared by all readers, within one budget.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::store::{Batch, LogPosition};

/// A log that holds batches read from disk.
pub(super) trait CachedLog: Send + Sync {
    /// Drops the batch that begins at this position.
    fn unload(&self, first: LogPosition);
}

/// The batches in the order of their loading. The oldest is dropped first, since each is read soon
/// after it was loaded, or not at all.
#[derive(Default)]
pub(super) struct ReadCache {
    max_bytes: usize,
    pieces: Mutex<CacheEntries>,
}

#[derive(Default)]
struct CacheEntries {
    queue: VecDeque<(Weak<dyn CachedLog>, LogPosition, usize)>,
    bytes: usize,
}

impl ReadCache {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, pieces: Mutex::default() }
    }

    /// Notes that the log holds this batch, and drops the oldest ones over the budget.
    pub(super) fn add(&self, log: &Arc<dyn CachedLog>, piece: &Batch) {
        let bytes = piece.bytes().len();
        let mut past = Vec::new();
        {
            let mut pieces = self.pieces.lock();
            pieces.queue.push_back((Arc::downgrade(log), piece.start(), bytes));
            pieces.bytes += bytes;
            // The newest is kept, however large: a reader waits for it.
            while pieces.bytes > self.max_bytes
                && pieces.queue.len() > 1
                && let Some((log, first, bytes)) = pieces.queue.pop_front()
            {
                pieces.bytes -= bytes;
                past.push((log, first));
            }
        }
        // With no lock held: the log takes its own.
        for (log, first) in past {
            if let Some(log) = log.upgrade() {
                log.unload(first);
            }
        }
    }
}

impl std::fmt::Debug for ReadCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadCache").field("max_bytes", &self.max_bytes).finish_non_exhaustive()
    }
}

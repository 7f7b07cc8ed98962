//! The batches read from disk for replay: shared by all readers, within one budget.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::channel::Channel;
use crate::store::{Batch, LogPosition};

/// The batches in the order of their loading. The oldest is dropped first, since each is read soon
/// after it was loaded, or not at all.
#[derive(Default)]
pub(super) struct ReadCache {
    max_bytes: usize,
    pieces: Mutex<CacheEntries>,
}

#[derive(Default)]
struct CacheEntries {
    queue: VecDeque<(Weak<Channel>, LogPosition, usize)>,
    bytes: usize,
}

impl ReadCache {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, pieces: Mutex::default() }
    }

    /// Notes that the channel holds this batch, and drops the oldest ones over the budget.
    pub(super) fn add(&self, channel: &Arc<Channel>, piece: &Batch) {
        let bytes = piece.bytes().len();
        let mut past = Vec::new();
        {
            let mut pieces = self.pieces.lock();
            pieces.queue.push_back((Arc::downgrade(channel), piece.start(), bytes));
            pieces.bytes += bytes;
            // The newest is kept, however large: a reader waits for it.
            while pieces.bytes > self.max_bytes
                && pieces.queue.len() > 1
                && let Some((channel, first, bytes)) = pieces.queue.pop_front()
            {
                pieces.bytes -= bytes;
                past.push((channel, first));
            }
        }
        // With no lock held: the channel takes its own.
        for (channel, first) in past {
            if let Some(channel) = channel.upgrade() {
                channel.cool_down(first);
            }
        }
    }
}

impl std::fmt::Debug for ReadCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadCache").field("max_bytes", &self.max_bytes).finish_non_exhaustive()
    }
}

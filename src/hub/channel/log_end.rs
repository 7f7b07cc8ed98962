//! The end of a channel's log, readable without the channel's lock.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::LogPosition;

/// The position after the last event, which the lag of readers is measured against.
#[derive(Debug, Default)]
pub(super) struct LogEnd {
    seq: AtomicU64,
    byte: AtomicU64,
}

impl LogEnd {
    pub(super) fn set(&self, end: LogPosition) {
        self.seq.store(end.seq, Ordering::Release);
        self.byte.store(end.byte, Ordering::Release);
    }

    pub(super) fn get(&self) -> LogPosition {
        LogPosition {
            seq: self.seq.load(Ordering::Acquire),
            byte: self.byte.load(Ordering::Acquire),
        }
    }
}

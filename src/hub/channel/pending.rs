//! The batches of a channel that are submitted and not committed yet.

use std::borrow::Cow;
use std::collections::VecDeque;

use tokio::sync::watch;

use crate::event::NewEvent;
use crate::hub::commit::PendingEnd;
use crate::hub::metadata::EndRecord;
use crate::position::Offset;
use crate::store::{Batch, LogPosition};

/// The content of a batch, in addition to its frames.
#[derive(Clone, Debug, Default)]
pub(super) struct BatchContent<'a> {
    /// The events, if the channel's generation reads them: without their frames.
    pub(super) events: Cow<'a, [NewEvent]>,
    /// Number of bytes of the events' data.
    pub(super) data_bytes: u64,
    /// The end of the channel, whose frame is the last.
    pub(super) ending: Option<EndRecord>,
    /// Whether it is a notice of a possible loss.
    pub(super) is_notice: bool,
    /// Whether a client of another hub has submitted it.
    pub(super) is_foreign: bool,
}

impl BatchContent<'_> {
    /// Returns the content in memory of its own: an event may be a slice of a larger body.
    pub(super) fn detached(self) -> BatchContent<'static> {
        let events = self.events.iter().map(NewEvent::detached).collect();
        BatchContent { events: Cow::Owned(events), ..self }
    }
}

/// A batch that is submitted and not committed yet.
#[derive(Debug)]
pub(super) struct PendingBatch {
    pub(super) frames: Batch,
    pub(super) content: BatchContent<'static>,
    /// Dropped with the batch, for those that wait for its outcome.
    pub(super) settled: Option<watch::Sender<()>>,
}

impl PendingBatch {
    pub(super) fn new(frames: Batch, content: BatchContent<'static>) -> Self {
        Self { frames, content, settled: None }
    }
}

/// The batches that are submitted and not committed yet, oldest first. They complete in order; a
/// channel in memory has none.
#[derive(Debug, Default)]
pub(super) struct PendingBatches {
    batches: VecDeque<PendingBatch>,
    /// Number of the oldest batches that must fail, because one before them has failed. A later one
    /// begins where the log ends.
    doomed: usize,
}

impl PendingBatches {
    /// Adds a batch.
    pub(super) fn push(&mut self, batch: PendingBatch) {
        self.batches.push_back(batch);
    }

    /// Removes the newest batch: the store has not taken it.
    pub(super) fn withdraw(&mut self) {
        self.batches.pop_back();
    }

    /// Removes the oldest batch: its outcome is known.
    pub(super) fn pop(&mut self, is_stored: bool) -> Option<PendingBatch> {
        let oldest = self.batches.pop_front();
        if self.doomed > 0 {
            self.doomed -= 1;
        } else if !is_stored {
            self.doomed = self.batches.len();
        }
        oldest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Returns the position after the last batch that may be stored.
    pub(super) fn end(&self) -> Option<LogPosition> {
        Some(self.batches.range(self.doomed..).next_back()?.frames.end())
    }

    /// Returns the offset of the first event.
    pub(super) fn first_offset(&self) -> Option<Offset> {
        self.batches.front()?.frames.entries().next().map(|entry| entry.offset)
    }

    /// Returns the end of the channel, if it is submitted and may be stored.
    pub(super) fn ending(&self) -> Option<&EndRecord> {
        self.batches.range(self.doomed..).next_back()?.content.ending.as_ref()
    }

    /// Returns the end of the channel to wait for, if it is submitted and may be stored.
    pub(super) fn pending_end(&mut self) -> Option<PendingEnd> {
        let last = self.batches.range_mut(self.doomed..).next_back()?;
        let record = last.content.ending.clone()?;
        let settled = last.settled.get_or_insert_with(watch::Sender::default).subscribe();
        Some(PendingEnd { record, settled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{BatchBuilder, Entry};

    /// Returns a batch of one event that begins at this position.
    fn batch(at: LogPosition, offset: u64) -> PendingBatch {
        let mut frames = BatchBuilder::new(at);
        frames.push(Entry { offset: Offset(offset), ..Entry::default() }, b"frame");
        PendingBatch::new(frames.finish(), BatchContent::default())
    }

    #[test]
    fn a_batch_after_a_failure_does_not_follow_those_that_must_fail() {
        let mut pending = PendingBatches::default();
        let mut at = LogPosition::default();
        for offset in 1..=3 {
            pending.push(batch(at, offset));
            at = pending.end().unwrap();
        }
        pending.pop(false).unwrap();
        assert_eq!(pending.end(), None, "two must fail, so the log ends where it did");
        pending.push(batch(LogPosition::default(), 4));
        let end = pending.end().unwrap();
        assert_eq!(end.seq, 1);
        for _ in 0..2 {
            pending.pop(false).unwrap();
            assert_eq!(pending.end(), Some(end));
        }
        pending.pop(true).unwrap();
        assert!(pending.is_empty());
    }
}

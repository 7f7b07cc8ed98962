//! The batches of a channel that are submitted and not committed yet.

use std::collections::VecDeque;

use crate::event::NewEvent;
use crate::hub::commit::{CommitAck, Completer, Submissions};
use crate::hub::metadata::EndRecord;
use crate::position::Offset;
use crate::store::{Batch, LogPosition};

/// The content of a batch, in addition to its frames.
#[derive(Clone, Debug, Default)]
pub(super) struct BatchContent {
    /// The events, if the channel's generation reads them: without their frames.
    pub(super) events: Vec<NewEvent>,
    /// Number of bytes of the events' data.
    pub(super) data_bytes: u64,
    /// The end of the channel, whose frame is the last.
    pub(super) ending: Option<EndRecord>,
    /// Whether it is a notice of a possible loss.
    pub(super) is_notice: bool,
}

/// A batch that is submitted and not committed yet.
#[derive(Debug)]
pub(super) struct PendingBatch {
    pub(super) frames: Batch,
    pub(super) content: BatchContent,
}

/// The batches that are submitted and not committed yet, oldest first. They complete in order; a
/// channel in memory has none.
#[derive(Debug, Default)]
pub(super) struct PendingBatches {
    batches: VecDeque<PendingBatch>,
    /// Begun with the first of the batches.
    submissions: Option<Submissions>,
    /// Whether a batch has failed, and with it those after it: a later one begins where the log
    /// ends, with submissions of its own.
    has_failed: bool,
}

impl PendingBatches {
    /// Adds a batch. Returns its acknowledgement, and what completes it after the commit.
    pub(super) fn push(&mut self, batch: PendingBatch) -> (CommitAck, Completer) {
        self.batches.push_back(batch);
        if std::mem::take(&mut self.has_failed) {
            self.submissions = None;
        }
        self.submissions.get_or_insert_default().add()
    }

    /// Removes the oldest batch: its outcome is known.
    pub(super) fn pop(&mut self, is_stored: bool) -> Option<PendingBatch> {
        let oldest = self.batches.pop_front();
        self.has_failed |= !is_stored;
        if self.batches.is_empty() {
            self.submissions = None;
        }
        oldest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Returns the position after the last batch.
    pub(super) fn end(&self) -> Option<LogPosition> {
        Some(self.batches.back()?.frames.end())
    }

    /// Returns the offset of the first event.
    pub(super) fn first_offset(&self) -> Option<Offset> {
        self.batches.front()?.frames.entries().next().map(|entry| entry.offset)
    }

    /// Returns the end of the channel, if it is submitted.
    pub(super) fn ending(&self) -> Option<&EndRecord> {
        self.batches.back()?.content.ending.as_ref()
    }

    /// Returns the acknowledgement of all batches.
    pub(super) fn ack(&self) -> CommitAck {
        self.submissions.as_ref().map_or_else(CommitAck::ready, Submissions::ack)
    }
}

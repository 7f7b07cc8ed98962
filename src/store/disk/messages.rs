//! The messages to the threads that write and read.

use std::sync::Arc;

use super::completion::{CompletionQueue, OnComplete};
use super::config::Durability;
use super::read::{OnRead, Seek};
use super::record::LogRecord;
use super::stream::StreamId;

/// A request to the writer.
pub(super) enum WriterMessage {
    Write {
        record: LogRecord,
        durability: Durability,
        completions: Option<Arc<dyn CompletionQueue>>,
        on_complete: OnComplete,
    },
    /// Reserve more offsets.
    Renew,
    /// Begin a new journal.
    Rotate,
}

impl WriterMessage {
    /// Returns the bytes of its events.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Write { record, .. } => record.size(),
            Self::Renew | Self::Rotate => 0,
        }
    }
}

/// A request to the reader.
pub(super) struct ReadRequest {
    pub(super) stream: StreamId,
    pub(super) seek: Seek,
    pub(super) on_read: OnRead,
}

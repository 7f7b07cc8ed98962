//! The records that are written, and the receipts in them.

use serde::{Deserialize, Serialize};

use super::dependency::WriteDependency;
use super::error::WriteError;
use super::stream::StreamId;
use crate::channel::ChannelName;
use crate::clock::Moment;
use crate::store::Batch;

/// A record to be written.
#[derive(Clone, Debug)]
pub enum LogRecord {
    /// Events of a stream, which follow those submitted before; optionally its end and a receipt.
    /// Stored as a whole, or not at all.
    Events {
        /// The stream.
        stream: StreamId,
        /// The events.
        batch: Batch,
        /// The final state of the stream, if the last event is its end.
        state: Option<Box<str>>,
        /// The receipt, if the publish has a key.
        receipt: Option<StoredReceipt>,
    },
    /// A stream begins, or its options change.
    Stream {
        /// The stream.
        stream: StreamId,
        /// The channel.
        name: ChannelName,
        /// Its options.
        options: Box<str>,
    },
    /// A stream is deleted, with all its events.
    Gone {
        /// The stream.
        stream: StreamId,
    },
    /// A receipt of a publish that is complete.
    #[cfg_attr(not(any(test, feature = "internals")), expect(dead_code))]
    // made by tests alone
    Receipt(StoredReceipt),
}

impl LogRecord {
    /// Returns the bytes of its events.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Events { batch, .. } => batch.size(),
            Self::Stream { .. } | Self::Gone { .. } | Self::Receipt(_) => 0,
        }
    }

    pub(super) fn stream(&self) -> Option<StreamId> {
        match self {
            Self::Events { stream, .. } | Self::Stream { stream, .. } | Self::Gone { stream } => {
                Some(*stream)
            }
            Self::Receipt(_) => None,
        }
    }

    pub(super) fn dependency(&self) -> WriteDependency {
        match self {
            Self::Events { receipt: Some(receipt), .. } | Self::Receipt(receipt) => {
                receipt.dependency.clone()
            }
            Self::Events { .. } | Self::Stream { .. } | Self::Gone { .. } => {
                WriteDependency::default()
            }
        }
    }

    /// Returns whether the record frees space: it is tried even on a full disk.
    pub(super) fn frees(&self, refused: WriteError) -> bool {
        refused == WriteError::Full && matches!(self, Self::Gone { .. })
    }
}

/// A receipt, by which a retried publish is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredReceipt {
    /// The scope of the key.
    pub scope: Box<str>,
    /// The key.
    pub key: Box<str>,
    /// The outcome of the publish.
    pub outcome: Box<str>,
    /// Time of the publish, stored as wall clock time.
    pub time: Moment,
    /// An offset of the same time, by which the store corrects for wall clock steps. Set by the
    /// store.
    #[serde(default)]
    pub offset: u64,
    /// The dependency of the record.
    #[serde(skip)]
    pub dependency: WriteDependency,
}

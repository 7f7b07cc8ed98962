//! The records that are written together: admitted, encoded, and added to the index.
//!
//! Invariant: a record is admitted only if it begins where its stream ends, so that a refused
//! record leaves no hole.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::block::{self, EventsDraft, Header, Kind, Note, json};
use super::block_ref::BlockRef;
use super::dependency::WriteDependency;
use super::error::WriteError;
use super::index::BlockIndex;
use super::record::{LogRecord, StoredReceipt};
use super::stream::StreamId;
use crate::channel::ChannelName;
use crate::clock::Moment;
use crate::store::{Batch, Entry, LogPosition};

/// The records of one write, in order.
pub(super) struct WriteGroup {
    pub(super) parts: Vec<GroupPart>,
    /// The end of each stream that the group changes; `None` if it is deleted.
    ends: HashMap<StreamId, Option<LogPosition>>,
    /// The dependencies of its records.
    pub(super) dependencies: Vec<WriteDependency>,
    block_bytes: usize,
    /// The offset that is given out next.
    next_offset: u64,
}

pub(super) enum GroupPart {
    Events { stream: StreamId, draft: EventsDraft, first: Option<Entry> },
    Begin { stream: StreamId, name: ChannelName, options: Box<str> },
    Gone { stream: StreamId },
    Receipt(StoredReceipt),
}

/// An encoded part: its position in the buffer, and its header if it has events.
pub(super) type Encoded = (usize, Option<Header>);

impl WriteGroup {
    pub(super) fn new(block_bytes: usize, next_offset: u64) -> Self {
        Self {
            parts: Vec::new(),
            ends: HashMap::new(),
            dependencies: Vec::new(),
            block_bytes,
            next_offset,
        }
    }

    /// Adds a record, if it follows the end of its stream.
    pub(super) fn admit(
        &mut self,
        index: &Mutex<BlockIndex>,
        record: LogRecord,
    ) -> Result<(), WriteError> {
        match record {
            LogRecord::Events { stream, batch, state, receipt } => {
                if self.end(index, stream) != Some(batch.start()) {
                    // The record before it was refused because the disk was full.
                    return Err(WriteError::Full);
                }
                self.ends.insert(stream, Some(batch.end()));
                self.add_events(stream, &batch, state, receipt);
            }
            LogRecord::Stream { stream, name, options } => {
                let end = self.end(index, stream).unwrap_or_default();
                self.ends.insert(stream, Some(end));
                self.parts.push(GroupPart::Begin { stream, name, options });
            }
            LogRecord::Gone { stream } => {
                if self.end(index, stream).is_some() {
                    self.ends.insert(stream, None);
                    self.parts.push(GroupPart::Gone { stream });
                }
            }
            LogRecord::Receipt(receipt) => {
                let offset = self.next_offset;
                self.parts.push(GroupPart::Receipt(StoredReceipt { offset, ..receipt }));
            }
        }
        Ok(())
    }

    /// Returns the end of a stream, if it exists. The index is locked only here, and not while
    /// events are copied, as other threads need it; only the writer changes an end.
    fn end(&self, index: &Mutex<BlockIndex>, stream: StreamId) -> Option<LogPosition> {
        let stored = || index.lock().streams.get(&stream).map(|stream| stream.end);
        self.ends.get(&stream).copied().unwrap_or_else(stored)
    }

    fn add_events(
        &mut self,
        stream: StreamId,
        batch: &Batch,
        state: Option<Box<str>>,
        receipt: Option<StoredReceipt>,
    ) {
        if !self.grows(stream, batch) {
            let draft = EventsDraft::new(stream, batch.start());
            self.parts.push(GroupPart::Events { stream, draft, first: None });
        }
        if let Some(GroupPart::Events { draft, first, .. }) = self.parts.last_mut() {
            for (entry, frame) in batch.events() {
                first.get_or_insert(entry);
                draft.push(entry, frame);
            }
            draft.trailer.state = state;
            let offset = draft.last().offset.0;
            draft
                .trailer
                .receipts
                .extend(receipt.map(|receipt| StoredReceipt { offset, ..receipt }));
        }
    }

    /// Returns whether the last part can take these events. Earlier parts never do: a torn write
    /// must leave a prefix of the records over all streams, since a receipt may refer to earlier
    /// events of other streams.
    fn grows(&self, stream: StreamId, batch: &Batch) -> bool {
        match self.parts.last() {
            Some(GroupPart::Events { stream: last, draft, .. }) if *last == stream => {
                draft.fits(batch.start(), batch.entries(), batch.size(), self.block_bytes)
            }
            _ => false,
        }
    }

    pub(super) fn encode(&self, synced: u64, into: &mut Vec<u8>) -> Vec<Encoded> {
        let encode = |part: &GroupPart| {
            let at = into.len();
            (at, part.encode(synced, into))
        };
        self.parts.iter().map(encode).collect()
    }

    /// Adds what was written at this position of the file to the index.
    pub(super) fn insert_into(
        &self,
        index: &mut BlockIndex,
        blocks: &[Encoded],
        file: u32,
        position: u64,
    ) {
        for (part, (at, header)) in self.parts.iter().zip(blocks) {
            part.insert_into(index, header.as_ref(), file, position + *at as u64);
        }
    }
}

impl GroupPart {
    /// Returns the first offset of the part and its time, if it has any.
    pub(super) fn begins_at(&self) -> Option<(u64, Moment)> {
        match self {
            Self::Events { first, .. } => first.map(|first| (first.offset.0, first.time)),
            Self::Receipt(receipt) => Some((receipt.offset, receipt.time)),
            Self::Begin { .. } | Self::Gone { .. } => None,
        }
    }

    fn encode(&self, synced: u64, into: &mut Vec<u8>) -> Option<Header> {
        let (stream, note) = match self {
            Self::Events { draft, .. } => return Some(draft.encode(synced, into)),
            Self::Begin { stream, name, options } => {
                let name = name.as_str().to_owned();
                (*stream, Note::Stream { name, options: options.clone() })
            }
            Self::Gone { stream } => (*stream, Note::Gone {}),
            Self::Receipt(receipt) => (StreamId(0), Note::Receipt(receipt.clone())),
        };
        block::encode(Kind::Note, stream, &json(&note), synced, into);
        None
    }

    fn insert_into(
        &self,
        index: &mut BlockIndex,
        header: Option<&Header>,
        file: u32,
        position: u64,
    ) {
        match self {
            Self::Events { stream, draft, first } => {
                if let (Some(header), Some(first)) = (header, first) {
                    let block = BlockRef::new(header, draft.last(), file, position);
                    index.add(*stream, block, Some((*first, draft.last())));
                }
                index.note_trailer(*stream, &draft.trailer);
            }
            Self::Begin { stream, name, options } => index.begin(*stream, name.clone(), options),
            Self::Gone { stream } => index.remove(*stream),
            Self::Receipt(receipt) => index.receipts.add(receipt.clone()),
        }
    }
}

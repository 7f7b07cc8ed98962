//! Merging of neighbouring deltas: fewer writes, and fewer events for slow consumers.
//!
//! Events are merged when they are read. The log keeps every event, so that a client can resume
//! from every position. A merged event has the id and the time of its last one.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::generation::{Format, Merge, ModelEvent};
use crate::limits::{MAX_COALESCE_SECONDS, MAX_SHARED_MERGE_BYTES};
use crate::sse::{self, Frame, Frames};
use crate::store::{Batch, BatchBuilder, Entry, LogPosition};

/// The merging of events for a subscriber.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coalesce {
    /// Never.
    #[default]
    Off,
    /// Events within this time are sent together; the first event after a pause is sent at once.
    Window(Duration),
    /// Events that gathered while the subscriber's connection took nothing are merged.
    Adaptive,
}

/// The text is no valid merging.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected `off`, `adaptive` or a duration from `1ms` to `{MAX_COALESCE_SECONDS}s`")]
pub struct InvalidCoalesce;

impl Coalesce {
    /// Returns whether events are sent without waiting for a window to end.
    #[must_use]
    pub fn is_immediate(self) -> bool {
        !matches!(self, Self::Window(_))
    }
}

impl FromStr for Coalesce {
    type Err = InvalidCoalesce;

    fn from_str(text: &str) -> Result<Self, InvalidCoalesce> {
        let window = match text {
            "off" => return Ok(Self::Off),
            "adaptive" => return Ok(Self::Adaptive),
            text => humantime::parse_duration(text).map_err(|_| InvalidCoalesce)?,
        };
        let reasonable = Duration::from_millis(1)..=Duration::from_secs(MAX_COALESCE_SECONDS);
        if reasonable.contains(&window) { Ok(Self::Window(window)) } else { Err(InvalidCoalesce) }
    }
}

impl std::fmt::Display for Coalesce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Adaptive => f.write_str("adaptive"),
            Self::Window(window) => humantime::format_duration(*window).fmt(f),
        }
    }
}

impl Serialize for Coalesce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Coalesce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Consecutive events of a log as they are written, merged or not.
#[derive(Clone, Debug)]
pub struct MergedBatch {
    /// The events to write.
    pub events: Batch,
    /// The position in the log after the last of them.
    pub end: LogPosition,
    /// The byte of the log after each event; `None` if they are unchanged.
    ends: Option<Arc<[u64]>>,
}

impl From<Batch> for MergedBatch {
    fn from(batch: Batch) -> Self {
        Self { end: batch.end(), events: batch, ends: None }
    }
}

impl MergedBatch {
    /// Merges the neighbouring deltas of a batch.
    fn merged(batch: &Batch, format: Format) -> Self {
        let bytes = batch.bytes();
        let mut merging = Merging { format, frames: Vec::new(), ends: Vec::new(), open: None };
        let first = batch.start().byte;
        for (number, (frame, entry)) in Frames::new(&bytes).zip(batch.entries()).enumerate() {
            let edge = |events| (batch.byte_after(events) - first) as usize;
            let raw = &bytes[edge(number)..edge(number + 1)];
            merging.take(LoggedEvent { frame, entry, raw, end: batch.byte_after(number + 1) });
        }
        merging.close();
        let mut merged = BatchBuilder::new(batch.start());
        for (entry, frame) in &merging.frames {
            merged.push(*entry, frame);
        }
        Self { events: merged.finish(), end: batch.end(), ends: Some(merging.ends.into()) }
    }

    /// Returns the number of events that end within this many written bytes.
    #[must_use]
    pub fn events_within(&self, bytes: usize) -> usize {
        self.events.ending_by_byte(self.events.start().byte + bytes as u64)
    }

    /// Returns the number of bytes of the first `events` as they are written.
    #[must_use]
    pub fn bytes_of(&self, events: usize) -> usize {
        (self.events.byte_after(events) - self.events.start().byte) as usize
    }

    /// Returns the byte of the log after the first `events`.
    #[must_use]
    pub fn byte_after(&self, events: usize) -> u64 {
        match (&self.ends, events.checked_sub(1)) {
            (Some(ends), Some(last)) => ends[last],
            _ => self.events.byte_after(events),
        }
    }
}

/// The last merged batch of a channel, with its start: readers at the same position share it.
#[derive(Debug, Default)]
pub(super) struct MergeCache(Mutex<Option<(LogPosition, MergedBatch)>>);

impl MergeCache {
    /// Merges the batch, or returns the last merged batch if it has the same range. Without a
    /// format, the batch is unchanged.
    pub(super) fn merge(&self, batch: Batch, format: Option<Format>) -> MergedBatch {
        let Some(format) = format else { return batch.into() };
        let mut known = self.0.lock();
        if let Some((start, merged)) = &*known
            && *start == batch.start()
            && merged.end == batch.end()
        {
            return merged.clone();
        }
        let merged = MergedBatch::merged(&batch, format);
        // Larger batches are for replay, whose readers seldom share a range.
        *known = (batch.bytes().len() <= MAX_SHARED_MERGE_BYTES)
            .then(|| (batch.start(), merged.clone()));
        merged
    }

    pub(super) fn clear(&self) {
        *self.0.lock() = None;
    }
}

/// One event of the log.
struct LoggedEvent<'a> {
    frame: Frame<'a>,
    entry: Entry,
    /// The frame as it is in the log.
    raw: &'a [u8],
    /// The byte of the log after the event.
    end: u64,
}

/// A merged batch that is being built.
struct Merging<'a> {
    format: Format,
    frames: Vec<(Entry, Vec<u8>)>,
    ends: Vec<u64>,
    open: Option<OpenMerge<'a>>,
}

/// Merged deltas that the next event may join.
struct OpenMerge<'a> {
    merge: Merge,
    last: LoggedEvent<'a>,
    count: usize,
}

impl<'a> Merging<'a> {
    fn take(&mut self, event: LoggedEvent<'a>) {
        let read = ModelEvent::new(event.frame.event_type(), event.frame.data());
        if let Some(open) = &mut self.open
            && open.merge.try_add(&read)
        {
            (open.last, open.count) = (event, open.count + 1);
            return;
        }
        self.close();
        match Merge::begin(self.format, &read) {
            Some(merge) if is_published(event.frame) => {
                self.open = Some(OpenMerge { merge, last: event, count: 1 });
            }
            _ => self.push(event.entry, event.raw.to_vec(), event.end),
        }
    }

    fn close(&mut self) {
        let Some(OpenMerge { merge, last, count }) = self.open.take() else { return };
        if count == 1 {
            return self.push(last.entry, last.raw.to_vec(), last.end);
        }
        let data = merge.finish();
        let mut frame = Vec::new();
        let id = Some(last.frame.id());
        let event_type = last.frame.event_type();
        sse::encode(&mut frame, &sse::Text { id, event_type, data: data.as_bytes() });
        self.push(last.entry, frame, last.end);
    }

    fn push(&mut self, entry: Entry, frame: Vec<u8>, end: u64) {
        self.frames.push((entry, frame));
        self.ends.push(end);
    }
}

/// Returns whether an event is a publisher's, and not the hub's own.
pub(super) fn is_published(frame: Frame<'_>) -> bool {
    !frame.event_type().is_some_and(|name| name.starts_with(crate::event::RESERVED_PREFIX))
}

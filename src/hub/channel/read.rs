//! Reads from a channel: its log, its format, and the start of a subscription.

use std::sync::Arc;

use super::generation::EndMarks;
use super::{Channel, ChannelInner, Snapshot};
use crate::generation::{Format, Recogniser};
use crate::hub::coalesce::{Coalesce, MergedBatch};
use crate::hub::control_events::End;
use crate::hub::read::{PeekResult, ReadResult, Start, StartAt};
use crate::position::Offset;
use crate::store::disk::Seek;
use crate::store::{Batch, BatchBuilder, LogPosition, LogRead};

impl Channel {
    /// Returns the events at a position, up to `max_bytes` of them but at least one.
    #[must_use]
    pub fn read(&self, at: LogPosition, max_bytes: usize) -> LogRead {
        let mut inner = self.inner.lock();
        let read = inner.log.read(at, max_bytes);
        if matches!(read, LogRead::OnDisk) {
            self.begin_fetch(&mut inner, Seek::Seq(at.seq), None);
        }
        read
    }

    /// Returns the frames from this byte of the log on, which is the edge of a frame: for a reader
    /// that counts bytes because its socket does.
    #[must_use]
    pub fn read_at_byte(&self, byte: u64, max_bytes: usize, merge: bool) -> ReadResult {
        let mut inner = self.inner.lock();
        let batch = match inner.log.read_from_byte(byte, max_bytes) {
            LogRead::Batch(batch) => batch,
            LogRead::Missing(missing) => return ReadResult::Missing(missing),
            // The last event cannot be read any more, or the reader's gap reaches after it: only
            // the end is left.
            LogRead::CaughtUp if inner.life.has_ended() => {
                let merged = BatchBuilder::new(inner.log.end()).finish().into();
                return ReadResult::Frames { batch: merged, more: false, last: true };
            }
            LogRead::CaughtUp => return ReadResult::Nothing,
            LogRead::OnDisk => {
                self.begin_fetch(&mut inner, Seek::Byte(byte), None);
                return ReadResult::Nothing;
            }
        };
        let more = batch.end() != inner.log.end();
        let last = inner.life.has_ended() && !more;
        let format = if merge { inner.known_format() } else { None };
        drop(inner);
        ReadResult::Frames { batch: self.merged.merge(batch, format), more, last }
    }

    /// Returns the events with neighbouring deltas merged, or unchanged if their format is unknown.
    pub(in crate::hub) fn merge_batch(&self, batch: Batch) -> MergedBatch {
        let format = self.inner.lock().known_format();
        self.merged.merge(batch, format)
    }

    /// Returns the number of events and bytes after this byte of the log.
    #[must_use]
    pub fn lag_at_byte(&self, byte: u64) -> LogPosition {
        let inner = self.inner.lock();
        inner.log.position_near_byte(byte).distance_to(inner.log.end())
    }

    /// Returns the offset of the last event before this byte of the log.
    pub(in crate::hub) fn offset_before(&self, byte: u64) -> Offset {
        let inner = self.inner.lock();
        let last = inner.log.position_near_byte(byte).seq.checked_sub(1);
        let entry = last.and_then(|seq| inner.log.peek(seq));
        entry.map_or(inner.log.trimmed_through(), |entry| entry.offset)
    }

    /// Returns the offset of the first event that is pending: submitted and not committed.
    pub(in crate::hub) fn first_pending(&self) -> Option<Offset> {
        self.inner.lock().pending.first_offset()
    }

    /// Returns the end, if the channel has ended.
    pub(in crate::hub) fn ended(&self) -> Option<End> {
        self.inner.lock().life.ending().map(|ending| ending.end.clone())
    }

    /// Returns what a reader at this position would read next.
    pub(in crate::hub) fn look(&self, at: LogPosition) -> PeekResult {
        let inner = self.inner.lock();
        match (inner.log.peek(at.seq), inner.log.missing_at(at)) {
            (Some(entry), _) => PeekResult::Event(entry.offset),
            (None, Some(missing)) => PeekResult::Missing(missing),
            (None, None) if at.seq < inner.log.end().seq => PeekResult::OnDisk,
            (None, None) if inner.life.has_ended() => PeekResult::Over,
            (None, None) if inner.retired => PeekResult::Retired,
            (None, None) => {
                inner.pending.first_offset().map_or(PeekResult::Nothing, PeekResult::Pending)
            }
        }
    }

    /// Returns where a read without a subscriber begins.
    pub(in crate::hub) fn begin(&self, begin: StartAt) -> Start {
        let mut inner = self.inner.lock();
        inner.usage.note_use();
        inner.begin(begin)
    }

    /// Returns the start of a subscription to the snapshot; without a snapshot, the earliest event.
    pub(in crate::hub) fn begin_with_snapshot(&self) -> (Start, Option<Arc<Snapshot>>) {
        let mut inner = self.inner.lock();
        inner.usage.note_use();
        let Some(snapshot) = inner.snapshot(self.name.as_str()) else {
            return (inner.begin(StartAt::Earliest), None);
        };
        self.account(&mut inner);
        (inner.begin(StartAt::At(snapshot.mark)), Some(snapshot))
    }

    /// Returns the offsets of the last `count` events, oldest first.
    pub(in crate::hub) fn last_offsets(&self, count: u64) -> Vec<Offset> {
        let inner = self.inner.lock();
        let end = inner.log.end().seq;
        let entries = (end.saturating_sub(count)..end).filter_map(|seq| inner.log.peek(seq));
        entries.map(|entry| entry.offset).collect()
    }

    /// Returns the format of the events: as the producer gave it, or as recognised.
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        self.inner.lock().known_format()
    }

    /// Returns the format of the events, and the end marks among those that were read.
    #[must_use]
    pub fn end_marks(&self) -> (Option<Format>, Option<EndMarks>) {
        let mut inner = self.inner.lock();
        let format = inner.known_format();
        (format, inner.generation.as_ref().map(|generation| generation.end_marks()))
    }

    /// Returns the recogniser, after it has read the events in the log.
    pub(in crate::hub) fn recogniser(&self) -> Recogniser {
        let mut inner = self.inner.lock();
        inner.known_format();
        let generation = inner.generation.as_ref();
        generation.map(|generation| generation.recogniser().clone()).unwrap_or_default()
    }

    /// Returns the merging for subscribers that do not choose one.
    pub(in crate::hub) fn coalesce(&self) -> Coalesce {
        self.inner.lock().settings.coalesce
    }

    /// Returns whether after this byte of the log is an event that must not wait for a window to
    /// end.
    #[must_use]
    pub fn must_flush(&self, byte: u64) -> bool {
        let mut inner = self.inner.lock();
        inner.known_format();
        let ChannelInner { generation, log, .. } = &mut *inner;
        generation.as_mut().is_none_or(|generation| generation.flushes_after(byte, log))
    }
}

impl ChannelInner {
    /// Returns the offset of the earliest retained event, in memory or on disk.
    pub(super) fn earliest(&self) -> Option<Offset> {
        self.log.earliest().map(|entry| entry.offset).or_else(|| self.backend.earliest())
    }

    pub(super) fn begin(&self, begin: StartAt) -> Start {
        let log = &self.log;
        let ends = self.kept_at_end();
        let found = match begin {
            StartAt::Tail => log.position_of_last(ends),
            StartAt::Earliest => Ok(log.start()),
            StartAt::Last(count) => log.position_of_last(count.saturating_add(ends)),
            StartAt::At(mark) => Ok(mark.max(log.start())),
            StartAt::After(offset) => log.position_after(offset),
        };
        let mark = found.unwrap_or(log.start());
        Start {
            position: mark,
            on_disk: found.err(),
            last_before: log.offset_before(mark).unwrap_or(match begin {
                StartAt::After(offset) => offset,
                _ => log.trimmed_through(),
            }),
            at_tail: mark.seq.saturating_add(ends) >= log.end().seq,
            state: self.life.state(),
            trimmed: matches!(begin, StartAt::After(offset) if offset < log.trimmed_through()),
            inherited: self.inherited,
            over: ends > 0 && mark.seq >= log.end().seq,
            retired: self.retired,
        }
    }
}

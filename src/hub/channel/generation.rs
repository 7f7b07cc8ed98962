//! The generation in a channel: its format, its fold, and which of its events must not wait.
//!
//! A `Generation` follows the log at a small distance, under the channel's lock, so that events are
//! folded before retention trims them.

use std::sync::Arc;

use serde::Serialize;

use crate::event::ChannelState;
use crate::generation::{Fold, Format, Merge, Recogniser};
use crate::hub::coalesce::is_published;
use crate::limits::{MAX_APPARENT_BYTES, MAX_BATCH_BYTES, MAX_UNFOLDED_EVENTS};
use crate::position::Offset;
use crate::sse::Frames;
use crate::store::{Batch, Log, LogPosition, LogRead};

/// The format and the fold of a channel's events, up to a position in its log.
pub(super) struct Generation {
    /// Has no format while the events are JSON of an unknown shape.
    recogniser: Recogniser,
    /// The position after the last event that the recogniser has read.
    looked: LogPosition,
    /// Whether the recogniser has read every event since the first.
    whole: bool,
    /// `None` if the format is unknown, the fold became too large, or events were trimmed before
    /// they were folded.
    fold: Option<Fold>,
    /// The position after the last folded event, and that event's offset.
    folded: (LogPosition, Offset),
    /// Number of published events that are folded.
    events: u64,
    snapshot: Option<Arc<Snapshot>>,
    /// The position after the last event that [`flushes_after`](Self::flushes_after) has read.
    sorted: LogPosition,
    /// The byte of the log after the last event that must not wait for a window to end.
    flush: u64,
}

/// The fold of a generation as an event, up to a position in its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The data of the event, as JSON.
    pub data: Box<str>,
    /// The offset of the last event in the fold.
    pub(in crate::hub) through: Offset,
    /// The position in the log after that event.
    pub(in crate::hub) mark: LogPosition,
    state: ChannelState,
}

#[derive(Serialize)]
struct SnapshotData<'a> {
    channel: &'a str,
    state: &'a str,
    events: u64,
    #[serde(flatten)]
    fold: &'a Fold,
}

impl Generation {
    /// Creates the generation of the events in the log. If the first of them are trimmed, there is
    /// no fold.
    pub(super) fn new(recogniser: Recogniser, log: &Log) -> Self {
        let whole = log.start().seq == 0;
        let mut generation = Self {
            recogniser,
            looked: log.start(),
            whole,
            fold: None,
            folded: (log.start(), log.trimmed_through()),
            events: 0,
            snapshot: None,
            sorted: log.start(),
            flush: 0,
        };
        generation.begin(log);
        generation
    }

    /// Reads new events, until the format is final.
    pub(super) fn look(&mut self, log: &mut Log) {
        let mut changed = false;
        while !self.recogniser.is_settled() && self.looked != log.end() {
            match log.read(self.looked, MAX_BATCH_BYTES) {
                LogRead::Batch(batch) => {
                    changed |= look_at(&mut self.recogniser, &batch);
                    self.looked = batch.end();
                }
                LogRead::Missing(_) if self.looked.seq < log.start().seq => {
                    (self.looked, self.whole) = (log.start(), false);
                }
                _ => break,
            }
        }
        if changed {
            self.begin(log);
        }
    }

    /// Begins the fold. Events that are trimmed by then did not tell the format, and add nothing to
    /// the fold.
    fn begin(&mut self, log: &Log) {
        self.fold = self.format().filter(|_| self.whole).map(Fold::new);
        self.folded = (log.start(), log.trimmed_through());
        self.events = log.start().seq;
        self.snapshot = None;
    }

    pub(super) fn recogniser(&self) -> &Recogniser {
        &self.recogniser
    }

    pub(super) fn format(&self) -> Option<Format> {
        self.recogniser.format()
    }

    /// Returns the bytes of memory that the generation holds.
    pub(super) fn weight(&self) -> usize {
        let fold = self.fold.as_ref().map_or(0, Fold::weight);
        let snapshot = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.data.len());
        size_of::<Self>() + fold + snapshot
    }

    /// Returns whether [`shrink`](Self::shrink) could free memory.
    pub(super) fn is_heavy(&self) -> bool {
        self.fold.is_some() || self.snapshot.is_some()
    }

    /// Returns whether enough events are not folded that the fold should follow.
    pub(super) fn is_due(&self, log: &Log) -> bool {
        self.folded.0.distance_to(log.end()).seq >= MAX_UNFOLDED_EVENTS
    }

    /// Folds new events. A fold that grows past the limit is dropped.
    pub(super) fn follow(&mut self, log: &mut Log, max_bytes: u64) {
        let Some(fold) = &mut self.fold else { return };
        loop {
            match log.read(self.folded.0, MAX_BATCH_BYTES) {
                LogRead::CaughtUp => return,
                LogRead::Missing(_) | LogRead::OnDisk => break,
                LogRead::Batch(batch) => {
                    let bytes = batch.bytes();
                    for (frame, entry) in Frames::new(&bytes).zip(batch.entries()) {
                        if is_published(frame) {
                            fold.push(frame.event_type(), &frame.data());
                            self.events += 1;
                            self.folded.1 = entry.offset;
                        }
                    }
                    self.folded.0 = batch.end();
                }
            }
            if fold.weight() as u64 > max_bytes {
                break;
            }
        }
        self.give_up();
    }

    /// Drops the fold: it is too large, or events were trimmed before they were folded.
    fn give_up(&mut self) {
        (self.fold, self.snapshot) = (None, None);
    }

    /// Returns the fold as an event, if there is one. It may be a few events old: the later ones
    /// are in the log.
    pub(super) fn snapshot(
        &mut self,
        log: &mut Log,
        channel: &str,
        state: ChannelState,
        max_bytes: u64,
    ) -> Option<Arc<Snapshot>> {
        if let Some(known) = &self.snapshot
            && known.state == state
            && known.mark.seq >= log.start().seq
            && known.mark.distance_to(log.end()).seq < MAX_UNFOLDED_EVENTS
        {
            return Some(known.clone());
        }
        self.follow(log, max_bytes);
        let fold = self.fold.as_ref().filter(|_| self.events > 0)?;
        let data = SnapshotData { channel, state: state.as_str(), events: self.events, fold };
        // Strings and numbers: this cannot fail.
        let data = serde_json::to_string(&data).unwrap_or_default().into();
        let (mark, through) = self.folded;
        let mark = if state == ChannelState::Open { mark } else { log.position_of_last(1).ok()? };
        let snapshot = Arc::new(Snapshot { data, through, mark, state });
        self.snapshot = Some(snapshot.clone());
        Some(snapshot)
    }

    /// Returns the fold of all events, if there is one.
    pub(super) fn folded(&mut self, log: &mut Log, max_bytes: u64) -> Option<&Fold> {
        self.follow(log, max_bytes);
        self.fold.as_ref()
    }

    /// Returns whether after this byte of the log is an event that must not wait: one that cannot
    /// be merged. Each event is checked once, for all readers.
    pub(super) fn flushes_after(&mut self, byte: u64, log: &mut Log) -> bool {
        self.sorted = self.sorted.max(log.position_near_byte(byte)).max(log.resident_from());
        while let LogRead::Batch(batch) = log.read(self.sorted, MAX_BATCH_BYTES) {
            let bytes = batch.bytes();
            for (number, frame) in Frames::new(&bytes).enumerate() {
                let delta = |format| Merge::begin(format, frame.event_type(), &frame.data());
                if !is_published(frame) || self.format().and_then(delta).is_none() {
                    self.flush = batch.byte_after(number + 1);
                }
            }
            self.sorted = batch.end();
        }
        self.flush > byte || byte < log.resident_from().byte
    }

    /// Frees memory: the rendered snapshot, and the fold if its events are evicted as well.
    pub(super) fn shrink(&mut self, log: &Log, keep: u64) {
        self.snapshot = None;
        if log.start().distance_to(log.end()).seq <= keep {
            self.fold = None;
        }
    }
}

/// Returns the format that the first events in the log tell.
pub(super) fn apparent(log: &mut Log) -> Option<Format> {
    let LogRead::Batch(batch) = log.read(log.start(), MAX_APPARENT_BYTES) else { return None };
    let mut recogniser = Recogniser::new();
    look_at(&mut recogniser, &batch);
    recogniser.format()
}

/// Reads published events, until the format is final. Returns whether the format has changed.
fn look_at(recogniser: &mut Recogniser, batch: &Batch) -> bool {
    let bytes = batch.bytes();
    let before = recogniser.format();
    for frame in Frames::new(&bytes).filter(|frame| is_published(*frame)) {
        recogniser.look(frame.event_type(), &frame.data());
        if recogniser.is_settled() {
            break;
        }
    }
    recogniser.format() != before
}

//! The generation in a channel: its format, its fold, its end marks, and which of its events must
//! not wait.
//!
//! A `Generation` is fed the events of each commit, under the channel's lock and before retention
//! trims them. Only events that were committed before it was needed are decoded from the log.

use std::sync::Arc;

use serde::Serialize;

use crate::event::{ChannelState, NewEvent};
use crate::generation::{Fold, Format, Merge, ModelEvent, Recogniser};
use crate::hub::coalesce::is_published;
use crate::limits::{MAX_APPARENT_BYTES, MAX_BATCH_BYTES, MAX_UNFOLDED_EVENTS};
use crate::position::Offset;
use crate::sse::{Frame, Frames};
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
    /// The position after the last event that was read for the fold and for end marks.
    read: LogPosition,
    /// Number of published events that were read.
    events: u64,
    marks: EndMarks,
    snapshot: Option<Arc<Snapshot>>,
    /// The position after the last event that [`flushes_after`](Self::flushes_after) has read.
    sorted: LogPosition,
    /// The byte of the log after the last event that must not wait for a window to end.
    flush: u64,
}

/// Events that were just committed.
#[derive(Clone, Copy)]
pub(super) struct CommittedEvents<'a> {
    pub(super) events: &'a [NewEvent],
    /// The offset of the first; the others follow it one by one.
    pub(super) first: Offset,
    /// The positions before and after them.
    pub(super) start: LogPosition,
    pub(super) end: LogPosition,
}

/// The end marks among the events that a generation has read.
#[derive(Clone, Copy, Debug)]
pub struct EndMarks {
    /// The offset before the first event that was read.
    after: Offset,
    /// The offset of the last event that was read.
    through: Offset,
    /// The offsets of the first and the last mark.
    found: Option<(Offset, Offset)>,
}

impl EndMarks {
    /// Begins with the events after this offset.
    fn begin(after: Offset) -> Self {
        Self { after, through: after, found: None }
    }

    fn note(&mut self, offset: Offset, is_mark: bool) {
        self.through = offset;
        if is_mark {
            self.found = Some((self.found.map_or(offset, |(first, _)| first), offset));
        }
    }

    /// Returns whether the event with this offset is an end mark; `None` if it was not read, or is
    /// between two marks.
    #[must_use]
    pub fn has(&self, offset: Offset) -> Option<bool> {
        let was_read = self.after < offset && offset <= self.through;
        match self.found.filter(|_| was_read) {
            Some((first, last)) if first < offset && offset < last => None,
            Some((first, last)) => Some(offset == first || offset == last),
            None => was_read.then_some(false),
        }
    }
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
            read: log.start(),
            events: 0,
            marks: EndMarks::begin(log.trimmed_through()),
            snapshot: None,
            sorted: log.start(),
            flush: 0,
        };
        generation.begin(log);
        generation
    }

    /// Reads events that were just committed between these positions. If earlier ones have not been
    /// read, that is left to [`follow`](Self::follow).
    pub(super) fn feed(&mut self, fed: CommittedEvents<'_>, log: &mut Log, max_bytes: u64) {
        let CommittedEvents { events, first, start, end } = fed;
        if self.looked == start && !self.recogniser.is_settled() {
            let before = self.format();
            for event in events {
                self.recogniser.look(&ModelEvent::of(event));
            }
            self.looked = end;
            if self.format() != before {
                self.begin(log);
            }
        } else {
            self.look(log);
        }
        if self.read != start {
            return;
        }
        for (offset, event) in (first.0..).zip(events) {
            self.take(&ModelEvent::of(event), Offset(offset));
        }
        self.read = end;
        self.limit(max_bytes);
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
        self.read = log.start();
        self.events = log.start().seq;
        self.marks = EndMarks::begin(log.trimmed_through());
        self.snapshot = None;
    }

    pub(super) fn recogniser(&self) -> &Recogniser {
        &self.recogniser
    }

    pub(super) fn format(&self) -> Option<Format> {
        self.recogniser.format()
    }

    /// Returns whether events matter to it: their format is known, or may still be detected.
    pub(super) fn reads(&self) -> bool {
        self.format().is_some() || !self.recogniser.is_settled()
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

    /// Returns whether the number of events that were not read has reached its limit.
    pub(super) fn is_due(&self, log: &Log) -> bool {
        self.read.distance_to(log.end()).seq >= MAX_UNFOLDED_EVENTS
    }

    /// Reads the events of the log that were not read. A fold that grows past the limit is dropped.
    pub(super) fn follow(&mut self, log: &mut Log, max_bytes: u64) {
        while self.fold.is_some() {
            match log.read(self.read, MAX_BATCH_BYTES) {
                LogRead::CaughtUp => return,
                LogRead::Missing(_) | LogRead::OnDisk => self.give_up(),
                LogRead::Batch(batch) => {
                    let bytes = batch.bytes();
                    for (frame, entry) in Frames::new(&bytes).zip(batch.entries()) {
                        if is_published(frame) {
                            self.take(&event_of(frame), entry.offset);
                        }
                    }
                    self.read = batch.end();
                    self.limit(max_bytes);
                }
            }
        }
        // Without a fold, events that were missed are not worth reading.
        if self.read != log.end() {
            (self.read, self.marks) = (log.end(), EndMarks::begin(log.tail()));
        }
    }

    /// Reads a published event.
    fn take(&mut self, event: &ModelEvent<'_>, offset: Offset) {
        let is_mark = self.format().is_some_and(|format| format.is_end(event));
        self.marks.note(offset, is_mark);
        self.events += 1;
        if let Some(fold) = &mut self.fold {
            fold.push(event);
        }
    }

    /// Drops a fold that has grown past the limit.
    fn limit(&mut self, max_bytes: u64) {
        if self.fold.as_ref().is_some_and(|fold| fold.weight() as u64 > max_bytes) {
            self.give_up();
        }
    }

    /// Drops the fold: it is too large, or events were trimmed before they were folded.
    fn give_up(&mut self) {
        (self.fold, self.snapshot) = (None, None);
    }

    /// Returns the end marks among the events that were read; none without a format.
    pub(super) fn end_marks(&self) -> EndMarks {
        self.marks
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
        let mark = self.read;
        let through = self.marks.through;
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
                let delta = |format| Merge::begin(format, &event_of(frame));
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

fn event_of(frame: Frame<'_>) -> ModelEvent<'_> {
    ModelEvent::new(frame.event_type(), frame.data())
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
        recogniser.look(&event_of(frame));
        if recogniser.is_settled() {
            break;
        }
    }
    recogniser.format() != before
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Moment;
    use crate::sse;
    use crate::store::{Entry, Retention};

    const RETENTION: Retention =
        Retention { max_events: 100, max_bytes: 1 << 20, max_age: Duration::from_secs(9) };

    const CHUNK: &str = r#"{"object":"chat.completion.chunk","model":"m","choices":[{"delta":{"#;

    fn events(data: &[&str]) -> Vec<NewEvent> {
        let event = |data: &&str| NewEvent { event_type: None, data: (*data).to_owned().into() };
        data.iter().map(event).collect()
    }

    /// Appends the events, each with its frame, and feeds them.
    fn commit(generation: &mut Generation, log: &mut Log, events: &[NewEvent]) {
        let start = log.end();
        let first = Offset(log.tail().0 + 1);
        for (offset, event) in (first.0..).zip(events) {
            let id = format!("e-{offset}");
            let mut frame = Vec::new();
            let data = event.data.as_bytes();
            sse::encode(&mut frame, &sse::Text { id: Some(&id), event_type: None, data });
            let entry = Entry { offset: Offset(offset), time: Moment::default() };
            log.append(entry, &frame, &RETENTION);
        }
        generation.feed(CommittedEvents { events, first, start, end: log.end() }, log, u64::MAX);
    }

    /// Returns what a generation knows, without how it came to know it.
    fn known(generation: &mut Generation, log: &mut Log) -> (Option<Box<str>>, Vec<Option<bool>>) {
        let snapshot = generation.snapshot(log, "c", ChannelState::Open, u64::MAX);
        let marks = (1..=log.tail().0).map(|offset| generation.end_marks().has(Offset(offset)));
        (snapshot.map(|snapshot| snapshot.data.clone()), marks.collect())
    }

    #[test]
    fn events_that_are_fed_add_up_to_what_their_frames_do() {
        let chunk = |text: &str| format!(r#"{CHUNK}"content":"{text}"}}}}]}}"#);
        let one = chunk("one");
        let two = chunk(" two");
        let error = r#"{"error":{"message":"overloaded"}}"#;
        let streams: [&[&[&str]]; 4] = [
            &[&["a\r\nb"], &["\rc", "d\n"], &["[DONE]"]],
            &[&[&one, &two], &["[DONE]"], &[&one, error], &[&two]],
            &[&["[1]", r#"{"x":1}"#], &[&one], &[&two, "[DONE]"]],
            &[&["a line", "and another"], &[&one], &[&two]],
        ];
        for stream in streams {
            let mut log = Log::new(Offset::ZERO);
            let mut fed = Generation::new(Recogniser::new(), &log);
            for batch in stream {
                commit(&mut fed, &mut log, &events(batch));
            }
            let mut late = Generation::new(Recogniser::new(), &log);
            late.look(&mut log);
            late.follow(&mut log, u64::MAX);
            assert_eq!(fed.format(), late.format(), "{stream:?}");
            let fed = known(&mut fed, &mut log);
            let late = known(&mut late, &mut log);
            assert!(fed.0.is_some(), "{stream:?}");
            assert_eq!(fed, late, "{stream:?}");
        }
    }

    #[test]
    fn an_event_that_was_fed_is_not_decoded_again() {
        let mut log = Log::new(Offset::ZERO);
        let mut generation = Generation::new(Recogniser::named(Format::Text), &log);
        commit(&mut generation, &mut log, &events(&["one", " two"]));
        assert_eq!(generation.read, log.end());
        commit(&mut generation, &mut log, &events(&[" three"]));
        assert_eq!(generation.read, log.end());
    }

    #[test]
    fn a_mark_is_known_where_it_was_read_and_no_other_is_near() {
        let mut marks = EndMarks::begin(Offset(3));
        for (offset, is_mark) in [(4, true), (5, false), (6, true), (7, false), (8, true)] {
            marks.note(Offset(offset), is_mark);
        }
        let has = [3, 4, 5, 6, 7, 8, 9].map(|offset| marks.has(Offset(offset)));
        assert_eq!(has, [None, Some(true), None, None, None, Some(true), None]);
    }
}

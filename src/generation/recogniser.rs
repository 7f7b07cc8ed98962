//! Detects the format of a stream, and its end, event by event.
//!
//! The first event that determines a format decides. Heartbeats, empty data, `[DONE]` and JSON of
//! an unknown shape determine none. Data that is not JSON suggests text, which is final only after
//! several such events: a provider may begin with a line of text, so an event that adds to another
//! format still decides.

use super::event::ModelEvent;
use super::failure::{self, failure};
use super::fold::Fold;
use super::format::Format;
use super::mark::{Choices, Ending, Mark};
use crate::json::Fields;

/// Events like text after which the format is text for good.
const MAX_DOUBTFUL_EVENTS: u16 = 8;

/// Events of unknown JSON after which detection stops.
const MAX_UNKNOWN_EVENTS: u16 = 1024;

/// SSE types of events that only keep a connection alive.
const HEARTBEATS: [&str; 8] =
    ["ping", "pong", "heartbeat", "heart-beat", "keepalive", "keep-alive", "keep_alive", "noop"];

/// Follows the events of one stream.
#[derive(Clone, Debug, Default)]
pub struct Recogniser {
    format: Option<Format>,
    /// Whether the format is final.
    settled: bool,
    /// Events that looked like text.
    doubtful: u16,
    /// Events of JSON that belongs to no format.
    unknown: u16,
    /// Whether an event has reported that the model has stopped.
    stopped: bool,
    choices: Choices,
}

/// The format that the data of one event suggests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evidence {
    Nothing,
    /// JSON that belongs to no format.
    Unknown,
    /// Not JSON.
    Text,
    Format(Format),
}

impl Recogniser {
    /// Creates a recogniser for a stream of unknown format.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates a recogniser for a stream whose format is given.
    #[must_use]
    pub fn named(format: Format) -> Self {
        Self { format: Some(format), settled: true, ..Self::default() }
    }

    /// Returns the format, if it is known so far.
    #[must_use]
    pub fn format(&self) -> Option<Format> {
        self.format
    }

    /// Returns whether the format is final.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Uses the next event to detect the format. Returns whether the format has changed.
    pub fn look(&mut self, event: &ModelEvent<'_>) -> bool {
        if self.settled {
            return false;
        }
        let before = self.format;
        match told(event) {
            Evidence::Nothing => {}
            Evidence::Format(format) if self.is_no_text(format, event) => {
                (self.format, self.settled) = (Some(format), true);
            }
            Evidence::Unknown if before.is_none() => {
                self.unknown += 1;
                self.settled = self.unknown == MAX_UNKNOWN_EVENTS;
            }
            Evidence::Text | Evidence::Unknown | Evidence::Format(_) => {
                self.format = Some(Format::Text);
                self.doubtful += 1;
                self.settled = self.doubtful == MAX_DOUBTFUL_EVENTS;
            }
        }
        self.format != before
    }

    /// Uses the next event to detect the format, and returns its mark.
    pub fn mark(&mut self, event: &ModelEvent<'_>) -> Option<Mark> {
        self.look(event);
        let Some(format) = self.format else {
            let done = || event.is_done().then_some(Mark::Last(Ending::Complete));
            return done().or_else(|| failure(event, false).map(Mark::Nearly));
        };
        let mark = format.mark(event);
        self.stopped |= self.choices.note(format, event) || mark == Some(Mark::Finished);
        mark
    }

    /// Returns whether the model has stopped, with all of its choices: the generation is complete
    /// if its stream ends here.
    #[must_use]
    pub fn has_finished(&self) -> bool {
        self.stopped && self.choices.are_done()
    }

    /// Returns whether the event is of this format rather than text. A stream that looked like text
    /// may be another format, and text may contain JSON: what the event adds to a fold decides.
    fn is_no_text(&self, format: Format, event: &ModelEvent<'_>) -> bool {
        if self.format != Some(Format::Text) {
            return true;
        }
        let mut fold = Fold::new(format);
        fold.push(event);
        !fold.parts().is_empty() || fold.model().is_some()
    }
}

fn told(event: &ModelEvent<'_>) -> Evidence {
    if event.event_type().is_some_and(is_heartbeat) {
        return Evidence::Nothing;
    }
    let data = event.data().trim();
    let looks_like = |begin: &str, end: char| data.starts_with(begin) && data.ends_with(end);
    match data.bytes().next() {
        None => Evidence::Nothing,
        Some(b'{') => match event.fields() {
            Some(fields) => told_by(&fields),
            // Such as JSON with a `NaN`.
            None if looks_like("{\"", '}') => Evidence::Unknown,
            None => Evidence::Text,
        },
        Some(b'[') if event.is_done() => Evidence::Nothing,
        Some(b'[') if event.json().is_some() || looks_like("[{", ']') => Evidence::Unknown,
        Some(_) if event.event_type().is_some_and(failure::is_error_type) => Evidence::Nothing,
        Some(_) => Evidence::Text,
    }
}

fn told_by(fields: &Fields<'_>) -> Evidence {
    let mut formats = Format::SNIFFED.into_iter();
    match formats.find(|format| format.provider().recognises(fields)) {
        // In a stream of unknown JSON, an `error` may be that of an item.
        Some(_) if failure::is_doubtful(fields) => Evidence::Unknown,
        Some(format) => Evidence::Format(format),
        None => Evidence::Unknown,
    }
}

fn is_heartbeat(event_type: &str) -> bool {
    HEARTBEATS.iter().any(|name| event_type.eq_ignore_ascii_case(name))
}

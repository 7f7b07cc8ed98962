//! When a generation's events say that it has ended.

use crate::event::{ChannelState, EventType, NewEvent};
use crate::generation::{Ending, Format, Mark, Recogniser};
use crate::hub::Close;

/// Looks for the mark among the events of one body.
#[derive(Debug)]
pub(super) struct EndDetector {
    recogniser: Recogniser,
    /// The generation has ended, but a last word may follow.
    nearly: Option<Ending>,
}

impl EndDetector {
    pub(super) fn new(recogniser: Recogniser) -> Self {
        Self { recogniser, nearly: None }
    }

    /// What the events have told so far.
    pub(super) fn recogniser(&self) -> &Recogniser {
        &self.recogniser
    }

    /// The format of the events, as far as it is known.
    pub(super) fn format(&self) -> Option<Format> {
        self.recogniser.format()
    }

    /// Looks at the next events. Says how many of them there are until the generation has ended for
    /// good, and how.
    pub(super) fn look(&mut self, events: &[NewEvent]) -> Option<(usize, Close)> {
        for (number, event) in events.iter().enumerate() {
            match mark(&mut self.recogniser, event) {
                // The recogniser remembers that the model has stopped.
                None | Some(Mark::Finished) => {}
                Some(Mark::Nearly(ending)) => self.note(ending),
                Some(Mark::Last(ending)) => {
                    self.note(ending);
                    return self.nearly.take().map(|ending| (number + 1, close(ending)));
                }
            }
        }
        None
    }

    /// The first ending counts, but an error that follows what seemed complete does, too.
    fn note(&mut self, ending: Ending) {
        match (&self.nearly, &ending) {
            (None, _) | (Some(Ending::Complete), Ending::Error(_)) => self.nearly = Some(ending),
            _ => {}
        }
    }

    /// The body is over: how the generation has ended, if it has.
    pub(super) fn at_end(&mut self) -> Option<Close> {
        let finished = self.recogniser.has_finished().then_some(Ending::Complete);
        self.nearly.take().or(finished).map(close)
    }

    /// The body broke off: how the generation had ended, if it had. Where more than the stop of the
    /// model was due, its text is whole, but its producer may come back with the rest.
    pub(super) fn at_break(&mut self) -> Option<Close> {
        if self.format() == Some(Format::Gemini) {
            return self.at_end();
        }
        self.nearly.take().map(close)
    }
}

/// Looks at the next event.
fn mark(recogniser: &mut Recogniser, event: &NewEvent) -> Option<Mark> {
    let data = str::from_utf8(event.data.as_bytes()).unwrap_or_default();
    recogniser.mark(event.event_type.as_ref().map(EventType::as_str), data)
}

/// Whether the generation ends with this event.
pub(super) fn ends_with(recogniser: &Recogniser, event: &NewEvent) -> bool {
    mark(&mut recogniser.clone(), event).is_some()
}

/// Whether an event without its empty line is an end all the same. It is if nothing can be missing
/// of it: that is so of `[DONE]` and of whole JSON.
pub(super) fn is_whole_end(recogniser: &Recogniser, event: &NewEvent) -> bool {
    let data = event.data.as_bytes().trim_ascii();
    let is_whole = || serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok();
    (data == b"[DONE]" || (data.starts_with(b"{") && is_whole())) && ends_with(recogniser, event)
}

fn close(ending: Ending) -> Close {
    match ending {
        Ending::Complete => Close { state: ChannelState::Complete, reason: None },
        Ending::Cancelled => Close { state: ChannelState::Cancelled, reason: None },
        Ending::Error(reason) => Close { state: ChannelState::Error, reason: Some(reason) },
    }
}

//! Detection of the end of a generation in its events.

use crate::event::{ChannelState, NewEvent};
use crate::generation::{Ending, Format, Mark, ModelEvent, Recogniser};
use crate::hub::Close;

/// Looks for the end mark in the events of one body.
#[derive(Debug)]
pub(super) struct EndDetector {
    recogniser: Recogniser,
    /// An ending that a later event may still replace.
    nearly: Option<Ending>,
}

impl EndDetector {
    pub(super) fn new(recogniser: Recogniser) -> Self {
        Self { recogniser, nearly: None }
    }

    /// Returns the recogniser, which has read the events so far.
    pub(super) fn recogniser(&self) -> &Recogniser {
        &self.recogniser
    }

    /// Returns the format of the events, as far as it is known.
    pub(super) fn format(&self) -> Option<Format> {
        self.recogniser.format()
    }

    /// Reads the next events. Returns the number of events up to the final end mark, and how to
    /// close the channel, if the mark is among them.
    pub(super) fn look(&mut self, events: &[NewEvent]) -> Option<(usize, Close)> {
        for (number, event) in events.iter().enumerate() {
            match self.recogniser.mark(&ModelEvent::of(event)) {
                // The recogniser notes that the model has stopped.
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

    /// Keeps the first ending, but an error replaces one that seemed complete.
    fn note(&mut self, ending: Ending) {
        match (&self.nearly, &ending) {
            (None, _) | (Some(Ending::Complete), Ending::Error(_)) => self.nearly = Some(ending),
            _ => {}
        }
    }

    /// Returns how to close the channel at the end of the body, if the generation has ended.
    pub(super) fn at_end(&mut self) -> Option<Close> {
        let finished = self.recogniser.has_finished().then_some(Ending::Complete);
        self.nearly.take().or(finished).map(close)
    }

    /// Returns how to close the channel after the body broke off, if the generation had ended. If
    /// more was expected than the stop of the model, the text is complete, but the producer may
    /// send the rest.
    pub(super) fn at_break(&mut self) -> Option<Close> {
        if self.format() == Some(Format::Gemini) {
            return self.at_end();
        }
        self.nearly.take().map(close)
    }
}

/// Returns whether the generation ends with this event.
pub(super) fn ends_with(recogniser: &Recogniser, event: &NewEvent) -> bool {
    recogniser.clone().mark(&ModelEvent::of(event)).is_some()
}

/// Returns whether an event without its empty line is an end mark nevertheless: nothing can be
/// missing from `[DONE]` or from complete JSON.
pub(super) fn is_whole_end(recogniser: &Recogniser, event: &NewEvent) -> bool {
    ModelEvent::of(event).is_whole() && ends_with(recogniser, event)
}

fn close(ending: Ending) -> Close {
    match ending {
        Ending::Complete => Close { state: ChannelState::Complete, reason: None },
        Ending::Cancelled => Close { state: ChannelState::Cancelled, reason: None },
        Ending::Error(reason) => Close { state: ChannelState::Error, reason: Some(reason) },
    }
}

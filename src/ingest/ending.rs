//! When a generation's events say that it has ended.

use crate::event::{ChannelState, EventType, NewEvent};
use crate::generation::{Ending, Format, Mark};
use crate::hub::Close;

/// What stands behind many end marks, and may be the last word of a stream that has ended before.
const DONE: &[u8] = b"[DONE]";

/// Looks for the mark among the events of one body.
#[derive(Debug)]
pub(super) struct EndWatch {
    format: Option<Format>,
    /// The first event has been looked at.
    begun: bool,
    /// The generation has ended, but a last word may follow.
    nearly: Option<Close>,
}

impl EndWatch {
    pub(super) fn new(format: Option<Format>) -> Self {
        Self { format, begun: false, nearly: None }
    }

    /// Looks at the next events. Says how many of them there are until the generation has ended for
    /// good, and how.
    pub(super) fn look(&mut self, events: &[NewEvent]) -> Option<(usize, Close)> {
        for (number, event) in events.iter().enumerate() {
            let data = str::from_utf8(event.data.as_bytes()).unwrap_or_default();
            if !self.begun {
                self.begun = true;
                self.format = self.format.or_else(|| Format::sniff(data));
            }
            if self.nearly.is_some() && event.data.as_bytes() == DONE {
                return self.nearly.take().map(|close| (number + 1, close));
            }
            let event_type = event.event_type.as_ref().map(EventType::as_str);
            match self.format.and_then(|format| format.mark(event_type, data)) {
                None => {}
                Some(Mark::Nearly(ending)) => {
                    self.nearly.get_or_insert_with(|| close(ending));
                }
                Some(Mark::Last(ending)) => {
                    let close = self.nearly.take().unwrap_or_else(|| close(ending));
                    return Some((number + 1, close));
                }
            }
        }
        None
    }

    /// The body is over: how the generation has ended, if it has.
    pub(super) fn at_end(&mut self) -> Option<Close> {
        self.nearly.take()
    }
}

fn close(ending: Ending) -> Close {
    match ending {
        Ending::Complete => Close { state: ChannelState::Complete, reason: None },
        Ending::Cancelled => Close { state: ChannelState::Cancelled, reason: None },
        Ending::Error(reason) => Close { state: ChannelState::Error, reason: Some(reason) },
    }
}

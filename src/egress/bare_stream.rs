//! The published stream and nothing else, for clients that know their provider's stream and not
//! this hub: no ids, no `retry:`, none of the hub's own events.
//!
//! The way in which the stream ends replaces the hub's own events: cleanly if the generation is
//! complete, broken off if it is not. A client that does not know gaps would take a stream with a
//! gap for a whole one.

use super::format::push_json;
use crate::event::{ChannelState, END, RESERVED_PREFIX};
use crate::generation::{Format, ModelEvent};
use crate::hub::{Step, Subscription};
use crate::sse::{self, Frame, Frames};

/// Writes a bare stream, and decides how it ends.
#[derive(Debug, Default)]
pub(super) struct Bare {
    /// Lines, as Ollama sends them, instead of an event stream.
    lines: bool,
    /// An end mark has been written.
    marked: bool,
    /// The channel has ended as complete.
    complete: bool,
    /// Events are missing.
    holed: bool,
}

impl Bare {
    pub(super) fn new(lines: bool) -> Self {
        Self { lines, ..Self::default() }
    }

    /// Returns whether the end of the stream is the end of the generation.
    pub(super) fn ends_well(&self) -> bool {
        !self.holed && (self.marked || self.complete)
    }

    /// Returns whether events are missing, so that the stream must be broken off.
    pub(super) fn is_holed(&self) -> bool {
        self.holed
    }

    /// Returns a heartbeat that the clients of the channel's format survive. Most of them know a
    /// comment. Gemini's clients for Python end at one, and those for JavaScript lose the next
    /// event with it: they are sent an empty line, as are all clients while no event has shown the
    /// format. In lines of JSON it is a space before the next line: an empty line would be no JSON.
    pub(super) fn heartbeat(&self, subscription: &Subscription) -> &'static [u8] {
        let channel = subscription.channel();
        let format = channel.and_then(|channel| channel.format());
        let empty = channel.is_none_or(|channel| channel.end().seq == 0);
        match format {
            _ if self.lines => b" ",
            Some(Format::Gemini) => b"\n",
            None if empty => b"\n",
            _ => b":\n",
        }
    }

    /// Appends a step; returns the number of published events in it.
    pub(super) fn render(&mut self, step: &Step, out: &mut Vec<u8>) -> u64 {
        let Step::Events { channel, batch } = step else {
            self.holed |= matches!(step, Step::Gap(_));
            return 0;
        };
        let (format, marks) = channel.end_marks();
        let bytes = batch.bytes();
        let mut count = 0;
        for (frame, entry) in Frames::new(&bytes).zip(batch.entries()) {
            if frame.event_type().is_some_and(|name| name.starts_with(RESERVED_PREFIX)) {
                self.note_end(frame);
            } else {
                // The channel reads each event once for all. Before it was asked, it did not.
                let event = || ModelEvent::new(frame.event_type(), frame.data());
                let looks = |format: Format| format.is_end(&event());
                let known = marks.and_then(|marks| marks.has(entry.offset));
                self.marked |= known.unwrap_or_else(|| format.is_some_and(looks));
                self.push(frame, out);
                count += 1;
            }
        }
        count
    }

    fn note_end(&mut self, frame: Frame<'_>) {
        let data = frame.data();
        let state = serde_json::from_str::<serde_json::Value>(&data).unwrap_or_default();
        let complete = state["state"] == ChannelState::Complete.as_str();
        self.complete |= frame.event_type() == Some(END) && complete;
    }

    fn push(&self, frame: Frame<'_>, out: &mut Vec<u8>) {
        let event_type = frame.event_type();
        let data = frame.data();
        if self.lines {
            push_line(&data, out);
        } else {
            sse::event_text(out, &sse::Text { id: None, event_type, data: data.as_bytes() });
        }
    }
}

/// Appends the data of one event as one line.
///
/// In JSON, a line end is white space and can be another. What is not JSON and has several lines
/// becomes a JSON string: nothing of it is lost, and the reader of lines can parse it.
fn push_line(data: &str, out: &mut Vec<u8>) {
    if !data.contains('\n') {
        out.extend_from_slice(data.as_bytes());
    } else if serde_json::from_str::<serde::de::IgnoredAny>(data).is_ok() {
        out.extend(data.bytes().map(|byte| if byte == b'\n' { b' ' } else { byte }));
    } else {
        push_json(&data, out);
    }
    out.push(b'\n');
}

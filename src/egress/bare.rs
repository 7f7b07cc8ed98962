//! The published stream and nothing else, for clients that know their provider's stream and not
//! this hub: no ids, no `retry:`, none of the hub's own events.
//!
//! What the hub would say in words it must say by how the stream ends: cleanly if the generation
//! is there to its end, broken off if it is not. To a client that never heard of a gap, a stream
//! with a hole in it would look whole.

use super::format::push_json;
use crate::event::{ChannelState, END, RESERVED_PREFIX};
use crate::generation::{Format as Shape, Mark};
use crate::hub::{Step, Subscription};
use crate::sse::{self, Frame, Frames};

/// Writes a bare stream, and judges how it ends.
#[derive(Debug, Default)]
pub(super) struct Bare {
    /// Lines, as Ollama sends them, and no event stream.
    lines: bool,
    shape: Option<Shape>,
    /// An end mark was written.
    marked: bool,
    /// The channel has ended as complete.
    complete: bool,
    /// Something is missing.
    holed: bool,
}

impl Bare {
    pub(super) fn new(lines: bool) -> Self {
        Self { lines, ..Self::default() }
    }

    /// Whether the client can take the end of the stream for the end of the generation.
    pub(super) fn ends_well(&self) -> bool {
        !self.holed && (self.marked || self.complete)
    }

    /// Whether nothing more can be made of it.
    pub(super) fn is_holed(&self) -> bool {
        self.holed
    }

    /// A heartbeat that the clients of the channel's format survive. A comment is what most of them
    /// know. Gemini's clients for Python end at one, and those for JavaScript lose the next event
    /// with it: they are sent an empty line, as is everybody while no event has told the format. In
    /// lines of JSON it is white space before the next: an empty line would be no JSON.
    pub(super) fn heartbeat(&self, subscription: &Subscription) -> &'static [u8] {
        let channel = subscription.channel();
        let shape = self.shape.or_else(|| channel?.format());
        let empty = channel.is_none_or(|channel| channel.end().seq == 0);
        match shape {
            _ if self.lines => b" ",
            Some(Shape::Gemini) => b"\n",
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
        self.shape = channel.format();
        let (bytes, mut count) = (batch.bytes(), 0);
        for frame in Frames::new(&bytes) {
            if frame.event_type().is_some_and(|name| name.starts_with(RESERVED_PREFIX)) {
                self.note_end(frame);
            } else {
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

    fn push(&mut self, frame: Frame<'_>, out: &mut Vec<u8>) {
        let (event_type, data) = (frame.event_type(), frame.data());
        let mark = |shape: Shape| shape.mark(event_type, &data);
        let marks = |shape| matches!(mark(shape), Some(Mark::Last(_) | Mark::Nearly(_)));
        self.marked |= self.shape.is_some_and(marks);
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

//! The kinds of body, as decoders: pieces in, events out. One decoder holds at most one event.

use bytes::{Bytes, BytesMut};
use memchr::memchr;

use crate::event::{EventType, InvalidEventType, NewEvent, Payload};
use crate::sse;

/// How a body is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// An event stream: event by event.
    EventStream,
    /// NDJSON: line by line, each valid JSON.
    Ndjson,
    /// Text: piece by piece, as it arrives.
    Text,
    /// The data of one event.
    Single,
}

impl BodyKind {
    /// Whether events are published while the body arrives.
    #[must_use]
    pub fn is_streamed(self) -> bool {
        self != Self::Single
    }
}

/// Why a body cannot be read further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEvent {
    /// Larger than the limit in bytes.
    #[error("the data is larger than {0} bytes (`publish.max_event_bytes`)")]
    TooLarge(usize),
    /// Not UTF-8.
    #[error("the data is not UTF-8: encode it, for example as base64")]
    NotUtf8,
    /// Not JSON.
    #[error("the line is not valid JSON: NDJSON has one JSON text per line")]
    NotJson,
    /// An unusable event type.
    #[error(transparent)]
    EventType(#[from] InvalidEventType),
}

/// Reads a body of any kind.
pub(super) enum Decoder {
    EventStream { parser: sse::Parser, default_type: Option<EventType> },
    Ndjson { lines: Lines, event_type: Option<EventType> },
    Text { pieces: Pieces, event_type: Option<EventType> },
    Single { data: BytesMut, max_bytes: usize, event_type: Option<EventType>, optional: bool },
}

impl Decoder {
    /// A decoder for this kind. `event_type` is that of events which do not name their own. A
    /// single event is `optional` if an empty body is to mean "no event".
    pub(super) fn new(
        kind: BodyKind,
        event_type: Option<EventType>,
        max_bytes: usize,
        optional: bool,
    ) -> Self {
        match kind {
            BodyKind::EventStream => {
                let parser = sse::Parser::new(max_bytes);
                Self::EventStream { parser, default_type: event_type }
            }
            BodyKind::Ndjson => Self::Ndjson { lines: Lines::new(max_bytes), event_type },
            BodyKind::Text => Self::Text { pieces: Pieces::new(max_bytes), event_type },
            BodyKind::Single => {
                Self::Single { data: BytesMut::new(), max_bytes, event_type, optional }
            }
        }
    }

    /// Reads a piece, and appends the events that it completes.
    ///
    /// # Errors
    /// An event is invalid; those before it were appended.
    pub(super) fn feed(
        &mut self,
        piece: &Bytes,
        events: &mut Vec<NewEvent>,
    ) -> Result<(), InvalidEvent> {
        match self {
            Self::EventStream { parser, default_type } => {
                let mut parsed = Vec::new();
                let fed = parser.feed(piece, &mut parsed);
                take_parsed(parsed, default_type.as_ref(), events)?;
                Ok(fed?)
            }
            Self::Ndjson { lines, event_type } => {
                lines.feed(piece, |line| take_json(&line, event_type.as_ref(), events))
            }
            Self::Text { pieces, event_type } => {
                pieces.feed(piece, |data| events.push(text_event(event_type.as_ref(), data)))
            }
            Self::Single { data, max_bytes, .. } => {
                if data.len() + piece.len() > *max_bytes {
                    return Err(InvalidEvent::TooLarge(*max_bytes));
                }
                data.extend_from_slice(piece);
                Ok(())
            }
        }
    }

    /// Bytes that are no event yet.
    pub(super) fn held(&self) -> usize {
        match self {
            Self::EventStream { parser, .. } => parser.held(),
            Self::Ndjson { lines, .. } => lines.held(),
            Self::Text { pieces, .. } => pieces.partial.len(),
            Self::Single { data, .. } => data.len(),
        }
    }

    /// The body is complete: appends what it still held.
    ///
    /// # Errors
    /// The last event is invalid.
    pub(super) fn finish(&mut self, events: &mut Vec<NewEvent>) -> Result<(), InvalidEvent> {
        match self {
            Self::EventStream { parser, default_type } => {
                let mut parsed = Vec::new();
                let finished = parser.finish(&mut parsed);
                take_parsed(parsed, default_type.as_ref(), events)?;
                Ok(finished?)
            }
            Self::Ndjson { lines, event_type } => {
                lines.finish(|line| take_json(&line, event_type.as_ref(), events))
            }
            Self::Text { pieces, event_type } => {
                pieces.finish(|data| events.push(text_event(event_type.as_ref(), data)))
            }
            Self::Single { data, optional: true, .. } if data.is_empty() => Ok(()),
            Self::Single { data, event_type, .. } => {
                let data =
                    Payload::new(data.split().freeze()).map_err(|_| InvalidEvent::NotUtf8)?;
                events.push(NewEvent { event_type: event_type.clone(), data });
                Ok(())
            }
        }
    }
}

impl From<sse::ParseError> for InvalidEvent {
    fn from(error: sse::ParseError) -> Self {
        match error {
            sse::ParseError::TooLarge(limit) => Self::TooLarge(limit),
            sse::ParseError::NotUtf8 => Self::NotUtf8,
        }
    }
}

fn take_parsed(
    parsed: Vec<sse::ParsedEvent>,
    default_type: Option<&EventType>,
    events: &mut Vec<NewEvent>,
) -> Result<(), InvalidEvent> {
    for event in parsed {
        let event_type = match event.event_type {
            Some(text) => Some(text.parse()?),
            None => default_type.cloned(),
        };
        events.push(NewEvent { event_type, data: event.data.into() });
    }
    Ok(())
}

fn take_json(
    line: &Bytes,
    event_type: Option<&EventType>,
    events: &mut Vec<NewEvent>,
) -> Result<(), InvalidEvent> {
    let data = Payload::new(line.clone()).map_err(|_| InvalidEvent::NotUtf8)?;
    serde_json::from_slice::<serde::de::IgnoredAny>(line).map_err(|_| InvalidEvent::NotJson)?;
    events.push(NewEvent { event_type: event_type.cloned(), data });
    Ok(())
}

fn text_event(event_type: Option<&EventType>, data: String) -> NewEvent {
    NewEvent { event_type: event_type.cloned(), data: data.into() }
}

/// Cuts a text as it arrives: between characters, and not within a line's end.
pub(super) struct Pieces {
    max_bytes: usize,
    partial: Vec<u8>,
}

impl Pieces {
    fn new(max_bytes: usize) -> Self {
        Self { max_bytes, partial: Vec::new() }
    }

    fn feed(&mut self, piece: &[u8], take: impl FnMut(String)) -> Result<(), InvalidEvent> {
        self.partial.extend_from_slice(piece);
        let whole = match str::from_utf8(&self.partial) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(error) => {
                self.partial.truncate(error.valid_up_to());
                self.give(Vec::new(), take)?;
                return Err(InvalidEvent::NotUtf8);
            }
        };
        // The second half of a line's end may follow.
        let whole = whole - usize::from(self.partial[..whole].ends_with(b"\r"));
        let rest = self.partial.split_off(whole);
        self.give(rest, take)
    }

    fn finish(&mut self, take: impl FnMut(String)) -> Result<(), InvalidEvent> {
        // What is whole is published, also where a character breaks off behind it.
        let valid = str::from_utf8(&self.partial).map_or_else(|e| e.valid_up_to(), str::len);
        let is_whole = valid == self.partial.len();
        self.partial.truncate(valid);
        self.give(Vec::new(), take)?;
        if is_whole { Ok(()) } else { Err(InvalidEvent::NotUtf8) }
    }

    fn give(&mut self, rest: Vec<u8>, mut take: impl FnMut(String)) -> Result<(), InvalidEvent> {
        let whole = std::mem::replace(&mut self.partial, rest);
        let text = String::from_utf8(whole).map_err(|_| InvalidEvent::NotUtf8)?;
        let mut left = text.as_str();
        while !left.is_empty() {
            // At least one character, however small the limit; and no line's end becomes two.
            let cut = left.floor_char_boundary(self.max_bytes.max(4));
            let within = left[..cut].ends_with('\r') && left[cut..].starts_with('\n');
            let (piece, more) = left.split_at(cut - usize::from(within));
            take(piece.to_owned());
            left = more;
        }
        Ok(())
    }
}

/// A byte order mark in UTF-8.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// Cuts a body into lines; blank ones are passed over.
pub(super) struct Lines {
    max_bytes: usize,
    partial: BytesMut,
    /// Lines taken so far, blank ones included.
    taken: u64,
}

impl Lines {
    /// Bytes of the line whose end has not come yet.
    pub(super) fn held(&self) -> usize {
        self.partial.len()
    }

    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, partial: BytesMut::new(), taken: 0 }
    }

    /// The number of the line that was taken last, from one.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    pub(super) fn feed<E: From<InvalidEvent>>(
        &mut self,
        piece: &Bytes,
        mut take: impl FnMut(Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = piece.clone();
        while let Some(end) = memchr(b'\n', &rest) {
            let line = rest.split_to(end + 1);
            let line = if self.partial.is_empty() {
                line
            } else {
                self.partial.extend_from_slice(&line);
                self.partial.split().freeze()
            };
            self.take(line, &mut take)?;
        }
        self.partial.extend_from_slice(&rest);
        self.check(&self.partial).map_err(|error| {
            self.taken += 1;
            error.into()
        })
    }

    pub(super) fn finish<E: From<InvalidEvent>>(
        &mut self,
        mut take: impl FnMut(Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        let line = self.partial.split().freeze();
        if line.is_empty() { Ok(()) } else { self.take(line, &mut take) }
    }

    fn take<E: From<InvalidEvent>>(
        &mut self,
        line: Bytes,
        take: &mut impl FnMut(Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        self.taken += 1;
        self.check(&line)?;
        // Windows tools begin a file with a byte order mark, which is no part of its first line.
        let text = line.strip_prefix(BOM).filter(|_| self.taken == 1).unwrap_or(&line);
        let line = line.slice_ref(text.trim_ascii());
        if line.is_empty() { Ok(()) } else { take(line) }
    }

    /// The space around a line counts, as it does while the line's end has not come: or it would
    /// matter where the body is cut. Its end does not count, nor what may be the half of one.
    fn check(&self, line: &[u8]) -> Result<(), InvalidEvent> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let fits = line.len() <= self.max_bytes;
        if fits { Ok(()) } else { Err(InvalidEvent::TooLarge(self.max_bytes)) }
    }
}

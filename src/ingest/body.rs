//! The kinds of body, as decoders: they turn chunks into events. One decoder holds at most one
//! event.

use bytes::Bytes;
use memchr::memchr;

use crate::event::{EventType, InvalidEventType, NewEvent, Payload};
use crate::generation;
use crate::limits::{MAX_OPENING_BYTES, MAX_QUOTED_CHARS};
use crate::sse;
use crate::sse::Gathered;

/// The format of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// An event stream: event by event.
    EventStream,
    /// NDJSON: line by line, each valid JSON.
    Ndjson,
    /// Text: one event per chunk, as it arrives.
    Text,
    /// The data of one event.
    Single,
}

impl BodyKind {
    /// Returns whether events are published while the body arrives.
    #[must_use]
    pub fn is_streamed(self) -> bool {
        self != Self::Single
    }
}

/// The reason why a body cannot be read further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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
    /// The body is not of its kind.
    #[error(transparent)]
    Foreign(Box<Foreign>),
    /// An event stream with fields, but without an event.
    #[error(
        "the body has no whole event, and begins with `{0}`: an event is lines of `data:` and an \
         empty line"
    )]
    NoEvent(Box<str>),
}

/// A body that is not of its declared kind, such as an error document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} begins with `{begins}`: {right}")]
pub struct Foreign {
    what: &'static str,
    right: &'static str,
    begins: Box<str>,
    /// The error message in it, if it has the form of providers' and proxies' errors.
    pub said: Option<Box<str>>,
}

impl Foreign {
    /// Returns the reason for a generation that fails because of this body.
    pub(super) fn reason(&self) -> Box<str> {
        let said = self.said.clone();
        said.unwrap_or_else(|| format!("no stream came, but `{}`", self.begins).into())
    }
}

/// The beginning of a body that has had no event yet.
#[derive(Default)]
struct BodyOpening {
    bytes: Vec<u8>,
    /// Whether the body has had an event.
    is_over: bool,
}

impl BodyOpening {
    fn keep(&mut self, piece: &[u8]) {
        let room = MAX_OPENING_BYTES.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&piece[..room.min(piece.len())]);
    }

    fn end(&mut self) {
        *self = Self { bytes: Vec::new(), is_over: true };
    }

    /// Returns the first characters, without line ends and other control characters.
    fn quoted(&self) -> Box<str> {
        let text = String::from_utf8_lossy(&self.bytes);
        let text = text.trim_start_matches('\u{feff}').trim();
        let mut quoted = String::new();
        for char in text.chars().take(MAX_QUOTED_CHARS) {
            if char.is_control() {
                quoted.extend(char.escape_default());
            } else {
                quoted.push(char);
            }
        }
        if text.chars().nth(MAX_QUOTED_CHARS).is_some() {
            quoted.push('…');
        }
        quoted.into()
    }

    fn foreign(&self, what: &'static str, right: &'static str) -> InvalidEvent {
        let text = String::from_utf8_lossy(&self.bytes);
        let said = generation::complaint(&text).map(|said| said.into());
        let begins = self.quoted();
        InvalidEvent::Foreign(Foreign { what, right, begins, said }.into())
    }
}

/// A decoder for a body of any kind.
pub(super) struct Decoder {
    grammar: Grammar,
    opening: BodyOpening,
}

enum Grammar {
    EventStream { parser: sse::Parser, default_type: Option<EventType> },
    Ndjson { lines: LineSplitter, event_type: Option<EventType> },
    Text { pieces: TextPieces, event_type: Option<EventType> },
    Single { data: Gathered, max_bytes: usize, event_type: Option<EventType>, optional: bool },
}

impl Decoder {
    /// Creates a decoder for this kind. `event_type` is for events that do not name their own. A
    /// single event is `optional` if an empty body means "no event".
    pub(super) fn new(
        kind: BodyKind,
        event_type: Option<EventType>,
        max_bytes: usize,
        optional: bool,
    ) -> Self {
        let grammar = match kind {
            BodyKind::EventStream => {
                let parser = sse::Parser::of_publisher(max_bytes);
                Grammar::EventStream { parser, default_type: event_type }
            }
            BodyKind::Ndjson => Grammar::Ndjson { lines: LineSplitter::new(max_bytes), event_type },
            BodyKind::Text => Grammar::Text { pieces: TextPieces::new(max_bytes), event_type },
            BodyKind::Single => {
                Grammar::Single { data: Gathered::default(), max_bytes, event_type, optional }
            }
        };
        Self { grammar, opening: BodyOpening::default() }
    }

    /// Reads a chunk, and appends the events that it completes.
    ///
    /// # Errors
    /// An event is invalid; the events before it were appended.
    pub(super) fn feed(
        &mut self,
        piece: &Bytes,
        events: &mut Vec<NewEvent>,
    ) -> Result<(), InvalidEvent> {
        let before = events.len();
        let fed = self.grammar.feed(piece, events);
        if self.opening.is_over || !self.grammar.has_openings() {
            return fed;
        }
        if events.len() > before {
            self.opening.end();
            return fed;
        }
        self.opening.keep(piece);
        fed.map_err(|error| self.explained(error))
    }

    /// Returns the bytes of memory held for an incomplete event.
    pub(super) fn held(&self) -> usize {
        self.grammar.held() + self.opening.bytes.capacity()
    }

    /// Returns the number of the last line read, if the body has lines.
    pub(super) fn line(&self) -> Option<u64> {
        match &self.grammar {
            Grammar::Ndjson { lines, .. } => Some(lines.taken()),
            _ => None,
        }
    }

    pub(super) fn is_event_stream(&self) -> bool {
        matches!(self.grammar, Grammar::EventStream { .. })
    }

    /// Ends the body, and appends its last event. `is_end` decides whether an event stream's last
    /// event without its empty line counts. Returns the number of bytes that belong to no event.
    ///
    /// # Errors
    /// The last event is invalid, or the body is not empty and has no event.
    pub(super) fn finish(
        &mut self,
        events: &mut Vec<NewEvent>,
        is_end: impl FnOnce(&NewEvent) -> bool,
    ) -> Result<u64, InvalidEvent> {
        let Grammar::EventStream { parser, default_type } = &mut self.grammar else {
            let finished = self.grammar.finish(events);
            return finished.map(|()| 0).map_err(|error| self.explained(error));
        };
        let rest = parser.finish();
        let mut last = Vec::new();
        let _ = take_parsed(rest.event.into_iter().collect(), default_type.as_ref(), &mut last);
        let is_end = last.last().is_some_and(is_end);
        if is_end {
            events.append(&mut last);
            return Ok(0);
        }
        if self.opening.is_over || !parser.has_fields() {
            return Ok(rest.bytes as u64);
        }
        if parser.is_foreign() {
            let right = "an event is lines of `data:` and an empty line";
            return Err(self.opening.foreign("the body is no event stream, but", right));
        }
        Err(InvalidEvent::NoEvent(self.opening.quoted()))
    }

    /// Replaces the error of a first line that is no JSON by one that quotes the body, which may be
    /// an error document.
    fn explained(&self, error: InvalidEvent) -> InvalidEvent {
        match error {
            InvalidEvent::NotJson if !self.opening.is_over => {
                let right = "the line is not valid JSON, and NDJSON has one JSON text per line";
                self.opening.foreign("the body", right)
            }
            error => error,
        }
    }
}

impl Grammar {
    /// Returns whether an error document may arrive in place of such a body.
    fn has_openings(&self) -> bool {
        matches!(self, Self::EventStream { .. } | Self::Ndjson { .. })
    }

    fn feed(&mut self, piece: &Bytes, events: &mut Vec<NewEvent>) -> Result<(), InvalidEvent> {
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
                data.extend(piece);
                Ok(())
            }
        }
    }

    fn held(&self) -> usize {
        match self {
            Self::EventStream { parser, .. } => parser.held(),
            Self::Ndjson { lines, .. } => lines.held(),
            Self::Text { pieces, .. } => pieces.partial.capacity(),
            Self::Single { data, .. } => data.room(),
        }
    }

    fn finish(&mut self, events: &mut Vec<NewEvent>) -> Result<(), InvalidEvent> {
        match self {
            Self::EventStream { .. } => Ok(()),
            Self::Ndjson { lines, event_type } => {
                lines.finish(|line| take_json(&line, event_type.as_ref(), events))
            }
            Self::Text { pieces, event_type } => {
                pieces.finish(|data| events.push(text_event(event_type.as_ref(), data)))
            }
            Self::Single { data, optional: true, .. } if data.is_empty() => Ok(()),
            Self::Single { data, event_type, .. } => {
                let data = Payload::new(data.take().into()).map_err(|_| InvalidEvent::NotUtf8)?;
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

/// Cuts a text where its chunks end, but not within a character or a line end.
pub(super) struct TextPieces {
    max_bytes: usize,
    partial: Vec<u8>,
}

impl TextPieces {
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
        // The second half of a line end may follow.
        let whole = whole - usize::from(self.partial[..whole].ends_with(b"\r"));
        let rest = self.partial.split_off(whole);
        self.give(rest, take)
    }

    fn finish(&mut self, take: impl FnMut(String)) -> Result<(), InvalidEvent> {
        // Complete characters are published, even if an incomplete one follows.
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
            // At least one character, however small the limit, and no line end is split.
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

/// Splits a body into lines and skips blank ones.
pub(super) struct LineSplitter {
    max_bytes: usize,
    partial: Gathered,
    /// Number of lines read so far, blank ones included.
    taken: u64,
}

impl LineSplitter {
    /// Returns the bytes of memory held for an incomplete line.
    pub(super) fn held(&self) -> usize {
        self.partial.room()
    }

    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, partial: Gathered::default(), taken: 0 }
    }

    /// Returns the number of the last line read, counted from one.
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
                self.partial.extend(&line);
                self.partial.take().into()
            };
            self.take(line, &mut take)?;
        }
        self.partial.extend(&rest);
        let cr = usize::from(self.partial.last() == Some(b'\r'));
        self.check(self.partial.len() - cr).map_err(|error| {
            self.taken += 1;
            error.into()
        })
    }

    pub(super) fn finish<E: From<InvalidEvent>>(
        &mut self,
        mut take: impl FnMut(Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        let line = Bytes::from(self.partial.take());
        if line.is_empty() { Ok(()) } else { self.take(line, &mut take) }
    }

    fn take<E: From<InvalidEvent>>(
        &mut self,
        line: Bytes,
        take: &mut impl FnMut(Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        self.taken += 1;
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        self.check(text.strip_suffix(b"\r").unwrap_or(text).len())?;
        // Windows tools begin a file with a byte order mark, which does not belong to the first
        // line.
        let text = line.strip_prefix(BOM).filter(|_| self.taken == 1).unwrap_or(&line);
        let line = line.slice_ref(text.trim_ascii());
        if line.is_empty() { Ok(()) } else { take(line) }
    }

    /// Checks the length of a line. Space around it counts, because it also counts while the line
    /// is incomplete: the result must not depend on chunk borders. Its line end, or half of one,
    /// does not count.
    fn check(&self, bytes: usize) -> Result<(), InvalidEvent> {
        let fits = bytes <= self.max_bytes;
        if fits { Ok(()) } else { Err(InvalidEvent::TooLarge(self.max_bytes)) }
    }
}

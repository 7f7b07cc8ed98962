//! An incremental parser of event streams, which holds at most one event.
//!
//! It follows the WHATWG HTML standard, section 9.2.6 ("Interpreting an event stream"), except that
//! bytes that are not UTF-8 are an error instead of U+FFFD. Two additions serve publishers:
//! [`Parser::finish`] returns the event in which the stream broke off, and a parser
//! [of a publisher](Parser::of_publisher) reads the `error` field that some servers write.

use std::time::Duration;

use memchr::memchr2;

use crate::Gathered;

/// Bytes of a line in addition to its part of the event: the field's name, a colon, a space.
const FIELD_OVERHEAD: usize = 64;

/// The fields of an event stream.
const FIELDS: [&str; 4] = ["data", "event", "id", "retry"];

/// Bytes of a line's buffer that are kept for the next: a stream may last long after a large event.
const KEPT_LINE: usize = 4 * 1024;

/// One event as received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedEvent {
    /// The last event id in force when the event was dispatched; `None` if there never was one.
    pub id: Option<Box<str>>,
    /// The `event:` field.
    pub event_type: Option<Box<str>>,
    /// The data, its lines joined by `\n`.
    pub data: String,
}

/// The reason for which a stream cannot be parsed further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// An event, or a line, is larger than the limit in bytes.
    #[error("the event is larger than {0} bytes")]
    TooLarge(usize),
    /// A line is not UTF-8.
    #[error("the event stream is not UTF-8")]
    NotUtf8,
}

/// The incomplete event at the end of a stream: one without its blank line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// The event if it were complete; `None` if it has no data, or ends within a character.
    pub event: Option<ParsedEvent>,
    /// Bytes of its lines.
    pub bytes: usize,
}

/// Parses an event stream piece by piece, wherever the pieces are cut.
#[derive(Debug)]
pub struct Parser {
    max_event_bytes: usize,
    /// The beginning of a line that is not complete yet.
    line: Gathered,
    /// Whether the last piece ended with CR: then a LF at the start of the next belongs to it.
    skip_lf: bool,
    at_start: bool,
    /// Whether the stream is a publisher's.
    of_publisher: bool,
    /// Whether a line was not valid in an event stream.
    is_foreign: bool,
    /// Whether a field was read, of any name.
    has_fields: bool,
    /// Bytes of the fields of the current event.
    block: usize,
    data: Option<Gathered>,
    event_type: Option<Box<str>>,
    id_buffer: Option<Box<str>>,
    last_event_id: Option<Box<str>>,
    retry: Option<Duration>,
}

impl Parser {
    /// Returns the bytes of memory of incomplete lines and events.
    #[must_use]
    pub fn held(&self) -> usize {
        let data = self.data.as_ref().map_or(0, Gathered::room);
        let texts = [&self.event_type, &self.id_buffer, &self.last_event_id];
        let texts = texts.into_iter().flatten().map(|text| text.len());
        self.line.room() + data + texts.sum::<usize>()
    }

    /// Creates a parser for events of up to `max_event_bytes` of data.
    #[must_use]
    pub fn new(max_event_bytes: usize) -> Self {
        Self {
            max_event_bytes,
            line: Gathered::default(),
            skip_lf: false,
            at_start: true,
            of_publisher: false,
            is_foreign: false,
            has_fields: false,
            block: 0,
            data: None,
            event_type: None,
            id_buffer: None,
            last_event_id: None,
            retry: None,
        }
    }

    /// Creates a parser for a publisher's stream. An `error:` line, as llama.cpp writes it, becomes
    /// an event of the type `error`, although the standard ignores it; ids are ignored, because the
    /// hub assigns its own.
    #[must_use]
    pub fn of_publisher(max_event_bytes: usize) -> Self {
        Self { of_publisher: true, ..Self::new(max_event_bytes) }
    }

    /// Returns whether a line was neither a comment nor a known field of an event stream.
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        self.is_foreign
    }

    /// Returns whether the stream had anything but comments.
    #[must_use]
    pub fn has_fields(&self) -> bool {
        self.has_fields
    }

    /// Parses a piece, and appends the events that it completes.
    ///
    /// # Errors
    /// The stream is not UTF-8 or an event is too large; the events before it were appended.
    pub fn feed(&mut self, piece: &[u8], events: &mut Vec<ParsedEvent>) -> Result<(), ParseError> {
        let mut rest = piece;
        if self.skip_lf && !rest.is_empty() {
            self.skip_lf = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = memchr2(b'\n', b'\r', rest) {
            let line = &rest[..end];
            let tail = &rest[end + 1..];
            if rest[end] == b'\r' {
                self.skip_lf = tail.is_empty();
                rest = tail.strip_prefix(b"\n").unwrap_or(tail);
            } else {
                rest = tail;
            }
            self.end_line(line, events)?;
        }
        self.line.extend(rest);
        self.check_line(self.line.len())
    }

    /// Ends the stream, and returns the incomplete event, which the standard discards.
    pub fn finish(&mut self) -> Rest {
        let mut events = Vec::new();
        let line = self.line.take();
        let begun = FIELDS.iter().any(|name| name.as_bytes().starts_with(&line));
        let was_foreign = self.is_foreign;
        let read = if line.is_empty() { Ok(()) } else { self.read_line(&line, &mut events) };
        self.is_foreign &= was_foreign || !begun;
        let bytes = std::mem::take(&mut self.block);
        let read = read.and_then(|()| self.dispatch(&mut events));
        Rest { event: events.pop().filter(|_| read.is_ok()), bytes }
    }

    /// Returns the last event id that the stream has set, also by a block without data.
    #[must_use]
    pub fn last_event_id(&self) -> Option<&str> {
        self.last_event_id.as_deref()
    }

    /// Returns the reconnect delay that the stream has set.
    #[must_use]
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Ends a line: `end` is its last part, after those of earlier pieces.
    fn end_line(&mut self, end: &[u8], events: &mut Vec<ParsedEvent>) -> Result<(), ParseError> {
        if self.line.is_empty() {
            self.check_line(end.len())?;
            return self.read_line(end, events);
        }
        self.check_line(self.line.len() + end.len())?;
        self.line.extend(end);
        let line = self.line.take();
        self.read_line(&line, events)?;
        if line.capacity() <= KEPT_LINE {
            self.line = Gathered::within(line);
        }
        Ok(())
    }

    fn check_line(&self, len: usize) -> Result<(), ParseError> {
        let most = self.max_event_bytes.saturating_add(FIELD_OVERHEAD);
        if len > most { Err(ParseError::TooLarge(self.max_event_bytes)) } else { Ok(()) }
    }

    fn read_line(&mut self, line: &[u8], events: &mut Vec<ParsedEvent>) -> Result<(), ParseError> {
        let bom: &[u8] = if std::mem::take(&mut self.at_start) { b"\xef\xbb\xbf" } else { b"" };
        let line = line.strip_prefix(bom).unwrap_or(line);
        let is_field = !line.is_empty() && !line.starts_with(b":");
        self.has_fields |= is_field;
        self.block += if is_field { line.len() + 1 } else { 0 };
        let line = std::str::from_utf8(line).map_err(|_| ParseError::NotUtf8)?;
        if line.is_empty() {
            return self.dispatch(events);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => return self.push_data(value),
            "event" => self.event_type = (!value.is_empty()).then(|| value.into()),
            "id" if !self.of_publisher && !value.contains('\0') => {
                self.id_buffer = Some(value.into())
            }
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().ok().map(Duration::from_millis);
            }
            "error" if self.of_publisher && !value.is_empty() => {
                self.dispatch(events)?;
                self.event_type = Some(field.into());
                self.push_data(value)?;
                self.dispatch(events)?;
            }
            // Comments have an empty field name; the standard says that unknown fields are ignored.
            "" | "id" | "retry" => {}
            _ => self.is_foreign = true,
        }
        Ok(())
    }

    fn push_data(&mut self, line: &str) -> Result<(), ParseError> {
        let more = self.data.is_some();
        let data = self.data.get_or_insert_default();
        if more {
            data.extend(b"\n");
        }
        data.extend(line.as_bytes());
        let fits = data.len() <= self.max_event_bytes;
        if fits { Ok(()) } else { Err(ParseError::TooLarge(self.max_event_bytes)) }
    }

    fn dispatch(&mut self, events: &mut Vec<ParsedEvent>) -> Result<(), ParseError> {
        self.block = 0;
        if let Some(id) = &self.id_buffer
            && self.last_event_id.as_ref() != Some(id)
        {
            self.last_event_id = Some(id.clone());
        }
        let event_type = self.event_type.take();
        if let Some(mut data) = self.data.take() {
            // Its lines are complete, and each was checked to be UTF-8.
            let data = String::from_utf8(data.take()).map_err(|_| ParseError::NotUtf8)?;
            events.push(ParsedEvent { id: self.last_event_id.clone(), event_type, data });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_in(pieces: &[&[u8]]) -> Result<Vec<ParsedEvent>, ParseError> {
        let mut parser = Parser::new(100);
        let mut events = Vec::new();
        for piece in pieces {
            parser.feed(piece, &mut events)?;
        }
        Ok(events)
    }

    fn data_of(stream: &str) -> Vec<String> {
        parse_in(&[stream.as_bytes()]).unwrap().into_iter().map(|event| event.data).collect()
    }

    #[test]
    fn the_examples_of_the_standard() {
        assert_eq!(data_of("data: YHOO\ndata: +2\ndata: 10\n\n"), ["YHOO\n+2\n10"]);
        assert_eq!(data_of(": test stream\n\ndata: first event\nid: 1\n\n"), ["first event"]);
        assert_eq!(data_of("data\n\ndata\ndata\n\ndata:"), ["", "\n"]);
        assert_eq!(
            data_of("data:test\n\ndata: test\n\ndata:  test\n\n"),
            ["test", "test", " test"]
        );
    }

    #[test]
    fn line_ends_of_any_kind_and_a_byte_order_mark() {
        assert_eq!(data_of("\u{feff}data: a\r\n\r\ndata: b\r\rdata: c\n\n"), ["a", "b", "c"]);
        assert_eq!(data_of("data: a\n\n\u{feff}data: b\n\n"), ["a"]);
    }

    #[test]
    fn it_does_not_matter_where_a_stream_is_cut() {
        let stream = "\u{feff}id: 7\r\nevent: tök\r\ndata: zwei\r\ndata: 💬\r\n\r\ndata: x\n\n";
        let whole = parse_in(&[stream.as_bytes()]).unwrap();
        assert_eq!(whole[0].event_type.as_deref(), Some("tök"));
        assert_eq!(whole[1].id.as_deref(), Some("7"));
        for size in 1..stream.len() {
            let pieces: Vec<_> = stream.as_bytes().chunks(size).collect();
            assert_eq!(parse_in(&pieces), Ok(whole.clone()), "pieces of {size}");
        }
    }

    #[test]
    fn a_block_without_data_sets_the_id_and_dispatches_nothing() {
        let mut parser = Parser::new(100);
        let mut events = Vec::new();
        parser.feed(b"retry: 3000\nid: e-5\n\n", &mut events).unwrap();
        assert!(events.is_empty());
        assert_eq!(parser.last_event_id(), Some("e-5"));
        assert_eq!(parser.retry(), Some(Duration::from_secs(3)));
    }

    #[test]
    fn what_a_stream_ends_in_is_no_event() {
        let rest = |stream: &str| {
            let mut parser = Parser::new(100);
            let mut events = Vec::new();
            parser.feed(stream.as_bytes(), &mut events).unwrap();
            let rest = parser.finish();
            (events.len(), rest.event.map(|event| event.data), rest.bytes)
        };
        assert_eq!(rest("data: a\n\n"), (1, None, 0));
        assert_eq!(rest("data: a\n\n: note"), (1, None, 0));
        assert_eq!(rest("data: a\n\ndata: b"), (1, Some("b".into()), 8));
        assert_eq!(rest("data: a\n\ndata: b\n"), (1, Some("b".into()), 8));
        assert_eq!(rest("data: a\n\ndata: b\ndata: c\nda"), (1, Some("b\nc".into()), 19));
        assert_eq!(rest("data: a\n\nevent: err"), (1, None, 11));
        assert_eq!(rest(""), (0, None, 0));
        let mut parser = Parser::new(100);
        parser.feed(b"data: \xf0\x9f", &mut Vec::new()).unwrap();
        assert_eq!(parser.finish(), Rest { event: None, bytes: 9 }, "half of a character");
    }

    #[test]
    fn an_error_field_of_a_publisher_is_an_event() {
        let stream = b"id: 1\ndata: a\nerror: {\"code\":400}\ndata: b\n\nerror:\n\nx: y\n";
        let read = |mut parser: Parser| {
            let mut events = Vec::new();
            parser.feed(stream, &mut events).unwrap();
            let named = |event: ParsedEvent| (event.event_type.map(String::from), event.data);
            events.into_iter().map(named).collect::<Vec<_>>()
        };
        assert_eq!(read(Parser::new(100)), [(None, "a\nb".to_owned())]);
        let error = (Some("error".to_owned()), "{\"code\":400}".to_owned());
        let all = [(None, "a".to_owned()), error, (None, "b".to_owned())];
        assert_eq!(read(Parser::of_publisher(100)), all);
    }

    #[test]
    fn an_event_over_the_cap_is_refused_and_never_buffered() {
        let long = format!("data: {}\n\n", "x".repeat(101));
        assert_eq!(parse_in(&[long.as_bytes()]), Err(ParseError::TooLarge(100)));
        let many = "data: 1234567890\n".repeat(10);
        assert_eq!(parse_in(&[many.as_bytes()]), Err(ParseError::TooLarge(100)));
        let endless: Vec<&[u8]> = vec![b": comment without end"; 20];
        assert_eq!(parse_in(&endless), Err(ParseError::TooLarge(100)));
    }

    #[test]
    fn what_is_not_utf8_is_an_error() {
        assert_eq!(parse_in(&[b"data: \xff\n\n"]), Err(ParseError::NotUtf8));
    }
}

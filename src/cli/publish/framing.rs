//! Splits input bytes into pieces that end at an event's end, and into segments of a bounded size.
//!
//! A segment is the content of one request. The end of a segment depends on the bytes of the input
//! alone, not on how they arrive: the same input under the same key makes the same requests.

use bytes::Bytes;
use memchr::{memchr, memchr2};

use anyhow::bail;

use super::args::InputFormat;
use crate::cli::terminal::{self, count};
use crate::event::EventType;
use crate::sse;

/// The limit of one event of an input that is passed on without parsing; hubs have lower limits.
const MAX_EVENT_BYTES: usize = 64 * 1024 * 1024;

/// Whole events of the input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FramedPiece {
    pub(super) bytes: Bytes,
    /// Number of events; zero where the input is passed on as it is.
    pub(super) events: usize,
    /// The segment ends with this piece.
    pub(super) ends_segment: bool,
}

/// Cuts the input at the ends of its events, wherever the reads cut it.
pub(super) struct Framer {
    grammar: InputGrammar,
    /// Bytes of an incomplete event or line.
    partial: Vec<u8>,
    /// The size at which a segment ends.
    segment_bytes: usize,
    /// Bytes of whole events in the current segment.
    in_segment: usize,
    ready: Vec<u8>,
    ready_events: usize,
    pieces: Vec<FramedPiece>,
}

enum InputGrammar {
    /// Each line becomes an event.
    Lines(LineEncoder),
    /// An event ends with an empty line.
    EventStream(BlockEnds),
    /// An event ends with its line.
    Ndjson,
}

impl Framer {
    /// Creates a framer; segments end at `segment_bytes`, `None` for never.
    pub(super) fn new(
        format: InputFormat,
        event_type: Option<EventType>,
        max_line: usize,
        segment_bytes: Option<usize>,
    ) -> Self {
        let grammar = match format {
            InputFormat::Sse => InputGrammar::EventStream(BlockEnds::default()),
            InputFormat::Ndjson => InputGrammar::Ndjson,
            InputFormat::Lines | InputFormat::Whole => {
                InputGrammar::Lines(LineEncoder { event_type, max_line, lines: 0, warned: false })
            }
        };
        Self {
            grammar,
            partial: Vec::new(),
            segment_bytes: segment_bytes.unwrap_or(usize::MAX),
            in_segment: 0,
            ready: Vec::new(),
            ready_events: 0,
            pieces: Vec::new(),
        }
    }

    /// Parses bytes of the input. After an error, the events before the bad one are still
    /// available.
    pub(super) fn feed(&mut self, mut rest: &[u8]) -> anyhow::Result<()> {
        while let Some(end) = self.grammar.end_of_event(rest) {
            let (bytes, tail) = rest.split_at(end);
            rest = tail;
            self.partial.extend_from_slice(bytes);
            self.take_event()?;
        }
        self.partial.extend_from_slice(rest);
        self.grammar.check(self.partial.len())
    }

    /// Ends the input: its last event may lack its end.
    pub(super) fn finish(&mut self) -> anyhow::Result<()> {
        if self.partial.is_empty() { Ok(()) } else { self.take_event() }
    }

    /// Removes and returns the finished pieces.
    pub(super) fn take(&mut self) -> Vec<FramedPiece> {
        self.end_piece(false);
        std::mem::take(&mut self.pieces)
    }

    /// Handles `partial`, which is a whole event.
    fn take_event(&mut self) -> anyhow::Result<()> {
        let before = self.ready.len();
        match &mut self.grammar {
            InputGrammar::Lines(encoder) => {
                encoder.encode(&self.partial, &mut self.ready)?;
                self.ready_events += 1;
            }
            InputGrammar::EventStream(_) | InputGrammar::Ndjson => {
                self.ready.append(&mut self.partial)
            }
        }
        self.partial.clear();
        self.in_segment += self.ready.len() - before;
        if self.in_segment >= self.segment_bytes {
            self.in_segment = 0;
            self.end_piece(true);
        }
        Ok(())
    }

    fn end_piece(&mut self, ends_segment: bool) {
        if self.ready.is_empty() {
            return;
        }
        let bytes = std::mem::take(&mut self.ready).into();
        let events = std::mem::take(&mut self.ready_events);
        self.pieces.push(FramedPiece { bytes, events, ends_segment });
    }
}

impl InputGrammar {
    /// Returns the number of bytes up to the end of the current event, if it is among these.
    fn end_of_event(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Lines(_) | Self::Ndjson => memchr(b'\n', bytes).map(|end| end + 1),
            Self::EventStream(ends) => ends.find(bytes),
        }
    }

    /// Checks that an incomplete event of `len` bytes may still grow.
    fn check(&self, len: usize) -> anyhow::Result<()> {
        match self {
            Self::Lines(encoder) => encoder.check(len),
            Self::EventStream(_) | Self::Ndjson if len > MAX_EVENT_BYTES => {
                bail!("an event of the input is longer than {MAX_EVENT_BYTES} bytes")
            }
            Self::EventStream(_) | Self::Ndjson => Ok(()),
        }
    }
}

/// Finds the empty lines of an event stream. A line ends with LF, CR or CRLF (WHATWG HTML,
/// section 9.2.6).
#[derive(Default)]
struct BlockEnds {
    /// The current line has bytes.
    in_line: bool,
    /// The last byte was a CR: an LF right after it belongs to the same line end.
    after_cr: bool,
}

impl BlockEnds {
    /// Returns the number of bytes up to and including the next empty line.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let first = bytes.first()?;
        let mut at = usize::from(std::mem::take(&mut self.after_cr) && *first == b'\n');
        while let Some(offset) = memchr2(b'\n', b'\r', &bytes[at..]) {
            let end = at + offset;
            let is_empty = offset == 0 && !self.in_line;
            self.in_line = false;
            at = end + 1;
            if bytes[end] == b'\r' {
                self.after_cr = at == bytes.len();
                at += usize::from(bytes.get(at) == Some(&b'\n'));
            }
            if is_empty {
                return Some(at);
            }
        }
        self.in_line |= at < bytes.len();
        None
    }
}

/// Encodes lines as events.
struct LineEncoder {
    event_type: Option<EventType>,
    max_line: usize,
    /// The number of lines so far.
    lines: usize,
    warned: bool,
}

impl LineEncoder {
    fn encode(&mut self, line: &[u8], out: &mut Vec<u8>) -> anyhow::Result<()> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.check(line.len())?;
        let text = String::from_utf8_lossy(line);
        self.lines += 1;
        if matches!(text, std::borrow::Cow::Owned(_)) && !std::mem::replace(&mut self.warned, true)
        {
            let at = self.lines;
            terminal::warn(format_args!(
                "line {at} is not UTF-8: invalid bytes are replaced by U+FFFD"
            ));
        }
        push_event(out, self.event_type.as_ref().map(EventType::as_str), &text);
        Ok(())
    }

    fn check(&self, len: usize) -> anyhow::Result<()> {
        if len <= self.max_line {
            return Ok(());
        }
        bail!(
            "line {} is longer than {} bytes; the {} before it went out. --max-line allows more",
            self.lines + 1,
            self.max_line,
            count(self.lines, "line"),
        )
    }
}

/// Appends an event in the form of a publisher: without an id, which the hub assigns.
fn push_event(out: &mut Vec<u8>, event_type: Option<&str>, data: &str) {
    sse::event_text(out, &sse::Text { id: None, event_type, data: data.as_bytes() });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_carry_their_type() {
        let mut out = Vec::new();
        push_event(&mut out, Some("token"), " a\nb");
        assert_eq!(out, b"event: token\ndata:  a\ndata: b\n\n");
    }

    fn framed(pieces: &[&[u8]], max_line: usize) -> (String, usize, Option<String>) {
        let mut framer = Framer::new(InputFormat::Lines, None, max_line, None);
        let mut fed = pieces.iter().map(|piece| framer.feed(piece)).collect::<Vec<_>>();
        fed.push(framer.finish());
        let error = fed.into_iter().find_map(Result::err).map(|error| error.to_string());
        let taken = framer.take();
        let events = taken.iter().map(|piece| piece.events).sum();
        let bytes = taken.iter().flat_map(|piece| piece.bytes.to_vec()).collect();
        (String::from_utf8(bytes).unwrap(), events, error)
    }

    #[test]
    fn each_line_is_an_event_wherever_the_reads_cut_it() {
        let text = "one\n\n two\r\nthree".as_bytes();
        for size in 1..=text.len() {
            let pieces: Vec<_> = text.chunks(size).collect();
            let (stream, events, error) = framed(&pieces, 100);
            assert_eq!(stream, "data: one\n\ndata: \n\ndata:  two\n\ndata: three\n\n");
            assert_eq!((events, error), (4, None));
        }
    }

    #[test]
    fn a_progress_bar_cannot_break_out_of_its_event() {
        let (stream, events, _) = framed(&[b"10%\r20%\revent: x\n"], 100);
        assert_eq!((stream.as_str(), events), ("data: 10%\ndata: 20%\ndata: event: x\n\n", 1));
    }

    #[test]
    fn a_line_over_the_limit_keeps_the_lines_before_it() {
        let (stream, events, error) = framed(&[b"ok\n", b"far too ", b"long"], 10);
        assert_eq!((stream.as_str(), events), ("data: ok\n\n", 1));
        let error = error.unwrap();
        assert!(error.contains("line 2 is longer than 10 bytes"), "{error}");
        assert!(error.contains("the 1 line before"), "{error}");
    }

    #[test]
    fn invalid_utf8_is_replaced() {
        let (stream, _, error) = framed(&[b"caf\xe9\n"], 100);
        assert_eq!((stream.as_str(), error), ("data: caf\u{fffd}\n\n", None));
    }

    /// The pieces of an input that arrives in reads of `size` bytes, joined by segment, and the
    /// ends of the pieces within the input.
    fn segments(format: InputFormat, input: &[u8], size: usize) -> (Vec<Vec<u8>>, Vec<usize>) {
        let mut framer = Framer::new(format, None, 1000, Some(20));
        let mut segments = vec![Vec::new()];
        let mut ends = Vec::new();
        let mut at = 0;
        let mut take = |framer: &mut Framer| {
            for piece in framer.take() {
                at += piece.bytes.len();
                ends.push(at);
                segments.last_mut().unwrap().extend_from_slice(&piece.bytes);
                if piece.ends_segment {
                    segments.push(Vec::new());
                }
            }
        };
        for read in input.chunks(size) {
            framer.feed(read).unwrap();
            take(&mut framer);
        }
        framer.finish().unwrap();
        take(&mut framer);
        (segments, ends)
    }

    #[test]
    fn segments_end_at_the_same_events_however_the_input_arrives() {
        let sse =
            b"data: 1\ndata: 2\n\n: note\n\ndata: 3\r\n\r\nid: 4\rdata: 4\r\rdata: five\n\nda";
        let ndjson = b"{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n\n{\"n\":4}\n{\"n\":";
        let lines = b"one\ntwo\nthree\nfour\nfive\nsix";
        for (format, input) in [
            (InputFormat::Sse, &sse[..]),
            (InputFormat::Ndjson, ndjson),
            (InputFormat::Lines, lines),
        ] {
            let (whole, _) = segments(format, input, input.len());
            assert!(whole.len() >= 2, "{format:?}: {whole:?}");
            if format != InputFormat::Lines {
                assert_eq!(whole.concat(), input, "{format:?}");
            }
            for size in 1..input.len() {
                let (cut, _) = segments(format, input, size);
                // An LF that is read apart from its CR may belong to the next segment.
                if format != InputFormat::Sse {
                    assert_eq!(cut, whole, "{format:?} in reads of {size}");
                }
                assert_eq!(cut.concat(), whole.concat(), "{format:?} in reads of {size}");
            }
        }
    }

    #[test]
    fn a_piece_of_an_event_stream_ends_after_an_empty_line() {
        let input = b"event: a\ndata: 1\n\ndata: 2\r\n\r\ndata: 3\r\rdata: 4";
        for size in 1..input.len() {
            let (_, ends) = segments(InputFormat::Sse, input, size);
            for end in &ends[..ends.len() - 1] {
                let before = &input[..*end];
                let whole = [&b"\n\n"[..], b"\r\n\r\n", b"\r\n\r", b"\r\r"];
                assert!(whole.iter().any(|end| before.ends_with(end)), "{size}: {end}");
            }
        }
    }
}

//! The event-stream parser: compared with a second implementation of the standard, in pieces and as
//! a whole, and in a round trip with the encoder.
//!
//! The input: a byte that selects the cuts of the stream and the size limit of an event, and the
//! stream.

use fanfare_sse::{Frames, ParseError, ParsedEvent, Parser, Text, encode};

/// A size limit above any event that an input can have.
const AMPLE: usize = 1 << 20;

/// The events of a stream, and the error that stopped it.
type Read = (Vec<ParsedEvent>, Option<ParseError>);

/// Checks one input.
///
/// # Panics
/// If a property does not hold.
pub fn check(input: &[u8]) {
    let Some((&how, stream)) = input.split_first() else { return };
    let limit = if how & 0x80 == 0 { AMPLE } else { usize::from(how & 0x3f) };
    let size = 1 + usize::from(how & 0x1f);
    let whole = read(limit, [stream]);
    assert_eq!(whole, read(limit, stream.chunks(size)), "it matters where the stream is cut");
    let largest = whole.0.iter().map(|event| event.data.len()).max();
    assert!(largest.unwrap_or(0) <= limit, "an event of {largest:?} bytes passed {limit}");
    if limit == AMPLE {
        match std::str::from_utf8(stream) {
            Ok(text) => assert_eq!(whole, (by_the_standard(text), None)),
            // The end of the stream is not checked.
            Err(_) => assert!(matches!(whole.1, Some(ParseError::NotUtf8) | None)),
        }
        there_and_back(&whole.0);
    }
}

fn read<'a>(limit: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> Read {
    let mut parser = Parser::new(limit);
    let mut events = Vec::new();
    for piece in pieces {
        if let Err(error) = parser.feed(piece, &mut events) {
            return (events, Some(error));
        }
    }
    let rest = parser.finish();
    assert!(rest.event.is_none() || rest.bytes > 0, "an event without a byte");
    (events, None)
}

/// WHATWG HTML, section 9.2.6, implemented literally without regard to speed.
fn by_the_standard(text: &str) -> Vec<ParsedEvent> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut events = Vec::new();
    let mut id_buffer = None::<String>;
    let mut data = String::new();
    let mut event_type = String::new();
    // Text after the last line end is not a line.
    let lines = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    for line in lines.split('\n').filter(|_| text.contains('\n')) {
        if line.is_empty() {
            let kind = std::mem::take(&mut event_type);
            // Every `data` field has appended a line end, the last of which is not part of the
            // data.
            if let Some(data) = std::mem::take(&mut data).strip_suffix('\n') {
                events.push(ParsedEvent {
                    id: id_buffer.as_deref().map(Box::from),
                    event_type: (!kind.is_empty()).then(|| kind.into()),
                    data: data.to_owned(),
                });
            }
            continue;
        }
        let (field, value) = match line.find(':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, ""),
        };
        let value = if let Some(rest) = value.strip_prefix(' ') { rest } else { value };
        match field {
            "event" => event_type = value.to_owned(),
            "data" => data = data + value + "\n",
            "id" if !value.contains('\0') => id_buffer = Some(value.to_owned()),
            _ => {}
        }
    }
    events
}

/// Checks that parsed events can be encoded, split, and parsed again.
fn there_and_back(events: &[ParsedEvent]) {
    let mut run = Vec::new();
    for event in events {
        let id = event.id.as_deref();
        let event_type = event.event_type.as_deref();
        encode(&mut run, &Text { id, event_type, data: event.data.as_bytes() });
    }
    let frames: Vec<_> = Frames::new(&run).collect();
    assert_eq!(frames.len(), events.len(), "a frame was lost");
    let text: Vec<u8> = frames.iter().flat_map(|frame| frame.text()).copied().collect();
    let again = read(AMPLE, [text.as_slice()]);
    assert_eq!(again, (events.to_vec(), None));
    for (frame, event) in frames.iter().zip(events) {
        assert_eq!(frame.id(), event.id.as_deref().unwrap_or_default());
        assert_eq!(frame.event_type(), event.event_type.as_deref());
        assert_eq!(frame.data(), event.data);
    }
}

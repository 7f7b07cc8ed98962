//! Decodes what [`encode`](super::encode) wrote: for framings other than HTTP/1.1 chunks, and for
//! readers that need fields instead of text.

use std::borrow::Cow;

/// One encoded event: the text between two chunk frames.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a>(&'a [u8]);

impl<'a> Frame<'a> {
    /// Returns the event as event-stream text, including its blank line.
    #[must_use]
    pub fn text(self) -> &'a [u8] {
        self.0
    }

    /// Returns the event id.
    #[must_use]
    pub fn id(self) -> &'a str {
        let last = self.0.strip_suffix(b"\n\n").and_then(|text| text.rsplit(is_line_end).next());
        let id = last.and_then(|line| line.strip_prefix(b"id: "));
        // A store may have frames of an earlier version, which begin with the id.
        let id = id.and_then(|id| std::str::from_utf8(id).ok()).or_else(|| self.field(b"id: "));
        id.unwrap_or_default()
    }

    /// Returns the `event:` field.
    #[must_use]
    pub fn event_type(self) -> Option<&'a str> {
        self.field(b"event: ")
    }

    /// Returns the data, its lines joined by `\n`.
    #[must_use]
    pub fn data(self) -> Cow<'a, str> {
        let mut lines = self.lines().filter_map(|line| line.strip_prefix(b"data: "));
        let first = lines.next().unwrap_or_default();
        let Some(second) = lines.next() else {
            return String::from_utf8_lossy(first);
        };
        let mut joined = first.to_vec();
        for line in std::iter::once(second).chain(lines) {
            joined.push(b'\n');
            joined.extend_from_slice(line);
        }
        Cow::Owned(String::from_utf8_lossy(&joined).into_owned())
    }

    fn field(self, name: &[u8]) -> Option<&'a str> {
        let heads = self.lines().take_while(|line| !line.starts_with(b"data: "));
        let value = heads.filter_map(|line| line.strip_prefix(name)).next()?;
        std::str::from_utf8(value).ok()
    }

    fn lines(self) -> impl Iterator<Item = &'a [u8]> {
        self.0.split(is_line_end)
    }
}

fn is_line_end(byte: &u8) -> bool {
    *byte == b'\n'
}

/// Iterates over the events of consecutive chunks.
#[derive(Clone, Debug)]
pub struct Frames<'a>(&'a [u8]);

impl<'a> Frames<'a> {
    /// Reads chunks, from the beginning of the first to the end of the last, as the log returns
    /// them.
    #[must_use]
    pub fn new(run: &'a [u8]) -> Self {
        Self(run)
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let head = memchr::memchr(b'\r', self.0)?;
        let size = std::str::from_utf8(&self.0[..head]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        let text = self.0.get(head + 2..head + 2 + size)?;
        self.0 = self.0.get(head + 2 + size + 2..)?;
        Some(Frame(text))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Parser, Text, encode};

    fn normalised(data: &str) -> String {
        data.replace("\r\n", "\n").replace('\r', "\n")
    }

    #[test]
    fn a_frame_that_begins_with_its_id_is_understood_too() {
        let run = b"2f\r\nid: k7q2xm-7\nevent: token\ndata: a\ndata: id: b\n\n\r\n";
        let frame = Frames::new(run).next().unwrap();
        assert_eq!((frame.id(), frame.event_type()), ("k7q2xm-7", Some("token")));
        assert_eq!(frame.data(), "a\nid: b");
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_taken_apart_and_parsed_as_it_was(
            events in prop::collection::vec(
                (0u64.., prop::option::of("[a-z.]{1,9}"), "(?s).{0,40}"),
                1..8,
            ),
            cut in 1usize..50,
        ) {
            let mut run = Vec::new();
            for (offset, event_type, data) in &events {
                let event_type = event_type.as_deref();
                let data = data.as_bytes();
                encode(&mut run, &Text { id: Some(&format!("e0-{offset}")), event_type, data });
            }
            let frames: Vec<_> = Frames::new(&run).collect();
            prop_assert_eq!(frames.len(), events.len());
            let mut parser = Parser::new(1000);
            let mut parsed = Vec::new();
            let text: Vec<u8> = frames.iter().flat_map(|frame| frame.text()).copied().collect();
            for piece in text.chunks(cut) {
                parser.feed(piece, &mut parsed).unwrap();
            }
            prop_assert_eq!(parsed.len(), events.len());
            for ((frame, parsed), (offset, event_type, data)) in
                frames.iter().zip(&parsed).zip(&events)
            {
                let id = format!("e0-{offset}");
                prop_assert_eq!(frame.id(), &id);
                prop_assert_eq!(parsed.id.as_deref(), Some(id.as_str()));
                prop_assert_eq!(frame.event_type(), event_type.as_deref());
                prop_assert_eq!(parsed.event_type.as_deref(), event_type.as_deref());
                prop_assert_eq!(frame.data(), normalised(data));
                prop_assert_eq!(&parsed.data, &normalised(data));
            }
        }
    }
}

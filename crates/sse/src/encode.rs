//! Encodes events. Encoders cannot fail: their input was validated when it was created.

use std::time::Duration;

use memchr::memchr2;

/// The fields of one event.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// The `id:` field, one line; a publisher's event has none.
    pub id: Option<&'a str>,
    /// The `event:` field, one line.
    pub event_type: Option<&'a str>,
    /// The data; each of its lines becomes a `data:` field.
    pub data: &'a [u8],
}

/// Appends the event as one HTTP/1.1 chunk (RFC 9112, section 7.1): the size of its text in
/// hexadecimal, the text, each followed by CRLF. A chunked HTTP/1.1 body can be sent these bytes as
/// they are; other framings use the text, which is a sub-slice.
pub fn encode(out: &mut Vec<u8>, event: &Text<'_>) {
    let size = text_len(event);
    out.reserve(size + 20);
    push_hex(out, size);
    out.extend_from_slice(b"\r\n");
    let start = out.len();
    event_text(out, event);
    debug_assert_eq!(out.len() - start, size, "the chunk size is computed before the text");
    out.extend_from_slice(b"\r\n");
}

/// The end of a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Appends text as one HTTP/1.1 chunk.
pub fn chunk(out: &mut Vec<u8>, text: &[u8]) {
    push_hex(out, text.len());
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

/// Appends only the event's text, for an event to one subscriber that is in no log.
///
/// The id is the last field. Some clients resume after an id as soon as they have read its line:
/// if it came first, a connection that breaks within the event would cost them the event.
pub fn event_text(out: &mut Vec<u8>, event: &Text<'_>) {
    if let Some(event_type) = event.event_type {
        push_field(out, b"event: ", event_type.as_bytes());
    }
    for line in Lines(Some(event.data)) {
        push_field(out, b"data: ", line);
    }
    if let Some(id) = event.id {
        push_field(out, b"id: ", id.as_bytes());
    }
    out.push(b'\n');
}

/// Appends a heartbeat: a comment line. No blank line follows, because it would dispatch an event,
/// and some clients dispatch an empty one if an id is set.
pub fn comment(out: &mut Vec<u8>) {
    out.extend_from_slice(b":\n");
}

/// Appends the reconnect delay. It is part of the block of the next event.
pub fn retry(out: &mut Vec<u8>, delay: Duration) {
    let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    out.extend_from_slice(b"retry: ");
    out.extend_from_slice(itoa::Buffer::new().format(millis).as_bytes());
    out.push(b'\n');
}

/// Appends the reconnect delay of a client after an end; nothing for zero, so that it waits as
/// usual.
pub fn end_retry(out: &mut Vec<u8>, delay: Duration) {
    if !delay.is_zero() {
        retry(out, delay);
    }
}

fn push_field(out: &mut Vec<u8>, field: &[u8], value: &[u8]) {
    out.extend_from_slice(field);
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn text_len(event: &Text<'_>) -> usize {
    let id = event.id.map_or(0, |text| "id: ".len() + text.len() + "\n".len());
    let event_type = event.event_type.map_or(0, |text| "event: ".len() + text.len() + "\n".len());
    let data: usize = Lines(Some(event.data)).map(|line| "data: ".len() + line.len() + 1).sum();
    id + event_type + data + "\n".len()
}

fn push_hex(out: &mut Vec<u8>, number: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let nibbles = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    out.extend((0..nibbles).rev().map(|at| DIGITS[(number >> (4 * at)) & 0xf]));
}

/// Iterates over the lines of a text, separated by CR, LF or CRLF as in the grammar.
struct Lines<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0?;
        let Some(end) = memchr2(b'\n', b'\r', rest) else {
            self.0 = None;
            return Some(rest);
        };
        let width = if rest[end..].starts_with(b"\r\n") { 2 } else { 1 };
        self.0 = Some(&rest[end + width..]);
        Some(&rest[..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(event_type: Option<&str>, data: &str) -> String {
        let mut out = Vec::new();
        encode(&mut out, &Text { id: Some("k7q2xm-42"), event_type, data: data.as_bytes() });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_event_is_one_chunk() {
        assert_eq!(
            encoded(Some("token"), "Hello"),
            "28\r\nevent: token\ndata: Hello\nid: k7q2xm-42\n\n\r\n"
        );
    }

    #[test]
    fn every_kind_of_line_end_begins_a_new_data_field() {
        let text = encoded(None, "a\nb\rc\r\nd\n");
        assert!(text.contains("\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \nid: "), "{text}");
    }

    #[test]
    fn no_data_is_one_empty_field() {
        assert!(encoded(None, "").contains("\ndata: \nid: "));
    }

    #[test]
    fn sizes_are_hexadecimal_without_leading_zeros() {
        for number in [0, 1, 15, 16, 255, 256, 4095, 1 << 20] {
            let mut out = Vec::new();
            push_hex(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{number:x}"));
        }
    }
}

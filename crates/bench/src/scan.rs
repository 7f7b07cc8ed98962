//! Finds the payloads of events in a stream of bytes, wherever reads have cut it.
//!
//! A payload is `<seq> <nanoseconds> <padding>`. It is either on a line of its own after the name
//! of the data field, or a string in a line of JSON: both a line end and a quote end a token, and a
//! token that begins like a payload is one. The rest of the event-stream grammar does not matter to
//! the accounting. Nothing is allocated.

use memchr::memchr2_iter;

/// The significant bytes of a token: a field name, two numbers, three separators.
const CAPACITY: usize = 44;

/// A token whose end has not been read yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carry {
    len: u8,
    bytes: [u8; CAPACITY],
}

impl Carry {
    pub(crate) const EMPTY: Self = Self { len: 0, bytes: [0; CAPACITY] };

    /// Calls `each` for each token that ends in this run; keeps the beginning of the last for the
    /// next run.
    pub(crate) fn tokens(&mut self, run: &[u8], mut each: impl FnMut(&[u8])) {
        let mut start = 0;
        for end in memchr2_iter(b'\n', b'"', run) {
            let token = &run[start..end];
            if self.len == 0 {
                each(token);
            } else {
                self.push(token);
                each(&self.bytes[..usize::from(self.len)]);
                self.len = 0;
            }
            start = end + 1;
        }
        self.push(&run[start..]);
    }

    /// Appends to the token; bytes beyond the capacity are padding and are dropped.
    fn push(&mut self, token: &[u8]) {
        let len = usize::from(self.len);
        let fits = token.len().min(CAPACITY - len);
        self.bytes[len..len + fits].copy_from_slice(&token[..fits]);
        self.len += u8::try_from(fits).unwrap_or(0); // less than CAPACITY
    }
}

/// The number and the intended send time that an event carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScannedPayload {
    pub(crate) seq: u32,
    /// The intended send time in nanoseconds.
    pub(crate) intended: u64,
}

/// Parses the payload at the beginning of a token.
pub(crate) fn payload(token: &[u8]) -> Option<ScannedPayload> {
    let text = match *token.first()? {
        b'd' => field(token, b"data")?,
        _ => token,
    };
    let (seq, rest) = number(text)?;
    let (intended, _) = number(rest)?;
    Some(ScannedPayload { seq: u32::try_from(seq).ok()?, intended })
}

/// Returns the value of the field, if the line has that name.
pub(crate) fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = line.strip_prefix(name)?.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

/// Parses digits and returns the rest after the space.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0_u64;
    for (i, byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' => value = value.wrapping_mul(10).wrapping_add(u64::from(byte - b'0')),
            b' ' if i > 0 => return Some((value, &text[i + 1..])),
            b'\r' if i > 0 => return Some((value, &[])),
            _ => return None,
        }
    }
    (!text.is_empty()).then_some((value, &[]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pieces: &[&[u8]]) -> Vec<(u32, u64)> {
        let mut carry = Carry::EMPTY;
        let mut found = Vec::new();
        for piece in pieces {
            carry.tokens(piece, |token| {
                found.extend(payload(token).map(|p| (p.seq, p.intended)));
            });
        }
        found
    }

    #[test]
    fn events_may_be_cut_anywhere() {
        let padding = "x".repeat(300);
        let text = format!(
            ": hi\n\nid: 1763830000:0\ndata: 0 123456789012345 {padding}\n\nretry: 100\r\n\
             event: token\ndata:1 5\r\n\r\ndata: 20 7 \ndata: none\n\n"
        );
        let text = text.as_bytes();
        let expected = [(0, 123_456_789_012_345), (1, 5), (20, 7)];
        for cut in 0..text.len() {
            assert_eq!(found(&[&text[..cut], &text[cut..]]), expected, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(found(&bytes), expected);
    }

    #[test]
    fn payloads_may_be_strings_in_json() {
        let text = b"event: data\ndata:[\"7 70 xx\",\"8 80 xx\"]\n\nevent: control\n\
            data:{\"streamNextOffset\":\"0000_0001\"}\n\ndata: {\"pub\":{\"data\":\"9 90\"}}\n\n";
        for cut in 0..text.len() {
            let expected = [(7, 70), (8, 80), (9, 90)];
            assert_eq!(found(&[&text[..cut], &text[cut..]]), expected, "cut at {cut}");
        }
    }

    #[test]
    fn what_is_no_payload_is_none() {
        for token in ["", "data:", "data: ", "12", "id: 4 5 x", "4  5", "data: x1 2", "4 5x"] {
            assert_eq!(payload(token.as_bytes()), None, "{token:?}");
        }
    }
}

//! The part of HTTP/1.1 responses that a load generator needs: the head, and the extent of the
//! body.

use memchr::{memchr, memmem};

/// A longer head is malformed.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The head of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    /// The server accepts no second request on this connection.
    pub(crate) close: bool,
    /// Bytes of the head itself.
    pub(crate) len: usize,
    /// The framing of the body.
    pub(crate) body: ResponseBody,
}

/// Bytes that are not an HTTP/1.x response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is not HTTP/1.1")]
pub(crate) struct MalformedResponse;

/// Parses the head of a response; `None` if it is incomplete.
pub(crate) fn head(bytes: &[u8]) -> Result<Option<ResponseHead>, MalformedResponse> {
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
        let plausible = bytes.starts_with(&b"HTTP/1."[..bytes.len().min(7)]);
        return if plausible && bytes.len() <= MAX_HEAD_BYTES {
            Ok(None)
        } else {
            Err(MalformedResponse)
        };
    };
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| MalformedResponse)?;
    let mut lines = text.split("\r\n");
    let status_line =
        lines.next().and_then(|line| line.strip_prefix("HTTP/1.")).ok_or(MalformedResponse)?;
    let status =
        status_line.get(2..5).and_then(|code| code.parse().ok()).ok_or(MalformedResponse)?;
    let mut close = status_line.starts_with('0');
    let mut body = ResponseBody { state: ResponseState::Length, left: u64::MAX };
    if status < 200 || status == 204 || status == 304 {
        body = ResponseBody::EMPTY;
    }
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("connection") {
            close = value.eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("transfer-encoding") && body.left > 0 {
            body = ResponseBody { state: ResponseState::Size, left: 0 };
        } else if name.eq_ignore_ascii_case("content-length") && body.left > 0 {
            body = ResponseBody {
                state: ResponseState::Length,
                left: value.parse().map_err(|_| MalformedResponse)?,
            };
        }
    }
    if body.left == 0 && body.state == ResponseState::Length {
        body = ResponseBody::EMPTY;
    }
    Ok(Some(ResponseHead { status, close, len: end + 4, body }))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ResponseState {
    /// In a body of known length (`u64::MAX`: until the connection closes).
    Length,
    /// In the digits of a chunk's size.
    Size,
    /// After the size, before the line end.
    Extension,
    /// In a chunk.
    Chunk,
    /// In the line end after a chunk.
    Ending,
    /// At the beginning of a line after the last chunk.
    Trailer,
    /// Within a trailer line.
    TrailerLine,
    Done,
}

/// Removes the framing of a body, wherever reads have cut it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResponseBody {
    state: ResponseState,
    left: u64,
}

impl ResponseBody {
    pub(crate) const EMPTY: Self = Self { state: ResponseState::Done, left: 0 };

    pub(crate) fn is_done(&self) -> bool {
        self.state == ResponseState::Done
    }

    /// Removes and returns the next run of body bytes; empty when more must be read.
    pub(crate) fn take<'a>(&mut self, bytes: &mut &'a [u8]) -> &'a [u8] {
        while !bytes.is_empty() {
            if matches!(self.state, ResponseState::Length | ResponseState::Chunk) {
                let len = usize::try_from(self.left).map_or(bytes.len(), |n| n.min(bytes.len()));
                let (run, rest) = bytes.split_at(len);
                *bytes = rest;
                self.left -= len as u64;
                if self.left == 0 {
                    let chunked = self.state == ResponseState::Chunk;
                    self.state = if chunked { ResponseState::Ending } else { ResponseState::Done };
                }
                return run;
            }
            if self.state == ResponseState::Done {
                return &[];
            }
            self.step(bytes);
        }
        &[]
    }

    /// Consumes one byte of the framing between chunks.
    fn step(&mut self, bytes: &mut &[u8]) {
        let byte = bytes[0];
        match self.state {
            ResponseState::Size => match char::from(byte).to_digit(16) {
                Some(digit) => self.left = self.left.saturating_mul(16) + u64::from(digit),
                None => return self.state = ResponseState::Extension,
            },
            ResponseState::Extension => {
                let Some(end) = memchr(b'\n', bytes) else { return *bytes = &[] };
                *bytes = &bytes[end..];
                self.state =
                    if self.left == 0 { ResponseState::Trailer } else { ResponseState::Chunk };
            }
            ResponseState::Ending if byte == b'\n' => self.state = ResponseState::Size,
            ResponseState::Trailer if byte == b'\n' => self.state = ResponseState::Done,
            ResponseState::Trailer if byte != b'\r' => self.state = ResponseState::TrailerLine,
            ResponseState::TrailerLine if byte == b'\n' => self.state = ResponseState::Trailer,
            _ => {}
        }
        *bytes = &bytes[1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(text: &[u8], read: usize) -> (Vec<u8>, ResponseBody) {
        let head = head(text).unwrap().unwrap();
        let mut body = head.body;
        let mut out = Vec::new();
        for piece in text[head.len..].chunks(read) {
            let mut piece = piece;
            loop {
                let run = body.take(&mut piece);
                if run.is_empty() {
                    break;
                }
                out.extend_from_slice(run);
            }
        }
        (out, body)
    }

    #[test]
    fn a_chunked_body_is_the_same_however_it_is_read() {
        let text = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
            5\r\nhello\r\n1;x=y\r\n \r\n00a\r\n0123456789\r\n0\r\nTrailer: a\r\n\r\n";
        for read in 1..text.len() {
            let (out, body) = body_of(text, read);
            assert_eq!(out, b"hello 0123456789", "reads of {read}");
            assert!(body.is_done());
        }
    }

    #[test]
    fn a_body_may_have_a_length_or_end_with_the_connection() {
        let (out, body) = body_of(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP", 2);
        assert_eq!((out.as_slice(), body.is_done()), (b"abc".as_slice(), true));
        let (out, body) = body_of(b"HTTP/1.0 200 OK\r\n\r\nabc", 2);
        assert_eq!((out.as_slice(), body.is_done()), (b"abc".as_slice(), false));
    }

    #[test]
    fn a_head_tells_status_and_whether_the_connection_stays() {
        let parse = |text: &[u8]| head(text).map(|head| head.map(|h| (h.status, h.close)));
        assert_eq!(parse(b"HTTP/1.1 204 No Content\r\n\r\n"), Ok(Some((204, false))));
        assert_eq!(parse(b"HTTP/1.1 200\r\nconnection: Close\r\n\r\n"), Ok(Some((200, true))));
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\n\r\n"), Ok(Some((200, true))));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nA"), Ok(None));
        assert_eq!(parse(b"HTT"), Ok(None));
        assert_eq!(parse(b"SSH-2.0-OpenSSH\r\n"), Err(MalformedResponse));
        assert!(head(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap().body.is_done());
    }
}

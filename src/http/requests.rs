//! Checks the requests of HTTP/1 before hyper reads them.
//!
//! hyper is lenient where it should not be: it cuts a target at `#`, accepts requests without
//! `Host`, and reads a body by `Transfer-Encoding` even next to a `Content-Length`. It also drops a
//! request whose client has closed its side, though that client can still read the response. So it
//! gets one message at a time, with a valid head, and does not see the end of the input: the
//! connection's [`Link`] does.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::str::FromStr as _;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::uri::Authority;
use http::{HeaderValue, header};
use http_body_util::BodyExt;
use httparse::{Error, Header, Status};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::app::Response;
use super::config::Config;
use super::cors::Cors;
use super::head;
use super::hosts::plain_host;
use super::problem::{ErrorCode, Problem};
use super::progress_io::Transport;
use crate::egress::Link;

/// Bytes that are read ahead of a message that has not been answered yet.
const AHEAD: usize = 4 * 1024;

/// Number of header lines up to which a head is parsed without an allocation.
const USUAL_HEADERS: usize = 64;

/// Time and bytes for which the hub reads on from a client whose request was refused: a connection
/// that is closed on unread data loses the response.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 1024 * 1024);

/// A transport whose reader gets valid requests only, one at a time.
pub(super) struct RequestReader<W> {
    transport: W,
    link: Arc<Link>,
    max_head: usize,
    max_headers: usize,
    /// The part of a message to which the next unchecked byte belongs.
    place: Framing,
    /// Bytes that were read and not yet passed on.
    held: BytesMut,
    /// Bytes at the beginning of `held` that may be passed on.
    cleared: usize,
    /// The client has closed its side.
    ended: bool,
    refusal: Option<Box<HeadRefusal>>,
}

/// A request with an invalid head, and the problem that answers it.
pub(super) struct HeadRefusal {
    problem: Problem,
    /// The origin of the page that sent it, if its head can be parsed.
    origin: Option<HeaderValue>,
    limit: Option<&'static str>,
    /// The method is HEAD: the response has no body (RFC 9110, section 9.3.2).
    head_only: bool,
}

/// The next part of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// A head.
    Head,
    /// The rest of a body, in bytes.
    Body(u64),
    /// A body in chunks.
    Chunks(Chunks),
}

/// The next part of a body in chunks. hyper finds what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunks {
    /// A digit of a chunk's size, with the value of those before it.
    Size(u64),
    /// The rest of the line of a size.
    Extension(u64),
    /// The rest of a chunk's data, in bytes.
    Data(u64),
    /// The line end after data.
    DataEnd,
    /// A trailer, or the empty line that ends the body.
    Trailer { empty: bool },
}

impl<W> RequestReader<W> {
    pub(super) fn new(transport: W, link: Arc<Link>, config: &Config) -> Self {
        let max_head = usize::try_from(config.max_header_bytes.as_u64()).unwrap_or(usize::MAX);
        let max_headers = config.max_headers;
        Self {
            transport,
            link,
            max_head,
            max_headers,
            place: Framing::Head,
            held: BytesMut::new(),
            cleared: 0,
            ended: false,
            refusal: None,
        }
    }

    /// Returns the transport and the refusal, if the last request was refused.
    pub(super) fn into_refused(self) -> Option<(W, HeadRefusal)> {
        self.refusal.map(|refusal| (self.transport, *refusal))
    }

    /// Returns the number of bytes that hyper may have now: the rest of the present message, or all
    /// of the next, once its head is complete. Zero if more are needed.
    fn clear(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        if self.place == Framing::Head {
            match self.read_head(bytes) {
                Ok(Some((length, place))) => (at, self.place) = (length, place),
                Ok(None) => return 0,
                Err(refusal) => {
                    self.refusal = Some(refusal);
                    self.link.note_input_end();
                    return 0;
                }
            }
        }
        let rest = bytes.get(at..).unwrap_or_default();
        match &mut self.place {
            Framing::Head => at,
            Framing::Body(left) => {
                let some = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                *left -= some as u64;
                if *left == 0 {
                    self.place = Framing::Head;
                }
                at + some
            }
            Framing::Chunks(chunks) => {
                let (some, over) = chunks.pass_over(rest);
                if over {
                    self.place = Framing::Head;
                }
                at + some
            }
        }
    }

    /// Returns the length of the head, and the part after it; nothing while it is incomplete.
    fn read_head(&self, bytes: &[u8]) -> Result<Option<(usize, Framing)>, Box<HeadRefusal>> {
        let mut usual = [const { MaybeUninit::uninit() }; USUAL_HEADERS];
        let usual = &mut usual[..self.max_headers.min(USUAL_HEADERS)];
        let mut all;
        let mut request = httparse::Request::new(&mut []);
        let mut parsed = request.parse_with_uninit_headers(bytes, usual);
        if parsed == Err(Error::TooManyHeaders) && self.max_headers > USUAL_HEADERS {
            all = vec![MaybeUninit::uninit(); self.max_headers];
            request = httparse::Request::new(&mut []);
            parsed = request.parse_with_uninit_headers(bytes, &mut all);
        }
        let refused = |refusal: HeadRefusal| {
            Box::new(HeadRefusal { head_only: request.method == Some("HEAD"), ..refusal })
        };
        let length = match parsed {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) => bytes.len(),
            Err(Error::TooManyHeaders) => {
                return Err(refused(HeadRefusal::too_large("server.max_headers")));
            }
            Err(error) => {
                let detail = format!("the head of the request cannot be read: {error}");
                return Err(refused(HeadRefusal::malformed(detail, &[])));
            }
        };
        if length > self.max_head {
            return Err(refused(HeadRefusal::too_large("server.max_header_bytes")));
        }
        match parsed {
            Ok(Status::Complete(length)) => {
                let place = framing(&request);
                let place =
                    place.map_err(|why| refused(HeadRefusal::malformed(why, request.headers)))?;
                Ok(Some((length, place)))
            }
            _ => Ok(None),
        }
    }
}

/// Returns the part after a head. Refuses what RFC 9112 (sections 3.2, 6.1 and 6.3) wants refused.
///
/// # Errors
/// Says what is wrong, and what would be right.
fn framing(request: &httparse::Request<'_, '_>) -> Result<Framing, String> {
    let is_1_1 = request.version == Some(1);
    if request.path.unwrap_or_default().contains('#') {
        return Err("the target of the request has a `#`: in a path or query it is `%23`".into());
    }
    let mut hosts = values(request.headers, "host");
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host) => {}
        (Some(host), None) => {
            return Err(format!("`Host` is not a host: `{}`", host.escape_ascii()));
        }
        (Some(_), Some(_)) => return Err("there is more than one `Host`".into()),
        (None, _) if !is_1_1 => {}
        (None, _) => return Err("there is no `Host`, which HTTP/1.1 requires".into()),
    }
    let mut codings = values(request.headers, "transfer-encoding");
    let mut lengths = values(request.headers, "content-length");
    match (codings.next(), lengths.next()) {
        (None, None) => Ok(Framing::Head),
        (None, Some(length)) if lengths.all(|other| other == length) => {
            let digits = length.iter().all(u8::is_ascii_digit);
            let length = str::from_utf8(length).ok().filter(|_| digits);
            match length.and_then(|length| length.parse().ok()) {
                Some(0) => Ok(Framing::Head),
                Some(length) => Ok(Framing::Body(length)),
                None => Err("`Content-Length` is not a number of bytes".into()),
            }
        }
        (None, Some(_)) => Err("there are several `Content-Length`, which differ".into()),
        (Some(_), Some(_)) => {
            Err("a request cannot have both `Transfer-Encoding` and `Content-Length`".into())
        }
        (Some(coding), None)
            if is_1_1 && codings.next().is_none() && coding.eq_ignore_ascii_case(b"chunked") =>
        {
            Ok(Framing::Chunks(Chunks::Size(0)))
        }
        _ => Err("the only valid `Transfer-Encoding` is `chunked`, once, in HTTP/1.1".into()),
    }
}

fn values<'a>(headers: &[Header<'a>], name: &str) -> impl Iterator<Item = &'a [u8]> {
    // The length first: it is compared without a call.
    let is_named = move |header: &&Header<'a>| {
        header.name.len() == name.len() && header.name.eq_ignore_ascii_case(name)
    };
    headers.iter().filter(is_named).map(|header| header.value.trim_ascii())
}

/// Returns whether it is a host, with or without a port, or empty: the target has no authority.
fn is_host(value: &[u8]) -> bool {
    str::from_utf8(value).is_ok_and(|value| {
        let is_other = || !value.contains('@') && Authority::from_str(value).is_ok();
        value.is_empty() || plain_host(value).is_some() || is_other()
    })
}

impl Chunks {
    /// Advances over these bytes. Returns how many belong to the body, and whether it ends there.
    fn pass_over(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            let mut some = 1;
            *self = match (*self, *byte) {
                (Self::Size(0) | Self::Extension(0), b'\n') => Self::Trailer { empty: true },
                (Self::Size(size) | Self::Extension(size), b'\n') => Self::Data(size),
                (Self::Size(size), digit) if digit.is_ascii_hexdigit() => {
                    let digit = char::from(digit).to_digit(16).unwrap_or_default();
                    Self::Size(size.saturating_mul(16).saturating_add(digit.into()))
                }
                (Self::Size(size) | Self::Extension(size), _) => Self::Extension(size),
                (Self::Data(left), _) => {
                    some = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    match left - some as u64 {
                        0 => Self::DataEnd,
                        left => Self::Data(left),
                    }
                }
                (Self::DataEnd, b'\n') => Self::Size(0),
                (Self::DataEnd, _) => Self::DataEnd,
                (Self::Trailer { empty: true }, b'\n') => return (at + 1, true),
                (Self::Trailer { .. }, b'\n') => Self::Trailer { empty: true },
                (Self::Trailer { empty }, b'\r') => Self::Trailer { empty },
                (Self::Trailer { .. }, _) => Self::Trailer { empty: false },
            };
            at += some;
        }
        (at, false)
    }
}

impl<W: AsyncRead + Unpin> RequestReader<W> {
    /// Reads more of the client's bytes than hyper may have yet.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.held.reserve(AHEAD);
        Poll::Ready(ended(ready!(poll_read_buf(Pin::new(&mut self.transport), cx, &mut self.held))))
    }

    /// Handles the end of the input. In the middle of a body, hyper has to see it.
    fn end(&mut self) -> Poll<io::Result<()>> {
        self.ended = true;
        if self.place != Framing::Head {
            return Poll::Ready(Ok(()));
        }
        self.link.note_input_end();
        Poll::Pending
    }
}

/// Maps an end without TLS `close_notify` to an end of the input: the message itself shows whether
/// it is complete.
fn ended(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        read => read,
    }
}

impl<W: AsyncRead + Unpin> AsyncRead for RequestReader<W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        loop {
            if me.cleared == 0 && !me.held.is_empty() && me.refusal.is_none() {
                let held = std::mem::take(&mut me.held);
                me.cleared = me.clear(&held);
                me.held = held;
            }
            if me.cleared > 0 {
                let some = me.cleared.min(buffer.remaining());
                buffer.put_slice(&me.held[..some]);
                me.held.advance(some);
                me.cleared -= some;
                if me.held.is_empty() {
                    // Idle connections keep no buffer.
                    me.held = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if me.refusal.is_some() {
                return Poll::Pending;
            }
            if me.ended {
                return me.end();
            }
            if !me.held.is_empty() {
                if ready!(me.poll_hold(cx))? == 0 {
                    return me.end();
                }
                continue;
            }
            let before = buffer.filled().len();
            let read = ready!(Pin::new(&mut me.transport).poll_read(cx, buffer));
            let read = ended(read.map(|()| buffer.filled().len() - before))?;
            if read == 0 {
                return me.end();
            }
            let bytes = &buffer.filled()[before..];
            let cleared = me.clear(bytes);
            me.held.extend_from_slice(&bytes[cleared..]);
            buffer.set_filled(before + cleared);
            if cleared > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for RequestReader<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    /// Flushes instead if there is a refusal, which has still to be written.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.refusal {
            Some(_) => Pin::new(&mut self.transport).poll_flush(cx),
            None => Pin::new(&mut self.transport).poll_shutdown(cx),
        }
    }
}

impl<W: Transport> Transport for RequestReader<W> {
    fn tcp(&self) -> &TcpStream {
        self.transport.tcp()
    }

    fn into_plain(self) -> Option<TcpStream> {
        self.transport.into_plain()
    }
}

impl HeadRefusal {
    fn malformed(detail: String, headers: &[Header<'_>]) -> Self {
        let origin = values(headers, "origin").next();
        let origin = origin.and_then(|origin| HeaderValue::from_bytes(origin).ok());
        let problem = Problem::new(ErrorCode::InvalidRequest, detail);
        Self { problem, origin, limit: None, head_only: false }
    }

    fn too_large(limit: &'static str) -> Self {
        let detail = format!("the head of the request is larger than `{limit}` allows");
        let problem = Problem::new(ErrorCode::HeadTooLarge, detail).with("limit", limit);
        // Both limits are counted under one name.
        Self { problem, origin: None, limit: Some("server.max_header_bytes"), head_only: false }
    }

    /// Sends the refusal, and ends the connection. Returns the setting that the head exceeded.
    pub(super) async fn answer(
        self,
        transport: impl Transport,
        cors: &Cors,
    ) -> Option<&'static str> {
        let response = cors.mark(self.origin, self.problem.into_response()).await;
        let (time, most) = LINGER;
        // A client that does not read the response in time does not need it.
        let _ =
            tokio::time::timeout(time, write_response(transport, response, self.head_only, most))
                .await;
        self.limit
    }
}

/// Writes the response, or its head alone, and discards what the client still sends.
async fn write_response(
    mut transport: impl Transport,
    response: Response,
    head_only: bool,
    most: usize,
) -> io::Result<()> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let length = body.len().to_string();
    let framing = [
        (header::X_CONTENT_TYPE_OPTIONS.as_str(), "nosniff"),
        (header::CONNECTION.as_str(), "close"),
        (header::CONTENT_LENGTH.as_str(), &length),
    ];
    let mut bytes = head::encode(parts.status, &parts.headers, &framing);
    if !head_only {
        bytes.extend_from_slice(&body);
    }
    transport.write_all(&bytes).await?;
    transport.shutdown().await?;
    let mut read = 0;
    let mut scratch = vec![0; 4 * 1024];
    while read < most {
        match transport.read(&mut scratch).await? {
            0 => break,
            some => read += some,
        }
    }
    Ok(())
}

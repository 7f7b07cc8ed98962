//! The transport of a connection: a socket that records write progress, plain or below TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::egress::Link;

/// Bytes per read. hyper doubles its buffer when a read has filled it, and keeps that for as long
/// as the connection lives: so it stays at 16 KiB.
const MAX_READ: u64 = 16 * 1024 - 1;

/// The stream that HTTP is spoken over.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Returns the socket below.
    fn tcp(&self) -> &TcpStream;

    /// Returns the socket, if its bytes are those that were written here, and not TLS.
    fn into_plain(self) -> Option<TcpStream>;
}

/// A socket that records write progress in a link, once there is one.
///
/// It is below TLS: progress is what the client takes, and not what has been encrypted.
pub(super) struct ProgressIo {
    tcp: Take<TcpStream>,
    link: Option<Arc<Link>>,
}

impl ProgressIo {
    /// Wraps a socket, without a link yet.
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp: tcp.take(0), link: None }
    }

    /// Sets the link in which progress is recorded.
    pub(super) fn track(&mut self, link: Arc<Link>) {
        self.link = Some(link);
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match (&self.link, &written) {
            (Some(link), Poll::Pending) => link.write_blocked(),
            (Some(link), Poll::Ready(_)) => link.write_progressed(),
            (None, _) => {}
        }
        written
    }
}

impl Transport for ProgressIo {
    fn tcp(&self) -> &TcpStream {
        self.tcp.get_ref()
    }

    fn into_plain(self) -> Option<TcpStream> {
        Some(self.tcp.into_inner())
    }
}

impl Transport for TlsStream<ProgressIo> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0.tcp()
    }

    fn into_plain(self) -> Option<TcpStream> {
        None
    }
}

impl AsyncRead for ProgressIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.tcp.set_limit(MAX_READ);
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ProgressIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(self.tcp.get_mut()).poll_write(cx, bytes);
        self.note(written)
    }

    /// Called by TLS with all records that wait.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(self.tcp.get_mut()).poll_write_vectored(cx, parts);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.get_ref().is_write_vectored()
    }

    /// Called by hyper when it has written all that it had; TLS passes that on when it has written
    /// all of its records.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(self.tcp.get_mut()).poll_flush(cx);
        if let (Some(link), Poll::Ready(Ok(()))) = (&self.link, &flushed) {
            link.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.tcp.get_mut()).poll_shutdown(cx)
    }
}

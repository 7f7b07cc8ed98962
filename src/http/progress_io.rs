//! The sockets of connections: one that notes whether writing makes progress, and what a
//! connection needs of it whether there is TLS above it or not.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use crate::egress::Link;

/// Bytes that are read at a time. The library doubles its buffer when a read has filled it, and
/// keeps that for as long as the connection lives: so it stays at 16 KiB.
const MAX_READ: u64 = 16 * 1024 - 1;

/// What HTTP is spoken over.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// The socket below.
    fn tcp(&self) -> &TcpStream;

    /// The socket itself, if what stands in it is what was written here.
    fn into_plain(self) -> Option<TcpStream>;
}

/// A socket that notes in the link, once there is one, whether writing makes progress.
///
/// It stands below TLS: what matters is what the client takes, and not what has been encrypted.
pub(super) struct ProgressIo {
    tcp: Take<TcpStream>,
    link: Option<Arc<Link>>,
}

impl ProgressIo {
    /// A socket of which nothing is noted yet.
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp: tcp.take(0), link: None }
    }

    /// Notes in this link from now on.
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

    /// TLS hands over all records that wait at once.
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

    /// The library flushes when all that it had has been written, and TLS passes that on when all
    /// of its records have been.
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

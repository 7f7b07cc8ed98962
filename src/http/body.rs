//! The bodies of responses.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::Full;

use crate::egress::{BrokenOff, EventStream, Handed, OpenStream, SignalFeed};

/// The body of a response.
pub enum Body {
    /// A document.
    Full(Full<Bytes>),
    /// A live stream that is open, and not served yet.
    Open(Box<OpenStream>),
    /// A live stream that is served as this body.
    Stream(Box<EventStream>),
    /// A feed of signals.
    Signals(SignalFeed),
}

impl Default for Body {
    fn default() -> Self {
        Self::Full(Full::default())
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self::Full(Full::new(bytes.into()))
    }
}

impl Body {
    /// Turns an open stream into one that is served as this body.
    #[must_use]
    pub fn serve(self) -> Self {
        match self {
            Self::Open(open) => Self::Stream(Box::new(open.serve())),
            body => body,
        }
    }
}

impl http_body::Body for Body {
    type Data = Handed;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Handed>, BrokenOff>>> {
        match &mut *self {
            Self::Full(full) => Pin::new(full)
                .poll_frame(cx)
                .map_ok(|frame| frame.map_data(Handed::from))
                .map_err(|never| match never {}),
            Self::Open(_) => {
                *self = std::mem::take(&mut *self).serve();
                self.poll_frame(cx)
            }
            Self::Stream(stream) => Pin::new(stream.as_mut()).poll_frame(cx),
            Self::Signals(feed) => {
                feed.poll_recv(cx).map(|piece| Some(Ok(Frame::data(piece?.into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(full) => full.is_end_stream(),
            Self::Stream(stream) => stream.is_end_stream(),
            Self::Open(_) | Self::Signals(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(full) => full.size_hint(),
            Self::Open(_) | Self::Stream(_) | Self::Signals(_) => SizeHint::default(),
        }
    }
}

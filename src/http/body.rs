//! The bodies of responses and of requests.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::egress::{BodyData, BrokenOff, EventStream, OpenStream, SignalFeed};
use crate::limits::MAX_LINGERING;

/// Time and bytes for which the hub reads on from a client that was answered early: a connection
/// that is closed on unread data loses the answer.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 16 * 1024 * 1024);

/// Bounds the number of bodies that are read on so: each has a buffer, which no budget counts.
static LINGERING: Semaphore = Semaphore::const_new(MAX_LINGERING);

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
    type Data = BodyData;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<BodyData>, BrokenOff>>> {
        match &mut *self {
            Self::Full(full) => Pin::new(full)
                .poll_frame(cx)
                .map_ok(|frame| frame.map_data(BodyData::from))
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

/// The body of a request. If it is dropped before its end, the hub reads on for a while, so that
/// the client can read the response.
#[derive(Debug)]
pub struct RequestBody(Option<Incoming>);

impl From<Incoming> for RequestBody {
    fn from(body: Incoming) -> Self {
        Self(Some(body))
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

/// With too many bodies that are read on, the connection is closed on unread data.
impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(body) = self.0.take().filter(|body| !body.is_end_stream())
            && let Ok(place) = LINGERING.try_acquire()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(linger(body, place));
        }
    }
}

/// Reads what the client still sends, up to the limits of `LINGER`.
async fn linger(mut body: Incoming, _place: SemaphorePermit<'static>) {
    let (time, most) = LINGER;
    let rest = async {
        let mut read = 0;
        while let Some(Ok(frame)) = body.frame().await
            && read < most
        {
            read += frame.data_ref().map_or(0, Bytes::len);
        }
    };
    let _ = tokio::time::timeout(time, rest).await;
}

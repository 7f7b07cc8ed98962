//! The bodies of requests: those that are one document, and the rest of those that were answered
//! early.

use std::time::Duration;

use bytes::Bytes;
use http::Extensions;
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::app::Request;
use super::client_info::ClientInfo;
use super::problem::{ErrorCode, Problem};
use crate::ingest::{Ingest, Share};
use crate::limits::{MAX_DOCUMENT_BYTES, MAX_LINGERING};
use crate::sse::Gathered;

/// Time and bytes for which the hub reads on from a client that was answered early: a connection
/// that is closed on unread data loses the answer.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 16 * 1024 * 1024);

/// Bounds the number of bodies that are read on so: each has a buffer, which no budget counts.
static LINGERING: Semaphore = Semaphore::const_new(MAX_LINGERING);

/// Reads a request body that is one document. Its bytes count among unfinished bodies.
///
/// # Errors
/// It is too large, arrives late, or broke off; or there is no room for it.
pub async fn read_document<N: AsRef<Ingest>>(
    request: Request,
    share: Share<N>,
) -> Result<Vec<u8>, Problem> {
    let deadline = deadline(request.extensions());
    let document = timeout_at(deadline, gather(request.into_body(), share)).await;
    document.unwrap_or_else(|_| Err(late()))
}

/// Copies each piece: a piece that is kept would keep the buffer that it was read into, which is
/// much larger if the body arrives byte by byte.
async fn gather<N: AsRef<Ingest>>(
    mut body: Incoming,
    mut share: Share<N>,
) -> Result<Vec<u8>, Problem> {
    let mut document = Gathered::default();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err(broke_off()) };
        let Some(piece) = frame.data_ref() else { continue };
        if document.len() + piece.len() > MAX_DOCUMENT_BYTES {
            let detail = format!("the document is larger than {MAX_DOCUMENT_BYTES} bytes");
            return Err(Problem::new(ErrorCode::PayloadTooLarge, detail));
        }
        document.extend(piece);
        share.note_read(piece.len());
        share.hold(document.room())?;
    }
    Ok(document.take())
}

/// Returns the problem of a request body that broke off.
#[must_use]
pub fn broke_off() -> Problem {
    Problem::new(ErrorCode::InvalidEvent, "the request body broke off")
}

/// Returns the time by which the body of this request must have arrived, if it is one document.
#[must_use]
pub fn deadline(extensions: &Extensions) -> Instant {
    let timeout = extensions.get::<ClientInfo>().map(|client| client.body_timeout);
    Instant::now() + timeout.unwrap_or_default()
}

/// Returns the problem of a request body that did not arrive in time.
#[must_use]
pub fn late() -> Problem {
    let detail = "the request body did not arrive within `server.body_timeout`";
    Problem::new(ErrorCode::RequestTimeout, detail).with("limit", "server.body_timeout")
}

/// Reads the rest of the body of a request that was answered early, so that its client can read
/// the answer. With too many such bodies, the connection is closed on unread data.
pub fn let_finish(body: Incoming) {
    if !body.is_end_stream()
        && let Ok(place) = LINGERING.try_acquire()
    {
        tokio::spawn(linger(body, place));
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

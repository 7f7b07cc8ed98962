//! Requests whose body is one document.

use http::Extensions;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::app::Request;
use super::body::RequestBody;
use super::client_info::ClientInfo;
use super::problem::{ErrorCode, Problem};
use crate::ingest::{Ingest, Share};
use crate::limits::MAX_DOCUMENT_BYTES;
use crate::sse::Gathered;

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
    mut body: RequestBody,
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

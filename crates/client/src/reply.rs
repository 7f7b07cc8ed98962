//! The response to a request.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body as _, Incoming};

use crate::error::{Error, Problem};

/// Limit of a response that is a document: receipts and problems are far smaller.
const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

/// The response to a request. Dropping it before its end closes the connection.
#[derive(Debug)]
pub struct Reply(Response<Incoming>);

impl Reply {
    pub(crate) fn new(response: Response<Incoming>) -> Self {
        Self(response)
    }

    /// Returns the status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status()
    }

    /// Returns the headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.0.headers()
    }

    /// Returns a header, if it is present and is text.
    pub fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.0.headers().get(name)?.to_str().ok()
    }

    /// Converts a response other than 2xx into the error that it describes.
    ///
    /// # Errors
    /// The hub refused the request.
    pub async fn succeeded(self) -> Result<Self, Error> {
        let status = self.status();
        if status.is_success() {
            return Ok(self);
        }
        let retry_after = self.header(header::RETRY_AFTER).and_then(|text| text.parse().ok());
        let body = self.text().await.unwrap_or_default(); // the status alone is informative
        Err(Error::Refused(Box::new(Problem {
            retry_after: retry_after.map(Duration::from_secs),
            ..Problem::read(status, &body)
        })))
    }

    /// Reads the rest of the body as text, of up to 1 MiB.
    ///
    /// # Errors
    /// The body ends in the middle, or is larger.
    pub async fn text(self) -> Result<String, Error> {
        self.text_within(MAX_DOCUMENT_BYTES).await
    }

    /// Reads the rest of the body as text, of up to `most` bytes.
    ///
    /// # Errors
    /// The body ends in the middle, or is larger.
    pub async fn text_within(self, most: usize) -> Result<String, Error> {
        let body = Limited::new(self.0.into_body(), most);
        match body.collect().await {
            Ok(body) => Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned()),
            Err(error) => Err(Error::Truncated(error)),
        }
    }

    /// Polls for the next piece of the body; `None` at its end.
    pub(crate) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Error>>> {
        loop {
            let body = std::pin::Pin::new(self.0.body_mut());
            match std::task::ready!(body.poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(Error::of_connection(&error)))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
            }
        }
    }
}

//! Responses that are documents: whole, of one media type, and of the moment.

use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::{Body, ErrorCode, Problem, Response};

/// A document of this media type, which no cache may keep.
#[must_use]
pub fn document(media_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A value as a JSON document.
///
/// # Errors
/// The value cannot be JSON: a defect.
pub fn json<T: Serialize>(value: &T) -> Result<Response, Problem> {
    let json = serde_json::to_vec(value)
        .map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?;
    Ok(document("application/json", json))
}

/// A response without a body.
#[must_use]
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

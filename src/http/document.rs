//! Responses that are documents: whole, of one media type, and not cached.

use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::app::Response;
use super::body::Body;
use super::problem::{ErrorCode, Problem};
use crate::hub::Description;
use crate::value::{Given, Wrong, excerpt};

/// Initial capacity, in bytes: enough for a receipt.
const USUAL_BYTES: usize = 256;

/// Reads a JSON object; the problem names a field that is wrong.
///
/// # Errors
/// The document is no such object; `right` describes one.
pub fn parse_object<T: DeserializeOwned>(document: &[u8], right: &str) -> Result<T, Problem> {
    // Through a map, because serde would also read a list as the fields in order.
    let problem = |detail| Problem::new(ErrorCode::InvalidParameter, detail);
    let value: Value = serde_json::from_slice(document)
        .map_err(|error| problem(format!("not JSON ({error}): write {right}")))?;
    if !value.is_object() {
        return Err(problem(format!("not a JSON object: write {right}")));
    }
    serde_path_to_error::deserialize(Given::exact(&value)).map_err(|error| {
        let path = error.path().to_string();
        let path = excerpt(&path);
        let wrong = error.inner();
        if let Wrong::Key { .. } = wrong {
            return problem(format!("{wrong}. Write {right}")).with("parameter", path);
        }
        // A missing field at the top level has no path.
        if path == "." {
            return problem(format!("{wrong}. Write {right}"));
        }
        problem(format!("`{path}`: {wrong}. Write {right}")).with("parameter", path)
    })
}

/// Returns a document of this media type, which no cache may keep.
#[must_use]
pub fn document(media_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Returns a value as a JSON document.
///
/// # Errors
/// The value cannot be JSON: a defect.
pub fn json<T: Serialize>(value: &T) -> Result<Response, Problem> {
    let mut json = Vec::with_capacity(USUAL_BYTES);
    serde_json::to_writer(&mut json, value)
        .map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?;
    // For terminals: the prompt begins on a line of its own.
    json.push(b'\n');
    Ok(document("application/json", json))
}

/// The state of a channel, as JSON.
#[derive(Serialize)]
pub struct ChannelDocument<'a> {
    channel: &'a str,
    state: &'static str,
    earliest: Option<String>,
    tail: String,
    events: u64,
    bytes: u64,
    subscribers: usize,
}

impl<'a> From<&'a Description> for ChannelDocument<'a> {
    fn from(channel: &'a Description) -> Self {
        Self {
            channel: channel.name.as_str(),
            state: channel.state.as_str(),
            earliest: channel.earliest.as_ref().map(ToString::to_string),
            tail: channel.tail.to_string(),
            events: channel.events,
            bytes: channel.bytes,
            subscribers: channel.subscribers,
        }
    }
}

/// Returns a response without a body.
#[must_use]
pub fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// Sets headers so that no cache keeps the response, and no proxy changes or delays it.
pub fn not_stored(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding, Origin"));
}

//! Problems as responses: as `application/problem+json`, or as an event stream.
//!
//! An `EventSource` that gets any status but 200 gives up for good. So a stream that can be had
//! later is refused with 200, an event with the reason, the delay after which to reconnect, and the
//! end of the stream, as in a drain.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, Request, header};
use serde_json::{Map, Value, json};

use super::app::Response;
use super::document::{document, not_stored};
use super::negotiate::negotiate;
use super::problem::{ErrorCode, Problem};
use crate::event::BUSY;
use crate::sse;

/// Returns whether the client explicitly accepts an event stream with the hub's own events. `*/*`
/// is what scripts and health checks send, which go by the status; a bare stream cannot carry it.
pub(super) fn reads_stream<B>(request: &Request<B>) -> bool {
    let offers = [sse::MEDIA_TYPE, "application/x-ndjson", "application/json"];
    let query = request.uri().query().unwrap_or_default();
    request.method() == Method::GET
        && names_stream(request.headers())
        && negotiate(request.headers(), &offers) == Some(sse::MEDIA_TYPE)
        && !query.split('&').any(|pair| pair.split('=').next() == Some("bare"))
}

fn names_stream(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|range| {
        let essence = range.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case(sse::MEDIA_TYPE)
    })
}

impl Problem {
    /// Returns the problem as a response. For the reader of an event stream, one that is over a
    /// limit is an event stream.
    pub(super) fn answer(self, reads_stream: bool) -> Response {
        use ErrorCode::{Overloaded, QuotaExceeded, RateLimited};
        if reads_stream && matches!(self.code, Overloaded | QuotaExceeded | RateLimited) {
            return stream_of(&self, self.retry_after());
        }
        self.into_response()
    }

    /// Returns the number of seconds until the next try.
    fn retry_after(&self) -> u64 {
        let header = self.headers.iter().find(|(name, _)| name == header::RETRY_AFTER);
        header.and_then(|(_, value)| value.to_str().ok()?.parse().ok()).unwrap_or(1)
    }

    /// Returns the problem as a response.
    #[must_use]
    pub fn into_response(self) -> Response {
        let code = self.code.as_str();
        let (status, retryable, title) = self.code.row();
        let mut members = Map::new();
        members.insert("type".into(), format!("urn:fanfare:problem:{code}").into());
        members.insert("title".into(), title.into());
        members.insert("status".into(), status.as_u16().into());
        members.insert("code".into(), code.into());
        members.insert("detail".into(), self.detail.into());
        members.insert("retryable".into(), retryable.into());
        members.extend(self.more);
        let text = format!("{}\n", Value::Object(members));
        let mut response = document("application/problem+json", text);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if self.code.has_retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        headers.extend(self.headers);
        response
    }
}

/// Returns the problem as an event stream that ends with it.
fn stream_of(problem: &Problem, retry_after: u64) -> Response {
    // Spread, so that clients that were refused together do not reconnect together.
    let delay = Duration::from_secs(retry_after).mul_f64(0.75 + 0.5 * fastrand::f64());
    let code = problem.code().as_str();
    let detail = problem.detail();
    let data = json!({"code": code, "detail": detail, "retry_after": retry_after}).to_string();
    let mut text = Vec::new();
    sse::retry(&mut text, delay);
    let event = sse::Text { id: None, event_type: Some(BUSY), data: data.as_bytes() };
    sse::event_text(&mut text, &event);
    let mut response = document(sse::CONTENT_TYPE, text);
    not_stored(response.headers_mut());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_stream_is_asked_for_by_name() {
        let event_source = "text/event-stream";
        for (method, to, accept, reads) in [
            ("GET", "/v1/channels/a", event_source, true),
            ("GET", "/v1/events?channel=a", "Text/Event-Stream, */*;q=0.1", true),
            ("GET", "/v1/channels/a", "application/json, text/event-stream;q=0.5", false),
            ("GET", "/v1/channels/a", "*/*", false),
            ("GET", "/v1/channels/a", "text/*", false),
            ("GET", "/v1/channels/a", "application/x-ndjson", false),
            ("GET", "/v1/channels/a?from=earliest&bare", event_source, false),
            ("GET", "/v1/channels/a?bare=lines", event_source, false),
            ("POST", "/v1/channels/a", event_source, false),
            ("HEAD", "/v1/channels/a", event_source, false),
        ] {
            let request = Request::builder().method(method).uri(to);
            let accept = HeaderValue::from_static(accept);
            let request = request.header(header::ACCEPT, accept).body(()).unwrap();
            assert_eq!(reads_stream(&request), reads, "{method} {to}");
        }
    }
}

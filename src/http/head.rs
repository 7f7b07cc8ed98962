//! The head of a response that is written without hyper.

use http::{HeaderMap, StatusCode, header};

use crate::clock;

/// Returns the head of a response in HTTP/1.1: its headers, the date, and `framing`, which says
/// where the body and the connection end.
pub(super) fn encode(status: StatusCode, headers: &HeaderMap, framing: &[(&str, &str)]) -> Vec<u8> {
    let date = clock::http_date(clock::now());
    let own = [(header::DATE.as_str(), date.as_str())];
    let own = own.iter().chain(framing).map(|(name, value)| (*name, value.as_bytes()));
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let mut head = format!("HTTP/1.1 {status}\r\n").into_bytes();
    for (name, value) in headers.chain(own) {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

//! Takes a socket back from hyper, for a shard.
//!
//! The service does not answer a request whose stream a shard can serve: it leaves the response
//! here and waits for ever. The connection's task finds it, takes the connection apart, which frees
//! all of hyper's state for it, and passes the socket to the shard.
//!
//! That is possible only where hyper owes the client nothing: for the first request of a
//! connection, without a body, in HTTP/1.1. Any other is answered with an ordinary body.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, Method, Version, header};
use parking_lot::Mutex;

use super::app::{Request, Response};
use super::body::Body;
use super::head;

/// Passes a response whose stream a shard is to serve from the service to the connection's task.
pub(super) struct Handoff {
    /// The connection has had a request.
    used: AtomicBool,
    /// The client has said that this request is its last.
    closes: AtomicBool,
    response: Mutex<Option<Response>>,
    /// A response has been left here.
    taken: AtomicBool,
}

impl Handoff {
    pub(super) fn new() -> Self {
        Self {
            used: AtomicBool::new(false),
            closes: AtomicBool::new(false),
            response: Mutex::new(None),
            taken: AtomicBool::new(false),
        }
    }

    /// Returns whether a shard may send the response to this request.
    pub(super) fn is_open_to(&self, request: &Request) -> bool {
        let first = !self.used.swap(true, Ordering::Relaxed);
        let headers = request.headers();
        self.closes.store(asks_to_close(headers), Ordering::Relaxed);
        first
            && request.method() == Method::GET
            && request.version() == Version::HTTP_11
            && !headers.contains_key(header::CONTENT_LENGTH)
            && !headers.contains_key(header::TRANSFER_ENCODING)
            && !headers.contains_key(header::EXPECT)
    }

    /// Leaves the response here and never returns; returns it if no shard can serve it.
    pub(super) async fn offer(&self, response: Response) -> Response {
        match response.body() {
            Body::Open(open) if open.can_be_attached() => {}
            _ => return response,
        }
        *self.response.lock() = Some(response);
        self.taken.store(true, Ordering::Relaxed);
        std::future::pending().await
    }

    /// Returns whether a response has been left here. It is left while the connection is polled.
    pub(super) fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Relaxed)
    }

    /// Gives the socket to a shard, with the response that was left here.
    pub(super) fn attach(&self, tcp: TcpStream) {
        let Some(response) = self.response.lock().take() else { return };
        let head = head(&response, self.closes.load(Ordering::Relaxed));
        if let Body::Open(open) = response.into_body() {
            open.attach(tcp, head);
        }
    }
}

/// Returns whether the client wants the connection closed after the response.
fn asks_to_close(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONNECTION).iter().filter_map(|it| it.to_str().ok());
    values.any(|value| value.split(',').any(|option| option.trim().eq_ignore_ascii_case("close")))
}

/// Returns the head of the response, with a chunked body. No request follows, but the head says so
/// only if the client asked for it: some clients cannot tell the end of such a response from a cut.
fn head(response: &Response, closes: bool) -> Vec<u8> {
    let framing = [("transfer-encoding", "chunked"), ("connection", "close")];
    let framing = if closes { &framing[..] } else { &framing[..1] };
    head::encode(response.status(), response.headers(), framing)
}

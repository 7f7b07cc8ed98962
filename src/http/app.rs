//! A request, a response, and the application that turns one into the other.

use std::pin::Pin;
use std::sync::Arc;

use hyper::body::Incoming;

use super::body::Body;

/// A request as handlers get it.
pub type Request = http::Request<Incoming>;

/// A response as handlers return it.
pub type Response = http::Response<Body>;

/// The future of a response.
pub(super) type ResponseFuture = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Answers all requests of a listener.
pub type App = Arc<dyn Fn(Request) -> ResponseFuture + Send + Sync>;

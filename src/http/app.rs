//! A request, a response, and the application that turns one into the other.

use std::pin::Pin;
use std::sync::Arc;

use super::body::{Body, RequestBody};

/// A request as handlers get it.
pub type Request = http::Request<RequestBody>;

/// A response as handlers return it.
pub type Response = http::Response<Body>;

/// The future of a response.
pub(super) type ResponseFuture = Pin<Box<dyn Future<Output = Response> + Send>>;

/// Answers all requests of a listener.
pub type App = Arc<dyn Fn(Request) -> ResponseFuture + Send + Sync>;

//! Routes a request by path and method, through the auth filter, to its handler.

use std::future::ready;
use std::sync::Arc;

pub use http::Method;
use http::{HeaderValue, StatusCode, header};
use hyper::body::Body as _;

use super::access::{Endpoint, channel_name};
use super::app::{App, Request, Response, ResponseFuture};
use super::auth_filter::{Admission, AuthFilter, Caller};
use super::credentials::take_query_token;
use super::document::empty;
use super::error_response::reads_stream;
use super::handler::Handler;
use super::problem::{ErrorCode, Problem};
use crate::channel::{ChannelName, InvalidChannelName};

/// One path, and the handler of each of its methods.
#[derive(Clone)]
pub struct Route {
    /// The path; a last `{*name}` stands for the rest of it.
    pub path: &'static str,
    /// The methods. `OPTIONS` is answered for all.
    pub methods: Vec<(Method, Endpoint)>,
}

/// All routes of a listener.
#[derive(Clone)]
pub struct Router {
    routes: Arc<matchit::Router<Route>>,
    filter: AuthFilter,
    other: Option<Arc<OtherListener>>,
}

/// The paths of another listener.
struct OtherListener {
    paths: matchit::Router<()>,
    /// The listener, and its setting.
    listener: &'static str,
}

impl Router {
    /// Creates a router of these routes, each after the auth filter.
    ///
    /// # Errors
    /// Two routes collide.
    pub fn new(routes: Vec<Route>, filter: AuthFilter) -> Result<Self, matchit::InsertError> {
        let mut paths = matchit::Router::new();
        for route in routes {
            paths.insert(route.path, route)?;
        }
        Ok(Self { routes: Arc::new(paths), filter, other: None })
    }

    /// Adds the paths of another listener, which is named to a client that asks for one here.
    ///
    /// # Errors
    /// Two paths collide.
    pub fn with_other_listener(
        self,
        listener: &'static str,
        others: &[Route],
    ) -> Result<Self, matchit::InsertError> {
        let mut paths = matchit::Router::new();
        for route in others {
            paths.insert(route.path, ())?;
        }
        Ok(Self { other: Some(Arc::new(OtherListener { paths, listener })), ..self })
    }

    /// Returns the router as an application.
    #[must_use]
    pub fn into_app(self) -> App {
        Arc::new(move |request| self.answer(request))
    }

    /// Answers a request. No future here holds anything large, which would be moved from one future
    /// to the next.
    fn answer(&self, request: Request) -> ResponseFuture {
        let found = self.routes.at(request.uri().path()).ok();
        let is_health = found.as_ref().is_some_and(|found| found.value.is_health());
        if !is_health && let Some(problem) = self.filter.misdirected(&request) {
            return respond(problem.into_response());
        }
        let Some(found) = found else {
            return respond(self.not_found(request.uri().path()).into_response());
        };
        let route = found.value;
        match route.endpoint(request.method()) {
            Some(endpoint) => {
                // Invalid, and not used, if the path has no name.
                let rest = found.params.iter().next().map_or("", |(_, rest)| rest);
                let name = channel_name(rest);
                self.enter(endpoint, request, name)
            }
            None if request.method() == Method::OPTIONS => respond(options(route)),
            None => respond(Problem::method_not_allowed(&route.allow()).into_response()),
        }
    }

    fn not_found(&self, path: &str) -> Problem {
        let other = self.other.as_ref();
        let detail = match other.filter(|other| other.paths.at(path).is_ok()) {
            Some(other) => {
                format!("this path is on {}, and not on this one", other.listener)
            }
            None => "no such path: see /openapi.yaml for the paths".to_owned(),
        };
        Problem::new(ErrorCode::NotFound, detail)
    }

    /// Calls the endpoint for a caller that has the access which it requires.
    fn enter(
        &self,
        endpoint: &Endpoint,
        mut request: Request,
        name: Result<ChannelName, InvalidChannelName>,
    ) -> ResponseFuture {
        // Taken out of the target, so that no later code can log it.
        let token = take_query_token(request.uri_mut());
        match endpoint {
            Endpoint::Health(handler) | Endpoint::Free(handler) => call(handler, request, ()),
            Endpoint::OnChannel(operations, handler) => {
                let operations = *operations;
                self.admit(handler, request, token, move |caller| {
                    caller.on_channel(operations, name)
                })
            }
            Endpoint::OnSome(operations, handler) => {
                let operations = *operations;
                self.admit(handler, request, token, move |caller| caller.on_some(operations))
            }
            Endpoint::OnAll(operation, handler) => {
                let operation = *operation;
                self.admit(handler, request, token, move |caller| caller.on_all(operation))
            }
        }
    }

    /// Passes a request through the auth filter to its handler.
    fn admit<A: Send + 'static>(
        &self,
        handler: &Handler<A>,
        request: Request,
        token: Option<String>,
        authorize: impl FnOnce(Caller) -> Result<A, Problem> + Send + 'static,
    ) -> ResponseFuture {
        match self.filter.admit(request, token) {
            Admission::Granted(request, caller) => match authorize(caller) {
                Ok(access) => call(handler, request, access),
                Err(problem) => respond(problem.into_response()),
            },
            Admission::Denied(problem) => respond(problem.into_response()),
            Admission::Unauthenticated(unauthenticated) => {
                let filter = self.filter.clone();
                let handler = handler.clone();
                let reads_stream = reads_stream(unauthenticated.request());
                Box::pin(async move {
                    let admitted = filter.authenticate(unauthenticated).await;
                    let authorized =
                        admitted.and_then(|(request, caller)| Ok((request, authorize(caller)?)));
                    match authorized {
                        Ok((request, access)) => call(&handler, request, access).await,
                        Err(problem) => problem.answer(reads_stream),
                    }
                })
            }
        }
    }
}

impl Route {
    fn endpoint(&self, method: &Method) -> Option<&Endpoint> {
        let found = self.methods.iter().find(|(known, _)| known == method);
        found.map(|(_, endpoint)| endpoint)
    }

    fn is_health(&self) -> bool {
        self.methods.iter().all(|(_, endpoint)| matches!(endpoint, Endpoint::Health(_)))
    }

    fn allow(&self) -> String {
        let known = self.methods.iter().map(|(method, _)| method.as_str());
        known.chain(["OPTIONS"]).collect::<Vec<_>>().join(", ")
    }
}

/// Calls the handler, unless the body is in a form that no handler reads.
fn call<A>(handler: &Handler<A>, request: Request, access: A) -> ResponseFuture {
    match unreadable(&request) {
        None => handler(request, access),
        Some(problem) => respond(problem.into_response()),
    }
}

/// Returns what is wrong with the form of the body, if there is a body.
fn unreadable(request: &Request) -> Option<Problem> {
    if request.body().is_end_stream() {
        return None;
    }
    let headers = request.headers();
    let is_plain = |coding: &[u8]| {
        let coding = coding.trim_ascii();
        coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
    };
    let codings = headers.get_all(header::CONTENT_ENCODING).iter().map(HeaderValue::as_bytes);
    let mut coded = codings.filter(|line| !line.split(|byte| *byte == b',').all(is_plain));
    if let Some(coded) = coded.next() {
        let detail = format!(
            "`Content-Encoding: {}`: the hub reads bodies without compression only",
            coded.escape_ascii()
        );
        let problem = Problem::new(ErrorCode::UnsupportedMediaType, detail);
        return Some(problem.with_header(header::ACCEPT_ENCODING, "identity"));
    }
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let start = kind.trim_ascii_start().get(..10).unwrap_or_default();
    let multipart = start.eq_ignore_ascii_case(b"multipart/");
    multipart.then(|| {
        let detail = "`multipart` bodies are not supported: send the data of an event as the body \
                      itself (`curl --data-binary @file`), several as NDJSON or an event stream";
        Problem::new(ErrorCode::UnsupportedMediaType, detail)
    })
}

fn respond(response: Response) -> ResponseFuture {
    Box::pin(ready(response))
}

fn options(route: &Route) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    if let Ok(allow) = HeaderValue::from_str(&route.allow()) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

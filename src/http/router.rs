//! Routes a request by path and method, through the auth filter, to its handler.

use std::future::ready;
use std::sync::Arc;

use futures_util::FutureExt as _;
pub use http::Method;
use http::{HeaderValue, StatusCode, header};
use hyper::body::Body as _;

use super::access::Access;
use super::app::{App, Request, Response, ResponseFuture};
use super::auth_filter::{Admission, AuthFilter};
use super::document::empty;
use super::error_response::reads_stream;
use super::problem::{ErrorCode, Problem};

/// Answers a request. The text is the one that matched `{*…}` in the path, still encoded.
pub type Handler = Arc<dyn Fn(Request, String) -> ResponseFuture + Send + Sync>;

/// Makes a handler of a function and its state. A problem becomes its response.
pub fn handler<S, F, R>(state: &S, answer: F) -> Handler
where
    S: Clone + Send + Sync + 'static,
    F: Fn(S, Request, String) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Response, Problem>> + Send + 'static,
{
    let state = state.clone();
    Arc::new(move |request, rest| {
        let reads_stream = reads_stream(&request);
        let answer = answer(state.clone(), request, rest);
        Box::pin(
            answer
                .map(move |outcome| outcome.unwrap_or_else(|problem| problem.answer(reads_stream))),
        )
    })
}

/// One path, and the handler of each of its methods.
#[derive(Clone)]
pub struct Route {
    /// The path; a last `{*name}` stands for the rest of it.
    pub path: &'static str,
    /// The methods, and the access that each requires. `OPTIONS` is answered for all.
    pub methods: Vec<(Method, Access, Handler)>,
}

/// All routes of a listener.
#[derive(Clone)]
pub struct Router {
    routes: Arc<matchit::Router<Route>>,
    filter: AuthFilter,
    elsewhere: Option<Arc<Elsewhere>>,
}

/// The paths of another listener.
struct Elsewhere {
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
        Ok(Self { routes: Arc::new(paths), filter, elsewhere: None })
    }

    /// Adds the paths of another listener, which is named to a client that asks for one here.
    ///
    /// # Errors
    /// Two paths collide.
    pub fn beside(
        self,
        listener: &'static str,
        others: &[Route],
    ) -> Result<Self, matchit::InsertError> {
        let mut paths = matchit::Router::new();
        for route in others {
            paths.insert(route.path, ())?;
        }
        Ok(Self { elsewhere: Some(Arc::new(Elsewhere { paths, listener })), ..self })
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
            return at_once(problem.into_response());
        }
        let Some(found) = found else {
            return at_once(self.not_here(request.uri().path()).into_response());
        };
        let rest = found.params.iter().next().map_or("", |(_, rest)| rest).to_owned();
        let route = found.value;
        match route.handler(request.method()) {
            Some((access, handler)) => self.admit(access, handler, request, rest),
            None if request.method() == Method::OPTIONS => at_once(options(route)),
            None => at_once(Problem::method_not_allowed(&route.allow()).into_response()),
        }
    }

    fn not_here(&self, path: &str) -> Problem {
        let elsewhere = self.elsewhere.as_ref();
        let detail = match elsewhere.filter(|elsewhere| elsewhere.paths.at(path).is_ok()) {
            Some(elsewhere) => format!("this path is on {}, and not here", elsewhere.listener),
            None => "no such path: see /openapi.yaml for those that are there".to_owned(),
        };
        Problem::new(ErrorCode::NotFound, detail)
    }

    /// Passes a request through the auth filter to its handler.
    fn admit(
        &self,
        access: Access,
        handler: &Handler,
        request: Request,
        rest: String,
    ) -> ResponseFuture {
        match self.filter.admit(access, request) {
            Admission::Granted(request) => enter(handler, request, rest),
            Admission::Denied(problem) => at_once(problem.into_response()),
            Admission::Unauthenticated(unauthenticated) => {
                let (filter, handler) = (self.filter.clone(), handler.clone());
                let reads_stream = reads_stream(unauthenticated.request());
                Box::pin(async move {
                    match filter.admit_by_token(unauthenticated, &rest).await {
                        Ok(request) => enter(&handler, request, rest).await,
                        Err(problem) => problem.answer(reads_stream),
                    }
                })
            }
        }
    }
}

impl Route {
    fn handler(&self, method: &Method) -> Option<(Access, &Handler)> {
        let found = self.methods.iter().find(|(known, ..)| known == method);
        found.map(|(_, access, handler)| (*access, handler))
    }

    fn is_health(&self) -> bool {
        self.methods.iter().all(|(_, access, _)| *access == Access::Health)
    }

    fn allow(&self) -> String {
        let known = self.methods.iter().map(|(method, ..)| method.as_str());
        known.chain(["OPTIONS"]).collect::<Vec<_>>().join(", ")
    }
}

/// Calls the handler, unless the body is in a form that no handler reads.
fn enter(handler: &Handler, request: Request, rest: String) -> ResponseFuture {
    match unreadable(&request) {
        None => handler(request, rest),
        Some(problem) => at_once(problem.into_response()),
    }
}

/// Returns what is wrong with the form of the body, if there is a body.
fn unreadable(request: &Request) -> Option<Problem> {
    if request.body().is_end_stream() {
        return None;
    }
    let headers = request.headers();
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let plain = |coding: &str| coding.is_empty() || coding.eq_ignore_ascii_case("identity");
    let codings = headers.get_all(header::CONTENT_ENCODING).iter().map(text);
    let mut coded = codings.filter(|line| !line.split(',').all(|coding| plain(coding.trim())));
    if let Some(coded) = coded.next() {
        let detail = format!(
            "`Content-Encoding: {}`: the hub takes bodies as they are, without compression",
            coded.escape_default()
        );
        let problem = Problem::new(ErrorCode::UnsupportedMediaType, detail);
        return Some(problem.with_header(header::ACCEPT_ENCODING, "identity"));
    }
    let kind = headers.get(header::CONTENT_TYPE).map(text).unwrap_or_default();
    let multipart =
        kind.trim_start().get(..10).is_some_and(|start| start.eq_ignore_ascii_case("multipart/"));
    multipart.then(|| {
        let detail = "a `multipart` body is not taken apart: send the data of an event as the body \
                      itself (`curl --data-binary @file`), several as NDJSON or an event stream";
        Problem::new(ErrorCode::UnsupportedMediaType, detail)
    })
}

fn at_once(response: Response) -> ResponseFuture {
    Box::pin(ready(response))
}

fn options(route: &Route) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    if let Ok(allow) = HeaderValue::from_str(&route.allow()) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

//! Method and path to handler, past the gate; what is not there is answered in one place.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt as _;
pub use http::Method;
use http::{HeaderValue, StatusCode, header};

use super::access::Access;
use super::body::let_finish;
use super::gate::{Gate, Meeting, Refusal};
use super::{ErrorCode, Problem, Request, Response, empty};

/// A response in the making.
pub(super) type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;

/// What answers all requests of a listener.
pub type App = Arc<dyn Fn(Request) -> Answer + Send + Sync>;

/// What answers a request. The text is what the path's `{*…}` stood for, still encoded.
pub type Handler = Arc<dyn Fn(Request, String) -> Answer + Send + Sync>;

/// Makes a handler of a function with some state. A problem becomes its response.
pub fn handler<S, F, R>(state: &S, answer: F) -> Handler
where
    S: Clone + Send + Sync + 'static,
    F: Fn(S, Request, String) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Response, Problem>> + Send + 'static,
{
    let state = state.clone();
    Arc::new(move |request, rest| {
        let answer = answer(state.clone(), request, rest);
        Box::pin(answer.map(|outcome| outcome.unwrap_or_else(Problem::into_response)))
    })
}

/// One path, and what answers each of its methods.
#[derive(Clone)]
pub struct Route {
    /// The path; a last `{*name}` stands for the rest of it.
    pub path: &'static str,
    /// The methods, and what each asks of its caller. `OPTIONS` is answered for all.
    pub methods: Vec<(Method, Access, Handler)>,
}

/// All routes of a listener.
#[derive(Clone)]
pub struct Router {
    routes: Arc<matchit::Router<Route>>,
    gate: Gate,
}

impl Router {
    /// A router of these routes, each behind the gate.
    ///
    /// # Errors
    /// Two routes collide.
    pub fn new(routes: Vec<Route>, gate: Gate) -> Result<Self, matchit::InsertError> {
        let mut paths = matchit::Router::new();
        for route in routes {
            paths.insert(route.path, route)?;
        }
        Ok(Self { routes: Arc::new(paths), gate })
    }

    /// The router as an application.
    #[must_use]
    pub fn into_app(self) -> App {
        Arc::new(move |request| self.answer(request))
    }

    /// Nothing of what is large is in a future of its own here: it would be moved from one to the
    /// next.
    fn answer(&self, request: Request) -> Answer {
        let Ok(found) = self.routes.at(request.uri().path()) else {
            let detail = "no such path: see /openapi.yaml for those that are there";
            return at_once(Problem::new(ErrorCode::NotFound, detail).into_response());
        };
        let rest = found.params.iter().next().map_or("", |(_, rest)| rest).to_owned();
        let route = found.value;
        match route.handler(request.method()) {
            Some((access, handler)) => self.admit(access, handler, request, rest),
            None if request.method() == Method::OPTIONS => at_once(options(route)),
            None => at_once(Problem::method_not_allowed(&route.allow()).into_response()),
        }
    }

    /// Past the gate, to the handler.
    fn admit(&self, access: Access, handler: &Handler, request: Request, rest: String) -> Answer {
        match self.gate.meet(access, request) {
            Meeting::Welcome(request) => handler(request, rest),
            Meeting::Refused(refusal) => at_once(refused(refusal)),
            Meeting::Stranger(stranger) => {
                let (gate, handler) = (self.gate.clone(), handler.clone());
                Box::pin(async move {
                    match gate.ask(stranger, &rest).await {
                        Ok(request) => handler(request, rest).await,
                        Err(refusal) => refused(refusal),
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

    fn allow(&self) -> String {
        let known = self.methods.iter().map(|(method, ..)| method.as_str());
        known.chain(["OPTIONS"]).collect::<Vec<_>>().join(", ")
    }
}

fn at_once(response: Response) -> Answer {
    Box::pin(ready(response))
}

fn refused((problem, body): Refusal) -> Response {
    let_finish(body);
    problem.into_response()
}

fn options(route: &Route) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    if let Ok(allow) = HeaderValue::from_str(&route.allow()) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

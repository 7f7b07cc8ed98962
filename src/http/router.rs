//! Method and path to handler, past the gate; what is not there is answered in one place.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub use http::Method;
use http::{HeaderValue, StatusCode, header};

use super::access::Access;
use super::body::let_finish;
use super::gate::Gate;
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
    F: Fn(S, Request, String) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<Response, Problem>> + Send + 'static,
{
    let state = state.clone();
    Arc::new(move |request, rest| {
        let (answer, state) = (answer.clone(), state.clone());
        // Called inside, or the future of the answer, which is large, would be there twice.
        Box::pin(async move {
            answer(state, request, rest).await.unwrap_or_else(Problem::into_response)
        })
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
        Arc::new(move |request| {
            let router = self.clone();
            Box::pin(async move {
                let mut response = router.answer(request).await;
                // No answer is anything else than what it says, whatever a browser makes of it.
                let nosniff = HeaderValue::from_static("nosniff");
                response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
                response
            })
        })
    }

    async fn answer(&self, request: Request) -> Response {
        let path = request.uri().path().to_owned();
        let Ok(found) = self.routes.at(&path) else {
            let detail = "no such path: see /openapi.yaml for those that are there";
            return Problem::new(ErrorCode::NotFound, detail).into_response();
        };
        let rest = found.params.iter().next().map_or("", |(_, rest)| rest).to_owned();
        match found.value.handler(request.method()) {
            Some((access, handler)) => match self.gate.admit(access, request, &rest).await {
                Ok(request) => handler(request, rest).await,
                Err((problem, body)) => {
                    let_finish(body);
                    problem.into_response()
                }
            },
            None if request.method() == Method::OPTIONS => options(found.value),
            None => Problem::method_not_allowed(&found.value.allow()).into_response(),
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

fn options(route: &Route) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    if let Ok(allow) = HeaderValue::from_str(&route.allow()) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

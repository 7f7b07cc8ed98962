//! The web pages that may use the hub from a browser.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;

use futures_util::FutureExt as _;
use http::{HeaderName, HeaderValue, Method, header};
use parking_lot::{RwLock, RwLockReadGuard};
use serde::{Deserialize, Serialize};
use tower::{Layer, ServiceExt};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::app::{App, Request, Response};
use super::credentials::without_default_port;

/// Settings of the section `cors`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Origins such as `https://app.example.com`, or `*` alone for all. None by default.
    pub allow_origins: Vec<String>,
}

/// An entry of `cors.allow_origins` is not an origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an origin: write `https://app.example.com`, without a path, or `*` alone")]
pub struct InvalidOrigin(String);

impl Config {
    /// Checks the settings.
    ///
    /// # Errors
    /// Names the first entry that is not an origin.
    pub fn validate(&self) -> Result<(), InvalidOrigin> {
        match self.allow_origins.as_slice() {
            [all] if all == "*" => Ok(()),
            origins => origins.iter().try_for_each(|origin| check_origin(origin)),
        }
    }

    /// The origins as browsers write them: without a port that the scheme implies.
    pub(super) fn origins(&self) -> Vec<String> {
        let plain = |origin: &String| match origin.split_once("://") {
            Some((scheme, rest)) => format!("{scheme}://{}", without_default_port(scheme, rest)),
            None => origin.clone(),
        };
        self.allow_origins.iter().map(plain).collect()
    }

    fn layer(&self) -> CorsLayer {
        // Only pages that are named may send cookies and read the responses to them.
        let named = !self.allow_origins.iter().any(|origin| origin == "*");
        let allow_origin = match self.allow_origins.as_slice() {
            [all] if all == "*" => AllowOrigin::any(),
            _ => AllowOrigin::list(self.origins().iter().filter_map(|origin| origin.parse().ok())),
        };
        CorsLayer::new()
            .allow_origin(allow_origin)
            .allow_credentials(named && !self.allow_origins.is_empty())
            .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE])
            .allow_headers([
                header::AUTHORIZATION,
                header::CACHE_CONTROL,
                header::CONTENT_TYPE,
                HeaderName::from_static("idempotency-key"),
                HeaderName::from_static("last-event-id"),
                HeaderName::from_static("x-api-key"),
                // Added to each request of a page by tracing tools.
                HeaderName::from_static("traceparent"),
                HeaderName::from_static("tracestate"),
                HeaderName::from_static("baggage"),
                HeaderName::from_static("sentry-trace"),
            ])
            .expose_headers([
                header::RETRY_AFTER,
                header::WWW_AUTHENTICATE,
                HeaderName::from_static("fanfare-earliest"),
                HeaderName::from_static("fanfare-events"),
                HeaderName::from_static("fanfare-state"),
                HeaderName::from_static("fanfare-subscribers"),
                HeaderName::from_static("fanfare-format"),
                HeaderName::from_static("fanfare-producer"),
                HeaderName::from_static("fanfare-tail"),
                HeaderName::from_static("idempotency-replayed"),
            ])
            .max_age(std::time::Duration::from_secs(7200))
            .vary([])
    }
}

/// The pages that may use the hub; a reload exchanges them. A clone is a cheap handle.
#[derive(Clone)]
pub struct Cors(Arc<RwLock<Allowed>>);

/// The origins and the layer of a [`Cors`].
pub(super) struct Allowed {
    /// The origins as browsers write them.
    pub(super) origins: Vec<String>,
    layer: CorsLayer,
}

impl Allowed {
    fn by(config: &Config) -> Self {
        Self { origins: config.origins(), layer: config.layer() }
    }
}

/// Allows no pages of other origins.
impl Default for Cors {
    fn default() -> Self {
        Self::new(&Config::default())
    }
}

impl Cors {
    /// Allows the pages that these settings name.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self(Arc::new(RwLock::new(Allowed::by(config))))
    }

    /// Replaces the allowed pages by those that these settings name.
    pub fn exchange(&self, config: &Config) {
        *self.0.write() = Allowed::by(config);
    }

    pub(super) fn allowed(&self) -> RwLockReadGuard<'_, Allowed> {
        self.0.read()
    }

    /// Adds the CORS headers that a page of this origin needs to read a response whose request
    /// could not be parsed.
    pub(super) async fn mark(&self, origin: Option<HeaderValue>, response: Response) -> Response {
        let layer = {
            let allowed = self.allowed();
            (!allowed.origins.is_empty()).then(|| allowed.layer.clone())
        };
        let (Some(origin), Some(layer)) = (origin, layer) else { return response };
        let mut request = http::Request::new(());
        request.headers_mut().insert(header::ORIGIN, origin);
        let mut response = Some(response);
        let inner = tower::service_fn(move |_: http::Request<()>| {
            ready(Ok::<_, Infallible>(response.take().unwrap_or_default()))
        });
        let Ok(mut response) = layer.layer(inner).oneshot(request).await;
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Origin"));
        response
    }

    /// Wraps an application: answers preflights, and adds CORS headers to responses.
    #[must_use]
    pub fn wrap(&self, app: App) -> App {
        let plain = app.clone();
        let inner = tower::service_fn(move |request: Request| {
            let answer = app(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let cors = self.clone();
        Arc::new(move |request: Request| {
            // Only browsers send `Origin`; other requests skip the layer.
            let answer = if request.headers().contains_key(header::ORIGIN) {
                let answer = cors.allowed().layer.layer(inner.clone()).oneshot(request);
                Box::pin(answer.map(|Ok(response)| response))
            } else {
                plain(request)
            };
            Box::pin(async move {
                let mut response = answer.await;
                // `Vary` has one value, which a handler may have set already.
                let origin = HeaderValue::from_static("Origin");
                response.headers_mut().entry(header::VARY).or_insert(origin);
                response
            })
        })
    }
}

fn check_origin(origin: &str) -> Result<(), InvalidOrigin> {
    let host = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    let plain = host.is_some_and(|host| {
        !host.is_empty() && !host.contains(['/', '*', '?', '#', '@', ' ', ','])
    });
    let valid = origin == "null" || (plain && HeaderValue::from_str(origin).is_ok());
    if valid { Ok(()) } else { Err(InvalidOrigin(origin.to_owned())) }
}

//! Routes for operators and monitoring:
//!
//! - `GET /healthz`: the process answers. On both listeners.
//! - `GET /readyz`: the hub accepts work; 503 while it drains, when its store has failed, and while
//!   it does not follow its cluster. On both listeners.
//! - `GET /openapi.yaml`, `GET /openapi-3.1.yaml`: the description of the whole API. On both
//!   listeners.
//! - `GET /metrics`: Prometheus text. On the admin listener.
//! - `GET /v1/channels?prefix=&after=&limit=`: channels by name. On the admin listener.
//! - `GET /v1/cluster`: the cluster as this hub sees it. On the admin listener.

use std::sync::LazyLock;

use serde::Serialize;

use crate::auth::Operation;
use crate::backplane::Backplane;
use crate::http::{
    Caller, ChannelDocument, Endpoint, ErrorCode, Method, Problem, Query, Request, Response, Route,
    document, handler, json,
};
use crate::hub::{ChannelOptions, Hub};
use crate::limits::MAX_LISTED_CHANNELS;
use crate::shutdown::Shutdown;
use crate::store::disk::Health;
use crate::telemetry;

const OPENAPI: &str = include_str!("../../docs/openapi.yaml");

/// The API description for tools without support of OpenAPI 3.2. Of what it uses, 3.1 lacks only
/// `itemSchema`: there a stream is a text, and its content has that schema.
static OPENAPI_3_1: LazyLock<String> = LazyLock::new(|| {
    let line = |line: &str| match line.split_once("itemSchema: ") {
        Some((indent, schema)) if indent.trim().is_empty() => {
            format!("{indent}schema: {{ type: string, contentSchema: {schema} }}\n")
        }
        _ => format!("{line}\n"),
    };
    let text: String = OPENAPI.lines().map(line).collect();
    text.replacen("openapi: 3.2.0", "openapi: 3.1.2", 1)
});

/// Channels in a list if no `limit` is given.
const DEFAULT_LISTED_CHANNELS: usize = 100;

/// The state of the handlers: cheap handles.
#[derive(Clone)]
pub struct Admin {
    /// The hub, with its channels.
    pub hub: Hub,
    /// The connection to the cluster, if the hub is in one.
    pub backplane: Option<Backplane>,
    /// Signals whether the hub is shutting down.
    pub shutdown: Shutdown,
}

/// A page of the list of channels.
#[derive(Serialize)]
struct List<'a> {
    channels: Vec<Listed<'a>>,
    /// The last name on this page: `after` for the next.
    next: Option<&'a str>,
}

/// A channel of the list.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    channel: ChannelDocument<'a>,
    /// The settings that differ from the channel's configuration, as `PUT` takes them: a client can
    /// copy them to another channel.
    settings: ChannelOptions,
}

impl Admin {
    /// Returns the routes of both listeners.
    #[must_use]
    pub fn common_routes(&self) -> Vec<Route> {
        vec![
            page("/healthz", Endpoint::Health(handler(self, healthz))),
            page("/readyz", Endpoint::Health(handler(self, readyz))),
            page("/openapi.yaml", Endpoint::Free(handler(self, openapi))),
            page("/openapi-3.1.yaml", Endpoint::Free(handler(self, openapi_3_1))),
        ]
    }

    /// Checks whether the hub accepts new work.
    fn check_ready(&self) -> Result<(), Problem> {
        if self.shutdown.is_draining() {
            return Err(Problem::new(ErrorCode::Draining, "the hub is going down"));
        }
        if let Health::Failed(why) = self.hub.store_health() {
            return Err(Problem::new(ErrorCode::StoreFailed, why.to_string()));
        }
        if let Some(backplane) = &self.backplane
            && let Err(why) = backplane.check_ready()
        {
            let problem = Problem::new(ErrorCode::BackplaneUnavailable, why.detail);
            return Err(problem.with("reason", why.reason));
        }
        Ok(())
    }

    /// Returns the routes of the admin listener only.
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        vec![
            page("/metrics", Endpoint::OnAll(Operation::Metrics, handler(self, metrics))),
            page("/v1/channels", Endpoint::OnAll(Operation::Admin, handler(self, list))),
            page("/v1/cluster", Endpoint::OnAll(Operation::Admin, handler(self, cluster))),
        ]
    }
}

fn page(path: &'static str, endpoint: Endpoint) -> Route {
    let methods = [Method::GET, Method::HEAD];
    Route { path, methods: methods.map(|method| (method, endpoint.clone())).into() }
}

async fn healthz(_: Admin, _: Request, (): ()) -> Result<Response, Problem> {
    Ok(document("text/plain; charset=utf-8", "ok\n"))
}

async fn readyz(admin: Admin, _: Request, (): ()) -> Result<Response, Problem> {
    admin.check_ready()?;
    Ok(document("text/plain; charset=utf-8", "ok\n"))
}

async fn openapi(_: Admin, _: Request, (): ()) -> Result<Response, Problem> {
    Ok(document("application/yaml", OPENAPI))
}

async fn openapi_3_1(_: Admin, _: Request, (): ()) -> Result<Response, Problem> {
    Ok(document("application/yaml", OPENAPI_3_1.as_str()))
}

async fn metrics(admin: Admin, _: Request, _: Caller) -> Result<Response, Problem> {
    admin.hub.metrics().ready(admin.check_ready().is_ok());
    if let Some(backplane) = &admin.backplane {
        backplane.observe();
    }
    let text = telemetry::encode(admin.hub.metrics());
    Ok(document("text/plain; version=0.0.4; charset=utf-8", text))
}

async fn cluster(admin: Admin, _: Request, _: Caller) -> Result<Response, Problem> {
    let backplane = admin.backplane.ok_or_else(|| {
        let detail = "this hub is in no cluster: `cluster.backplane` is \"none\"";
        Problem::new(ErrorCode::NotFound, detail)
    })?;
    json(&backplane.status())
}

async fn list(admin: Admin, request: Request, _: Caller) -> Result<Response, Problem> {
    let query = Query::parse(request.uri().query(), &["prefix", "after", "limit"])?;
    let prefix = query.get("prefix");
    let after = query.get("after");
    let limit = query.limit(DEFAULT_LISTED_CHANNELS, MAX_LISTED_CHANNELS)?;
    let channels = admin.hub.list(prefix.unwrap_or_default(), after.unwrap_or_default(), limit);
    let next = channels.last().filter(|_| channels.len() == limit);
    let listed = |channel| Listed {
        channel: ChannelDocument::from(channel),
        settings: admin.hub.own_settings(channel),
    };
    let list = List {
        next: next.map(|last| last.name.as_str()),
        channels: channels.iter().map(listed).collect(),
    };
    json(&list)
}

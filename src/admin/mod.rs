//! For operators and their machines:
//!
//! - `GET /healthz`: the process answers. On both listeners.
//! - `GET /readyz`: the hub takes work; 503 while it drains. On both listeners.
//! - `GET /openapi.yaml`: the whole API, described. On both listeners.
//! - `GET /metrics`: Prometheus text. On the admin listener.
//! - `GET /v1/channels?prefix=&after=&limit=`: channels by name. On the admin listener.

use serde::Serialize;

use crate::http::{
    ErrorCode, Handler, Method, Problem, Query, Request, Response, Route, document, handler, json,
};
use crate::hub::{Description, Hub};
use crate::limits::MAX_LISTED_CHANNELS;
use crate::shutdown::Shutdown;
use crate::telemetry;

const OPENAPI: &str = include_str!("../../docs/openapi.yaml");

/// Channels in a list for which no `limit` was asked.
const DEFAULT_LISTED_CHANNELS: usize = 100;

/// What the handlers work with: cheap handles.
#[derive(Clone)]
pub struct Admin {
    /// The channels.
    pub hub: Hub,
    /// Whether the hub is going down.
    pub shutdown: Shutdown,
}

/// A page of the list of channels.
#[derive(Serialize)]
struct List<'a> {
    channels: Vec<Row<'a>>,
    /// The last name on this page: `after` for the next.
    next: Option<&'a str>,
}

#[derive(Serialize)]
struct Row<'a> {
    channel: &'a str,
    state: &'static str,
    earliest: Option<String>,
    tail: String,
    events: u64,
    bytes: u64,
    subscribers: usize,
}

impl Admin {
    /// The routes that every listener has.
    #[must_use]
    pub fn common_routes(&self) -> Vec<Route> {
        vec![
            page("/healthz", handler(self, healthz)),
            page("/readyz", handler(self, readyz)),
            page("/openapi.yaml", handler(self, openapi)),
        ]
    }

    /// The routes that only the admin listener has.
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        vec![page("/metrics", handler(self, metrics)), page("/v1/channels", handler(self, list))]
    }
}

fn page(path: &'static str, handler: Handler) -> Route {
    Route { path, methods: vec![(Method::GET, handler.clone()), (Method::HEAD, handler)] }
}

async fn healthz(_: Admin, _: Request, _: String) -> Result<Response, Problem> {
    Ok(document("text/plain; charset=utf-8", "ok\n"))
}

async fn readyz(admin: Admin, _: Request, _: String) -> Result<Response, Problem> {
    if admin.shutdown.is_draining() {
        return Err(Problem::new(ErrorCode::Draining, "the hub is going down"));
    }
    Ok(document("text/plain; charset=utf-8", "ok\n"))
}

async fn openapi(_: Admin, _: Request, _: String) -> Result<Response, Problem> {
    Ok(document("application/yaml", OPENAPI))
}

async fn metrics(admin: Admin, _: Request, _: String) -> Result<Response, Problem> {
    let text = telemetry::encode(admin.hub.metrics());
    Ok(document("text/plain; version=0.0.4; charset=utf-8", text))
}

async fn list(admin: Admin, request: Request, _: String) -> Result<Response, Problem> {
    let query = Query::parse(request.uri().query())?;
    let (prefix, after) = (query.get("prefix"), query.get("after"));
    let limit = limit(&query)?;
    let channels = admin.hub.list(prefix.unwrap_or_default(), after.unwrap_or_default(), limit);
    let next = channels.last().filter(|_| channels.len() == limit);
    let list = List {
        next: next.map(|last| last.name.as_str()),
        channels: channels.iter().map(Row::of).collect(),
    };
    json(&list)
}

fn limit(query: &Query) -> Result<usize, Problem> {
    let Some(text) = query.get("limit") else { return Ok(DEFAULT_LISTED_CHANNELS) };
    match text.parse() {
        Ok(limit) if (1..=MAX_LISTED_CHANNELS).contains(&limit) => Ok(limit),
        _ => {
            let right = format!("expected 1 to {MAX_LISTED_CHANNELS}");
            Err(Problem::parameter("limit", text, &right))
        }
    }
}

impl<'a> Row<'a> {
    fn of(channel: &'a Description) -> Self {
        Self {
            channel: channel.name.as_str(),
            state: channel.state.as_str(),
            earliest: channel.earliest.as_ref().map(ToString::to_string),
            tail: channel.tail.to_string(),
            events: channel.events,
            bytes: channel.bytes,
            subscribers: channel.subscribers,
        }
    }
}

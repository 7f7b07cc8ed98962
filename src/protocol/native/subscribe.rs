//! `GET /v1/channels/{name}` and `GET /v1/events`: live streams, pages and long polls.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{NDJSON, Native, claim, heartbeat};
use crate::auth::Operation;
use crate::channel::ChannelPattern;
use crate::egress::{Link, OpenStream, Page, StreamFormat, page};
use crate::event::ChannelState;
use crate::http::{
    Body, Caller, ChannelCaller, ClientInfo, ErrorCode, LAST_EVENT_ID, Problem, Query, Request,
    Response, empty, json, negotiate, not_stored,
};
use crate::hub::{ClaimPurpose, Coalesce, InvalidCoalesce, Opened, Selection, Ticket};
use crate::lease::AccessLease;
use crate::limits::MAX_PAGE_EVENTS;
use crate::position::StartFrom;
use crate::sse;

const JSON: &str = "application/json";

/// Events in a page if no `limit` is given.
const DEFAULT_PAGE_EVENTS: usize = 100;

/// The longest wait of a long poll: proxies cut idle requests at a minute.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Query parameters of a subscription to one channel.
const PARAMETERS: &[&str] =
    &["from", LAST_EVENT_ID, "limit", "wait", "coalesce", "bare", "heartbeat"];

/// Query parameters of a subscription to one or more channels.
const PARAMETERS_OF_MANY: &[&str] =
    &["channel", "from", LAST_EVENT_ID, "limit", "wait", "coalesce", "bare", "heartbeat"];

pub(super) async fn one(
    native: Arc<Native>,
    request: Request,
    ChannelCaller { caller, name }: ChannelCaller,
) -> Result<Response, Problem> {
    let query = Query::parse(request.uri().query(), PARAMETERS)?;
    let lease = caller.subscribe(&[Operation::Subscribe], vec![(&name).into()])?;
    claim(&native, &caller, &name, ClaimPurpose::ToWait)?;
    subscribe(&native, &request, &query, Selection::One(name), lease).await
}

pub(super) async fn many(
    native: Arc<Native>,
    request: Request,
    caller: Caller,
) -> Result<Response, Problem> {
    let query = Query::parse(request.uri().query(), PARAMETERS_OF_MANY)?;
    let most = native.egress.config().max_channels;
    let patterns: Vec<ChannelPattern> =
        query.all("channel").map(str::parse).collect::<Result<_, _>>()?;
    if patterns.len() > most {
        native.hub.metrics().limit_hit("subscribers.max_channels");
    }
    if patterns.is_empty() || patterns.len() > most {
        let detail = format!(
            "`channel` is given {} times: expected 1 to {most} (`subscribers.max_channels`)",
            patterns.len()
        );
        let problem = Problem::new(ErrorCode::InvalidParameter, detail);
        return Err(problem.with("parameter", "channel"));
    }
    patterns.iter().try_for_each(|pattern| caller.require(Operation::Subscribe, pattern))?;
    let lease = caller.subscribe(&[Operation::Subscribe], patterns.clone())?;
    for name in patterns.iter().filter_map(ChannelPattern::exact) {
        claim(&native, &caller, &name, ClaimPurpose::ToWait)?;
    }
    subscribe(&native, &request, &query, Selection::Many(patterns), lease).await
}

async fn subscribe(
    native: &Native,
    request: &Request,
    query: &Query,
    selection: Selection,
    lease: AccessLease,
) -> Result<Response, Problem> {
    let from = start(request.headers(), query)?;
    let coalesce = query.get("coalesce").map(coalesce).transpose()?;
    let heartbeat = heartbeat(native, query)?;
    let link = ClientInfo::link_of(request.extensions());
    let many = matches!(selection, Selection::Many(_));
    let (format, media_type) = match bare(query, many)? {
        Some(_) if from == StartFrom::Snapshot => {
            let right = "expected anything else with `bare`: a snapshot is the hub's own event";
            return Err(Problem::parameter("from", "snapshot", right));
        }
        Some(StreamFormat::BareLines) => (StreamFormat::BareLines, NDJSON[0]),
        Some(format) => (format, sse::CONTENT_TYPE),
        None => match accepted(request.headers())? {
            JSON => {
                let link = link.as_deref();
                return answer_page(native, selection, &from, coalesce, query, lease, link).await;
            }
            sse::MEDIA_TYPE => (format(sse::MEDIA_TYPE, many), sse::CONTENT_TYPE),
            media_type => (format(media_type, many), media_type),
        },
    };
    match open(native, selection, &from).await? {
        None => Ok(over()),
        Some(ticket) => {
            if format.is_bare() && from == StartFrom::Earliest && !ticket.begins_whole() {
                let detail = "the beginning of this stream is no longer retained";
                return Err(Problem::new(ErrorCode::NotFound, detail));
            }
            let coalesce = coalesce.unwrap_or_else(|| ticket.default_coalesce());
            let egress = native.egress.clone();
            let open = OpenStream { egress, ticket, format, coalesce, heartbeat, link, lease };
            Ok(live(open, media_type))
        }
    }
}

/// Opens a subscription; `None` if its client has already received the end. The start may have to
/// be read from disk.
async fn open(
    native: &Native,
    selection: Selection,
    from: &StartFrom,
) -> Result<Option<Ticket>, Problem> {
    let many = matches!(selection, Selection::Many(_));
    native.hub.reach(from).await;
    loop {
        // All channels are matched against the patterns, and each match is joined: expensive.
        let turn = if many { Some(native.egress.turn().await) } else { None };
        let opened = native.hub.open(selection.clone(), from)?;
        drop(turn);
        match opened {
            Opened::Live(ticket) => return Ok(Some(ticket)),
            Opened::Over => return Ok(None),
            Opened::Later(later) => later.over().await,
        }
    }
}

fn accepted(headers: &HeaderMap) -> Result<&'static str, Problem> {
    let offers: Vec<_> = [sse::MEDIA_TYPE].into_iter().chain(NDJSON).chain([JSON]).collect();
    negotiate(headers, &offers).ok_or_else(|| {
        let detail =
            format!("the available types are {}, {} and {JSON}", sse::MEDIA_TYPE, NDJSON[0]);
        Problem::new(ErrorCode::NotAcceptable, detail)
    })
}

fn format(media_type: &str, many: bool) -> StreamFormat {
    match (NDJSON.contains(&media_type), many) {
        (false, false) => StreamFormat::EventStream,
        (false, true) => StreamFormat::Envelopes,
        (true, false) => StreamFormat::Ndjson,
        (true, true) => StreamFormat::NdjsonEnvelopes,
    }
}

/// Returns the format of a bare stream, if one is asked for. `Accept` is ignored: the client of a
/// bare stream does not know that it talks to a hub.
fn bare(query: &Query, many: bool) -> Result<Option<StreamFormat>, Problem> {
    let Some(asked) = query.get("bare") else { return Ok(None) };
    match asked {
        _ if many => Err(Problem::parameter("bare", asked, "expected on one channel only")),
        "" | "events" => Ok(Some(StreamFormat::Bare)),
        "lines" => Ok(Some(StreamFormat::BareLines)),
        _ => Err(Problem::parameter("bare", asked, "expected `events`, `lines` or no value")),
    }
}

fn coalesce(text: &str) -> Result<Coalesce, Problem> {
    text.parse()
        .map_err(|error: InvalidCoalesce| Problem::parameter("coalesce", text, &error.to_string()))
}

/// Returns the start of a subscription. An event id has priority, because a reconnect sends it; the
/// other parameters are validated all the same.
fn start(headers: &HeaderMap, query: &Query) -> Result<StartFrom, Problem> {
    let begin = begin(query)?;
    let header = headers.get("last-event-id").map(|id| String::from_utf8_lossy(id.as_bytes()));
    // A client that reconnects appends its last id to the URL that its page began with.
    let asked = query.all(LAST_EVENT_ID).chain(header.as_deref());
    if let Some(id) = asked.filter(|id| !id.is_empty()).last() {
        return Ok(StartFrom::After(id.into()));
    }
    Ok(begin)
}

/// Returns the start of a subscription without an event id.
fn begin(query: &Query) -> Result<StartFrom, Problem> {
    let from = query.get("from").unwrap_or("tail");
    match (from, from.strip_prefix("last:").map(str::parse)) {
        ("tail", _) => Ok(StartFrom::Tail),
        ("earliest", _) => Ok(StartFrom::Earliest),
        ("snapshot", _) => Ok(StartFrom::Snapshot),
        (_, Some(Ok(count))) => Ok(StartFrom::Last(count)),
        _ => {
            let right = "expected `tail`, `earliest`, `snapshot` or `last:N`";
            Err(Problem::parameter("from", from, right))
        }
    }
}

fn live(open: OpenStream, media_type: &'static str) -> Response {
    let mut response = Response::new(Body::Open(Box::new(open)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    not_stored(headers);
    response
}

/// Responds to a client that has received the end: 204 makes an `EventSource` stop reconnecting.
fn over() -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    not_stored(response.headers_mut());
    response
}

async fn answer_page(
    native: &Native,
    selection: Selection,
    from: &StartFrom,
    coalesce: Option<Coalesce>,
    query: &Query,
    lease: AccessLease,
    link: Option<&Link>,
) -> Result<Response, Problem> {
    let limit = query.limit(DEFAULT_PAGE_EVENTS, MAX_PAGE_EVENTS)?;
    let wait = wait(query)?;
    let name = match &selection {
        Selection::One(name) => Some(name.clone()),
        Selection::Many(_) => None,
    };
    let mut page = match open(native, selection, from).await? {
        Some(ticket) => {
            let coalesce = coalesce.unwrap_or_else(|| ticket.default_coalesce());
            let mut subscription = ticket.subscribe(native.egress.bounds());
            subscription.set_merging(coalesce != Coalesce::Off);
            let enough = async {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = native.shutdown.draining() => {}
                    _ = lease.ended() => {}
                    () = input_end(link) => {}
                }
            };
            page(subscription, name.is_none(), limit, enough).await
        }
        None => Page { events: Vec::new(), next: asked_id(from), state: None },
    };
    page.state = name.map(|name| {
        let channel = native.hub.describe(&name);
        channel.map_or(ChannelState::Open, |channel| channel.state).as_str()
    });
    let mut response = json(&page)?;
    not_stored(response.headers_mut());
    Ok(response)
}

/// Waits until the client sends nothing more, or has disconnected.
async fn input_end(link: Option<&Link>) {
    match link {
        Some(link) => link.input_end().await,
        None => pending().await,
    }
}

/// Returns the id that a page after the end repeats, as there is no later one to continue from.
fn asked_id(from: &StartFrom) -> String {
    match from {
        StartFrom::After(id) => id.to_string(),
        StartFrom::Tail | StartFrom::Earliest | StartFrom::Snapshot | StartFrom::Last(_) => {
            String::new()
        }
    }
}

fn wait(query: &Query) -> Result<Duration, Problem> {
    let Some(text) = query.get("wait") else { return Ok(Duration::ZERO) };
    match humantime::parse_duration(text) {
        Ok(wait) if wait <= MAX_WAIT => Ok(wait),
        _ => Err(Problem::parameter("wait", text, "expected a duration up to `60s`")),
    }
}

//! `POST /v1/signals/{name}` and `GET /v1/signals/{name}`: from viewers to the producer.

use std::sync::Arc;

use http::{HeaderValue, header};
use serde::{Deserialize, Serialize};

use super::{Native, claim, heartbeat};
use crate::auth::Operation;
use crate::event::ChannelState;
use crate::http::{
    Body, ChannelCaller, ClientInfo, Problem, Query, Request, Response, json, not_stored,
    parse_object, read_document,
};
use crate::hub::{ClaimPurpose, GenerationOver, Signal, StopError, Stopped};
use crate::ingest::Share;
use crate::limits::MAX_REASON_BYTES;
use crate::position::Position;
use crate::sse;

/// Operations that permit reading a channel's signals: for its producer, and for viewers that may
/// stop it.
pub(super) const FEED: &[Operation] = &[Operation::Publish, Operation::Signal];

/// The document that a viewer sends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignalDocument {
    signal: Signal,
    reason: Option<String>,
    /// An event id of the generation that is to be stopped.
    generation: Option<String>,
}

/// The response to a signal.
#[derive(Serialize)]
struct SignalOutcome<'a> {
    channel: &'a str,
    signal: Signal,
    stopped: bool,
    state: &'a str,
}

pub(super) async fn send(
    native: Arc<Native>,
    request: Request,
    ChannelCaller { caller, name }: ChannelCaller,
) -> Result<Response, Problem> {
    caller.payer().signal().map_err(|exceeded| caller.exceeded(&exceeded))?;
    let document = read_document(request, Share::new(native.clone())).await?;
    let SignalDocument { signal, reason, generation } = parse(&document)?;
    let generation = generation.as_deref().map(position).transpose()?;
    let account = caller.payer().account();
    let stop = native.hub.stop(&name, reason.map(Into::into), generation.as_ref(), account);
    let (stopped, state) = match stop.await? {
        Stopped::Now => (true, ChannelState::Cancelled),
        Stopped::Before(state) => (false, state),
    };
    json(&SignalOutcome { channel: name.as_str(), signal, stopped, state: state.as_str() })
}

pub(super) async fn feed(
    native: Arc<Native>,
    request: Request,
    ChannelCaller { caller, name }: ChannelCaller,
) -> Result<Response, Problem> {
    let query = Query::parse(request.uri().query(), &["heartbeat"])?;
    let heartbeat = heartbeat(&native, &query)?;
    let lease = caller.subscribe(FEED, vec![(&name).into()])?;
    claim(&native, &caller, &name, ClaimPurpose::ToWait)?;
    let producer = native.hub.producer_handle(&name)?;
    let shutdown = native.shutdown.clone();
    let link = ClientInfo::link_of(request.extensions());
    let draining = async move { shutdown.draining().await };
    let over = async move { lease.ended().await };
    let (feed, filling) = native.egress.signals(name, producer, heartbeat, link, draining, over);
    tokio::spawn(filling);
    let mut response = Response::new(Body::Signals(feed));
    let media_type = HeaderValue::from_static(sse::CONTENT_TYPE);
    response.headers_mut().insert(header::CONTENT_TYPE, media_type);
    not_stored(response.headers_mut());
    Ok(response)
}

fn parse(document: &[u8]) -> Result<SignalDocument, Problem> {
    let right = "JSON such as {\"signal\": \"stop\", \"reason\": \"user\"}";
    let parsed: SignalDocument = parse_object(document, right)?;
    if parsed.reason.as_ref().is_some_and(|reason| reason.len() > MAX_REASON_BYTES) {
        let right = format!("expected up to {MAX_REASON_BYTES} bytes");
        return Err(Problem::parameter("reason", "too long", &right));
    }
    Ok(parsed)
}

/// A text that is not an event id cannot belong to this generation.
fn position(text: &str) -> Result<Position, Problem> {
    text.parse().map_err(|_| StopError::from(GenerationOver).into())
}

//! `POST /v1/channels/{name}` and `POST /v1/publish`: bodies in, receipts out, while they arrive.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::Pin;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};
use hyper::body::Incoming;
use serde::Serialize;

use super::intake::{Intake, Piece};
use super::{Native, channel_name, claim};
use crate::auth::{Operation, Principal};
use crate::channel::ChannelName;
use crate::event::ChannelState;
use crate::generation::{Format, UnknownFormat};
use crate::http::{
    Caller, ErrorCode, Problem, Query, Request, Response, deadline, json, let_finish,
};
use crate::hub::{Claim, Close};
use crate::ingest::{Begun, BodyKind, Closing, Fed, IdempotencyKey, Options, Sender, Tally};
use crate::limits::MAX_REASON_BYTES;
use crate::sse;

/// Makes a retry safe.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

pub(super) async fn one(
    native: Native,
    request: Request,
    name: String,
) -> Result<Response, Problem> {
    let (head, mut body) = request.into_parts();
    // Whatever the rules say of it now: it may have been durable in another life of the hub.
    let keeps = native.hub.has_store() && head.headers.contains_key(IDEMPOTENCY_KEY);
    let publish = {
        let native = native.clone();
        Box::pin(async move {
            let outcome = publish_to_one(&native, &head, &mut body, &name).await;
            let_finish(body);
            outcome
        })
    };
    count(&native, to_its_end(publish, keeps).await)
}

pub(super) async fn many(
    native: Native,
    request: Request,
    _rest: String,
) -> Result<Response, Problem> {
    let (head, mut body) = request.into_parts();
    let keeps = native.hub.has_store() && head.headers.contains_key(IDEMPOTENCY_KEY);
    let publish = {
        let native = native.clone();
        Box::pin(async move {
            let outcome = publish_to_many(&native, &head, &mut body).await;
            let_finish(body);
            outcome
        })
    };
    count(&native, to_its_end(publish, keeps).await)
}

/// A publish under way. It is large: in a box, it is not moved from one future to the next.
type UnderWay = Pin<Box<dyn Future<Output = Result<Response, Problem>> + Send>>;

/// Goes on when the client leaves, if what it has sent may be on its way to the disk and has a key,
/// which must learn what became of it.
async fn to_its_end(publish: UnderWay, keeps: bool) -> Result<Response, Problem> {
    if !keeps {
        return publish.await;
    }
    let ended = tokio::spawn(publish).await;
    ended.unwrap_or_else(|_| Err(Problem::new(ErrorCode::Internal, "the publish broke off")))
}

fn count(native: &Native, outcome: Result<Response, Problem>) -> Result<Response, Problem> {
    let label = outcome.as_ref().map_or_else(|problem| problem.code().as_str(), |_| "ok");
    let metrics = native.ingest.metrics();
    metrics.publish_ended(label);
    if label == ErrorCode::Forbidden.as_str() {
        metrics.refused(label);
    }
    if label == ErrorCode::EventTooLarge.as_str() {
        metrics.limit_hit("publish.max_event_bytes");
    }
    outcome
}

async fn publish_to_one(
    native: &Native,
    head: &Parts,
    body: &mut Incoming,
    name: &str,
) -> Result<Response, Problem> {
    let (name, kind, options) = wanted(native, head, name)?;
    let caller = Caller::of(&head.extensions)?;
    caller.payer().publish().map_err(|exceeded| caller.exceeded(&exceeded))?;
    claim(native, &caller, &name, Claim::ToPublish)?;
    let mut intake = if kind.is_streamed() {
        let pass = caller.pass(&[Operation::Publish], vec![(&name).into()]);
        Intake::stream(native, &caller, body, pass)
    } else {
        Intake::document(native, &caller, body, deadline(&head.extensions))
    };
    let mut publish = match native.ingest.publish(name, kind, options)? {
        Begun::Publish(publish) => publish,
        Begun::Replay(receipt) => return replay(&receipt),
    };
    intake.begin_behind(publish.kept());
    let before = publish.kept().events;
    loop {
        let piece = tokio::select! {
            piece = intake.next() => piece,
            error = publish.refused() => {
                return Err(Problem::from(error).keeping(publish.kept()));
            }
        };
        match piece {
            Piece::Data(piece) => {
                let fed = publish.feed(&piece).await;
                intake.pay(publish.kept().events, piece.len());
                match fed? {
                    Fed::More => {}
                    Fed::Ended => return json(&publish.into_receipt()),
                }
                if let Err(problem) = intake.hold(publish.held()) {
                    return Err(problem.keeping(&publish.break_off().await));
                }
            }
            Piece::End => {
                let receipt = publish.finish().await?;
                intake.pay(receipt.events, 0);
                // All of it was published before, and only the receipt was lost.
                let replayed = before > 0 && receipt.events == before;
                return if replayed { replay(&receipt) } else { json(&receipt) };
            }
            Piece::BrokeOff => return Err(broke_off(&publish.break_off().await)),
            Piece::Stopping => return Err(stopping(publish.kept())),
            Piece::Over(over) => {
                return Err(Problem::over(over).keeping(&publish.break_off().await));
            }
            Piece::Late(problem) => return Err(problem.keeping(&publish.break_off().await)),
        }
    }
}

/// What the head of a request asks for.
fn wanted(
    native: &Native,
    head: &Parts,
    name: &str,
) -> Result<(ChannelName, BodyKind, Options), Problem> {
    let name = channel_name(name)?;
    let options = options(&head.headers, &Query::parse(head.uri.query())?)?;
    let kind = body_kind(&head.headers, &options)?;
    refuse_when_draining(native)?;
    Ok((name, kind, options))
}

async fn publish_to_many(
    native: &Native,
    head: &Parts,
    body: &mut Incoming,
) -> Result<Response, Problem> {
    refuse_when_draining(native)?;
    let caller = Caller::of(&head.extensions)?;
    let key = idempotency_key(&head.headers)?;
    caller.payer().publish().map_err(|exceeded| caller.exceeded(&exceeded))?;
    let pass = caller.pass(&[Operation::Publish], Vec::new());
    let mut intake = Intake::stream(native, &caller, body, pass);
    let mut scatter = match native.ingest.scatter(sender(&caller), key)? {
        Begun::Publish(scatter) => scatter,
        Begun::Replay(receipt) => return replay(&receipt),
    };
    intake.begin_behind(scatter.kept());
    let before = scatter.kept().events;
    loop {
        match intake.next().await {
            Piece::Data(piece) => {
                let fed = scatter.feed(&piece).await;
                intake.pay(scatter.kept().events, piece.len());
                fed?;
                let held = intake.hold(scatter.held());
                held.map_err(|problem| problem.keeping(scatter.kept()))?;
            }
            Piece::End => {
                let receipt = scatter.finish().await?;
                intake.pay(receipt.events, 0);
                let replayed = before > 0 && receipt.events == before;
                return if replayed { replay(&receipt) } else { json(&receipt) };
            }
            Piece::BrokeOff => return Err(broke_off(scatter.kept())),
            Piece::Stopping => return Err(stopping(scatter.kept())),
            Piece::Over(over) => return Err(Problem::over(over).keeping(scatter.kept())),
            Piece::Late(problem) => return Err(problem.keeping(scatter.kept())),
        }
    }
}

/// Who publishes to many channels, as the way in knows them.
fn sender(caller: &Caller) -> Sender {
    let Principal { account: owner, name, grants, .. } = caller.principal().clone();
    // Two who may do different things are two, whatever those who made their tokens called them.
    let mut hasher = DefaultHasher::new();
    grants.hash(&mut hasher);
    let name = format!("{owner}/{name}/{:x}", hasher.finish()).into();
    let may = move |channel: &ChannelName| grants.covers(Operation::Publish, channel);
    let account = caller.payer().account().cloned();
    Sender { name, may: Box::new(may), account }
}

fn body_kind(headers: &HeaderMap, options: &Options) -> Result<BodyKind, Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|text| text.split(';').next()).unwrap_or_default();
    let kind = match essence.trim().to_ascii_lowercase().as_str() {
        sse::MEDIA_TYPE => BodyKind::EventStream,
        "application/x-ndjson" => BodyKind::Ndjson,
        _ if options.format == Some(Format::Text) => BodyKind::Text,
        _ => BodyKind::Single,
    };
    if options.close == Some(Closing::Auto) && !kind.is_streamed() {
        let right = format!(
            "expected with a body of {} or application/x-ndjson, or with `format=text`",
            sse::MEDIA_TYPE
        );
        return Err(Problem::parameter("close", "auto", &right));
    }
    Ok(kind)
}

fn options(headers: &HeaderMap, query: &Query) -> Result<Options, Problem> {
    let event_type = query.get("event").map(str::parse).transpose()?;
    let close = query.get("close").map(|state| close(state, query)).transpose()?;
    if close.is_none()
        && let Some(reason) = query.get("reason")
    {
        return Err(Problem::parameter("reason", reason, "expected together with `close`"));
    }
    let format = query.get("format").map(format).transpose()?;
    Ok(Options { event_type, close, format, idempotency_key: idempotency_key(headers)? })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = String::from_utf8_lossy(value.as_bytes()).parse::<IdempotencyKey>();
    key.map(Some).map_err(|error| Problem::new(ErrorCode::InvalidParameter, error.to_string()))
}

fn format(text: &str) -> Result<Format, Problem> {
    text.parse().map_err(|error: UnknownFormat| {
        Problem::new(ErrorCode::InvalidParameter, error.to_string()).with("parameter", "format")
    })
}

fn close(text: &str, query: &Query) -> Result<Closing, Problem> {
    let reason = query.get("reason");
    let state = match text {
        "auto" if reason.is_some() => {
            let right = "expected another with `reason`: here the events say why";
            return Err(Problem::parameter("close", text, right));
        }
        "auto" => return Ok(Closing::Auto),
        "complete" => ChannelState::Complete,
        "error" => ChannelState::Error,
        "cancelled" => ChannelState::Cancelled,
        _ => {
            let right = "expected `complete`, `error`, `cancelled` or `auto`";
            return Err(Problem::parameter("close", text, right));
        }
    };
    if let Some(reason) = reason.filter(|reason| reason.len() > MAX_REASON_BYTES) {
        let right = format!("expected at most {MAX_REASON_BYTES} bytes");
        return Err(Problem::parameter("reason", reason, &right));
    }
    Ok(Closing::Behind(Close { state, reason: reason.map(Into::into) }))
}

fn refuse_when_draining(native: &Native) -> Result<(), Problem> {
    if native.shutdown.is_draining() { Err(stopping(&Tally::default())) } else { Ok(()) }
}

fn stopping(kept: &Tally) -> Problem {
    let detail =
        "the hub is going down: publish the rest to another, or to this one when it is back";
    Problem::new(ErrorCode::Draining, detail).keeping(kept)
}

fn broke_off(kept: &Tally) -> Problem {
    Problem::new(ErrorCode::InvalidEvent, "the request body broke off").keeping(kept)
}

fn replay<R: Serialize>(known: &R) -> Result<Response, Problem> {
    let mut response = json(known)?;
    response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    Ok(response)
}

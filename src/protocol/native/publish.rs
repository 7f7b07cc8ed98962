//! `POST /v1/channels/{name}` and `POST /v1/publish`: publish a body while it arrives.

use std::future::ready;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::pin::Pin;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde::Serialize;

use super::body_reader::{BodyRead, BodyReader, ReadPolicy};
use super::{NDJSON, Native, claim};
use crate::auth::{Operation, Principal};
use crate::channel::ChannelName;
use crate::event::ChannelState;
use crate::generation::{Format, UnknownFormat};
use crate::http::{
    Caller, ChannelCaller, ErrorCode, Problem, Query, Request, Response, deadline, json,
};
use crate::hub::{ClaimPurpose, Close};
use crate::ingest::{
    Begun, BodyKind, Closing, Fed, Hint, IdempotencyKey, InvalidIdempotencyKey, MultiPublish,
    Publish, PublishOptions, Receipt, Sender, Tally,
};
use crate::limits::{MAX_IDEMPOTENCY_KEY_BYTES, MAX_REASON_BYTES};
use crate::sse;

/// Query parameters of a publish.
const PARAMETERS: &[&str] = &["event", "close", "reason", "format"];

/// The header that makes a retry safe.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A receipt as the API writes it.
#[derive(Serialize)]
struct ReceiptDocument<'a> {
    channel: &'a str,
    events: u64,
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
    subscribers: usize,
    state: ChannelState,
    #[serde(skip_serializing_if = "Option::is_none")]
    discarded_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

impl<'a> ReceiptDocument<'a> {
    fn new(receipt: &'a Receipt) -> Self {
        let Receipt { events, subscribers, state, discarded_bytes, .. } = *receipt;
        Self {
            channel: &receipt.channel,
            events,
            first_id: receipt.first_id.as_deref(),
            last_id: receipt.last_id.as_deref(),
            subscribers,
            state,
            discarded_bytes,
            hint: receipt.hint.map(|hint| match hint {
                Hint::MarkClosesNothing => {
                    "the last event is an end mark: `close=auto` would close here"
                }
                Hint::NoEvent => "the body had no event: the channel waits for another",
                Hint::NoFormat => {
                    "no event told the format: name it with `format`, or close the channel"
                }
                Hint::NoMark => "the body ended without an end mark: the channel waits for another",
            }),
        }
    }
}

pub(super) fn one(native: Arc<Native>, request: Request, to: ChannelCaller) -> PublishFuture {
    let (head, body) = request.into_parts();
    let must_finish = must_finish(&native, &head);
    match prepare_one(&native, &head, to) {
        Err(problem) => at_once(&native, Err(problem)),
        Ok((publish, policy)) => {
            let mut reader = BodyReader::new(native, body, policy);
            // Written so that the future is small: it has no room for a value that is used up.
            let publish = async move {
                let publish = match begin_one(reader.native(), publish).await {
                    Ok(publish) => publish,
                    Err(outcome) => return count(reader.native(), outcome),
                };
                let outcome = publish_body(publish, &mut reader).await;
                count(reader.native(), outcome)
            };
            run_to_end(publish, must_finish)
        }
    }
}

pub(super) fn many(native: Arc<Native>, request: Request, caller: Caller) -> PublishFuture {
    let (head, body) = request.into_parts();
    let must_finish = must_finish(&native, &head);
    let (publish, policy) = match begin_many(&native, &head, caller) {
        Ok(Begun::Publish(begun)) => begun,
        Ok(Begun::Replay(reply)) => return at_once(&native, reply),
        Err(problem) => return at_once(&native, Err(problem)),
    };
    let mut reader = BodyReader::new(native, body, policy);
    let publish = async move {
        let outcome = publish_to_many(publish, &mut reader).await;
        let outcome = outcome.map_err(|problem| reader.caller().refused(problem));
        count(reader.native(), outcome)
    };
    run_to_end(publish, must_finish)
}

/// The future of a publish. It is large: boxed, it is not moved from one future to the next.
type PublishFuture = Pin<Box<dyn Future<Output = PublishOutcome> + Send>>;

type PublishOutcome = Result<Response, Problem>;

/// Responds without reading the body.
fn at_once(native: &Native, outcome: PublishOutcome) -> PublishFuture {
    Box::pin(ready(count(native, outcome)))
}

/// Returns whether the publish has a key and may write to disk, so that its result must be recorded
/// under the key. Independent of today's rules: an earlier process may have stored it as durable.
fn must_finish(native: &Native, head: &Parts) -> bool {
    native.hub.has_store() && head.headers.contains_key(IDEMPOTENCY_KEY)
}

/// Runs a publish to its end even if the client disconnects, if `must_finish`.
fn run_to_end(
    publish: impl Future<Output = PublishOutcome> + Send + 'static,
    must_finish: bool,
) -> PublishFuture {
    if !must_finish {
        return Box::pin(publish);
    }
    let publish = tokio::spawn(publish);
    Box::pin(async move {
        let ended = publish.await;
        ended.unwrap_or_else(|_| Err(Problem::new(ErrorCode::Internal, "the publish broke off")))
    })
}

fn count(native: &Native, outcome: PublishOutcome) -> PublishOutcome {
    let problem = outcome.as_ref().err().map(Problem::code);
    let metrics = native.ingest.metrics();
    metrics.publish_ended(problem.map(ErrorCode::as_str));
    if problem == Some(ErrorCode::EventTooLarge) {
        metrics.limit_hit("publish.max_event_bytes");
    }
    outcome
}

/// A publish to one channel, as the head of its request describes it.
struct PublishRequest {
    channel: ChannelName,
    kind: BodyKind,
    options: PublishOptions,
}

fn prepare_one(
    native: &Native,
    head: &Parts,
    to: ChannelCaller,
) -> Result<(PublishRequest, ReadPolicy), Problem> {
    let ChannelCaller { caller, name: channel } = to;
    let options = options(&head.headers, &Query::parse(head.uri.query(), PARAMETERS)?)?;
    let kind = body_kind(&head.headers, &options)?;
    refuse_when_draining(native)?;
    caller.payer().publish().map_err(|exceeded| caller.exceeded(&exceeded))?;
    claim(native, &caller, &channel, ClaimPurpose::ToPublish)?;
    let options = PublishOptions { account: caller.payer().account().cloned(), ..options };
    let policy = if kind.is_streamed() {
        let lease = caller.lease(&[Operation::Publish], vec![(&channel).into()]);
        ReadPolicy::stream(caller, lease)
    } else {
        ReadPolicy::document(caller, deadline(&head.extensions))
    };
    Ok((PublishRequest { channel, kind, options }, policy))
}

/// Begins a publish to one channel, or returns the outcome if that is known already.
async fn begin_one(
    native: &Native,
    publish: PublishRequest,
) -> Result<Box<Publish>, PublishOutcome> {
    let PublishRequest { channel, kind, options } = publish;
    match native.ingest.publish(channel, kind, options).await {
        Ok(Begun::Publish(publish)) => Ok(publish),
        Ok(Begun::Replay(receipt)) => Err(replay(&ReceiptDocument::new(&receipt))),
        Err(error) => Err(Err(error.into())),
    }
}

async fn publish_body(mut publish: Box<Publish>, reader: &mut BodyReader) -> PublishOutcome {
    reader.begin_after(publish.kept());
    let before = publish.kept().events;
    let problem = loop {
        let piece = {
            let read = tokio::select! {
                read = reader.next() => read,
                error = publish.refused() => {
                    return Err(Problem::from(error).with_kept(publish.kept()));
                }
            };
            match read {
                BodyRead::Data(piece) => piece,
                BodyRead::End => break None,
                BodyRead::BrokenOff(problem) => break Some(problem),
                BodyRead::Stopping => return Err(stopping(publish.kept())),
            }
        };
        let fed = publish.feed(&piece).await;
        reader.pay(publish.kept().events, piece.len());
        if fed? == Fed::Ended {
            return json(&ReceiptDocument::new(&publish.into_receipt()));
        }
        if let Err(problem) = reader.hold(publish.held()) {
            break Some(problem);
        }
    };
    if let Some(problem) = problem {
        let kept = publish.break_off(problem.detail()).await;
        return Err(problem.with_kept(&kept));
    }
    let receipt = publish.finish().await?;
    reader.pay(receipt.events, 0);
    // All of it was published before, and only the receipt was lost.
    let replayed = before > 0 && receipt.events == before;
    let document = ReceiptDocument::new(&receipt);
    if replayed { replay(&document) } else { json(&document) }
}

fn begin_many(
    native: &Native,
    head: &Parts,
    caller: Caller,
) -> Result<Begun<(MultiPublish, ReadPolicy), PublishOutcome>, Problem> {
    refuse_when_draining(native)?;
    let key = idempotency_key(&head.headers)?;
    caller.payer().publish().map_err(|exceeded| caller.exceeded(&exceeded))?;
    let lease = caller.lease(&[Operation::Publish], Vec::new());
    let sender = sender(&caller);
    let begun = native.ingest.publish_many(sender, key)?.with(ReadPolicy::stream(caller, lease));
    Ok(begun.replied(|receipt| replay(&receipt)))
}

async fn publish_to_many(mut publish: MultiPublish, reader: &mut BodyReader) -> PublishOutcome {
    reader.begin_after(publish.kept());
    let before = publish.kept().events;
    loop {
        match reader.next().await {
            BodyRead::Data(piece) => {
                let fed = publish.feed(&piece).await;
                reader.pay(publish.kept().events, piece.len());
                fed?;
                let held = reader.hold(publish.held());
                held.map_err(|problem| problem.with_kept(publish.kept()))?;
            }
            BodyRead::End => {
                let receipt = publish.finish().await?;
                reader.pay(receipt.events, 0);
                let replayed = before > 0 && receipt.events == before;
                return if replayed { replay(&receipt) } else { json(&receipt) };
            }
            BodyRead::BrokenOff(problem) => return Err(problem.with_kept(publish.kept())),
            BodyRead::Stopping => return Err(stopping(publish.kept())),
        }
    }
}

/// Returns the identity of a publisher to many channels, as the ingest module needs it.
fn sender(caller: &Caller) -> Sender {
    let Principal { account: owner, name, grants, .. } = caller.principal().clone();
    // Different grants are different senders, whichever names the minters of their tokens chose.
    let mut hasher = DefaultHasher::new();
    grants.hash(&mut hasher);
    let name = format!("{owner}/{name}/{:x}", hasher.finish()).into();
    let may = move |channel: &ChannelName| grants.covers(Operation::Publish, channel);
    let account = caller.payer().account().cloned();
    Sender { name, may: Box::new(may), account }
}

fn body_kind(headers: &HeaderMap, options: &PublishOptions) -> Result<BodyKind, Problem> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
    let is = |name: &str| essence.eq_ignore_ascii_case(name);
    let kind = if is(sse::MEDIA_TYPE) {
        BodyKind::EventStream
    } else if NDJSON.into_iter().any(is) {
        BodyKind::Ndjson
    } else if options.format == Some(Format::Text) {
        BodyKind::Text
    } else {
        BodyKind::Single
    };
    if options.close == Some(Closing::Auto) && !kind.is_streamed() {
        let right = format!(
            "expected with a body of {} or {}, or with `format=text`",
            sse::MEDIA_TYPE,
            NDJSON[0]
        );
        return Err(Problem::parameter("close", "auto", &right));
    }
    Ok(kind)
}

fn options(headers: &HeaderMap, query: &Query) -> Result<PublishOptions, Problem> {
    let event_type = query.get("event").map(str::parse).transpose()?;
    let close = query.get("close").map(|state| close(state, query)).transpose()?;
    if close.is_none()
        && let Some(reason) = query.get("reason")
    {
        return Err(Problem::parameter("reason", reason, "expected together with `close`"));
    }
    let format = query.get("format").map(format).transpose()?;
    let idempotency_key = idempotency_key(headers)?;
    Ok(PublishOptions { event_type, close, format, idempotency_key, account: None })
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = String::from_utf8_lossy(value.as_bytes()).parse::<IdempotencyKey>();
    key.map(Some).map_err(|InvalidIdempotencyKey { bytes }| {
        let right = format!("1 to {MAX_IDEMPOTENCY_KEY_BYTES} are right");
        let detail = format!("the `Idempotency-Key` has {bytes} bytes: {right}");
        Problem::new(ErrorCode::InvalidParameter, detail)
    })
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
            let right = "expected another value with `reason`: with `auto`, the events say why";
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
    Ok(Closing::AtEnd(Close { state, reason: reason.map(Into::into) }))
}

fn refuse_when_draining(native: &Native) -> Result<(), Problem> {
    if native.shutdown.is_draining() { Err(stopping(&Tally::default())) } else { Ok(()) }
}

fn stopping(kept: &Tally) -> Problem {
    let detail =
        "the hub is going down: publish the rest to another, or to this one when it is back";
    Problem::new(ErrorCode::Draining, detail).with_kept(kept)
}

fn replay<R: Serialize>(known: &R) -> Result<Response, Problem> {
    let mut response = json(known)?;
    response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    Ok(response)
}

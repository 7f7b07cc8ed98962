//! One publish to one channel, from the first chunk of its body to its receipt.

use std::sync::Arc;

use bytes::Bytes;

use super::body::{BodyKind, Decoder, InvalidEvent};
use super::context::{ONE_CHANNEL, Running};
use super::end_detector::{EndDetector, ends_with, is_whole_end};
use super::error::{ErrorPlace, Failure, PublishError};
use super::idempotency::{Claimed, IdempotencyKey, KeyClaim, KeyOutcome};
use super::receipt::{Begun, Hint, Receipt, Tally};
use crate::channel::ChannelName;
use crate::event::{ChannelState, EventType, NewEvent};
use crate::generation::{Format, Recogniser};
use crate::hub::cluster::{ClusterKey, KeyedRequest, Lines};
use crate::hub::{self, Append, Appended, Close, Hold, Hub, Keyed, ProducerHandle};
use crate::quota::Account;

/// The options of a publish.
#[derive(Clone, Debug, Default)]
pub struct PublishOptions {
    /// The type of events that do not name their own.
    pub event_type: Option<EventType>,
    /// When to close the channel; not at all if `None`.
    pub close: Option<Closing>,
    /// The format of the events, if the publisher names it.
    pub format: Option<Format>,
    /// The key that makes a retry safe.
    pub idempotency_key: Option<IdempotencyKey>,
    /// The account that a new channel is counted for.
    pub account: Option<Arc<Account>>,
}

/// The moment at which a publish closes its channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closing {
    /// After the body.
    AtEnd(Close),
    /// After the end mark of the generation.
    Auto,
}

/// Whether a publish needs more of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fed {
    /// More is needed.
    More,
    /// The generation has ended: the rest of the body is not needed.
    Ended,
}

/// The reason for a producer whose stream had no end mark.
const NO_MARK: &str = "the producer left without an end mark";

/// The reason for a producer whose stream broke off within an event.
const WITHIN: &str = "the producer's stream ended within an event";

/// Capacity, in events, that is kept between chunks of a body.
const USUAL_EVENTS: usize = 64;

/// Maximum bytes of a last event that is kept: most end marks are shorter.
const KEPT_EVENT: usize = 1024;

/// The last event of a body, to check it for an end mark.
enum LastEvent {
    /// A copy of the event, checked at the end of the body, when the format is best known.
    Kept(NewEvent),
    /// The event was too large to keep, and was checked when it came.
    Seen {
        /// Whether it is an end mark.
        is_end: bool,
    },
}

impl LastEvent {
    fn new(event: &NewEvent, producer: &ProducerHandle) -> Self {
        if event.data.as_bytes().len() > KEPT_EVENT {
            return Self::Seen { is_end: ends_with(&producer.recogniser(), event) };
        }
        Self::Kept(event.detached())
    }

    fn is_end(&self, producer: &ProducerHandle) -> bool {
        match self {
            Self::Kept(event) => ends_with(&producer.recogniser(), event),
            Self::Seen { is_end } => *is_end,
        }
    }
}

/// A publish whose body is being read.
pub struct Publish {
    ingest: Running,
    channel: ChannelName,
    account: Option<Arc<Account>>,
    decoder: Decoder,
    close: Option<Close>,
    /// Looks for the end mark, if that is to close the channel.
    end_detector: Option<EndDetector>,
    /// Signals a stop to a publish that streams.
    producer: Option<ProducerHandle>,
    claim: Option<KeyClaim<ChannelName, Receipt>>,
    /// The idempotency key in a cluster.
    shared_key: Option<KeyedRequest>,
    /// Number of events at the start of the body that an earlier request has published.
    skip: u64,
    /// Number of events decoded so far, skipped ones included.
    decoded: u64,
    tally: Tally,
    events: Vec<NewEvent>,
    /// The last event of a body whose end mark closes nothing.
    last_event: Option<LastEvent>,
    /// Bytes at the end of the body that are no complete event.
    discarded: u64,
    last: Option<Appended>,
}

impl Publish {
    pub(super) async fn begin(
        ingest: Running,
        channel: ChannelName,
        kind: BodyKind,
        options: PublishOptions,
    ) -> Result<Begun<Box<Self>, Receipt>, PublishError> {
        let PublishOptions { event_type, close, format, idempotency_key, account } = options;
        let shared = idempotency_key.as_ref().and_then(|key| {
            let scope = format_args!("{ONE_CHANNEL}{channel}");
            ingest.hub().begin_keyed(scope, key.as_str(), ingest.config.idempotency_window)
        });
        let (claim, tally) = match idempotency_key {
            None => (None, Tally::default()),
            Some(key) => match ingest.receipts.claim(channel.clone(), key) {
                Claimed::Run(claim, before) => (Some(claim), before),
                Claimed::Replay(receipt) => return Ok(Begun::Replay(receipt)),
                Claimed::Running => return Err(PublishError::StillRunning),
            },
        };
        let (shared_key, tally) = match shared {
            None => (None, tally),
            // Another hub may know more of the key than the ledger of this one.
            Some(ClusterKey::Run(key, before)) => {
                (Some(key), before.map_or(tally, |keyed| tally_of(ingest.hub(), keyed)))
            }
            Some(ClusterKey::Replay(_, keyed, state)) => {
                return Ok(Begun::Replay(replay(ingest.hub(), &channel, keyed, state)));
            }
            Some(ClusterKey::Running) => return Err(PublishError::StillRunning),
        };
        let max_bytes = ingest.max_event_bytes();
        let (hold, close) = match close {
            Some(Closing::Auto) => (Hold::Sole, None),
            Some(Closing::AtEnd(close)) => (Hold::Shared, Some(close)),
            None => (Hold::Shared, None),
        };
        let mut publish = Box::new(Self {
            decoder: Decoder::new(kind, event_type, max_bytes, close.is_some()),
            ingest,
            channel,
            account,
            close,
            end_detector: None,
            producer: None,
            claim,
            shared_key,
            skip: tally.events,
            decoded: 0,
            tally,
            events: Vec::new(),
            last_event: None,
            discarded: 0,
            last: None,
        });
        if kind.is_streamed() || format.is_some() {
            let account = publish.account.as_ref();
            let produced = publish.ingest.hub().produce(&publish.channel, account, hold, format);
            match produced.await {
                Ok(producer) => publish.producer = Some(producer),
                Err(error) => {
                    let done = publish.shared_key.as_ref().and_then(KeyedRequest::replayed);
                    let (keyed, state) = done.ok_or(error)?;
                    let (hub, channel) = (publish.ingest.hub(), &publish.channel);
                    return Ok(Begun::Replay(replay(hub, channel, keyed, state)));
                }
            }
        }
        if hold == Hold::Sole {
            // A continued generation begins in the middle, where events may not tell the format.
            let known = || publish.producer.as_ref().map(ProducerHandle::recogniser);
            let recogniser = format.map(Recogniser::named).or_else(known).unwrap_or_default();
            publish.end_detector = Some(EndDetector::new(recogniser));
        }
        Ok(Begun::Publish(publish))
    }

    /// Publishes the events that a chunk of the body completes.
    ///
    /// # Errors
    /// An event is invalid, or the channel refuses; the events before it are published.
    pub async fn feed(&mut self, piece: &Bytes) -> Result<Fed, Failure> {
        let decoded = self.decoder.feed(piece, &mut self.events);
        let close = self.look_for_end();
        let fed = if close.is_some() { Fed::Ended } else { Fed::More };
        // Anything after the end mark is ignored, valid or not.
        let decoded = if fed == Fed::Ended { Ok(()) } else { decoded };
        let appended = self.append(decoded, close.as_ref(), fed == Fed::Ended).await;
        if let Err(failure) = &appended {
            self.give_up(failure).await;
        }
        appended.map(|()| fed)
    }

    /// Publishes the rest of the body, and closes the channel if the options say so.
    ///
    /// # Errors
    /// As for [`feed`](Self::feed), or the body is not empty and has no event.
    pub async fn finish(mut self: Box<Self>) -> Result<Receipt, Failure> {
        let (decoded, close) = self.decode_rest();
        let appended = self.append(decoded, close.as_ref(), true).await;
        if let Err(failure) = &appended {
            self.give_up(failure).await;
        }
        appended?;
        self.leave(if self.discarded == 0 { NO_MARK } else { WITHIN });
        Ok(self.into_receipt())
    }

    /// Decodes the rest of the body. Returns how that went, and how the channel is to be closed.
    fn decode_rest(&mut self) -> (Result<(), InvalidEvent>, Option<Close>) {
        let recogniser = match (&self.end_detector, &self.producer) {
            (Some(end_detector), _) => Some(end_detector.recogniser().clone()),
            (None, Some(producer)) if self.decoder.is_event_stream() => Some(producer.recogniser()),
            _ => None,
        };
        let recogniser = recogniser.unwrap_or_default();
        let is_end = |event: &NewEvent| is_whole_end(&recogniser, event);
        let finished = self.decoder.finish(&mut self.events, is_end);
        self.discarded = *finished.as_ref().unwrap_or(&0);
        let mut close = self.look_for_end();
        if let Some(end_detector) = &mut self.end_detector {
            let is_whole = self.discarded == 0;
            let at_end = || if is_whole { end_detector.at_end() } else { end_detector.at_break() };
            close = close.or_else(at_end);
        }
        let close = close.or_else(|| self.close.take());
        (finished.map(drop), close)
    }

    /// Notes why the producer of a publish that has failed leaves. If the body was no stream of
    /// events, the generation ends as an error, because no more will come.
    async fn give_up(&mut self, failure: &Failure) {
        if let PublishError::Invalid(InvalidEvent::Foreign(foreign)) = &failure.error
            && self.end_detector.is_some()
        {
            let close = Close { state: ChannelState::Error, reason: Some(foreign.reason()) };
            // If this is refused, the channel ends after the producer's grace.
            let _ = self.hand_in(Some(&close), false).await;
        }
        self.leave(&format!("a publish was refused: {failure}"));
    }

    /// Notes why the producer leaves: viewers see this if it does not come back.
    fn leave(&mut self, why: &str) {
        if let Some(producer) = &mut self.producer {
            producer.leave(why);
        }
    }

    /// Returns the receipt of a generation that has ended by its mark, without the rest of the
    /// body.
    #[must_use]
    pub fn into_receipt(mut self) -> Receipt {
        let receipt = self.take_receipt();
        // A generation without an end may be continued with the same key.
        let whole = self.is_whole(receipt.state);
        if let Some(claim) = self.claim.take().filter(|_| whole) {
            claim.complete(&receipt);
        }
        receipt
    }

    /// Ends a publish whose body broke off, or was cut off for this reason. If the generation had
    /// ended before that, the channel is closed.
    #[must_use]
    pub async fn break_off(mut self: Box<Self>, why: &str) -> Tally {
        let kept = self.tally.clone();
        self.leave(&format!("the producer was cut off: {why}"));
        if let Some(close) = self.end_detector.as_mut().and_then(EndDetector::at_break)
            && let Ok(appended) = self.hand_in(Some(&close), true).await
        {
            self.last = Some(appended);
            // A retry with the key gets the receipt.
            let _ = self.into_receipt();
        }
        kept
    }

    /// Resolves when another client has ended the channel, with the error that an append would
    /// return.
    pub async fn refused(&mut self) -> PublishError {
        match &mut self.producer {
            Some(producer) => producer.refused().await.into(),
            None => std::future::pending().await,
        }
    }

    /// Returns what was published so far.
    #[must_use]
    pub fn kept(&self) -> &Tally {
        &self.tally
    }

    /// Returns the bytes of memory held for an incomplete event.
    #[must_use]
    pub fn held(&self) -> usize {
        self.decoder.held()
    }

    /// Appends the decoded events, then reports the decoding error, if there was one.
    async fn append(
        &mut self,
        decoded: Result<(), InvalidEvent>,
        close: Option<&Close>,
        last: bool,
    ) -> Result<(), Failure> {
        if self.end_detector.is_none()
            && let (Some(producer), Some(event)) = (&self.producer, self.events.last())
        {
            self.last_event = Some(LastEvent::new(event, producer));
        }
        self.skip_published();
        let close = close.filter(|_| decoded.is_ok());
        let completes_key = last && decoded.is_ok() && self.completes_key(close);
        if !self.events.is_empty() || close.is_some() || completes_key {
            let appended = self.hand_in(close, last && decoded.is_ok()).await;
            let appended = appended.map_err(|error| self.failure(error.into(), false))?;
            self.count(appended);
        }
        decoded.map_err(|error| self.failure(error.into(), true))
    }

    /// Drops the events after the end mark, and returns how the generation has ended, if it has.
    fn look_for_end(&mut self) -> Option<Close> {
        let (count, close) = self.end_detector.as_mut()?.look(&self.events)?;
        self.events.truncate(count);
        Some(close)
    }

    /// Appends to the producer's channel, or to the one of this name, and waits for the commit.
    /// `last` says that the body ends with these events.
    async fn hand_in(
        &self,
        close: Option<&Close>,
        last: bool,
    ) -> Result<Appended, hub::SubmitError> {
        let keep = self.claim.as_ref().map(|claim| {
            move |appended: &Appended| {
                claim.to_keep(&self.outcome_after(appended, last), self.ingest.hub().clock().now())
            }
        });
        let receipt = keep.as_ref().map(|keep| keep as hub::ReceiptFn<'_>);
        // Since the head of the request, the channel may have been evicted: the account claims it
        // again.
        let account = self.account.as_ref();
        let completes = last && self.completes_key(close);
        let key = self.shared_key.as_ref().map(|key| {
            let first = self.decoded - self.events.len() as u64;
            key.piece(Lines::From(first), completes)
        });
        let append = Append { events: &self.events, close, receipt, account, key: key.as_ref() };
        let appended = match &self.producer {
            Some(producer) => producer.append(append).await,
            None => self.ingest.hub().append(&self.channel, append).await,
        };
        if let Some(key) = self.shared_key.as_ref().filter(|_| completes && appended.is_ok()) {
            key.complete();
        }
        appended
    }

    /// Returns whether the publish has succeeded with the last piece of its body, for a key in a
    /// cluster.
    fn completes_key(&self, close: Option<&Close>) -> bool {
        let is_open = self.shared_key.as_ref().is_some_and(|key| !key.is_complete());
        is_open && (self.end_detector.is_none() || close.is_some())
    }

    /// Returns the outcome to store with the key for a retry, if this append succeeds.
    fn outcome_after(&self, appended: &Appended, last: bool) -> KeyOutcome<Receipt> {
        let tally = self.tally_after(appended);
        if last && self.is_whole(appended.state) {
            let Appended { subscribers, state, .. } = *appended;
            KeyOutcome::Done(self.receipt_of(tally, subscribers, state))
        } else {
            KeyOutcome::Partial(tally)
        }
    }

    /// Returns whether the publish is complete: a generation is when it has ended, any other body
    /// is at its end.
    fn is_whole(&self, state: ChannelState) -> bool {
        self.end_detector.is_none() || state != ChannelState::Open
    }

    fn tally_after(&self, appended: &Appended) -> Tally {
        if let Some(keyed) = appended.keyed {
            return tally_of(self.ingest.hub(), keyed);
        }
        let mut tally = self.tally.clone();
        if let Some((first, last)) = appended.offsets {
            let id = |offset| self.ingest.hub().event_id(offset);
            tally.first_id.get_or_insert_with(|| id(first));
            tally.last_id = Some(id(last));
            tally.events += self.events.len() as u64;
        }
        tally
    }

    fn skip_published(&mut self) {
        self.decoded += self.events.len() as u64;
        let skipped = self.skip.min(self.events.len() as u64);
        self.events.drain(..skipped as usize);
        self.skip -= skipped;
    }

    fn count(&mut self, appended: Appended) {
        self.tally = self.tally_after(&appended);
        self.events.clear();
        // One chunk may have had thousands of events.
        self.events.shrink_to(USUAL_EVENTS);
        self.last = Some(appended);
        if let Some(claim) = &mut self.claim {
            claim.note(&self.tally);
        }
    }

    fn take_receipt(&mut self) -> Receipt {
        let (subscribers, state) = match &self.last {
            Some(appended) => (appended.subscribers, appended.state),
            None => match self.ingest.hub().describe(&self.channel) {
                Some(channel) => (channel.subscribers, channel.state),
                None => (0, ChannelState::Open),
            },
        };
        let tally = std::mem::take(&mut self.tally);
        self.receipt_of(tally, subscribers, state)
    }

    fn receipt_of(&self, tally: Tally, subscribers: usize, state: ChannelState) -> Receipt {
        let Tally { events, first_id, last_id, .. } = tally;
        let channel = self.channel.to_string();
        let discarded_bytes = Some(self.discarded).filter(|bytes| *bytes > 0);
        let hint = self.hint(events, state);
        Receipt { channel, events, first_id, last_id, subscribers, state, discarded_bytes, hint }
    }

    /// Returns a hint for a publisher that may not expect its channel to stay open.
    fn hint(&self, events: u64, state: ChannelState) -> Option<Hint> {
        if state != ChannelState::Open {
            return None;
        }
        let Some(end_detector) = &self.end_detector else {
            let last = self.last_event.as_ref()?;
            let producer = self.producer.as_ref()?;
            return last.is_end(producer).then_some(Hint::MarkClosesNothing);
        };
        Some(match end_detector.format() {
            _ if events == 0 => Hint::NoEvent,
            None => Hint::NoFormat,
            Some(_) => Hint::NoMark,
        })
    }

    fn failure(&self, error: PublishError, in_body: bool) -> Failure {
        let place = match (&error, self.decoder.line()) {
            (PublishError::Invalid(InvalidEvent::NoEvent(_)), _) => None,
            (_, Some(line)) => Some(ErrorPlace::Line(line)),
            (PublishError::Invalid(InvalidEvent::Foreign(_)), None) => None,
            (_, None) if self.decoder.is_event_stream() => {
                Some(ErrorPlace::Event(self.decoded + 1))
            }
            (_, None) => None,
        };
        Failure { error, kept: self.tally.clone(), place: place.filter(|_| in_body) }
    }
}

/// Returns what was published with an idempotency key in a cluster.
fn tally_of(hub: &Hub, keyed: Keyed) -> Tally {
    let id = |offset| hub.event_id(offset);
    let (first_id, last_id) = keyed.offsets.map(|(first, last)| (id(first), id(last))).unzip();
    Tally { events: keyed.events, first_id, last_id, ..Tally::default() }
}

/// Returns the receipt of a publish that has succeeded, perhaps at another hub of the cluster.
fn replay(hub: &Hub, channel: &ChannelName, keyed: Keyed, state: Option<ChannelState>) -> Receipt {
    let Tally { events, first_id, last_id, .. } = tally_of(hub, keyed);
    Receipt {
        channel: channel.to_string(),
        events,
        first_id,
        last_id,
        subscribers: hub.describe(channel).map_or(0, |channel| channel.subscribers),
        state: state.unwrap_or(ChannelState::Open),
        discarded_bytes: None,
        hint: None,
    }
}

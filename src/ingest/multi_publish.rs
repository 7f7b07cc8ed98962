//! One publish to many channels: NDJSON whose lines name their channel.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::body::{InvalidEvent, LineSplitter};
use super::context::{IngestContext, MANY_CHANNELS, Running};
use super::error::{ErrorPlace, Failure, InvalidLine, PublishError};
use super::idempotency::{Claimed, IdempotencyKey, KeyClaim, KeyOutcome};
use super::receipt::{Begun, MultiReceipt, Tally};
use crate::channel::ChannelName;
use crate::event::NewEvent;
use crate::hub::cluster::{ClusterKey, KeyedRequest, Lines};
use crate::hub::{self, Append, Appended, CommitAck, SubmitError};
use crate::position::Offset;
use crate::quota::Account;

/// A line of the body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    channel: String,
    event: Option<String>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Returns whether a channel may be published to.
pub type CanPublish = Box<dyn Fn(&ChannelName) -> bool + Send>;

/// The publisher of a body for many channels.
pub struct Sender {
    /// The name of the publisher: idempotency keys belong to it.
    pub name: Arc<str>,
    /// The grants of the publisher.
    pub may: CanPublish,
    /// The account that new channels are counted for.
    pub account: Option<Arc<Account>>,
}

/// A publish to many channels whose body is being read.
pub struct MultiPublish {
    ingest: Running,
    lines: LineSplitter,
    progress: MultiProgress,
    claim: Option<KeyClaim<Arc<str>, MultiReceipt>>,
    /// The idempotency key in a cluster.
    shared_key: Option<KeyedRequest>,
    sender: Sender,
}

/// The idempotency key of a publish, in the ledger of this hub and in a cluster.
#[derive(Clone, Copy)]
struct Keys<'a> {
    claim: Option<&'a KeyClaim<Arc<str>, MultiReceipt>>,
    shared: Option<&'a KeyedRequest>,
}

/// The progress of a publish.
struct MultiProgress {
    /// Number of lines read, including those that an earlier request has published.
    lines: u64,
    /// The lines that are committed.
    tally: Tally,
    /// The lines that are committed if all submitted writes succeed, for stored receipts.
    ahead: Tally,
    /// The writes to wait for, in order.
    storing: Vec<SubmittedLine>,
    subscribers: HashMap<ChannelName, usize>,
    /// Bytes of the names in `subscribers`.
    name_bytes: usize,
}

/// A line that is submitted and not committed yet.
struct SubmittedLine {
    number: u64,
    channel: ChannelName,
    ack: CommitAck<Appended, SubmitError>,
}

impl MultiPublish {
    pub(super) fn begin(
        ingest: Running,
        sender: Sender,
        key: Option<IdempotencyKey>,
    ) -> Result<Begun<Self, MultiReceipt>, PublishError> {
        let name = || sender.name.clone();
        let shared = key.as_ref().and_then(|key| {
            let scope = format_args!("{MANY_CHANNELS}{}", sender.name);
            ingest.hub().begin_keyed(scope, key.as_str(), ingest.config.idempotency_window)
        });
        let (claim, tally) = match key.map(|key| ingest.multi_receipts.claim(name(), key)) {
            None => (None, Tally::default()),
            Some(Claimed::Run(claim, before)) => (Some(claim), before),
            Some(Claimed::Replay(receipt)) => return Ok(Begun::Replay(receipt)),
            Some(Claimed::Running) => return Err(PublishError::StillRunning),
        };
        // A publish that has succeeded at another hub is read again for its channels: each of its
        // lines is found to be published.
        let shared_key = match shared {
            Some(ClusterKey::Run(key, _) | ClusterKey::Replay(key, ..)) => Some(key),
            Some(ClusterKey::Running) => return Err(PublishError::StillRunning),
            None => None,
        };
        // JSON may need six bytes for one byte of the data, and names its fields.
        let max_line = ingest.max_event_bytes().saturating_mul(6).saturating_add(4096);
        let progress = MultiProgress {
            lines: 0,
            ahead: tally.clone(),
            tally,
            storing: Vec::new(),
            subscribers: HashMap::new(),
            name_bytes: 0,
        };
        let lines = LineSplitter::new(max_line);
        Ok(Begun::Publish(Self { ingest, lines, progress, claim, shared_key, sender }))
    }

    /// Publishes the lines that a chunk of the body completes.
    ///
    /// # Errors
    /// A line is invalid or its channel refuses; the lines before it are published.
    pub async fn feed(&mut self, piece: &Bytes) -> Result<(), Failure> {
        let Self { ingest, lines, progress, claim, shared_key, sender } = self;
        let keys = Keys { claim: claim.as_ref(), shared: shared_key.as_ref() };
        let fed = lines.feed(piece, |line| progress.publish(ingest, sender, keys, &line));
        let committed = progress.settle(ingest).await;
        self.note(committed, fed)
    }

    /// Publishes the last line, if it had no line end.
    ///
    /// # Errors
    /// As for [`feed`](Self::feed).
    pub async fn finish(mut self) -> Result<MultiReceipt, Failure> {
        let Self { ingest, lines, progress, claim, shared_key, sender } = &mut self;
        let keys = Keys { claim: claim.as_ref(), shared: shared_key.as_ref() };
        let finished = lines.finish(|line| progress.publish(ingest, sender, keys, &line));
        let committed = progress.settle(ingest).await;
        self.note(committed, finished)?;
        let Self { ingest, progress, shared_key, .. } = &self;
        progress.complete(ingest, shared_key.as_ref()).await?;
        let MultiProgress { tally, subscribers, .. } = self.progress;
        let Tally { events, first_id, last_id, .. } = tally;
        let channels = subscribers.len();
        let subscribers = subscribers.values().sum();
        let receipt = MultiReceipt { events, channels, first_id, last_id, subscribers };
        if let Some(claim) = self.claim {
            claim.complete(&receipt);
        }
        Ok(receipt)
    }

    /// Returns what was published so far.
    #[must_use]
    pub fn kept(&self) -> &Tally {
        &self.progress.tally
    }

    /// Returns the bytes of memory that the body holds: its incomplete line, and the names of its
    /// channels, which the receipt counts.
    #[must_use]
    pub fn held(&self) -> usize {
        self.lines.held() + self.progress.held()
    }

    fn note(
        &mut self,
        committed: Result<(), PublishError>,
        taken: Result<(), PublishError>,
    ) -> Result<(), Failure> {
        if let Some(claim) = &mut self.claim {
            claim.note(&self.progress.tally);
        }
        let failure = |error, place| Failure { error, kept: self.progress.tally.clone(), place };
        // A write that failed is known only after later lines were read: it has no line number.
        committed.map_err(|error| failure(error, None))?;
        taken.map_err(|error| failure(error, Some(ErrorPlace::Line(self.lines.taken()))))
    }
}

impl MultiProgress {
    fn publish(
        &mut self,
        context: &IngestContext,
        from: &Sender,
        keys: Keys<'_>,
        line: &Bytes,
    ) -> Result<(), PublishError> {
        let (name, event) = parse_line(line, context.max_event_bytes())?;
        if !(from.may)(&name) {
            return Err(PublishError::Forbidden);
        }
        let number = self.lines;
        self.lines += 1;
        if self.tally.has(number) {
            return Ok(());
        }
        let keep = keys.claim.map(|claim| {
            let ahead = &self.ahead;
            move |appended: &Appended| {
                let mut tally = ahead.clone();
                tally.count(number, event_id(context, appended));
                claim.to_keep(&KeyOutcome::Partial(tally), context.hub().clock().now())
            }
        });
        let receipt = keep.as_ref().map(|keep| keep as hub::ReceiptFn<'_>);
        let events = std::slice::from_ref(&event);
        let account = from.account.as_ref();
        let key = keys.shared.map(|key| key.piece(Lines::Listed(vec![number]), false));
        let append = Append { events, close: None, receipt, account, key: key.as_ref() };
        let ack = context.hub().submit(&name, append)?;
        if let Some(appended) = ack.expected() {
            self.ahead.count(number, event_id(context, appended));
        }
        self.storing.push(SubmittedLine { number, channel: name, ack });
        Ok(())
    }

    fn held(&self) -> usize {
        let each = size_of::<(ChannelName, usize)>();
        let beyond = self.tally.beyond.len() + self.ahead.beyond.len();
        self.name_bytes + self.subscribers.capacity() * each + beyond * size_of::<u64>()
    }

    /// Waits for all submitted writes. Later lines may be stored although an earlier one is not: a
    /// retry publishes exactly the missing ones.
    async fn settle(&mut self, context: &IngestContext) -> Result<(), PublishError> {
        let mut outcome = Ok(());
        // Taken, so that the capacity for a chunk of many lines is freed.
        for SubmittedLine { number, channel, ack } in std::mem::take(&mut self.storing) {
            match ack.wait().await {
                Ok(appended) => self.count(number, channel, &appended, context),
                Err(why) => outcome = outcome.and(Err(why.into())),
            }
        }
        outcome
    }

    /// Notes in the shared log of a cluster that the publish has succeeded.
    async fn complete(
        &self,
        context: &IngestContext,
        key: Option<&KeyedRequest>,
    ) -> Result<(), Failure> {
        let key = key.filter(|key| !key.is_complete());
        if let (Some(key), Some(channel)) = (key, self.subscribers.keys().next()) {
            let piece = key.piece(Lines::Listed(Vec::new()), true);
            let append = Append { key: Some(&piece), ..Append::default() };
            let completed = context.hub().append(channel, append).await;
            let kept = || self.tally.clone();
            completed.map_err(|why| Failure { error: why.into(), kept: kept(), place: None })?;
            key.complete();
        }
        Ok(())
    }

    fn count(
        &mut self,
        line: u64,
        channel: ChannelName,
        appended: &Appended,
        context: &IngestContext,
    ) {
        if let Some((first, _)) = appended.keyed.and_then(|keyed| keyed.offsets) {
            self.tally.first_id = Some(context.hub().event_id(first));
        }
        self.tally.count(line, event_id(context, appended));
        let name_bytes = channel.as_str().len();
        if self.subscribers.insert(channel, appended.subscribers).is_none() {
            self.name_bytes += name_bytes;
        }
    }
}

/// Returns the id of the one event that was appended; in a cluster, of the last one of the publish,
/// which may have been published before.
fn event_id(context: &IngestContext, appended: &Appended) -> String {
    let keyed = appended.keyed.and_then(|keyed| keyed.offsets);
    let offset = keyed.or(appended.offsets).map_or(Offset::ZERO, |(_, last)| last);
    context.hub().event_id(offset)
}

/// Returns a JSON string as its text, and any other JSON as it is written in the line.
fn text_of(json: &str) -> Result<String, InvalidLine> {
    if !json.starts_with('"') {
        return Ok(json.to_owned());
    }
    // Half of a surrogate pair is valid JSON, but no text.
    serde_json::from_str(json).map_err(|error| InvalidLine::Form(format!("`data`: {error}")))
}

fn parse_line(line: &[u8], max_bytes: usize) -> Result<(ChannelName, NewEvent), PublishError> {
    let line: Line<'_> =
        serde_json::from_slice(line).map_err(|error| InvalidLine::Form(error.to_string()))?;
    let name = line.channel.parse().map_err(InvalidLine::Channel)?;
    let event_type = line.event.map(|text| text.parse()).transpose();
    let event_type = event_type.map_err(InvalidEvent::EventType)?;
    let data = text_of(line.data.get())?;
    if data.len() > max_bytes {
        return Err(InvalidEvent::TooLarge(max_bytes).into());
    }
    Ok((name, NewEvent { event_type, data: data.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_a_text_or_the_json_itself() {
        for (json, data) in
            [(r#""a\u00e9\n""#, "aé\n"), ("null", "null"), (r#"{"a": 1}"#, r#"{"a": 1}"#)]
        {
            assert_eq!(text_of(json), Ok(data.into()));
        }
        assert!(text_of(r#""\ud800""#).is_err(), "half of a surrogate pair is no text");
    }
}

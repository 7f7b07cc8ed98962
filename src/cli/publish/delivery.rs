//! Delivers the input to the hub, over as many connections as that takes.
//!
//! The input is sent in **segments**, a streamed request each. The bytes of a segment are kept
//! until the hub has answered. When the connection breaks, the segment is sent again under the same
//! idempotency key, and the hub skips the events that it has. A generation (`close=auto`) is one
//! segment: its body is the generation, which the end of the body would end.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use anyhow::{anyhow, bail};
use bytes::Bytes;
use fanfare_client::{Client, Error, Problem, Publish, Receipt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::args::{Args, CloseArgument, InputFormat};
use super::framing::FramedPiece;
use super::input::PublishInput;
use crate::cli::terminal::{self, count};

/// The interval of keep-alive bytes in an idle body, until the hub turns out to have a shorter
/// time-out.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The minimum of that interval.
const MIN_KEEP_ALIVE: Duration = Duration::from_millis(250);

/// The delay before the first retry. It doubles with each failure.
const FIRST_DELAY: Duration = Duration::from_millis(200);

/// Pieces of a body that wait for the socket: few, so that a piece is sent soon after it was read.
const BODY_PIECES: usize = 16;

/// The maximum delay between retries, unless the hub requests more.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// The age at which a segment ends, so that a hub that has lost its memory gets no older events
/// twice.
const MAX_SEGMENT_AGE: Duration = Duration::from_secs(30);

/// The channel was stopped, so the producer can stop as well.
#[derive(Debug, thiserror::Error)]
#[error("stopped: {0}")]
pub(super) struct StoppedByHub(Box<Problem>);

/// The counts of what was sent, for messages.
#[derive(Debug, Default)]
struct DeliveryProgress {
    /// Stays zero when the input is passed on without parsing.
    events: usize,
    bytes: usize,
}

impl std::fmt::Display for DeliveryProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (n, noun) = if self.events > 0 { (self.events, "event") } else { (self.bytes, "byte") };
        write!(f, "{} sent", count(n, noun))
    }
}

/// The content of one request.
struct BodySegment {
    key: String,
    /// Pieces that were sent, or will be when there is a connection.
    pieces: Vec<Bytes>,
    bytes: usize,
    begun: Instant,
    /// The segment is complete.
    is_whole: bool,
    /// The sent bytes exceed what may be kept: the segment cannot be sent again.
    is_forgotten: bool,
}

/// The result of an attempt to send a segment.
enum Attempt {
    /// The hub has the whole segment.
    Delivered(Receipt),
    /// The hub answered with a receipt before the segment was complete, and needs no more of it.
    Early(Receipt),
}

/// Publishes to one channel until everything is delivered.
pub(super) struct Delivery<'a> {
    args: &'a Args,
    format: InputFormat,
    client: Client,
    key: String,
    segments: u64,
    keep_alive: Duration,
    outage: Outage,
    progress: DeliveryProgress,
    receipt: Option<Receipt>,
    /// The input has ended.
    ended: bool,
    /// An error of the input; the input before it is delivered first.
    failed: Option<anyhow::Error>,
}

impl<'a> Delivery<'a> {
    /// Creates a delivery.
    ///
    /// # Errors
    /// No certificate can be trusted.
    pub(super) fn new(args: &'a Args, format: InputFormat) -> anyhow::Result<Self> {
        let made = || format!("publish-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        Ok(Self {
            args,
            format,
            client: args.hub.client()?,
            key: args.idempotency_key.clone().unwrap_or_else(made),
            segments: 0,
            keep_alive: KEEP_ALIVE,
            outage: Outage::default(),
            progress: DeliveryProgress::default(),
            receipt: None,
            ended: false,
            failed: None,
        })
    }

    /// Publishes one complete body.
    ///
    /// # Errors
    /// The hub refuses it, or could not be reached for `--retry-for`.
    pub(super) async fn whole(mut self, data: Vec<u8>) -> anyhow::Result<Receipt> {
        let data = Bytes::from(data);
        self.progress.bytes = data.len();
        loop {
            let publish = self.publish(&self.key, self.args.close);
            match publish.body(self.format.media_type(), data.clone()).await {
                Ok(receipt) => return Ok(receipt),
                Err(error) => sleep(self.outage.delay(self.args, error, &self.progress)?).await,
            }
        }
    }

    /// Publishes the input, and closes the channel if that was requested.
    ///
    /// # Errors
    /// The hub refuses the input, could not be reached for `--retry-for`, or the input cannot be
    /// read; then the input read before is published.
    pub(super) async fn stream(mut self, input: &mut PublishInput) -> anyhow::Result<Receipt> {
        while !self.ended {
            self.deliver_segment(input).await?;
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        if self.closes_apart() {
            // Not in the query of a segment, because the last segment is known only after it was
            // begun.
            let segment = self.next_segment("close");
            let close = self.args.close;
            self.deliver(segment, close, input).await?;
        }
        self.receipt.ok_or_else(|| anyhow!("nothing was sent"))
    }

    fn is_generation(&self) -> bool {
        self.args.close == Some(CloseArgument::Auto)
    }

    fn closes_apart(&self) -> bool {
        self.args.close.is_some() && !self.is_generation()
    }

    fn next_segment(&mut self, name: &str) -> BodySegment {
        BodySegment {
            key: if name.is_empty() { self.key.clone() } else { format!("{}.{name}", self.key) },
            pieces: Vec::new(),
            bytes: 0,
            begun: Instant::now(),
            is_whole: name == "close",
            is_forgotten: false,
        }
    }

    async fn deliver_segment(&mut self, input: &mut PublishInput) -> anyhow::Result<()> {
        self.segments += 1;
        let name = if self.segments == 1 { String::new() } else { self.segments.to_string() };
        let segment = self.next_segment(&name);
        let close = self.args.close.filter(|_| self.is_generation());
        self.deliver(segment, close, input).await
    }

    async fn deliver(
        &mut self,
        mut segment: BodySegment,
        close: Option<CloseArgument>,
        input: &mut PublishInput,
    ) -> anyhow::Result<()> {
        let receipt = loop {
            let begun = Instant::now();
            match self.attempt(&mut segment, close, input).await? {
                Ok(Attempt::Delivered(receipt)) => break receipt,
                Ok(Attempt::Early(receipt)) => {
                    // A generation has ended, or an earlier command has published the same.
                    if receipt.state == "open" {
                        self.skip(&mut segment, input).await;
                    } else {
                        self.ended = true;
                    }
                    break receipt;
                }
                Err(error) => self.wait(error, begun, &mut segment, input).await?,
            }
        };
        self.outage.end();
        self.receipt = Some(match self.receipt.take() {
            Some(before) => merged(before, receipt),
            None => receipt,
        });
        Ok(())
    }

    /// Sends the segment once, and its further pieces as they are read. The outer error is final.
    async fn attempt(
        &mut self,
        segment: &mut BodySegment,
        close: Option<CloseArgument>,
        input: &mut PublishInput,
    ) -> anyhow::Result<Result<Attempt, Error>> {
        let (feed, pieces) = mpsc::channel(BODY_PIECES);
        let pieces = ReceiverStream::new(pieces).map(Ok::<_, Infallible>);
        let publish = self.publish(&segment.key, close);
        let mut answer = pin!(publish.stream(self.format.media_type(), pieces));
        tokio::select! {
            biased;
            early = &mut answer => return Ok(early.map(Attempt::Early)),
            () = self.forward(segment, input, feed) => {}
        }
        // The body has ended, and the answer is the hub's receipt of it.
        tokio::select! {
            answer = answer => Ok(answer.map(Attempt::Delivered)),
            () = second_interrupt(input) => bail!("interrupted before the hub's receipt came"),
        }
    }

    /// Sends the pieces of the segment, and reads on until it is complete.
    async fn forward(
        &mut self,
        segment: &mut BodySegment,
        input: &mut PublishInput,
        feed: BodyFeed,
    ) {
        for piece in segment.pieces.clone() {
            if feed.send(piece).await.is_err() {
                return; // the connection is gone: the response has the reason
            }
        }
        while !segment.is_whole {
            let piece = tokio::select! {
                piece = input.next() => self.take(piece, segment),
                () = sleep(self.keep_alive) => self.keep_alive_bytes(),
            };
            if let Some(piece) = piece
                && feed.send(piece).await.is_err()
            {
                return;
            }
        }
    }

    /// Adds a piece to the segment; returns the bytes to send.
    fn take(
        &mut self,
        piece: Option<anyhow::Result<FramedPiece>>,
        segment: &mut BodySegment,
    ) -> Option<Bytes> {
        let Some(Ok(piece)) = piece else {
            self.failed = piece.and_then(Result::err);
            self.ended = true;
            segment.is_whole = true;
            return None;
        };
        self.progress.events += piece.events;
        self.progress.bytes += piece.bytes.len();
        segment.bytes += piece.bytes.len();
        segment.is_forgotten |= self.is_generation() && segment.bytes > self.args.buffer;
        if segment.is_forgotten {
            segment.pieces = Vec::new();
        } else {
            segment.pieces.push(piece.bytes.clone());
        }
        // A key given by the user belongs to the same bytes, even if their timing differs.
        let is_old = self.args.idempotency_key.is_none()
            && !self.is_generation()
            && segment.begun.elapsed() >= MAX_SEGMENT_AGE;
        segment.is_whole = piece.ends_segment || is_old;
        Some(piece.bytes)
    }

    /// Reads the rest of a segment that the hub has already.
    async fn skip(&mut self, segment: &mut BodySegment, input: &mut PublishInput) {
        while !segment.is_whole {
            let piece = input.next().await;
            self.take(piece, segment);
            segment.pieces.clear();
        }
    }

    /// Waits until the segment can be sent again, and reads on meanwhile, within its bounds.
    async fn wait(
        &mut self,
        error: Error,
        begun: Instant,
        segment: &mut BodySegment,
        input: &mut PublishInput,
    ) -> anyhow::Result<()> {
        if error.code() == Some("request_timeout") {
            // The hub's time-out is shorter than the interval: halve it.
            self.keep_alive = (begun.elapsed() / 2).clamp(MIN_KEEP_ALIVE, self.keep_alive);
            self.outage.end();
        }
        if input.is_interrupted() {
            return Err(explained(error, &self.progress));
        }
        let may_repeat = !segment.is_forgotten;
        if !may_repeat && error.is_transient() {
            let explained = explained(error, &self.progress);
            bail!("{explained}; more was sent than --buffer keeps for a second attempt");
        }
        let delay = self.outage.delay(self.args, error, &self.progress)?;
        let mut waited = pin!(sleep(delay));
        let mut interrupted = pin!(input.interrupted());
        loop {
            let room = !segment.is_whole && segment.bytes < self.args.buffer;
            tokio::select! {
                () = &mut waited => return Ok(()),
                piece = input.next(), if room => {
                    self.take(piece, segment);
                }
                () = &mut interrupted => bail!(
                    "interrupted while the hub could not be reached: of {}, some may be missing",
                    self.progress,
                ),
            }
        }
    }

    fn publish(&self, key: &str, close: Option<CloseArgument>) -> Publish {
        self.args.publish(&self.client, key, close)
    }

    /// Returns bytes that keep an idle body alive without being an event.
    fn keep_alive_bytes(&self) -> Option<Bytes> {
        match self.format {
            InputFormat::Lines | InputFormat::Sse => Some(Bytes::from_static(b":\n")),
            InputFormat::Ndjson => Some(Bytes::from_static(b"\n")),
            InputFormat::Whole => None,
        }
    }
}

type BodyFeed = mpsc::Sender<Bytes>;

/// Merges the receipts of two successive publishes.
fn merged(before: Receipt, next: Receipt) -> Receipt {
    let mut merged = next;
    merged.events += before.events;
    merged.first_id = before.first_id.or(merged.first_id);
    merged.last_id = merged.last_id.or(before.last_id);
    merged
}

/// Resolves at Ctrl-C, or at a second one if the first has ended the input.
async fn second_interrupt(input: &PublishInput) {
    if input.is_interrupted() {
        let _ = tokio::signal::ctrl_c().await;
    } else {
        input.interrupted().await;
    }
}

/// A period in which no attempt succeeds.
#[derive(Default)]
struct Outage {
    since: Option<Instant>,
    failures: u32,
    /// A connection was open, or the hub has answered.
    was_reached: bool,
}

impl Outage {
    fn end(&mut self) {
        (self.since, self.failures) = (None, 0);
    }

    /// Returns the delay before the next attempt, or an error if there is to be none.
    fn delay(
        &mut self,
        args: &Args,
        error: Error,
        progress: &DeliveryProgress,
    ) -> anyhow::Result<Duration> {
        let first = self.since.is_none();
        let since = *self.since.get_or_insert_with(Instant::now);
        let unreachable = matches!(error, Error::Unreachable { .. });
        self.was_reached |= !unreachable;
        let never = unreachable && !self.was_reached;
        let other_producer = error.code() == Some("publish_in_progress") && first;
        if never || other_producer || !error.is_transient() || since.elapsed() >= args.retry_for() {
            return Err(explained(error, progress));
        }
        if first {
            terminal::notice(format_args!("{error}; trying again"));
        }
        self.failures = self.failures.saturating_add(1);
        let doubled = FIRST_DELAY.saturating_mul(1 << self.failures.min(10)) / 2;
        let delay = doubled.min(MAX_DELAY).mul_f64(0.75 + fastrand::f64() / 2.0);
        Ok(delay.max(error.retry_after().unwrap_or_default()))
    }
}

/// Adds to the error how much of the input was published.
fn explained(error: Error, progress: &DeliveryProgress) -> anyhow::Error {
    match error {
        Error::Broken(_) => {
            anyhow!("{error}. Of {progress}, the hub may have kept all or only the first ones")
        }
        Error::Refused(problem) if problem.code.as_deref() == Some("channel_stopped") => {
            StoppedByHub(problem).into()
        }
        Error::Refused(problem) if problem.events.is_some() && progress.events > 0 => {
            anyhow!("the hub refused: {problem}, of {progress}")
        }
        error => error.into(),
    }
}

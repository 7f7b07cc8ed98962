//! The engine for any connection: a subscription as an `http_body::Body`.
//!
//! Each poll hands over one piece with everything that is ready, up to a limit. While nobody polls,
//! nothing is read: a slow client's cursor stays where it is.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};

use super::patrol::Watch;
use super::{Egress, Format};
use crate::clock::now;
use crate::hub::{EndReason, Step, Subscription};
use crate::limits::MAX_BATCH_BYTES;
use crate::sse;

/// A live subscription as a response body.
pub struct EventStream {
    egress: Egress,
    subscription: Subscription,
    format: Format,
    watch: Watch,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was written yet.
    Opening,
    /// Behind the tail.
    Replay,
    /// At the tail.
    Live,
    /// Everything was written.
    Over,
}

/// One piece in the making.
#[derive(Default)]
struct Piece {
    bytes: Vec<u8>,
    events: u64,
}

impl EventStream {
    pub(super) fn new(
        egress: Egress,
        subscription: Subscription,
        format: Format,
        watch: Watch,
    ) -> Self {
        Self { egress, subscription, format, watch, state: State::Opening }
    }

    /// Whether a shard could serve it: the log's bytes as they are, of one channel.
    pub(super) fn can_be_taken_over(&self) -> bool {
        self.format == Format::EventStream && self.subscription.can_sit()
    }

    pub(super) fn into_subscription(self) -> Subscription {
        self.subscription
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut piece = Piece::default();
        match self.state {
            State::Over => return Poll::Ready(None),
            State::Opening => self.open(&mut piece),
            State::Replay | State::Live => {}
        }
        self.fill(&mut piece, cx);
        if piece.bytes.is_empty() && self.state == State::Live && self.watch.heartbeat_due() {
            self.heartbeat(&mut piece);
        }
        match (piece.bytes.is_empty(), self.state) {
            (true, State::Over) => Poll::Ready(None),
            (true, _) => Poll::Pending,
            (false, _) => Poll::Ready(Some(self.hand_over(piece))),
        }
    }

    /// The first bytes go out at once, so that whoever waits for headers and a sign of life has it.
    fn open(&mut self, piece: &mut Piece) {
        self.state = State::Replay;
        if !self.format.is_event_stream() {
            return;
        }
        sse::retry(&mut piece.bytes, self.egress.config.reconnect_delay);
        if self.subscription.begins_at_tail() {
            sse::id_block(&mut piece.bytes, &self.subscription.start().to_string());
        }
    }

    /// Takes what is ready, up to the limit of a piece.
    fn fill(&mut self, piece: &mut Piece, cx: &mut Context<'_>) {
        while piece.bytes.len() < MAX_BATCH_BYTES {
            match self.subscription.poll_next(cx) {
                Poll::Ready(Some(step)) => {
                    self.observe_latency(&step);
                    piece.events += self.format.render(&step, &mut piece.bytes);
                }
                Poll::Ready(None) => return self.close(piece),
                Poll::Pending => return self.state = State::Live,
            }
        }
        // More may be ready: the next poll must not wait for a wake-up.
        self.state = State::Replay;
    }

    fn close(&mut self, piece: &mut Piece) {
        self.state = State::Over;
        let draining = self.subscription.pulse().ended() == Some(EndReason::Draining);
        if draining && self.format.is_event_stream() {
            let delay = self.watch.return_delay(self.egress.config.reconnect_delay);
            sse::retry(&mut piece.bytes, delay);
            piece.bytes.push(b'\n');
        }
    }

    fn heartbeat(&self, piece: &mut Piece) {
        if self.format.is_event_stream() {
            sse::comment(&mut piece.bytes);
        } else {
            piece.bytes.push(b'\n');
        }
    }

    fn hand_over(&self, piece: Piece) -> Bytes {
        self.watch.wrote();
        self.egress.metrics.delivered(piece.events, piece.bytes.len() as u64);
        Bytes::from(piece.bytes)
    }

    /// Only what came while the subscriber was waiting says how long delivery takes.
    fn observe_latency(&self, step: &Step) {
        if let (State::Live, Step::Events { run, .. }) = (self.state, step)
            && let Some(oldest) = run.entries().next()
        {
            let took = Duration::from_micros(now().saturating_sub(oldest.time));
            self.egress.metrics.delivery_took(took);
        }
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll_piece(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.state == State::Over
    }
}

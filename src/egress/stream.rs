//! The engine for any connection: a subscription as an `http_body::Body`.
//!
//! Each poll hands over one piece with everything that is ready, up to what the connection may be
//! given. While nobody polls, or what was handed over is not written, nothing is read: a slow
//! client's cursor stays where it is. Whoever is behind, or reads many channels, takes turns.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep};

use super::background::Turns;
use super::bare::Bare;
use super::coalescing::CoalescingWindow;
use super::link::{Handed, Link};
use super::reaper::WatchGuard;
use super::{Egress, StreamFormat};
use crate::hub::{Coalesce, EndReason, Step, Subscription, Ticket};
use crate::lease::AccessLease;
use crate::limits::MAX_BATCH_BYTES;

/// How often a stream that is to be broken off looks whether everything has been written.
const FLUSH: Duration = Duration::from_millis(5);

/// A live stream that is open and that nothing serves yet: a connection serves it as a response
/// body, or gives it to a shard together with its socket.
pub struct OpenStream {
    /// The subscription.
    pub ticket: Ticket,
    /// What the subscriber is sent.
    pub format: StreamFormat,
    /// When events are merged.
    pub coalesce: Coalesce,
    /// Time without a write after which a heartbeat is sent.
    pub heartbeat: Duration,
    /// The connection, as far as it is known.
    pub link: Option<Arc<Link>>,
    /// What the subscription may go on by.
    pub lease: AccessLease,
}

/// A live subscription as a response body.
pub struct EventStream {
    egress: Egress,
    subscription: Subscription,
    format: StreamFormat,
    bare: Bare,
    window: CoalescingWindow,
    watch: WatchGuard,
    /// Where it asks for turns, since it first did.
    turns: Option<Turns>,
    state: StreamState,
    /// The stream is about to be broken off, when what was written before has gone out.
    breaking: Option<Pin<Box<Sleep>>>,
}

/// The stream is bare, and its end would look like the end of a generation that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the generation is not whole")]
pub struct BrokenOff;

#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamState {
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
struct BodyPiece {
    /// Bytes that it may have; an event that is larger is a piece of its own.
    room: usize,
    bytes: Vec<u8>,
    events: u64,
}

impl EventStream {
    pub(super) fn new(
        egress: Egress,
        subscription: Subscription,
        format: StreamFormat,
        coalesce: Coalesce,
        watch: WatchGuard,
    ) -> Self {
        let (bare, window) =
            (Bare::new(format == StreamFormat::BareLines), CoalescingWindow::new(coalesce));
        let (turns, state, breaking) = (None, StreamState::Opening, None);
        Self { egress, subscription, format, bare, window, watch, turns, state, breaking }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Handed, BrokenOff>>> {
        if self.state == StreamState::Over {
            return self.poll_last_word(cx);
        }
        let Poll::Ready(room) = self.watch.poll_room(cx) else {
            self.withdraw();
            return Poll::Pending;
        };
        let mut piece = BodyPiece { room, bytes: Vec::new(), events: 0 };
        let leaves = self.watch.has_input_ended();
        let opening = self.state == StreamState::Opening;
        if opening {
            self.open(&mut piece);
        }
        if piece.bytes.is_empty() {
            let held = self.window.holds_back(&mut self.subscription, cx);
            if held && !leaves {
                self.withdraw();
            } else if self.poll_fill(&mut piece, cx).is_pending() {
                // What opens a stream that has nothing to say is said after the first look.
                self.state = if opening { StreamState::Opening } else { self.state };
                return Poll::Pending;
            }
        }
        if leaves && self.state == StreamState::Live && !self.subscription.is_fetching() {
            // It has all that there is, and perhaps nobody reads it.
            self.subscription.control().end(EndReason::ClientGone);
            self.state = StreamState::Over;
        }
        let silent = piece.bytes.is_empty() && self.state == StreamState::Live;
        if silent && (opening || self.watch.heartbeat_due()) {
            self.format.beat(self.bare.heartbeat(&self.subscription), &mut piece.bytes);
        }
        match (piece.bytes.is_empty(), self.state) {
            (true, StreamState::Over) => self.poll_last_word(cx),
            (true, _) => {
                self.window.waits(&mut self.subscription);
                Poll::Pending
            }
            (false, _) => Poll::Ready(Some(Ok(self.hand_over(piece)))),
        }
    }

    /// Whether the client may take the end of the stream for what it looks like.
    fn ends_well(&self) -> bool {
        !self.format.is_bare() || self.bare.ends_well()
    }

    /// Ends the stream, or breaks it off: then the connection is closed at once, so it waits until
    /// that has written all that it was given.
    fn poll_last_word(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Handed, BrokenOff>>> {
        if self.ends_well() {
            return Poll::Ready(None);
        }
        loop {
            let breaking = self.breaking.get_or_insert_with(|| Box::pin(sleep(FLUSH)));
            if breaking.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if !self.watch.is_blocked() {
                return Poll::Ready(Some(Err(BrokenOff)));
            }
            self.breaking = None;
        }
    }

    /// The first bytes go out at once, so that proxies and clients who wait for a sign of life have
    /// it; where there are none to begin with, a heartbeat does.
    fn open(&mut self, piece: &mut BodyPiece) {
        self.state = StreamState::Replay;
        let (opening, start) = (self.subscription.opening(), self.subscription.start());
        self.format.push_opening(&self.egress.config, opening, start, &mut piece.bytes);
    }

    /// Asks for no turn while there is nothing that it could be used for.
    fn withdraw(&mut self) {
        if let Some(turns) = &mut self.turns {
            turns.withdraw();
        }
    }

    /// Takes what is ready, in a turn if that can wait.
    fn poll_fill(&mut self, piece: &mut BodyPiece, cx: &mut Context<'_>) -> Poll<()> {
        let many = self.subscription.is_many();
        if many && self.state == StreamState::Live && self.window.coalesce().is_immediate() {
            // To look for nothing is not worth a turn.
            if !self.subscription.poll_news(cx) {
                return Poll::Ready(());
            }
        }
        if many || self.state == StreamState::Replay {
            let turns = self.turns.get_or_insert_with(Turns::here);
            let _turn = ready!(turns.poll_turn(cx));
            self.fill(piece, cx);
        } else {
            self.fill(piece, cx);
        }
        Poll::Ready(())
    }

    /// Takes what is ready, up to the limit of a piece, and to that of what is looked at for it:
    /// what is merged, or left out, is work as well.
    fn fill(&mut self, piece: &mut BodyPiece, cx: &mut Context<'_>) {
        let mut looked = 0;
        while piece.bytes.len() < piece.room && looked < MAX_BATCH_BYTES {
            if self.bare.is_holed() {
                return self.state = StreamState::Over;
            }
            let room = piece.room - piece.bytes.len();
            self.subscription.read_at_most(self.format.filling(room));
            match self.subscription.poll_next(cx) {
                Poll::Ready(Some(step)) => {
                    looked += step.size();
                    self.observe_latency(&step);
                    piece.events += self.render(&step, &mut piece.bytes);
                }
                Poll::Ready(None) => return self.close(piece),
                Poll::Pending => return self.state = StreamState::Live,
            }
        }
        // More may be ready: the next poll must not wait for a wake-up.
        self.state = StreamState::Replay;
    }

    fn render(&mut self, step: &Step, out: &mut Vec<u8>) -> u64 {
        if self.format.is_bare() {
            self.bare.render(step, out)
        } else {
            self.format.render(step, out)
        }
    }

    fn close(&mut self, piece: &mut BodyPiece) {
        self.state = StreamState::Over;
        if let Some(reason) = self.subscription.control().ended() {
            let (config, drain) = (&self.egress.config, self.watch.draining());
            self.format.push_farewell(config, reason, drain.as_ref(), &mut piece.bytes);
        }
    }

    fn hand_over(&mut self, mut piece: BodyPiece) -> Handed {
        self.window.handed_over(self.state == StreamState::Live && piece.events > 0);
        self.egress.metrics.delivered(piece.events, piece.bytes.len() as u64);
        // The client may leave it there for long.
        piece.bytes.shrink_to_fit();
        self.watch.hand_over(Bytes::from(piece.bytes))
    }

    /// Only what came while the subscriber was waiting says how long delivery takes.
    fn observe_latency(&self, step: &Step) {
        if let (StreamState::Live, Step::Events { batch, .. }) = (self.state, step)
            && let Some(oldest) = batch.entries().next()
        {
            self.egress.metrics.delivery_took(self.egress.clock.now().since(oldest.time));
        }
    }
}

impl Body for EventStream {
    type Data = Handed;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Handed>, BrokenOff>>> {
        self.poll_piece(cx).map(|piece| piece.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.state == StreamState::Over && self.ends_well()
    }
}

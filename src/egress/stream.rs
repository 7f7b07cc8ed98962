//! The engine for any connection: a subscription as an `http_body::Body`.
//!
//! Each poll hands over one piece with everything that is ready, up to the connection's room.
//! Nothing is read while the body is not polled or bytes are unwritten: a slow client's cursor does
//! not move. Subscriptions that lag, or read many channels, take turns.

use std::future::Future;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep};

use super::background::Turns;
use super::bare_stream::Bare;
use super::coalescing::CoalescingWindow;
use super::link::{BodyData, Link};
use super::reaper::WatchGuard;
use super::shard::NewSubscriber;
use super::{Egress, StreamFormat};
use crate::hub::{Coalesce, EndReason, Step, Subscription, Ticket};
use crate::lease::AccessLease;
use crate::limits::MAX_BATCH_BYTES;

/// Interval at which a stream that is to be broken off checks that everything has been written.
const FLUSH: Duration = Duration::from_millis(5);

/// A live stream that is open and not yet served: as a response body by its connection, or by a
/// shard that gets its socket.
pub struct OpenStream {
    /// What serves it.
    pub egress: Egress,
    /// The subscription.
    pub ticket: Ticket,
    /// The encoding of the stream.
    pub format: StreamFormat,
    /// The merging of deltas that the client asked for.
    pub coalesce: Coalesce,
    /// Time without a write after which a heartbeat is sent.
    pub heartbeat: Duration,
    /// The link of the connection, if there is one.
    pub link: Option<Arc<Link>>,
    /// The access lease of the subscription.
    pub lease: AccessLease,
}

impl OpenStream {
    /// Serves the stream as a response body, until its lease ends.
    #[must_use]
    pub fn serve(self) -> EventStream {
        let Self { egress, ticket, format, coalesce, heartbeat, link, lease } = self;
        let bounds = egress.bounds();
        let subscription = ticket.subscribe(bounds);
        let watch = egress.reaper.watch(subscription.control(), bounds, heartbeat, link, lease);
        EventStream::new(egress, subscription, format, coalesce, watch)
    }

    /// Returns whether a shard can serve the stream, if its connection is a plain socket: a shard
    /// writes the log's bytes unchanged, of one channel.
    #[must_use]
    pub fn can_be_attached(&self) -> bool {
        let plain = self.format == StreamFormat::EventStream && self.ticket.is_one();
        plain && self.egress.config.takeover
    }

    /// Attaches the stream and its socket to a shard. `head` is written first.
    pub fn attach(self, tcp: TcpStream, head: Vec<u8>) {
        let Self { egress, ticket, coalesce, heartbeat, lease, .. } = self;
        let Some(ticket) = ticket.into_one() else { return };
        egress.attach(NewSubscriber { tcp, ticket, head, coalesce, heartbeat, lease });
    }
}

/// A live subscription as a response body.
pub struct EventStream {
    egress: Egress,
    subscription: Subscription,
    format: StreamFormat,
    bare: Bare,
    window: CoalescingWindow,
    watch: WatchGuard,
    /// The handle for turns, created at the first use.
    turns: Option<Turns>,
    state: StreamState,
    /// The timer of a stream that is broken off as soon as its earlier bytes are written.
    breaking: Option<Pin<Box<Sleep>>>,
}

/// Error that ends a bare stream whose clean end would look like the end of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the generation is not whole")]
pub struct BrokenOff;

#[derive(Clone, Copy, PartialEq, Eq)]
enum StreamState {
    /// Nothing has been written yet.
    Opening,
    /// Catching up with the tail.
    Replay,
    /// At the tail.
    Live,
    /// Everything has been written.
    Over,
}

/// One piece of the body, while it is filled.
struct BodyPiece {
    /// Bytes that it may have; a larger event is a piece of its own.
    room: usize,
    bytes: Vec<u8>,
    events: u64,
}

impl EventStream {
    fn new(
        egress: Egress,
        subscription: Subscription,
        format: StreamFormat,
        coalesce: Coalesce,
        watch: WatchGuard,
    ) -> Self {
        let bare = Bare::new(format == StreamFormat::BareLines);
        let window = CoalescingWindow::new(coalesce);
        Self {
            egress,
            subscription,
            format,
            bare,
            window,
            watch,
            turns: None,
            state: StreamState::Opening,
            breaking: None,
        }
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyData, BrokenOff>>> {
        if self.state == StreamState::Over {
            return self.poll_end(cx);
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
                // The opening heartbeat is written after the first read.
                self.state = if opening { StreamState::Opening } else { self.state };
                return Poll::Pending;
            }
        }
        if leaves && self.state == StreamState::Live && self.has_read_all(cx) {
            // The client may be gone: end the stream after all that has been published.
            self.subscription.control().end(EndReason::ClientGone);
            self.state = StreamState::Over;
        }
        let silent = piece.bytes.is_empty() && self.state == StreamState::Live;
        if silent && (opening || self.watch.heartbeat_due()) {
            self.format.push_heartbeat(self.bare.heartbeat(&self.subscription), &mut piece.bytes);
        }
        match (piece.bytes.is_empty(), self.state) {
            (true, StreamState::Over) => self.poll_end(cx),
            (true, _) => {
                self.window.waits(&mut self.subscription);
                Poll::Pending
            }
            (false, _) => Poll::Ready(Some(Ok(self.pass_on(piece)))),
        }
    }

    /// Returns whether everything that was published has been read. What is on disk has not, nor
    /// what a read has left for the next call.
    fn has_read_all(&self, cx: &Context<'_>) -> bool {
        self.subscription.control().unread() == 0 && !self.subscription.poll_news(cx)
    }

    /// Returns whether a clean end would be true: always, unless the stream is bare.
    fn ends_well(&self) -> bool {
        !self.format.is_bare() || self.bare.ends_well()
    }

    /// Ends the stream, or breaks it off. As that closes the connection at once, it waits until the
    /// connection has written all its bytes.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyData, BrokenOff>>> {
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

    /// Writes the opening at once, as proxies and clients wait for first bytes; if it is empty, a
    /// heartbeat is sent instead.
    fn open(&mut self, piece: &mut BodyPiece) {
        self.state = StreamState::Replay;
        let opening = self.subscription.opening();
        let start = self.subscription.start();
        self.format.push_opening(&self.egress.config, opening, start, &mut piece.bytes);
    }

    /// Withdraws the request for a turn while nothing could be done in one.
    fn withdraw(&mut self) {
        if let Some(turns) = &mut self.turns {
            turns.withdraw();
        }
    }

    /// Fills a piece with what is ready, in a turn if that can wait.
    fn poll_fill(&mut self, piece: &mut BodyPiece, cx: &mut Context<'_>) -> Poll<()> {
        let many = self.subscription.is_many();
        if many && self.state == StreamState::Live && self.window.coalesce().is_immediate() {
            // To find nothing is not worth a turn.
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

    /// Fills a piece with what is ready, up to its limit and to a limit on the bytes examined:
    /// events that are merged or left out cost work as well.
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
            let config = &self.egress.config;
            let drain = self.watch.draining();
            self.format.push_end(config, reason, drain.as_ref(), &mut piece.bytes);
        }
    }

    fn pass_on(&mut self, mut piece: BodyPiece) -> BodyData {
        self.window.note_piece(self.state == StreamState::Live && piece.events > 0);
        self.egress.metrics.delivered(piece.events, piece.bytes.len() as u64);
        // The client may leave it unread for long.
        piece.bytes.shrink_to_fit();
        self.watch.pass_on(Bytes::from(piece.bytes))
    }

    /// Observes the delivery latency of events that arrived while the subscriber was waiting.
    fn observe_latency(&self, step: &Step) {
        if let (StreamState::Live, Step::Events { batch, .. }) = (self.state, step)
            && let Some(oldest) = batch.entries().next()
        {
            self.egress.metrics.delivery_took(self.egress.clock.now().since(oldest.time));
        }
    }
}

impl Body for EventStream {
    type Data = BodyData;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<BodyData>, BrokenOff>>> {
        self.poll_piece(cx).map(|piece| piece.map(|bytes| bytes.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.state == StreamState::Over && self.ends_well()
    }
}

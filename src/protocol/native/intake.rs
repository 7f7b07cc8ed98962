//! The body of a publish as it comes in: piece by piece, for as long as its sender may go on, and
//! as fast as it has paid for.

use std::pin::Pin;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Native;
use crate::http::{Caller, ErrorCode, Problem, late};
use crate::ingest::Tally;
use crate::limits::MAX_SMALL_BODY_BYTES;
use crate::pass::{Over, Pass};

/// See the module.
pub(super) struct Intake<'a> {
    native: &'a Native,
    caller: &'a Caller,
    body: &'a mut Incoming,
    /// When all of it must be there; a stream may go on, but not fall silent.
    deadline: Option<Instant>,
    /// When something last came, or when it may be read again.
    heard: Instant,
    /// Nothing is read until then: what was read is not paid for.
    is_paused: bool,
    /// Events that are paid for.
    paid: u64,
    /// Bytes that have not become events yet, and wait in the hub's memory.
    held: usize,
    /// Resolves when the sender may no longer go on. This and the next are kept from piece to
    /// piece: there are many, and none is to set a clock of its own.
    over: Pin<Box<dyn Future<Output = Over> + Send>>,
    /// Goes off no later than when it is too late; by then, something may have come. Whoever is
    /// never waited for has none.
    alarm: Option<Pin<Box<Sleep>>>,
}

/// What comes next.
pub(super) enum Piece {
    Data(Bytes),
    End,
    BrokeOff,
    Stopping,
    Over(Over),
    /// It does not come in time.
    Late(Problem),
}

impl<'a> Intake<'a> {
    /// Of a body that goes on for as long as its sender likes, and as the pass lets it.
    pub(super) fn stream(
        native: &'a Native,
        caller: &'a Caller,
        body: &'a mut Incoming,
        pass: Pass,
    ) -> Self {
        Self::new(native, caller, body, pass, None)
    }

    /// Of a body that is over in a moment, and so needs no pass.
    pub(super) fn document(
        native: &'a Native,
        caller: &'a Caller,
        body: &'a mut Incoming,
        deadline: Instant,
    ) -> Self {
        Self::new(native, caller, body, Pass::default(), Some(deadline))
    }

    fn new(
        native: &'a Native,
        caller: &'a Caller,
        body: &'a mut Incoming,
        pass: Pass,
        deadline: Option<Instant>,
    ) -> Self {
        let over = Box::pin(async move { pass.ended().await });
        let (heard, is_paused, paid, held) = (Instant::now(), false, 0, 0);
        Self { native, caller, body, deadline, heard, is_paused, paid, held, over, alarm: None }
    }

    /// The next piece; can be cancelled without loss.
    pub(super) async fn next(&mut self) -> Piece {
        if self.is_paused {
            tokio::select! {
                () = sleep_until(self.heard) => self.is_paused = false,
                () = self.native.shutdown.stopping() => return Piece::Stopping,
                over = &mut self.over => return Piece::Over(over),
            }
        }
        let shutdown = &self.native.shutdown;
        loop {
            let late = self.too_late_at();
            let alarm = &mut self.alarm;
            // In this order, or whoever never rests would never be told; and the alarm is set last,
            // by those alone who must wait.
            tokio::select! {
                biased;
                over = &mut self.over => return Piece::Over(over),
                () = shutdown.stopping() => return Piece::Stopping,
                piece = next_data(self.body) => {
                    self.heard = Instant::now();
                    return piece;
                }
                () = async { alarm.get_or_insert_with(|| Box::pin(sleep_until(late))).await } => {
                    if late <= Instant::now() {
                        return Piece::Late(self.too_late());
                    }
                    self.alarm = None;
                }
            }
        }
    }

    fn too_late_at(&self) -> Instant {
        self.deadline.unwrap_or_else(|| self.heard + self.native.ingest.idle_timeout())
    }

    /// Notes how much waits to become an event. When there is no room for all, those go who hold
    /// much: whoever sends events of the usual size does not notice.
    ///
    /// # Errors
    /// There is no room for so much.
    pub(super) fn hold(&mut self, held: usize) -> Result<(), Problem> {
        let unfinished = self.native.ingest.unfinished();
        unfinished.replace(std::mem::replace(&mut self.held, held), held);
        if held <= MAX_SMALL_BODY_BYTES || !unfinished.is_exceeded() {
            return Ok(());
        }
        self.native.hub.metrics().limit_hit("publish.max_unfinished");
        let detail = "as much of unfinished bodies waits as `publish.max_unfinished` allows";
        let problem = Problem::new(ErrorCode::Overloaded, detail);
        Err(problem.with("limit", "publish.max_unfinished"))
    }

    /// These events were paid for by an earlier request with the same key.
    pub(super) fn begin_behind(&mut self, kept: &Tally) {
        self.paid = kept.events;
    }

    /// Pays for a piece, by all events so far. Past what its sender may, a stream is read more
    /// slowly; whoever sends documents meets the debt with the next.
    pub(super) fn pay(&mut self, events: u64, bytes: usize) {
        let more = events.saturating_sub(self.paid);
        self.paid = self.paid.max(events);
        if let Some(exceeded) = self.caller.payer().charge(more, bytes as u64) {
            self.native.hub.metrics().limit_hit(exceeded.limit);
            if self.deadline.is_none() {
                self.heard = Instant::now() + exceeded.retry_after;
                self.is_paused = true;
            }
        }
    }

    fn too_late(&self) -> Problem {
        let metrics = self.native.hub.metrics();
        if self.deadline.is_some() {
            metrics.limit_hit("server.body_timeout");
            return late();
        }
        metrics.limit_hit("publish.idle_timeout");
        let detail = "the body sent nothing for as long as `publish.idle_timeout` allows";
        Problem::new(ErrorCode::RequestTimeout, detail).with("limit", "publish.idle_timeout")
    }
}

impl Drop for Intake<'_> {
    fn drop(&mut self) {
        self.native.ingest.unfinished().replace(self.held, 0);
    }
}

async fn next_data(body: &mut Incoming) -> Piece {
    loop {
        match body.frame().await {
            None => return Piece::End,
            Some(Err(_)) => return Piece::BrokeOff,
            // Trailers say nothing that a publish needs.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Piece::Data(data);
                }
            }
        }
    }
}

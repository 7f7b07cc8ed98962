//! The body of a publish as it comes in: piece by piece, for as long as its sender may go on, and
//! as fast as it has paid for.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, sleep, timeout_at};

use super::Native;
use crate::http::{Caller, ErrorCode, Problem, late};
use crate::ingest::Tally;
use crate::pass::{Over, Pass};

/// See the module.
pub(super) struct Intake<'a> {
    native: &'a Native,
    caller: &'a Caller,
    body: &'a mut Incoming,
    pass: Option<Pass>,
    /// When all of it must be there; a stream may go on, but not fall silent.
    deadline: Option<Instant>,
    /// How long to read nothing, until what was read is paid for.
    pause: Duration,
    /// Events that are paid for.
    paid: u64,
    /// Bytes that have not become events yet, and wait in the hub's memory.
    held: usize,
}

/// What comes next.
pub(super) enum Piece {
    Data(Bytes),
    End,
    BrokeOff,
    Stopping,
    Over(Over),
    /// It does not come in time, or there is no room for it.
    Refused(Problem),
}

impl<'a> Intake<'a> {
    /// Of a body that goes on for as long as its sender likes, and as the pass lets it.
    pub(super) fn stream(
        native: &'a Native,
        caller: &'a Caller,
        body: &'a mut Incoming,
        pass: Pass,
    ) -> Self {
        Self::new(native, caller, body, Some(pass), None)
    }

    /// Of a body that is over in a moment, and so needs no pass.
    pub(super) fn document(
        native: &'a Native,
        caller: &'a Caller,
        body: &'a mut Incoming,
        deadline: Instant,
    ) -> Self {
        Self::new(native, caller, body, None, Some(deadline))
    }

    fn new(
        native: &'a Native,
        caller: &'a Caller,
        body: &'a mut Incoming,
        pass: Option<Pass>,
        deadline: Option<Instant>,
    ) -> Self {
        let (pause, paid, held) = (Duration::ZERO, 0, 0);
        Self { native, caller, body, pass, deadline, pause, paid, held }
    }

    /// The next piece; can be cancelled without loss.
    pub(super) async fn next(&mut self) -> Piece {
        let over = async {
            match &self.pass {
                Some(pass) => pass.ended().await,
                None => std::future::pending().await,
            }
        };
        let idle = self.native.ingest.idle_timeout();
        let read = async {
            if !self.pause.is_zero() {
                sleep(std::mem::take(&mut self.pause)).await;
            }
            let deadline = self.deadline.unwrap_or_else(|| Instant::now() + idle);
            timeout_at(deadline, next_data(self.body)).await
        };
        let piece = tokio::select! {
            read = read => read.unwrap_or_else(|_| Piece::Refused(self.too_late())),
            () = self.native.shutdown.stopping() => Piece::Stopping,
            over = over => Piece::Over(over),
        };
        match &piece {
            Piece::Data(data) if !self.hold(self.held + data.len()) => Piece::Refused(no_room()),
            _ => piece,
        }
    }

    /// Notes how much waits to become an event; whether there is room for it.
    fn hold(&mut self, held: usize) -> bool {
        let unfinished = self.native.ingest.unfinished();
        unfinished.replace(std::mem::replace(&mut self.held, held), held);
        let fits = !unfinished.is_exceeded();
        if !fits {
            self.native.hub.metrics().limit_hit("publish.max_unfinished");
        }
        fits
    }

    /// Pays for a piece that was published.
    pub(super) fn pay(&mut self, bytes: usize, kept: &Tally) {
        self.pay_for(kept.events, bytes as u64);
    }

    /// The same, by all events so far. Past what its sender may, a stream is read more slowly;
    /// whoever sends documents meets the debt with the next.
    pub(super) fn pay_for(&mut self, events: u64, bytes: u64) {
        let more = events.saturating_sub(self.paid);
        if more > 0 {
            self.hold(0);
        }
        self.paid = self.paid.max(events);
        if let Some(exceeded) = self.caller.payer().charge(more, bytes) {
            self.native.hub.metrics().limit_hit(exceeded.limit);
            if self.deadline.is_none() {
                self.pause = exceeded.retry_after;
            }
        }
        if let Some(account) = self.caller.payer().account() {
            self.native.hub.evict_for(account);
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
        self.hold(0);
    }
}

fn no_room() -> Problem {
    let detail = "as much of unfinished bodies waits as `publish.max_unfinished` allows";
    Problem::new(ErrorCode::Overloaded, detail).with("limit", "publish.max_unfinished")
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

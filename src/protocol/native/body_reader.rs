//! The body of a publish request: read piece by piece, within its deadline and its access lease,
//! and no faster than the publisher's quota allows.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Native;
use crate::http::{Caller, ErrorCode, Problem, RequestBody, broke_off, late};
use crate::ingest::{Share, Tally};
use crate::lease::{AccessLease, LeaseEnd};

/// Reads the body of a publish request.
pub(super) struct BodyReader {
    /// The hub, and the memory that the body uses.
    share: Share<Native>,
    caller: Caller,
    body: RequestBody,
    deadline: Deadline,
    /// Nothing is read until then: what was already read is a debt.
    paused_until: Option<Instant>,
    /// Number of events that are paid for.
    paid: u64,
    /// Resolves when the sender's access ends; `None` if that cannot happen. This and `alarm` are
    /// kept from piece to piece, because setting a timer for each of many pieces is expensive.
    over: Option<Pin<Box<dyn Future<Output = LeaseEnd> + Send>>>,
    /// Fires no later than the deadline; a piece that arrived meanwhile may have moved the
    /// deadline. `None` until the reader has to wait.
    alarm: Option<Pin<Box<Sleep>>>,
}

/// The caller of a request, and the limits of reading its body.
pub(super) struct ReadPolicy {
    caller: Caller,
    deadline: Deadline,
    lease: Option<AccessLease>,
}

/// The deadline of a body.
#[derive(Clone, Copy)]
enum Deadline {
    /// Deadline of a document, by which all of it must arrive.
    Absolute(Instant),
    /// Time of the last piece of a stream, which may last, but not be silent.
    Idle(Instant),
}

impl ReadPolicy {
    /// The policy of a stream, which lasts as long as its sender and its lease allow.
    pub(super) fn stream(caller: Caller, lease: AccessLease) -> Self {
        Self { caller, deadline: Deadline::Idle(Instant::now()), lease: Some(lease) }
    }

    /// The policy of a document, which is too short for a lease to matter.
    pub(super) fn document(caller: Caller, deadline: Instant) -> Self {
        Self { caller, deadline: Deadline::Absolute(deadline), lease: None }
    }
}

/// The result of one read.
pub(super) enum BodyRead {
    Data(Bytes),
    End,
    /// The body ended early: the connection broke, it was too slow, or the sender's access ended.
    BrokenOff(Problem),
    Stopping,
}

impl BodyReader {
    pub(super) fn new(native: Arc<Native>, body: RequestBody, policy: ReadPolicy) -> Self {
        let ReadPolicy { caller, deadline, lease } = policy;
        let over = |lease: AccessLease| Box::pin(async move { lease.ended().await }) as Pin<Box<_>>;
        Self {
            share: Share::new(native),
            caller,
            body,
            deadline,
            paused_until: None,
            paid: 0,
            over: lease.map(over),
            alarm: None,
        }
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    pub(super) fn native(&self) -> &Native {
        self.share.home()
    }

    /// Reads the next piece. Cancel safe.
    pub(super) async fn next(&mut self) -> BodyRead {
        if let Some(until) = self.paused_until
            && let Some(instead) = Box::pin(self.pause(until)).await
        {
            return instead;
        }
        if let Some(piece) = self.take_ready() {
            return piece;
        }
        loop {
            let late = self.deadline();
            let Self { share, body, over, alarm, .. } = self;
            // The alarm is set last, and only by readers that have to wait.
            tokio::select! {
                biased;
                over = over_or_never(over) => return BodyRead::BrokenOff(Problem::over(over)),
                () = share.home().shutdown.stopping() => return BodyRead::Stopping,
                piece = next_data(body) => {
                    self.touch();
                    return piece;
                }
                () = async { alarm.get_or_insert_with(|| Box::pin(sleep_until(late))).await } => {
                    if late <= Instant::now() {
                        return BodyRead::BrokenOff(self.too_late());
                    }
                    self.alarm = None;
                }
            }
        }
    }

    /// Returns the next result if it is available without waiting, which is the usual case and
    /// saves registering wakers. The checks come first: otherwise they would never run for a sender
    /// that is always ready.
    fn take_ready(&mut self) -> Option<BodyRead> {
        if let Some(over) = over_or_never(&mut self.over).now_or_never() {
            return Some(BodyRead::BrokenOff(Problem::over(over)));
        }
        if self.native().shutdown.is_stopping() {
            return Some(BodyRead::Stopping);
        }
        let piece = next_data(&mut self.body).now_or_never()?;
        self.touch();
        Some(piece)
    }

    /// Waits until the debt is paid. Returns a result if the body ends before that.
    async fn pause(&mut self, until: Instant) -> Option<BodyRead> {
        tokio::select! {
            () = sleep_until(until) => {
                self.paused_until = None;
                self.touch();
                None
            }
            () = self.share.home().shutdown.stopping() => Some(BodyRead::Stopping),
            over = over_or_never(&mut self.over) => Some(BodyRead::BrokenOff(Problem::over(over))),
        }
    }

    fn deadline(&self) -> Instant {
        match self.deadline {
            Deadline::Absolute(deadline) => deadline,
            Deadline::Idle(last) => last + self.native().ingest.idle_timeout(),
        }
    }

    /// Moves the deadline of a stream; a document's is fixed.
    fn touch(&mut self) {
        if let Deadline::Idle(last) = &mut self.deadline {
            *last = Instant::now();
        }
    }

    /// Accounts for the memory of data that is not an event yet.
    ///
    /// # Errors
    /// The memory limit is reached.
    pub(super) fn hold(&mut self, held: usize) -> Result<(), Problem> {
        Ok(self.share.hold(held)?)
    }

    /// Skips payment for the events that an earlier request with the same key has paid for.
    pub(super) fn begin_after(&mut self, kept: &Tally) {
        self.paid = kept.events;
    }

    /// Charges a piece, given the total number of events so far. A stream in debt is read more
    /// slowly; a document's sender meets the debt at its next request.
    pub(super) fn pay(&mut self, events: u64, bytes: usize) {
        self.share.note_read(bytes);
        let more = events.saturating_sub(self.paid);
        self.paid = self.paid.max(events);
        if let Some(exceeded) = self.caller.payer().charge(more, bytes as u64) {
            self.native().hub.metrics().limit_hit(exceeded.limit);
            if matches!(self.deadline, Deadline::Idle(_)) {
                self.paused_until = Some(Instant::now() + exceeded.retry_after);
            }
        }
    }

    fn too_late(&self) -> Problem {
        let metrics = self.native().hub.metrics();
        if matches!(self.deadline, Deadline::Absolute(_)) {
            metrics.limit_hit("server.body_timeout");
            return late();
        }
        metrics.limit_hit("publish.idle_timeout");
        let detail = "the body sent nothing for as long as `publish.idle_timeout` allows";
        Problem::new(ErrorCode::RequestTimeout, detail).with("limit", "publish.idle_timeout")
    }
}

async fn over_or_never(over: &mut Option<impl Future<Output = LeaseEnd> + Unpin>) -> LeaseEnd {
    match over {
        Some(over) => over.await,
        None => pending().await,
    }
}

async fn next_data(body: &mut RequestBody) -> BodyRead {
    loop {
        match body.frame().await {
            None => return BodyRead::End,
            Some(Err(_)) => return BodyRead::BrokenOff(broke_off()),
            // Trailers are ignored: a publish needs none.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return BodyRead::Data(data);
                }
            }
        }
    }
}

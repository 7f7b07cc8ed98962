//! The body of a publish as it comes in: piece by piece, for as long as its sender may go on, and
//! as fast as it has paid for.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Native;
use crate::http::{Caller, ErrorCode, Problem, broke_off, late, let_finish};
use crate::ingest::{Share, Tally};
use crate::lease::{AccessLease, LeaseEnd};

/// See the module.
pub(super) struct BodyReader {
    /// The hub, and what the body takes of its memory.
    share: Share<Native>,
    caller: Caller,
    body: Incoming,
    deadline: Deadline,
    /// Nothing is read until then: what was read is not paid for.
    paused_until: Option<Instant>,
    /// Events that are paid for.
    paid: u64,
    /// Resolves when the sender may no longer go on; nothing if that never happens. This and the
    /// next are kept from piece to piece: there are many, and none is to set a clock of its own.
    over: Option<Pin<Box<dyn Future<Output = LeaseEnd> + Send>>>,
    /// Goes off no later than when it is too late; by then, something may have come. Whoever is
    /// never waited for has none.
    alarm: Option<Pin<Box<Sleep>>>,
}

/// Whose a body is, and for how long it may come.
pub(super) struct ReadPolicy {
    caller: Caller,
    deadline: Deadline,
    lease: Option<AccessLease>,
}

/// How long a body is waited for.
#[derive(Clone, Copy)]
enum Deadline {
    /// It is a document, and all of it must be there by then.
    Absolute(Instant),
    /// It is a stream, which may go on, but not fall silent: when something last came.
    Idle(Instant),
}

impl ReadPolicy {
    /// It goes on for as long as its sender likes, and as the lease lets it.
    pub(super) fn stream(caller: Caller, lease: AccessLease) -> Self {
        Self { caller, deadline: Deadline::Idle(Instant::now()), lease: Some(lease) }
    }

    /// It is over in a moment, and so needs no pass.
    pub(super) fn document(caller: Caller, deadline: Instant) -> Self {
        Self { caller, deadline: Deadline::Absolute(deadline), lease: None }
    }
}

/// What comes next.
pub(super) enum BodyRead {
    Data(Bytes),
    End,
    /// There is an end to it, before its own: it broke off, is late, or may not go on.
    BrokenOff(Problem),
    Stopping,
}

impl BodyReader {
    pub(super) fn new(native: Arc<Native>, body: Incoming, terms: ReadPolicy) -> Self {
        let ReadPolicy { caller, deadline, lease } = terms;
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

    /// Lets the sender come to the end of it, if they are answered earlier.
    pub(super) fn let_finish(self) {
        let_finish(self.body);
    }

    pub(super) fn native(&self) -> &Native {
        self.share.home()
    }

    /// The next piece; can be cancelled without loss.
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
            // The alarm is set last, by those alone who must wait.
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

    /// What comes next, if that need not be waited for: as a rule, for then nobody has to be told
    /// who waits. In this order, or whoever never rests would never be told that it is over.
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

    /// Waits until what was read is paid for, or something else comes first.
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

    /// Something came. Whoever sends a document has their time in any case.
    fn touch(&mut self) {
        if let Deadline::Idle(last) = &mut self.deadline {
            *last = Instant::now();
        }
    }

    /// Notes how much memory is taken by what waits to become an event.
    ///
    /// # Errors
    /// There is no room for so much.
    pub(super) fn hold(&mut self, held: usize) -> Result<(), Problem> {
        Ok(self.share.hold(held)?)
    }

    /// These events were paid for by an earlier request with the same key.
    pub(super) fn begin_after(&mut self, kept: &Tally) {
        self.paid = kept.events;
    }

    /// Pays for a piece, by all events so far. Past what its sender may, a stream is read more
    /// slowly; whoever sends documents meets the debt with the next.
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

async fn next_data(body: &mut Incoming) -> BodyRead {
    loop {
        match body.frame().await {
            None => return BodyRead::End,
            Some(Err(_)) => return BodyRead::BrokenOff(broke_off()),
            // Trailers say nothing that a publish needs.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return BodyRead::Data(data);
                }
            }
        }
    }
}

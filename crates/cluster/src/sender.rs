//! Sends the commands of one hub: cuts batches, numbers them, sends them again, and reports the
//! outcome of each command to what asked for it.
//!
//! No timer delays a batch. While fewer batches than [`Limits::in_flight`] are under way, the next
//! one is cut at once; commands that come meanwhile collect for the one after it. So batches grow
//! with the load.
//!
//! A batch counts as stored when the state machine has applied it, and only then: acknowledgements
//! of the log can be lost, and their order is not that of the log. Until then it can be sent again
//! any number of times, because the state machine applies each number of a session once.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::batch::{Codec, Header, MAX_WEIGHT, OVERHEAD, write_command};
use crate::command::{Command, Hello, SessionId};
use crate::log::{NotStored, SendNumber};
use crate::state_machine::{Applied, Effect, MAX_PARTS_BYTES, Outcome, Rejection, Verdict};

/// The shortest time between two returns to the first batch that is not applied.
const MIN_RESEND: Duration = Duration::from_millis(20);

/// Sizes and intervals of a sender.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of batches that are sent and not applied.
    pub in_flight: usize,
    /// Maximum bytes of a message.
    pub max_message: usize,
    /// Maximum bytes of the commands that are not applied.
    pub max_unsent: usize,
    /// Time after which a batch that was not applied is sent again.
    pub resend_after: Duration,
    /// Time after which a message that the log has not stored is sent again.
    pub retry_after: Duration,
    /// Time without a batch after which an empty one is sent: other hubs need to hear of this one.
    pub heartbeat: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight: 2,
            max_message: 256 << 10,
            max_unsent: MAX_PARTS_BYTES,
            resend_after: Duration::from_millis(600),
            retry_after: Duration::from_millis(100),
            heartbeat: Duration::from_secs(1),
        }
    }
}

/// The hub's commands on their way to the log. `T` is what asked for a command. Times count from
/// any fixed moment.
#[derive(Debug)]
pub struct Sender<T> {
    codec: Codec,
    limits: Limits,
    hello: Hello,
    session: Session,
    /// Batches that are not sent; commands are added to the last one.
    queued: VecDeque<Batch<T>>,
    /// Batches that are sent and not applied.
    sent: VecDeque<Batch<T>>,
    /// The next part to send, of [`sent`](Self::sent): batch and part.
    next_part: (usize, u64),
    /// Bytes of all commands that are not applied.
    bytes: usize,
    sends: u64,
    /// When the first of [`sent`](Self::sent) became the first, or was sent again.
    waiting_since: Duration,
    resend_at: Option<Duration>,
    last_resend: Option<Duration>,
    last_cut: Duration,
    is_leaving: bool,
}

/// The session under which batches are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Session {
    /// A hello is sent, and again until it is applied.
    Beginning {
        due: Duration,
        send: SendNumber,
        /// The session before it. Until the hello is applied, its batches may be.
        old: Option<SessionId>,
    },
    Live {
        id: SessionId,
        /// The number of the next batch.
        next: u64,
    },
    /// The hub has left.
    Over,
}

/// A batch: commands, and what asked for them.
#[derive(Debug)]
struct Batch<T> {
    body: BytesMut,
    weight: usize,
    tickets: Vec<T>,
    /// The number of its first part in the session.
    first: u64,
    /// The numbers of the last sends of its parts.
    sends: Range<u64>,
    /// Whether the log has refused one of them for good.
    is_refused: bool,
}

/// A command is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Too many commands are not applied yet.
    #[error("too many commands wait for the log")]
    Overloaded,
    /// The command exceeds what one batch can have.
    #[error("the command is too large for the log")]
    TooLarge,
    /// The hub is leaving.
    #[error("the hub is leaving the cluster")]
    Leaving,
}

/// The log refuses the batch of the command, for example as too large. It was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log refuses the command")]
pub struct Refused;

/// The outcomes of commands, each with what asked for it.
pub type Reports<T> = Vec<(T, Result<Outcome, Refused>)>;

impl<T> Sender<T> {
    /// Returns a sender that begins a session with this hello. Its nonce is random.
    #[must_use]
    pub fn new(codec: Codec, hello: Hello, limits: Limits) -> Self {
        Self {
            codec,
            limits,
            hello,
            session: Session::Beginning { due: Duration::ZERO, send: SendNumber(0), old: None },
            queued: VecDeque::new(),
            sent: VecDeque::new(),
            next_part: (0, 0),
            bytes: 0,
            sends: 0,
            waiting_since: Duration::ZERO,
            resend_at: None,
            last_resend: None,
            last_cut: Duration::ZERO,
            is_leaving: false,
        }
    }

    /// Returns the session, while it is live.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        match self.session {
            Session::Live { id, .. } => Some(id),
            Session::Beginning { .. } | Session::Over => None,
        }
    }

    /// Returns the bytes of all commands that are not applied.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.bytes
    }

    /// Returns whether all commands are applied.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queued.is_empty() && self.sent.iter().all(|batch| batch.tickets.is_empty())
    }

    /// Queues a command. [`Command::Bye`] is the last one.
    ///
    /// # Errors
    /// The command is not taken, and will not be sent.
    pub fn submit(&mut self, command: &Command, ticket: T) -> Result<(), SubmitError> {
        let weight = command.weight();
        if self.is_leaving {
            return Err(SubmitError::Leaving);
        }
        if weight > MAX_WEIGHT {
            return Err(SubmitError::TooLarge);
        }
        let mut body = BytesMut::new();
        write_command(command, &mut body);
        if body.len() > MAX_PARTS_BYTES {
            return Err(SubmitError::TooLarge);
        }
        if self.bytes > 0 && self.bytes + body.len() > self.limits.max_unsent {
            return Err(SubmitError::Overloaded);
        }
        self.is_leaving = *command == Command::Bye;
        self.bytes += body.len();
        let max_body = self.max_body();
        match self.queued.back_mut() {
            Some(last)
                if last.body.len() + body.len() <= max_body
                    && last.weight + weight <= MAX_WEIGHT =>
            {
                last.body.extend_from_slice(&body);
                last.weight += weight;
                last.tickets.push(ticket);
            }
            _ => self.queued.push_back(Batch { weight, tickets: vec![ticket], ..Batch::new(body) }),
        }
        Ok(())
    }

    fn max_body(&self) -> usize {
        self.limits.max_message.saturating_sub(OVERHEAD).max(1)
    }

    /// Returns the next message to send now, if there is one. Call this until it returns none,
    /// after each call of another method and at [`next_poll`](Self::next_poll).
    pub fn poll(&mut self, now: Duration) -> Option<(SendNumber, Bytes)> {
        let id = match self.session {
            Session::Live { id, .. } => id,
            Session::Beginning { due, .. } if due <= now => return Some(self.send_hello(now)),
            Session::Beginning { .. } | Session::Over => return None,
        };
        if self.resend_time().is_some_and(|time| time <= now) {
            self.resend(now);
        }
        if self.next_part.0 >= self.sent.len() {
            self.cut(now)?;
        }
        let (at, part) = self.next_part;
        let max_body = self.max_body();
        let send = self.next_send();
        let batch = self.sent.get_mut(at)?;
        let parts = batch.parts(max_body);
        if part == 0 {
            batch.sends = send.0..send.0;
        }
        batch.sends.end = send.0 + 1;
        let header = Header {
            session: id,
            number: batch.first + part,
            more: part + 1 < parts,
            continues: part > 0,
        };
        let content = self.codec.encode(header, batch.part(part, max_body));
        self.next_part = if header.more { (at, part + 1) } else { (at + 1, 0) };
        Some((send, content))
    }

    /// Returns the next time at which there may be something to send, although nothing happens.
    #[must_use]
    pub fn next_poll(&self) -> Option<Duration> {
        match self.session {
            Session::Beginning { due, .. } => Some(due),
            Session::Live { .. } if self.sent.is_empty() => {
                Some(self.last_cut + self.limits.heartbeat)
            }
            Session::Live { .. } => self.resend_time(),
            Session::Over => None,
        }
    }

    /// Notes a message that was applied: every message of the log, in order. Returns the outcomes
    /// of the commands that it had of this hub.
    pub fn applied(&mut self, applied: &Applied, now: Duration) -> Reports<T> {
        let mut reports = Vec::new();
        match (self.session, &applied.verdict) {
            (Session::Beginning { .. }, Verdict::Began { nonce }) if *nonce == self.hello.nonce => {
                reports = self.begin(SessionId(applied.sequence), now);
            }
            (_, verdict) if self.latest_session() == Some(applied.session) => {
                reports = self.note_verdict(verdict, applied.number, now);
            }
            _ => {}
        }
        let own = self.latest_session();
        let is_own_end = |effect: &Effect| match effect {
            Effect::SessionEnded { session } => Some(*session) == own,
            _ => false,
        };
        if applied.effects.iter().any(is_own_end) {
            self.begin_again(now);
        }
        reports
    }

    /// Returns the session whose numbers the batches have.
    fn latest_session(&self) -> Option<SessionId> {
        match self.session {
            Session::Live { id, .. } => Some(id),
            Session::Beginning { old, .. } => old,
            Session::Over => None,
        }
    }

    fn note_verdict(&mut self, verdict: &Verdict, number: u64, now: Duration) -> Reports<T> {
        match verdict {
            Verdict::Applied(outcomes) => {
                let tickets = self.take_first(number, now);
                tickets.into_iter().zip(outcomes.iter().map(|outcome| Ok(*outcome))).collect()
            }
            Verdict::Rejected(Rejection::Invalid | Rejection::Incomplete) => {
                let tickets = self.take_first(number, now);
                tickets.into_iter().map(|ticket| (ticket, Err(Refused))).collect()
            }
            Verdict::Rejected(Rejection::Early) => {
                let earliest = self.last_resend.map_or(now, |last| now.max(last + MIN_RESEND));
                self.resend_by(earliest);
                Vec::new()
            }
            Verdict::Rejected(Rejection::NoSession) => {
                self.begin_again(now);
                Vec::new()
            }
            Verdict::Began { .. } | Verdict::Collected | Verdict::Rejected(_) => Vec::new(),
        }
    }

    /// Removes the first batch, if this is the number of its last part.
    fn take_first(&mut self, number: u64, now: Duration) -> Vec<T> {
        let max_body = self.max_body();
        let is_last = |batch: &mut Batch<T>| batch.first + batch.parts(max_body) == number + 1;
        let Some(batch) = self.sent.pop_front_if(is_last) else { return Vec::new() };
        self.bytes -= batch.body.len();
        self.waiting_since = now;
        self.next_part = match self.next_part {
            (0, _) => (0, 0),
            (at, part) => (at - 1, part),
        };
        batch.tickets
    }

    /// Notes that the log has not stored a message.
    pub fn not_stored(&mut self, number: SendNumber, reason: NotStored, now: Duration) {
        let retry = now + self.limits.retry_after;
        match &mut self.session {
            Session::Beginning { due, send, .. } if *send == number => *due = retry,
            _ if reason == NotStored::Refused => self.note_refused(number, now),
            Session::Live { .. } => self.resend_by(retry),
            Session::Beginning { .. } | Session::Over => {}
        }
    }

    /// Notes that the log refuses a batch. It is dropped when another session has begun: then its
    /// number is not missing, and no earlier copy of it can be applied.
    fn note_refused(&mut self, number: SendNumber, now: Duration) {
        let mut sent = self.sent.iter_mut();
        if let Some(batch) = sent.find(|batch| batch.sends.contains(&number.0)) {
            batch.is_refused = true;
            self.begin_again(now);
        }
    }

    fn next_send(&mut self) -> SendNumber {
        self.sends += 1;
        SendNumber(self.sends)
    }

    fn send_hello(&mut self, now: Duration) -> (SendNumber, Bytes) {
        let (send, old) = (self.next_send(), self.latest_session());
        self.session = Session::Beginning { due: now + self.limits.resend_after, send, old };
        let mut body = BytesMut::new();
        write_command(&Command::Hello(self.hello.clone()), &mut body);
        (send, self.codec.encode(Header::default(), &body))
    }

    /// Begins another session. When its hello is applied, no batch of this one can be applied any
    /// more: what was not applied before is then sent again.
    fn begin_again(&mut self, now: Duration) {
        if self.is_leaving && self.is_idle() {
            self.session = Session::Over;
        } else if let Session::Live { id, .. } = self.session {
            self.hello.replaces = Some(id);
            self.hello.nonce = self.hello.nonce.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
            self.session = Session::Beginning { due: now, send: SendNumber(0), old: Some(id) };
        }
    }

    /// Sends in a session that has begun. Returns the commands that the log refuses.
    fn begin(&mut self, id: SessionId, now: Duration) -> Reports<T> {
        let max_body = self.max_body();
        let mut next = 1;
        let mut refused = Vec::new();
        for mut batch in std::mem::take(&mut self.sent) {
            if batch.is_refused {
                self.bytes -= batch.body.len();
                refused.extend(batch.tickets.into_iter().map(|ticket| (ticket, Err(Refused))));
                continue;
            }
            batch.first = next;
            next += batch.parts(max_body);
            self.sent.push_back(batch);
        }
        self.session = Session::Live { id, next };
        self.resend(now);
        refused
    }

    /// Returns when to return to the first batch that is not applied.
    fn resend_time(&self) -> Option<Duration> {
        let late = (!self.sent.is_empty()).then(|| self.waiting_since + self.limits.resend_after);
        match (late, self.resend_at) {
            (Some(late), Some(at)) => Some(late.min(at)),
            (late, _) => late,
        }
    }

    fn resend_by(&mut self, time: Duration) {
        self.resend_at = Some(self.resend_at.map_or(time, |at| at.min(time)));
    }

    fn resend(&mut self, now: Duration) {
        self.next_part = (0, 0);
        self.waiting_since = now;
        self.resend_at = None;
        self.last_resend = Some(now);
    }

    /// Makes the next queued batch one that is sent, or an empty one if a heartbeat is due.
    fn cut(&mut self, now: Duration) -> Option<()> {
        let Session::Live { next, .. } = self.session else { return None };
        if self.sent.len() >= self.limits.in_flight {
            return None;
        }
        let is_due = self.sent.is_empty() && now >= self.last_cut + self.limits.heartbeat;
        let heartbeat = || is_due.then(|| Batch::new(BytesMut::new()));
        let mut batch = self.queued.pop_front().or_else(heartbeat)?;
        batch.first = next;
        let next = next + batch.parts(self.max_body());
        if let Session::Live { next: number, .. } = &mut self.session {
            *number = next;
        }
        if self.sent.is_empty() {
            self.waiting_since = now;
        }
        self.last_cut = now;
        self.sent.push_back(batch);
        Some(())
    }
}

impl<T> Batch<T> {
    fn new(body: BytesMut) -> Self {
        Self { body, weight: 0, tickets: Vec::new(), first: 0, sends: 0..0, is_refused: false }
    }

    /// Returns the number of messages that it is sent as.
    fn parts(&self, max_body: usize) -> u64 {
        self.body.len().div_ceil(max_body).max(1) as u64
    }

    fn part(&self, part: u64, max_body: usize) -> &[u8] {
        let from = usize::try_from(part).unwrap_or(usize::MAX).saturating_mul(max_body);
        let to = from.saturating_add(max_body).min(self.body.len());
        self.body.get(from..to).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;

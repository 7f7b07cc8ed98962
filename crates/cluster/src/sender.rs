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

mod transmission;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::batch::{Codec, Header, MAX_WEIGHT, OVERHEAD, check_texts, write_command};
use crate::command::{Command, Hello, SessionId};
use crate::log::{NotStored, SendNumber};
use crate::state_machine::{Applied, Effect, MAX_PARTS_BYTES, Outcome, Rejection, Verdict};
use crate::text::Text;
use transmission::Transmission;

/// Maximum bytes of the commands that end what others wait for: they are taken also when there is
/// no room for others.
const MAX_ENDING: usize = 8 << 20;

/// Bytes of a command that is not applied, besides its encoded form and what asked for it.
const COMMAND_BYTES: usize = 32;

/// Sizes and intervals of a sender.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of batches that are sent and not applied.
    pub in_flight: usize,
    /// Maximum bytes of a message.
    pub max_message: usize,
    /// Maximum bytes of the commands that are not applied.
    pub max_unsent: usize,
    /// Time without progress after which what was not applied is sent again. It doubles twice, as
    /// long as there is none.
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
    /// The messages of [`sent`](Self::sent), by number.
    transmission: Transmission,
    unsent: Unsent,
    sends: u64,
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
    unsent: Unsent,
    /// The number of its first part in the session.
    first: u64,
    /// Whether the log has refused one of them for good.
    is_refused: bool,
}

/// Bytes of commands that are not applied, with what asked for them.
#[derive(Clone, Copy, Debug, Default)]
struct Unsent {
    /// Of those that end what others wait for.
    ending: usize,
    /// Of all others.
    other: usize,
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
    /// A text of the command is not valid: no hub would accept its batch.
    #[error("the command has a text that is not valid")]
    Invalid,
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
            transmission: Transmission::new(limits.resend_after),
            unsent: Unsent::default(),
            sends: 0,
            last_cut: Duration::ZERO,
            is_leaving: false,
        }
    }

    /// Describes the hub like this in sessions that begin from now on. To describe it in the live
    /// one, submit the hello.
    pub fn describe(&mut self, node: Text, rules: u64) {
        (self.hello.node, self.hello.rules) = (node, rules);
    }

    /// Returns the session, while it is live.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        match self.session {
            Session::Live { id, .. } => Some(id),
            Session::Beginning { .. } | Session::Over => None,
        }
    }

    /// Returns the bytes of all commands that are not applied, with what asked for them.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.unsent.ending + self.unsent.other
    }

    /// Returns whether all commands are applied.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queued.is_empty() && self.sent.iter().all(|batch| batch.tickets.is_empty())
    }

    /// Queues a command. [`Command::Bye`] is the last one. One that ends what others wait for, such
    /// as [`Command::Release`], has room of its own.
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
        check_texts(command).map_err(|_| SubmitError::Invalid)?;
        let mut body = BytesMut::new();
        write_command(command, &mut body);
        if body.len() > MAX_PARTS_BYTES {
            return Err(SubmitError::TooLarge);
        }
        let unsent = Unsent::of::<T>(command, body.len());
        self.unsent = self.unsent.with(unsent, self.limits.max_unsent)?;
        self.is_leaving = *command == Command::Bye;
        let max_body = self.max_body();
        match self.queued.back_mut() {
            Some(last)
                if last.body.len() + body.len() <= max_body
                    && last.weight + weight <= MAX_WEIGHT =>
            {
                last.body.extend_from_slice(&body);
                last.weight += weight;
                last.unsent.add(unsent);
                last.tickets.push(ticket);
            }
            _ => {
                let tickets = vec![ticket];
                self.queued.push_back(Batch { weight, tickets, unsent, ..Batch::new(body) });
            }
        }
        Ok(())
    }

    fn max_body(&self) -> usize {
        self.limits.max_message.saturating_sub(OVERHEAD).max(1)
    }

    /// Returns the next message to send now, if there is one. Call this until it returns none,
    /// after each call of another method and at [`next_poll`](Self::next_poll).
    pub fn poll(&mut self, now: Duration) -> Option<(SendNumber, Bytes)> {
        let (id, end) = match self.session {
            Session::Live { id, next } => (id, next),
            Session::Beginning { due, .. } if due <= now => return Some(self.send_hello(now)),
            Session::Beginning { .. } | Session::Over => return None,
        };
        self.transmission.return_if_due(now);
        let number = self.transmission.next()?;
        if number >= end {
            self.cut(now)?;
        }
        let content = self.message(id, number)?;
        let send = self.next_send();
        self.transmission.note_sent(send, now);
        Some((send, content))
    }

    /// Returns the message that has a number.
    fn message(&self, session: SessionId, number: u64) -> Option<Bytes> {
        let max_body = self.max_body();
        let batch = self.sent.iter().find(|batch| number < batch.end(max_body))?;
        let part = number.checked_sub(batch.first)?;
        let (more, continues) = (number + 1 < batch.end(max_body), part > 0);
        let header = Header { session, number, more, continues };
        Some(self.codec.encode(header, batch.part(part, max_body)))
    }

    /// Returns the next time at which there may be something to send, although nothing happens.
    #[must_use]
    pub fn next_poll(&self) -> Option<Duration> {
        match self.session {
            Session::Beginning { due, .. } => Some(due),
            Session::Live { .. } if self.sent.is_empty() => {
                Some(self.last_cut + self.limits.heartbeat)
            }
            Session::Live { .. } => self.transmission.return_time(),
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
    #[must_use]
    pub fn latest_session(&self) -> Option<SessionId> {
        match self.session {
            Session::Live { id, .. } => Some(id),
            Session::Beginning { old, .. } => old,
            Session::Over => None,
        }
    }

    fn note_verdict(&mut self, verdict: &Verdict, number: u64, now: Duration) -> Reports<T> {
        match verdict {
            Verdict::Collected => {
                self.transmission.note_taken(number, now);
                Vec::new()
            }
            Verdict::Applied(outcomes) => {
                let tickets = self.take_first(number, now);
                tickets.into_iter().zip(outcomes.iter().map(|outcome| Ok(*outcome))).collect()
            }
            Verdict::Rejected(Rejection::Invalid | Rejection::Incomplete) => {
                let tickets = self.take_first(number, now);
                tickets.into_iter().map(|ticket| (ticket, Err(Refused))).collect()
            }
            Verdict::Rejected(Rejection::Early) => {
                self.transmission.note_early(number, now);
                Vec::new()
            }
            Verdict::Rejected(Rejection::NoSession) => {
                self.begin_again(now);
                Vec::new()
            }
            Verdict::Began { .. } | Verdict::Rejected(_) => Vec::new(),
        }
    }

    /// Removes the first batch, if this is the number of its last part.
    fn take_first(&mut self, number: u64, now: Duration) -> Vec<T> {
        let max_body = self.max_body();
        self.transmission.note_taken(number, now);
        let is_last = |batch: &mut Batch<T>| batch.end(max_body) == number + 1;
        let Some(batch) = self.sent.pop_front_if(is_last) else { return Vec::new() };
        self.unsent.remove(batch.unsent);
        if self.sent.is_empty() {
            self.transmission.forget_return();
        }
        batch.tickets
    }

    /// Notes that the log has not stored a message. Of one that was sent again since, it says
    /// nothing.
    pub fn not_stored(&mut self, number: SendNumber, reason: NotStored, now: Duration) {
        let retry = now + self.limits.retry_after;
        match &mut self.session {
            Session::Beginning { due, send, .. } if *send == number => return *due = retry,
            _ => {}
        }
        let Some(message) = self.transmission.message_of(number) else { return };
        match (self.session, reason) {
            (_, NotStored::Refused) => self.note_refused(message, now),
            (Session::Live { .. }, _) => self.transmission.return_by(retry),
            (Session::Beginning { .. } | Session::Over, _) => {}
        }
    }

    /// Notes that the log refuses a batch. It is dropped when another session has begun: then its
    /// number is not missing, and no earlier copy of it can be applied.
    fn note_refused(&mut self, number: u64, now: Duration) {
        let max_body = self.max_body();
        let mut sent = self.sent.iter_mut();
        if let Some(batch) = sent.find(|batch| number < batch.end(max_body)) {
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
                self.unsent.remove(batch.unsent);
                refused.extend(batch.tickets.into_iter().map(|ticket| (ticket, Err(Refused))));
                continue;
            }
            batch.first = next;
            next += batch.parts(max_body);
            self.sent.push_back(batch);
        }
        self.session = Session::Live { id, next };
        self.transmission.begin(now);
        refused
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
        self.last_cut = now;
        self.sent.push_back(batch);
        Some(())
    }
}

impl<T> Batch<T> {
    fn new(body: BytesMut) -> Self {
        let (unsent, tickets) = Default::default();
        Self { body, weight: 0, tickets, unsent, first: 0, is_refused: false }
    }

    /// Returns the number of messages that it is sent as.
    fn parts(&self, max_body: usize) -> u64 {
        self.body.len().div_ceil(max_body).max(1) as u64
    }

    /// Returns the number of the message after its last one.
    fn end(&self, max_body: usize) -> u64 {
        self.first + self.parts(max_body)
    }

    fn part(&self, part: u64, max_body: usize) -> &[u8] {
        let from = usize::try_from(part).unwrap_or(usize::MAX).saturating_mul(max_body);
        let to = from.saturating_add(max_body).min(self.body.len());
        self.body.get(from..to).unwrap_or_default()
    }
}

impl Unsent {
    /// Returns the bytes of a command that was encoded as this number of bytes.
    fn of<T>(command: &Command, encoded: usize) -> Self {
        let bytes = encoded + size_of::<T>() + COMMAND_BYTES;
        match command {
            // There is one, which is the last.
            Command::Bye => Self::default(),
            Command::Release(_)
            | Command::ReleaseKey(_)
            | Command::Stop(_)
            | Command::Lapse(_)
            | Command::Check(_) => Self { ending: bytes, other: 0 },
            _ => Self { ending: 0, other: bytes },
        }
    }

    /// Returns the bytes with those of a command, if there is room. There is for one alone.
    fn with(self, command: Self, max_other: usize) -> Result<Self, SubmitError> {
        let is_full = |bytes: usize, more: usize, max: usize| bytes > 0 && bytes + more > max;
        if command.other > 0 && is_full(self.other, command.other, max_other)
            || command.ending > 0 && is_full(self.ending, command.ending, MAX_ENDING)
        {
            return Err(SubmitError::Overloaded);
        }
        Ok(Self { ending: self.ending + command.ending, other: self.other + command.other })
    }

    fn add(&mut self, other: Self) {
        self.ending += other.ending;
        self.other += other.other;
    }

    fn remove(&mut self, other: Self) {
        self.ending -= other.ending;
        self.other -= other.other;
    }
}

#[cfg(test)]
mod tests;

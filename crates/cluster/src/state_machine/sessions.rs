//! Sessions: which hubs take part, and which of their batches is the next.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::applied::Rejection;
use crate::batch::Header;
use crate::command::{Hello, SessionId};
use crate::log::{LogTime, Sequence};

/// Maximum number of sessions: far above the number of hubs that can apply one log.
pub const MAX_SESSIONS: usize = 1000;

/// Maximum bytes of the parts of one batch.
pub const MAX_PARTS_BYTES: usize = 64 << 20;

/// Maximum time that one step of the log adds to the lease clock: no hub can send while the log
/// does not move, so this time is no absence.
const MAX_STEP: u64 = 2_000_000_000;

/// A clock that follows the time of the log, and stops when the log stops. In nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LeaseClock {
    pub(super) log_time: LogTime,
    /// The latest time of the server that stamps messages. Unlike the time of the log, it goes
    /// back when another server has another clock.
    server_time: LogTime,
    elapsed: u64,
}

impl LeaseClock {
    pub(super) fn advance(&mut self, time: LogTime) {
        let is_first = self.log_time == LogTime::default();
        // A smaller step back is the scatter of stamps, and would count twice.
        let is_set_back = time.0.saturating_add(MAX_STEP) < self.server_time.0;
        if is_first || is_set_back {
            self.server_time = time;
        }
        let step = time.0.saturating_sub(self.server_time.0).min(MAX_STEP);
        self.server_time = self.server_time.max(time);
        self.elapsed += step;
        self.log_time = time.max(LogTime(self.log_time.0.saturating_add(step)));
    }
}

/// The hubs that take part.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sessions {
    lease: u64,
    pub(super) clock: LeaseClock,
    live: BTreeMap<SessionId, Session>,
    /// No session expires before this time of the lease clock.
    expiry: u64,
    /// Whether the beginning of the log was trimmed, so that the first messages are of sessions
    /// whose hello is gone.
    is_trimmed: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Session {
    level: u64,
    nonce: u64,
    /// The message in which it was last described; zero if its hello is gone.
    described: Sequence,
    /// The number of the next batch.
    next: u64,
    /// The time of the lease clock at which it was last heard of.
    heard: u64,
    /// The parts of a batch whose last part is still to come.
    parts: Parts,
    /// Whether its hello is gone.
    is_adopted: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Parts {
    /// There are none.
    #[default]
    None,
    /// All parts so far.
    Collected(BytesMut),
    /// Earlier parts are gone, or there are too many bytes.
    Lost,
}

/// The body of a batch that is the next of its session.
pub(super) enum Accepted {
    /// All of the batch.
    Whole(Bytes),
    /// A part that is not the last.
    Part,
}

impl Sessions {
    pub(super) fn new(lease: u64) -> Self {
        let (clock, live) = Default::default();
        Self { lease, clock, live, expiry: 0, is_trimmed: false }
    }

    /// Notes that the beginning of the log is gone.
    pub(super) fn note_trimmed(&mut self) {
        self.is_trimmed = true;
    }

    /// Returns whether sessions are adopted without a hello. Every live session sends within the
    /// lease, so that after it all of them are known.
    pub(super) fn adopts(&self) -> bool {
        self.is_trimmed && self.clock.elapsed < self.lease
    }

    /// Removes and returns the sessions that were not heard of for the lease.
    pub(super) fn expire(&mut self) -> Vec<SessionId> {
        let now = self.clock.elapsed;
        if now < self.expiry {
            return Vec::new();
        }
        let lease = self.lease;
        let expired = self.live.extract_if(.., |_, session| session.heard + lease <= now);
        let expired = expired.map(|(id, _)| id).collect();
        let earliest = self.live.values().map(|session| session.heard).min().unwrap_or(now);
        self.expiry = earliest + lease;
        expired
    }

    /// Begins a session with the sequence of its hello. Returns the one that it replaces, if that
    /// was live.
    pub(super) fn begin(
        &mut self,
        sequence: Sequence,
        hello: &Hello,
    ) -> Result<Option<SessionId>, Rejection> {
        if self.live.values().any(|session| session.nonce == hello.nonce && !session.is_adopted) {
            return Err(Rejection::Repeated);
        }
        let replaced = hello.replaces.filter(|old| self.end(*old));
        let (level, nonce) = (hello.level, hello.nonce);
        let session = Session { level, nonce, described: sequence, ..self.fresh(1) };
        self.insert(SessionId(sequence), session)?;
        Ok(replaced)
    }

    fn insert(&mut self, id: SessionId, session: Session) -> Result<(), Rejection> {
        if self.live.len() >= MAX_SESSIONS {
            return Err(Rejection::TooManySessions);
        }
        self.expiry = self.expiry.min(session.heard + self.lease);
        self.live.insert(id, session);
        Ok(())
    }

    fn fresh(&self, next: u64) -> Session {
        let heard = self.clock.elapsed;
        let (parts, described) = Default::default();
        Session { level: 0, nonce: 0, described, next, heard, parts, is_adopted: false }
    }

    /// Notes what a hub says of itself in a message of a running session.
    pub(super) fn describe(&mut self, id: SessionId, hello: &Hello, sequence: Sequence) {
        if let Some(session) = self.live.get_mut(&id) {
            (session.level, session.nonce) = (hello.level, hello.nonce);
            session.described = sequence;
        }
    }

    /// Returns whether a live session was last described before a message.
    pub(super) fn is_described_before(&self, id: SessionId, sequence: Sequence) -> bool {
        self.live.get(&id).is_some_and(|session| session.described < sequence)
    }

    /// Returns the live session that began first.
    pub(super) fn first(&self) -> Option<SessionId> {
        self.live.keys().next().copied()
    }

    /// Ends a session. Returns whether it was live.
    pub(super) fn end(&mut self, id: SessionId) -> bool {
        self.live.remove(&id).is_some()
    }

    pub(super) fn is_live(&self, id: SessionId) -> bool {
        self.live.contains_key(&id)
    }

    /// Returns whether a session is live, or is one that was not heard of yet.
    pub(super) fn may_be_live(&self, id: SessionId) -> bool {
        self.is_live(id) || self.adopts()
    }

    /// Returns the time since a session was heard of.
    pub(super) fn silence(&self, id: SessionId) -> u64 {
        self.live.get(&id).map_or(0, |session| self.clock.elapsed.saturating_sub(session.heard))
    }

    /// Returns the lowest level of the live sessions.
    pub(super) fn level(&self) -> Option<u64> {
        self.live.values().map(|session| session.level).min()
    }

    /// Accepts a batch if its session is live and its number is the next one.
    pub(super) fn accept(&mut self, header: Header, body: Bytes) -> Result<Accepted, Rejection> {
        let now = self.clock.elapsed;
        let adopts = self.adopts();
        if adopts && !self.is_live(header.session) {
            let session = Session { is_adopted: true, ..self.fresh(header.number) };
            self.insert(header.session, session)?;
        }
        let session = self.live.get_mut(&header.session).ok_or(Rejection::NoSession)?;
        session.heard = now;
        if header.number < session.next {
            return Err(Rejection::Repeated);
        }
        // Of an adopted session, the batches before this one may be gone.
        if header.number > session.next {
            if !(adopts && session.is_adopted) {
                return Err(Rejection::Early);
            }
            session.parts = Parts::None;
        }
        session.next = header.number.saturating_add(1);
        session.collect(header, body)
    }
}

#[cfg(test)]
impl Sessions {
    /// Compares the sessions of a replica that began later with these, level and nonce aside.
    pub(super) fn is_same(&self, other: &Self) -> Result<(), String> {
        let view = |sessions: &Self| -> Vec<_> {
            let live = sessions.live.iter();
            live.map(|(id, session)| (*id, session.next, sessions.silence(*id))).collect()
        };
        let views = [view(self), view(other)];
        if views[0] == views[1] { Ok(()) } else { Err(format!("{views:?}")) }
    }
}

impl Session {
    fn collect(&mut self, header: Header, body: Bytes) -> Result<Accepted, Rejection> {
        let before = std::mem::take(&mut self.parts);
        let parts = match (header.continues, before) {
            (false, _) if !header.more => return Ok(Accepted::Whole(body)),
            (false, _) => Parts::Collected(BytesMut::from(&body[..])),
            (true, Parts::Collected(mut parts)) if parts.len() + body.len() <= MAX_PARTS_BYTES => {
                parts.extend_from_slice(&body);
                Parts::Collected(parts)
            }
            (true, _) => Parts::Lost,
        };
        match parts {
            parts if header.more => {
                self.parts = parts;
                Ok(Accepted::Part)
            }
            Parts::Collected(parts) => Ok(Accepted::Whole(parts.freeze())),
            Parts::None | Parts::Lost => Err(Rejection::Incomplete),
        }
    }
}

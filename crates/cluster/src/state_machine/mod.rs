//! The state machine that each hub applies the log with. It depends on nothing but the messages: no
//! clock, no setting, no I/O, and no order of a hash table. So all hubs have the same state.
//!
//! Memory is bounded: at most [`MAX_SESSIONS`] sessions, which are forgotten after the lease;
//! [`MAX_CHANNELS`] channels, of which those that have ended are forgotten by the time of the log;
//! and [`MAX_KEYS`] idempotency keys.

mod applied;
mod channels;
mod context;
mod digest;
mod gone;
mod keys;
mod sessions;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;

pub use self::applied::{
    Appended, Applied, Change, Effect, End, KeyStatus, KeyTotals, Outcome, Refusal, Rejection,
    Verdict,
};
use self::channels::Channels;
pub use self::channels::MAX_CHANNELS;
use self::context::Context;
use self::digest::Digests;
pub use self::keys::MAX_KEYS;
use self::keys::{Admission, Keys};
use self::sessions::{Accepted, Sessions};
pub use self::sessions::{MAX_PARTS_BYTES, MAX_SESSIONS};
use crate::batch::{BatchError, Codec, CommandError, Header, read_commands};
use crate::command::{Append, Check, Command, EpochChange, Hello, KeyId, SessionId};
use crate::log::{LogTime, Message, Sequence};
use crate::offset::Offset;
use crate::text::Text;

/// Maximum number of commands that a hub sends again at once.
pub const MAX_RENEWALS: usize = 1000;

/// The state of the cluster, as far as the log was applied.
#[derive(Debug)]
pub struct StateMachine {
    codec: Codec,
    epoch: Text,
    /// Whether an epoch has begun in the log: until then, it may be an earlier one than that with
    /// which the replica was made.
    has_begun_epoch: bool,
    last: Option<Sequence>,
    /// The offset from which on no session is adopted.
    certain: Offset,
    sessions: Sessions,
    channels: Channels,
    keys: Keys,
    digests: Digests,
}

/// The message cannot be applied, and none that follows: the hub must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The message is of a later version.
    #[error("this version of the hub is too old for the log: {0}")]
    Version(#[from] BatchError),
    /// The message is signed: the hub would begin sessions that no other hub knows.
    #[error("the hub has no secret of the cluster: {0}")]
    NoSecret(BatchError),
    /// A command is of a later version.
    #[error("this version of the hub is too old for the log: {0}")]
    Command(#[from] CommandError),
    /// The message does not follow on the last one.
    #[error("the message {} does not follow on {}", .got.0, .last.0)]
    Order {
        /// The last message that was applied.
        last: Sequence,
        /// The message that came.
        got: Sequence,
    },
}

impl StateMachine {
    /// Returns the state before the first message. All hubs of a cluster have the same secret, and
    /// the epoch and the lease with which the log was created. A session that was not heard of for
    /// the lease is over.
    #[must_use]
    pub fn new(codec: Codec, epoch: Text, lease: Duration) -> Self {
        let lease = u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX / 2);
        Self {
            codec,
            epoch,
            has_begun_epoch: false,
            last: None,
            certain: Offset::default(),
            sessions: Sessions::new(lease),
            channels: Channels::default(),
            keys: Keys::default(),
            digests: Digests::default(),
        }
    }

    /// Returns the current epoch.
    #[must_use]
    pub fn epoch(&self) -> &Text {
        &self.epoch
    }

    /// Returns the last message that was applied.
    #[must_use]
    pub fn last(&self) -> Option<Sequence> {
        self.last
    }

    /// Returns the lowest level of all live sessions: commands of a higher one must not be sent.
    #[must_use]
    pub fn level(&self) -> Option<u64> {
        self.sessions.level()
    }

    /// Returns whether a session is live.
    #[must_use]
    pub fn is_live(&self, session: SessionId) -> bool {
        self.sessions.is_live(session)
    }

    /// Returns what a session must send again, so that hubs that begin to read later know what was
    /// last reported before a message: at most [`MAX_RENEWALS`] commands, those that are due for
    /// longest first. A hub calls this several times within the time for which the log is kept,
    /// when what it has returned before is applied. Only the session that began first reports the
    /// channels. Ends and keys are not reported: the log is kept for longer than they are.
    pub fn renewals(
        &self,
        session: SessionId,
        hello: &Hello,
        older_than: Sequence,
    ) -> impl Iterator<Item = Command> {
        let is_due = self.sessions.is_described_before(session, older_than);
        let hello = is_due.then(|| Command::Hello(hello.clone()));
        let is_first = self.sessions.first() == Some(session);
        let older_than = if is_first { older_than } else { Sequence(0) };
        let until = Offset::new(self.last.unwrap_or_default().next(), 0);
        let channels = self.channels.renewals(older_than, until).map(Command::Renew);
        hello.into_iter().chain(channels).take(MAX_RENEWALS)
    }

    /// Returns what is known of an idempotency key; nothing if it was not used, or is forgotten. A
    /// hub that produces for a request with a key asks before: the channel of a publish that has
    /// succeeded may have ended, and may be free for another generation. Commands that are not
    /// applied yet may still change the answer; the use in an append decides.
    #[must_use]
    pub fn key(&self, id: &KeyId) -> Option<KeyStatus> {
        self.keys.status(id)
    }

    /// Returns the digest of the last complete window, for the hub to send when it changes.
    #[must_use]
    pub fn last_check(&self) -> Option<Check> {
        self.digests.last()
    }

    /// Returns whether two replicas that began with the same message have the same state.
    #[must_use]
    pub fn is_equal(&self, other: &Self) -> bool {
        self.last == other.last
            && self.epoch == other.epoch
            && self.sessions == other.sessions
            && self.channels == other.channels
            && self.keys == other.keys
            && self.digests.is_equal(&other.digests)
    }

    /// Notes that the log was read to its end. A replica that began at a trimmed front knows from
    /// now on what the others know, and compares its state with theirs.
    pub fn settle(&mut self) {
        self.digests.settle();
    }

    /// Applies the next message of the log.
    ///
    /// # Errors
    /// The hub must stop, because its state would be another one than that of newer hubs.
    pub fn apply(&mut self, message: &Message) -> Result<Applied, ApplyError> {
        self.advance(message)?;
        let now = self.sessions.clock.log_time;
        let mut cx = Context::new(message.sequence, now, self.certain);
        for session in self.sessions.expire() {
            self.note_ended(session, &mut cx);
        }
        self.channels.forget(&mut cx);
        self.keys.forget(&cx);
        let (header, verdict) = match self.codec.decode(&message.content) {
            Ok((header, body)) => (header, self.take(header, body, &mut cx)?),
            Err(error @ BatchError::Version(_)) => return Err(error.into()),
            Err(error @ BatchError::NoSecret) => return Err(ApplyError::NoSecret(error)),
            Err(_) => (Header::default(), Verdict::Rejected(Rejection::NoBatch)),
        };
        self.digests.add(message.sequence, header, &verdict);
        Ok(Applied {
            sequence: message.sequence,
            time: now,
            session: header.session,
            number: header.number,
            verdict,
            effects: cx.effects,
        })
    }

    fn advance(&mut self, message: &Message) -> Result<(), ApplyError> {
        let got = message.sequence;
        match self.last {
            Some(last) if got != last.next() => return Err(ApplyError::Order { last, got }),
            Some(_) => {}
            None if got > Sequence(1) => self.sessions.note_trimmed(),
            None => self.digests.settle(),
        }
        self.last = Some(got);
        self.sessions.clock.advance(message.time);
        if self.sessions.adopts() {
            self.certain = Offset::new(got.next(), 0);
        }
        Ok(())
    }

    fn take(
        &mut self,
        header: Header,
        body: Bytes,
        cx: &mut Context,
    ) -> Result<Verdict, ApplyError> {
        if header.session == SessionId::default() {
            return self.begin_session(body, cx);
        }
        let body = match self.sessions.accept(header, body) {
            Ok(Accepted::Whole(body)) => body,
            Ok(Accepted::Part) => return Ok(Verdict::Collected),
            Err(rejection) => return Ok(Verdict::Rejected(rejection)),
        };
        let commands = match read_commands(body) {
            Ok(commands) => commands,
            Err(error @ CommandError::Unsupported(_)) => return Err(error.into()),
            Err(_) => return Ok(Verdict::Rejected(Rejection::Invalid)),
        };
        cx.session = header.session;
        let outcomes = commands.into_iter().map(|command| self.execute(command, cx));
        Ok(Verdict::Applied(outcomes.collect()))
    }

    fn begin_session(&mut self, body: Bytes, cx: &mut Context) -> Result<Verdict, ApplyError> {
        let commands = match read_commands(body) {
            Ok(commands) => commands,
            Err(error @ CommandError::Unsupported(_)) => return Err(error.into()),
            Err(_) => return Ok(Verdict::Rejected(Rejection::Invalid)),
        };
        let [Command::Hello(hello)] = &commands[..] else {
            return Ok(Verdict::Rejected(Rejection::Invalid));
        };
        let sequence = cx.here().sequence();
        let replaced = match self.sessions.begin(sequence, hello) {
            Ok(replaced) => replaced,
            Err(rejection) => return Ok(Verdict::Rejected(rejection)),
        };
        let session = SessionId(sequence);
        if let Some(old) = replaced {
            self.channels.replace_session(old, session, cx);
            self.keys.replace_session(old, session);
            cx.effects.push(Effect::SessionEnded { session: old });
        }
        cx.effects.push(began(session, hello));
        Ok(Verdict::Began { nonce: hello.nonce })
    }

    fn execute(&mut self, command: Command, cx: &mut Context) -> Outcome {
        cx.begin(command.weight());
        if !self.sessions.is_live(cx.session) {
            return Outcome::Refused(Refusal::Left);
        }
        match command {
            Command::Append(append) => self.append(append, cx),
            Command::Produce(produce) => {
                let sessions = &self.sessions;
                self.channels.produce(produce, |session| sessions.silence(session), cx)
            }
            Command::Release(release) => self.channels.release(release, cx),
            Command::Stop(stop) => self.channels.stop(stop, cx),
            Command::Lapse(lapse) => self.channels.lapse(lapse, cx),
            Command::Configure(configure) => self.channels.configure(configure, cx),
            Command::Renew(renew) => {
                let sessions = &self.sessions;
                self.channels.renew(&renew, |session| sessions.may_be_live(session), cx)
            }
            Command::Delete(delete) => self.channels.delete(&delete, cx),
            Command::Epoch(change) => self.begin_epoch(change, cx),
            Command::ReleaseKey(release) => {
                self.keys.release(release, cx).map_or_else(Outcome::Refused, |()| Outcome::Done)
            }
            Command::Check(check) => {
                if self.digests.differs(check) {
                    let (session, window) = (cx.session, check.window);
                    cx.effects.push(Effect::Diverged { session, window });
                }
                // The same for hubs that do not know the window: the outcome is part of digests.
                Outcome::Done
            }
            Command::Hello(hello) => {
                self.sessions.describe(cx.session, &hello, cx.here().sequence());
                cx.effects.push(began(cx.session, &hello));
                Outcome::Done
            }
            Command::Bye => {
                self.sessions.end(cx.session);
                self.note_ended(cx.session, cx);
                Outcome::Done
            }
            Command::Unknown => Outcome::Done,
        }
    }

    fn append(&mut self, mut append: Append, cx: &mut Context) -> Outcome {
        let events = append.events.len();
        match self.keys.admit(&mut append, cx) {
            Admission::Append => {}
            Admission::Replay(totals) => return Outcome::Replayed(totals),
            Admission::Refuse(refusal) => return Outcome::Refused(refusal),
        }
        let using = append.key.take();
        let closes = append.close.is_some();
        match (self.channels.append(append, cx), using) {
            (Outcome::Appended(appended), Some(using)) => {
                let key = Some(self.keys.note(&using, events, appended, closes, cx));
                Outcome::Appended(Appended { key, ..appended })
            }
            (outcome, _) => outcome,
        }
    }

    fn begin_epoch(&mut self, change: EpochChange, cx: &mut Context) -> Outcome {
        let EpochChange { old, new } = change;
        // A hub that began to read after the change has the new epoch from the beginning, or a
        // later one. The first change in a whole log is from the epoch with which it was created.
        let is_first = !self.has_begun_epoch && cx.certain == Offset::default();
        if old != self.epoch && new != self.epoch && !is_first {
            return Outcome::Refused(Refusal::Outdated);
        }
        self.channels.clear();
        self.keys.clear();
        self.epoch = new.detached();
        self.has_begun_epoch = true;
        // From here on, all that exists is known.
        self.certain = Offset::default();
        cx.certain = self.certain;
        cx.effects.push(Effect::EpochBegan { epoch: new });
        Outcome::Done
    }

    /// Ends what depends on a session that has ended.
    fn note_ended(&mut self, session: SessionId, cx: &mut Context) {
        self.channels.end_session(session, cx);
        self.keys.end_session(session);
        cx.effects.push(Effect::SessionEnded { session });
    }

    /// Returns the time of the log.
    #[must_use]
    pub fn time(&self) -> LogTime {
        self.sessions.clock.log_time
    }
}

fn began(session: SessionId, hello: &Hello) -> Effect {
    Effect::SessionBegan { session, node: hello.node.clone(), rules: hello.rules }
}

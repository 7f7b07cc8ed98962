//! Which messages of a session are sent, and when to return to the first that is not stored.

use std::collections::VecDeque;
use std::time::Duration;

use crate::log::SendNumber;

/// Maximum number of messages that are sent and not stored: fewer than a transport queues.
const MAX_OUTSTANDING: usize = 32;

/// The shortest time between two returns.
pub(super) const MIN_RETURN: Duration = Duration::from_millis(20);

/// How often the time without progress doubles: a log that stores nothing for a while stores all
/// copies later.
const MAX_DOUBLINGS: u32 = 2;

/// The messages of one session, by number.
#[derive(Debug)]
pub(super) struct Transmission {
    /// The number of the next message that the state machine takes.
    expected: u64,
    /// The last sends of the messages from [`expected`](Self::expected) on.
    sends: VecDeque<SendNumber>,
    /// The number of the last message that came while an earlier one was missing.
    last_early: Option<u64>,
    /// The time without progress after which to return, as long as there is some.
    patience: Duration,
    /// How often it was exceeded since the last progress.
    doublings: u32,
    waiting_since: Duration,
    return_at: Option<Duration>,
    last_return: Duration,
}

impl Transmission {
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            expected: 1,
            sends: VecDeque::new(),
            last_early: None,
            patience,
            doublings: 0,
            waiting_since: Duration::ZERO,
            return_at: None,
            last_return: Duration::ZERO,
        }
    }

    /// Begins with the first message of another session.
    pub(super) fn begin(&mut self, now: Duration) {
        *self = Self { waiting_since: now, last_return: now, ..Self::new(self.patience) };
    }

    /// Returns the number of the next message to send; `None` if too many are outstanding.
    pub(super) fn next(&self) -> Option<u64> {
        let is_open = self.sends.len() < MAX_OUTSTANDING;
        is_open.then(|| self.expected + self.sends.len() as u64)
    }

    /// Notes that the next message is sent.
    pub(super) fn note_sent(&mut self, send: SendNumber, now: Duration) {
        if self.sends.is_empty() {
            self.waiting_since = now;
        }
        self.sends.push_back(send);
    }

    /// Returns the number of the message that was sent last with this send.
    pub(super) fn message_of(&self, send: SendNumber) -> Option<u64> {
        let at = self.sends.iter().position(|sent| *sent == send)?;
        Some(self.expected + at as u64)
    }

    /// Notes that the state machine has taken a message.
    pub(super) fn note_taken(&mut self, number: u64, now: Duration) {
        if number == self.expected {
            self.expected += 1;
            self.sends.pop_front();
            self.last_early = None;
            self.doublings = 0;
            self.waiting_since = now;
        }
    }

    /// Notes that a message came while an earlier one was missing. If messages with greater numbers
    /// came so before, it was sent again since then, and the earlier one was lost again.
    pub(super) fn note_early(&mut self, number: u64, now: Duration) {
        let before = self.last_early.replace(number);
        if before.is_none_or(|before| number <= before) {
            self.return_by(now.max(self.last_return + MIN_RETURN));
        }
    }

    pub(super) fn return_by(&mut self, time: Duration) {
        self.return_at = Some(self.return_at.map_or(time, |at| at.min(time)));
    }

    /// Notes that there is nothing to return to.
    pub(super) fn forget_return(&mut self) {
        self.return_at = None;
    }

    /// Returns when to return to the first message that is not stored.
    pub(super) fn return_time(&self) -> Option<Duration> {
        let patience = self.patience.saturating_mul(1 << self.doublings);
        let late = (!self.sends.is_empty()).then(|| self.waiting_since + patience);
        late.into_iter().chain(self.return_at).min()
    }

    /// Returns to the first message that is not stored, if it is time.
    pub(super) fn return_if_due(&mut self, now: Duration) {
        if self.return_time().is_none_or(|time| time > now) {
            return;
        }
        if self.return_at.is_none_or(|at| at > now) {
            self.doublings = MAX_DOUBLINGS.min(self.doublings + 1);
        }
        self.sends.clear();
        self.return_at = None;
        self.waiting_since = now;
        self.last_return = now;
    }
}

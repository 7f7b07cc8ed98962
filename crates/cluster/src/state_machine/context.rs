//! What the commands of one message share.

use super::applied::{Change, Effect};
use crate::command::SessionId;
use crate::log::{LogTime, Sequence};
use crate::offset::Offset;
use crate::text::Text;

/// The message whose commands are applied.
pub(super) struct Context {
    /// The session of the sender.
    pub(super) session: SessionId,
    /// The time of the log.
    pub(super) now: LogTime,
    /// The offset from which on the replica knows all sessions. Before it, messages were trimmed,
    /// or a late copy of a batch may have been applied.
    pub(super) certain: Offset,
    /// The next offset.
    next: Offset,
    /// The first offset of the next command.
    end: Offset,
    /// The effects so far.
    pub(super) effects: Vec<Effect>,
}

impl Context {
    pub(super) fn new(sequence: Sequence, now: LogTime, certain: Offset) -> Self {
        let next = Offset::new(sequence, 0);
        let (session, effects) = (SessionId::default(), Vec::new());
        Self { session, now, certain, next, end: next, effects }
    }

    /// Begins a command. It has as many offsets as it weighs, also if it is refused: replicas that
    /// do not know the same channels give the same offsets to the next command.
    pub(super) fn begin(&mut self, weight: usize) {
        self.next = self.end;
        self.end = self.next.plus(weight as u64);
    }

    /// Takes offsets of the command.
    pub(super) fn take(&mut self, count: usize) -> Offset {
        let first = self.next;
        self.next = first.plus(count as u64);
        first
    }

    /// Returns the next offset without taking it.
    pub(super) fn here(&self) -> Offset {
        self.next
    }

    pub(super) fn change(&mut self, name: &Text, life: Offset, change: Change) {
        self.effects.push(Effect::Channel { name: name.clone(), life, change });
    }

    /// Returns the time of the log plus a number of milliseconds.
    pub(super) fn after(&self, milliseconds: u64) -> LogTime {
        LogTime(self.now.0.saturating_add(milliseconds.saturating_mul(1_000_000)))
    }
}

//! How far the log was read, and what was read last.

use std::collections::VecDeque;

use crate::log::{Message, Sequence};

/// The number of messages of which the checksums are kept. A log that has lost its end has other
/// messages among them: a hub has few in flight that it sends again.
pub(super) const REMEMBERED: usize = 16;

/// The place of a message, compared with what was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is the next.
    Next,
    /// Others come before it that were not read.
    Later,
    /// It was read.
    Known,
    /// It should have been read long ago: the log may be another one.
    Old,
    /// Another message was read in its place.
    Differs,
}

/// How far the log was read, and the checksums of the last messages.
#[derive(Debug)]
pub(super) struct Position {
    next: Sequence,
    recent: VecDeque<u32>,
}

impl Position {
    /// Returns a position before this message.
    pub(super) const fn before(next: Sequence) -> Self {
        Self { next, recent: VecDeque::new() }
    }

    /// Returns whether no message was read.
    pub(super) fn is_at_begin(&self) -> bool {
        self.recent.is_empty()
    }

    /// Returns the message that is to be read next.
    pub(super) const fn next(&self) -> Sequence {
        self.next
    }

    /// Returns the first message of which the checksum is known; the next, if there is none.
    pub(super) fn remembered(&self) -> Sequence {
        Sequence(self.next.0 - self.recent.len() as u64)
    }

    /// Compares a message with what was read.
    pub(super) fn place(&self, message: &Message) -> Place {
        let Some(age) = self.next.0.checked_sub(message.sequence.0) else { return Place::Later };
        if age == 0 {
            return Place::Next;
        }
        let at = usize::try_from(age).ok().and_then(|age| self.recent.len().checked_sub(age));
        match at.and_then(|at| self.recent.get(at)) {
            None => Place::Old,
            Some(checksum) if *checksum == crc32fast::hash(&message.content) => Place::Known,
            Some(_) => Place::Differs,
        }
    }

    /// Advances by the next message.
    pub(super) fn advance(&mut self, message: &Message) {
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back(crc32fast::hash(&message.content));
        self.next = message.sequence.next();
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::log::LogTime;

    fn message(sequence: u64, content: &'static str) -> Message {
        let content = Bytes::from_static(content.as_bytes());
        Message { sequence: Sequence(sequence), time: LogTime(0), content }
    }

    #[test]
    fn a_message_is_compared_with_what_was_read_in_its_place() {
        let mut position = Position::before(Sequence(5));
        assert_eq!(position.place(&message(5, "a")), Place::Next);
        assert_eq!(position.place(&message(4, "a")), Place::Old);
        for sequence in 5..30 {
            position.advance(&message(sequence, "a"));
        }
        assert_eq!(position.next(), Sequence(30));
        assert_eq!(position.remembered(), Sequence(14));
        assert_eq!(position.place(&message(31, "a")), Place::Later);
        assert_eq!(position.place(&message(29, "a")), Place::Known);
        assert_eq!(position.place(&message(14, "a")), Place::Known);
        assert_eq!(position.place(&message(14, "b")), Place::Differs);
        assert_eq!(position.place(&message(13, "a")), Place::Old);
    }
}

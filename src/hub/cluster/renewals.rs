//! What the hub sends to the log again, before the log deletes it: hubs that begin to read later
//! must know it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fanfare_cluster::log::Sequence;

/// Number of places of the log that are remembered for each interval of renewal.
const MARKS: u32 = 16;

/// Finds what is due to be sent again.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    /// Places in the log, with the time and the number of bytes before them.
    marks: VecDeque<Mark>,
    /// Bytes of the messages that were applied.
    bytes: u64,
    /// Cloned into the tickets of what was sent again and is not applied.
    pending: Arc<()>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    time: Duration,
    bytes: u64,
    sequence: Sequence,
}

impl Renewals {
    /// Notes a message that was applied. `every` and `every_bytes` are the age and the number of
    /// bytes of later messages at which its content is sent again.
    pub(super) fn note(
        &mut self,
        now: Duration,
        sequence: Sequence,
        bytes: usize,
        (every, every_bytes): (Duration, u64),
    ) {
        self.bytes += bytes as u64;
        let Mark { time, bytes, .. } =
            self.marks.back().copied().unwrap_or(Mark { time: Duration::ZERO, bytes: 0, sequence });
        let is_due = now >= time + every / MARKS
            || self.bytes >= bytes.saturating_add(every_bytes / u64::from(MARKS));
        if self.marks.is_empty() || is_due {
            self.marks.push_back(Mark { time: now, bytes: self.bytes, sequence });
        }
    }

    /// Returns the message before which everything is due to be sent again, and what the tickets of
    /// that keep. `None` as long as what was sent before is not applied.
    pub(super) fn due(
        &mut self,
        now: Duration,
        (every, every_bytes): (Duration, u64),
    ) -> Option<(Sequence, Arc<()>)> {
        if Arc::strong_count(&self.pending) > 1 {
            return None;
        }
        let is_old = |mark: &Mark| {
            now >= mark.time + every || self.bytes >= mark.bytes.saturating_add(every_bytes)
        };
        // The newest of those that are old enough stays.
        while self.marks.get(1).is_some_and(is_old) {
            self.marks.pop_front();
        }
        let oldest = self.marks.front().filter(|mark| is_old(mark))?;
        Some((oldest.sequence, self.pending.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: (Duration, u64) = (Duration::from_secs(16), 1600);

    #[test]
    fn messages_are_due_by_their_age_and_by_what_came_after_them() {
        let mut renewals = Renewals::default();
        for second in 0..20 {
            renewals.note(Duration::from_secs(second), Sequence(second + 1), 1, EVERY);
        }
        let at = Duration::from_secs(19);
        let (due, pending) = renewals.due(at, EVERY).unwrap();
        assert_eq!(due, Sequence(4));
        assert!(renewals.due(at, EVERY).is_none(), "the first are not applied");
        drop(pending);
        renewals.note(at, Sequence(21), 1600, EVERY);
        assert_eq!(renewals.due(at, EVERY).unwrap().0, Sequence(20));
    }

    #[test]
    fn a_place_is_remembered_for_a_bounded_number_of_times() {
        let mut renewals = Renewals::default();
        for message in 0..10_000 {
            renewals.note(Duration::from_millis(message), Sequence(message + 1), 10, EVERY);
            drop(renewals.due(Duration::from_millis(message), EVERY));
        }
        assert!(renewals.marks.len() <= 2 * MARKS as usize + 2);
    }
}

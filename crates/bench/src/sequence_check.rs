//! The event numbers that one subscriber has received: exact about losses, late events and
//! duplicates, in a few bytes.

use std::ops::Range;

/// The received event numbers of a channel.
#[derive(Debug)]
pub(crate) struct SequenceCheck {
    next: u32,
    /// Numbers that were skipped and have not arrived; without a hole there is no allocation.
    #[allow(clippy::box_collection, reason = "8 bytes instead of 24, thousands of times")]
    holes: Option<Box<Vec<Range<u32>>>>,
}

/// The classification of a received event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SequenceVerdict {
    /// New, and greater than all before.
    Fresh,
    /// New, but received after an event with a greater number.
    Late,
    Duplicate,
}

impl SequenceCheck {
    /// Creates a check for a subscriber that should receive the events from `next` on.
    pub(crate) fn starting_at(next: u32) -> Self {
        Self { next, holes: None }
    }

    /// Returns the next expected number.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Returns the number of missing events below the next expected one.
    pub(crate) fn missing(&self) -> u64 {
        let holes = self.holes.iter().flat_map(|holes| holes.iter());
        holes.map(|hole| u64::from(hole.end - hole.start)).sum()
    }

    #[inline]
    pub(crate) fn note(&mut self, seq: u32) -> SequenceVerdict {
        if seq == self.next {
            self.next += 1;
            return SequenceVerdict::Fresh;
        }
        self.note_unexpected(seq)
    }

    #[cold]
    fn note_unexpected(&mut self, seq: u32) -> SequenceVerdict {
        if seq > self.next {
            self.holes.get_or_insert_default().push(self.next..seq);
            self.next = seq.saturating_add(1);
            return SequenceVerdict::Fresh;
        }
        let Some(holes) = self.holes.as_mut() else {
            return SequenceVerdict::Duplicate;
        };
        let Some(at) = holes.iter().position(|hole| hole.contains(&seq)) else {
            return SequenceVerdict::Duplicate;
        };
        let hole = holes.swap_remove(at);
        let parts = [hole.start..seq, seq + 1..hole.end];
        holes.extend(parts.into_iter().filter(|part| !part.is_empty()));
        SequenceVerdict::Late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_latecomers_and_duplicates_are_told_apart() {
        let mut sequence = SequenceCheck::starting_at(0);
        let verdicts: Vec<_> =
            [0, 1, 1, 5, 3, 3, 2, 4, 6, 0].into_iter().map(|seq| sequence.note(seq)).collect();
        use SequenceVerdict::{Duplicate, Fresh, Late};
        let expected = [Fresh, Fresh, Duplicate, Fresh, Late, Duplicate, Late, Late, Fresh];
        assert_eq!(verdicts[..9], expected);
        assert_eq!(verdicts[9], Duplicate);
        assert_eq!((sequence.next(), sequence.missing()), (7, 0));
    }

    #[test]
    fn a_hole_that_stays_is_missing() {
        let mut sequence = SequenceCheck::starting_at(10);
        sequence.note(20);
        sequence.note(12);
        assert_eq!((sequence.next(), sequence.missing()), (21, 9));
        assert_eq!(sequence.note(3), SequenceVerdict::Duplicate);
    }
}

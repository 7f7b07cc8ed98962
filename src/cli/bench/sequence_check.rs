//! What one subscriber has received: exact about holes, latecomers and duplicates, in few bytes.

use std::ops::Range;

/// The numbers of a channel's events as they came.
#[derive(Debug)]
pub(super) struct SequenceCheck {
    next: u32,
    /// What was jumped over and has not come yet; a subscriber without a hole has no allocation.
    #[allow(clippy::box_collection, reason = "8 bytes instead of 24, thousands of times")]
    holes: Option<Box<Vec<Range<u32>>>>,
}

/// What an event was to a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SequenceVerdict {
    /// New, and after all that came before.
    Fresh,
    /// New, but after one that should have come after it.
    Late,
    Duplicate,
}

impl SequenceCheck {
    /// A subscriber that should receive the events from `next` on.
    pub(super) fn starting_at(next: u32) -> Self {
        Self { next, holes: None }
    }

    /// The number that should come next.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    /// How many events are missing among those that should have come so far.
    pub(super) fn missing(&self) -> u64 {
        let holes = self.holes.iter().flat_map(|holes| holes.iter());
        holes.map(|hole| u64::from(hole.end - hole.start)).sum()
    }

    #[inline]
    pub(super) fn note(&mut self, seq: u32) -> SequenceVerdict {
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

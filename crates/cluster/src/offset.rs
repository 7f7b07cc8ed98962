//! Offsets: the places of events in the log.

use crate::log::Sequence;

/// Number of bits of an offset that count within a message.
const INDEX_BITS: u32 = 16;

/// The place of an event, or of another change, in the one order of the log. Offsets increase
/// strictly, not by one, and are the same on all hubs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl Offset {
    /// Returns the offset of a change within a message.
    #[must_use]
    pub const fn new(sequence: Sequence, index: u16) -> Self {
        Self(sequence.0 << INDEX_BITS | index as u64)
    }

    /// Returns the message that made the change.
    #[must_use]
    pub const fn sequence(self) -> Sequence {
        Sequence(self.0 >> INDEX_BITS)
    }

    /// Returns the offset that is `count` places further in the same message.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0 + count)
    }
}

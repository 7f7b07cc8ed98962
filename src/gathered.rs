//! Bytes that come piece by piece, and are of use when all of them are there.
//!
//! One buffer that grows is copied each time, has its old and its new room at once, and up to twice
//! the room that it uses. Here they are gathered in portions, which are copied once, at the end.

/// Bytes of a portion.
const PORTION: usize = 32 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Portions without room.
    full: Vec<Vec<u8>>,
    /// The one that has room. It grows up to a portion; bytes that come first are as they come.
    last: Vec<u8>,
    len: usize,
}

impl Gathered {
    /// Nothing yet, and this room for it.
    #[must_use]
    pub fn within(mut room: Vec<u8>) -> Self {
        room.clear();
        Self { last: room, ..Self::default() }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory that they take.
    #[must_use]
    pub fn room(&self) -> usize {
        let full: usize = self.full.iter().map(Vec::capacity).sum();
        full + self.full.capacity() * size_of::<Vec<u8>>() + self.last.capacity()
    }

    /// The one that came last.
    #[must_use]
    pub fn last(&self) -> Option<u8> {
        // A portion is begun when there is something for it.
        self.last.last().copied()
    }

    /// Takes these as well.
    pub fn extend(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        if self.last.capacity() == 0 {
            // All there is, as a rule.
            return self.last = bytes.to_vec();
        }
        while !bytes.is_empty() {
            let (used, wanted) = (self.last.len(), self.last.len() + bytes.len());
            if wanted > self.last.capacity() && self.last.capacity() < PORTION {
                self.last.reserve_exact(wanted.next_power_of_two().min(PORTION) - used);
            }
            if used == self.last.capacity() {
                let full = std::mem::replace(&mut self.last, Vec::with_capacity(PORTION));
                self.full.push(full);
                continue;
            }
            let (some, more) = bytes.split_at(bytes.len().min(self.last.capacity() - used));
            self.last.extend_from_slice(some);
            bytes = more;
        }
    }

    /// All of them in one piece; none are left. What was copied is freed before more is.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        let Self { full, last, len } = std::mem::take(self);
        if full.is_empty() {
            return last;
        }
        let mut all = Vec::with_capacity(len);
        for portion in full.into_iter().chain([last]) {
            all.extend_from_slice(&portion);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wherever_bytes_are_cut_all_come_back_and_little_room_is_unused() {
        let bytes: Vec<u8> = (0..PORTION * 5 + 17).map(|number| (number % 251) as u8).collect();
        for size in [1, 7, 1000, PORTION - 1, PORTION, PORTION + 1, PORTION * 3, bytes.len()] {
            let mut gathered = Gathered::default();
            let mut seen = 0;
            for piece in bytes.chunks(size) {
                gathered.extend(piece);
                seen += piece.len();
                assert_eq!((gathered.len(), gathered.last()), (seen, piece.last().copied()));
                let unused = gathered.room() - seen;
                assert!(unused <= PORTION + 1024, "{unused} of {seen} in pieces of {size}");
            }
            assert_eq!(gathered.take(), bytes, "pieces of {size}");
            assert_eq!((gathered.len(), gathered.room(), gathered.last()), (0, 0, None));
        }
    }
}

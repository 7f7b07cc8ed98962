//! A byte buffer for data that arrives piece by piece and is needed as a whole.
//!
//! One growing buffer is copied at each growth, needs its old and its new memory at once, and has
//! up to twice the capacity that it uses. This one collects portions, which are copied once, at the
//! end.

/// Bytes in a portion.
const PORTION: usize = 32 * 1024;

/// A byte buffer that collects portions, and returns them as one `Vec`.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Portions that are full.
    full: Vec<Vec<u8>>,
    /// The portion that is being filled. It grows up to `PORTION`; the first bytes are kept as
    /// given.
    last: Vec<u8>,
    len: usize,
}

impl Gathered {
    /// Creates an empty buffer that uses the capacity of `room`.
    #[must_use]
    pub fn within(mut room: Vec<u8>) -> Self {
        room.clear();
        Self { last: room, ..Self::default() }
    }

    /// Returns the number of bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the bytes of allocated memory.
    #[must_use]
    pub fn room(&self) -> usize {
        let full: usize = self.full.iter().map(Vec::capacity).sum();
        full + self.full.capacity() * size_of::<Vec<u8>>() + self.last.capacity()
    }

    /// Returns the last byte.
    #[must_use]
    pub fn last(&self) -> Option<u8> {
        // A portion is begun only when there are bytes for it.
        self.last.last().copied()
    }

    /// Appends bytes.
    pub fn extend(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        if self.last.capacity() == 0 {
            // Usually these are all the bytes.
            return self.last = bytes.to_vec();
        }
        while !bytes.is_empty() {
            let used = self.last.len();
            let wanted = self.last.len() + bytes.len();
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

    /// Returns all bytes in one piece, and empties the buffer. A portion that was copied is freed
    /// before the next is copied.
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

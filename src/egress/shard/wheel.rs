//! A wheel of heartbeats: whose turn has come is found without looking at anybody else.

/// Turns of the wheel; a heartbeat is due at most once around.
const SLOTS: u64 = 64;

/// Keys by the tick at which they are due.
pub(super) struct Wheel {
    slots: Vec<Vec<u32>>,
    /// Milliseconds per tick.
    tick: u64,
    /// Ticks that have been taken.
    taken: u64,
}

impl Wheel {
    /// A wheel that goes around in a little more than `span` milliseconds.
    pub(super) fn new(span: u64) -> Self {
        let slots = (0..SLOTS).map(|_| Vec::new()).collect();
        Self { slots, tick: (span / (SLOTS - 4)).max(1), taken: 0 }
    }

    /// Milliseconds per tick.
    pub(super) fn tick(&self) -> u64 {
        self.tick
    }

    /// Puts a key where it is due in so many milliseconds. Returns a mark of that tick, which it
    /// will be taken with.
    pub(super) fn put(&mut self, key: u32, delay: u64) -> u32 {
        let due = self.taken + 1 + (delay / self.tick).min(SLOTS - 2);
        self.slots[(due % SLOTS) as usize].push(key);
        due as u32
    }

    /// Takes all keys that are due by this time, in milliseconds since the start, each with the
    /// mark of its tick.
    pub(super) fn take_due(&mut self, now: u64, due: &mut Vec<(u32, u32)>) {
        while self.taken < now / self.tick {
            self.taken += 1;
            let slot = std::mem::take(&mut self.slots[(self.taken % SLOTS) as usize]);
            due.extend(slot.into_iter().map(|key| (key, self.taken as u32)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_when_it_is_due_and_once() {
        let mut wheel = Wheel::new(15_000);
        let tick = wheel.tick();
        let marks: Vec<_> =
            [0, 7_000, 15_000, 1_000_000].iter().map(|delay| wheel.put(7, *delay)).collect();
        let mut taken = Vec::new();
        for now in (0..40_000).step_by(100) {
            let mut due = Vec::new();
            wheel.take_due(now, &mut due);
            taken.extend(due.into_iter().map(|(_, mark)| (mark, now)));
        }
        assert_eq!(taken.iter().map(|(mark, _)| *mark).collect::<Vec<_>>(), marks);
        assert!(taken[1].1.abs_diff(7_000) <= 2 * tick + 100, "{taken:?}");
        assert!(taken[2].1.abs_diff(15_000) <= 2 * tick + 100, "{taken:?}");
    }
}

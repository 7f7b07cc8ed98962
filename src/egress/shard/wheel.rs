//! A timer wheel for heartbeats: due keys are found without a scan of the others.

/// Slots of the wheel; a key is due within one rotation.
const SLOTS: u64 = 64;

/// Keys by the tick at which they are due.
pub(super) struct Wheel {
    slots: Vec<Vec<u32>>,
    /// Milliseconds per tick.
    tick: u64,
    /// The last tick that was taken.
    taken: u64,
}

impl Wheel {
    /// Creates a wheel that rotates in a little more than `span` milliseconds.
    pub(super) fn new(span: u64) -> Self {
        let slots = (0..SLOTS).map(|_| Vec::new()).collect();
        Self { slots, tick: (span / (SLOTS - 4)).max(1), taken: 0 }
    }

    /// Returns the number of milliseconds per tick.
    pub(super) fn tick(&self) -> u64 {
        self.tick
    }

    /// Schedules a key after a delay in milliseconds. Returns the tick at which it is due, which
    /// identifies it when it is taken.
    pub(super) fn put(&mut self, key: u32, delay: u64) -> u32 {
        let due = self.taken + 1 + (delay / self.tick).min(SLOTS - 2);
        self.slots[(due % SLOTS) as usize].push(key);
        due as u32
    }

    /// Takes all keys that are due at `now`, in milliseconds since the start, each with its tick.
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

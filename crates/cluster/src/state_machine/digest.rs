//! Digests of what the log has done, by which hubs find that their states have diverged.

use std::collections::VecDeque;

use super::applied::{Outcome, Refusal, Rejection, Verdict};
use crate::batch::Header;
use crate::command::{Check, EndState};
use crate::log::Sequence;
use crate::offset::Offset;

/// Number of messages of a window, as a power of two. Windows begin at the same messages on all
/// hubs, also on those that began to read later.
const WINDOW_BITS: u32 = 10;

/// Number of windows whose digest is kept.
const KEPT: usize = 8;

/// The digests of the latest windows.
#[derive(Debug, Default)]
pub(super) struct Digests {
    current: Check,
    /// Whether the replica knows the state of the others.
    is_settled: bool,
    /// Whether the current window was read from its beginning, by a settled replica.
    is_whole: bool,
    complete: VecDeque<Check>,
}

impl Digests {
    /// Counts the windows that begin from now on.
    pub(super) fn settle(&mut self) {
        self.is_settled = true;
    }

    /// Returns whether the digests of the current window are equal.
    pub(super) fn is_equal(&self, other: &Self) -> bool {
        self.current == other.current
    }

    /// Adds a message. The window of the message before it is complete if it begins another one.
    pub(super) fn add(&mut self, sequence: Sequence, header: Header, verdict: &Verdict) {
        let window = sequence.0 >> WINDOW_BITS;
        if window != self.current.window || self.current == Check::default() {
            if self.is_whole {
                self.complete.truncate(KEPT - 1);
                self.complete.push_front(self.current);
            }
            // The sequence zero does not exist.
            self.is_whole = self.is_settled && sequence.0 == (window << WINDOW_BITS).max(1);
            self.current = Check { window, digest: 0 };
        }
        for value in [sequence.0, header.session.0.0, header.number] {
            self.mix(value);
        }
        self.mix_verdict(verdict);
    }

    /// Returns the digest of the last window that is complete.
    pub(super) fn last(&self) -> Option<Check> {
        self.complete.front().copied()
    }

    /// Returns whether the digest of this window is known here, and is another one.
    pub(super) fn differs(&self, check: Check) -> bool {
        self.complete.iter().any(|own| own.window == check.window && own.digest != check.digest)
    }

    fn mix(&mut self, value: u64) {
        let digest = (self.current.digest ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.current.digest = digest.rotate_left(29).wrapping_add(1);
    }

    fn mix_verdict(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Began { nonce } => self.mix(1 ^ nonce),
            Verdict::Collected => self.mix(2),
            Verdict::Rejected(rejection) => self.mix(3 + number_of(*rejection)),
            Verdict::Applied(outcomes) => {
                for outcome in outcomes {
                    for value in values_of(*outcome) {
                        self.mix(value);
                    }
                }
            }
        }
    }
}

fn number_of(rejection: Rejection) -> u64 {
    match rejection {
        Rejection::NoBatch => 1,
        Rejection::Repeated => 2,
        Rejection::Early => 3,
        Rejection::NoSession => 4,
        Rejection::Invalid => 5,
        Rejection::Incomplete => 6,
        Rejection::TooManySessions => 7,
    }
}

/// Returns numbers that are the same for the same outcome, in each version of this program. They
/// are also the same where replicas know of other channels from before their fronts: what is
/// deleted on one is unknown on the other.
fn values_of(outcome: Outcome) -> [u64; 3] {
    let state = |state: Option<EndState>| state.map_or(0, |state| state as u64);
    let range = |range: Option<(Offset, Offset)>| range.map_or((0, 0), |(a, b)| (a.0, b.0));
    match outcome {
        Outcome::Done
        | Outcome::Configured { .. }
        | Outcome::Refused(Refusal::Removed | Refusal::Outdated) => [1, 0, 0],
        Outcome::Appended(appended) => {
            let (first, last) = range(appended.offsets);
            [2 | state(appended.state) << 8, first, last]
        }
        Outcome::Replayed(totals) => [3, totals.events, range(totals.offsets).1],
        Outcome::Produces { hold, life: _ } => [4, hold.0, 0],
        Outcome::EndedBefore(end) => [5, end as u64, 0],
        Outcome::Refused(refusal) => [6, number_of_refusal(refusal), 0],
    }
}

fn number_of_refusal(refusal: Refusal) -> u64 {
    match refusal {
        Refusal::Ended(state) => 1 | (state as u64) << 8,
        Refusal::Stopped => 2,
        Refusal::Removed => 3,
        Refusal::Busy { silent: _ } => 4,
        Refusal::HoldLost => 5,
        Refusal::KeyRunning => 6,
        Refusal::KeyScattered => 7,
        Refusal::Outdated => 8,
        Refusal::TooManyChannels => 9,
        Refusal::Left => 10,
    }
}

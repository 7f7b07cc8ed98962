//! A hub that is killed repeatedly: events acknowledged in durable channels are there when it
//! restarts, and no subscriber that resumes misses an event or sees one twice.
//!
//! The hub is a process, and `SIGKILL` is its only exit. The loss of a power cut cannot be tested
//! in this way, because the kernel keeps written data; the tests of the store itself do that.
//! `FANFARE_CRASH_SEED` repeats a run as far as threads can be repeated, and `FANFARE_CRASH_ROUNDS`
//! sets the length of the loops.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests may: helpers are not seen as tests

mod crowd;
mod damage;
mod endings;
mod gaps;
mod halts;
mod kills;
mod lock;
mod support;
mod viewer;

use fanfare_testing::wire;

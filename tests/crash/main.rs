//! A hub that is killed, again and again: what it has acknowledged in durable channels is there
//! when it comes back, and nobody who resumes misses an event or sees one twice.
//!
//! The hub is a process, and `SIGKILL` is its only way out. What a power cut may cost cannot be
//! tested so, because the kernel keeps what was written; the tests of the store itself do that.
//! `FANFARE_CRASH_SEED` repeats a run as far as threads can be repeated, and
//! `FANFARE_CRASH_ROUNDS` makes the loops longer or shorter.
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
mod wire;

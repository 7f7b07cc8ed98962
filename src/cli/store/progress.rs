//! The progress of an export or an import, on stderr at intervals and at its end.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use crate::cli::terminal::{count, notice};

/// The interval between two lines: long, so that the log of a night's backup stays short.
const PACE: Duration = Duration::from_secs(10);

/// Counts and prints progress.
#[derive(Debug)]
pub(super) struct StoreProgress {
    pub(super) channels: usize,
    pub(super) events: usize,
    last_told: Instant,
}

impl StoreProgress {
    pub(super) fn new() -> Self {
        Self { channels: 0, events: 0, last_told: Instant::now() }
    }

    /// Prints the progress, if the interval has passed.
    pub(super) fn tell(&mut self, doing: &str) {
        if self.last_told.elapsed() >= PACE {
            self.last_told = Instant::now();
            notice(format_args!("{doing}: {self} so far"));
        }
    }
}

impl fmt::Display for StoreProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let channels = count(self.channels, "channel");
        let events = count(self.events, "event");
        write!(f, "{channels}, {events}")
    }
}

//! The free space of the file system, of which a minimum is left to others.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::files::Files;
use super::health::StoreHealth;
use crate::clock::{self, Micros};

/// The free space and its minimum.
#[derive(Clone)]
pub(super) struct FreeSpace {
    files: Arc<dyn Files>,
    /// Minimum in bytes.
    least: u64,
    /// Maximum age of the cached result of `require`.
    max_age: Duration,
    /// The time of the last query of `require` that found the minimum, on the steady clock.
    found: Option<Micros>,
}

impl FreeSpace {
    pub(super) fn new(files: Arc<dyn Files>, least: u64, max_age: Duration) -> Self {
        Self { files, least, max_age, found: None }
    }

    /// Fails if less than the minimum is free, with the error of a full disk.
    pub(super) fn require(&mut self) -> io::Result<()> {
        if self.found.is_some_and(|found| clock::elapsed(found) < self.max_age) {
            return Ok(());
        }
        let now = clock::steady();
        if self.files.free()? < self.least {
            return Err(Errno::NOSPC.into());
        }
        self.found = Some(now);
        Ok(())
    }

    /// Marks the store as full, or clears that mark. To be cleared, the disk needs room for the
    /// write that failed, and a quarter more than the minimum, as hysteresis.
    pub(super) fn update(&self, health: &StoreHealth) {
        let Ok(free) = self.files.free() else {
            // The next write reports the error.
            return;
        };
        let least = self.least;
        match health.needed() {
            None if free < least => {
                // A store that has failed refuses writes in any case.
                if health.fill(0) {
                    tracing::warn!(free, least, "the store refuses writes until there is room");
                }
            }
            Some(needed) if free >= least.saturating_add(needed.max(least / 4)) => {
                health.clear();
                tracing::info!(free, "the store has room again");
            }
            None | Some(_) => {}
        }
    }
}

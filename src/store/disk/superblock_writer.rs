//! The superblock of an open store: saved when offsets are reserved, when the wall clock was set,
//! and at the end.

use std::borrow::Cow;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::WriteError;
use super::files::{Files, IoError};
use super::health::StoreHealth;
use super::offsets::Offsets;
use super::superblock::Superblock;
use crate::clock::{Clock, Moment};
use crate::position::Offset;

/// Changes the superblock and saves it.
pub(super) struct SuperblockWriter {
    files: Arc<dyn Files>,
    health: Arc<StoreHealth>,
    clock: Clock,
    offsets: Offsets,
    superblock: Mutex<Superblock>,
}

impl SuperblockWriter {
    /// Writes changes to a superblock that is saved, with the end of the reserve of `offsets`.
    pub(super) fn new(
        files: Arc<dyn Files>,
        health: Arc<StoreHealth>,
        clock: Clock,
        offsets: Offsets,
        superblock: Superblock,
    ) -> Self {
        Self { files, health, clock, offsets, superblock: Mutex::new(superblock) }
    }

    /// Notes that offsets up to this one are given out. Returns whether the writer must reserve
    /// more.
    pub(super) fn note_offset(&self, offset: Offset) -> bool {
        self.offsets.note(offset)
    }

    /// Returns the last offset that was given out.
    pub(super) fn last_offset(&self) -> u64 {
        self.offsets.last()
    }

    /// Checks that offsets can be given out.
    pub(super) fn check_offsets(&self) -> Result<(), WriteError> {
        if self.offsets.suffice() {
            return Ok(());
        }
        Err(self.health.check().err().unwrap_or(WriteError::Behind))
    }

    /// Reserves more offsets if few are left.
    pub(super) fn renew_low_offsets(&self) {
        if self.offsets.are_low() {
            self.renew_offsets();
        }
    }

    /// Reserves more offsets.
    pub(super) fn renew_offsets(&self) {
        if self.health.has_failed() {
            return;
        }
        let mut superblock = self.superblock.lock();
        let mut renewed = superblock.clone();
        renewed.next_offset = self.offsets.next_reserve();
        match renewed.save(&*self.files) {
            Ok(()) => {
                self.offsets.renewed(renewed.next_offset);
                *superblock = renewed;
            }
            Err(fault) => {
                self.health.record(&fault, 0);
                self.offsets.not_renewed();
            }
        }
    }

    /// Saves a change of the wall clock that no event shows yet: after a power cut, the next start
    /// would take the change for the time that the machine was down, and trim all events.
    pub(super) fn observe_clock(&self) {
        if !self.health.has_failed() {
            let now = self.clock.now();
            // An error is in the health of the store; the next round tries again.
            let _ = self.save_steps(std::iter::once((self.last_offset().saturating_add(1), now)));
        }
    }

    /// Saves the changes of the wall clock that these moments show, each from its offset on.
    pub(super) fn save_steps(
        &self,
        moments: impl Iterator<Item = (u64, Moment)>,
    ) -> Result<(), WriteError> {
        let mut superblock = self.superblock.lock();
        let mut changed = Cow::Borrowed(&*superblock);
        for (from, time) in moments {
            if !changed.clock.agree(from, time) {
                changed.to_mut().clock.observe(from, time);
            }
        }
        let Cow::Owned(changed) = changed else { return Ok(()) };
        changed.save(&*self.files).map_err(|fault| self.health.record(&fault, 0))?;
        *superblock = changed;
        Ok(())
    }

    /// Marks the store as cleanly closed. `stored` is the last offset on disk.
    pub(super) fn close(&self, stored: Offset) -> Result<(), IoError> {
        let mut superblock = self.superblock.lock();
        superblock.clean = true;
        superblock.next_offset = self.last_offset().max(stored.0).saturating_add(1);
        let next = superblock.next_offset;
        superblock.clock.observe(next, self.clock.now());
        superblock.save(&*self.files)
    }
}

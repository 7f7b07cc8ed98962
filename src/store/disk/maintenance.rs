//! The maintenance thread: checkpoints, compaction, deletion, and free space.
//!
//! Invariants: a new file is synced and renamed before the files that it replaces are deleted.
//! Before dead blocks are removed, a checkpoint has them below the trim point of their stream, or
//! a synced note says that the stream is deleted. A file that cannot be read whole is not
//! rewritten. After a failure for lack of space, the work is tried again later; nothing is lost.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::checkpoint::Checkpoint;
use super::checkpoint_slot::CheckpointSlot;
use super::commit_queue::CommitQueue;
use super::compaction::{CompactedFile, Compaction};
use super::file_names::{Role, SUPERBLOCK, parse_name};
use super::files::{Files, IoError};
use super::free_space::FreeSpace;
use super::health::StoreHealth;
use super::index::SharedIndex;
use super::messages::WriterMessage;
use super::queue::WorkQueue;
use super::superblock_writer::SuperblockWriter;
use crate::telemetry::Metrics;

/// The work of the maintenance thread, which `compact` also runs at once.
pub(super) struct Maintenance {
    pub(super) files: Arc<dyn Files>,
    pub(super) free_space: FreeSpace,
    pub(super) index: SharedIndex,
    pub(super) commits: Arc<CommitQueue>,
    pub(super) health: Arc<StoreHealth>,
    pub(super) superblock: Arc<SuperblockWriter>,
    /// The checkpoint to be saved.
    pub(super) pending: Arc<CheckpointSlot>,
    /// Asked for a new journal.
    pub(super) writer: Arc<WorkQueue<WriterMessage>>,
    pub(super) compaction: Compaction,
    pub(super) metrics: Arc<Metrics>,
    /// Maximum size of the directory.
    pub(super) max_bytes: u64,
    /// The interval between two rounds.
    pub(super) interval: Duration,
    /// Numbers of the saved checkpoints. Locked while files are changed.
    pub(super) saved: Mutex<Vec<u32>>,
}

impl Maintenance {
    /// Runs rounds until the store is closed.
    pub(super) fn run(&self) {
        while self.pending.wait(self.interval) {
            self.run_round();
        }
    }

    /// Runs one round of maintenance.
    pub(super) fn run_round(&self) {
        self.check_free_space();
        self.superblock.observe_clock();
        if let Err(fault) = self.run_once().and_then(|()| self.check_files()) {
            self.health.record(&fault, 0);
        }
        self.make_room();
    }

    /// Updates the health of the store from the free space, and reserves offsets that are low.
    pub(super) fn check_free_space(&self) {
        self.free_space.update(&self.health);
        self.superblock.renew_low_offsets();
    }

    /// Checks that all files still exist. A deleted file can be used while it is open, but the next
    /// start does not find it, and acknowledged events would be lost.
    fn check_files(&self) -> Result<(), IoError> {
        if self.health.has_failed() {
            return Ok(());
        }
        // With the lock, no file is deleted meanwhile. The writer may add one, which exists before
        // it is in the index.
        let _lock = self.saved.lock();
        let index = self.index.lock();
        let needed: Vec<String> = index.files.values().map(|file| file.name.clone()).collect();
        drop(index);
        let listed: HashSet<String> = match self.files.list() {
            Ok(listed) => listed.into_iter().collect(),
            // The directory itself was removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => HashSet::new(),
            Err(_) => return Ok(()),
        };
        let needed = needed.iter().map(String::as_str).chain([SUPERBLOCK]);
        let mut unlisted = needed.filter(|name| !listed.contains(*name));
        unlisted.try_for_each(|name| match self.files.open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let why = "it was deleted or moved while the hub runs, and the next start will not \
                           find it";
                Err(IoError::of(name)(io::Error::new(io::ErrorKind::NotFound, why)))
            }
            // A name that is replaced while the directory is read may be missing in the list.
            Ok(_) | Err(_) => Ok(()),
        })
    }

    /// On a full disk, begins a new journal if one of the youngest files is mostly dead: while the
    /// last two checkpoints need that file, it cannot be deleted.
    fn make_room(&self) {
        // The waiting checkpoint was not saved for lack of space: another would fail, too.
        if self.health.needed().is_none() || self.pending.is_filled() {
            return;
        }
        let checkpoints = self.saved.lock();
        let youngest = if let [.., older, _] = checkpoints[..] { older } else { 0 };
        let index = self.index.lock();
        if index.files.range(youngest..).any(|(_, file)| file.live * 2 < file.bytes) {
            // Fails only if the store is closed.
            let _ = self.writer.push(WriterMessage::Rotate);
        }
    }

    /// Runs all work that is due. Does nothing after a failed sync: the next start needs the
    /// directory as it is.
    pub(super) fn run_once(&self) -> Result<(), IoError> {
        if self.health.has_failed() {
            return Ok(());
        }
        let mut checkpoints = self.saved.lock();
        self.save_checkpoint(&mut checkpoints)?;
        // With a single checkpoint, every file may be needed to recover without it.
        let [.., older, newest] = checkpoints[..] else {
            return Ok(());
        };
        self.delete_dead(older, newest)?;
        self.delete_oldest(older)?;
        while self.health.check().is_ok()
            && !self.pending.is_closed()
            && let Some(number) = self.next_to_rewrite(older)
            && self.rewrite(number, newest)?
        {}
        self.metrics.store_holds(self.index.lock().bytes());
        Ok(())
    }

    /// Rewrites every journal, and every sorted file with dead blocks; deletes dead files. Leaves
    /// files that cannot be read whole.
    pub(super) fn compact(&self) -> Result<(), IoError> {
        self.run_once()?;
        let checkpoints = self.saved.lock();
        let [.., older, newest] = checkpoints[..] else {
            return Ok(());
        };
        let index = self.index.lock();
        let files = index
            .files
            .range(..older)
            .filter(|(_, file)| !file.damaged && (!file.sorted || file.live < file.initial));
        let files: Vec<u32> = files.map(|(number, _)| *number).collect();
        drop(index);
        files.into_iter().try_for_each(|number| self.rewrite(number, newest).map(drop))
    }

    /// Returns the names of files that cannot be read whole.
    pub(super) fn damaged_files(&self) -> Vec<String> {
        let index = self.index.lock();
        let damaged = index.files.values().filter(|file| file.damaged);
        damaged.map(|file| file.name.clone()).collect()
    }

    /// Persists the pending checkpoint and deletes all but the last two.
    fn save_checkpoint(&self, checkpoints: &mut Vec<u32>) -> Result<(), IoError> {
        let Some(checkpoint) = self.pending.take() else {
            return Ok(());
        };
        let number = checkpoint.number;
        if let Err(fault) = checkpoint.save(&*self.files) {
            // A checkpoint submitted meanwhile is newer and stays.
            self.pending.put_back(checkpoint);
            return Err(fault);
        }
        checkpoints.push(number);
        checkpoints.drain(..checkpoints.len().saturating_sub(2));
        for name in self.files.list().map_err(IoError::of(""))? {
            let Some((number, Role::Checkpoint)) = parse_name(&name) else { continue };
            if !checkpoints.contains(&number) {
                self.files.remove(&name).map_err(IoError::of(&name))?;
            }
        }
        Ok(())
    }

    /// Saves the newest checkpoint again with the current trim points. Dead blocks may be deleted
    /// only then: otherwise older blocks of their streams would come back at the next start, with a
    /// hole after them. The notes of deleted streams are synced first, so that those streams stay
    /// deleted. Returns whether it was saved; if the checkpoint cannot be read, deletion waits for
    /// the next one.
    fn save_trim_points(&self, newest: u32) -> Result<bool, IoError> {
        if !self.commits.sync_now() {
            return Ok(false);
        }
        let mut checkpoint = match Checkpoint::load(&*self.files, newest) {
            Ok(checkpoint) => checkpoint,
            Err(why) => {
                let file = Role::Checkpoint.file_name(newest);
                tracing::error!(
                    file,
                    "a checkpoint of the store is broken: no file is deleted now: {why}"
                );
                return Ok(false);
            }
        };
        let index = self.index.lock();
        for (id, stream) in &mut checkpoint.streams {
            if let Some(now) = index.streams.get(id) {
                stream.raise_to(now.trim_point);
            }
        }
        drop(index);
        checkpoint.save(&*self.files).map(|()| true)
    }

    fn delete_dead(&self, before: u32, newest: u32) -> Result<(), IoError> {
        let index = self.index.lock();
        let dead = index.files.range(..before).filter(|(_, file)| file.live == 0);
        let dead: Vec<u32> = dead.map(|(number, _)| *number).collect();
        drop(index);
        if dead.is_empty() || !self.save_trim_points(newest)? {
            return Ok(());
        }
        dead.into_iter().try_for_each(|number| self.delete(number))
    }

    /// Above the size limit, deletes the oldest file with its live blocks.
    fn delete_oldest(&self, before: u32) -> Result<(), IoError> {
        loop {
            let index = self.index.lock();
            let excess = index.bytes() > self.max_bytes;
            let Some(oldest) = index.files.range(..before).next().map(|(number, _)| *number) else {
                return Ok(());
            };
            drop(index);
            if !excess {
                return Ok(());
            }
            tracing::info!(
                file = oldest,
                "the store exceeds `store.max_bytes`: its oldest file is deleted"
            );
            self.delete(oldest)?;
        }
    }

    fn delete(&self, number: u32) -> Result<(), IoError> {
        let Some(file) = self.index.lock().drop_file(number) else {
            return Ok(());
        };
        self.files.remove(&file.name).map_err(IoError::of(&file.name))
    }

    /// Returns the first journal, or sorted file of which more than half is dead since it was
    /// written.
    fn next_to_rewrite(&self, before: u32) -> Option<u32> {
        let index = self.index.lock();
        let mut files = index.files.range(..before);
        let due =
            files.find(|(_, file)| !file.damaged && (!file.sorted || file.live * 2 < file.initial));
        due.map(|(number, _)| *number)
    }

    /// Replaces a journal, or a sorted file that is half dead, by a sorted file. Returns `false` if
    /// that was not possible; the next round tries again.
    fn rewrite(&self, number: u32, newest: u32) -> Result<bool, IoError> {
        let before = || self.save_trim_points(newest);
        let Some(CompactedFile { file, blocks }) = self.compaction.compact_file(number, before)?
        else {
            return Ok(false);
        };
        let mut index = self.index.lock();
        let replaced = index.files.get(&number).map(|file| file.sorted);
        index.replace_file(number, file, blocks);
        drop(index);
        if replaced == Some(false) {
            let journal = Role::Journal.file_name(number);
            self.files.remove(&journal).map_err(IoError::of(&journal))?;
        }
        Ok(true)
    }
}

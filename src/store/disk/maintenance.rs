//! The maintenance thread: checkpoints, compaction, deletion, and free space.
//!
//! Invariants: a new file is synced and renamed before the files that it replaces are deleted.
//! Before dead blocks are removed, a checkpoint has them below the trim point of their stream, or
//! a synced note says that the stream is deleted. A file that cannot be read whole is not
//! rewritten. After a failure for lack of space, the work is tried again later; nothing is lost.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::checkpoint::Checkpoint;
use super::compaction::{self, CompactedFile};
use super::engine::Engine;
use super::file_names::{Role, SUPERBLOCK, parse_name};
use super::files::IoError;
use super::index::IndexedFile;
use super::messages::WriterMessage;

/// The work that waits for the maintenance thread.
#[derive(Debug)]
pub(super) struct Maintenance {
    inner: Mutex<PendingWork>,
    wake: Condvar,
    /// Numbers of the saved checkpoints. Locked while files are changed.
    checkpoints: Mutex<Vec<u32>>,
}

#[derive(Debug, Default)]
struct PendingWork {
    checkpoint: Option<Checkpoint>,
    closed: bool,
}

impl Maintenance {
    pub(super) fn new(checkpoints: Vec<u32>) -> Self {
        Self { inner: Mutex::default(), wake: Condvar::new(), checkpoints: Mutex::new(checkpoints) }
    }

    /// Submits a checkpoint to be written. It replaces one that still waits.
    pub(super) fn submit(&self, checkpoint: Checkpoint) {
        self.inner.lock().checkpoint = Some(checkpoint);
        self.wake.notify_one();
    }

    pub(super) fn close(&self) {
        self.inner.lock().closed = true;
        self.wake.notify_one();
    }

    /// Waits for the next round. Returns `false` if the store is closed.
    fn next_round(&self, interval: Duration) -> bool {
        let mut inner = self.inner.lock();
        if !inner.closed && inner.checkpoint.is_none() {
            self.wake.wait_for(&mut inner, interval);
        }
        !inner.closed
    }

    fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }
}

/// Runs maintenance until the store is closed.
pub(super) fn run(engine: &Engine) {
    while engine.maintenance.next_round(engine.tuning.maintenance_interval) {
        go_round(engine);
    }
}

/// Runs one round of maintenance.
pub(super) fn go_round(engine: &Engine) {
    check_free_space(engine);
    engine.look_after_offsets();
    engine.look_at_clock();
    if let Err(fault) = run_once(engine).and_then(|()| look_for_files(engine)) {
        engine.trouble(fault, 0);
    }
    make_way(engine);
}

/// Checks the free space, and marks the store as full or clears that mark. To be cleared, the disk
/// needs room for the write that failed, and a quarter more than the minimum, as hysteresis.
pub(super) fn check_free_space(engine: &Engine) {
    let Ok(free) = engine.files.free() else {
        // The next write reports the error.
        return;
    };
    let least = engine.config.min_free.as_u64();
    match engine.health.needed() {
        None if free < least => {
            // A store that has failed takes nothing any more, with room or without.
            if engine.health.fill(0) {
                tracing::warn!(free, least, "the store takes nothing until there is room");
            }
        }
        Some(needed) if free >= least.saturating_add(needed.max(least / 4)) => {
            engine.health.clear();
            tracing::info!(free, "the store has room again");
        }
        None | Some(_) => {}
    }
}

/// Checks that all files still exist. A deleted file can be used while it is open, but the next
/// start does not find it, and acknowledged events would be lost.
fn look_for_files(engine: &Engine) -> Result<(), IoError> {
    if engine.health.has_failed() {
        return Ok(());
    }
    // With the lock, no file is deleted meanwhile. The writer may add one, which exists before it
    // is in the index.
    let _in_order = engine.maintenance.checkpoints.lock();
    let index = engine.index.lock();
    let needed: Vec<String> = index.files.values().map(|file| file.name.clone()).collect();
    drop(index);
    let there: HashSet<String> = match engine.files.list() {
        Ok(there) => there.into_iter().collect(),
        // The directory itself was removed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => HashSet::new(),
        Err(_) => return Ok(()),
    };
    let mut needed = needed.iter().map(String::as_str).chain([SUPERBLOCK]);
    // A name that is replaced while the directory is read may be missing in the list.
    let is_gone = |name: &&str| {
        let opened = (!there.contains(*name)).then(|| engine.files.open(name));
        opened.and_then(Result::err).is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let Some(gone) = needed.find(is_gone) else {
        return Ok(());
    };
    let why = "it was deleted or moved while the hub runs, and the next start will not find it";
    Err(IoError::of(gone)(io::Error::new(io::ErrorKind::NotFound, why)))
}

/// On a full disk, begins a new journal if one of the youngest files is mostly dead: while the
/// last two checkpoints need that file, it cannot be deleted.
fn make_way(engine: &Engine) {
    // The waiting checkpoint was not saved for lack of space: another would fail, too.
    if engine.health.needed().is_none() || engine.maintenance.inner.lock().checkpoint.is_some() {
        return;
    }
    let checkpoints = engine.maintenance.checkpoints.lock();
    let youngest = if let [.., older, _] = checkpoints[..] { older } else { 0 };
    let index = engine.index.lock();
    if index.files.range(youngest..).any(|(_, file)| file.live * 2 < file.bytes) {
        // Fails only if the store is closed.
        let _ = engine.inbox.push(WriterMessage::Rotate);
    }
}

/// Runs all work that is due. Does nothing after a failed sync: the next start needs the directory
/// as it is.
pub(super) fn run_once(engine: &Engine) -> Result<(), IoError> {
    if engine.health.has_failed() {
        return Ok(());
    }
    let mut checkpoints = engine.maintenance.checkpoints.lock();
    save_checkpoint(engine, &mut checkpoints)?;
    // With a single checkpoint, every file may be needed to recover without it.
    let [.., older, newest] = checkpoints[..] else {
        return Ok(());
    };
    delete_dead(engine, older, newest)?;
    delete_oldest(engine, older)?;
    while engine.health.check().is_ok()
        && !engine.maintenance.is_closed()
        && let Some(number) = next_to_rewrite(engine, older)
        && rewrite(engine, number, newest)?
    {}
    engine.tell_bytes();
    Ok(())
}

/// Rewrites every journal, and every sorted file with dead blocks; deletes dead files. Leaves
/// files that cannot be read whole.
pub(super) fn compact(engine: &Engine) -> Result<(), IoError> {
    run_once(engine)?;
    let checkpoints = engine.maintenance.checkpoints.lock();
    let [.., older, newest] = checkpoints[..] else {
        return Ok(());
    };
    let index = engine.index.lock();
    let worth = |file: &IndexedFile| !file.damaged && (!file.sorted || file.live < file.born);
    let files = index.files.range(..older).filter(|(_, file)| worth(file));
    let files: Vec<u32> = files.map(|(number, _)| *number).collect();
    drop(index);
    files.into_iter().try_for_each(|number| rewrite(engine, number, newest).map(drop))
}

/// Persists the pending checkpoint and deletes all but the last two.
fn save_checkpoint(engine: &Engine, checkpoints: &mut Vec<u32>) -> Result<(), IoError> {
    let Some(checkpoint) = engine.maintenance.inner.lock().checkpoint.take() else {
        return Ok(());
    };
    let number = checkpoint.number;
    if let Err(fault) = checkpoint.save(&*engine.files) {
        // A checkpoint submitted meanwhile is newer and stays.
        engine.maintenance.inner.lock().checkpoint.get_or_insert(checkpoint);
        return Err(fault);
    }
    checkpoints.push(number);
    checkpoints.drain(..checkpoints.len().saturating_sub(2));
    let listed = engine.files.list().map_err(IoError::of(""))?;
    for listed in listed {
        if parse_name(&listed).is_some_and(|(number, role)| {
            role == Role::Checkpoint && !checkpoints.contains(&number)
        }) {
            engine.files.remove(&listed).map_err(IoError::of(&listed))?;
        }
    }
    Ok(())
}

/// Saves the newest checkpoint again with the current trim points. Dead blocks may be deleted only
/// then: otherwise older blocks of their streams would come back at the next start, with a hole
/// after them. The notes of deleted streams are synced first, so that those streams stay deleted.
/// Returns whether it was saved; if the checkpoint cannot be read, deletion waits for the next
/// one.
fn save_trim_points(engine: &Engine, newest: u32) -> Result<bool, IoError> {
    if !engine.commits.sync_now(engine) {
        return Ok(false);
    }
    let mut checkpoint = match Checkpoint::load(&*engine.files, newest) {
        Ok(checkpoint) => checkpoint,
        Err(why) => {
            let file = Role::Checkpoint.file_name(newest);
            tracing::error!(file, "a checkpoint of the store is broken: nothing goes now: {why}");
            return Ok(false);
        }
    };
    let index = engine.index.lock();
    for (id, stream) in &mut checkpoint.streams {
        if let Some(now) = index.streams.get(id) {
            stream.raise_to(now.trim_point);
        }
    }
    drop(index);
    checkpoint.save(&*engine.files).map(|()| true)
}

fn delete_dead(engine: &Engine, before: u32, newest: u32) -> Result<(), IoError> {
    let index = engine.index.lock();
    let dead = index.files.range(..before).filter(|(_, file)| file.live == 0);
    let dead: Vec<u32> = dead.map(|(number, _)| *number).collect();
    drop(index);
    if dead.is_empty() || !save_trim_points(engine, newest)? {
        return Ok(());
    }
    dead.into_iter().try_for_each(|number| delete(engine, number))
}

/// Above the size limit, deletes the oldest file with its live blocks.
fn delete_oldest(engine: &Engine, before: u32) -> Result<(), IoError> {
    loop {
        let index = engine.index.lock();
        let excess = index.bytes() > engine.config.max_bytes.as_u64();
        let Some(oldest) = index.files.range(..before).next().map(|(number, _)| *number) else {
            return Ok(());
        };
        drop(index);
        if !excess {
            return Ok(());
        }
        tracing::info!(file = oldest, "the store is larger than it may be: its oldest file goes");
        delete(engine, oldest)?;
    }
}

fn delete(engine: &Engine, number: u32) -> Result<(), IoError> {
    let Some(file) = engine.index.lock().drop_file(number) else {
        return Ok(());
    };
    engine.files.remove(&file.name).map_err(IoError::of(&file.name))
}

/// Returns the first journal, or sorted file of which more than half has died since it was
/// written.
fn next_to_rewrite(engine: &Engine, before: u32) -> Option<u32> {
    let index = engine.index.lock();
    let mut files = index.files.range(..before);
    let ripe = files.find(|(_, file)| !file.damaged && (!file.sorted || file.live * 2 < file.born));
    ripe.map(|(number, _)| *number)
}

/// Replaces a journal, or a sorted file that is half dead, by a sorted file. Returns `false` if
/// that was not possible; the next round tries again.
fn rewrite(engine: &Engine, number: u32, newest: u32) -> Result<bool, IoError> {
    let before = || save_trim_points(engine, newest);
    let Some(CompactedFile { file, blocks }) = compaction::compact_file(engine, number, before)?
    else {
        return Ok(false);
    };
    let mut index = engine.index.lock();
    let replaced = index.files.get(&number).map(|file| file.sorted);
    index.replace_file(number, file, blocks);
    drop(index);
    if replaced == Some(false) {
        let journal = Role::Journal.file_name(number);
        engine.files.remove(&journal).map_err(IoError::of(&journal))?;
    }
    Ok(true)
}

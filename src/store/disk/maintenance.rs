//! The thread that keeps the directory in order: checkpoints, sorted files, deletions, and the
//! watch for room.
//!
//! What holds: what is new is synced, and has its name, before what it replaces is deleted. Before
//! dead blocks vanish, a checkpoint says that they are below the floor of their stream, or a note
//! that is synced says that the stream is gone. A file that cannot be read whole is neither sorted
//! nor rewritten. A failure here for want of room is tried again later; nothing is lost by it.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::checkpoint::{Checkpoint, Role, name, parse_name};
use super::compaction::{self, CompactedFile};
use super::engine::Engine;
use super::files::IoError;
use super::index::IndexedFile;
use super::superblock::SUPERBLOCK;
use super::writer::WriterMessage;

/// What waits for the maintenance thread.
#[derive(Debug)]
pub(super) struct Maintenance {
    inner: Mutex<PendingWork>,
    wake: Condvar,
    /// Numbers of the checkpoints that are safe; held while the directory is put in order.
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

    /// A checkpoint to be written; one that still waits is no longer needed.
    pub(super) fn submit(&self, checkpoint: Checkpoint) {
        self.inner.lock().checkpoint = Some(checkpoint);
        self.wake.notify_one();
    }

    pub(super) fn close(&self) {
        self.inner.lock().closed = true;
        self.wake.notify_one();
    }

    /// Waits for the next round. Returns whether there is one.
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

/// Keeps order until the store is closed.
pub(super) fn run(engine: &Engine) {
    while engine.maintenance.next_round(engine.tuning.maintenance_interval) {
        go_round(engine);
    }
}

/// Looks after everything once.
pub(super) fn go_round(engine: &Engine) {
    check_free_space(engine);
    engine.look_after_offsets();
    if let Err(fault) = run_once(engine).and_then(|()| look_for_files(engine)) {
        engine.trouble(fault, 0);
    }
    make_way(engine);
}

/// Looks whether there is room, and takes or refuses accordingly. To be taken back into use, a disk
/// must have room for what did not fit, and for a quarter more than the least, lest it go to and
/// fro.
pub(super) fn check_free_space(engine: &Engine) {
    let Ok(free) = engine.files.free() else {
        // Whoever writes will learn it.
        return;
    };
    let least = engine.config.min_free.as_u64();
    match engine.health.needed() {
        None if free < least => {
            engine.health.fill(0);
            tracing::warn!(free, least, "the store takes nothing until there is room");
        }
        Some(needed) if free >= least.saturating_add(needed.max(least / 4)) => {
            engine.health.clear();
            tracing::info!(free, "the store has room again");
        }
        None | Some(_) => {}
    }
}

/// Looks whether all files are still there. Those that are open can be used when they have been
/// deleted, and the next start does not find them: what was acknowledged would be lost.
fn look_for_files(engine: &Engine) -> Result<(), IoError> {
    if engine.health.has_failed() {
        return Ok(());
    }
    // Meanwhile no file goes; the writer may add one, which is there before it is in the index.
    let _in_order = engine.maintenance.checkpoints.lock();
    let index = engine.index.lock();
    let needed: Vec<String> = index.files.values().map(|file| file.name.clone()).collect();
    drop(index);
    let there: HashSet<String> = match engine.files.list() {
        Ok(there) => there.into_iter().collect(),
        // The directory itself is gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => HashSet::new(),
        Err(_) => return Ok(()),
    };
    let mut needed = needed.iter().map(String::as_str).chain([SUPERBLOCK]);
    let Some(gone) = needed.find(|name| !there.contains(*name)) else {
        return Ok(());
    };
    let why = "it was deleted or moved while the hub runs, and the next start will not find it";
    Err(IoError::of(gone)(io::Error::new(io::ErrorKind::NotFound, why)))
}

/// On a full disk, begins a new journal if one of the youngest files is mostly dead: while the
/// last two checkpoints need it, it cannot be deleted.
fn make_way(engine: &Engine) {
    // A checkpoint that waits was not saved, for want of room: another would not be either.
    if engine.health.needed().is_none() || engine.maintenance.inner.lock().checkpoint.is_some() {
        return;
    }
    let checkpoints = engine.maintenance.checkpoints.lock();
    let youngest = if let [.., older, _] = checkpoints[..] { older } else { 0 };
    let index = engine.index.lock();
    if index.files.range(youngest..).any(|(_, file)| file.live * 2 < file.bytes) {
        // Refused only when the store is closed.
        let _ = engine.inbox.push(WriterMessage::Rotate);
    }
}

/// Does everything that is to be done now. After a sync that failed that is nothing: whatever is
/// in the directory, the next start has to find.
pub(super) fn run_once(engine: &Engine) -> Result<(), IoError> {
    if engine.health.has_failed() {
        return Ok(());
    }
    let mut checkpoints = engine.maintenance.checkpoints.lock();
    save_checkpoint(engine, &mut checkpoints)?;
    // With a single checkpoint, every file may still be needed to do without it.
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

/// Sorts and rewrites every file of which anything is dead, and deletes those that are. Those that
/// cannot be read whole stay as they are.
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

/// Writes the checkpoint that waits; then only it and the one before it are needed.
fn save_checkpoint(engine: &Engine, checkpoints: &mut Vec<u32>) -> Result<(), IoError> {
    let Some(checkpoint) = engine.maintenance.inner.lock().checkpoint.take() else {
        return Ok(());
    };
    let number = checkpoint.number;
    if let Err(fault) = checkpoint.save(&*engine.files) {
        // Another may have been handed over meanwhile: that one is better.
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

/// Writes the newest checkpoint anew, with the floors of now. What is dead may be deleted only
/// then: else, older blocks of its streams would come back at the next start, with a hole after
/// them. What is dead because its stream is gone must stay gone: the note that says so is synced
/// first. Returns whether it is done; a checkpoint that cannot be read waits for the next one.
fn save_trim_points(engine: &Engine, newest: u32) -> Result<bool, IoError> {
    if !engine.commits.sync_now(engine) {
        return Ok(false);
    }
    let mut checkpoint = match Checkpoint::load(&*engine.files, newest) {
        Ok(checkpoint) => checkpoint,
        Err(why) => {
            let file = name(newest, Role::Checkpoint);
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

/// Past the budget, the oldest file goes with all that is alive in it.
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

/// A journal, or a sorted file of which more than half has died since it was written.
fn next_to_rewrite(engine: &Engine, before: u32) -> Option<u32> {
    let index = engine.index.lock();
    let mut files = index.files.range(..before);
    let ripe = files.find(|(_, file)| !file.damaged && (!file.sorted || file.live * 2 < file.born));
    ripe.map(|(number, _)| *number)
}

/// Puts a sorted file in the place of a journal, or of a sorted file that is half dead. Returns
/// whether that was possible; if not, the next round goes on.
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
        let journal = name(number, Role::Journal);
        engine.files.remove(&journal).map_err(IoError::of(&journal))?;
    }
    Ok(true)
}

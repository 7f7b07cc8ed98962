//! The state shared by the threads of the store, and how it is opened and closed.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;

use super::checkpoint::Checkpoint;
use super::config::{Config, OpenOptions};
use super::error::{OpenError, WriteError};
use super::file_names::SUPERBLOCK;
use super::files::{Files, IoError};
use super::group_commit::{self, CommitQueue};
use super::health::StoreHealth;
use super::index::BlockIndex;
use super::journal::Journal;
use super::maintenance::{self, Maintenance};
use super::messages::{ReadRequest, WriterMessage};
use super::queue::WorkQueue;
use super::reader;
use super::recovery::{self, Recovered, RecoveredFiles};
use super::superblock::Superblock;
use super::tuning::Tuning;
use super::writer::Writer;
use crate::clock::{Clock, Moment};
use crate::position::{Epoch, Offset};
use crate::telemetry::Metrics;

/// The parameters for opening a store.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) files: Arc<dyn Files>,
    /// For messages.
    pub(super) directory: PathBuf,
    /// Identifies this boot of the machine.
    pub(super) boot: String,
    pub(super) config: Config,
    pub(super) tuning: Tuning,
    pub(super) options: OpenOptions,
    pub(super) metrics: Arc<Metrics>,
}

/// The state shared by the threads.
pub(super) struct Engine {
    pub(super) files: Arc<dyn Files>,
    pub(super) config: Config,
    pub(super) tuning: Tuning,
    pub(super) metrics: Arc<Metrics>,
    pub(super) epoch: Epoch,
    pub(super) first_offset: Offset,
    pub(super) clock: Clock,
    pub(super) health: StoreHealth,
    pub(super) index: Mutex<BlockIndex>,
    pub(super) inbox: WorkQueue<WriterMessage>,
    pub(super) reads: WorkQueue<ReadRequest>,
    pub(super) commits: CommitQueue,
    pub(super) maintenance: Maintenance,
    pub(super) next_stream: AtomicU64,
    offsets: Offsets,
    superblock: Mutex<Superblock>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// The offsets given out, and the offset at which more are reserved.
#[derive(Debug)]
struct Offsets {
    noted: AtomicU64,
    /// The first offset that is not reserved.
    reserved: AtomicU64,
    renew_at: AtomicU64,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Engine {
    pub(super) fn open(setup: Setup) -> Result<(Arc<Self>, Recovered), OpenError> {
        let (files, directory) = (&setup.files, setup.directory.clone());
        let known = Superblock::load(&**files, &directory)?;
        let mut superblock = known.unwrap_or_else(|| Superblock::new(Epoch::random().as_str()));
        let power_cut = superblock.tells_of_power_cut(&setup.boot);
        let mut recovered = recovery::recover(&setup, superblock.clean)?;
        let (index, options) = (&mut recovered.index, &setup.options);
        let first = superblock.next_offset.max(index.last_offset().0.saturating_add(1));
        let opened = options.clock.now();
        let same_boot = !setup.boot.is_empty() && *superblock.boot == *setup.boot;
        superblock.clock.resume(same_boot, index.newest(), first, opened);
        index.date(&superblock.clock, opened);
        index.receipts.forget_expired(opened);
        let mut found = recovered.found(power_cut);
        let (engine, journal) = Self::begin(setup, superblock, recovered, first)?;
        engine.start(journal).map_err(|error| {
            // Ends the threads that were started.
            engine.close();
            OpenError::Io { path: directory, error }
        })?;
        found.gone = found.gone.max(Offset(engine.superblock.lock().in_memory));
        Ok((engine, found))
    }

    fn begin(
        setup: Setup,
        mut superblock: Superblock,
        recovered: RecoveredFiles,
        first: u64,
    ) -> Result<(Arc<Self>, Journal), OpenError> {
        let Setup { files, directory, boot, config, tuning, options, metrics } = setup;
        let failed = |fault: IoError| fault.in_directory(&directory);
        let RecoveredFiles { mut index, next_file, checkpoints, .. } = recovered;
        superblock.boot = boot.into();
        superblock.clean = false;
        superblock.note_names(options.durable_names, first);
        superblock.next_offset = first.saturating_add(tuning.reserve);
        superblock.save(&*files).map_err(failed)?;
        let journal = Journal::create(&*files, next_file, 0).map_err(failed)?;
        index.files.insert(next_file, journal.to_indexed());
        let epoch = superblock.epoch.parse().map_err(|_| OpenError::Damaged {
            path: directory.join(SUPERBLOCK),
            why: format!("its `epoch` is {:?}", superblock.epoch),
        })?;
        let engine = Self {
            epoch,
            first_offset: Offset(first),
            clock: options.clock,
            health: StoreHealth::default(),
            next_stream: AtomicU64::new(index.next_stream.max(1)),
            inbox: WorkQueue::new(),
            reads: WorkQueue::new(),
            commits: CommitQueue::new(journal.file.clone(), journal.name.clone()),
            maintenance: Maintenance::new(checkpoints),
            offsets: Offsets {
                noted: AtomicU64::new(first.saturating_sub(1)),
                reserved: AtomicU64::new(superblock.next_offset),
                renew_at: AtomicU64::new(first.saturating_add(tuning.reserve / 2)),
            },
            index: Mutex::new(index),
            superblock: Mutex::new(superblock),
            threads: Mutex::default(),
            files,
            config,
            tuning,
            metrics,
        };
        engine.submit_checkpoint(next_file);
        maintenance::check_free_space(&engine);
        Ok((Arc::new(engine), journal))
    }

    fn start(self: &Arc<Self>, journal: Journal) -> std::io::Result<()> {
        let (writer, group_commit) = (Writer::new(self.clone(), journal), self.clone());
        let (reader, maintenance) = (self.clone(), self.clone());
        let mut threads = self.threads.lock();
        threads.push(spawn("fanfare-store-writer", move || writer.run())?);
        threads.push(spawn("fanfare-store-sync", move || group_commit::run(&group_commit))?);
        threads.push(spawn("fanfare-store-reader", move || reader::run(&reader))?);
        threads.push(spawn("fanfare-store-maint", move || maintenance::run(&maintenance))?);
        Ok(())
    }

    /// Ends the threads in order, so that everything submitted is written and everything written
    /// is synced.
    pub(super) fn close(&self) {
        let mut threads = self.threads.lock();
        if threads.is_empty() {
            return;
        }
        self.inbox.close();
        let mut ending = threads.drain(..);
        join(ending.next());
        self.commits.close();
        join(ending.next());
        self.reads.close();
        self.maintenance.close();
        ending.for_each(|thread| join(Some(thread)));
        self.sign_off();
        self.files.release();
    }

    /// Marks the directory as cleanly closed, if everything is synced. Saves the next offset and
    /// the end of every stream, so that the next start can detect missing events.
    fn sign_off(&self) {
        if !self.commits.is_idle() || self.health.has_failed() {
            return;
        }
        let newest = self.index.lock().files.last_key_value().map(|(number, _)| *number);
        let checkpoint = self.checkpoint(newest.unwrap_or_default().saturating_add(1));
        if let Err(fault) = checkpoint.save(&*self.files) {
            tracing::warn!("the store was not closed cleanly: {fault}");
            return;
        }
        let mut superblock = self.superblock.lock();
        superblock.clean = true;
        let stored = self.index.lock().last_offset().0;
        let noted = self.offsets.noted.load(Ordering::Relaxed);
        superblock.next_offset = noted.max(stored).saturating_add(1);
        let next = superblock.next_offset;
        superblock.clock.observe(next, self.clock.now());
        if let Err(fault) = superblock.save(&*self.files) {
            tracing::warn!("the store was not closed cleanly: {fault}");
        }
    }

    pub(super) fn note_offset(&self, offset: Offset) {
        self.offsets.noted.fetch_max(offset.0, Ordering::Relaxed);
        if offset.0 >= self.offsets.renew_at.load(Ordering::Relaxed)
            && self.offsets.renew_at.swap(u64::MAX, Ordering::Relaxed) != u64::MAX
        {
            // Fails only if the store is closed, and then `sign_off` saves the offset.
            let _ = self.inbox.push(WriterMessage::Renew);
        }
    }

    /// Refuses when a 64th of the reserve is left. That is kept for ends, which cannot be refused,
    /// and for publishes that were admitted at the same moment.
    pub(super) fn check_offsets(&self) -> Result<(), WriteError> {
        let left = self.offsets_left();
        if left > self.tuning.reserve / 64 {
            return Ok(());
        }
        Err(self.health.check().err().unwrap_or(WriteError::Behind))
    }

    fn offsets_left(&self) -> u64 {
        let noted = self.offsets.noted.load(Ordering::Relaxed);
        self.offsets.reserved.load(Ordering::Relaxed).saturating_sub(noted)
    }

    /// Reserves more offsets if few are left, as after a failed renewal, when perhaps no offset
    /// has been given out since.
    pub(super) fn look_after_offsets(&self) {
        if self.offsets_left() < self.tuning.reserve / 4 {
            self.renew_offsets();
        }
    }

    /// Reserves more offsets. If the disk is full, it is tried again long before they run out.
    pub(super) fn renew_offsets(&self) {
        if self.health.has_failed() {
            return;
        }
        let noted = self.offsets.noted.load(Ordering::Relaxed);
        let mut superblock = self.superblock.lock();
        let mut renewed = superblock.clone();
        renewed.next_offset = noted.saturating_add(self.tuning.reserve);
        let saved = renewed.save(&*self.files);
        let share = if saved.is_ok() { 2 } else { 16 };
        match saved {
            Ok(()) => {
                self.offsets.reserved.store(renewed.next_offset, Ordering::Relaxed);
                *superblock = renewed;
            }
            Err(fault) => drop(self.trouble(fault, 0)),
        }
        let again = noted.saturating_add((self.tuning.reserve / share).max(1));
        self.offsets.renew_at.store(again, Ordering::Relaxed);
    }

    /// Saves a change of the wall clock that no event shows yet: after a power cut, the next start
    /// would take the change for the time that the machine was down, and trim all events.
    pub(super) fn look_at_clock(&self) {
        if !self.health.has_failed() {
            let now = self.clock.now();
            // An error is in the health of the store; the next round tries again.
            let _ = self.save_steps(std::iter::once((self.noted_offset().saturating_add(1), now)));
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
        changed.save(&*self.files).map_err(|fault| self.trouble(fault, 0))?;
        *superblock = changed;
        Ok(())
    }

    /// Returns the last offset that was given out.
    pub(super) fn noted_offset(&self) -> u64 {
        self.offsets.noted.load(Ordering::Relaxed)
    }

    /// Submits a checkpoint of the current index to the maintenance thread. Called by the writer
    /// between two writes, as only the writer adds to the index.
    pub(super) fn submit_checkpoint(&self, number: u32) {
        self.maintenance.submit(self.checkpoint(number));
    }

    /// Returns a checkpoint of the current index.
    fn checkpoint(&self, number: u32) -> Checkpoint {
        let mut index = self.index.lock();
        index.receipts.forget_expired(self.clock.now());
        Checkpoint {
            number,
            streams: index.summary(),
            receipts: index.receipts.to_vec(),
            next_stream: index.next_stream,
            gone: index.gone,
        }
    }

    /// Reports a failed operation. After a shortage of space the store recovers; any other error
    /// is final.
    pub(super) fn trouble(&self, fault: IoError, needed: u64) -> WriteError {
        if !fault.is_full() {
            return self.fail(&fault);
        }
        if self.health.fill(needed) {
            tracing::warn!("the store takes nothing until there is room: {fault}");
        }
        WriteError::Full
    }

    /// Fails the store for good: the contents of the disk are no longer known.
    pub(super) fn fail(&self, fault: &IoError) -> WriteError {
        if self.health.fail(fault) {
            tracing::error!("the store has failed and takes nothing any more: {fault}");
        }
        self.commits.wake();
        WriteError::Failed
    }

    pub(super) fn tell_bytes(&self) {
        self.metrics.store_holds(self.index.lock().bytes());
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

fn join(thread: Option<JoinHandle<()>>) {
    // Dropping the last handle on a store thread closes the store from that thread, which cannot
    // join itself.
    if let Some(thread) = thread.filter(|thread| thread.thread().id() != thread::current().id()) {
        // The thread has reported its errors itself.
        let _ = thread.join();
    }
}

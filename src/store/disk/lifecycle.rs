//! How a store is opened and closed.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;

use super::error::OpenError;
use super::file_names::SUPERBLOCK;
use super::files::IoError;
use super::group_commit::GroupCommit;
use super::journal::Journal;
use super::maintenance::Maintenance;
use super::offsets::Offsets;
use super::reader::Reader;
use super::receipts::Receipts;
use super::recovery::{self, Recovered, RecoveredFiles};
use super::setup::Setup;
use super::store_parts::Parts;
use super::superblock::Superblock;
use super::writer::Writer;
use crate::position::{Epoch, Offset};

/// An open store with its threads. Closed when it is dropped.
pub(super) struct OpenStore {
    pub(super) epoch: Epoch,
    /// The first offset of this life.
    pub(super) first_offset: Offset,
    /// The number of the next new stream.
    pub(super) next_stream: AtomicU64,
    pub(super) parts: Parts,
    pub(super) maintenance: Arc<Maintenance>,
    /// The writer, the sync thread, the reader, and the maintenance thread.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for OpenStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStore").field("files", &self.parts.files).finish_non_exhaustive()
    }
}

impl Drop for OpenStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl OpenStore {
    /// Recovers the directory, and begins a life of the store.
    pub(super) fn open(setup: Setup) -> Result<(Self, Recovered), OpenError> {
        let Setup { files, directory, boot, options, metrics, .. } = &setup;
        let known = Superblock::load(&**files, directory)?;
        let mut superblock = known.unwrap_or_else(|| Superblock::new(Epoch::random().as_str()));
        let power_cut = superblock.is_after_power_cut(boot);
        let receipts = Receipts::within(options.max_receipts, options.receipts_window);
        let recovered = recovery::recover(&**files, metrics, receipts, superblock.clean);
        let mut recovered = recovered.map_err(|fault| fault.in_directory(directory))?;
        let index = &mut recovered.index;
        let first = superblock.next_offset.max(index.last_offset().0.saturating_add(1));
        let opened = options.clock.now();
        let same_boot = !boot.is_empty() && *superblock.boot == **boot;
        superblock.clock.resume(same_boot, index.newest(), first, opened);
        index.date(&superblock.clock, opened);
        index.receipts.forget_expired(opened);
        superblock.boot = boot.as_str().into();
        superblock.set_durable_names(options.durable_names.clone(), first);
        let mut found = recovered.found(power_cut);
        found.gone = found.gone.max(Offset(superblock.in_memory));
        let store = Self::begin(setup, superblock, recovered, Offset(first))?;
        Ok((store, found))
    }

    /// Begins a life at this offset, with a new journal, and starts the threads.
    fn begin(
        setup: Setup,
        mut superblock: Superblock,
        recovered: RecoveredFiles,
        first: Offset,
    ) -> Result<Self, OpenError> {
        let RecoveredFiles { mut index, next_file, checkpoints, .. } = recovered;
        let directory = setup.directory.clone();
        let failed = |fault: IoError| fault.in_directory(&directory);
        let epoch = superblock.epoch.parse().map_err(|_| OpenError::Damaged {
            path: directory.join(SUPERBLOCK),
            why: format!("its `epoch` is {:?}", superblock.epoch),
        })?;
        let offsets = Offsets::new(first.0, setup.tuning.reserve);
        superblock.clean = false;
        superblock.next_offset = offsets.reserved();
        superblock.save(&*setup.files).map_err(failed)?;
        let journal = Journal::create(&*setup.files, next_file, 0).map_err(failed)?;
        index.files.insert(next_file, journal.to_indexed());
        let next_stream = AtomicU64::new(index.next_stream.max(1));
        let parts = Parts::new(setup, superblock, offsets, index, &journal);
        parts.checkpoints.submit(parts.checkpoint(next_file));
        parts.free_space.update(&parts.health);
        let writer = parts.writer(journal);
        let group_commit = parts.group_commit();
        let reader = parts.reader();
        let maintenance = Arc::new(parts.maintenance(checkpoints));
        let threads = Mutex::default();
        let store = Self { epoch, first_offset: first, next_stream, parts, maintenance, threads };
        // After an error, the drop of the store ends the threads that were started.
        let started = store.start(writer, group_commit, reader);
        started.map_err(|error| OpenError::Io { path: directory, error })?;
        Ok(store)
    }

    fn start(&self, writer: Writer, group_commit: GroupCommit, reader: Reader) -> io::Result<()> {
        let maintenance = self.maintenance.clone();
        let mut threads = self.threads.lock();
        threads.push(spawn("fanfare-store-writer", move || writer.run())?);
        threads.push(spawn("fanfare-store-sync", move || group_commit.run())?);
        threads.push(spawn("fanfare-store-reader", move || reader.run())?);
        threads.push(spawn("fanfare-store-maint", move || maintenance.run())?);
        Ok(())
    }

    /// Ends the threads in order, so that everything submitted is written and everything written
    /// is synced.
    pub(super) fn close(&self) {
        let mut threads = self.threads.lock();
        if threads.is_empty() {
            return;
        }
        self.parts.writes.close();
        let mut ending = threads.drain(..);
        join(ending.next());
        self.parts.commits.close();
        join(ending.next());
        self.parts.reads.close();
        self.parts.checkpoints.close();
        ending.for_each(|thread| join(Some(thread)));
        self.mark_clean();
        self.parts.files.release();
    }

    /// Marks the directory as cleanly closed, if everything is synced. Saves the next offset and
    /// the end of every stream, so that the next start can detect missing events.
    fn mark_clean(&self) {
        let Parts { files, index, commits, health, superblock, .. } = &self.parts;
        if !commits.is_idle() || health.has_failed() {
            return;
        }
        let newest = index.lock().files.last_key_value().map(|(number, _)| *number);
        let checkpoint = self.parts.checkpoint(newest.unwrap_or_default().saturating_add(1));
        let stored = index.lock().last_offset();
        let saved = checkpoint.save(&**files).and_then(|()| superblock.close(stored));
        if let Err(fault) = saved {
            tracing::warn!("the store was not closed cleanly: {fault}");
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
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

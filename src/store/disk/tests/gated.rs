//! A disk whose syncs can be held up, and a store on it, for tests of the layers above.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytesize::ByteSize;
use parking_lot::{Condvar, Mutex};

use super::fake;
use super::support::{config, setup};
use crate::store::disk::block::{Kind, ScannedPart, scan};
use crate::store::disk::files::{File, Files};
use crate::store::disk::setup::Setup;
use crate::store::disk::{Config, Disk, Durability, OpenOptions, Recovered, Seek, StreamId};

/// Longer than any expected event takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A disk in memory whose syncs can be held up.
#[derive(Clone, Debug)]
pub(crate) struct Gated {
    pub(crate) disk: fake::Disk,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

#[derive(Debug, Default)]
struct Gate {
    /// Syncs are held up.
    shut: bool,
    /// Number of syncs at the gate.
    waiting: usize,
}

impl Gated {
    pub(crate) fn new() -> Self {
        Self { disk: fake::Disk::new(), gate: Arc::default() }
    }

    /// Holds up later syncs.
    pub(crate) fn shut(&self) {
        self.gate.0.lock().shut = true;
    }

    /// Lets waiting syncs continue.
    pub(crate) fn open_up(&self) {
        self.gate.0.lock().shut = false;
        self.gate.1.notify_all();
    }

    /// Waits until a sync is at the gate: the records for it are written.
    pub(crate) fn until_a_sync_waits(&self) {
        let mut gate = self.gate.0.lock();
        while gate.waiting == 0 {
            assert!(!self.gate.1.wait_for(&mut gate, PATIENCE).timed_out(), "no sync has come");
        }
    }

    /// Returns the disk as a killed process leaves it, with another gate.
    pub(crate) fn after_kill(&self) -> Self {
        Self { disk: self.disk.after_kill(), gate: Arc::default() }
    }

    /// Opens a store on this disk, and runs maintenance once.
    pub(crate) fn store(&self, config: &Config, terms: OpenOptions) -> (Disk, Recovered) {
        self.store_of_boot(config, terms, "this one")
    }

    /// Opens a store as in the boot with this name.
    pub(crate) fn store_of_boot(
        &self,
        config: &Config,
        terms: OpenOptions,
        boot: &str,
    ) -> (Disk, Recovered) {
        let setup = setup(Arc::new(self.clone()), Path::new("/fake"));
        let setup =
            Setup { boot: boot.to_owned(), config: config.clone(), options: terms, ..setup };
        let (disk, found) = Disk::with(setup).unwrap();
        disk.maintenance().run_once().unwrap();
        (disk, found)
    }

    /// Breaks the last block of events in any file.
    pub(crate) fn break_last_block(&self) {
        let names = self.disk.names().into_iter().rev();
        let last = |name: &String| last_events(&self.disk.bytes(name));
        let (name, at) = names.filter_map(|name| last(&name).map(|at| (name, at))).next().unwrap();
        let mut bytes = self.disk.bytes(&name);
        bytes[at - 3] ^= 0xff;
        self.disk.set_bytes(&name, bytes);
    }

    fn pass(&self) {
        let mut gate = self.gate.0.lock();
        gate.waiting += 1;
        self.gate.1.notify_all();
        while gate.shut {
            self.gate.1.wait(&mut gate);
        }
        gate.waiting -= 1;
    }

    fn gated(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(GatedFile { file, disk: self.clone() })
    }
}

/// The configuration of the store's own tests: nothing is synced for its age.
pub(crate) fn store_config(durability: Durability) -> Config {
    Config { durability, min_free: ByteSize(1000), ..config() }
}

/// Checks the free space now, as a round of maintenance does.
pub(crate) fn check_free_space(disk: &Disk) {
    disk.maintenance().check_free_space();
}

/// Returns the end of the last block of events of a file.
fn last_events(bytes: &[u8]) -> Option<usize> {
    let end = |part: &ScannedPart<'_>| match part {
        ScannedPart::Whole { position, block } if block.header.kind == Kind::Events => {
            Some(position + block.header.length())
        }
        ScannedPart::Whole { .. } | ScannedPart::Broken { .. } => None,
    };
    scan(bytes).iter().rev().find_map(end)
}

/// Returns the byte range of each whole block of a file.
pub(crate) fn blocks_of(bytes: &[u8]) -> Vec<Range<usize>> {
    let whole = |part: ScannedPart<'_>| match part {
        ScannedPart::Whole { position, block } => Some(position..position + block.header.length()),
        ScannedPart::Broken { .. } => None,
    };
    scan(bytes).into_iter().filter_map(whole).collect()
}

/// Waits until all reads submitted so far are done.
pub(crate) fn until_all_is_read(disk: &Disk) {
    let (tell, told) = mpsc::channel();
    disk.read(StreamId(u64::MAX), Seek::Seq(0), Box::new(move |_| tell.send(()).unwrap()));
    told.recv_timeout(PATIENCE).unwrap();
}

impl Files for Gated {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.gated(self.disk.create(name)?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.gated(self.disk.open(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }

    fn free(&self) -> io::Result<u64> {
        self.disk.free()
    }

    fn release(&self) {}
}

#[derive(Debug)]
struct GatedFile {
    file: Arc<dyn File>,
    disk: Gated,
}

impl File for GatedFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_at(position, into)
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(position, bytes)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.file.truncate(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.pass();
        self.file.sync()
    }
}

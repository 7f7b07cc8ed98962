//! A disk that can be held up, and a store on it, for tests of those that are built on the store.

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
use crate::store::disk::engine::Setup;
use crate::store::disk::files::{File, Files};
use crate::store::disk::{
    Config, Disk, Durability, OpenOptions, Recovered, Seek, StreamId, maintenance,
};

/// Longer than anything takes that is to happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Gated {
    pub(crate) disk: fake::Disk,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

#[derive(Debug, Default)]
struct Gate {
    /// No sync comes through.
    shut: bool,
    /// How many syncs stand there.
    waiting: usize,
}

impl Gated {
    pub(crate) fn new() -> Self {
        Self { disk: fake::Disk::new(), gate: Arc::default() }
    }

    /// Whatever is synced from now on waits.
    pub(crate) fn shut(&self) {
        self.gate.0.lock().shut = true;
    }

    /// What waits goes on.
    pub(crate) fn open_up(&self) {
        self.gate.0.lock().shut = false;
        self.gate.1.notify_all();
    }

    /// A sync stands at the auth filter: what it is for is written.
    pub(crate) fn until_a_sync_waits(&self) {
        let mut gate = self.gate.0.lock();
        while gate.waiting == 0 {
            assert!(!self.gate.1.wait_for(&mut gate, PATIENCE).timed_out(), "no sync has come");
        }
    }

    /// What the death of the process leaves, under another gate.
    pub(crate) fn after_kill(&self) -> Self {
        Self { disk: self.disk.after_kill(), gate: Arc::default() }
    }

    /// A store on this disk, which has put its directory in order.
    pub(crate) fn store(&self, config: &Config, terms: OpenOptions) -> (Disk, Recovered) {
        self.store_of_boot(config, terms, "this one")
    }

    /// The same, with the name of a start of the machine.
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
        maintenance::run_once(disk.engine()).unwrap();
        (disk, found)
    }

    /// Breaks the last block of events, whatever file has it.
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

/// As the tests of the store itself have it: nothing is synced for its age.
pub(crate) fn store_config(durability: Durability) -> Config {
    Config { durability, min_free: ByteSize(1000), ..config() }
}

/// The store looks now whether there is room, and not when its time comes.
pub(crate) fn check_free_space(disk: &Disk) {
    maintenance::check_free_space(disk.engine());
    disk.engine().look_after_offsets();
}

/// The end of the last block of events of a file.
fn last_events(bytes: &[u8]) -> Option<usize> {
    let end = |part: &ScannedPart<'_>| match part {
        ScannedPart::Whole { position, block } if block.header.kind == Kind::Events => {
            Some(position + block.header.length())
        }
        ScannedPart::Whole { .. } | ScannedPart::Broken { .. } => None,
    };
    scan(bytes).iter().rev().find_map(end)
}

/// Where each whole block of a file is.
pub(crate) fn blocks_of(bytes: &[u8]) -> Vec<Range<usize>> {
    let whole = |part: ScannedPart<'_>| match part {
        ScannedPart::Whole { position, block } => Some(position..position + block.header.length()),
        ScannedPart::Broken { .. } => None,
    };
    scan(bytes).into_iter().filter_map(whole).collect()
}

/// All that was to be read by now has been read.
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

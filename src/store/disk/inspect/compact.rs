//! Compaction of a whole directory at once. A running hub does it file by file, when half of a
//! file is dead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytesize::ByteSize;

use super::Inspected;
use crate::store::disk::Disk;
use crate::store::disk::config::{Config, OpenOptions};
use crate::store::disk::error::OpenError;
use crate::store::disk::file_names::{Role, parse_name};
use crate::store::disk::files::{Directory, Files, IoError};
use crate::store::disk::health::Health;
use crate::store::disk::maintenance::Maintenance;
use crate::store::disk::setup::this_boot;
use crate::telemetry::Metrics;

/// The result of a compaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Bytes of all files before.
    pub before: u64,
    /// Bytes of all files after.
    pub after: u64,
    /// Number of rewritten files.
    pub rewritten: usize,
    /// Number of deleted files, in which everything was dead.
    pub deleted: usize,
    /// Files that cannot be read whole, and were left as they are.
    pub damaged: Vec<String>,
}

/// The reason why a directory was not compacted.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// The directory cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The machine went down: a hub has to open it first.
    #[error(
        "{0} was left by a hub when the machine went down, and only a hub can tell its subscribers \
         what that may have cost: start it once, stop it, and compact then"
    )]
    PowerCut(PathBuf),
    /// Reading or writing failed on the way. Nothing is lost.
    #[error("{0}")]
    Failed(String),
}

/// Rewrites every journal, and every sorted file with dead blocks; deletes dead files.
///
/// # Errors
/// See [`CompactError`].
pub fn compact(path: &Path) -> Result<Compacted, CompactError> {
    // Opening read-only first creates no store where there is none, and leaves a torn end to the
    // hub.
    let Inspected { files, superblock, .. } = Inspected::open(path)?;
    if superblock.is_after_power_cut(&this_boot()) {
        return Err(CompactError::PowerCut(path.to_owned()));
    }
    let before = sizes(&*files, path)?;
    drop(files);
    // No file from the older checkpoint on may be changed. Opening the store twice writes two
    // checkpoints above all existing files.
    on_open_store(path, Maintenance::run_once)?;
    let damaged = on_open_store(path, |maintenance| {
        maintenance.compact()?;
        Ok(maintenance.damaged_files())
    })?;
    let after = sizes(&Directory::open_read_only(path)?, path)?;
    let now = |number: &u32| after.files.get(number);
    Ok(Compacted {
        before: before.bytes,
        after: after.bytes,
        rewritten: before
            .files
            .iter()
            .filter(|(n, was)| now(n).is_some_and(|it| it != *was))
            .count(),
        deleted: before.files.keys().filter(|number| now(number).is_none()).count(),
        damaged,
    })
}

/// Opens the store as a hub does, with limits that delete nothing alive.
fn on_open_store<T>(
    path: &Path,
    work: impl FnOnce(&Maintenance) -> Result<T, IoError>,
) -> Result<T, CompactError> {
    let config = Config {
        path: path.to_owned(),
        max_bytes: ByteSize(u64::MAX),
        min_free: ByteSize(0),
        ..Config::default()
    };
    let (disk, _) = Disk::open(&config, OpenOptions::default(), Arc::new(Metrics::new()))?;
    let worked = work(disk.maintenance());
    let health = disk.health();
    disk.close();
    let done =
        worked.map_err(|fault| CompactError::Failed(format!("{}/{fault}", path.display())))?;
    // The maintenance thread of the store may have met the error first.
    match health {
        Health::Failed(why) => Err(CompactError::Failed(why.to_string())),
        Health::Good | Health::Full => Ok(done),
    }
}

/// The bytes of all files, and the name and size of each file with events.
struct Sizes {
    bytes: u64,
    files: BTreeMap<u32, (String, u64)>,
}

fn sizes(files: &dyn Files, path: &Path) -> Result<Sizes, OpenError> {
    let failed = |name: &str, error| IoError::of(name)(error).in_directory(path);
    let mut sizes = Sizes { bytes: 0, files: BTreeMap::new() };
    for name in files.list().map_err(|error| failed("", error))? {
        let Some((number, role)) = parse_name(&name) else { continue };
        let size = files.open(&name).and_then(|file| file.size());
        let size = size.map_err(|error| failed(&name, error))?;
        sizes.bytes += size;
        if role != Role::Checkpoint {
            sizes.files.insert(number, (name, size));
        }
    }
    Ok(sizes)
}

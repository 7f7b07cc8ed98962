//! Giving back what is dead, at once and all of it. A hub does the same bit by bit, where half of a
//! file is dead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytesize::ByteSize;

use super::Looked;
use crate::store::disk::checkpoint::{Role, parse_name};
use crate::store::disk::engine::Engine;
use crate::store::disk::files::{Directory, Files, IoError};
use crate::store::disk::{Config, Disk, OpenError, OpenOptions, maintenance, this_boot};
use crate::telemetry::Metrics;

/// What became of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Bytes of all its files before.
    pub before: u64,
    /// And now.
    pub after: u64,
    /// Files that were written anew.
    pub rewritten: usize,
    /// Files with nothing alive in them, which are gone.
    pub deleted: usize,
    /// Files that cannot be read whole, and stay as they are.
    pub damaged: Vec<String>,
}

/// Why a directory was not compacted.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Only a hub may be the next to open it.
    #[error(
        "{0} was left by a hub when the machine went down, and only a hub can tell its subscribers \
         what that may have cost: start it once, stop it, and compact then"
    )]
    PowerCut(PathBuf),
    /// Reading or writing failed on the way. Nothing is lost by it.
    #[error("{0}")]
    Failed(String),
}

/// Sorts and rewrites every file of which anything is dead, and deletes those that are.
///
/// # Errors
/// See [`CompactError`].
pub fn compact(path: &Path) -> Result<Compacted, CompactError> {
    // What is no store must not become one, and what was torn is cut by no one else.
    let Looked { files, superblock, .. } = Looked::at(path)?;
    if superblock.tells_of_power_cut(&this_boot()) {
        return Err(CompactError::PowerCut(path.to_owned()));
    }
    let before = sizes(&*files, path)?;
    drop(files);
    // The files that are there lie below both checkpoints, which nothing may be deleted without,
    // once the store has been opened twice.
    live(path, maintenance::run_once)?;
    let damaged = live(path, |engine| {
        maintenance::compact(engine)?;
        let index = engine.index.lock();
        let damaged = index.files.values().filter(|file| file.damaged);
        Ok(damaged.map(|file| file.name.clone()).collect())
    })?;
    let after = sizes(&Directory::look(path)?, path)?;
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

/// Opens the store as a hub does, with nothing that would make it give up anything alive.
fn live<T>(
    path: &Path,
    work: impl FnOnce(&Engine) -> Result<T, IoError>,
) -> Result<T, CompactError> {
    let config = Config {
        path: path.to_owned(),
        max_bytes: ByteSize(u64::MAX),
        min_free: ByteSize(0),
        ..Config::default()
    };
    let (disk, _) = Disk::open(&config, OpenOptions::default(), Arc::new(Metrics::new()))?;
    let worked = work(disk.engine());
    disk.close();
    worked.map_err(|fault| CompactError::Failed(format!("{}/{fault}", path.display())))
}

/// Bytes of all files; of those with events, what each is and how large.
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

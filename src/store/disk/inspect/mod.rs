//! Inspection of a directory whose hub is not running: whether it is whole, what it holds, and how
//! much of it is dead.
//!
//! Invariant: inspection changes nothing. It runs recovery itself on read-only files, so that it
//! reports what a start would find.

mod check;
mod compact;
mod stat;
mod untouched;

use std::path::Path;
use std::sync::Arc;

pub use check::{Checked, Finding, Totals, check};
pub use compact::{CompactError, Compacted, compact};
pub use stat::{ChannelStat, FileStat, Stat, stat};

use super::error::OpenError;
use super::file_names::SUPERBLOCK;
use super::files::{Directory, Files};
use super::receipts::Receipts;
use super::recovery::{self, RecoveredFiles};
use super::stream_index::StreamIndex;
use super::superblock::Superblock;
use crate::telemetry::Metrics;
use untouched::Untouched;

/// An inspected directory.
pub(super) struct Inspected {
    files: Arc<dyn Files>,
    superblock: Superblock,
    /// The fault of the superblock, in which case `superblock` is a default.
    damaged: Option<String>,
    /// The result of recovery.
    recovered: RecoveredFiles,
}

impl Inspected {
    fn open(path: &Path) -> Result<Self, OpenError> {
        match Self::of_files(Arc::new(Directory::open_read_only(path)?), path)? {
            Self { damaged: Some(why), .. } => {
                Err(OpenError::Damaged { path: path.join(SUPERBLOCK), why })
            }
            inspected => Ok(inspected),
        }
    }

    /// Inspects a directory, even if the superblock is damaged: the rest does not depend on it.
    pub(in crate::store::disk) fn of_files(
        files: Arc<dyn Files>,
        path: &Path,
    ) -> Result<Self, OpenError> {
        let files: Arc<dyn Files> = Arc::new(Untouched(files));
        let (superblock, damaged) = match Superblock::load(&*files, path) {
            Ok(Some(superblock)) => (superblock, None),
            Ok(None) => {
                return Err(OpenError::Foreign {
                    path: path.to_owned(),
                    why: "it is empty".to_owned(),
                });
            }
            Err(OpenError::Damaged { why, .. }) => {
                let mut superblock = Superblock::new("unknown");
                superblock.clean = false;
                (superblock, Some(why))
            }
            Err(error) => return Err(error),
        };
        let recovered =
            recovery::recover(&*files, &Metrics::new(), Receipts::default(), superblock.clean);
        let recovered = recovered.map_err(|fault| fault.in_directory(path))?;
        Ok(Self { files, superblock, damaged, recovered })
    }
}

/// Returns the number of retained events of a stream, and the bytes of their frames.
fn held(stream: &StreamIndex) -> (u64, u64) {
    let trim_point = stream.trim_point.position;
    let pieces = stream.blocks().map(|block| block.first.max(trim_point).distance_to(block.end()));
    pieces.fold((0, 0), |(events, bytes), piece| (events + piece.seq, bytes + piece.byte))
}

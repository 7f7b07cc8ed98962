//! The errors of the store: a directory is not opened, or a record is not stored.

use std::io;
use std::path::PathBuf;

/// The reason why a directory was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another hub uses it.
    #[error("{0} is in use by another hub: each needs a directory of its own")]
    Locked(PathBuf),
    /// It was written by a later version.
    #[error(
        "{path} has version {found} of the store, and this hub knows up to {known}: start it with \
         the version of Fanfare that wrote it, or a later one, or give it another `store.path`"
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The latest version that this hub can read.
        known: u32,
    },
    /// The superblock is damaged.
    #[error(
        "{path} is damaged: {why}. Put back a copy of this file, or see \"A damaged superblock\" \
         in docs/disk-format.md; to begin with nothing, give the hub another `store.path`"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The fault.
        why: String,
    },
    /// It has files that do not belong to a store.
    #[error("{path} is no store of Fanfare: {why}")]
    Foreign {
        /// The file or directory.
        path: PathBuf,
        /// The fault.
        why: String,
    },
    /// Reading or writing failed.
    #[error("{path}: {error}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
}

/// The reason why a record is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The disk is full; a later write may succeed.
    #[error("the disk of the store is full: nothing more is stored until there is room")]
    Full,
    /// The disk has failed. Nothing is stored until the hub is restarted.
    #[error("the store has failed: nothing is stored until the hub is restarted")]
    Failed,
    /// The disk is slower than the publishers.
    #[error("the disk of the store does not keep up with what is published: try again")]
    Behind,
}

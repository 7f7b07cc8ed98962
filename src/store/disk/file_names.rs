//! The names of the files in the directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(super) const SUPERBLOCK: &str = "fanfare.store";
/// The lock file of the directory.
pub(super) const LOCK: &str = "lock";
/// The ending of the name of a file that is being written.
const UNFINISHED: &str = ".tmp";

/// The kind of a numbered file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Blocks in the order of their arrival.
    Journal,
    /// Blocks sorted by stream.
    Sorted,
    Checkpoint,
}

impl Role {
    /// Returns the name of the file with this number.
    pub(super) fn file_name(self, number: u32) -> String {
        format!("{number:016}.{}", self.ending())
    }

    fn ending(self) -> &'static str {
        match self {
            Self::Journal => "log",
            Self::Sorted => "seg",
            Self::Checkpoint => "cat",
        }
    }
}

/// Parses the name of a numbered file.
pub(super) fn parse_name(text: &str) -> Option<(u32, Role)> {
    let (number, _) = text.split_once('.')?;
    let number = number.parse().ok()?;
    let roles = [Role::Journal, Role::Sorted, Role::Checkpoint].into_iter();
    roles.map(|role| (number, role)).find(|(number, role)| role.file_name(*number) == text)
}

/// Returns whether a crash may have left this file unfinished. Such files are deleted unread.
pub(super) fn is_unfinished(name: &str) -> bool {
    let whole = name.strip_suffix(UNFINISHED);
    whole.is_some_and(|name| name == SUPERBLOCK || parse_name(name).is_some())
}

/// Returns whether the file belongs to a store.
pub(super) fn is_ours(name: &str) -> bool {
    [LOCK, SUPERBLOCK].contains(&name) || parse_name(name).is_some() || is_unfinished(name)
}

/// Returns the name of a file while it is being written.
pub(super) fn unfinished(name: &str) -> String {
    format!("{name}{UNFINISHED}")
}

/// Returns the paths of the store's files in a directory.
///
/// # Errors
/// The directory cannot be read.
pub fn files_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_ours) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

//! The superblock of the directory: whose it is, how it was left, and which offsets were given out.
//!
//! A wrong one would give ids out twice, or none at all, so its last line is a checksum of all that
//! stands before it. Hubs before this one wrote none: such a file is taken as it is, if it has all
//! fields and no others, and written with one at the start.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::OpenError;
use super::checkpoint::{is_ours, is_unfinished};
use super::files::{Files, IoError, read_all, replace};
use super::steps::Steps;
use crate::position::Epoch;

pub(super) const SUPERBLOCK: &str = "fanfare.store";
/// The file whose lock is the directory's.
pub(super) const LOCK: &str = "lock";
const VERSION: u32 = 1;

/// No hub gives out so many offsets: at a million in a second, it takes 146,000 years.
const MOST_OFFSETS: u64 = 1 << 62;

/// What stands between the fields and the checksum.
const SEAL: &str = ",\n  \"checksum\": ";

/// What the directory is, and how it was left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Superblock {
    version: u32,
    pub(super) epoch: Box<str>,
    /// The start of the machine in which it was last opened.
    pub(super) boot: Box<str>,
    /// Closed after everything was synced.
    pub(super) clean: bool,
    /// No offset from here on has been given out.
    pub(super) next_offset: u64,
    /// Tells which names were durable in the life that was last; nothing in directories of hubs
    /// that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    durable_names: Option<Box<str>>,
    /// Up to this offset, names that are durable by now may have had events in memory alone.
    #[serde(default)]
    pub(super) in_memory: u64,
    /// How the wall clock was set.
    #[serde(default)]
    pub(super) clock: Steps,
}

/// The fields of files without a checksum.
const FIELDS: [&str; 8] =
    ["version", "epoch", "boot", "clean", "next_offset", "durable_names", "in_memory", "clock"];

/// What every version's identity has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Superblock {
    pub(super) fn new(epoch: &str) -> Self {
        let epoch = epoch.into();
        Self {
            version: VERSION,
            epoch,
            boot: Box::default(),
            clean: true,
            next_offset: 1,
            durable_names: None,
            in_memory: 0,
            clock: Steps::default(),
        }
    }

    /// A life begins, with this offset and these names. If others were durable before, nobody knows
    /// which of the new ones had events that are gone.
    pub(super) fn note_names(&mut self, durable_names: Option<Box<str>>, first: u64) {
        if durable_names.is_some() && durable_names != self.durable_names {
            self.in_memory = first.saturating_sub(1);
            self.durable_names = durable_names;
        }
    }

    /// Reads it. `None` means a directory that has nothing yet.
    pub(super) fn load(files: &dyn Files, directory: &Path) -> Result<Option<Self>, OpenError> {
        let names = files.list().map_err(|error| IoError::of("")(error).in_directory(directory))?;
        if !names.iter().any(|name| name == SUPERBLOCK) {
            return nothing_of_others(&names, directory);
        }
        let failed = |error| IoError::of(SUPERBLOCK)(error).in_directory(directory);
        let file = files.open(SUPERBLOCK).map_err(failed)?;
        let bytes = read_all(&*file).map_err(failed)?;
        let damaged = |why| OpenError::Damaged { path: directory.join(SUPERBLOCK), why };
        let text = str::from_utf8(&bytes).map_err(|why| damaged(why.to_string()))?;
        let sealed = is_sealed(text).map_err(damaged)?;
        let fields: Value = serde_json::from_str(text).map_err(|why| damaged(why.to_string()))?;
        let version = Version::deserialize(&fields).map_err(|why| damaged(why.to_string()))?;
        if version.version > VERSION {
            let (path, found) = (directory.to_owned(), version.version);
            return Err(OpenError::Newer { path, found, known: VERSION });
        }
        if let Some(other) = unknown_field(&fields).filter(|_| !sealed) {
            return Err(damaged(format!("it has a field `{other}`, which no hub writes")));
        }
        let superblock = Self::deserialize(&fields).map_err(|why| damaged(why.to_string()))?;
        superblock.check().map_err(damaged)?;
        Ok(Some(superblock))
    }

    /// Whether the values can be: a checksum says nothing of what was edited.
    fn check(&self) -> Result<(), String> {
        let Self { next_offset, in_memory, .. } = self;
        if self.epoch.parse::<Epoch>().is_err() {
            return Err(format!("its `epoch` is {:?}", self.epoch));
        }
        if !(1..=MOST_OFFSETS).contains(next_offset) {
            let most = MOST_OFFSETS;
            return Err(format!("its `next_offset` is {next_offset}; 1 to {most} can be right"));
        }
        if in_memory >= next_offset {
            return Err(format!(
                "its `in_memory` is {in_memory}; below `next_offset`, {next_offset}, can be right"
            ));
        }
        Ok(())
    }

    /// Whether the machine may have gone down while a hub had the directory. A start of the machine
    /// that has no name may be another one.
    pub(super) fn tells_of_power_cut(&self, boot: &str) -> bool {
        !self.clean && (boot.is_empty() || *self.boot != *boot)
    }

    pub(super) fn save(&self, files: &dyn Files) -> Result<(), IoError> {
        // A person may look at it: one line per fact.
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        replace(files, SUPERBLOCK, seal(text.trim_end_matches("\n}")).as_bytes())
    }
}

/// The file with these fields.
fn seal(fields: &str) -> String {
    format!("{fields}{SEAL}\"{:08x}\"\n}}", crc32fast::hash(fields.as_bytes()))
}

/// Whether the text has a checksum, which is right.
fn is_sealed(text: &str) -> Result<bool, String> {
    match text.rfind(SEAL) {
        None => Ok(false),
        Some(at) if seal(&text[..at]) == text => Ok(true),
        Some(_) => Err("its checksum is wrong".to_owned()),
    }
}

fn unknown_field(fields: &Value) -> Option<&str> {
    let mut names = fields.as_object()?.keys();
    names.find(|name| !FIELDS.contains(&name.as_str())).map(String::as_str)
}

fn nothing_of_others<T>(names: &[String], directory: &Path) -> Result<Option<T>, OpenError> {
    let harmless = |name: &&String| *name == LOCK || *name == "lost+found" || is_unfinished(name);
    match names.iter().find(|name| !harmless(name)) {
        None => Ok(None),
        Some(name) if is_ours(name) => Err(OpenError::Damaged {
            path: directory.join(SUPERBLOCK),
            why: format!("it is not there, and {name} is"),
        }),
        Some(name) => Err(OpenError::Foreign {
            path: directory.to_owned(),
            why: format!("it has {name}, but no {SUPERBLOCK}"),
        }),
    }
}

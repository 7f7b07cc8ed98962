//! The superblock: the identity of the store, how it was closed, and which offsets were given out.
//!
//! A wrong one would make ids repeat or run out, so its last line is a checksum of the lines
//! before it. Earlier versions wrote none: their file is accepted if it has no unknown field, and
//! gets a checksum at the start.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::clock_steps::Steps;
use super::error::OpenError;
use super::file_names::{LOCK, SUPERBLOCK, is_ours, is_unfinished};
use super::files::{Files, IoError, read_all, replace};
use crate::position::Epoch;

const VERSION: u32 = 1;

/// Maximum plausible offset: at a million per second, it takes 146,000 years to reach.
const MOST_OFFSETS: u64 = 1 << 62;

/// The text between the fields and the checksum.
const CHECKSUM: &str = ",\n  \"checksum\": ";

/// The fields of the superblock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Superblock {
    version: u32,
    pub(super) epoch: Box<str>,
    /// The boot of the machine in which it was last opened.
    pub(super) boot: Box<str>,
    /// Closed after everything was synced.
    pub(super) clean: bool,
    /// The first offset that has not been given out or reserved.
    pub(super) next_offset: u64,
    /// Identifies the set of names that were durable in the last life; `None` if earlier versions
    /// wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    durable_names: Option<Box<str>>,
    /// Up to this offset, names that are durable now may have had events in memory alone.
    #[serde(default)]
    pub(super) in_memory: u64,
    /// Changes of the wall clock.
    #[serde(default)]
    pub(super) clock: Steps,
}

/// The known fields: a file without a checksum has no others.
const FIELDS: [&str; 8] =
    ["version", "epoch", "boot", "clean", "next_offset", "durable_names", "in_memory", "clock"];

/// The field that the superblock of every version has.
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

    /// Begins a life with these durable names. If the set has changed, the new names may have had
    /// events in memory alone, up to `first`.
    pub(super) fn set_durable_names(&mut self, durable_names: Option<Box<str>>, first: u64) {
        if durable_names.is_some() && durable_names != self.durable_names {
            self.in_memory = first.saturating_sub(1);
            self.durable_names = durable_names;
        }
    }

    /// Loads the superblock. Returns `None` if the directory has no store yet.
    pub(super) fn load(files: &dyn Files, directory: &Path) -> Result<Option<Self>, OpenError> {
        let names = files.list().map_err(|error| IoError::of("")(error).in_directory(directory))?;
        if !names.iter().any(|name| name == SUPERBLOCK) {
            return check_no_store(&names, directory);
        }
        let failed = |error| IoError::of(SUPERBLOCK)(error).in_directory(directory);
        let file = files.open(SUPERBLOCK).map_err(failed)?;
        let bytes = read_all(&*file).map_err(failed)?;
        let damaged = |why| OpenError::Damaged { path: directory.join(SUPERBLOCK), why };
        let text = str::from_utf8(&bytes).map_err(|why| damaged(why.to_string()))?;
        let checked = has_checksum(text).map_err(damaged)?;
        let fields: Value = serde_json::from_str(text).map_err(|why| damaged(why.to_string()))?;
        let version = Version::deserialize(&fields).map_err(|why| damaged(why.to_string()))?;
        if version.version > VERSION {
            return Err(OpenError::Newer {
                path: directory.to_owned(),
                found: version.version,
                known: VERSION,
            });
        }
        if let Some(other) = unknown_field(&fields).filter(|_| !checked) {
            return Err(damaged(format!("it has a field `{other}`, which no hub writes")));
        }
        let superblock = Self::deserialize(&fields).map_err(|why| damaged(why.to_string()))?;
        superblock.check().map_err(damaged)?;
        Ok(Some(superblock))
    }

    /// Checks that the values are plausible: a checksum does not protect against edits.
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

    /// Returns whether the machine may have gone down while a hub used the directory. An unknown
    /// boot counts as another one.
    pub(super) fn is_after_power_cut(&self, boot: &str) -> bool {
        !self.clean && (boot.is_empty() || *self.boot != *boot)
    }

    pub(super) fn save(&self, files: &dyn Files) -> Result<(), IoError> {
        // One field per line, as people read this file.
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        replace(files, SUPERBLOCK, with_checksum(text.trim_end_matches("\n}")).as_bytes())
    }
}

/// Returns the file with these fields and their checksum.
fn with_checksum(fields: &str) -> String {
    format!("{fields}{CHECKSUM}\"{:08x}\"\n}}", crc32fast::hash(fields.as_bytes()))
}

/// Returns whether the text has a checksum. Fails if it is wrong.
fn has_checksum(text: &str) -> Result<bool, String> {
    match text.rfind(CHECKSUM) {
        None => Ok(false),
        Some(at) if with_checksum(&text[..at]) == text => Ok(true),
        Some(_) => Err("its checksum is wrong".to_owned()),
    }
}

fn unknown_field(fields: &Value) -> Option<&str> {
    let mut names = fields.as_object()?.keys();
    names.find(|name| !FIELDS.contains(&name.as_str())).map(String::as_str)
}

fn check_no_store<T>(names: &[String], directory: &Path) -> Result<Option<T>, OpenError> {
    let is_harmless = |name: &str| name == LOCK || name == "lost+found" || is_unfinished(name);
    match names.iter().find(|name| !is_harmless(name)) {
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

//! The settings of the store, and the parameters for opening a directory.

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::clock::Clock;

/// Settings of the section `store`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The directory; empty for no store.
    pub path: PathBuf,
    /// Durability of channels for which no rule sets one.
    pub durability: Durability,
    /// Maximum time between a write with durability `async` and its sync.
    #[serde(with = "humantime_serde")]
    pub sync_interval: Duration,
    /// Maximum size of the directory; above it, the oldest file is deleted.
    pub max_bytes: ByteSize,
    /// Free space of the file system below which writes are refused.
    pub min_free: ByteSize,
    /// Bytes at the end of a durable channel that stay in memory.
    pub window: ByteSize,
    /// Size of the read cache, which all replaying readers share.
    pub read_cache: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            durability: Durability::Memory,
            sync_interval: Duration::from_millis(200),
            max_bytes: ByteSize::gib(10),
            min_free: ByteSize::mib(256),
            window: ByteSize::mib(1),
            read_cache: ByteSize::mib(64),
        }
    }
}

impl Config {
    /// Returns whether a store is configured.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.path.as_os_str().is_empty()
    }
}

/// The guarantee for acknowledged events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Nothing survives the process.
    #[default]
    Memory,
    /// Acknowledged events survive the process, but not always a power cut soon afterwards.
    Async,
    /// Acknowledged events survive a power cut.
    Sync,
}

/// Parameters for opening a directory.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Maximum age of receipts.
    pub receipts_window: Duration,
    /// Maximum number of receipts; above it, the oldest are dropped.
    pub max_receipts: usize,
    /// Identifies the set of names that are durable from now on: a text that differs if the set
    /// does. `None` if there is no publisher.
    pub durable_names: Option<Box<str>>,
    /// The clock for ages.
    pub clock: Clock,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            receipts_window: Duration::MAX,
            max_receipts: usize::MAX,
            durable_names: None,
            clock: Clock::default(),
        }
    }
}

//! The parameters for opening a store.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::config::{Config, OpenOptions};
use super::error::OpenError;
use super::files::{Directory, Files};
use super::tuning::Tuning;
use crate::telemetry::Metrics;

/// The parameters for opening a store.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) files: Arc<dyn Files>,
    /// For messages.
    pub(super) directory: PathBuf,
    /// Identifies this boot of the machine.
    pub(super) boot: String,
    pub(super) config: Config,
    pub(super) tuning: Tuning,
    pub(super) options: OpenOptions,
    pub(super) metrics: Arc<Metrics>,
}

impl Setup {
    /// Locks the directory of the settings, and creates it if there is none.
    pub(super) fn new(
        config: &Config,
        options: OpenOptions,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let directory = config.path.clone();
        Ok(Self {
            files: Arc::new(Directory::lock(&directory)?),
            directory,
            boot: this_boot(),
            config: config.clone(),
            tuning: Tuning::within(config.max_bytes.as_u64()),
            options,
            metrics,
        })
    }
}

/// Returns the identifier of this boot of the machine. If it is unknown, every start of a hub
/// counts as one after a power cut.
pub(super) fn this_boot() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    boot.trim().to_owned()
}

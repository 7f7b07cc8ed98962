//! The directory of a hub that is not running: given by path, or taken from the configuration.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;

use crate::cli::serve::BAD_CONFIG;
use crate::config::load;
use crate::store::disk::OpenError;

/// The arguments that select the directory.
#[derive(Debug, clap::Args)]
pub(super) struct StoreDirectory {
    /// The directory of the store [default: `store.path` of the configuration]
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,

    /// Configuration file [default: ./fanfare.toml or /etc/fanfare/fanfare.toml, if there]
    #[arg(long, value_name = "FILE", conflicts_with = "path")]
    config: Option<PathBuf>,
}

impl StoreDirectory {
    /// Runs a function on the directory. An invalid configuration is reported as by `serve`.
    pub(super) fn with(
        self,
        work: impl FnOnce(PathBuf) -> anyhow::Result<ExitCode>,
    ) -> anyhow::Result<ExitCode> {
        if let Some(path) = self.path {
            return work(path);
        }
        match load(self.config.as_deref(), &[]) {
            Ok(loaded) if loaded.config.store.is_on() => work(loaded.config.store.path),
            Ok(_) => Err(anyhow!("the configuration names no `store.path`: name it with --path")),
            Err(error) => {
                eprintln!("{error}");
                Ok(ExitCode::from(BAD_CONFIG))
            }
        }
    }
}

/// Explains why a directory was not opened, with a remedy.
pub(super) fn cannot_open(error: OpenError) -> anyhow::Error {
    match error {
        OpenError::Locked(_) => anyhow!(
            "{error}. Stop the hub first; of one that runs, `fanfare store export` reads the \
             channels"
        ),
        error => error.into(),
    }
}

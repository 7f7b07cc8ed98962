//! Hubs of the program under test.

use std::path::Path;
use std::process::Command;

use fanfare_testing::HubProcess;

/// The program under test.
pub(crate) const FANFARE: &str = env!("CARGO_BIN_EXE_fanfare");

/// Starts a hub with these settings, as environment variables.
pub(crate) fn start_hub(settings: &[(&str, &str)]) -> HubProcess {
    start_hub_in(Path::new("."), settings)
}

/// Starts a hub in this folder, where it finds its `fanfare.toml`.
pub(crate) fn start_hub_in(folder: &Path, settings: &[(&str, &str)]) -> HubProcess {
    let mut program = Command::new(FANFARE);
    program.envs(settings.iter().copied()).current_dir(folder);
    HubProcess::new(program).started()
}

//! `fanfare store`: the whole store of a hub. `export` and `import` send requests to a running hub;
//! `check`, `stat` and `compact` open the directory of a stopped one.

mod check;
mod compact;
mod directory;
mod export;
mod import;
mod line;
mod output;
mod progress;
mod retrying_client;
mod stat;

use std::process::ExitCode;

/// The arguments of `fanfare store`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, clap::Subcommand)]
enum StoreCommand {
    /// Write channels of a running hub as lines of JSON: their settings, events and ends
    Export(export::Args),
    /// Publish what `export` has written, to the same hub or another
    Import(import::Args),
    /// Verify every byte of a stopped hub's directory
    Check(check::Args),
    /// Count what a stopped hub's directory holds, channel by channel
    Stat(stat::Args),
    /// Reclaim the dead bytes of a stopped hub's directory
    Compact(compact::Args),
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        StoreCommand::Export(args) => export::run(args).await,
        StoreCommand::Import(args) => import::run(args).await,
        StoreCommand::Check(args) => check::run(args),
        StoreCommand::Stat(args) => stat::run(args),
        StoreCommand::Compact(args) => compact::run(args),
    }
}

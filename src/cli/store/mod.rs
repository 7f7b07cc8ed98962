//! `fanfare store`: what a hub keeps, seen as a whole. `export` and `import` ask a hub that runs.

mod asker;
mod export;
mod import;
mod line;
mod output;
mod progress;

use std::process::ExitCode;

/// What `fanfare store` understands.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write channels of a running hub as lines of JSON: their settings, events and ends
    Export(export::Args),
    /// Publish what `export` has written, to the same hub or another
    Import(import::Args),
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Export(args) => export::run(args).await,
        Command::Import(args) => import::run(args).await,
    }
}

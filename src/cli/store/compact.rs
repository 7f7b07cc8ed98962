//! `fanfare store compact`: reclaims all dead bytes of a hub's directory at once.

use std::path::Path;
use std::process::ExitCode;

use bytesize::ByteSize;

use super::directory::{StoreDirectory, cannot_open};
use crate::cli::terminal::{count, print_line, warn};
use crate::store::disk::inspect::{self, CompactError, Compacted};

/// The arguments of `fanfare store compact`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    directory: StoreDirectory,
}

const EXAMPLES: &str = "\
Examples:
  fanfare store compact                          of the hub that is configured here
  fanfare store compact --path /backup/fanfare   of a copy

A running hub does this by itself, where half of a file is dead. It must not be running now.
While a file is written anew, the disk holds both.";

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    args.directory.with(|path| compact(&path))
}

fn compact(path: &Path) -> anyhow::Result<ExitCode> {
    let compacted = inspect::compact(path).map_err(|error| match error {
        CompactError::Open(error) => cannot_open(error),
        error => error.into(),
    })?;
    for file in &compacted.damaged {
        warn(format_args!("{file} is damaged and stays as it is: see `fanfare store check`"));
    }
    print_line(told(&compacted))?;
    Ok(ExitCode::SUCCESS)
}

fn told(compacted: &Compacted) -> String {
    let Compacted { before, after, rewritten, deleted, .. } = *compacted;
    let gave = match before.checked_sub(after) {
        Some(back) if back > 0 => format!("gave back {}", ByteSize(back)),
        _ => "gave back nothing".to_owned(),
    };
    let before = ByteSize(before);
    let after = ByteSize(after);
    let rewritten = count(rewritten, "file");
    let deleted = count(deleted, "file");
    format!("{gave}: {before} before, {after} now; {rewritten} written anew, {deleted} deleted")
}

//! `fanfare store check`: verifies every byte of a hub's directory.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use super::directory::{StoreDirectory, cannot_open};
use crate::cli::terminal::{count, print_line};
use crate::store::disk::inspect::{self, Checked, Finding, Totals};

/// The exit code when damage was found.
const DAMAGED: u8 = 3;

/// The arguments of `fanfare store check`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    directory: StoreDirectory,
}

const EXAMPLES: &str = "\
Examples:
  fanfare store check                            of the hub that is configured here
  fanfare store check --path /backup/fanfare     of a copy

It changes nothing. The hub must not be running.
Exit codes: 0 all is whole, 1 it could not be checked, 3 something is damaged.";

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    args.directory.with(|path| check(&path))
}

fn check(path: &Path) -> anyhow::Result<ExitCode> {
    let checked = inspect::check(path).map_err(cannot_open)?;
    for finding in &checked.findings {
        print_line(CheckLine(finding))?;
    }
    print_line(Last(&checked))?;
    let damaged = checked.damages() > 0;
    Ok(if damaged { ExitCode::from(DAMAGED) } else { ExitCode::SUCCESS })
}

/// Formats a finding as one line.
struct CheckLine<'a>(&'a Finding);

impl fmt::Display for CheckLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { file, offset, bytes, channel, what, damage } = self.0;
        write!(f, "{}: ", if *damage { "damaged" } else { "note" })?;
        if file.is_empty() {
            f.write_str("no file")?;
        } else {
            write!(f, "{file} at byte {offset}")?;
        }
        if *bytes > 0 {
            write!(f, ", {}", many(*bytes, "byte"))?;
        }
        if let Some(channel) = channel {
            write!(f, ", channel `{channel}`")?;
        }
        write!(f, ": {what}")
    }
}

/// Formats the summary.
struct Last<'a>(&'a Checked);

impl fmt::Display for Last<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.damages() {
            0 => f.write_str("whole")?,
            damages => write!(f, "{} of damage", count(damages, "place"))?,
        }
        let Totals { files, bytes, blocks, channels, events } = self.0.totals;
        write!(f, ": {}, {}", many(files, "file"), many(blocks, "block"))?;
        write!(f, ", {}, {}", many(channels, "channel"), many(events, "event"))?;
        write!(f, ", {}", many(bytes, "byte"))
    }
}

fn many(n: u64, noun: &str) -> String {
    count(usize::try_from(n).unwrap_or(usize::MAX), noun)
}

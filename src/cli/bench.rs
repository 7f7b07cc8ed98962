//! `fanfare bench`: measures a server with the load generator, and prints its report.

use std::process::ExitCode;

pub(super) use fanfare_bench::Args;

use super::terminal;

/// The exit code of a run that was measured and found a fault of the server.
const EXIT_INCOMPLETE: u8 = 3;

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let measured = fanfare_bench::run(args).await?;
    terminal::print_line(measured.report)?;
    let complete = measured.is_complete;
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(EXIT_INCOMPLETE) })
}

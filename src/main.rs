//! The process: parse what was typed, do it, say how it went.

use std::process::ExitCode;

use clap::Parser;
use fanfare::cli::{Cli, run};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(cli));
    // Whatever still runs was told to end, and had its time.
    runtime.shutdown_background();
    code
}

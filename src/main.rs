//! The process: parses the command line, runs the command, and reports the result.

use std::process::ExitCode;

use clap::Parser;
use fanfare::cli::{Cli, Inherited, run};

/// jemalloc returns free memory to the system within some ten seconds, by a background thread, so
/// that an idle hub does so, too. The C library's allocator keeps free memory between live blocks.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Before any other thread exists: `Inherited::from_environment` requires it.
    let inherited = Inherited::from_environment();
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run(cli, inherited));
    // Tasks that still run have been signalled, and have had their time.
    runtime.shutdown_background();
    code
}

//! The process: parse what was typed, do it, say how it went.

use std::process::ExitCode;

use clap::Parser;
use fanfare::cli::{Cli, run};
use fanfare::config::Inherited;

/// It gives free memory back to the system within some ten seconds, by a thread of its own, so that
/// an idle hub does, too. That of the C library keeps what lies between memory in use.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Here, where there is no other thread yet: see there.
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
    // Whatever still runs was told to end, and had its time.
    runtime.shutdown_background();
    code
}

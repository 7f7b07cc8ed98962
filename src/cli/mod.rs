//! The command line. Data is written to stdout, all else to stderr.

mod ansi;
mod bench;
mod completions;
mod config;
mod demo;
mod health;
mod hub_address;
mod publish;
mod serve;
mod store;
mod subscribe;
mod terminal;
mod token;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use crate::config::{InheritError, Inherited};

/// The command line of `fanfare`.
#[derive(Debug, Parser)]
#[command(
    name = "fanfare",
    version,
    about = "An SSE hub: publish events into named channels, watch them live and replayed",
    long_about = "An SSE hub. Producers POST token streams, log lines or any events into named \
                  channels; the hub fans each channel out to as many viewers as care to watch, \
                  live, from where they left off, and tells everyone how it ended.",
    after_help = EXAMPLES,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The subcommands, in the order in which a new user needs them.
#[derive(Debug, Subcommand)]
enum Command {
    /// Show in half a minute what a hub does, in this terminal
    Demo(demo::Args),
    /// Run a hub
    Serve(serve::Args),
    /// Publish events: a text, a file, or lines from stdin while they are typed
    Publish(publish::Args),
    /// Watch channels; resumes by itself when the connection breaks
    Subscribe(subscribe::Args),
    /// Measure any SSE server: deliveries, order, latency, its CPU and memory
    Bench(bench::Args),
    /// Ask a hub whether it is ready: exit code 0 or 1
    Health(health::Args),
    /// Check, show or print the default configuration
    Config(config::Args),
    /// Make tokens to hand out, and API keys
    Token(token::Args),
    /// Back up the channels of a hub, publish them again; inspect its directory
    Store(store::Args),
    /// Print a completion script for your shell
    Completions(completions::Args),
}

/// Runs the command and returns the exit code of the process. Errors are printed to stderr. Only
/// `serve` uses the sockets that the process inherited.
pub async fn run(cli: Cli, inherited: Result<Inherited, InheritError>) -> ExitCode {
    let outcome = match cli.command {
        Command::Demo(args) => demo::run(args).await,
        Command::Serve(args) => serve::run(args, inherited).await,
        Command::Publish(args) => publish::run(args).await,
        Command::Subscribe(args) => subscribe::run(args).await,
        Command::Bench(args) => bench::run(args).await,
        Command::Health(args) => health::run(args).await,
        Command::Config(args) => config::run(args),
        Command::Token(args) => token::run(args).await,
        Command::Store(args) => store::run(args).await,
        Command::Completions(args) => completions::run(args),
    };
    outcome.unwrap_or_else(|error| {
        if terminal::is_broken_pipe(&error) {
            return ExitCode::SUCCESS; // a closed stdout is no error: its reader wants no more
        }
        let error = hub_address::explained(error);
        terminal::tell_error(&error, error.downcast_ref().and_then(hub_address::hint));
        ExitCode::FAILURE
    })
}

const EXAMPLES: &str = "\
Examples:
  fanfare demo                                  see it work
  fanfare serve                                 a hub on 127.0.0.1:4100
  cargo build 2>&1 | fanfare publish logs/build each line at once
  fanfare subscribe logs/build --from earliest  from any number of terminals

Exit codes: 0 fine, 1 failed, 2 wrong usage, 64 wrong configuration, 75 left its cluster.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}

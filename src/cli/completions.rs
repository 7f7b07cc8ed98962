//! `fanfare completions`: a shell completion script for this command line.

use std::io::Write as _;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

/// The arguments of `fanfare completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fanfare completions bash > /etc/bash_completion.d/fanfare
  fanfare completions zsh > \"${fpath[1]}/_fanfare\"
  fanfare completions fish > ~/.config/fish/completions/fanfare.fish")]
pub(super) struct Args {
    /// The shell to write for
    shell: Shell,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new(); // clap_complete panics when its writer fails, which a Vec does not
    clap_complete::generate(args.shell, &mut super::Cli::command(), "fanfare", &mut script);
    std::io::stdout().lock().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_knows_the_subcommands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::PowerShell, Shell::Elvish] {
            let mut script = Vec::new();
            let mut command = super::super::Cli::command();
            clap_complete::generate(shell, &mut command, "fanfare", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("subscribe") && script.contains("completions"), "{shell}");
        }
    }
}

//! `fanfare config`: look at the settings before they meet a hub.

use std::process::ExitCode;

use toml::Value;

use super::serve::{BAD_CONFIG, Settings};
use crate::config::{DEFAULT, Loaded, load};

/// What `fanfare config` understands.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say whether the configuration is right: exit code 0 or 64
    Check(Settings),
    /// Print every setting that is in force, and where it came from
    Show(Settings),
    /// Print the commented default configuration
    Default,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Default => print!("{DEFAULT}"),
        Command::Check(settings) => return Ok(with_loaded(&settings, |_| println!("ok"))),
        Command::Show(settings) => {
            let mut shown = Ok(());
            let code = with_loaded(&settings, |loaded| shown = show(loaded));
            return shown.map(|()| code);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn with_loaded(settings: &Settings, then: impl FnOnce(&Loaded)) -> ExitCode {
    match load(settings.config.as_deref(), &settings.overrides()) {
        Ok(loaded) => {
            then(&loaded);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(BAD_CONFIG)
        }
    }
}

fn show(loaded: &Loaded) -> anyhow::Result<()> {
    let Value::Table(sections) = Value::try_from(&loaded.config)? else { return Ok(()) };
    for (section, settings) in &sections {
        println!("[{section}]");
        let Value::Table(settings) = settings else { continue };
        for (key, value) in settings {
            let source = loaded.sources.get(&format!("{section}.{key}"));
            let source = source.map_or("default", String::as_str);
            println!("{key} = {value}  # {source}");
        }
        println!();
    }
    Ok(())
}

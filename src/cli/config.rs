//! `fanfare config`: inspects the settings before a hub uses them.

use std::process::ExitCode;

use toml::Value;

use super::serve::{BAD_CONFIG, ServeSettings};
use super::terminal::print_line;
use crate::config::{DEFAULT, Loaded, load};
use crate::server;

/// The arguments of `fanfare config`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ConfigCommand {
    /// Check the configuration: exit code 0 or 64
    Check(ServeSettings),
    /// Print every setting with its value and its source
    Show(ServeSettings),
    /// Print the commented default configuration
    Default,
}

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (settings, tell): (_, fn(&Loaded) -> anyhow::Result<String>) = match &args.command {
        ConfigCommand::Default => {
            print_line(DEFAULT.trim_end())?;
            return Ok(ExitCode::SUCCESS);
        }
        ConfigCommand::Check(settings) => (settings, checked),
        ConfigCommand::Show(settings) => (settings, shown),
    };
    match load(settings.config.as_deref(), &settings.overrides()) {
        Ok(loaded) => match tell(&loaded) {
            Ok(text) => print_line(text)?,
            Err(error) => return refuse(&error),
        },
        Err(error) => return refuse(&error),
    }
    Ok(ExitCode::SUCCESS)
}

fn refuse(error: &dyn std::fmt::Display) -> anyhow::Result<ExitCode> {
    eprintln!("{error}");
    Ok(ExitCode::from(BAD_CONFIG))
}

/// Checks everything that a start reads, including keys and secrets.
fn checked(loaded: &Loaded) -> anyhow::Result<String> {
    server::check(&loaded.config)?;
    server::check_store(&loaded.config)?;
    Ok("ok".into())
}

/// Formats every setting with its source, as a file that could be loaded if no secret were hidden.
fn shown(loaded: &Loaded) -> anyhow::Result<String> {
    let Value::Table(sections) = Value::try_from(&loaded.config)? else { return Ok(String::new()) };
    let mut blocks = Vec::new();
    for (section, settings) in &sections {
        match settings {
            Value::Array(several) => {
                let source = source(loaded, section);
                let head = format!("[[{section}]]");
                blocks.extend(several.iter().map(|settings| block(&head, settings, |_| source)));
            }
            settings => blocks.push(block(&format!("[{section}]"), settings, |key| {
                source(loaded, &format!("{section}.{key}"))
            })),
        }
    }
    Ok(blocks.join("\n\n"))
}

fn block<'a>(head: &str, settings: &Value, source: impl Fn(&str) -> &'a str) -> String {
    let settings = settings.as_table().into_iter().flatten();
    let lines = settings.map(|(key, value)| format!("{key} = {value}  # {}", source(key)));
    std::iter::once(head.to_owned()).chain(lines).collect::<Vec<_>>().join("\n")
}

fn source<'a>(loaded: &'a Loaded, key: &str) -> &'a str {
    loaded.sources.get(key).map_or("default", String::as_str)
}

//! Structured logs on stderr, as text or as JSON lines.

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Settings of the section `log`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `error`, `warn`, `info`, `debug`, `trace` or `off`, or directives such as
    /// `info,fanfare=debug`.
    pub level: String,
    /// The form of a line.
    pub format: LogFormat,
}

impl Default for Config {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text }
    }
}

/// The levels, by the names that are accepted.
const LEVELS: [(&str, LevelFilter); 6] = [
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
    ("off", LevelFilter::OFF),
];

/// Crates that write to the log: the hub, and some of its libraries.
const CRATES: [&str; 5] = ["fanfare", "h2", "hyper_util", "mio", "rustls_platform_verifier"];

/// The source of the list of the hub's modules, to check that a log target exists.
const MODULES: &str = include_str!("../lib.rs");

/// The reason for which a text is not a log level. An unknown name would silence the log unnoticed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLevel {
    /// Neither a level nor a directive.
    #[error(
        "`{0}` is not a log level: expected `error`, `warn`, `info`, `debug`, `trace` or `off`, \
         and for a part of the hub a directive `target=level`, such as `info,fanfare::http=debug`"
    )]
    Level(String),
    /// A directive for something that writes no logs.
    #[error(
        "`{0}` is not a log target: expected `fanfare`, a module such as `fanfare::http`, or one \
         of the libraries `h2`, `hyper_util`, `mio` and `rustls_platform_verifier`"
    )]
    Target(String),
}

impl Config {
    /// Returns the filter that the level describes.
    ///
    /// # Errors
    /// The text is not a level or a directive.
    pub fn filter(&self) -> Result<Targets, InvalidLevel> {
        let mut targets = Targets::new();
        for directive in self.level.split(',').map(str::trim) {
            targets = match directive.split_once('=') {
                None => targets.with_default(level(directive)?),
                Some((target, name)) => {
                    targets.with_target(known_target(target.trim())?, level(name.trim())?)
                }
            };
        }
        Ok(targets)
    }
}

fn level(name: &str) -> Result<LevelFilter, InvalidLevel> {
    let found = LEVELS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    found.map(|(_, level)| *level).ok_or_else(|| InvalidLevel::Level(name.to_owned()))
}

fn known_target(target: &str) -> Result<&str, InvalidLevel> {
    let mut path = target.split("::");
    let name = path.next().unwrap_or_default();
    let module = path.next();
    let declared = |module| {
        let declaration = format!("mod {module};");
        MODULES.lines().any(|line| line.strip_prefix("pub ").unwrap_or(line) == declaration)
    };
    let known = match module {
        Some(module) if name == "fanfare" => declared(module),
        _ => CRATES.contains(&name),
    };
    if known { Ok(target) } else { Err(InvalidLevel::Target(target.to_owned())) }
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts logging for the lifetime of the process; a second call changes nothing.
///
/// # Errors
/// The level is invalid.
pub fn init(config: &Config) -> Result<(), InvalidLevel> {
    let filter = config.filter()?;
    let ansi = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(ansi);
    let layer = match config.format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    // This fails only if a subscriber is set already, which then stays.
    let _ = tracing_subscriber::registry().with(layer).try_init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    fn filter(level: &str) -> Result<Targets, InvalidLevel> {
        Config { level: level.into(), ..Config::default() }.filter()
    }

    #[test]
    fn levels_and_directives_are_understood() {
        let info = filter("info").unwrap();
        assert!(info.would_enable("fanfare::http", &Level::INFO));
        assert!(!info.would_enable("fanfare::http", &Level::DEBUG));
        let parts = filter("WARN, fanfare::http=debug, h2=off").unwrap();
        assert!(parts.would_enable("fanfare::http::auth_filter", &Level::DEBUG));
        assert!(parts.would_enable("fanfare::hub", &Level::WARN));
        assert!(!parts.would_enable("fanfare::hub", &Level::INFO));
        assert!(!parts.would_enable("h2::client", &Level::ERROR));
        assert!(!filter("off").unwrap().would_enable("fanfare", &Level::ERROR));
    }

    #[test]
    fn a_level_that_does_not_exist_is_refused_by_name() {
        for wrong in [
            "warning",
            "verbose",
            "err",
            "information",
            "5",
            "",
            "fanfare",
            "info debug",
            "none",
            "info,",
            "fanfare::http",
            "critical,fanfare=debug",
        ] {
            let error = filter(wrong).unwrap_err().to_string();
            assert!(error.contains("is not a log level") && error.contains("`warn`"), "{error}");
            assert!(error.contains("`off`") && error.contains("fanfare::http=debug"), "{error}");
        }
        let named = filter("info,fanfare=verbose").unwrap_err();
        assert_eq!(named, InvalidLevel::Level("verbose".into()));
    }

    #[test]
    fn a_target_that_does_not_exist_is_refused_by_name() {
        for wrong in ["fanfair=debug", "info,fanfare::htp=debug", "=debug", "[span]=debug"] {
            let error = filter(wrong).unwrap_err().to_string();
            assert!(error.contains("is not a log target"), "{error}");
        }
    }
}

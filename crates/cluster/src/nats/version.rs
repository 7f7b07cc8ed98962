//! The versions of servers that are accepted.

use std::fmt;

use super::config::{Config, Feed};
use super::failure::Failure;

/// A version of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32, u32);

/// The first version that loses no stream of several replicas when its servers restart.
const REPLICATED: Version = Version(2, 10, 23);

/// The first version that republishes the time of a message.
const TAIL: Version = Version(2, 10, 0);

/// The oldest version that is tested.
const OLDEST: Version = Version(2, 9, 10);

impl Version {
    /// Parses a version such as `2.10.23` or `2.12.0-RC.1`.
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(['.', '-', '+']).map(str::parse);
        let mut next = || numbers.next()?.ok();
        Some(Self(next()?, next()?, next()?))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// Refuses a server whose version is too old for these settings.
pub(super) fn check(version: &str, config: &Config) -> Result<(), Failure> {
    let replicas = config.stream.replicas;
    let (needed, purpose, advice) = match (replicas, config.feed) {
        (2.., _) => (REPLICATED, format!("{replicas} replicas"), ""),
        (_, Feed::Tail) => (TAIL, "`feed = \"tail\"`".to_owned(), ", or `feed = \"consumer\"`"),
        (_, Feed::Consumer) => (OLDEST, "a cluster".to_owned(), ""),
    };
    let found = Version::parse(version)
        .ok_or_else(|| Failure::Refused(format!("the server has no version: `{version}`")))?;
    if found >= needed {
        return Ok(());
    }
    let advice = if found >= OLDEST { advice } else { "" };
    Err(Failure::Refused(format!(
        "the NATS server is {found}, and {purpose} needs {needed} or later{advice}"
    )))
}

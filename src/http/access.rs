//! What a route asks of whoever calls it. Each method of each route says so, or is none.

use super::problem::{ErrorCode, Problem};
use super::query::decode_path;
use crate::auth::{Grants, Operation};
use crate::channel::ChannelName;

/// What a route asks of whoever calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: neither who they are, nor by what name they call the hub.
    Health,
    /// Nothing: not even who they are.
    Free,
    /// One of these operations, on the channel that the path names.
    OnChannel(&'static [Operation]),
    /// One of these operations, on some channel. The handler asks about each that it meets.
    OnSome(&'static [Operation]),
    /// The operation, on every channel.
    OnAll(Operation),
}

impl Access {
    /// Checks the grants against what is asked. `rest` is what the path's `{*…}` stood for.
    ///
    /// # Errors
    /// `forbidden`, whether or not there is such a channel; or the name is none.
    pub fn check(self, grants: &Grants, rest: &str) -> Result<(), Problem> {
        match self {
            Self::Health | Self::Free => Ok(()),
            Self::OnChannel(operations) => {
                let name: ChannelName = decode_path(rest)?.parse()?;
                one_of(operations, "this channel", |operation| grants.covers(operation, &name))
            }
            Self::OnSome(operations) => {
                let some = |operation| !grants.patterns(operation).is_empty();
                one_of(operations, "any channel", some)
            }
            Self::OnAll(Operation::Metrics) if !grants.covers_all(Operation::Metrics) => {
                let detail = "`metrics`, or `admin` on every channel, is not granted";
                let problem = Problem::new(ErrorCode::Forbidden, detail);
                Err(problem.with("operation", Operation::Metrics.as_str()))
            }
            Self::OnAll(operation) => {
                one_of(&[operation], "every channel", |operation| grants.covers_all(operation))
            }
        }
    }
}

/// Says what is not granted, and nothing about whether it is there.
fn one_of(
    operations: &[Operation],
    place: &str,
    granted: impl Fn(Operation) -> bool,
) -> Result<(), Problem> {
    if operations.iter().any(|operation| granted(*operation)) {
        return Ok(());
    }
    let names: Vec<_> = operations.iter().map(|operation| operation.as_str()).collect();
    let detail = format!("`{}` on {place} is not granted", names.join("` or `"));
    let problem = Problem::new(ErrorCode::Forbidden, detail);
    Err(problem.with("operation", names.first().copied()))
}

//! The access that a route requires. Every method of every route states one.

use super::problem::{ErrorCode, Problem};
use super::query::decode_path;
use crate::auth::{Grants, Operation};
use crate::channel::ChannelName;

/// The access that a route requires of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// None. The host name by which the hub is called is not checked either.
    Health,
    /// None: no credential is asked for.
    Free,
    /// One of these operations, on the channel that the path names.
    OnChannel(&'static [Operation]),
    /// One of these operations, on any channel. The handler checks each channel that it uses.
    OnSome(&'static [Operation]),
    /// The operation, on every channel.
    OnAll(Operation),
}

impl Access {
    /// Checks the grants against the required access. `rest` is the text that matched `{*…}`.
    ///
    /// # Errors
    /// `forbidden`, whether or not the channel exists; or the name is invalid.
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

/// Names the operation that is not granted, without revealing whether the channel exists.
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

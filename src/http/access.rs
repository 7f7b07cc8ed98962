//! What a route asks of whoever calls it. Each method of each route says so, or is none.

use super::problem::{ErrorCode, Problem};
use super::query::decode_path;
use crate::auth::{Grants, Operation};
use crate::channel::ChannelName;

/// What a route asks of whoever calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
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
        let (operations, granted) = match self {
            Self::Free => return Ok(()),
            Self::OnChannel(operations) => {
                let name: ChannelName = decode_path(rest)?.parse()?;
                let covers = |operation: &Operation| grants.covers(*operation, &name);
                (operations, operations.iter().any(covers))
            }
            Self::OnSome(operations) => {
                let some = |operation: &Operation| !grants.patterns(*operation).is_empty();
                (operations, operations.iter().any(some))
            }
            Self::OnAll(operation) => {
                return if grants.covers_all(operation) {
                    Ok(())
                } else {
                    Err(forbidden(operation, "every channel"))
                };
            }
        };
        match operations {
            _ if granted => Ok(()),
            [operation, ..] => Err(forbidden(*operation, "this channel")),
            [] => Err(forbidden(Operation::Admin, "this channel")),
        }
    }
}

/// Says what is not granted, and nothing about whether it is there.
pub(super) fn forbidden(operation: Operation, where_to: &str) -> Problem {
    let detail = format!("`{operation}` on {where_to} is not granted");
    Problem::new(ErrorCode::Forbidden, detail).with("operation", operation.as_str())
}

//! The access that a route requires. Every method of every route states one.

use super::auth_filter::Caller;
use super::handler::Handler;
use super::problem::{ErrorCode, Problem};
use super::query::decode_path;
use crate::auth::Operation;
use crate::channel::{ChannelName, InvalidChannelName};

/// A handler, and the access that it requires of the caller. The access decides what the handler
/// gets in addition to the request.
#[derive(Clone)]
pub enum Endpoint {
    /// None. The host name by which the hub is called is not checked either.
    Health(Handler<()>),
    /// None: no credential is asked for.
    Free(Handler<()>),
    /// One of these operations, on the channel that the path names.
    OnChannel(&'static [Operation], Handler<ChannelCaller>),
    /// One of these operations, on any channel. The handler checks each channel that it uses.
    OnSome(&'static [Operation], Handler<Caller>),
    /// The operation, on every channel.
    OnAll(Operation, Handler<Caller>),
}

/// A caller, and the channel that the path of its request names.
pub struct ChannelCaller {
    /// The caller.
    pub caller: Caller,
    /// The channel.
    pub name: ChannelName,
}

/// Returns the channel that a path names. `rest` is the text that matched `{*…}`.
///
/// # Errors
/// It is not a channel name.
pub(super) fn channel_name(rest: &str) -> Result<ChannelName, InvalidChannelName> {
    decode_path(rest)?.parse()
}

/// Each check fails with `forbidden`, whether or not the channel exists.
impl Caller {
    /// Requires one of these operations on the channel, which may be an invalid name.
    pub(super) fn on_channel(
        self,
        operations: &[Operation],
        name: Result<ChannelName, InvalidChannelName>,
    ) -> Result<ChannelCaller, Problem> {
        let name = name?;
        self.require_one(operations, "this channel", |operation| {
            self.principal().grants.covers(operation, &name)
        })?;
        Ok(ChannelCaller { caller: self, name })
    }

    /// Requires one of these operations on any channel.
    pub(super) fn on_some(self, operations: &[Operation]) -> Result<Self, Problem> {
        self.require_one(operations, "any channel", |operation| {
            !self.principal().grants.patterns(operation).is_empty()
        })?;
        Ok(self)
    }

    /// Requires an operation on every channel.
    pub(super) fn on_all(self, operation: Operation) -> Result<Self, Problem> {
        let grants = &self.principal().grants;
        if operation == Operation::Metrics && !grants.covers_all(operation) {
            let detail = "`metrics`, or `admin` on every channel, is not granted";
            return Err(self.forbidden(operation, detail));
        }
        self.require_one(&[operation], "every channel", |operation| grants.covers_all(operation))?;
        Ok(self)
    }

    /// Names the first operation if none is granted, without revealing whether the channel exists.
    fn require_one(
        &self,
        operations: &[Operation],
        place: &str,
        is_granted: impl Fn(Operation) -> bool,
    ) -> Result<(), Problem> {
        if operations.iter().any(|operation| is_granted(*operation)) {
            return Ok(());
        }
        let names: Vec<_> = operations.iter().map(|operation| operation.as_str()).collect();
        let detail = format!("`{}` on {place} is not granted", names.join("` or `"));
        let problem = Problem::new(ErrorCode::Forbidden, detail);
        Err(self.refused(problem.with("operation", names.first().copied())))
    }
}

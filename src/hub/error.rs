//! The reasons why the hub refuses an operation.

use std::time::Duration;

use crate::event::ChannelState;
use crate::limits::MAX_MATCHED_CHANNELS;
use crate::store::disk::WriteError;

/// The hub has as many channels as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the hub holds {0} channels, as many as `channels.max_channels` allows")]
pub struct TooManyChannels(pub usize);

/// The reason why the shared log of a cluster has not taken an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// It is not known whether the log has it.
    #[error(
        "the log of the cluster has not confirmed this in time, and it may take effect later; \
         repeat a publish with the same idempotency key only, anything else as it was"
    )]
    Unconfirmed,
    /// The hub reads the log, and may not write to it yet, or no more.
    #[error("this hub is not a member of its cluster at the moment")]
    NotJoined,
    /// Too much waits for the log.
    #[error("too much waits for the log of the cluster")]
    Overloaded,
    /// One operation is too large for the log.
    #[error("this is too large for the log of the cluster")]
    TooLarge,
    /// The log refuses the operation, for example as too large.
    #[error("the log of the cluster refuses this")]
    Refused,
    /// The cluster has as many channels as it may.
    #[error("the cluster has as many channels as it may")]
    TooManyChannels,
    /// What was published with an idempotency key is in too many places of the body.
    #[error("the lines that were published with this idempotency key are too scattered")]
    KeyScattered,
}

/// The reason why nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The channel has ended.
    #[error("the channel is closed ({0}): it takes no more events until it is deleted")]
    Closed(ChannelState),
    /// The channel was stopped, with an optional reason.
    #[error("the channel was stopped: the rest is not wanted")]
    Stopped(Option<Box<str>>),
    /// Its generation has a producer already.
    #[error("another producer is streaming into this channel: one at a time")]
    Busy,
    /// A request with the same idempotency key is running, at this hub or another.
    #[error("a request with this idempotency key is running")]
    KeyRunning,
    /// The channel was not made.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The store takes no writes.
    #[error(transparent)]
    Unstored(#[from] WriteError),
    /// The shared log has not taken it.
    #[error(transparent)]
    Unlogged(#[from] LogError),
}

/// The reason why a channel's settings were not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigureError {
    /// Events would be retained for longer than the shared log keeps them.
    #[error(
        "`max_age` is {}, and at most {} in this cluster, whose log keeps its messages for \
         `cluster.max_age`",
        humantime::format_duration(*.asked), humantime::format_duration(*.most)
    )]
    MaxAge {
        /// The age that was asked for.
        asked: Duration,
        /// The maximum.
        most: Duration,
    },
    /// The channel was not made.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The store takes no writes.
    #[error(transparent)]
    Unstored(#[from] WriteError),
    /// The shared log has not taken it.
    #[error(transparent)]
    Unlogged(#[from] LogError),
}

/// The reason why a channel was not deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeleteError {
    /// There is no such channel.
    #[error("there is no such channel")]
    Unknown,
    /// The store has not stored the deletion: it is submitted again.
    #[error(transparent)]
    Unstored(#[from] WriteError),
    /// The shared log has not taken it.
    #[error(transparent)]
    Unlogged(#[from] LogError),
}

/// The reason why a subscription could not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The limit of channels is reached.
    #[error(transparent)]
    TooManyChannels(#[from] TooManyChannels),
    /// A snapshot is of one channel.
    #[error("a snapshot is of one channel")]
    SnapshotOfMany,
    /// The patterns are too wide.
    #[error("the patterns select more than {MAX_MATCHED_CHANNELS} channels: use narrower ones")]
    TooManyMatches,
}

/// The reason why a channel was not made for an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The hub has as many channels as it may.
    #[error(transparent)]
    TooManyChannels(#[from] TooManyChannels),
    /// The account has as many channels as it may.
    #[error("{0} channels are yours, as many as `quotas.max_channels` allows")]
    OverQuota(usize),
}

/// The stop was meant for a generation that is over: its event id is of an earlier life of the
/// channel, or of none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event id is none of the channel's present generation: that one is over")]
pub struct GenerationOver;

/// The reason why nothing was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// The stop was meant for another generation.
    #[error(transparent)]
    Over(#[from] GenerationOver),
    /// The channel was not made.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The store takes no writes.
    #[error(transparent)]
    Unstored(#[from] WriteError),
    /// The shared log has not taken it.
    #[error(transparent)]
    Unlogged(#[from] LogError),
}

//! What a message of the log has done: outcomes for the hub that sent it, effects for all hubs.

use crate::command::{EndState, NewEvent, Options, SessionId};
use crate::log::{LogTime, Sequence};
use crate::offset::Offset;
use crate::text::Text;

/// The result of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The message.
    pub sequence: Sequence,
    /// The time of its events: that of the log, which never goes backwards.
    pub time: LogTime,
    /// The session of its sender; zero if the message is no batch.
    pub session: SessionId,
    /// Its number in the session.
    pub number: u64,
    /// Whether the batch was applied, and the outcomes of its commands.
    pub verdict: Verdict,
    /// What changes, in this order. All effects of a message become visible together.
    pub effects: Vec<Effect>,
}

/// Whether a batch was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A hello: it began the session that has the sequence of this message.
    Began {
        /// The nonce of the hello.
        nonce: u64,
    },
    /// The batch was applied, with an outcome for each of its commands.
    Applied(Vec<Outcome>),
    /// The message is a part of a batch whose other parts follow.
    Collected,
    /// The batch was not applied.
    Rejected(Rejection),
}

/// The reason for which a batch was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The message is no batch of this cluster.
    #[error("the message is no batch")]
    NoBatch,
    /// The batch was applied before.
    #[error("the batch was applied before")]
    Repeated,
    /// An earlier batch of the session is missing: the sender must send from there.
    #[error("an earlier batch of the session is missing")]
    Early,
    /// The session has ended, or never began: the sender must begin another one.
    #[error("the session has ended")]
    NoSession,
    /// The commands are not valid. The number of the batch is used up.
    #[error("the commands are not valid")]
    Invalid,
    /// The first parts of the batch are missing, because the log no longer has them.
    #[error("the first parts of the batch are missing")]
    Incomplete,
    /// There are too many sessions.
    #[error("there are too many sessions")]
    TooManySessions,
}

/// The outcome of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command was applied, and there is no more to say.
    Done,
    /// Events were appended.
    Appended(Appended),
    /// The idempotency key was used before, by a publish that has succeeded.
    Replayed(KeyTotals),
    /// The sender is the sole producer of the channel.
    Produces {
        /// Its hold, for its appends.
        hold: Offset,
        /// An offset of the channel's life, by which commands name it.
        life: Offset,
    },
    /// The channel has these options.
    Configured {
        /// Whether the channel was created.
        created: bool,
        /// All its options.
        options: Options,
    },
    /// The channel had ended before it was stopped.
    EndedBefore(EndState),
    /// The command was refused, and has changed nothing.
    Refused(Refusal),
}

/// The outcome of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// An offset of the channel's life, by which commands name it; `None` if there was nothing to
    /// append, and no channel.
    pub life: Option<Offset>,
    /// The first and the last event that were appended now.
    pub offsets: Option<(Offset, Offset)>,
    /// The state of the channel; `None` if it is open.
    pub state: Option<EndState>,
    /// All that was published with the idempotency key so far.
    pub key: Option<KeyTotals>,
}

/// What was published with an idempotency key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyTotals {
    /// Number of events.
    pub events: u64,
    /// The first and the last event.
    pub offsets: Option<(Offset, Offset)>,
    /// How the publish has ended its channel, if it did.
    pub state: Option<EndState>,
}

/// What is known of an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStatus {
    /// A request that is running uses it: the use by another one is refused.
    Running {
        /// The session of its hub.
        session: SessionId,
        /// The number of the request at its hub.
        request: u64,
    },
    /// The request that used it has broken off: a retry publishes what is left.
    Partial(KeyTotals),
    /// The publish has succeeded: a retry is answered with this.
    Done(KeyTotals),
}

/// The reason for which a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The channel has ended.
    #[error("the channel has ended")]
    Ended(EndState),
    /// The channel was stopped.
    #[error("the channel was stopped")]
    Stopped,
    /// The life of the channel that was meant is over.
    #[error("the channel was removed")]
    Removed,
    /// Another sole producer holds the channel.
    #[error("the channel has a producer")]
    Busy {
        /// The time since the last message of its session, in nanoseconds.
        silent: u64,
    },
    /// The hold has passed to another producer, or has ended.
    #[error("the hold on the channel is lost")]
    HoldLost,
    /// A request with this idempotency key is running.
    #[error("a request with this key is running")]
    KeyRunning,
    /// The lines that were published with the key are too scattered to be remembered.
    #[error("the lines of the key are too scattered")]
    KeyScattered,
    /// The proposal, or the check, is outdated.
    #[error("the command is outdated")]
    Outdated,
    /// There are too many channels.
    #[error("there are too many channels")]
    TooManyChannels,
    /// The session has ended in this batch.
    #[error("the session has ended in this batch")]
    Left,
}

/// A change that all hubs apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A channel has changed.
    Channel {
        /// Its name.
        name: Text,
        /// The life that has changed: one that the hub does not know begins with this effect. Only
        /// for comparisons: a hub that began to read later may know it by an earlier offset than
        /// the others, so that commands name the offset in an [`Outcome`].
        life: Offset,
        /// The change.
        change: Change,
    },
    /// A session has begun, or describes its hub again.
    SessionBegan {
        /// The session.
        session: SessionId,
        /// The name of the hub.
        node: Text,
        /// The digest of its rules for channels.
        rules: u64,
    },
    /// A session has ended.
    SessionEnded {
        /// The session.
        session: SessionId,
    },
    /// An epoch has begun: all channels are gone.
    EpochBegan {
        /// The epoch.
        epoch: Text,
    },
    /// This hub and the sender of the batch have other states. Either may be wrong: a hub should
    /// give up only when two sessions say so.
    Diverged {
        /// The session of the sender.
        session: SessionId,
        /// The window of the log in which they differ.
        window: u64,
    },
}

/// A change of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Events follow on those in the log, and the end follows on them.
    Appended {
        /// The offset of the first event, or of the end; each next one is greater by one.
        first: Offset,
        /// The events.
        events: Vec<NewEvent>,
        /// The end.
        end: Option<End>,
    },
    /// A sole producer has come.
    Produced {
        /// Its hold.
        hold: Offset,
        /// The session of its hub.
        session: SessionId,
        /// The format of its events.
        format: Option<Text>,
    },
    /// The sole producer is away.
    Away {
        /// The offset by which a lapse refers to this.
        since: Offset,
        /// The reason that it gave.
        reason: Option<Text>,
    },
    /// The sole producer whose session had ended has come back.
    Back {
        /// Its hold.
        hold: Offset,
        /// The session of its hub.
        session: SessionId,
    },
    /// The options were set.
    Configured {
        /// The offset by which a lapse refers to this.
        at: Offset,
        /// All options of the channel.
        options: Options,
    },
    /// The channel was deleted: its subscribers get this as its end.
    Deleted {
        /// The offset of the end.
        at: Offset,
    },
    /// The channel was not used, or its end has been kept for long enough.
    Removed,
}

/// The end of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The state.
    pub state: EndState,
    /// The reason.
    pub reason: Option<Text>,
    /// Whether it was stopped.
    pub stopped: bool,
}

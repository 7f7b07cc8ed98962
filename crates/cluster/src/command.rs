//! The commands of the log: all that a hub can ask of the cluster, as plain values.
//!
//! Times are in milliseconds. A number that comes from a setting is part of its command, so that
//! hubs with other settings apply the command alike.

use aws_lc_rs::digest::{Context, SHA256};

use crate::log::Sequence;
use crate::offset::Offset;
use crate::text::Text;

/// The level of the commands that this version knows. A hub sends commands of a higher level only
/// when all live sessions know them.
pub const LEVEL: u64 = 1;

/// One life of a hub in the log: the sequence of its hello. It is unique, so that a late copy of a
/// batch never belongs to another session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub Sequence);

/// One entry of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Begins a session, or describes the hub of the running one again.
    Hello(Hello),
    /// Ends the session: the hub leaves.
    Bye,
    /// Appends events to a channel, and may end it.
    Append(Append),
    /// Makes the sender the sole producer of a channel.
    Produce(Produce),
    /// Reports that the sole producer has left without an end.
    Release(Release),
    /// Stops a generation.
    Stop(Stop),
    /// Ends or removes a channel whose deadline has passed.
    Lapse(Lapse),
    /// Sets the options of a channel, and creates it.
    Configure(Configure),
    /// Reports the state of a channel to hubs that have begun to read later.
    Renew(Renew),
    /// Deletes a channel.
    Delete(Delete),
    /// Begins another epoch.
    Epoch(EpochChange),
    /// Reports that the request of an idempotency key has broken off.
    ReleaseKey(ReleaseKey),
    /// Compares the states of the hubs.
    Check(Check),
    /// A command of a later version that may be ignored.
    Unknown,
}

/// A hub, as it introduces itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The highest [`LEVEL`] that it knows.
    pub level: u64,
    /// A random number by which the hub recognises its own hello.
    pub nonce: u64,
    /// An earlier session of the same hub, which ends here; the new one has its holds and keys.
    pub replaces: Option<SessionId>,
    /// The name of the hub.
    pub node: Text,
    /// A digest of the hub's rules for channels.
    pub rules: u64,
}

/// Events of one publish, and the end of the channel if the publish closes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Append {
    /// The name of the channel.
    pub channel: Text,
    /// The life of the channel that is meant, by any of its offsets; any life if `None`.
    pub life: Option<Offset>,
    /// The hold of the sole producer, if it publishes.
    pub hold: Option<Offset>,
    /// The events. Without events and without an end, only the hold and the key are renewed.
    pub events: Vec<NewEvent>,
    /// The end.
    pub close: Option<Close>,
    /// The idempotency key of the publish.
    pub key: Option<KeyUse>,
}

/// An event before it has an offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewEvent {
    /// The SSE `event:` field.
    pub event_type: Option<Text>,
    /// The data.
    pub data: Text,
}

/// How a channel ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The state.
    pub state: EndState,
    /// The reason.
    pub reason: Option<Text>,
    /// The time for which the end is kept.
    pub kept: u64,
}

/// The state of a channel that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndState {
    /// The producer has published all.
    Complete = 1,
    /// The producer has failed.
    Error = 2,
    /// The generation was stopped.
    Cancelled = 3,
    /// The producer left without an end and did not come back.
    Abandoned = 4,
}

/// The fingerprint of an idempotency key and its scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 16]);

impl KeyId {
    /// Returns the fingerprint of a key: keys may be long, and there are many.
    #[must_use]
    pub fn of(scope: &str, key: &str) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&(scope.len() as u64).to_le_bytes());
        context.update(scope.as_bytes());
        context.update(key.as_bytes());
        let digest = context.finish();
        Self(digest.as_ref().first_chunk().copied().unwrap_or_default())
    }
}

/// The use of an idempotency key by one piece of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUse {
    /// The key.
    pub id: KeyId,
    /// The number of the request, unique in the life of the hub: a session that replaces another
    /// one has its requests.
    pub request: u64,
    /// The places of the events in the body of the request.
    pub lines: Lines,
    /// Whether this is the last piece: the publish has succeeded with it.
    pub last: bool,
    /// The time for which the key is kept after its last use.
    pub window: u64,
}

/// The places of a piece's events in the body of the request, counted from zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Consecutive, from this one.
    From(u64),
    /// One for each event, strictly increasing: of a publish to many channels.
    Listed(Vec<u64>),
}

impl Lines {
    /// Returns the place of an event of the piece.
    #[must_use]
    pub fn of(&self, event: usize) -> u64 {
        match self {
            Self::From(first) => first.saturating_add(event as u64),
            Self::Listed(lines) => lines.get(event).copied().unwrap_or(u64::MAX),
        }
    }
}

/// A request to become the sole producer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Produce {
    /// The name of the channel.
    pub channel: Text,
    /// The format of its events, if it is known.
    pub format: Option<Text>,
}

/// The sole producer leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Release {
    /// The name of the channel.
    pub channel: Text,
    /// Its hold.
    pub hold: Offset,
    /// The reason that it gave.
    pub reason: Option<Text>,
}

/// A viewer's request to end a generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stop {
    /// The name of the channel.
    pub channel: Text,
    /// The reason.
    pub reason: Option<Text>,
    /// An event of the generation that is meant; any generation if `None`.
    pub generation: Option<Offset>,
    /// The time for which the end is kept.
    pub kept: u64,
    /// The time for which the end of a channel without events is kept.
    pub kept_early: u64,
}

/// A deadline that has passed. Any hub may propose it; the first valid proposal counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lapse {
    /// The name of the channel.
    pub channel: Text,
    /// What is due.
    pub due: Due,
    /// The last change of what the deadline depends on: with a later change the lapse is outdated.
    pub since: Offset,
    /// The reason of the end.
    pub reason: Option<Text>,
    /// The time for which the end is kept.
    pub kept: u64,
}

/// What is due at a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The end of a generation whose producer is away; `since` is the time of its leaving, or of
    /// the last event after that.
    Abandoned = 1,
    /// The end of a generation without viewers; `since` is the hold of its producer.
    Unwatched = 2,
    /// The removal of an open channel that is not used; `since` is its last event or the last
    /// change of its options.
    Idle = 3,
}

/// Options of a channel. A field that is `None` has no value of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum number of events.
    pub max_events: Option<u64>,
    /// Maximum number of bytes.
    pub max_bytes: Option<u64>,
    /// Maximum age of an event.
    pub max_age: Option<u64>,
    /// Time after which an unused channel is removed.
    pub idle_timeout: Option<u64>,
    /// Time for which a producer that left is waited for.
    pub producer_grace: Option<u64>,
    /// Merging of events, as a number that the hub assigns.
    pub coalesce: Option<u64>,
    /// Time without viewers after which the generation is stopped.
    pub when_unwatched: Option<u64>,
}

impl Options {
    /// Returns these options, and the others where there is no value.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            max_events: self.max_events.or(other.max_events),
            max_bytes: self.max_bytes.or(other.max_bytes),
            max_age: self.max_age.or(other.max_age),
            idle_timeout: self.idle_timeout.or(other.idle_timeout),
            producer_grace: self.producer_grace.or(other.producer_grace),
            coalesce: self.coalesce.or(other.coalesce),
            when_unwatched: self.when_unwatched.or(other.when_unwatched),
        }
    }
}

/// New options of a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configure {
    /// The name of the channel.
    pub channel: Text,
    /// The options. Those without a value are left as they are.
    pub options: Options,
}

/// The state of an open channel, as the sender knows it. It changes nothing for hubs that have read
/// all that has made it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renew {
    /// The name of the channel.
    pub channel: Text,
    /// An offset of its life.
    pub life: Offset,
    /// The first offset that the sender had not applied: later changes count more than the state.
    pub until: Offset,
    /// The last event.
    pub last: Option<Offset>,
    /// The last change of the options.
    pub configured: Option<Offset>,
    /// All options of the channel.
    pub options: Options,
    /// The sole producer.
    pub producer: Producer,
}

/// The sole producer of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Producer {
    /// There is none.
    #[default]
    None,
    /// It publishes.
    Streaming {
        /// Its hold.
        hold: Offset,
        /// The session of its hub.
        session: SessionId,
    },
    /// It is away.
    Away {
        /// When it left, or when something was last published.
        since: Offset,
        /// Its hold, if its session has ended: it comes back with its next append.
        hold: Option<Offset>,
    },
}

/// The deletion of a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delete {
    /// The name of the channel.
    pub channel: Text,
}

/// The beginning of another epoch: all channels and keys are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochChange {
    /// The epoch that ends. If it is not the current one, the command is refused.
    pub old: Text,
    /// The epoch that begins.
    pub new: Text,
}

/// A request broke off: a retry continues where it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReleaseKey {
    /// The key.
    pub id: KeyId,
    /// The number of the request.
    pub request: u64,
}

/// The digest of a window of the log, as the sender has computed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// The number of the window.
    pub window: u64,
    /// The digest.
    pub digest: u64,
}

impl Command {
    /// Returns the number of offsets that the command has.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Append(append) => {
                (append.events.len() + usize::from(append.close.is_some())).max(1)
            }
            _ => 1,
        }
    }
}

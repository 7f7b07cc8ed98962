//! The signals from a channel to its producer.

use super::control_events::End;
use super::registry::TooManyChannels;
use crate::event::ChannelState;

/// The state of a channel for its producer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// Number of subscribers.
    pub viewers: usize,
    /// The end, if the channel has ended.
    pub end: Option<End>,
    /// Whether it was ended by a stop.
    pub stopped: bool,
}

/// The result of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The channel has ended as cancelled.
    Now,
    /// The channel had ended before, in this state.
    Before(ChannelState),
}

/// The stop was meant for a generation that is over: its event id is of an earlier life of the
/// channel, or of none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`generation` is no event id of the channel's present generation: that one is over")]
pub struct GenerationOver;

/// The reason why nothing was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// The stop was meant for another generation.
    #[error(transparent)]
    Over(#[from] GenerationOver),
    /// The limit of channels is reached.
    #[error(transparent)]
    TooManyChannels(#[from] TooManyChannels),
}

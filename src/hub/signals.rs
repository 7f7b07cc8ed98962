//! What can be said on the way back to the producer, and what became of it.

use super::control_events::End;
use super::registry::TooManyChannels;
use crate::event::ChannelState;

/// What stands on a channel's board.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// Subscribers now.
    pub viewers: usize,
    /// How the channel ended, if it did.
    pub end: Option<End>,
    /// It ended because somebody stopped it.
    pub stopped: bool,
}

/// What became of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The channel has ended as cancelled.
    Now,
    /// The channel had ended before, like this.
    Before(ChannelState),
}

/// The stop was meant for a generation that is over: its event id belongs to a former life of the
/// channel, or to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`generation` is no event id of the channel's present generation: that one is over")]
pub struct GenerationOver;

/// Why nothing was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// Another generation was meant.
    #[error(transparent)]
    Over(#[from] GenerationOver),
    /// No room for another channel.
    #[error(transparent)]
    TooManyChannels(#[from] TooManyChannels),
}

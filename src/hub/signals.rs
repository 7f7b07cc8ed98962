//! The signals from a channel to its producer.

use super::control_events::End;
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

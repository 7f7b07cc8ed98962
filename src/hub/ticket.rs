//! A subscription that has been opened and that no engine reads yet: its start, as plain data.
//!
//! The subscription is counted at its channel and holds it. The kind of connection decides who
//! reads: the ticket becomes a [`Subscription`](super::Subscription), or a shard takes the
//! [`ChannelTicket`] and reads by byte.

use std::sync::Arc;

use super::channel::{Channel, Snapshot};
use super::coalesce::Coalesce;
use super::control_events::Gap;
use super::merge::MergedReader;
use super::presence::{Counted, Presence};
use crate::position::{Offset, Position};
use crate::store::LogPosition;

/// A subscription that [`Hub::open`](super::Hub::open) has opened. A drop ends it.
pub struct Ticket(pub(super) TicketKind);

pub(super) enum TicketKind {
    One(Box<ChannelTicket>),
    Many(Box<ManyTicket>),
}

/// The start of a subscription to one channel.
pub struct ChannelTicket {
    /// The subscriber, counted at its channel.
    pub presence: Presence,
    /// The subscription in the metrics.
    pub counted: Counted,
    /// The position in the log at which reading begins.
    pub position: LogPosition,
    /// The end of the log when the subscription was opened: events before it are no lag.
    pub joined: LogPosition,
    /// The part that is sent first.
    pub head: TicketHead,
    /// The offset of the last event before the position.
    pub(super) last_before: Offset,
}

/// The part of a subscription that is sent before any event.
pub struct TicketHead {
    /// The position after which the subscription begins.
    pub start: Position,
    /// The data of `fanfare.open`, if the subscription begins at the tail.
    pub opening: Option<Box<str>>,
    /// The gap, if events are missing at the start.
    pub gap: Option<Gap>,
    /// The fold of the events before the start, and the position of the last of them.
    pub snapshot: Option<(Arc<Snapshot>, Position)>,
}

/// A subscription to many channels. Their reader is made at once, since the start depends on all of
/// them.
pub(super) struct ManyTicket {
    pub(super) merge: MergedReader,
    pub(super) counted: Counted,
    pub(super) start: Position,
    pub(super) opening: Option<Box<str>>,
}

impl Ticket {
    /// Returns whether the ticket is for one channel.
    #[must_use]
    pub fn is_one(&self) -> bool {
        matches!(self.0, TicketKind::One(_))
    }

    /// Returns the ticket for one channel, if this is one.
    #[must_use]
    pub fn into_one(self) -> Option<ChannelTicket> {
        match self.0 {
            TicketKind::One(ticket) => Some(*ticket),
            TicketKind::Many(_) => None,
        }
    }

    /// Returns whether the subscription begins with the first event that its channel ever had.
    #[must_use]
    pub fn begins_whole(&self) -> bool {
        matches!(&self.0, TicketKind::One(ticket) if ticket.position == LogPosition::default())
    }

    /// Returns the merging for a subscriber that does not choose one.
    #[must_use]
    pub fn default_coalesce(&self) -> Coalesce {
        match &self.0 {
            TicketKind::One(ticket) => ticket.channel().coalesce(),
            TicketKind::Many(_) => Coalesce::Off,
        }
    }
}

impl ChannelTicket {
    /// Returns the channel.
    #[must_use]
    pub fn channel(&self) -> &Arc<Channel> {
        self.presence.channel()
    }
}

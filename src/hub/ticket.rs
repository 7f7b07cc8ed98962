//! A subscription that has been opened and that no engine reads yet: where it begins, as plain
//! data.
//!
//! It holds its channel and is counted there. What the connection is decides who reads: the ticket
//! becomes a [`Subscription`], or a shard takes the [`ChannelTicket`] and reads by byte.

use std::sync::Arc;

use super::channel::{Channel, Snapshot};
use super::coalesce::Coalesce;
use super::control_events::Gap;
use super::merge::MergedReader;
use super::presence::{Counted, Presence};
use super::subscription::{Bounds, Subscription};
use crate::position::{Offset, Position};
use crate::store::LogPosition;

/// What [`Hub::open`](super::Hub::open) returns. Dropping it ends the subscription.
pub struct Ticket(pub(super) TicketKind);

pub(super) enum TicketKind {
    One(Box<ChannelTicket>),
    Many(Box<ManyTicket>),
}

/// Where a subscription to one channel begins.
pub struct ChannelTicket {
    /// The subscriber, counted at its channel.
    pub presence: Presence,
    /// The subscription in the metrics.
    pub counted: Counted,
    /// The place of the log with which reading begins.
    pub position: LogPosition,
    /// The end of the log when the subscription was opened: what lies before it is no lag.
    pub joined: LogPosition,
    /// What is sent first.
    pub head: TicketHead,
    /// The offset of the last event before the mark.
    pub(super) last_before: Offset,
}

/// What a subscriber is sent before any event.
pub struct TicketHead {
    /// The position after which the subscription begins.
    pub start: Position,
    /// The data of `fanfare.open`, if the subscription begins at the tail.
    pub opening: Option<Box<str>>,
    /// What is missing.
    pub gap: Option<Gap>,
    /// What the events before add up to, and the position of the last of them.
    pub snapshot: Option<(Arc<Snapshot>, Position)>,
}

/// A subscription to many channels: they are joined, since what it begins with depends on all.
pub(super) struct ManyTicket {
    pub(super) merge: MergedReader,
    pub(super) counted: Counted,
    pub(super) start: Position,
    pub(super) opening: Option<Box<str>>,
}

impl Ticket {
    /// Has the subscription read here. `bounds` say how far it may lag.
    #[must_use]
    pub fn subscribe(self, bounds: Bounds) -> Subscription {
        match self.0 {
            TicketKind::One(ticket) => Subscription::one(bounds, *ticket),
            TicketKind::Many(ticket) => Subscription::many(bounds, *ticket),
        }
    }

    /// Returns whether it is for one channel.
    #[must_use]
    pub fn is_one(&self) -> bool {
        matches!(self.0, TicketKind::One(_))
    }

    /// Returns the ticket for one channel, if it is one.
    #[must_use]
    pub fn into_one(self) -> Option<ChannelTicket> {
        match self.0 {
            TicketKind::One(ticket) => Some(*ticket),
            TicketKind::Many(_) => None,
        }
    }

    /// Returns whether it begins with the first event that its channel ever had.
    #[must_use]
    pub fn begins_whole(&self) -> bool {
        matches!(&self.0, TicketKind::One(ticket) if ticket.position == LogPosition::default())
    }

    /// Returns how events are merged where the subscriber does not say.
    #[must_use]
    pub fn default_coalesce(&self) -> Coalesce {
        match &self.0 {
            TicketKind::One(ticket) => ticket.channel().coalesce(),
            TicketKind::Many(_) => Coalesce::Off,
        }
    }
}

impl ChannelTicket {
    /// The channel.
    #[must_use]
    pub fn channel(&self) -> &Arc<Channel> {
        self.presence.channel()
    }
}

//! A subscription to one channel without its machinery: what an engine keeps that owns sockets.
//!
//! The engine has its own cursor, in bytes, and hears of the channel through one listener for all
//! its subscribers there. What is left of a subscription is that it is counted.

use std::sync::Arc;

use super::channel::{Channel, Snapshot};
use super::notice::Gap;
use super::reading::{Begin, Beginning};
use super::subscription::{Bounds, Source, Subscription};
use super::{EndReason, Hub};
use crate::position::Position;
use crate::store::disk::Floor;

/// See the module. It is counted until [`Hub::leave`].
pub struct Seat {
    /// The channel.
    pub channel: Arc<Channel>,
    /// The byte of the log with which reading begins.
    pub byte: u64,
    /// The end of the log when the subscription began: what lies before it is no lag.
    pub joined: u64,
    /// What must be told first.
    pub gap: Option<Gap>,
    /// What the subscription begins with, and its position.
    pub snapshot: Option<(Arc<Snapshot>, Position)>,
    /// The position behind which the subscription begins.
    pub start: Position,
    /// The data of the event that says that it begins at the tail, if it does.
    pub opening: Option<Box<str>>,
    /// The bounds that it is held to.
    pub bounds: Bounds,
}

impl Subscription {
    /// Whether it reads one channel, and so can be a [`Seat`].
    #[must_use]
    pub fn can_sit(&self) -> bool {
        matches!(self.source, Source::One(_))
    }

    /// Leaves the reading to somebody else; nothing if it reads many channels.
    #[must_use]
    pub fn into_seat(mut self) -> Option<Seat> {
        let Source::One(one) = &mut self.source else { return None };
        let (place, gap) = (one.place().clone(), one.take_gap());
        let snapshot = one.take_snapshot();
        let told = snapshot.map(|known| (known.clone(), self.core.position(known.through)));
        place.channel.sit_down();
        let seat = Seat {
            channel: place.channel.clone(),
            byte: place.mark().byte,
            joined: place.joined().byte,
            gap,
            snapshot: told,
            start: self.start().clone(),
            opening: self.opening().map(Into::into),
            bounds: self.bounds(),
        };
        self.hand_over();
        Some(seat)
    }
}

impl Hub {
    /// A seat's subscription has ended, for this reason.
    pub fn leave(&self, channel: &Channel, reason: EndReason) {
        self.metrics().subscription_ended(reason.as_str());
        if channel.stand_up() {
            self.0.registry.evict_if_unused(channel.name());
        }
    }

    /// Where the tail of a channel is, before its end if it has ended.
    #[must_use]
    pub fn tail_of(&self, channel: &Channel) -> Floor {
        let Beginning { mark, behind, .. } = channel.begin(Begin::Tail);
        Floor { mark, behind }
    }

    /// The position of the last event before this byte of a channel's log.
    #[must_use]
    pub fn position_before(&self, channel: &Channel, byte: u64) -> Position {
        self.position(channel.offset_before(byte))
    }
}

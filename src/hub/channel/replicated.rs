//! A channel in the shared log of a cluster, as data.

use tokio::time::Instant;

use super::render::Assigned;
use crate::event::NewEvent;
use crate::hub::control_events::Close;
use crate::position::Offset;

/// The channel in the shared log.
#[derive(Debug)]
pub(super) struct Replicated {
    /// The last event, or the last change of the options.
    pub(super) used: Offset,
    /// The offset by which the log refers to the present state of the producer: its hold, or when
    /// it left.
    pub(super) producer: Option<Offset>,
    /// When an idle channel was last proposed for removal.
    pub(super) proposed: Option<Instant>,
}

/// The generation that an append is meant for, as the shared log names it.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::hub) struct LogPlace {
    /// The life of the channel; any if `None`.
    pub(in crate::hub) life: Option<Offset>,
    /// The hold of the sole producer.
    pub(in crate::hub) hold: Option<Offset>,
}

/// Events of the shared log, and the end after them.
pub(in crate::hub) struct SharedEvents<'a> {
    pub(in crate::hub) assigned: Assigned,
    pub(in crate::hub) events: &'a [NewEvent],
    /// The end, and whether it is a stop.
    pub(in crate::hub) close: Option<(Close, bool)>,
    /// Whether a client of another hub has published them.
    pub(in crate::hub) is_foreign: bool,
}

/// A deadline of a channel that has passed, for the shared log to decide on.
pub(in crate::hub) enum Overdue {
    /// The producer has been away since this offset for longer than its grace.
    Abandoned(Offset, Option<Box<str>>),
    /// The producer with this hold has had no viewers for too long.
    Unwatched(Offset),
}

//! What a subscription reads: steps, and the limits of its lag.

use std::sync::Arc;

use super::channel::{Channel, Snapshot};
use super::control::{EndReason, SubscriptionControl};
use super::control_events::{End, Gap};
use crate::position::Position;
use crate::store::{Batch, LogPosition};

/// Action for a subscriber whose lag exceeds its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLag {
    /// The subscription ends; the client may resume by id.
    Disconnect,
    /// The subscription moves to the tail, after one gap event.
    Skip,
}

/// The limits of a subscriber's lag, and the action when it exceeds one.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Maximum unread events published since the subscription began.
    pub max_lag_events: u64,
    /// Maximum unread bytes published since the subscription began.
    pub max_lag_bytes: u64,
    /// The action when the lag exceeds a limit.
    pub on_lag: OnLag,
}

impl Bounds {
    /// Returns the limit that the subscriber exceeds, if any.
    #[must_use]
    pub fn passed(&self, control: &SubscriptionControl) -> Option<EndReason> {
        self.passed_by(control.lag())
    }

    /// Returns the limit that a lag exceeds, if any. A single event is no lag, however large: its
    /// subscriber was not slow.
    #[must_use]
    pub fn passed_by(&self, lag: LogPosition) -> Option<EndReason> {
        if lag.seq > self.max_lag_events {
            Some(EndReason::LaggedEvents)
        } else if lag.byte > self.max_lag_bytes && lag.seq > 1 {
            Some(EndReason::LaggedBytes)
        } else {
            None
        }
    }
}

/// The next item for a subscriber.
#[derive(Clone, Debug)]
pub enum Step {
    /// Events of one channel.
    Events {
        /// The channel.
        channel: Arc<Channel>,
        /// Its next events.
        batch: Batch,
    },
    /// The fold of the events up to this position.
    Snapshot {
        /// The snapshot.
        snapshot: Arc<Snapshot>,
        /// The id of its last event.
        position: Position,
    },
    /// Events are missing here.
    Gap(Gap),
    /// A channel that had ended before a subscription to many began; this end is in no batch.
    Ended {
        /// The end.
        end: End,
        /// The id of this notice: the start of the subscription.
        position: Position,
    },
}

impl Step {
    /// Returns the bytes of the events or of the snapshot in the step.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Events { batch, .. } => batch.bytes().len(),
            Self::Snapshot { snapshot, .. } => snapshot.data.len(),
            Self::Gap(_) | Self::Ended { .. } => 0,
        }
    }
}

/// The result of one read.
#[derive(Debug)]
pub enum Next {
    /// The next item.
    Step(Step),
    /// No item yet.
    Pending,
    /// Nothing was found within the work that one call may do: call again.
    Again,
    /// No more items: the subscription is over.
    Finished,
}

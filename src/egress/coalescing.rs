//! Merging and delaying events for a subscriber whose connection is a body.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::hub::{Coalesce, Subscription};

/// Time after which a connection is slow that has not asked for more, though there is more.
const SLOW: Duration = Duration::from_millis(20);

/// Decides when the events of a body's subscription are read, and whether they are merged.
pub(super) struct CoalescingWindow {
    coalesce: Coalesce,
    /// Nothing is read before it ends.
    pause: Option<Pin<Box<Sleep>>>,
    /// The time of the last piece, until the connection asks for more.
    last_piece: Option<Instant>,
}

impl CoalescingWindow {
    pub(super) fn new(coalesce: Coalesce) -> Self {
        Self { coalesce, pause: None, last_piece: None }
    }

    pub(super) fn coalesce(&self) -> Coalesce {
        self.coalesce
    }

    /// Returns whether to read nothing yet. Otherwise sets whether the subscription merges.
    pub(super) fn holds_back(
        &mut self,
        subscription: &mut Subscription,
        cx: &mut Context<'_>,
    ) -> bool {
        match self.coalesce {
            Coalesce::Off => false,
            Coalesce::Adaptive => {
                // A slow connection gets merged events until it has caught up.
                let slow = |last_piece: Instant| last_piece.elapsed() >= SLOW;
                if self.last_piece.take().is_some_and(slow) {
                    subscription.set_merging(true);
                }
                false
            }
            Coalesce::Window(_) => {
                subscription.set_merging(true);
                let Some(pause) = &mut self.pause else { return false };
                if !subscription.poll_urgent(cx) && pause.as_mut().poll(cx) == Poll::Pending {
                    return true;
                }
                self.pause = None;
                false
            }
        }
    }

    /// Notes that a piece was passed to the connection; `live` if no event was left.
    pub(super) fn note_piece(&mut self, live: bool) {
        match self.coalesce {
            Coalesce::Off => {}
            Coalesce::Adaptive => self.last_piece = Some(Instant::now()),
            Coalesce::Window(window) => self.pause = live.then(|| Box::pin(sleep(window))),
        }
    }

    /// Notes that the connection waits for more, and so is not slow.
    pub(super) fn waits(&mut self, subscription: &mut Subscription) {
        if self.coalesce == Coalesce::Adaptive {
            self.last_piece = None;
            subscription.set_merging(false);
        }
    }
}

//! When events are merged and held back for a subscriber whose connection is a body.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::hub::{Coalesce, Subscription};

/// A connection that comes back for more after this long, though there was more to be had, is slow.
const SLOW: Duration = Duration::from_millis(20);

/// See the module.
pub(super) struct CoalescingWindow {
    coalesce: Coalesce,
    /// Nothing is read before it ends.
    pause: Option<Pin<Box<Sleep>>>,
    /// When something was handed over that the connection has not yet come back from.
    handed_over: Option<Instant>,
}

impl CoalescingWindow {
    pub(super) fn new(coalesce: Coalesce) -> Self {
        Self { coalesce, pause: None, handed_over: None }
    }

    pub(super) fn coalesce(&self) -> Coalesce {
        self.coalesce
    }

    /// Whether the connection should be given nothing yet. Otherwise the subscription is ready to
    /// be read, merged or not.
    pub(super) fn holds_back(
        &mut self,
        subscription: &mut Subscription,
        cx: &mut Context<'_>,
    ) -> bool {
        match self.coalesce {
            Coalesce::Off => false,
            Coalesce::Adaptive => {
                // Once slow, it is given everything merged until it has caught up.
                let slow = |handed_over: Instant| handed_over.elapsed() >= SLOW;
                if self.handed_over.take().is_some_and(slow) {
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

    /// The connection was given something; `live` if it was all that there was.
    pub(super) fn handed_over(&mut self, live: bool) {
        match self.coalesce {
            Coalesce::Off => {}
            Coalesce::Adaptive => self.handed_over = Some(Instant::now()),
            Coalesce::Window(window) => self.pause = live.then(|| Box::pin(sleep(window))),
        }
    }

    /// The connection waits for more: it is not slow.
    pub(super) fn waits(&mut self, subscription: &mut Subscription) {
        if self.coalesce == Coalesce::Adaptive {
            self.handed_over = None;
            subscription.set_merging(false);
        }
    }
}

//! Inline delivery by the publisher: where a channel has few subscribers, writing to them takes
//! less time than waking the shard's thread does.
//!
//! It handles only the simple case, new events for subscribers at the tail, and leaves the rest to
//! the thread's next sweep. If the channel was closed meanwhile and its key reused, the channel
//! that has the key now is delivered its own new events, which does no harm.

use std::time::Duration;

use tokio::time::Instant;

use super::notifier::DeliverInline;
use super::reactor::Reactor;
use super::subscriber::Subscriber;
use super::sweep::{Moved, SweepProgress, advance_inline};

/// Subscribers up to which a publisher delivers inline: the writes delay its response.
const FEW: usize = 16;

/// Interval between events below which the thread sweeps the channel instead: events pile up
/// meanwhile, and several cost one write.
const PACE: Duration = Duration::from_millis(1);

impl DeliverInline for Reactor {
    fn deliver_inline(&mut self, key: usize) -> bool {
        let came = Instant::now();
        let Some(local) = self.channels.get_mut(key) else { return false };
        let fast = local.delivered_inline.is_some_and(|last| came.duration_since(last) < PACE);
        local.delivered_inline = Some(came);
        let busy = local.sweep.is_some() || local.rests_until.is_some_and(|until| came < until);
        if busy || fast || local.merges() || local.members.len() > FEW {
            return false;
        }
        let now = self.now();
        let mut done = SweepProgress::default();
        let complete = self.write_inline(key, now, &mut done);
        self.count(&done);
        if done.events > 0 {
            self.hub.metrics().delivery_took(came.elapsed());
        }
        complete
    }
}

impl Reactor {
    /// Returns whether every subscriber took all of it.
    fn write_inline(&mut self, key: usize, now: u32, done: &mut SweepProgress) -> bool {
        let mut complete = true;
        let mut shared = None;
        let Some(local) = self.channels.get(key) else { return false };
        for member in &local.members {
            // A blocked subscriber is advanced when its socket becomes writable.
            let free = |subscriber: &&mut Subscriber| !subscriber.is_blocked();
            let Some(subscriber) = self.subscribers.get_mut(*member as usize).filter(free) else {
                continue;
            };
            match advance_inline(subscriber, &local.channel, &mut shared, done, now) {
                Some(Moved::Blocked) => {
                    subscriber.await_room(&self.registry, *member as usize);
                    self.blocked.push(*member);
                }
                Some(_) => {}
                None => complete = false,
            }
        }
        complete
    }
}

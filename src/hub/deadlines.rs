//! The deadlines of channels, with one timer for all of them.

use std::collections::{BTreeSet, HashMap};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::channel::ChannelName;

/// The next deadline of each channel: one per channel, the earliest. After it, the channel sets the
/// next one.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    times: Mutex<Times>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Times {
    by_name: HashMap<ChannelName, Instant>,
    in_order: BTreeSet<(Instant, ChannelName)>,
}

impl Deadlines {
    /// Sets a deadline for the channel, unless it has an earlier one.
    pub(super) fn set(&self, at: Instant, name: &ChannelName) {
        let mut times = self.times.lock();
        match times.by_name.get(name).copied() {
            Some(known) if known <= at => return,
            Some(known) => {
                times.in_order.remove(&(known, name.clone()));
            }
            None => {}
        }
        times.by_name.insert(name.clone(), at);
        times.in_order.insert((at, name.clone()));
        drop(times);
        self.changed.notify_one();
    }

    /// Waits for the next deadline, and returns the channels that are due.
    pub(super) async fn next(&self) -> Vec<ChannelName> {
        loop {
            let changed = self.changed.notified();
            let first = self.times.lock().in_order.first().map(|(at, _)| *at);
            match first {
                None => changed.await,
                Some(at) if at > Instant::now() => tokio::select! {
                    () = sleep_until(at) => {}
                    () = changed => {}
                },
                Some(_) => return self.take_due(Instant::now()),
            }
        }
    }

    fn take_due(&self, now: Instant) -> Vec<ChannelName> {
        let mut times = self.times.lock();
        let mut due = Vec::new();
        while let Some((at, name)) = times.in_order.pop_first() {
            if at > now {
                times.in_order.insert((at, name));
                break;
            }
            times.by_name.remove(&name);
            due.push(name);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_channel_is_due_once_at_the_earliest_of_its_times() {
        let deadlines = Deadlines::default();
        let began = Instant::now();
        let name = |text: &str| text.parse::<ChannelName>().unwrap();
        deadlines.set(began + Duration::from_secs(5), &name("a"));
        deadlines.set(began + Duration::from_secs(3), &name("a"));
        deadlines.set(began + Duration::from_secs(9), &name("a"));
        deadlines.set(began + Duration::from_secs(4), &name("b"));
        assert_eq!(deadlines.next().await, [name("a")]);
        assert_eq!(began.elapsed().as_secs(), 3);
        assert_eq!(deadlines.next().await, [name("b")]);
        assert!(deadlines.times.lock().in_order.is_empty());
    }
}

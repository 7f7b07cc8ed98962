//! Periodic housekeeping: eviction by age, of idle channels, and for the memory budget.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::channel::Channel;
use super::cluster::Replica;
use super::deadlines::Deadlines;
use super::registry::Registry;
use crate::quota::Budget;

/// Interval between two checks of all channels. An event may outlive its age by this much.
const INTERVAL: Duration = Duration::from_millis(500);

/// Number of channels checked before the task yields.
const STRIDE: usize = 256;

pub(super) async fn run(registry: &Registry, replica: Option<&Replica>) {
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        registry.resubmit_deletes();
        for channels in registry.all().chunks(STRIDE) {
            for channel in channels {
                channel.expire();
                if let Some(replica) = replica {
                    replica.propose_removal(channel);
                }
                registry.evict_if_unused(channel.name(), INTERVAL);
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Handles the deadlines of channels.
pub(super) async fn keep_time(
    registry: &Registry,
    deadlines: &Deadlines,
    replica: Option<&Replica>,
) {
    loop {
        for name in deadlines.next().await {
            let Some(channel) = registry.get(&name) else { continue };
            let next = match replica {
                Some(replica) => replica.meet_deadline(&channel),
                None => channel.meet_deadline(),
            };
            if let Some(at) = next {
                deadlines.set(at, &name);
            }
        }
    }
}

/// Evicts the oldest segments of these channels until the budget that they share is relieved.
pub(super) fn evict_oldest(registry: &Registry, budget: &Budget, of: impl Fn(&Channel) -> bool) {
    let mut channels = registry.all();
    channels.retain(|channel| of(channel));
    let ages = channels.iter().enumerate();
    let ages = ages.filter_map(|(at, channel)| Some(Reverse((channel.earliest_evictable()?, at))));
    let mut oldest: BinaryHeap<_> = ages.collect();
    while !budget.is_relieved()
        && let Some(Reverse((_, at))) = oldest.pop()
    {
        let channel = &channels[at];
        if channel.evict_oldest()
            && let Some(earliest) = channel.earliest_evictable()
        {
            oldest.push(Reverse((earliest, at)));
        }
    }
    budget.note_search();
}

//! Periodic housekeeping: eviction by age, of idle channels, and for the memory budget.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::Core;
use super::channel::Channel;
use crate::quota::Budget;

/// Interval between two checks of all channels. An event may outlive its age by this much.
const INTERVAL: Duration = Duration::from_millis(500);

/// Number of channels checked before the task yields.
const STRIDE: usize = 256;

pub(super) async fn run(core: &Arc<Core>) {
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        core.registry.resubmit_deletes();
        for channels in core.registry.all().chunks(STRIDE) {
            for channel in channels {
                channel.expire();
                core.registry.evict_if_unused(channel.name());
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Handles the deadlines of channels.
pub(super) async fn keep_time(core: &Arc<Core>) {
    let deadlines = &core.shared.deadlines;
    loop {
        for name in deadlines.next().await {
            let Some(channel) = core.registry.get(&name) else { continue };
            if let Some(at) = channel.look_at_the_clock() {
                deadlines.set(at, &name);
            }
        }
    }
}

/// Evicts the oldest segments of these channels until the budget that they share is relieved.
pub(super) fn evict_oldest(core: &Core, budget: &Budget, of: impl Fn(&Channel) -> bool) {
    let mut channels = core.registry.all();
    channels.retain(|channel| of(channel));
    let ages = channels.iter().enumerate();
    let ages = ages.filter_map(|(at, channel)| Some(Reverse((channel.earliest()?, at))));
    let mut oldest: BinaryHeap<_> = ages.collect();
    while !budget.is_relieved()
        && let Some(Reverse((_, at))) = oldest.pop()
    {
        let channel = &channels[at];
        if channel.evict_oldest()
            && let Some(earliest) = channel.earliest()
        {
            oldest.push(Reverse((earliest, at)));
        }
    }
    budget.note_search();
}

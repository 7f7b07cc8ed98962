//! Trimming of channels, and the gaps that their readers get. The sweeper does not run in these
//! tests.

use std::sync::Arc;

use super::support::{Stage, bounds, event, name};
use crate::hub::{
    Append, ChannelOptions, Config, Hub, Next, Opened, Selection, Step, Subscription,
};
use crate::limits::MAX_MERGE_LOOKS;
use crate::position::StartFrom;
use crate::store::disk::Durability;
use crate::telemetry::Metrics;

#[tokio::test]
async fn the_append_past_the_retention_trims() {
    let stage = Stage::new(Durability::Async);
    let options = ChannelOptions { max_events: Some(3), ..ChannelOptions::default() };
    assert!(stage.hub.configure(&name("c"), &options, None).unwrap().wait().await.is_ok());
    for count in 1..=9 {
        assert_eq!(stage.append("c", "event").await, Ok(()));
        let kept = stage.hub.describe(&name("c")).unwrap().events;
        assert_eq!(kept, count.min(3), "after {count}");
    }
    let options = ChannelOptions { max_events: Some(1), ..options };
    let configured = stage.hub.configure(&name("c"), &options, None).unwrap().wait().await.unwrap();
    assert_eq!(configured.channel.events, 1);
}

/// A reader of many channels on a hub in memory that retains three events of each.
fn slow_reader(channels: usize) -> (Hub, Subscription) {
    let config = Config { max_events: 3, ..Config::default() };
    let hub = Hub::new(config, Arc::new(Metrics::new()));
    for channel in 0..channels {
        append(&hub, channel, 3);
    }
    let opened = hub
        .subscribe(Selection::Many(vec!["c/*".parse().unwrap()]), &StartFrom::Earliest, bounds())
        .unwrap();
    let Opened::Live(subscription) = opened else { panic!("it can be read at once") };
    (hub, subscription)
}

fn append(hub: &Hub, channel: usize, events: usize) {
    for _ in 0..events {
        let events = [event("x")];
        drop(hub.submit(&name(&format!("c/{channel}")), Append::of(&events, None)).unwrap());
    }
}

#[test]
fn retention_after_a_gap_of_many_channels_makes_no_second_gap() {
    let (hub, mut subscription) = slow_reader(2);
    let mut last: [Option<Step>; 2] = [None, None];
    for _ in 0..20 {
        // Faster than the reader.
        append(&hub, 0, 5);
        append(&hub, 1, 5);
        let Next::Step(step) = subscription.try_next() else { panic!("there is more") };
        let channel = match &step {
            Step::Events { channel, .. } => channel.name().clone(),
            Step::Gap(gap) => gap.channel.clone().unwrap(),
            _ => panic!("{step:?}"),
        };
        let last = &mut last[usize::from(channel == name("c/1"))];
        let twice = matches!((&last, &step), (Some(Step::Gap(_)), Step::Gap(_)));
        assert!(!twice, "{last:?}, then {step:?}");
        *last = Some(step);
    }
}

#[test]
fn one_read_of_many_channels_looks_at_a_bounded_number_of_them() {
    const CHANNELS: usize = 3 * MAX_MERGE_LOOKS;
    let (hub, mut subscription) = slow_reader(CHANNELS);
    // The first events of each channel are evicted: the reader finds that one by one.
    (0..CHANNELS).for_each(|channel| append(&hub, channel, 3));
    let mut again = 0;
    let mut gaps = 0;
    let mut events = 0;
    loop {
        match subscription.try_next() {
            Next::Step(Step::Gap(_)) => gaps += 1,
            Next::Step(Step::Events { batch, .. }) => events += batch.count(),
            Next::Step(step) => panic!("{step:?}"),
            Next::Again => again += 1,
            Next::Pending => break,
            Next::Finished => panic!("it has no end"),
        }
    }
    assert_eq!((gaps, events), (CHANNELS, 3 * CHANNELS));
    assert!(again >= 2, "{again} pauses");
    // All channels have something new at once.
    (0..CHANNELS).for_each(|channel| append(&hub, channel, 1));
    assert!(matches!(subscription.try_next(), Next::Again), "it has looked at all of them");
}

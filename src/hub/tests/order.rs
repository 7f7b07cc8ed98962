//! The one order of many channels, some of whose events are not stored yet.

use super::support::{Stage, bounds, event, name};
use crate::channel::ChannelPattern;
use crate::hub::{
    Append, Bounds, ChannelOptions, Config, Next, OnLag, Opened, Rule, Selection, Step,
    Subscription,
};
use crate::position::{Offset, StartFrom};
use crate::store::disk::Durability;
use crate::store::disk::tests::gated::{self, Gated, until_all_is_read};

/// Creates a stage on which `d/*` is synced before it is visible, and all else is in memory.
fn stage() -> Stage {
    let mut channels = Config::default();
    channels.rules.push(Rule {
        pattern: "m/*".parse().unwrap(),
        durability: Some(Durability::Memory),
        options: ChannelOptions::default(),
    });
    Stage::of(Gated::new(), gated::store_config(Durability::Sync), channels)
}

fn many(stage: &Stage, patterns: &[&str], from: &StartFrom, bounds: Bounds) -> Subscription {
    let patterns: Vec<ChannelPattern> = patterns.iter().map(|text| text.parse().unwrap()).collect();
    match stage.hub.subscribe(Selection::Many(patterns), from, bounds).unwrap() {
        Opened::Live(subscription) => subscription,
        _ => panic!("there is something to read"),
    }
}

/// Appends an event; in a durable channel it is not stored yet.
fn append(stage: &Stage, channel: &str) -> u64 {
    let appended = stage.hub.submit(&name(channel), Append::of(&[event("x")], None)).unwrap();
    appended.expected().unwrap().offsets.unwrap().0.0
}

fn append_so_many(stage: &Stage, channel: &str, events: usize) {
    for _ in 0..events {
        append(stage, channel);
    }
}

/// Returns the offsets of all that can be read now; of a gap, where it resumes.
fn read(stage: &Stage, subscription: &mut Subscription) -> Vec<u64> {
    let mut seen = Vec::new();
    let mut idle = 0;
    while idle < 3 {
        match subscription.try_next() {
            Next::Step(Step::Events { batch, .. }) => {
                seen.extend(batch.entries().map(|entry| entry.offset.0));
                idle = 0;
            }
            Next::Step(Step::Gap(gap)) => {
                seen.push(gap.resumed.offset.0);
                idle = 0;
            }
            Next::Step(step) => panic!("{step:?}"),
            Next::Finished => return seen,
            Next::Again => {}
            Next::Pending => {
                until_all_is_read(&stage.disk);
                idle += 1;
            }
        }
    }
    seen
}

#[tokio::test]
async fn no_id_is_sent_that_is_after_a_pending_event() {
    for patterns in [["d/a", "m/b"], ["*/a", "*/b"], ["**", "m/b"]] {
        for from in [StartFrom::Tail, StartFrom::Last(0), StartFrom::Last(1)] {
            let stage = stage();
            assert_eq!(stage.append("d/a", "first").await, Ok(()));
            stage.files.shut();
            let before = append(&stage, "m/b");
            let coming = append(&stage, "d/a");
            append(&stage, "m/b");
            let mut tail = many(&stage, &patterns, &from, bounds());
            let start = tail.start().offset;
            assert!(start < Offset(coming), "{from:?}: {start:?} is after {coming}");
            assert!(start >= Offset(before) || matches!(from, StartFrom::Last(1)));
            let early = read(&stage, &mut tail);
            let last = append(&stage, "m/b");
            stage.files.open_up();
            assert_eq!(stage.append("d/a", "more").await, Ok(()));
            let seen = [early, read(&stage, &mut tail)].concat();
            assert!(seen.is_sorted(), "ids go back: {seen:?}");
            assert!([coming, last].iter().all(|offset| seen.contains(offset)), "{seen:?}");
            // A subscription resumed after any id that was seen gets exactly the rest.
            for at in 0..=seen.len() {
                let id = at.checked_sub(1).map_or(start, |at| Offset(seen[at]));
                let id = stage.hub.position(id).to_string();
                let from = StartFrom::After(id.into());
                let mut resumed = many(&stage, &patterns, &from, bounds());
                assert_eq!(read(&stage, &mut resumed), seen[at..], "after {at} of {seen:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_subscriber_that_is_moved_to_the_tail_still_gets_pending_events() {
    let stage = stage();
    let skips = Bounds { max_lag_events: 2, max_lag_bytes: u64::MAX, on_lag: OnLag::Skip };
    let mut slow = many(&stage, &["d/a", "m/b"], &StartFrom::Tail, skips);
    append_so_many(&stage, "m/b", 5);
    stage.files.shut();
    let coming = append(&stage, "d/a");
    append_so_many(&stage, "m/b", 5);
    let early = read(&stage, &mut slow);
    assert!(early.iter().all(|seen| *seen < coming), "an id after {coming}: {early:?}");
    stage.files.open_up();
    assert_eq!(stage.append("d/a", "more").await, Ok(()));
    let late = read(&stage, &mut slow);
    let seen = [early, late].concat();
    assert!(seen.windows(2).all(|two| two[0] < two[1]), "ids go back, or come twice: {seen:?}");
}

#[tokio::test]
async fn an_id_of_other_channels_does_not_bring_events_that_lie_before_it() {
    let stage = stage();
    assert_eq!(stage.append("d/a", "first").await, Ok(()));
    stage.files.shut();
    let coming = append(&stage, "d/a");
    let seen = append(&stage, "m/b");
    let from = StartFrom::After(stage.hub.event_id(Offset(seen)).into());
    let mut resumed = many(&stage, &["d/a", "m/b"], &from, bounds());
    let last = append(&stage, "d/a");
    stage.files.open_up();
    assert_eq!(stage.append("d/c", "more").await, Ok(()));
    assert_eq!(read(&stage, &mut resumed), [last], "after {seen}, and not {coming}");
}

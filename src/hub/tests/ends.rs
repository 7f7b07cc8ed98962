//! Ends that wait for the disk, and deadlines while the disk takes nothing.

use std::time::Duration;

use tokio::task::LocalSet;

use super::support::{Stage, event, name, until};
use crate::event::ChannelState;
use crate::hub::{
    ChannelOptions, Config, Hold, Signal, Stopped, SubmitError, ThreadCompletions, WhenUnwatched,
};
use crate::position::StartFrom;
use crate::store::disk::tests::fake::Fate;
use crate::store::disk::tests::gated::check_free_space;
use crate::store::disk::{Durability, OpenOptions, WriteError};

use Durability::{Async, Sync};

fn state(stage: &Stage) -> ChannelState {
    stage.hub.describe(&name("c")).unwrap().state
}

#[tokio::test]
async fn a_second_stop_counts_when_the_first_does() {
    let stage = Stage::new(Sync);
    assert_eq!(stage.append("c", "x").await, Ok(()));
    stage.files.shut();
    let (first, mut ack) = stage.hub.stop(&name("c"), None, None).unwrap();
    let (second, mut stored_too) = stage.hub.stop(&name("c"), None, None).unwrap();
    assert_eq!((first, second), (Stopped::Now, Stopped::Before(ChannelState::Cancelled)));
    assert!(ack.is_pending() && stored_too.is_pending());
    stage.files.open_up();
    assert_eq!((ack.wait().await, stored_too.wait().await), (Ok(()), Ok(())));
    let (_, third) = stage.hub.stop(&name("c"), None, None).unwrap();
    assert!(!third.is_pending());
}

#[tokio::test]
async fn a_second_stop_fails_when_the_first_is_refused() {
    let stage = Stage::new(Sync);
    assert_eq!(stage.append("c", "x").await, Ok(()));
    stage.files.shut();
    // The growth of the journal is being synced, which blocks the next write.
    let mut before = stage.hub.append(&name("c"), &[event("y")], None).unwrap();
    stage.files.until_a_sync_waits();
    let (_, mut ack) = stage.hub.stop(&name("c"), None, None).unwrap();
    let (_, mut stored_too) = stage.hub.stop(&name("c"), None, None).unwrap();
    stage.files.disk.fate(1, Fate::Fails);
    stage.files.open_up();
    assert_eq!(before.ack.wait().await, Err(WriteError::Failed));
    assert_eq!((ack.wait().await, stored_too.wait().await), {
        (Err(WriteError::Failed), Err(WriteError::Failed))
    });
}

#[tokio::test]
async fn an_append_that_was_refused_for_a_refused_end_can_be_tried_again() {
    let stage = Stage::new(Sync);
    assert_eq!(stage.append("c", "x").await, Ok(()));
    stage.files.shut();
    let (_, mut stopped) = stage.hub.stop(&name("c"), None, None).unwrap();
    let refused = stage.hub.append(&name("c"), &[event("y")], None).map(drop);
    assert_eq!(refused, Err(SubmitError::Stopped(None)));
    let mut coming = stage.hub.pending_end(&name("c")).expect("the end is not stored");
    assert!(coming.is_pending());
    stage.files.open_up();
    assert_eq!((stopped.wait().await, coming.wait().await), (Ok(()), Ok(())));
    assert!(stage.hub.pending_end(&name("c")).is_none(), "it has ended");

    assert_eq!(stage.append("d", "x").await, Ok(()));
    stage.files.disk.fate(1, Fate::Full);
    let (_, mut stopped) = stage.hub.stop(&name("d"), None, None).unwrap();
    assert_eq!(stopped.wait().await, Err(WriteError::Full));
    check_free_space(&stage.disk);
    assert!(!stage.hub.pending_end(&name("d")).expect("it has no end").is_pending());
    assert_eq!(stage.append("d", "y").await, Ok(()));
}

#[tokio::test]
async fn a_producer_may_begin_while_a_stop_is_pending_and_is_refused_after_it() {
    let stage = Stage::new(Sync);
    assert_eq!(stage.append("c", "x").await, Ok(()));
    stage.files.shut();
    let (_, _stored) = stage.hub.stop(&name("c"), None, None).unwrap();
    let mut producer = stage.hub.produce(&name("c"), Hold::Sole, None).unwrap();
    stage.files.open_up();
    assert_eq!(producer.refused().await, SubmitError::Stopped(None));
    drop(producer);
}

/// Creates a hub whose clock runs, with a generation in `c` that has one event.
async fn with_generation(stage: &Stage) -> crate::hub::ProducerHandle {
    tokio::task::spawn_local(ThreadCompletions::serve());
    tokio::task::spawn_local(stage.hub.clone().sweep());
    tokio::task::yield_now().await;
    let producer = stage.hub.produce(&name("c"), Hold::Sole, None).unwrap();
    let mut appended = producer.append(&[event("x")], None, None).unwrap();
    assert_eq!(appended.ack.wait().await, Ok(()));
    producer
}

#[tokio::test(start_paused = true)]
async fn a_generation_is_abandoned_when_there_is_room_for_the_end() {
    let stage = Stage::new(Sync);
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            let producer = with_generation(&stage).await;
            stage.fill_up();
            drop(producer);
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(state(&stage), ChannelState::Open);
            stage.make_room();
            until("it is abandoned", || state(&stage) == ChannelState::Abandoned).await;
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_end_by_a_deadline_that_the_disk_has_refused_is_tried_again() {
    let stage = Stage::new(Sync);
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            let producer = with_generation(&stage).await;
            stage.files.disk.fate(1, Fate::Full);
            drop(producer);
            until("it is refused", || stage.disk.check() == Err(WriteError::Full)).await;
            assert_eq!(state(&stage), ChannelState::Open);
            check_free_space(&stage.disk);
            until("it is abandoned", || state(&stage) == ChannelState::Abandoned).await;
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_generation_without_viewers_is_stopped_when_there_is_room_for_the_end() {
    let stage = Stage::new(Sync);
    let after = Duration::from_secs(1);
    let when_unwatched = Some(WhenUnwatched { after, signal: Signal::Stop });
    let options = ChannelOptions { when_unwatched, ..ChannelOptions::default() };
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            let mut producer = with_generation(&stage).await;
            // Time passes while the disk is busy, and a viewer comes meanwhile.
            let viewer = stage.subscribe("c", &StartFrom::Tail).await;
            let (_, _, mut ack) = stage.hub.configure(&name("c"), &options).unwrap();
            assert_eq!(ack.wait().await, Ok(()));
            stage.files.disk.fate(1, Fate::Full);
            drop(viewer);
            until("it is refused", || stage.disk.check() == Err(WriteError::Full)).await;
            assert_eq!(state(&stage), ChannelState::Open);
            check_free_space(&stage.disk);
            until("it is stopped", || state(&stage) == ChannelState::Cancelled).await;
            let told = SubmitError::Stopped(Some("unwatched".into()));
            assert_eq!(producer.refused().await, told);
        })
        .await;
}

/// Creates a hub after a power cut, whose store refuses the next write.
async fn after_a_power_cut() -> Stage {
    let stage = Stage::new(Async);
    assert_eq!(stage.append("c", "x").await, Ok(()));
    let files = stage.files.after_kill();
    let config = stage.config.clone();
    drop(stage.shut_down());
    let (disk, found) = files.store_of_boot(&config, OpenOptions::default(), "another one");
    assert!(found.power_cut);
    files.disk.fate(1, Fate::Full);
    let stage = Stage::on(files, config, Config::default(), disk, found);
    until("it is refused", || stage.disk.check() == Err(WriteError::Full)).await;
    check_free_space(&stage.disk);
    stage
}

#[tokio::test(start_paused = true)]
async fn a_reader_gets_the_notice_of_a_power_cut_also_after_a_full_disk() {
    let stage = after_a_power_cut().await;
    tokio::spawn(stage.hub.clone().sweep());
    let events = || stage.hub.describe(&name("c")).unwrap().events;
    until("the notice", || events() == 2).await;
    assert_eq!(stage.append("c", "y").await, Ok(()));
    let mut subscription = stage.subscribe("c", &StartFrom::Earliest).await;
    assert_eq!(stage.seen(&mut subscription).len(), 3, "once");
}

#[tokio::test]
async fn the_notice_of_a_power_cut_comes_before_what_is_published_next() {
    let stage = after_a_power_cut().await;
    let hub = &stage.hub;
    // Completions of one channel keep their order: after this one, the refusal is known.
    let (_, _, mut ack) = hub.configure(&name("c"), &ChannelOptions::default()).unwrap();
    assert_eq!(ack.wait().await, Ok(()));
    let mut appended = hub.append(&name("c"), &[event("y")], None).unwrap();
    assert_eq!(appended.ack.wait().await, Ok(()));
    let y = appended.offsets.unwrap().0.0;
    let mut subscription = stage.subscribe("c", &StartFrom::Earliest).await;
    let seen = stage.seen(&mut subscription);
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[2], format!("event {y}"));
}

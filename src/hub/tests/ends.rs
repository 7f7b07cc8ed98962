//! Ends that wait for the disk, and deadlines while the disk takes nothing.

use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::LocalSet;

use super::support::{Stage, begun, event, name, until};
use crate::event::ChannelState;
use crate::hub::{
    Append, ChannelOptions, Config, Hold, Signal, StopError, Stopped, SubmitError,
    ThreadCompletions, WhenUnwatched,
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
    let first = begun(stage.stop("c"));
    let second = begun(stage.stop("c"));
    stage.files.open_up();
    let stopped_before = Ok(Stopped::Before(ChannelState::Cancelled));
    assert_eq!((first.await, second.await), (Ok(Stopped::Now), stopped_before));
    let third = stage.stop("c").now_or_never();
    assert_eq!(third, Some(stopped_before));
}

#[tokio::test]
async fn a_second_stop_fails_when_the_first_is_refused() {
    let stage = Stage::new(Sync);
    assert_eq!(stage.append("c", "x").await, Ok(()));
    stage.files.shut();
    // The growth of the journal is being synced, which blocks the next write.
    let before = stage.hub.submit(&name("c"), Append::of(&[event("y")], None)).unwrap();
    stage.files.until_a_sync_waits();
    let first = begun(stage.stop("c"));
    let second = begun(stage.stop("c"));
    stage.files.disk.fate(1, Fate::Fails);
    stage.files.open_up();
    assert_eq!(before.wait().await, Err(SubmitError::Unstored(WriteError::Failed)));
    let failed = Err(StopError::Unstored(WriteError::Failed));
    assert_eq!((first.await, second.await), (failed, failed));
}

#[tokio::test]
async fn a_closed_store_refuses_an_end_and_what_follows_it() {
    let stage = Stage::new(Sync);
    assert_eq!(stage.append("c", "x").await, Ok(()));
    stage.disk.close();
    let failed = Err(StopError::Unstored(WriteError::Failed));
    assert_eq!(stage.stop("c").now_or_never(), Some(failed));
    assert_eq!(stage.stop("c").now_or_never(), Some(failed));
    assert!(matches!(stage.append("c", "y").now_or_never(), Some(Err(_))));
}

#[tokio::test]
async fn an_append_waits_for_an_end_that_may_still_be_refused() {
    let stage = Stage::new(Sync);
    assert_eq!(stage.append("c", "x").await, Ok(()));
    stage.files.shut();
    let stop = begun(stage.stop("c"));
    let refused = stage.hub.submit(&name("c"), Append::of(&[event("y")], None)).map(drop);
    assert_eq!(refused, Err(SubmitError::Stopped(None)));
    let append = begun(stage.append("c", "y"));
    stage.files.open_up();
    assert_eq!(stop.await, Ok(Stopped::Now));
    assert_eq!(append.await, Err(SubmitError::Stopped(None).to_string()));
}

#[tokio::test]
async fn an_append_succeeds_after_an_end_that_was_refused() {
    let stage = Stage::new(Sync);
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            // Completions run only while this waits.
            tokio::task::spawn_local(ThreadCompletions::serve());
            tokio::task::yield_now().await;
            assert_eq!(stage.append("c", "x").await, Ok(()));
            stage.files.disk.fate(1, Fate::Full);
            let stop = begun(stage.stop("c"));
            let append = begun(stage.append("c", "y"));
            assert_eq!(stop.await, Err(StopError::Unstored(WriteError::Full)));
            check_free_space(&stage.disk);
            assert_eq!(append.await, Ok(()));
        })
        .await;
}

#[tokio::test]
async fn a_producer_may_begin_while_a_stop_is_pending_and_is_refused_after_it() {
    let stage = Stage::new(Sync);
    assert_eq!(stage.append("c", "x").await, Ok(()));
    stage.files.shut();
    let _stop = begun(stage.stop("c"));
    let produced = stage.hub.produce(&name("c"), None, Hold::Sole, None).await;
    let mut producer = produced.unwrap();
    stage.files.open_up();
    assert_eq!(producer.refused().await, SubmitError::Stopped(None));
    drop(producer);
}

/// Creates a hub whose clock runs, with a generation in `c` that has one event.
async fn with_generation(stage: &Stage) -> crate::hub::ProducerHandle {
    tokio::task::spawn_local(ThreadCompletions::serve());
    tokio::task::spawn_local(stage.hub.clone().sweep());
    tokio::task::yield_now().await;
    let produced = stage.hub.produce(&name("c"), None, Hold::Sole, None).await;
    let producer = produced.unwrap();
    assert!(producer.append(Append::of(&[event("x")], None)).await.is_ok());
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
            assert!(stage.hub.configure(&name("c"), &options, None).unwrap().wait().await.is_ok());
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
    let configured = hub.configure(&name("c"), &ChannelOptions::default(), None).unwrap();
    assert!(configured.wait().await.is_ok());
    let appended = hub.append(&name("c"), Append::of(&[event("y")], None)).await.unwrap();
    let y = appended.offsets.unwrap().0.0;
    let mut subscription = stage.subscribe("c", &StartFrom::Earliest).await;
    let seen = stage.seen(&mut subscription);
    assert_eq!(seen.len(), 3);
    assert_eq!(seen[2], format!("event {y}"));
}

//! A deleted channel does not come back, even if the store refused the deletion at first.

use std::time::Duration;

use super::support::{Stage, name, until};
use crate::hub::{ChannelOptions, Config, DeleteError};
use crate::store::disk::tests::fake::Fate;
use crate::store::disk::tests::gated::check_free_space;
use crate::store::disk::{Durability, WriteError};

use Durability::Sync;

/// Creates a hub whose disk has a channel of which the store has refused the deletion.
async fn with_remains() -> Stage {
    let stage = Stage::new(Sync);
    assert_eq!(stage.append("c", "secret").await, Ok(()));
    stage.files.disk.fate(1, Fate::Full);
    let refused = stage.hub.delete(&name("c")).unwrap().wait().await;
    assert_eq!(refused, Err(DeleteError::Unstored(WriteError::Full)));
    check_free_space(&stage.disk);
    assert_eq!(stage.disk.check(), Ok(()));
    stage
}

fn streams_on_disk(stage: Stage) -> usize {
    stage.restart().found.streams.len()
}

#[tokio::test]
async fn a_delete_that_was_refused_can_be_repeated() {
    let stage = with_remains().await;
    let again = stage.hub.delete(&name("c")).expect("something of it is left");
    assert_eq!(again.wait().await, Ok(()));
    assert!(stage.hub.delete(&name("c")).is_err(), "nothing of it is left");
    assert_eq!(streams_on_disk(stage), 0);
}

#[tokio::test]
async fn a_delete_that_comes_while_another_is_being_stored_waits_for_it() {
    let stage = Stage::new(Sync);
    assert_eq!(stage.append("c", "secret").await, Ok(()));
    stage.files.shut();
    let first = stage.hub.delete(&name("c")).unwrap();
    let second = stage.hub.delete(&name("c")).expect("it is not gone yet");
    assert!(first.is_pending() && second.is_pending());
    stage.files.open_up();
    assert_eq!(second.wait().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_was_refused_is_repeated_by_the_hub() {
    let stage = with_remains().await;
    tokio::spawn(stage.hub.clone().sweep());
    until("the store knows", || stage.hub.0.shared.pending_deletes.is_empty()).await;
    assert!(stage.hub.delete(&name("c")).is_err());
    stage.disk.close();
    let stage = Stage::of(stage.files.clone(), stage.config.clone(), Config::default());
    assert!(stage.found.streams.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_idle_channel_that_was_evicted_while_there_was_no_room_does_not_come_back() {
    let stage = Stage::new(Sync);
    let idle_timeout = Some(Duration::from_secs(1));
    let options = ChannelOptions { idle_timeout, ..ChannelOptions::default() };
    assert!(stage.hub.configure(&name("c"), &options, None).unwrap().wait().await.is_ok());
    stage.files.disk.fate(1, Fate::Full);
    tokio::spawn(stage.hub.clone().sweep());
    until("it is evicted", || stage.hub.describe(&name("c")).is_none()).await;
    until("it is refused", || stage.disk.check() == Err(WriteError::Full)).await;
    check_free_space(&stage.disk);
    until("the store knows", || stage.hub.0.shared.pending_deletes.is_empty()).await;
    stage.disk.close();
    let stage = Stage::of(stage.files.clone(), stage.config.clone(), Config::default());
    assert!(stage.found.streams.is_empty());
}

#[tokio::test]
async fn a_new_channel_of_the_name_is_not_changed_by_the_pending_delete_of_the_old_one() {
    let stage = with_remains().await;
    assert_eq!(stage.append("c", "new").await, Ok(()));
    let first = stage.first("c");
    // As the sweeper does.
    stage.hub.0.registry.resubmit_deletes();
    until("the store knows", || stage.hub.0.shared.pending_deletes.is_empty()).await;
    let stage = stage.restart();
    assert_eq!(stage.found.streams.len(), 1);
    assert_eq!(stage.first("c"), first);
}

#[tokio::test]
async fn of_two_channels_of_a_name_on_disk_a_restart_brings_back_the_later_one() {
    let stage = with_remains().await;
    assert_eq!(stage.append("c", "new").await, Ok(()));
    let first = stage.first("c");
    // The hub had no time to repeat the delete.
    let stage = stage.restart();
    assert_eq!(stage.found.streams.len(), 1);
    assert_eq!(stage.first("c"), first);
}

#[tokio::test]
async fn a_delete_takes_all_streams_of_the_name() {
    let stage = with_remains().await;
    assert_eq!(stage.append("c", "new").await, Ok(()));
    assert_eq!(stage.hub.delete(&name("c")).unwrap().wait().await, Ok(()));
    assert_eq!(streams_on_disk(stage), 0);
}

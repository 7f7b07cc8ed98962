//! A refused write leaves nothing, and an acknowledged one is stored.

use super::support::{Stage, event, name};
use crate::hub::{Append, ChannelOptions, ConfigureError, SubmitError};
use crate::limits::MAX_UNSTORED_BYTES;
use crate::store::disk::tests::fake::Fate;
use crate::store::disk::tests::gated::check_free_space;
use crate::store::disk::{Durability, WriteError};

use Durability::{Async, Sync};

fn seven_events() -> ChannelOptions {
    ChannelOptions { max_events: Some(7), ..ChannelOptions::default() }
}

#[tokio::test]
async fn a_channel_whose_first_publish_found_no_room_takes_events_when_there_is_room_again() {
    let stage = Stage::new(Async);
    // Accepted by the channel, and refused by the store.
    stage.files.disk.fate(1, Fate::Full);
    assert!(stage.append("c", "x").await.is_err());
    check_free_space(&stage.disk);
    for _ in 0..20 {
        assert_eq!(stage.append("c", "x").await, Ok(()));
    }
}

#[tokio::test]
async fn settings_that_were_acknowledged_are_stored() {
    let stage = Stage::new(Sync);
    assert_eq!(stage.append("c", "x").await, Ok(()));
    stage.files.disk.fate(1, Fate::Full);
    let refused = stage.hub.configure(&name("c"), &seven_events(), None).unwrap().wait().await;
    assert_eq!(refused, Err(ConfigureError::Unstored(WriteError::Full)));
    check_free_space(&stage.disk);
    let retried = stage.hub.configure(&name("c"), &seven_events(), None).unwrap().wait().await;
    assert!(retried.is_ok(), "the retry is acknowledged");
    let stage = stage.restart();
    let described = stage.hub.describe(&name("c")).unwrap();
    assert_eq!(described.settings.retention.max_events, 7);
}

#[tokio::test]
async fn settings_are_acknowledged_when_they_are_stored_also_if_they_were_submitted_before() {
    let stage = Stage::new(Sync);
    assert_eq!(stage.append("c", "x").await, Ok(()));
    stage.files.shut();
    let first = stage.hub.configure(&name("c"), &seven_events(), None).unwrap();
    let second = stage.hub.configure(&name("c"), &seven_events(), None).unwrap();
    assert!(first.is_pending() && second.is_pending());
    stage.files.disk.fate(1, Fate::Fails);
    stage.files.open_up();
    assert_eq!(second.wait().await, Err(ConfigureError::Unstored(WriteError::Failed)));
}

#[tokio::test]
async fn the_events_that_wait_for_a_disk_that_hangs_are_bounded() {
    let stage = Stage::new(Sync);
    stage.files.shut();
    let text = "x".repeat(1 << 20);
    let mut taken = 0;
    let refused = loop {
        // The client leaves without waiting for the commit.
        match stage.hub.submit(&name("c"), Append::of(&[event(&text)], None)) {
            Ok(_) => taken += text.len(),
            Err(error) => break error,
        }
        assert!(taken <= MAX_UNSTORED_BYTES + text.len(), "{taken} bytes wait");
    };
    assert_eq!(refused, SubmitError::Unstored(WriteError::Behind));
    assert!(taken + text.len() >= MAX_UNSTORED_BYTES, "only {taken} bytes wait");
    stage.files.open_up();
}

//! Reads of logs of which the disk has lost events: they continue, and come to an end.

use super::support::{Stage, name};
use crate::event::ChannelState;
use crate::hub::{Append, ChannelTicket, Close, ReadResult};
use crate::position::StartFrom;
use crate::store::disk::Durability;
use crate::store::disk::tests::gated::until_all_is_read;

#[tokio::test]
async fn the_last_events_are_asked_for_in_a_hole_and_reading_begins_somewhere() {
    let stage = Stage::new(Durability::Async);
    for _ in 0..4 {
        assert_eq!(stage.append("c", "hello").await, Ok(()));
    }
    let (files, config) = stage.shut_down();
    files.break_last_block();
    let stage = Stage::of(files, config, crate::hub::Config::default());
    for from in [StartFrom::Earliest, StartFrom::Last(2), StartFrom::Last(1)] {
        // If the subscription never begins, this fails by itself.
        let _ = stage.subscribe("c", &from).await;
    }
}

#[tokio::test]
async fn a_body_ends_whose_channel_has_lost_its_last_event() {
    let stage = Stage::new(Durability::Async);
    assert_eq!(stage.append("c", "hello").await, Ok(()));
    let close = Close { state: ChannelState::Complete, reason: None };
    assert!(stage.hub.append(&name("c"), Append::of(&[], Some(&close))).await.is_ok());
    let stage = stage.restart();
    assert!(stage.found.streams[0].state.is_some());
    // The block is damaged after the store has checked it.
    stage.files.break_last_block();
    let ticket = stage.open_one("c", &StartFrom::Earliest).await;
    assert!(reads_to_the_end(&stage, &ticket), "its subscriber at a shard waits for ever");
}

/// Returns whether a shard would end the body.
fn reads_to_the_end(stage: &Stage, ticket: &ChannelTicket) -> bool {
    let mut byte = ticket.position.byte;
    for _ in 0..20 {
        match ticket.channel().read_at_byte(byte, 1 << 20, false) {
            ReadResult::Frames { last: true, .. } => return true,
            ReadResult::Frames { batch: merged, .. } => byte = merged.end.byte,
            ReadResult::Missing(missing) => byte = missing.to.position.byte,
            ReadResult::Nothing => until_all_is_read(&stage.disk),
        }
    }
    false
}

//! An event is visible when it is stored, and not before.

use super::support::{Stage, event, name};
use crate::event::ChannelState;
use crate::generation::Format;
use crate::hub::{Append, Close, Hold, ReadResult};
use crate::position::StartFrom;
use crate::store::disk::Durability;
use crate::store::disk::tests::gated::until_all_is_read;

use Durability::{Async, Sync};

#[tokio::test]
async fn no_reader_sees_an_event_that_is_written_and_not_synced() {
    let stage = Stage::new(Sync);
    assert_eq!(stage.append("c", "first").await, Ok(()));
    let stage = stage.restart();
    let first = stage.first("c");
    stage.files.shut();
    let appended = stage.hub.submit(&name("c"), Append::of(&[event("second")], None)).unwrap();
    stage.files.until_a_sync_waits();
    let mut subscription = stage.subscribe("c", &StartFrom::Earliest).await;
    assert_eq!(stage.seen(&mut subscription), [format!("event {first}")]);
    assert!(appended.is_pending());
    stage.files.open_up();
    let second = appended.wait().await.unwrap().offsets.unwrap().0.0;
    assert_eq!(stage.seen(&mut subscription), [format!("event {second}")]);
}

#[tokio::test]
async fn a_body_ends_that_was_read_while_the_end_was_being_synced() {
    let stage = Stage::new(Sync);
    assert_eq!(stage.append("c", "first").await, Ok(()));
    let stage = stage.restart();
    stage.files.shut();
    let close = Close { state: ChannelState::Complete, reason: None };
    let second = [event("second")];
    let appended = stage.hub.submit(&name("c"), Append::of(&second, Some(&close))).unwrap();
    stage.files.until_a_sync_waits();
    let ticket = stage.open_one("c", &StartFrom::Earliest).await;
    let mut byte = ticket.position.byte;
    let mut read = || {
        let mut events = 0;
        let mut ends = false;
        for _ in 0..5 {
            match ticket.channel().read_at_byte(byte, 1 << 20, false) {
                ReadResult::Frames { batch, last, .. } => {
                    (byte, ends) = (batch.end.byte, last);
                    events += batch.events.count();
                }
                _ => until_all_is_read(&stage.disk),
            }
            if ends {
                break;
            }
        }
        (events, ends)
    };
    assert_eq!(read(), (1, false), "before the sync");
    stage.files.open_up();
    assert!(appended.wait().await.is_ok());
    assert_eq!(read(), (2, true), "a shard ends the body with the last piece");
}

#[tokio::test]
async fn a_snapshot_outlives_what_memory_has_of_the_events() {
    let stage = Stage::new(Async);
    let produced = stage.hub.produce(&name("c"), None, Hold::Sole, Some(Format::Text)).await;
    let producer = produced.unwrap();
    let text = "x".repeat(60_000);
    // Three times the window, and fewer events than the fold may lag.
    for _ in 0..63 {
        assert!(producer.append(Append::of(&[event(&text)], None)).await.is_ok());
    }
    let ticket = stage.open_one("c", &StartFrom::Snapshot).await;
    assert!(ticket.head.snapshot.is_some(), "no restart, and no snapshot");
}

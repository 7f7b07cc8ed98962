//! What a durable channel gives up, and when: nobody sweeps here.

use super::support::{Stage, name};
use crate::hub::ChannelOptions;
use crate::store::disk::Durability;

#[tokio::test]
async fn what_is_beyond_the_retention_goes_with_the_append_that_was_one_too_many() {
    let stage = Stage::new(Durability::Async);
    let options = ChannelOptions { max_events: Some(3), ..ChannelOptions::default() };
    let (_, _, mut stored) = stage.hub.configure(&name("c"), &options).unwrap();
    assert_eq!(stored.wait().await, Ok(()));
    for count in 1..=9 {
        assert_eq!(stage.append("c", "event").await, Ok(()));
        let kept = stage.hub.describe(&name("c")).unwrap().events;
        assert_eq!(kept, count.min(3), "after {count}");
    }
    let options = ChannelOptions { max_events: Some(1), ..options };
    let (description, _, mut stored) = stage.hub.configure(&name("c"), &options).unwrap();
    assert_eq!((description.events, stored.wait().await), (1, Ok(())));
}

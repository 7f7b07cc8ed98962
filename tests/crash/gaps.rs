//! The subscribers that get a gap after a kill, and those that do not.

use fanfare_testing::within;

use super::support::Hub;
use super::wire::{Event, Stream};

const RULES: &str = r#"
[[channels.rules]]
pattern = "durable/**"
durability = "sync"

[[channels.rules]]
pattern = "written/**"
durability = "async"

[[channels.rules]]
pattern = "memory/**"
durability = "memory"
"#;

const CHANNELS: [&str; 3] = ["durable/a", "written/a", "memory/a"];

async fn open(hub: &Hub, path: &str, after: Option<&str>) -> Stream {
    let opened = within(path, Stream::open(hub.addr(), path, after, None)).await;
    opened.expect("an answer").expect("a stream, and not its end")
}

async fn next(stream: &mut Stream) -> Event {
    let next = within("an event", stream.next()).await.expect("a stream that goes on");
    next.expect("a stream that has not ended")
}

/// A subscription that has its first id, and that id.
async fn settled(hub: &Hub, path: &str) -> String {
    let mut stream = open(hub, path, None).await;
    within("the first id", stream.settle()).await.expect("a stream");
    stream.last_id.expect("an id")
}

/// Reads up to the event that `is_last` accepts.
async fn until(stream: &mut Stream, is_last: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut events = vec![next(stream).await];
    while !events.last().is_some_and(&is_last) {
        events.push(next(stream).await);
    }
    events
}

#[tokio::test]
async fn channels_in_memory_get_a_gap_and_durable_ones_do_not() {
    let mut hub = Hub::start(RULES);
    let mut read = Vec::new();
    for channel in CHANNELS {
        // One has seen the first of two events, and one waits for the third.
        let first =
            hub.publish(channel, "one").await["last_id"].as_str().expect("an id").to_owned();
        hub.publish(channel, "two").await;
        read.push((first, settled(&hub, &format!("/v1/channels/{channel}")).await));
    }
    hub.restart();
    for (channel, (first, tail)) in CHANNELS.into_iter().zip(read) {
        let path = format!("/v1/channels/{channel}");
        let mut after = open(&hub, &path, Some(&first)).await;
        let mut waiting = open(&hub, &path, Some(&tail)).await;
        if channel.starts_with("memory") {
            next(&mut after).await.assert_gap("evicted", &first);
            next(&mut waiting).await.assert_gap("evicted", &tail);
        } else {
            let missed = next(&mut after).await;
            assert_eq!((missed.name.as_str(), missed.data.as_str()), ("", "two"), "{missed:?}");
        }
        hub.publish(channel, "three").await;
        for mut viewer in [after, waiting] {
            let live = next(&mut viewer).await;
            assert_eq!((live.name.as_str(), live.data.as_str()), ("", "three"), "{live:?}");
        }
    }
}

#[tokio::test]
async fn one_gap_is_sent_once_and_not_again_after_a_resume() {
    let mut hub = Hub::start(RULES);
    let id = hub.publish("memory/a", "one").await["last_id"].as_str().expect("an id").to_owned();
    hub.restart();
    let mut viewer = open(&hub, "/v1/channels/memory/a", Some(&id)).await;
    let gap = next(&mut viewer).await;
    gap.assert_gap("evicted", &id);
    drop(viewer);
    let mut viewer = open(&hub, "/v1/channels/memory/a", Some(&gap.id)).await;
    hub.publish("memory/a", "two").await;
    let live = next(&mut viewer).await;
    assert_eq!((live.name.as_str(), live.data.as_str()), ("", "two"), "{live:?}");
}

fn envelope(event: &Event) -> (String, String) {
    assert_eq!(event.name, "", "only events, and no gap: {event:?}");
    let json = event.json();
    let text = |key: &str| json[key].as_str().expect("text").to_owned();
    (text("channel"), text("data"))
}

#[tokio::test]
async fn many_durable_channels_on_one_connection_resume_without_a_gap() {
    const PATH: &str = "/v1/events?channel=durable/*&channel=written/**";
    let mut hub = Hub::start(RULES);
    let waiting = settled(&hub, PATH).await;
    let mut first = None;
    for number in 0..3 {
        // The hub's last id belongs to a channel that no subscriber here has selected.
        for channel in ["durable/a", "written/a", "durable/b", "memory/a"] {
            let receipt = hub.publish(channel, &number.to_string()).await;
            first.get_or_insert(receipt["last_id"].as_str().expect("an id").to_owned());
        }
    }
    let first = first.expect("an event");
    hub.restart();
    hub.publish("memory/a", "unheard").await;
    hub.publish("written/a", "last").await;
    let expected: Vec<_> = (0..3)
        .flat_map(|number| {
            ["durable/a", "written/a", "durable/b"].map(|channel| (channel, number.to_string()))
        })
        .chain([("written/a", "last".to_owned())])
        .map(|(channel, text)| (channel.to_owned(), text))
        .collect();
    let mut last = None;
    for (id, expected) in [(&waiting, &expected[..]), (&first, &expected[1..])] {
        let mut viewer = open(&hub, PATH, Some(id)).await;
        let seen = until(&mut viewer, |event| event.data.contains("\"last\"")).await;
        assert_eq!(seen.iter().map(envelope).collect::<Vec<_>>(), expected, "behind {id}");
        last = seen.last().map(|last| last.id.clone());
    }
    // A viewer that has seen everything gets only new events.
    let mut viewer = open(&hub, PATH, last.as_deref()).await;
    hub.publish("durable/b", "new").await;
    assert_eq!(envelope(&next(&mut viewer).await), ("durable/b".into(), "new".into()));
}

//! The model: random publishes, subscriptions, resumes, evictions and ends, over sockets.
//!
//! The oracle is the second promise: a contiguous run of events, or exactly one gap that says what
//! is missing. The test records every accepted event, and compares each event that a viewer gets
//! with that record.

use std::time::Duration;

use futures_util::future::{join, join_all};

use crate::support::{SseClient, SseEvent, TestHub, event_stream, offset};

/// The number of events that each channel retains in these tests.
const KEEPS: usize = 8;

/// A random source with a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(n).unwrap()).unwrap()
    }
}

/// Everything that was published to a channel.
struct Book {
    channel: String,
    events: Vec<(u64, String)>,
}

impl Book {
    /// Publishes this many events in one request.
    async fn publish(&mut self, hub: &TestHub, many: usize) {
        let begin = self.events.len();
        let data: Vec<String> = (begin..begin + many).map(|n| format!("event-{n}")).collect();
        let to = format!("/v1/channels/{}", self.channel);
        let receipt = hub.post(&to, "text/event-stream", event_stream(&data)).await.ok().json();
        let page = hub.page(&self.channel, &format!("from=last:{many}")).await;
        let ids = crate::support::page_ids(&page);
        assert_eq!(ids.len(), many, "one writer, and retention is wider than a request");
        assert_eq!(receipt["first_id"], ids[0]);
        assert_eq!(receipt["last_id"], ids[many - 1]);
        self.events.extend(ids.iter().map(|id| offset(id)).zip(data));
    }

    /// Returns the index of the first event after this offset.
    fn after(&self, place: u64) -> usize {
        self.events.partition_point(|(offset, _)| *offset <= place)
    }

    fn tail(&self) -> u64 {
        self.events.last().map_or(0, |(offset, _)| *offset)
    }
}

/// A subscriber and its position: overall, and in each of its channels.
struct Viewer {
    client: SseClient,
    which: Vec<usize>,
    last: String,
    cursors: Vec<u64>,
}

impl Viewer {
    /// Subscribes at the tail of some of the channels.
    async fn begin(hub: &TestHub, books: &[Book], which: Vec<usize>) -> Self {
        let client = hub.stream(&target(books, &which), &[]).await.settled().await;
        let last = client.last_id().expect("an id").to_owned();
        let cursors = vec![offset(&last); which.len()];
        Self { client, which, last, cursors }
    }

    /// Disconnects, and resumes after the last id it has seen.
    async fn resume(&mut self, hub: &TestHub, books: &[Book]) {
        let place = offset(&self.last);
        for (cursor, &book) in self.cursors.iter_mut().zip(&self.which) {
            let lost = books[book].after(place).saturating_sub(books[book].after(*cursor));
            assert_eq!(lost, 0, "an id was sent before events that are smaller");
            *cursor = place;
        }
        let headers = [("Last-Event-ID", self.last.as_str())];
        self.client = hub.stream(&target(books, &self.which), &headers).await;
    }

    /// Reads up to the tail of all its channels, and compares each event with the books.
    async fn read(&mut self, books: &[Book]) {
        while (0..self.which.len()).any(|at| self.cursors[at] < books[self.which[at]].tail()) {
            let event = self.client.next().await;
            assert!(offset(event.id()) >= offset(&self.last), "{event:?} behind {}", self.last);
            let (channel, data) = match event.event.as_deref() {
                Some("fanfare.gap") => (event.assert_gap("evicted")["channel"].clone(), None),
                None if self.which.len() > 1 => {
                    let envelope = event.json();
                    (envelope["channel"].clone(), Some(envelope["data"].clone()))
                }
                None => (books[self.which[0]].channel.as_str().into(), Some(event.data.into())),
                Some(_) => panic!("{event:?} was not published"),
            };
            self.last = event.id.expect("an id");
            let at = self.which.iter().position(|&book| books[book].channel == channel);
            let at = at.unwrap_or_else(|| panic!("{channel} was not asked for"));
            let book = &books[self.which[at]];
            let next = book.after(self.cursors[at]);
            self.cursors[at] = offset(&self.last);
            match data {
                Some(data) => {
                    let expected = &book.events[next];
                    assert_eq!(
                        (&expected.0, expected.1.as_str()),
                        (&self.cursors[at], data.as_str().unwrap())
                    );
                }
                None => {
                    let resumed = book.after(self.cursors[at]);
                    assert!(resumed > next, "a gap where nothing is missing");
                    assert!(resumed + KEEPS <= book.events.len(), "a gap over retained events");
                }
            }
        }
    }
}

fn target(books: &[Book], which: &[usize]) -> String {
    match which {
        [one] => format!("/v1/channels/{}", books[*one].channel),
        many => {
            let query: Vec<String> =
                many.iter().map(|&book| format!("channel={}", books[book].channel)).collect();
            format!("/v1/events?{}", query.join("&"))
        }
    }
}

/// Runs this many random steps.
async fn play(hub: &TestHub, seed: u64, steps: usize) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let name = |n: usize| Book { channel: format!("model/{seed}/{n}"), events: Vec::new() };
    let mut books: Vec<Book> = (0..3).map(name).collect();
    let mut viewers: Vec<Viewer> = Vec::new();
    for _ in 0..steps {
        match dice.below(8) {
            0 if viewers.len() < 6 => {
                let which = match dice.below(4) {
                    3 => vec![0, 1, 2],
                    one => vec![one],
                };
                viewers.push(Viewer::begin(hub, &books, which).await);
            }
            1 | 2 if !viewers.is_empty() => {
                let at = dice.below(viewers.len());
                viewers[at].resume(hub, &books).await;
            }
            3 if !viewers.is_empty() => {
                let at = dice.below(viewers.len());
                viewers[at].read(&books).await;
            }
            _ => {
                let at = dice.below(3);
                let many = 1 + dice.below(KEEPS);
                books[at].publish(hub, many).await;
            }
        }
    }
    for viewer in &mut viewers {
        viewer.resume(hub, &books).await;
        viewer.read(&books).await;
    }
}

/// Settings of a hub that keeps its channels in this folder.
fn durable(folder: &tempfile::TempDir, durability: &str) -> String {
    let path = folder.path().display();
    format!(
        "store.path = \"{path}\"\nstore.durability = \"{durability}\"\n\
         store.min_free = \"1MiB\"\n"
    )
}

#[tokio::test]
async fn every_viewer_of_durable_channels_sees_a_contiguous_run_or_exactly_one_gap() {
    for durability in ["sync", "async"] {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = durable(&folder, durability);
        let hub = TestHub::with(&format!("{settings}channels.max_events = {KEEPS}")).await;
        for seed in 1..=3 {
            play(&hub, seed, 40).await;
        }
    }
}

/// The number of channels on disk, and of events in each.
const ON_DISK: usize = 12;
const EVENTS: usize = 40;
const ALL: &str = "/v1/events?channel=k/*&channel=m/*";

async fn publish_numbered(hub: &TestHub, channel: &str) {
    for number in 0..EVENTS {
        hub.publish(channel, &number.to_string()).await;
    }
}

fn assert_ascending(seen: &[SseEvent], opening: &str) {
    let mut last = offset(opening);
    for event in seen {
        assert_eq!(event.event, None, "everything is retained, and yet {event:?}");
        assert!(offset(event.id()) > last, "{} behind {last}", event.id());
        last = offset(event.id());
    }
}

#[tokio::test]
async fn a_subscriber_that_comes_while_events_are_being_stored_can_resume_after_any_id() {
    for durability in ["sync", "async"] {
        let folder = tempfile::tempdir().expect("a folder");
        let rule = "[[channels.rules]]\npattern = \"m/*\"\ndurability = \"memory\"\n";
        let hub = TestHub::with(&format!("{}{rule}", durable(&folder, durability))).await;
        let names: Vec<String> = (0..ON_DISK).map(|n| format!("k/{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).chain(["m/0", "m/1"]).collect();
        let publishers = join_all(names.iter().map(|name| publish_numbered(&hub, name)));
        let viewers = async {
            let mut viewers = Vec::new();
            for _ in 0..30 {
                // A random moment; the assertions do not depend on it.
                tokio::time::sleep(Duration::from_micros(fastrand::u64(..3000))).await;
                viewers.push(hub.stream(ALL, &[]).await.settled().await);
            }
            viewers
        };
        let (_, mut viewers) = join(publishers, viewers).await;
        let last = hub.publish("m/0", "last").await;
        for viewer in &mut viewers {
            let opening = viewer.opening().expect("it begins at the tail").id().to_owned();
            let mut seen = vec![viewer.next().await];
            while seen.last().is_some_and(|event| event.id() != last) {
                seen.push(viewer.next().await);
            }
            assert_ascending(&seen, &opening);
            let ids = seen.iter().map(SseEvent::id);
            for (at, id) in std::iter::once(opening.as_str()).chain(ids).enumerate().take(6) {
                let mut resumed = hub.stream(ALL, &[("Last-Event-ID", id)]).await;
                let again = resumed.take(seen.len().saturating_sub(at)).await;
                assert_eq!(again, seen[at.min(seen.len())..], "{durability}: behind {id}");
            }
        }
    }
}

#[tokio::test]
async fn every_viewer_sees_a_contiguous_run_or_exactly_one_gap() {
    let hub = TestHub::with(&format!("channels.max_events = {KEEPS}")).await;
    for seed in 1..=25 {
        play(&hub, seed, 60).await;
    }
}

//! Files that are damaged while no hub runs: each reader reaches its end, however the files are
//! damaged. It gets each event at most once, in order, with one gap where events are missing, and
//! it gets no more bytes than there were.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use serde_json::Value;

use fanfare_testing::seen::{Seen, halves};
use fanfare_testing::{eventually, within};

use super::support::Hub;
use super::wire::{Client, Event, Request, Stream};

const SETTINGS: &str = r#"
store.durability = "async"
store.min_free = "1MiB"
store.window = "16KiB"
channels.max_events = 100000
"#;

const CHANNELS: [&str; 2] = ["a", "b"];

/// The number of stores that are damaged at random.
const SEEDS: u64 = 60;

/// The number of hubs that run at a time.
const HUBS: usize = 4;

/// Bytes of an event on the wire without its data, at most; and of the opening and a gap.
const FRAME: usize = 64;
const NOTICE: usize = 256;

/// The content of a directory before it was damaged.
struct Whole {
    folder: tempfile::TempDir,
    events: BTreeMap<&'static str, Vec<Seen>>,
}

impl Whole {
    /// A directory with sorted files, a journal and checkpoints.
    async fn new() -> Self {
        let mut hub = Hub::start(SETTINGS);
        for life in 0..3 {
            for batch in 0..if life < 2 { 16 } else { 3 } {
                for channel in CHANNELS {
                    let label = format!("{channel}-{life}-{batch}");
                    let body: String = (0..12)
                        .map(|number| format!("data: {label}-{number} {}\n\n", ".".repeat(1500)))
                        .collect();
                    let post = Request::new("POST", &format!("/v1/channels/{channel}"));
                    let post = post.header("Content-Type", "text/event-stream").text(&body);
                    hub.ask(&post).await.expect(200);
                }
            }
            if life < 2 {
                hub.stop().await;
                hub.start();
            }
        }
        let directory = hub.directory();
        eventually("two sorted files", async || {
            (files(&directory, ".seg").len() == 2).then_some(())
        })
        .await;
        let mut events = BTreeMap::new();
        for channel in CHANNELS {
            events.insert(channel, hub.read_all(channel).await);
        }
        hub.stop().await;
        let folder = tempfile::tempdir().expect("a folder");
        copy(&directory, folder.path());
        Self { folder, events }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a hub over a copy of the directory with this damage; reads everything and publishes
    /// more.
    async fn try_with(&self, damage: &Damage) {
        let mut hub = Hub::stopped(SETTINGS);
        fs::create_dir(hub.directory()).expect("a folder");
        copy(self.path(), &hub.directory());
        damage.apply(&hub.directory());
        hub.start();
        let mut readers = Vec::new();
        for channel in CHANNELS {
            for takeover in [true, false] {
                readers.push(
                    Reader::open(&hub, vec![channel], takeover, &format!("{damage:?}")).await,
                );
            }
        }
        readers.push(Reader::open(&hub, CHANNELS.to_vec(), false, &format!("{damage:?}")).await);
        let mut fresh = BTreeMap::new();
        for channel in CHANNELS {
            let receipt = hub.publish(channel, "fresh").await;
            fresh.insert(channel, receipt["last_id"].as_str().expect("an id").to_owned());
        }
        for mut reader in readers {
            reader.read_to_the_end(self).await;
            self.check(&reader.seen, &reader.channels, &fresh, &reader.what);
        }
        let what = format!("pages, {damage:?}");
        let seen = self.pages(&hub, CHANNELS[0], &what).await;
        self.check(&seen, &CHANNELS[..1], &fresh, &what);
    }

    /// Reads all pages of a channel, from the first on.
    async fn pages(&self, hub: &Hub, channel: &str, what: &str) -> Vec<Step> {
        let mut client = Client::new(hub.addr());
        let mut steps = Vec::<Step>::new();
        let mut from = "from=earliest".to_owned();
        loop {
            let path = format!("/v1/channels/{channel}?{from}&limit=50");
            let request = Request::new("GET", &path).header("Accept", "application/json");
            let page =
                within(what, client.send(&request)).await.expect("a page").expect(200).json();
            let events = page["events"].as_array().expect("events");
            if events.is_empty() {
                return steps;
            }
            steps.extend(events.iter().map(|event| Step::of(channel, &flat(event), what)));
            assert!(steps.len() <= 2 * self.events[channel].len(), "{what}: pages without end");
            from = format!("last_event_id={}", page["next"].as_str().expect("a next id"));
        }
    }

    /// Asserts that each event occurs at most once and in order, with one gap where some are
    /// missing, and no other gap.
    fn check(&self, steps: &[Step], channels: &[&str], fresh: &BTreeMap<&str, String>, what: &str) {
        let ids = steps.iter().map(|step| halves(&step.id).1);
        assert!(ids.is_sorted(), "{what}: ids go back: {steps:?}");
        for channel in channels {
            let stored = &self.events[channel];
            let last = Seen {
                id: fresh[channel].clone(),
                channel: (*channel).to_owned(),
                text: "fresh".to_owned(),
            };
            let mut all = stored.iter().chain([&last]).enumerate();
            let mut gaps = 0;
            let mut begun = false;
            let mut end = None;
            for step in steps.iter().filter(|step| step.channel == *channel) {
                let Some(text) = &step.text else {
                    gaps += 1;
                    continue;
                };
                let before = end.map_or(0, |end| end + 1);
                let found = all.find(|(_, event)| event.id == step.id);
                let (at, event) = found
                    .unwrap_or_else(|| panic!("{what}: {} comes again, or from nowhere", step.id));
                assert_eq!(&event.text, text, "{what}: {}", step.id);
                // Retention begins after a loss at the front, so one more gap is allowed there.
                let missing = usize::from(at > before);
                let right = gaps == missing || (!begun && gaps < 2);
                assert!(right, "{what}: {gaps} gaps before event {at}, behind {end:?}");
                (gaps, begun, end) = (0, true, Some(at));
            }
            assert_eq!((gaps, end), (0, Some(stored.len())), "{what}: the end of {channel}");
        }
    }
}

/// One element of a stream: an event, or a gap, which has no text.
#[derive(Debug)]
struct Step {
    channel: String,
    id: String,
    text: Option<String>,
}

impl Step {
    fn of(channel: &str, event: &Event, what: &str) -> Self {
        let own = event.name.starts_with("fanfare.");
        if own {
            assert_eq!(event.name, "fanfare.gap", "{what}: {event:?}");
            let gap = event.json();
            // The retained events begin after those that the channel lost at its front.
            assert!(
                ["lost", "evicted"].iter().any(|reason| gap["reason"] == *reason),
                "{what}: {gap}"
            );
        }
        let text = (!own).then(|| event.data.clone());
        Self { channel: channel.to_owned(), id: event.id.clone(), text }
    }
}

/// An event of a page.
fn flat(event: &Value) -> Event {
    let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
    Event { id: text("id"), name: text("event"), data: text("data") }
}

/// A subscription, over one channel or over many.
struct Reader {
    stream: Stream,
    channels: Vec<&'static str>,
    seen: Vec<Step>,
    what: String,
}

impl Reader {
    async fn open(hub: &Hub, channels: Vec<&'static str>, takeover: bool, damage: &str) -> Self {
        let path = match channels[..] {
            [channel] => format!("/v1/channels/{channel}?from=earliest"),
            _ => format!("/v1/events?channel={}&from=earliest", channels.join("&channel=")),
        };
        let mut request = Request::new("GET", &path);
        if !takeover {
            // A request with this header is not taken over, because its client may still wait for a
            // 100.
            request = request.header("Expect", "100-continue");
        }
        let what = format!("{path}, takeover {takeover}, {damage}");
        let stream = within(&what, Stream::ask(hub.addr(), request, None)).await;
        let stream = stream.expect("an answer").expect("a stream that goes on");
        Self { stream, channels, seen: Vec::new(), what }
    }

    /// Reads until the event that was published last, of each channel.
    async fn read_to_the_end(&mut self, whole: &Whole) {
        let mut most = NOTICE;
        for event in self.channels.iter().flat_map(|channel| &whole.events[channel]) {
            most += event.text.len() + FRAME;
        }
        let blocks = whole.events.len() * 12;
        most = 2 * most + blocks * NOTICE; // an envelope adds escapes and the channel's name
        let mut missing: BTreeSet<&str> = self.channels.iter().copied().collect();
        while !missing.is_empty() {
            let next = within(&self.what, self.stream.next()).await.expect("a stream that goes on");
            let event = next.expect("a stream that has not ended");
            assert!(self.stream.received <= most, "{}: more than {most} bytes", self.what);
            let step = self.step(&event);
            if step.text.as_deref() == Some("fresh") {
                missing.remove(step.channel.as_str());
            }
            self.seen.push(step);
        }
    }

    fn step(&self, event: &Event) -> Step {
        if let [channel] = self.channels[..] {
            return Step::of(channel, event, &self.what);
        }
        let envelope = event.json();
        let channel = envelope["channel"].as_str().expect("a channel");
        let mut inner = event.clone();
        if event.name.is_empty() {
            inner = flat(&envelope);
            inner.id.clone_from(&event.id);
        }
        Step::of(channel, &inner, &self.what)
    }
}

/// The damage to the files of a directory.
#[derive(Clone, Debug)]
enum Damage {
    /// One byte of each of these blocks.
    Blocks(PathBuf, Vec<Range<usize>>),
    /// The journal ends at `at`, and the checkpoint is deleted, or a copy of another.
    End { journal: PathBuf, at: usize, catalog: PathBuf, copied: Option<PathBuf> },
    /// Damage chosen by this seed.
    Random(u64, Vec<PathBuf>),
}

impl Damage {
    fn apply(&self, directory: &Path) {
        match self {
            Self::Blocks(file, blocks) => edit(&directory.join(file), |bytes| {
                for block in blocks {
                    bytes[block.start + 200] ^= 0xff;
                }
            }),
            Self::End { journal, at, catalog, copied } => {
                edit(&directory.join(journal), |bytes| bytes.truncate(*at));
                let catalog = directory.join(catalog);
                match copied {
                    Some(other) => drop(fs::copy(directory.join(other), catalog).expect("a copy")),
                    None => fs::remove_file(catalog).expect("removed"),
                }
            }
            Self::Random(seed, files) => {
                let mut rng = Rng::with_seed(*seed);
                for _ in 0..rng.u8(1..4) {
                    something(directory, files, &mut rng);
                }
            }
        }
    }
}

/// Returns random damage at a random place.
fn something(directory: &Path, files: &[PathBuf], rng: &mut Rng) {
    let path = directory.join(&files[rng.usize(..files.len())]);
    let other = directory.join(&files[rng.usize(..files.len())]);
    let (Ok(mine), Ok(others)) = (fs::read(&path), fs::read(&other)) else { return };
    let from = rng.usize(..=mine.len());
    let to = mine.len().min(from + rng.usize(..6000));
    match rng.u8(..9) {
        0 => edit(&path, |bytes| bytes.iter_mut().skip(from).take(1).for_each(|byte| *byte ^= 4)),
        1 => edit(&path, |bytes| bytes[from..to].fill(0)),
        2 => edit(&path, |bytes| bytes[from..to].fill_with(|| rng.u8(..))),
        3 => edit(&path, |bytes| bytes.truncate(from)),
        4 => edit(&path, Vec::clear),
        5 => fs::remove_file(&path).expect("removed"),
        6 => fs::write(&path, others).expect("written"),
        7 => {
            fs::write(&path, others).expect("written");
            fs::write(&other, mine).expect("written");
        }
        _ => {
            // A copy of it, as an earlier file of the store.
            let copy = directory.join(format!("{:016}", rng.u64(0..3)));
            let ending = path.extension().expect("an ending");
            fs::write(copy.with_extension(ending), mine).expect("written");
        }
    }
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("a file");
    change(&mut bytes);
    fs::write(path, bytes).expect("written");
}

/// Returns the names of the files with this ending.
fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> =
        names.filter(|name| name.to_string_lossy().ends_with(ending)).map(PathBuf::from).collect();
    names.sort();
    names
}

fn copy(from: &Path, to: &Path) {
    for name in files(from, "") {
        fs::copy(from.join(&name), to.join(&name)).expect("a copy");
    }
}

/// Returns the ranges of the blocks of events: each begins with four bytes that no event has.
fn blocks(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut starts: Vec<usize> =
        (0..bytes.len()).filter(|at| bytes[*at..].starts_with(&[0xff, b'F', b'B', 0xfe])).collect();
    starts.push(bytes.len());
    let ranges = starts.windows(2).map(|pair| pair[0]..pair[1]);
    ranges.filter(|block| bytes[block.start + 4] == 1).collect()
}

/// Tries all of these, a few at a time.
async fn try_all(whole: Whole, damages: Vec<Damage>) {
    let whole = Arc::new(whole);
    let mut damages = damages.into_iter();
    let mut running = tokio::task::JoinSet::new();
    loop {
        while let Some(damage) = (running.len() < HUBS).then(|| damages.next()).flatten() {
            let whole = Arc::clone(&whole);
            running.spawn(async move { whole.try_with(&damage).await });
        }
        match running.join_next().await {
            Some(Ok(())) => {}
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            None => return,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_damaged_blocks_side_by_side_are_one_gap_over_each_kind_of_connection() {
    let whole = Whole::new().await;
    let mut damages = Vec::new();
    for file in [files(whole.path(), ".seg"), files(whole.path(), ".log")].concat() {
        let blocks = blocks(&fs::read(whole.path().join(&file)).expect("a file"));
        let pairs = blocks.windows(2).map(|pair| Damage::Blocks(file.clone(), pair.to_vec()));
        damages.extend(pairs);
    }
    assert!(damages.len() >= 30, "{damages:?}");
    try_all(whole, damages).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_end_that_is_cut_off_is_noticed_also_without_the_newest_checkpoint() {
    let whole = Whole::new().await;
    let journal = files(whole.path(), ".log").pop().expect("a journal");
    let mut catalogs = files(whole.path(), ".cat");
    let catalog = catalogs.pop().expect("a catalog");
    let blocks = blocks(&fs::read(whole.path().join(&journal)).expect("a file"));
    let mut damages = Vec::new();
    // Each channel loses events.
    for block in &blocks[..blocks.len() - CHANNELS.len()] {
        for copied in [None, catalogs.last().cloned()] {
            let journal = journal.clone();
            let catalog = catalog.clone();
            damages.push(Damage::End { journal, at: block.end - 1, catalog, copied });
        }
    }
    assert!(damages.len() > 5, "{damages:?}");
    try_all(whole, damages).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_is_damaged_each_connection_has_each_event_at_most_once() {
    let whole = Whole::new().await;
    let names = |ending| files(whole.path(), ending);
    let journals = names(".log");
    let catalogs = names(".cat");
    let damages = (0..SEEDS).map(|seed| {
        let mut names = [names(".seg"), journals.clone(), catalogs.clone()].concat();
        // The end of a channel is in the last journal and in the last checkpoint: one of them is
        // kept.
        let stays = if seed % 2 == 0 { journals.last() } else { catalogs.last() };
        names.retain(|name| Some(name) != stays);
        Damage::Random(seed, names)
    });
    let damages = damages.collect();
    try_all(whole, damages).await;
}

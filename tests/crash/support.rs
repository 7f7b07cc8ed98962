//! A hub that is killed and restarted over one directory, and what its readers see.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use fanfare_testing::{HubProcess, within};
use serde_json::Value;
use tempfile::TempDir;

use super::wire::{Answer, Client, Request};

/// Tests that need the machine for themselves take turns.
pub(crate) static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A hub with a directory. Both are gone when it is dropped; a kill takes the process alone.
pub(crate) struct Hub {
    process: HubProcess,
    folder: TempDir,
}

impl Hub {
    /// A hub with a new directory and these settings, as TOML with dotted keys.
    pub(crate) fn start(settings: &str) -> Self {
        let mut hub = Self::stopped(settings);
        hub.process.start();
        hub
    }

    /// A hub whose process is not started yet, so that its directory can be filled before.
    pub(crate) fn stopped(settings: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("fanfare.toml"), settings).expect("a file");
        Self { process: process(&folder), folder }
    }

    /// Returns another process over the same directory, at other addresses.
    pub(crate) fn second(&self) -> HubProcess {
        process(&self.folder)
    }

    /// Starts the process and kills it after this time.
    pub(crate) async fn start_and_kill(&mut self, after: Duration) {
        self.process.spawn();
        tokio::time::sleep(after).await;
        self.process.kill();
    }

    /// The directory of the store.
    pub(crate) fn directory(&self) -> PathBuf {
        directory(&self.folder)
    }

    /// Sends one request on its own connection.
    pub(crate) async fn ask(&self, request: &Request) -> Answer {
        let mut client = Client::new(self.addr());
        match within(request.line(), client.send(request)).await {
            Ok(answer) => answer,
            Err(error) => panic!("no answer to {}: {error}", request.line()),
        }
    }

    /// Publishes this body, and expects a receipt.
    pub(crate) async fn publish(&self, channel: &str, text: &str) -> Value {
        let request = Request::new("POST", &format!("/v1/channels/{channel}")).text(text);
        self.ask(&request).await.expect(200).json()
    }

    pub(crate) async fn head(&self, channel: &str) -> Answer {
        self.ask(&Request::new("HEAD", &format!("/v1/channels/{channel}"))).await
    }

    /// Reads all retained events of an open channel that has no publisher at the moment.
    pub(crate) async fn read_all(&self, channel: &str) -> Vec<Seen> {
        let log = self.read(channel, None).await;
        let head = self.head(channel).await.expect(200);
        let count = log.len().to_string();
        let count_by_head = head.header("fanfare-events");
        assert_eq!(
            count_by_head,
            Some(count.as_str()),
            "`{channel}`: events by HEAD, and in its pages"
        );
        log
    }

    /// Reads the retained events of an open channel after this id, or from the first event on.
    pub(crate) async fn read(&self, channel: &str, after: Option<&str>) -> Vec<Seen> {
        let mut client = Client::new(self.addr());
        let mut seen = Vec::<Seen>::new();
        loop {
            let last = seen.last().map(|last| last.id.as_str()).or(after);
            let from = last.map_or("from=earliest".to_owned(), |id| format!("last_event_id={id}"));
            let path = format!("/v1/channels/{channel}?{from}&limit=1000");
            let request = Request::new("GET", &path).header("Accept", "application/json");
            let answer = within("a page", client.send(&request)).await.expect("a page");
            let page = answer.expect(200).json();
            let events = page["events"].as_array().expect("events");
            if events.is_empty() {
                return seen;
            }
            for event in events {
                let own = event["event"].as_str().is_some_and(|name| name.starts_with("fanfare."));
                assert!(!own, "the log of `{channel}` has {event}");
                let text = |key: &str| event[key].as_str().expect("text").to_owned();
                seen.push(Seen { id: text("id"), channel: channel.into(), text: text("data") });
            }
        }
    }
}

impl Deref for Hub {
    type Target = HubProcess;

    fn deref(&self) -> &HubProcess {
        &self.process
    }
}

impl DerefMut for Hub {
    fn deref_mut(&mut self) -> &mut HubProcess {
        &mut self.process
    }
}

fn process(folder: &TempDir) -> HubProcess {
    let mut program = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    program.current_dir(folder.path()).env("FANFARE_STORE__PATH", directory(folder));
    program.stdin(Stdio::null());
    HubProcess::new(program)
}

fn directory(folder: &TempDir) -> PathBuf {
    folder.path().join("store")
}

/// An event as a reader receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: String,
    pub(crate) channel: String,
    pub(crate) text: String,
}

/// Splits an id, which is opaque to clients, into its epoch and its offset.
pub(crate) fn halves(id: &str) -> (&str, u64) {
    let (epoch, offset) = id.rsplit_once('-').unwrap_or_else(|| panic!("no id: {id:?}"));
    (epoch, offset.parse().unwrap_or_else(|_| panic!("no id: {id:?}")))
}

/// Asserts that all ids are of one epoch, which is returned, and that they increase.
pub(crate) fn assert_ids_grow(seen: &[Seen]) -> Option<&str> {
    for pair in seen.windows(2) {
        let first = halves(&pair[0].id);
        let second = halves(&pair[1].id);
        assert_eq!(first.0, second.0, "the epoch changed: {pair:?}");
        assert!(first.1 < second.1, "ids do not grow: {pair:?}");
    }
    seen.first().map(|first| halves(&first.id).0)
}

/// Asserts that both have the same events, and prints the first difference.
pub(crate) fn assert_same(what: &str, seen: &[Seen], log: &[Seen]) {
    let parting = seen.iter().zip(log).position(|(seen, logged)| seen != logged);
    if let Some(at) = parting {
        let from = at.saturating_sub(2);
        let seen = &seen[from..seen.len().min(at + 3)];
        let log = &log[from..log.len().min(at + 3)];
        panic!("{what} parts from the log at event {at}:\nseen: {seen:#?}\nlog: {log:#?}");
    }
    let last = seen.last().or(log.last());
    assert_eq!(
        seen.len(),
        log.len(),
        "{what}: events seen and events in the log; both to {last:?}"
    );
}

/// Returns the random source of a test, and prints how to repeat it.
pub(crate) fn chance() -> fastrand::Rng {
    let seed = number("FANFARE_CRASH_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("FANFARE_CRASH_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Returns the number of rounds.
pub(crate) fn rounds(usual: u64) -> u64 {
    number("FANFARE_CRASH_ROUNDS").unwrap_or(usual)
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var_os(name)?;
    let number = text.to_str().and_then(|text| text.parse().ok());
    Some(number.unwrap_or_else(|| panic!("{name} is not a number: {text:?}")))
}

/// Returns a random duration below this many milliseconds.
pub(crate) fn moment(rng: &mut fastrand::Rng, milliseconds: u64) -> Duration {
    Duration::from_micros(rng.u64(0..=milliseconds * 1000))
}

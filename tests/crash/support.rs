//! A hub that is killed and restarted over one directory, and what its readers see.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use fanfare_testing::seen::{self, Seen};
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
        let (seen, end) = seen::read(self.addr(), channel, after).await;
        assert_eq!(end, None, "`{channel}` is open");
        seen
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

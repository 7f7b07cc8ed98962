//! The hub as a process that is killed and restarted over one directory, and waits with a time
//! limit.

use std::future::Future;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;

use super::wire::{Answer, Client, Request};

/// The program under test.
const FANFARE: &str = env!("CARGO_BIN_EXE_fanfare");

/// The time limit of any wait, generous for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The kept bytes of the hub's log, which are printed when a test fails.
const LOG: usize = 4 << 10;

/// Tests that need the machine for themselves take turns.
pub(crate) static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A hub with a directory. Both are gone when it is dropped; a kill takes the process alone.
pub(crate) struct Hub {
    folder: TempDir,
    addr: SocketAddr,
    admin: SocketAddr,
    child: Option<Child>,
    log: Arc<Mutex<String>>,
}

impl Hub {
    /// A hub with a new directory and these settings, as TOML with dotted keys.
    pub(crate) fn start(settings: &str) -> Self {
        let mut hub = Self::stopped(settings);
        hub.start_again();
        hub
    }

    /// A hub whose process is not started yet, so that its directory can be filled before.
    pub(crate) fn stopped(settings: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("hub.toml"), settings).expect("a file");
        let addr = free_address();
        let admin = free_address();
        Self { folder, addr, admin, child: None, log: Arc::default() }
    }

    /// Starts the process at the same addresses, and waits until it listens.
    pub(crate) fn start_again(&mut self) {
        assert!(self.child.is_none(), "the hub runs");
        let mut program = self.program(self.addr, self.admin);
        let mut child = program.stderr(Stdio::piped()).spawn().expect("the hub starts");
        let lines = BufReader::new(child.stderr.take().expect("a log")).lines();
        self.child = Some(child);
        let (sender, receiver) = mpsc::channel();
        let log = Arc::clone(&self.log);
        // A process that writes to a full pipe would block.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let listens = line.contains("listening");
                if listens {
                    let _ = sender.send(());
                }
                // Hundreds of starts log the same lines.
                if !line.contains(" INFO ") {
                    keep(&log, &line);
                }
            }
        });
        match receiver.recv_timeout(PATIENCE) {
            Ok(()) => {}
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("the hub does not come to listen"),
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                panic!("the hub ended at its start:\n{}", self.log.lock())
            }
        }
    }

    /// Kills the process without a warning.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("a process");
        child.kill().expect("killed");
        child.wait().expect("the end");
    }

    /// Asks the process to end, and waits until it has.
    pub(crate) fn stop(&mut self) {
        let mut child = self.child.take().expect("a process");
        let pid = child.id().to_string();
        let asked = Command::new("kill").args(["-s", "TERM", &pid]).status().expect("kill");
        assert!(asked.success(), "the signal was not sent");
        assert!(child.wait().expect("the end").success(), "the hub ended with an error");
    }

    /// Kills the process, and starts the next over the same directory.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Starts the process and kills it after this time.
    pub(crate) async fn start_and_kill(&self, after: Duration) {
        let mut program = self.program(self.addr, self.admin);
        let mut child = program.stderr(Stdio::null()).spawn().expect("the hub starts");
        tokio::time::sleep(after).await;
        child.kill().expect("killed");
        child.wait().expect("the end");
    }

    /// Returns the command of another process with the same settings at other addresses.
    pub(crate) fn second(&self) -> Command {
        self.program(free_address(), free_address())
    }

    fn program(&self, addr: SocketAddr, admin: SocketAddr) -> Command {
        let mut program = Command::new(FANFARE);
        let settings = std::env::vars_os().map(|(name, _)| name);
        for name in settings.filter(|name| name.to_string_lossy().starts_with("FANFARE_")) {
            program.env_remove(name);
        }
        program
            .args(["serve", "--listen", &addr.to_string(), "--admin-listen", &admin.to_string()])
            .arg("--config")
            .arg(self.folder.path().join("hub.toml"))
            .env("FANFARE_STORE__PATH", self.directory())
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        program
    }

    /// The directory of the store.
    pub(crate) fn directory(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns whether the process still runs.
    pub(crate) fn lives(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("a status").is_none())
    }

    /// Returns the resident memory of the process, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let pid = self.child.as_ref().expect("a process").id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kibibytes = line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
        kibibytes << 10
    }

    /// Sends one request on its own connection.
    pub(crate) async fn ask(&self, request: &Request) -> Answer {
        let mut client = Client::new(self.addr);
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
        let mut client = Client::new(self.addr);
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

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the end of what the hub warned of:\n{}", self.log.lock());
        }
    }
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

/// Waits for a future, with a time limit.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

/// Polls until there is a value.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
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

/// Adds a line, and drops the oldest beyond the limit.
fn keep(log: &Mutex<String>, line: &str) {
    let mut log = log.lock();
    log.push_str(line);
    log.push('\n');
    if log.len() > 2 * LOG {
        let from = log.ceil_char_boundary(log.len() - LOG);
        log.drain(..from);
    }
}

/// Returns a free address of this machine. It must still be free when the hub restarts, so it is
/// outside the range that the kernel uses for outgoing connections; and each process that runs
/// these tests begins at another port.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = (std::process::id() % 200) as u16 * 64;
    loop {
        let port = 10_000 + begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().expect("its address");
        }
    }
}

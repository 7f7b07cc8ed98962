//! The output of a real program, piped in while it runs: a compiler's build.
//!
//! Ten subscribers connect before it begins; half of them are killed in turn and resumed by id. All
//! must receive exactly what the program wrote.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use fanfare_testing::{HubProcess, until, within};

use super::support::{FANFARE, start_hub};

const CHANNEL: &str = "logs/build";
const SUBSCRIBERS: usize = 10;

/// The subscribers that are killed: the first ones.
const KILLED: usize = SUBSCRIBERS / 2;

/// A subscriber process, whose output is written to a file that outlives it.
struct Subscriber {
    url: String,
    output: PathBuf,
    child: Child,
    was_killed: bool,
}

impl Subscriber {
    fn start(hub: &HubProcess, output: PathBuf) -> Self {
        let child = spawn(&hub.url(), &output, &["--from", "earliest"]);
        Self { url: hub.url(), output, child, was_killed: false }
    }

    /// Kills the process, and starts another after its last complete line.
    fn kill_and_resume(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("the end");
        self.was_killed = true;
        let text = fs::read_to_string(&self.output).expect("the output");
        // A line that the kill cut in two was not received.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        fs::write(&self.output, whole).expect("the output");
        let last = whole.lines().last().map(|line| parse(line)["id"].as_str().unwrap().to_owned());
        self.child = match &last {
            Some(id) => spawn(&self.url, &self.output, &["--last-event-id", id]),
            None => spawn(&self.url, &self.output, &["--from", "earliest"]),
        };
    }

    /// Returns the received events, with ids, when the channel has ended.
    async fn finish(mut self) -> Vec<Value> {
        let ended = within("a subscriber to see the end", async {
            loop {
                if let Some(status) = self.child.try_wait().expect("status") {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(ended.await.success(), "a subscriber did not see the channel complete");
        let text = fs::read_to_string(&self.output).expect("the output");
        text.lines().map(parse).collect()
    }
}

fn spawn(url: &str, output: &Path, from: &[&str]) -> Child {
    let file = fs::OpenOptions::new().create(true).append(true).open(output).expect("a file");
    Command::new(FANFARE)
        .args(["subscribe", CHANNEL, "--json", "--quiet", "--url", url])
        .args(from)
        .stdout(file)
        .stderr(Stdio::null())
        .spawn()
        .expect("a subscriber")
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
}

/// Builds a library and its dependencies from scratch with full output, which is kept in `log`: one
/// of the hub's that takes long enough, and not minutes.
fn publish_build(hub: &HubProcess, target: &Path, log: &Path) -> Child {
    let script = format!(
        "cargo check -vv -p hyper-util --lib --locked --offline 2>&1 | tee '{}' | \
         '{FANFARE}' publish {CHANNEL} --close complete --url {}",
        log.display(),
        hub.url()
    );
    Command::new("sh")
        .args(["-c", &script])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_TERM_COLOR", "never")
        .stdout(Stdio::null())
        .spawn()
        .expect("a build")
}

#[tokio::test]
async fn a_build_arrives_whole_at_ten_subscribers_half_of_them_killed_and_resumed() {
    let folder = tempfile::tempdir().expect("a folder");
    let hub = start_hub(&[]);
    let output = |n| folder.path().join(format!("subscriber-{n}"));
    let mut subscribers: Vec<_> =
        (0..SUBSCRIBERS).map(|n| Subscriber::start(&hub, output(n))).collect();
    until("all subscribers", || {
        (hub.gauge("fanfare_subscriptions") == SUBSCRIBERS as u64).then_some(())
    });

    let log = folder.path().join("build.log");
    let mut build = publish_build(&hub, &folder.path().join("target"), &log);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(600);
    let mut victims = (0..KILLED).cycle();
    while build.try_wait().expect("status").is_none() {
        assert!(tokio::time::Instant::now() < deadline, "the build does not end");
        // Each one has time to receive some lines before it is killed again.
        tokio::time::sleep(Duration::from_millis(900)).await;
        subscribers[victims.next().expect("a cycle")].kill_and_resume();
    }
    // After a short build, some resume when the channel has ended.
    for left in subscribers[..KILLED].iter_mut().filter(|subscriber| !subscriber.was_killed) {
        left.kill_and_resume();
    }

    let written = fs::read_to_string(&log).expect("the log");
    let written: Vec<_> = written.lines().collect();
    assert!(written.len() > 50, "the build said too little: {written:?}");
    for subscriber in subscribers {
        let received = subscriber.finish().await;
        let published = received.iter().filter(|event| event["event"].is_null());
        let lines: Vec<_> = published.map(|event| event["data"].as_str().unwrap()).collect();
        assert_eq!(lines, written);
    }
}

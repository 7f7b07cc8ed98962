//! The output of a real program, piped in while it runs: a compiler's build.
//!
//! Ten subscribers connect at different times; half of them are killed at random and resumed by id.
//! All must receive exactly what the program wrote.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use fanfare_testing::{HubProcess, within};

use super::support::{FANFARE, start_hub};

const CHANNEL: &str = "logs/build";
const SUBSCRIBERS: usize = 10;

/// A subscriber process, whose output is written to a file that outlives it.
struct Subscriber {
    url: String,
    output: PathBuf,
    child: Child,
    times_killed: usize,
}

impl Subscriber {
    fn start(hub: &HubProcess, output: PathBuf) -> Self {
        let child = spawn(&hub.url(), &output, &["--from", "earliest"]);
        Self { url: hub.url(), output, child, times_killed: 0 }
    }

    /// Kills the process, and starts another after its last complete line.
    fn kill_and_resume(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("the end");
        self.times_killed += 1;
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
    let log = folder.path().join("build.log");
    let mut build = publish_build(&hub, &folder.path().join("target"), &log);

    let mut subscribers = Vec::new();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(600);
    while build.try_wait().expect("status").is_none() {
        assert!(tokio::time::Instant::now() < deadline, "the build does not end");
        if subscribers.len() < SUBSCRIBERS {
            let output = folder.path().join(format!("subscriber-{}", subscribers.len()));
            subscribers.push(Subscriber::start(&hub, output));
        }
        let victim = fastrand_below(subscribers.len() * 3);
        if victim < subscribers.len() / 2 {
            subscribers[victim].kill_and_resume();
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let written = fs::read_to_string(&log).expect("the log");
    let written: Vec<_> = written.lines().collect();
    assert!(written.len() > 50, "the build said too little: {written:?}");
    assert_eq!(subscribers.len(), SUBSCRIBERS, "the build was too short");
    assert!(subscribers.iter().any(|subscriber| subscriber.times_killed > 0));
    for subscriber in subscribers {
        let received = subscriber.finish().await;
        let published = received.iter().filter(|event| event["event"].is_null());
        let lines: Vec<_> = published.map(|event| event["data"].as_str().unwrap()).collect();
        assert_eq!(lines, written);
    }
}

/// A number below `end`, from the clock, so that kills vary between runs.
fn fastrand_below(end: usize) -> usize {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.subsec_nanos() as usize / 7) % end.max(1)
}

//! The configuration of servers in `deploy/cluster/nats.conf`, and the permissions in it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, HeaderMap};
use fanfare_cluster::log::{LogWriter, Sequence};
use fanfare_cluster::nats::{Config, Credentials, Feed};
use fanfare_testing::{Process, free_address};
use futures_util::StreamExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep, timeout};

use crate::hub::{Hub, PATIENCE, assert_equal, config};
use crate::refusals::replicated;

const FILE: &str = "../../deploy/cluster/nats.conf";
const SERVER: &str = "tests/nats/.venv/bin/nats-server";

/// Three servers with the deployed configuration, in which only addresses and paths are replaced.
struct Deployed {
    ports: Vec<u16>,
    _processes: Vec<Process>,
    _folder: TempDir,
}

impl Deployed {
    fn start() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(here.join(FILE)).expect("the file");
        let folder = TempDir::new().expect("a folder");
        let ports: Vec<u16> = (0..6).map(|_| free_address().port()).collect();
        let (clients, routes) = ports.split_at(3);
        let mut processes: Vec<_> = (0..3)
            .map(|at| {
                let data = folder.path().join(at.to_string());
                let mut replacements = vec![
                    ("0.0.0.0:4222".to_owned(), format!("127.0.0.1:{}", clients[at])),
                    ("0.0.0.0:6222".to_owned(), format!("127.0.0.1:{}", routes[at])),
                    (":8222".to_owned(), format!(":{}", free_address().port())),
                    ("/data".to_owned(), data.display().to_string()),
                ];
                for (at, route) in routes.iter().enumerate() {
                    let route = format!("nats://127.0.0.1:{route}");
                    replacements.push((format!("nats://nats-{}:6222", at + 1), route));
                }
                let text = replacements.iter().fold(text.clone(), |text, (from, to)| {
                    assert_eq!(text.matches(from.as_str()).count(), 1, "{from}");
                    text.replace(from, to)
                });
                let file = folder.path().join(format!("{at}.conf"));
                std::fs::write(&file, text).expect("a file");
                let mut command = Command::new("setpriv");
                command.args(["--pdeathsig", "KILL"]).arg(here.join(SERVER)).arg("-c").arg(file);
                command.env("SERVER_NAME", format!("n{}", at + 1));
                command.env("HUB_PASSWORD", "secret");
                command.stdin(Stdio::null()).stdout(Stdio::null());
                Process::new(command, "Server is ready")
            })
            .collect();
        processes.iter_mut().for_each(Process::start);
        Self { ports: clients.to_vec(), _processes: processes, _folder: folder }
    }

    fn urls(&self) -> Vec<String> {
        self.ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect()
    }

    fn hub(&self, feed: Feed) -> Hub {
        let (user, password) = ("hub".to_owned(), "secret".to_owned());
        let credentials = Credentials::Password { user, password };
        let name = "main".to_owned();
        let config = Config { feed, credentials, name, ..config(&self.urls()) };
        Hub::start(replicated(config)).opened()
    }
}

/// A client that has the password of a hub.
struct Intruder {
    runtime: Runtime,
    client: Client,
    errors: Arc<Mutex<Vec<String>>>,
}

impl Intruder {
    fn connect(url: &str) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let errors: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&errors);
        let options = ConnectOptions::with_user_and_password("hub".into(), "secret".into())
            .event_callback(move |event| {
                if let Event::ServerError(error) = event {
                    heard.lock().push(error.to_string());
                }
                std::future::ready(())
            });
        let client = runtime.block_on(options.connect(url)).expect("a connection");
        Self { runtime, client, errors }
    }

    fn wait_for_error(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.errors.lock().iter().any(|error| error.contains(text)) {
            assert!(Instant::now() < deadline, "no `{text}`: {:?}", self.errors.lock());
            self.runtime.block_on(async { sleep(Duration::from_millis(20)).await });
        }
    }

    fn assert_refused(&self, subject: &'static str) {
        self.runtime.block_on(self.client.publish(subject, "{}".into())).expect("a connection");
        self.wait_for_error(&format!("Permissions Violation for Publish to \"{subject}\""));
    }

    fn assert_deaf(&self, subject: &'static str) {
        let _subscription =
            self.runtime.block_on(self.client.subscribe(subject)).expect("a connection");
        self.wait_for_error(&format!("Permissions Violation for Subscription to \"{subject}\""));
    }

    /// Stores a message that has the headers of another one, and lets a consumer deliver it to the
    /// subject of the tail.
    fn forge(&self, last: Sequence) {
        self.runtime.block_on(async {
            let mut tail = self.client.subscribe("fanfare.main.tail").await.expect("permitted");
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Sequence", (last.0 + 2).to_string().as_str());
            headers.insert("Nats-Time-Stamp", "2030-01-01T00:00:00Z");
            let stored = self.client.publish_with_headers(
                "fanfare.main.log",
                headers,
                "a forged message".into(),
            );
            stored.await.expect("permitted");
            let create = json!({ "stream_name": "FANFARE_main", "config": {
                "name": "x", "deliver_subject": "fanfare.main.tail", "ack_policy": "none",
                "deliver_policy": "last", "replay_policy": "instant",
            } });
            let create = serde_json::to_vec(&create).expect("JSON").into();
            let create = self.client.request("$JS.API.CONSUMER.CREATE.FANFARE_main.x", create);
            let answer: Value =
                serde_json::from_slice(&create.await.expect("an answer").payload).expect("JSON");
            assert!(answer.get("error").is_none(), "{answer}");
            let forged = async {
                while let Some(message) = tail.next().await {
                    if message.subject.as_str() != "fanfare.main.tail" {
                        return;
                    }
                }
            };
            timeout(PATIENCE, forged).await.expect("a message of the consumer");
        });
    }
}

#[test]
fn hubs_work_with_the_permissions_of_the_deployed_file() {
    let deployed = Deployed::start();
    let hub = deployed.hub(Feed::Tail);
    let mut other = deployed.hub(Feed::Consumer);
    other.load(300, 100, 4);
    let late = deployed.hub(Feed::Tail);
    other.load(300, 100, 4);
    assert_equal(&[&hub, &late, &other], other.log.health().read);
    hub.log.broadcast("a broadcast".into());
    for hub in [&late, &other] {
        hub.wait("broadcast", |recorded| !recorded.broadcasts.is_empty());
    }
    for health in [hub.log.health(), late.log.health(), other.log.health()] {
        assert_eq!((health.problem, health.broadcast_problem), (None, None));
    }
}

#[test]
fn the_password_of_a_hub_is_not_enough_to_write_the_tail() {
    let deployed = Deployed::start();
    let hub = deployed.hub(Feed::Tail);
    let mut other = deployed.hub(Feed::Tail);
    other.load(10, 100, 1);
    let intruder = Intruder::connect(&deployed.urls()[0]);
    intruder.assert_refused("fanfare.main.tail");
    for operation in ["UPDATE", "DELETE", "PURGE", "MSG.DELETE"] {
        let subject = format!("$JS.API.STREAM.{operation}.FANFARE_main");
        intruder.assert_refused(String::leak(subject));
    }
    intruder.assert_refused("$JS.API.STREAM.CREATE.OTHER");
    intruder.assert_refused("fanfare.other.log");
    intruder.assert_deaf("fanfare.main.log");
    intruder.assert_deaf(">");
    let last = other.log.health().read;
    intruder.forge(last);
    for hub in [&hub, &other] {
        hub.wait("stored message", |recorded| {
            recorded.messages.last().is_some_and(|message| message.sequence > last)
        });
    }
    other.load(20, 100, 1);
    assert_equal(&[&hub, &other], other.log.health().read);
}

//! Credentials on the command line, and reloads of a hub's credentials.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use fanfare_testing::http::request;
use fanfare_testing::{HubProcess, Signal, eventually, free_address};

use super::support::FANFARE;

const OPERATOR: &str = "grants = { publish = [\"**\"], subscribe = [\"**\"], admin = [\"**\"] }";

/// A hub with a configuration file that can be changed.
struct Hub {
    process: HubProcess,
    folder: TempDir,
}

impl Hub {
    /// Starts a hub with this section `auth`.
    fn start(auth: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = HubProcess::new(Command::new(FANFARE));
        process.command().args(["--log-level", "trace", "--config"]);
        process.command().arg(folder.path().join("hub.toml"));
        process.log_stdout();
        let mut hub = Self { process, folder };
        hub.configure(auth);
        hub.process.start();
        hub
    }

    fn configure(&self, auth: &str) {
        std::fs::write(self.folder.path().join("hub.toml"), auth).expect("written");
    }

    /// Reloads the configuration with this section `auth`.
    fn reload(&self, auth: &str) {
        self.configure(auth);
        self.process.signal(Signal::HUP);
    }

    /// Publishes with this credential, if any; returns the status.
    async fn publishes(&self, credential: Option<&str>, channel: &str) -> String {
        let shown = credential.map_or(String::new(), |key| format!("\r\nX-API-Key: {key}"));
        let head = format!("POST /v1/channels/{channel} HTTP/1.1\r\nContent-Length: 1{shown}");
        status(&request(self.process.addr(), &head, "x").await)
    }

    async fn reads(&self, shown: &str, query: &str) -> String {
        let to = format!("/v1/channels/a?from=earliest{query}");
        let head = format!("GET {to} HTTP/1.1\r\nAccept: application/json{shown}");
        status(&request(self.process.addr(), &head, "").await)
    }
}

fn status(answer: &str) -> String {
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn fanfare(words: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(FANFARE)
        .args(words)
        .env_remove("FANFARE_TOKEN")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("fanfare")
}

/// Returns the output of a successful program.
#[track_caller]
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// Creates an API key, and the configuration that grants it everything.
fn new_key(name: &str) -> (String, String) {
    let output = fanfare(&["token", "key", "--name", name], &[]);
    let key = printed(&output).trim().to_owned();
    let said = String::from_utf8(output.stderr).expect("text");
    let (_, stanza) = said.split_once("[[auth.api_keys]]").expect("a stanza");
    let (stanza, grants) = stanza.split_once("grants = ").expect("grants");
    assert!(grants.starts_with("{ "), "{grants}");
    (key, format!("\n[[auth.api_keys]]{stanza}{OPERATOR}\n"))
}

#[tokio::test]
async fn a_key_that_was_made_on_the_command_line_opens_the_hub() {
    let (key, stanza) = new_key("producer");
    assert!(key.starts_with("ffk_") && !key.contains(char::is_whitespace), "{key}");
    assert!(!stanza.contains(&key) && stanza.contains("name = \"producer\""), "{stanza}");
    assert_ne!(new_key("producer").0, key);
    let hub = Hub::start(&stanza);
    assert_eq!(hub.publishes(Some(&key), "a").await, "200");
    assert_eq!(hub.publishes(None, "a").await, "401");
}

#[tokio::test]
async fn tokens_are_made_here_or_by_the_hub_and_shown_by_flag_or_environment() {
    let (key, stanza) = new_key("producer");
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "the secret with which this hub signs tokens").expect("written");
    let auth = format!("auth.signing_key = \"file:{}\"\n{stanza}", secret.display());
    let hub = Hub::start(&auth);
    let config = hub.folder.path().join("hub.toml");
    let config = config.to_str().expect("text");
    let wanted = ["--publish", "a", "--subscribe", "a", "--ttl", "10m", "--subject", "ann"];
    let here = [&["token", "create", "--config", config][..], &wanted].concat();
    let url = hub.process.url();
    let there = [&["token", "create", "--url", &url, "--token", &key][..], &wanted].concat();
    for words in [here, there] {
        let token = printed(&fanfare(&words, &[])).trim().to_owned();
        assert_eq!(token.split('.').count(), 3, "the token and nothing else: {token}");
        let by_flag = ["publish", "a", "one", "--url", &url, "--token", &token];
        printed(&fanfare(&by_flag, &[]));
        let nothing = ["publish", "a", "one", "--url", &url];
        let refused = fanfare(&nothing, &[]);
        assert!(!refused.status.success(), "{refused:?}");
        printed(&fanfare(&nothing, &[("FANFARE_TOKEN", &token)]));
        let elsewhere = ["publish", "b", "one", "--url", &url, "--token", &token];
        let refused = fanfare(&elsewhere, &[]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("granted"), "{said}");
        assert!(!said.contains(&token), "{said}");
    }
    assert_eq!(hub.publishes(Some(&key), "a?close=complete").await, "200");
    let seen = ["subscribe", "a", "--from", "earliest", "--url", &url];
    assert!(!fanfare(&seen, &[]).status.success());
    let seen = fanfare(&seen, &[("FANFARE_TOKEN", &key)]);
    assert_eq!(printed(&seen).matches("one").count(), 4);
}

#[test]
fn a_hub_without_credentials_does_not_listen_to_the_world() {
    let free = free_address().to_string();
    for (key, arguments) in [
        ("server.listen", ["--listen", "0.0.0.0:0", "--admin-listen", &free]),
        ("server.admin_listen", ["--listen", &free, "--admin-listen", "[::]:0"]),
    ] {
        let output = fanfare(&[&["serve"][..], &arguments].concat(), &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains(key) && said.contains("--insecure"), "{said}");
    }
}

#[test]
fn a_hub_that_is_insecure_says_so_at_its_start_for_each_listener() {
    let world = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let mut hub = HubProcess::at(world, world, Command::new(FANFARE));
    hub.command().arg("--insecure");
    hub.start();
    let said = hub.log();
    let warnings: Vec<_> = said.lines().filter(|line| line.contains("--insecure")).collect();
    assert_eq!(warnings.len(), 2, "{said}");
    assert!(warnings.iter().all(|line| line.contains("WARN")), "{said}");
    assert!(warnings[0].contains("server.listen"), "{said}");
    assert!(warnings[1].contains("server.admin_listen"), "{said}");
}

#[tokio::test]
async fn a_hub_reads_its_keys_again_and_keeps_the_old_ones_if_something_is_wrong() {
    let (old, old_stanza) = new_key("old");
    let (new, new_stanza) = new_key("new");
    let hub = Hub::start(&old_stanza);
    assert_eq!(hub.publishes(Some(&old), "a").await, "200");
    assert_eq!(hub.publishes(Some(&new), "a").await, "401");
    hub.reload(&format!("{old_stanza}{new_stanza}"));
    eventually("the new key to be known", async || {
        (hub.publishes(Some(&new), "a").await == "200").then_some(())
    })
    .await;
    assert_eq!(hub.publishes(Some(&old), "a").await, "200");
    hub.reload(&new_stanza);
    eventually("the old key to be forgotten", async || {
        (hub.publishes(Some(&old), "a").await == "401").then_some(())
    })
    .await;
    let broken = [
        format!("{old_stanza}\n[["),
        format!("{old_stanza}name = 5"),
        format!("auth.claims = \"x\"\n{old_stanza}"),
        format!("auth.signing_key = \"file:/does/not/exist\"\n{old_stanza}"),
    ];
    for (before, wrong) in broken.iter().enumerate() {
        hub.reload(wrong);
        eventually("the error to be logged", async || {
            let log = hub.process.log();
            let errors = log.lines().filter(|line| line.contains("ERROR"));
            (errors.count() > before).then_some(())
        })
        .await;
        assert_eq!(hub.publishes(Some(&old), "a").await, "401", "{wrong}");
        assert_eq!(hub.publishes(Some(&new), "a").await, "200", "{wrong}");
    }
    hub.reload(&old_stanza);
    eventually("a good configuration to be read", async || {
        (hub.publishes(Some(&old), "a").await == "200").then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_shown_never_comes_into_the_log() {
    let (key, stanza) = new_key("producer");
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "the secret with which this hub signs tokens").expect("written");
    let signing = format!("auth.signing_key = \"file:{}\"\n", secret.display());
    let places = "auth.query_token = true\nauth.cookie = \"session\"\n";
    for (settings, accepted) in [(format!("{signing}{places}"), "200"), (signing, "401")] {
        let hub = Hub::start(&format!("{settings}{stanza}"));
        assert_eq!(hub.publishes(Some(&key), "a").await, "200");
        let config = hub.folder.path().join("hub.toml");
        let config = config.to_str().expect("text");
        let create = ["token", "create", "--config", config, "--subscribe", "a"];
        let token = printed(&fanfare(&create, &[])).trim().to_owned();
        let signature = token.rsplit('.').next().expect("a token");
        assert_eq!(hub.reads("", &format!("&access_token={token}")).await, accepted);
        assert_eq!(hub.reads("", &format!("&access_token={token}x")).await, "401");
        assert_eq!(hub.reads(&format!("\r\nCookie: session={token}"), "").await, accepted);
        assert_eq!(hub.reads(&format!("\r\nAuthorization: Bearer {token}"), "").await, "200");
        let lost = format!("GET /nowhere?access_token={token} HTTP/1.1");
        assert_eq!(status(&request(hub.process.addr(), &lost, "").await), "404");
        let free = format!("GET /healthz?access_token={token} HTTP/1.1");
        assert_eq!(status(&request(hub.process.admin(), &free, "").await), "200");
        let log = hub.process.log();
        assert!(log.contains("TRACE") || log.contains("DEBUG"), "nothing was logged: {log}");
        for hidden in ["access_token", signature, &token, &key, "this hub signs"] {
            assert!(!log.contains(hidden), "{hidden} in the log: {log}");
        }
    }
}

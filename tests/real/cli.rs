//! The command line as a new user uses it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use fanfare_testing::eventually;
use fanfare_testing::http::{get, post};

use super::support::{FANFARE, start_hub};

#[tokio::test]
async fn each_line_typed_into_publish_is_seen_before_the_next_is_typed() {
    let hub = start_hub(&[]);
    let mut viewer = Command::new("curl")
        .args(["-sN", &format!("{}/v1/channels/logs/typed", hub.url())])
        .stdout(Stdio::piped())
        .spawn()
        .expect("curl");
    let mut seen = BufReader::new(viewer.stdout.take().expect("output")).lines();
    assert!(seen.next().expect("a line").expect("text").starts_with("retry: "));
    let mut typing = Command::new(FANFARE)
        .args(["publish", "logs/typed", "--close", "complete", "--url", &hub.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("publish");
    let mut keyboard = typing.stdin.take().expect("input");
    let mut ids = Vec::new();
    for line in ["one", "two", "three", "four"] {
        writeln!(keyboard, "{line}").expect("typed");
        let data = format!("data: {line}");
        while seen.next().expect("a line").expect("text") != data {}
        let id = seen.next().expect("a line").expect("text");
        ids.push(id.strip_prefix("id: ").expect("the id is the last field").to_owned());
    }
    drop(keyboard);
    let receipt = typing.wait_with_output().expect("publish");
    assert!(receipt.status.success());
    assert!(String::from_utf8_lossy(&receipt.stdout).contains("\"events\":4"), "{receipt:?}");
    assert!(viewer.wait().expect("curl").success());

    // A second viewer with the id of the third event begins with the fourth.
    let third = &ids[ids.len() - 2];
    let rest = Command::new("curl")
        .args(["-sN", "-H", &format!("Last-Event-ID: {third}")])
        .arg(format!("{}/v1/channels/logs/typed", hub.url()))
        .output()
        .expect("curl");
    let rest = String::from_utf8(rest.stdout).expect("text");
    let data: Vec<_> = rest.lines().filter(|line| line.starts_with("data: ")).collect();
    assert_eq!(data[0], "data: four");
    assert_eq!(data.len(), 2, "four and the end: {rest}");
}

#[tokio::test]
async fn a_publish_that_is_stopped_says_so_with_an_exit_code_of_its_own() {
    let hub = start_hub(&[]);
    let mut typing = Command::new(FANFARE)
        .args(["publish", "chat/1", "--close", "auto", "--generation", "text"])
        .args(["--url", &hub.url()])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("publish");
    let mut keyboard = typing.stdin.take().expect("input");
    writeln!(keyboard, "a word").expect("typed");
    eventually("the word to be published", async || {
        get(hub.addr(), "/v1/channels/chat/1?from=earliest").await.contains("a word").then_some(())
    })
    .await;
    let stop = post(hub.addr(), "/v1/signals/chat/1", r#"{"signal":"stop","reason":"enough"}"#);
    assert!(stop.await.contains(r#""stopped":true"#));
    // The input is still open: the hub's early answer ends the program.
    let ended = typing.wait_with_output().expect("publish");
    assert_eq!(ended.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("stopped"), "{ended:?}");
    drop(keyboard);
}

#[tokio::test]
async fn health_says_with_its_exit_code_whether_the_hub_is_ready() {
    let mut hub = start_hub(&[]);
    let url = format!("http://{}", hub.admin());
    let healthy = Command::new(FANFARE).args(["health", "--url", &url]).status().expect("health");
    assert_eq!(healthy.code(), Some(0));
    hub.kill();
    let gone = Command::new(FANFARE).args(["health", "--url", &url]).output().expect("health");
    assert_eq!(gone.status.code(), Some(1));
}

#[test]
fn the_demo_shows_a_resume_without_a_gap_and_leaves_when_asked() {
    let output =
        Command::new(FANFARE).args(["demo", "--exit", "--rate", "200"]).output().expect("the demo");
    let shown = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{shown}");
    assert!(shown.contains("no gap"), "{shown}");
}

#[test]
fn what_cannot_be_printed_is_an_error_and_no_panic() {
    for words in [&["config", "default"][..], &["config", "show"], &["completions", "bash"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("/dev/full");
        let failed = Command::new(FANFARE).args(words).stdout(full).output().expect("fanfare");
        assert_eq!(failed.status.code(), Some(1), "{words:?}");
        assert!(String::from_utf8_lossy(&failed.stderr).starts_with("error: "), "{failed:?}");
    }
}

#[test]
fn a_secret_is_not_shown_with_the_rest_of_the_configuration() {
    let hook = "[[hooks]]\npattern = \"chat/**\"\nurl = \"https://app.example/ended\"\n";
    let secret = "secret = \"correct horse battery\"\n";
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    write!(file, "{hook}{secret}").expect("written");
    let path = file.path().to_str().expect("a path");
    let run = |what| Command::new(FANFARE).args(["config", what, "--config", path]).output();
    let shown = run("show").expect("a run");
    let text = String::from_utf8(shown.stdout).expect("text");
    assert!(shown.status.success(), "{text}");
    let url = format!("url = \"https://app.example/ended\"  # {path}\n");
    assert!(text.contains("[[hooks]]\n") && text.contains(&url), "{text}");
    assert!(text.contains("secret = \"(hidden)\"") && !text.contains("horse"), "{text}");
    assert!(run("check").expect("a run").status.success());
}

#[test]
fn completions_and_the_default_configuration_are_printed() {
    for shell in ["bash", "zsh", "fish"] {
        let output = Command::new(FANFARE).args(["completions", shell]).output().expect("a run");
        assert!(output.status.success() && !output.stdout.is_empty());
    }
    let output = Command::new(FANFARE).args(["config", "default"]).output().expect("a run");
    assert_eq!(
        String::from_utf8(output.stdout).expect("text"),
        fanfare::internals::config::DEFAULT
    );
}

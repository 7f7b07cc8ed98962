//! Directories of an older Fanfare are readable.
//!
//! `tests/golden/store-v1` is written once for each version of the store and never again: by `cargo
//! test --test real golden -- --ignored`, which shows how it was made. The unit tests of the store
//! itself open the same directory, without a hub.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use fanfare_testing::HubProcess;
use fanfare_testing::http::{get, head, request};

use super::support::{FANFARE, start_hub};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/store-v1");

/// Starts a hub with this directory, which retains events of any age.
fn hub(path: &Path) -> HubProcess {
    start_hub(&[
        ("FANFARE_STORE__PATH", path.to_str().expect("text")),
        ("FANFARE_STORE__DURABILITY", "sync"),
        ("FANFARE_STORE__MIN_FREE", "1MiB"),
        ("FANFARE_CHANNELS__MAX_AGE", "100years"),
        ("FANFARE_DRAIN__WINDOW", "50ms"),
    ])
}

async fn ask(hub: &HubProcess, head: &str, body: &str) -> String {
    let length = body.len();
    let answer = request(hub.addr(), &format!("{head}\r\nContent-Length: {length}"), body).await;
    assert!(answer.starts_with("HTTP/1.1 20"), "{head}: {answer}");
    answer
}

async fn publish_numbers(hub: &HubProcess, channel: &str, numbers: std::ops::Range<u64>) {
    let lines: String = numbers.map(|number| format!("{{\"n\":{number}}}\n")).collect();
    let head =
        format!("POST /v1/channels/{channel} HTTP/1.1\r\nContent-Type: application/x-ndjson");
    ask(hub, &head, &lines).await;
}

fn numbers(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|number| format!("{{\"n\":{number}}}")).collect()
}

async fn texts(hub: &HubProcess, channel: &str) -> Vec<String> {
    let answer = get(hub.addr(), &format!("/v1/channels/{channel}?from=earliest&limit=1000")).await;
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let page: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("a page: {answer}"));
    let events = page["events"].as_array().expect("events").iter();
    let own = |event: &&Value| event["event"].as_str().is_some_and(|it| it.starts_with("fanfare."));
    let texts = events.filter(|event| !own(event)).map(|event| event["data"].as_str());
    texts.map(|text| text.expect("text").to_owned()).collect()
}

/// A first life, whose journal is compacted; and a second, whose journal is as it was written. It
/// has options, a receipt, an end, and a deleted channel with its dead bytes.
#[tokio::test]
#[ignore = "writes the directory anew: only for another version of the store"]
async fn write_the_golden_directory() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    let mut first = hub(&path);
    let put = "PUT /v1/channels/chat%2F42 HTTP/1.1\r\nContent-Type: application/json";
    ask(&first, put, r#"{"max_events":500}"#).await;
    publish_numbers(&first, "chat%2F42", 0..20).await;
    publish_numbers(&first, "gone", 0..5).await;
    publish_numbers(&first, "done", 0..3).await;
    let once = "POST /v1/channels/chat%2F42 HTTP/1.1\r\nIdempotency-Key: once";
    ask(&first, once, "one\ntwo").await;
    ask(&first, "POST /v1/channels/done?close=complete HTTP/1.1", "").await;
    first.stop().await;
    let mut compact = Command::new(FANFARE);
    compact.args(["store", "compact", "--path"]).arg(&path);
    assert!(compact.status().expect("the program").success());
    let mut second = hub(&path);
    publish_numbers(&second, "chat%2F42", 20..30).await;
    publish_numbers(&second, "caf%C3%A9%20%E8%AA%9E", 0..2).await;
    ask(&second, "DELETE /v1/channels/gone HTTP/1.1", "").await;
    second.stop().await;
    keep(&path);
}

/// Copies the directory to its place, without the boot id of the machine that wrote it.
fn keep(path: &Path) {
    let _there_may_be_none = std::fs::remove_dir_all(GOLDEN);
    copy(path, Path::new(GOLDEN));
    let identity = Path::new(GOLDEN).join("fanfare.store");
    let mut text: Value =
        serde_json::from_slice(&std::fs::read(&identity).expect("it")).expect("it");
    text["boot"] = "whoever wrote this".into();
    let text = serde_json::to_string_pretty(&text).expect("JSON");
    std::fs::write(identity, text).expect("written");
    std::fs::remove_file(Path::new(GOLDEN).join("lock")).expect("no lock");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("a file").path();
        std::fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a copy");
    }
}

fn golden() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    copy(Path::new(GOLDEN), &path);
    (folder, path)
}

#[tokio::test]
async fn a_hub_serves_what_an_older_one_has_written() {
    let (_folder, path) = golden();
    // Also after this version has compacted the files of the other.
    for compacted in [false, true] {
        if compacted {
            let mut compact = Command::new(FANFARE);
            compact.args(["store", "compact", "--path"]).arg(&path);
            assert!(compact.status().expect("the program").success());
        }
        let mut hub = hub(&path);
        let mut chat = numbers(0..20);
        chat.push("one\ntwo".to_owned());
        chat.extend(numbers(20..30));
        assert_eq!(texts(&hub, "chat%2F42").await, chat);
        assert_eq!(texts(&hub, "done").await, numbers(0..3));
        assert_eq!(texts(&hub, "caf%C3%A9%20%E8%AA%9E").await, numbers(0..2));
        assert!(texts(&hub, "gone").await.is_empty());
        let done = head(hub.addr(), "/v1/channels/done").await.to_lowercase();
        assert!(done.contains("fanfare-state: complete"), "{done}");
        let list = get(hub.admin(), "/v1/channels").await;
        assert!(list.contains(r#""max_events":500"#), "{list}");
        hub.stop().await;
    }
}

#[test]
fn a_later_version_is_refused_and_left_as_it_is() {
    let (_folder, path) = golden();
    let identity = path.join("fanfare.store");
    let text = std::fs::read_to_string(&identity).expect("it");
    std::fs::write(&identity, text.replace("\"version\": 1", "\"version\": 2")).expect("written");
    // A hub may have created a lock only.
    std::fs::write(path.join("lock"), "").expect("written");
    let before = contents(&path);
    let path_text = path.to_str().expect("text");
    let mut hub = Command::new(FANFARE);
    hub.args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    hub.env("FANFARE_STORE__PATH", path_text);
    let store = |command: &str| {
        let mut store = Command::new(FANFARE);
        store.args(["store", command, "--path", path_text]);
        store
    };
    for mut command in [hub, store("check"), store("stat"), store("compact")] {
        let output = command.output().expect("the program");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let helps = "has version 2 of the store, and this hub knows up to 1: start it with the";
        assert!(said.contains(helps), "{said}");
        assert!(contents(&path) == before, "{command:?}: it is left as it was");
    }
}

fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("the directory");
    let paths = entries.map(|entry| entry.expect("a file").path());
    paths.map(|path| (path.clone(), std::fs::read(path).expect("bytes"))).collect()
}

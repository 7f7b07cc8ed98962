//! `fanfare store check`, `stat` and `compact`: their reports on the directory of a stopped hub.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use fanfare_testing::HubProcess;
use fanfare_testing::http::{get, post, request};

use super::support::{FANFARE, start_hub};

/// The directory of a hub.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn hub(&self) -> HubProcess {
        let path = self.path();
        start_hub(&[
            ("FANFARE_STORE__PATH", path.to_str().expect("text")),
            ("FANFARE_STORE__DURABILITY", "sync"),
            ("FANFARE_STORE__MIN_FREE", "1MiB"),
            ("FANFARE_DRAIN__WINDOW", "50ms"),
        ])
    }

    /// Runs `fanfare store` on the directory; returns its exit code and its output.
    fn run(&self, command: &str, more: &[&str]) -> (Option<i32>, String) {
        run(&[&[command, "--path", self.path().to_str().expect("text")][..], more].concat())
    }

    fn stat(&self) -> Value {
        let (code, text) = self.run("stat", &["--json"]);
        assert_eq!(code, Some(0), "{text}");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Returns every file and its content.
    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = std::fs::read_dir(self.path()).expect("the directory");
        let paths = entries.map(|entry| entry.expect("a file").path());
        paths.map(|path| (path.clone(), std::fs::read(path).expect("bytes"))).collect()
    }
}

fn run(words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(FANFARE).arg("store").args(words).output().expect("the program");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text"))
}

/// Returns some 400 bytes.
fn text(number: u64) -> String {
    format!("{number} {}", "x".repeat(400))
}

/// Creates a stopped hub's directory: `a` with 40 events, `b` ended with 20, `gone` deleted with
/// 30.
async fn filled() -> Place {
    let place = Place::new();
    let mut hub = place.hub();
    for number in 0..40 {
        hub.publish("a", &text(number)).await;
        if number < 30 {
            hub.publish("gone", &text(number)).await;
        }
        if number < 20 {
            hub.publish("b", &text(number)).await;
        }
    }
    let closed = post(hub.addr(), "/v1/channels/b?close=complete", "").await;
    assert!(closed.starts_with("HTTP/1.1 200"), "{closed}");
    let deleted = request(hub.addr(), "DELETE /v1/channels/gone HTTP/1.1", "").await;
    assert!(deleted.starts_with("HTTP/1.1 204"), "{deleted}");
    hub.stop().await;
    place
}

async fn texts(hub: &HubProcess, channel: &str) -> Vec<String> {
    let to = format!("/v1/channels/{channel}?from=earliest&limit=1000");
    let answer = get(hub.addr(), &to).await;
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let page: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("a page: {answer}"));
    let events = page["events"].as_array().expect("events").iter();
    events.filter_map(|event| event["data"].as_str().map(str::to_owned)).collect()
}

fn journal(place: &Place) -> PathBuf {
    place.file("0000000000000001.log")
}

/// Returns the position of the text of an event in a file.
fn find(bytes: &[u8], text: &str) -> usize {
    memchr::memmem::find(bytes, text.as_bytes()).expect("it is there")
}

#[tokio::test]
async fn a_directory_that_is_whole_is_said_to_be_and_left_as_it_is() {
    let place = filled().await;
    let before = place.contents();
    let (code, text) = place.run("check", &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("whole: 5 files, "), "{text}");
    assert!(text.contains("2 channels, 61 events"), "{text}");
    let bytes: usize = before.values().map(Vec::len).sum();
    let digits: String = text.chars().filter(|c| *c != ',').collect();
    assert!(digits.trim_end().ends_with(&format!(" {bytes} bytes")), "{bytes}: {text}");
    place.stat();
    assert!(place.contents() == before, "nothing has changed");
}

#[tokio::test]
async fn one_flipped_bit_is_found_with_its_file_its_place_and_its_channel() {
    let place = filled().await;
    let mut bytes = std::fs::read(journal(&place)).expect("the journal");
    let at = find(&bytes, &format!("{} ", "17")) + 10;
    bytes[at] ^= 4;
    std::fs::write(journal(&place), &bytes).expect("written");
    let before = place.contents();
    let (code, said) = place.run("check", &[]);
    assert_eq!(code, Some(3), "{said}");
    let line = said.lines().next().expect("a line");
    assert!(line.starts_with("damaged: 0000000000000001.log at byte "), "{said}");
    assert!(line.contains("channel `"), "{said}");
    let position = line.split("at byte ").nth(1).expect("a place");
    let position: usize = position.split(',').next().expect("it").parse().expect("a number");
    assert!(bytes[position..].starts_with(b"\xffFB\xfe"), "a block begins there: {said}");
    assert!((position..position + 700).contains(&at), "{at}: {said}");
    assert!(said.lines().last().expect("it").starts_with("1 place of damage: "), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(place.contents() == before, "nothing has changed");
    // A hub drops the same place, and nothing else.
    let mut hub = place.hub();
    let left = texts(&hub, "a").await.len() + texts(&hub, "b").await.len();
    assert!(left >= 59, "{left}");
    hub.stop().await;
}

#[tokio::test]
async fn where_a_header_is_broken_events_are_missed_by_their_channel() {
    let place = filled().await;
    let mut bytes = std::fs::read(journal(&place)).expect("the journal");
    let text = find(&bytes, "25 xxx");
    let header = memchr::memmem::rfind(&bytes[..text], b"\xffFB\xfe").expect("a header");
    bytes[header + 20] ^= 1;
    std::fs::write(journal(&place), &bytes).expect("written");
    let (code, said) = place.run("check", &[]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains(&format!("log at byte {header}, ")), "{said}");
    assert!(said.contains("channel `a`: 1 events are missing before this block"), "{said}");
}

#[tokio::test]
async fn a_torn_end_is_no_damage() {
    let place = Place::new();
    let mut hub = place.hub();
    hub.publish("a", "one").await;
    hub.publish("a", "two").await;
    hub.kill();
    drop(hub);
    let mut bytes = std::fs::read(journal(&place)).expect("the journal");
    // After its last block there are preallocated zeros.
    let whole = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.truncate(whole);
    let torn = b"\xffFB\xfe\x01 the beginning of a block";
    bytes.extend_from_slice(torn);
    std::fs::write(journal(&place), &bytes).expect("written");
    let (code, said) = place.run("check", &[]);
    assert_eq!(code, Some(0), "{said}");
    let torn = torn.len();
    let line = format!("note: 0000000000000001.log at byte {whole}, {torn} bytes: torn, ");
    assert!(said.starts_with(&line), "{line}: {said}");
    assert!(said.contains("\nwhole: "), "{said}");
    let hub = place.hub();
    assert_eq!(texts(&hub, "a").await, ["one", "two"]);
}

#[tokio::test]
async fn the_directory_of_a_hub_that_runs_is_refused() {
    let place = Place::new();
    let hub = place.hub();
    hub.publish("a", "one").await;
    for command in ["check", "stat", "compact"] {
        let (code, said) = place.run(command, &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("is in use by another hub"), "{command}: {said}");
        assert!(said.contains("Stop the hub first"), "{command}: {said}");
    }
    hub.publish("a", "two").await;
}

#[tokio::test]
async fn what_is_no_store_is_reported_and_does_not_become_one() {
    let place = Place::new();
    let empty = place.0.path();
    let config = empty.join("hub.toml");
    std::fs::write(&config, "[store]\npath = \"/not/there\"\n").expect("a file");
    let config = config.to_str().expect("text");
    for command in ["check", "stat", "compact"] {
        let (code, said) = run(&[command, "--path", empty.to_str().expect("text")]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("is no store of Fanfare"), "{command}: {said}");
        let (code, said) = run(&[command, "--config", config]);
        assert!(code == Some(1) && said.contains("/not/there"), "{command}: {said}");
        let (code, _) = run(&[command, "--config", "/not/there.toml"]);
        assert_eq!(code, Some(64), "{command}");
    }
    assert_eq!(std::fs::read_dir(empty).expect("it").count(), 1, "nothing was made");
    std::fs::write(config, "").expect("a file");
    let (code, said) = run(&["check", "--config", config]);
    assert!(code == Some(1) && said.contains("--path"), "{said}");
}

#[tokio::test]
async fn channels_are_counted_the_largest_first() {
    let place = filled().await;
    let stat = place.stat();
    let channels = stat["channels"].as_array().expect("channels");
    let named = |field: &str| channels.iter().map(|it| it[field].clone()).collect::<Vec<_>>();
    assert_eq!(named("channel"), ["a", "b"]);
    assert_eq!(named("events"), [40, 21]);
    assert_eq!(named("state"), ["open", "complete"]);
    assert!(channels[0]["bytes"].as_u64().expect("bytes") > 40 * 400, "{stat}");
    let first = &channels[0]["first_time"];
    let last = &channels[0]["last_time"];
    assert!(first.as_str().expect("a time") < last.as_str().expect("a time"), "{stat}");
    assert_eq!(stat["totals"]["events"], 61);
    let dead = stat["totals"]["dead_bytes"].as_u64().expect("bytes");
    assert!((30 * 400..30 * 700).contains(&dead), "{stat}");
    let (code, table) = place.run("stat", &[]);
    assert_eq!(code, Some(0), "{table}");
    assert!(table.contains("  a\n") && table.contains("complete"), "{table}");
    assert!(table.contains("2 channels with 61 events"), "{table}");
}

#[tokio::test]
async fn compacting_gives_room_back_and_loses_nothing() {
    let place = filled().await;
    let bytes = || place.contents().values().map(Vec::len).sum::<usize>();
    let before = bytes();
    let (code, said) = place.run("compact", &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("gave back ") && said.contains("1 file written anew"), "{said}");
    let after = bytes();
    assert!(before - after > 30 * 400, "{before} bytes, {after} now: {said}");
    assert_eq!(place.stat()["totals"]["dead_bytes"], 0);
    let (code, said) = place.run("check", &[]);
    assert!(code == Some(0) && said.contains("2 channels, 61 events"), "{said}");
    let (code, said) = place.run("compact", &[]);
    assert!(code == Some(0) && said.starts_with("gave back nothing"), "{said}");
    let mut hub = place.hub();
    let expected = |count| (0..count).map(text).collect::<Vec<_>>();
    assert_eq!(texts(&hub, "a").await, expected(40));
    assert_eq!(texts(&hub, "b").await[..20], expected(20));
    hub.stop().await;
    // A compacted file is rewritten too, though most of it is alive.
    let mut hub = place.hub();
    let deleted = request(hub.addr(), "DELETE /v1/channels/b HTTP/1.1", "").await;
    assert!(deleted.starts_with("HTTP/1.1 204"), "{deleted}");
    hub.stop().await;
    let (code, said) = place.run("compact", &[]);
    assert!(code == Some(0) && said.contains("gave back "), "{said}");
    assert_eq!(place.stat()["totals"]["dead_bytes"], 0);
    let hub = place.hub();
    assert_eq!(texts(&hub, "a").await, expected(40));
    assert!(texts(&hub, "b").await.is_empty());
}

/// Only a hub may handle a power cut of its machine: `compact` must not hide it.
#[tokio::test]
async fn after_a_power_cut_the_hub_comes_first() {
    let place = filled().await;
    let identity = place.file("fanfare.store");
    let mut text: Value =
        serde_json::from_slice(&std::fs::read(&identity).expect("it")).expect("JSON");
    (text["clean"], text["boot"]) = (false.into(), "another".into());
    text.as_object_mut().expect("fields").remove("checksum");
    std::fs::write(&identity, text.to_string()).expect("written");
    let before = place.contents();
    let (code, said) = place.run("compact", &[]);
    assert!(code == Some(1) && said.contains("start it once"), "{said}");
    assert!(place.contents() == before, "nothing has changed");
    assert_eq!(place.run("check", &[]).0, Some(0), "looking is allowed");
}

/// `check` and `stat` work on a read-only directory.
#[tokio::test]
async fn a_copy_that_cannot_be_written_is_looked_at() {
    let place = filled().await;
    let read_only = |path: &Path, only: bool| {
        let mut rights = std::fs::metadata(path).expect("it").permissions();
        rights.set_readonly(only);
        std::fs::set_permissions(path, rights).expect("rights");
    };
    std::fs::remove_file(place.file("lock")).expect("the lock");
    place.contents().keys().for_each(|path| read_only(path, true));
    read_only(&place.path(), true);
    let checked = place.run("check", &[]);
    let counted = place.run("stat", &[]);
    // Otherwise the directory could not be removed.
    read_only(&place.path(), false);
    assert_eq!(checked.0, Some(0), "{}", checked.1);
    assert_eq!(counted.0, Some(0), "{}", counted.1);
    assert!(!place.file("lock").exists(), "nothing was made");
}

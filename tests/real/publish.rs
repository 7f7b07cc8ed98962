//! `fanfare publish` over connections that break, hubs that stop, and idle inputs.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use fanfare_testing::http::{get, post};
use fanfare_testing::{HubProcess, eventually, free_address};

use super::support::{FANFARE, start_hub};

/// A running `fanfare publish`, with a pipe as its input.
struct Publisher {
    child: Child,
    input: Option<ChildStdin>,
}

impl Publisher {
    fn start(url: &str, args: &[&str]) -> Self {
        let mut child = Command::new(FANFARE)
            .arg("publish")
            .args(args)
            .args(["--url", url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("publish");
        let input = child.stdin.take();
        Self { child, input }
    }

    fn write(&mut self, text: &str) {
        let input = self.input.as_mut().expect("an open input");
        input.write_all(text.as_bytes()).expect("the input is read");
    }

    /// Ends the input; returns the exit code, stdout and stderr.
    fn end(mut self) -> (Option<i32>, String, String) {
        drop(self.input.take());
        let output = self.child.wait_with_output().expect("publish ends");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

/// Returns the data of all events of a channel, in order.
async fn data_of(hub: &HubProcess, channel: &str) -> Vec<String> {
    let answer = get(hub.addr(), &format!("/v1/channels/{channel}?from=earliest&limit=1000")).await;
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    let Ok(page) = serde_json::from_str::<serde_json::Value>(body) else { return Vec::new() };
    let events = page["events"].as_array().cloned().unwrap_or_default();
    let shown = events
        .iter()
        .filter(|event| !event["event"].as_str().unwrap_or_default().starts_with("fanfare."));
    shown.map(|event| event["data"].as_str().expect("data").to_owned()).collect()
}

async fn until_published(hub: &HubProcess, channel: &str, data: &str) {
    eventually("an event", async || {
        data_of(hub, channel).await.iter().any(|seen| seen == data).then_some(())
    })
    .await;
}

/// Returns the settings of a hub whose channels are on disk, so that a restart keeps them.
fn durable(folder: &tempfile::TempDir) -> [(&'static str, String); 2] {
    let path = folder.path().to_str().expect("text").to_owned();
    [("FANFARE_STORE__PATH", path), ("FANFARE_STORE__DURABILITY", "sync".to_owned())]
}

#[tokio::test]
async fn a_hub_that_is_killed_and_started_again_gets_each_line_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let durable = durable(&folder);
    let settings: Vec<_> = durable.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let mut hub = start_hub(&settings);
    let mut publisher = Publisher::start(&hub.url(), &["logs/1"]);
    let mut expected = Vec::new();
    for round in 0..4 {
        for line in 0..50 {
            expected.push(format!("{round}.{line}"));
            publisher.write(&format!("{round}.{line}\n"));
        }
        until_published(&hub, "logs/1", expected.last().expect("a line")).await;
        if round == 3 {
            break;
        }
        if round == 1 {
            hub.stop().await;
        } else {
            hub.kill();
        }
        // The writing program continues while the hub is down.
        expected.push(format!("away {round}"));
        publisher.write(&format!("away {round}\n"));
        hub.start();
    }
    let (code, receipt, said) = publisher.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(receipt.contains(&format!("\"events\":{}", expected.len())), "{receipt}");
    assert!(said.contains("trying again"), "{said}");
    assert_eq!(data_of(&hub, "logs/1").await, expected);
}

#[tokio::test]
async fn a_silent_source_is_kept_alive_and_survives_a_hub_with_less_patience() {
    let hub = start_hub(&[("FANFARE_PUBLISH__IDLE_TIMEOUT", "1s")]);
    let sse = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    let mut cases = [
        (Publisher::start(&hub.url(), &["a"]), "before", "before\n", "after\n"),
        (Publisher::start(&hub.url(), &["b", "--format", "ndjson"]), "1", "1\n", "2\n"),
        (
            Publisher::start(&hub.url(), &["c", "--format", "sse", "--close", "auto"]),
            sse[6..].trim(),
            sse,
            "data: [DONE]\n\n",
        ),
    ];
    for (publisher, _, before, _) in &mut cases {
        publisher.write(before);
    }
    for ((_, seen, _, _), channel) in cases.iter().zip(["a", "b", "c"]) {
        until_published(&hub, channel, seen).await;
    }
    // More than one time-out passes, and later input is published by the same command.
    let hits = async || {
        let metrics = get(hub.admin(), "/metrics").await;
        metrics.lines().any(|line| line.contains("publish.idle_timeout")).then_some(())
    };
    eventually("the hub's patience to end", hits).await;
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    for (mut publisher, _, _, after) in cases {
        publisher.write(after);
        let (code, receipt, said) = publisher.end();
        assert_eq!(code, Some(0), "{receipt}{said}");
        assert!(receipt.contains("\"events\":2"), "{receipt}");
    }
}

#[tokio::test]
async fn segments_of_a_long_input_add_up_to_one_receipt_and_close_at_its_end() {
    let hub = start_hub(&[]);
    for run in 0..2 {
        // The second run has the same key and publishes nothing.
        let mut publisher = Publisher::start(
            &hub.url(),
            &["long", "--buffer", "1000", "--idempotency-key", "k", "--close", "complete"],
        );
        for line in 0..500 {
            publisher.write(&format!("line {line}\n"));
        }
        let (code, receipt, said) = publisher.end();
        assert_eq!(code, Some(0), "run {run}: {said}");
        assert!(receipt.contains("\"events\":500"), "run {run}: {receipt}");
        assert!(receipt.contains("\"state\":\"complete\""), "run {run}: {receipt}");
        let expected: Vec<_> = (0..500).map(|line| format!("line {line}")).collect();
        assert_eq!(data_of(&hub, "long").await, expected, "run {run}");
    }
}

#[tokio::test]
async fn tee_passes_the_input_on_whatever_becomes_of_the_hub() {
    let mut hub = start_hub(&[]);
    let mut publisher = Publisher::start(&hub.url(), &["t", "--tee", "--retry-for", "1s"]);
    let mut shown = BufReader::new(publisher.child.stdout.take().expect("output"));
    publisher.write("one\n");
    let mut line = String::new();
    shown.read_line(&mut line).expect("a line");
    assert_eq!(line, "one\n");
    until_published(&hub, "t", "one").await;
    hub.kill();
    let mut said = BufReader::new(publisher.child.stderr.take().expect("messages"));
    let mut text = String::new();
    while !text.contains("trying again") {
        assert!(said.read_line(&mut text).expect("a line") > 0, "{text}");
    }
    // The hub does not restart. The writer is not killed, and its output is still passed on.
    for n in 0..40 {
        publisher.write(&format!("after {n}\n"));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    drop(publisher.input.take());
    let mut rest = String::new();
    shown.read_to_string(&mut rest).expect("the rest");
    assert!(rest.ends_with("after 39\n") && rest.starts_with("after 0\n"), "{rest}");
    assert_eq!(publisher.child.wait().expect("the end").code(), Some(1));
}

#[tokio::test]
async fn a_provider_that_dies_has_an_exit_code_of_its_own() {
    let hub = start_hub(&[("FANFARE_CHANNELS__PRODUCER_GRACE", "100ms")]);
    let token = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
    let error = "data: {\"error\":{\"message\":\"overloaded\"}}\n\n";
    for (number, (last, code)) in
        [("", 4), (error, 4), ("data: [DONE]\n\n", 0)].into_iter().enumerate()
    {
        let channel = format!("chat/{number}");
        let args = [&channel, "--format", "sse", "--close", "auto"];
        let mut publisher = Publisher::start(&hub.url(), &args);
        publisher.write(token);
        publisher.write(last);
        let (exit, receipt, said) = publisher.end();
        assert_eq!(exit, Some(code), "{last:?}: {receipt}{said}");
        assert_eq!(said.contains("warning: "), code != 0, "{said}");
    }
}

#[tokio::test]
async fn a_provider_that_sends_an_error_document_has_that_exit_code_too() {
    let hub = start_hub(&[]);
    let document = "{\"error\":{\"message\":\"Incorrect API key\"}}\n";
    for (close, code) in [("auto", 4), ("complete", 1)] {
        let args = [&format!("chat/{close}"), "--format", "sse", "--close", close];
        let mut publisher = Publisher::start(&hub.url(), &args);
        publisher.write(document);
        let (exit, receipt, said) = publisher.end();
        assert_eq!(exit, Some(code), "{close}: {receipt}{said}");
        assert!(said.contains("Incorrect API key"), "{close}: {said}");
    }
}

#[tokio::test]
async fn what_no_repetition_can_mend_ends_at_once() {
    let hub = start_hub(&[]);
    assert!(post(hub.addr(), "/v1/channels/closed?close=complete", "").await.contains("200"));
    let nowhere = format!("http://{}", free_address());
    for (url, channel, says) in
        [(hub.url(), "closed", "channel_closed"), (nowhere, "a", "cannot reach a hub")]
    {
        let publisher = Publisher::start(&url, &[channel]);
        let output = publisher.child.wait_with_output().expect("publish ends");
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(says), "{said}");
    }
}

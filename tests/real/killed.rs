//! A producer that is killed while it writes: its viewers receive the end of the channel in any
//! case.

use std::io::Write;
use std::process::{Child, Command, Stdio};

use fanfare_testing::http::{get, head};
use fanfare_testing::{HubProcess, eventually, within};

use super::support::start_hub;

/// Pipes its input into a channel, like a provider's response.
struct Producer(Child);

impl Producer {
    fn start(hub: &HubProcess, channel: &str) -> Self {
        let url = format!("{}/v1/channels/{channel}?close=auto", hub.url());
        let curl = Command::new("curl")
            .args(["-sN", "-T", "-", "-X", "POST", "-H", "Content-Type: text/event-stream", &url])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Self(curl.expect("curl"))
    }

    fn say(&mut self, text: &str) {
        self.0.stdin.as_mut().expect("input").write_all(text.as_bytes()).expect("taken");
    }

    /// Kills the process, as the kernel does when memory runs out.
    fn kill(mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("the end");
    }
}

fn token(text: &str) -> String {
    let delta = r#"{"index":0,"delta":{"content":"TEXT"}}"#.replace("TEXT", text);
    format!("data: {{\"object\":\"chat.completion.chunk\",\"choices\":[{delta}]}}\n\n")
}

async fn until_published(hub: &HubProcess, channel: &str, text: &str) {
    let path = format!("/v1/channels/{channel}?from=earliest");
    eventually("the token", async || get(hub.addr(), &path).await.contains(text).then_some(()))
        .await;
}

/// Reads a viewer's stream from the first event to its end.
async fn view(hub: &HubProcess, channel: &str) -> String {
    let url = format!("{}/v1/channels/{channel}?from=earliest", hub.url());
    let viewer = tokio::process::Command::new("curl").args(["-sN", &url]).output();
    let seen = within("the end of the stream", viewer).await.expect("curl");
    String::from_utf8(seen.stdout).expect("text")
}

#[tokio::test]
async fn a_producer_killed_in_the_middle_of_a_token_leaves_an_abandoned_generation() {
    let hub = start_hub(&[("FANFARE_CHANNELS__PRODUCER_GRACE", "500ms")]);
    let mut producer = Producer::start(&hub, "chat/1");
    producer.say(&token("one"));
    until_published(&hub, "chat/1", "one").await;
    producer.say(&token("two")[..30]);
    producer.kill();
    let seen = view(&hub, "chat/1").await;
    assert!(seen.contains("\"one\"") && !seen.contains("two"), "{seen}");
    assert!(seen.contains("\"state\":\"abandoned\""), "{seen}");
}

#[tokio::test]
async fn a_producer_that_comes_back_in_time_continues_where_the_killed_one_was() {
    let hub = start_hub(&[("FANFARE_CHANNELS__PRODUCER_GRACE", "30s")]);
    let mut producer = Producer::start(&hub, "chat/1");
    producer.say(&token("one"));
    until_published(&hub, "chat/1", "one").await;
    producer.say(&token("two")[..30]);
    producer.kill();
    eventually("the hub to notice", async || {
        let answer = head(hub.addr(), "/v1/channels/chat/1").await;
        answer.contains("fanfare-producer: away").then_some(())
    })
    .await;
    let mut second = Producer::start(&hub, "chat/1");
    second.say(&format!("{}data: [DONE]\n\n", token("two")));
    let seen = view(&hub, "chat/1").await;
    assert!(seen.contains("\"one\"") && seen.contains("\"two\""), "{seen}");
    assert!(seen.contains("\"state\":\"complete\""), "{seen}");
    second.0.wait().expect("curl");
}

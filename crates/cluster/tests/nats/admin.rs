//! Requests to JetStream as an administrator makes them.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use async_nats::{Client, ConnectOptions};
use fanfare_cluster::log::Sequence;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep, timeout};

use crate::hub::PATIENCE;

pub const STREAM: &str = "FANFARE_test";

/// Stores a message with a block of headers, which is sent as it is.
pub fn store(port: u16, headers: &str, content: &str) {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
    let headers = format!("{headers}\r\n\r\n");
    let (begin, all) = (headers.len(), headers.len() + content.len());
    let connect = "CONNECT {\"verbose\":false,\"headers\":true,\"protocol\":1}";
    let text = format!(
        "{connect}\r\nHPUB fanfare.test.log {begin} {all}\r\n{headers}{content}\r\nPING\r\n"
    );
    socket.write_all(text.as_bytes()).expect("a connection");
    let mut lines = BufReader::new(socket).lines().map(|line| line.expect("a line"));
    let answer = lines.find(|line| !line.starts_with("INFO"));
    assert_eq!(answer.as_deref(), Some("PONG"));
}

/// A connection for requests to JetStream.
pub struct Admin {
    runtime: Runtime,
    client: Client,
}

impl Admin {
    pub fn connect(servers: &[String]) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let addresses: Vec<async_nats::ServerAddr> =
            servers.iter().map(|url| url.parse().expect("an address")).collect();
        let options = ConnectOptions::new().ping_interval(Duration::from_secs(1));
        let client = runtime.block_on(options.connect(addresses)).expect("a connection");
        Self { runtime, client }
    }

    /// Makes a request until it is answered without an error.
    pub fn call(&self, operation: &str, body: &Value) -> Value {
        let deadline = Instant::now() + PATIENCE;
        self.runtime.block_on(async {
            loop {
                let answer = self.try_call(operation, body).await;
                match answer {
                    Some(answer) if answer.get("error").is_none() => return answer,
                    other => assert!(Instant::now() < deadline, "{operation}: {other:?}"),
                }
                sleep(Duration::from_millis(100)).await;
            }
        })
    }

    async fn try_call(&self, operation: &str, body: &Value) -> Option<Value> {
        let body = serde_json::to_vec(body).expect("JSON");
        let request = self.client.request(format!("$JS.API.{operation}"), body.into());
        let answer = timeout(Duration::from_secs(2), request).await.ok()?.ok()?;
        serde_json::from_slice(&answer.payload).ok()
    }

    pub fn info(&self) -> Value {
        self.call(&format!("STREAM.INFO.{STREAM}"), &json!({}))
    }

    pub fn last(&self) -> Sequence {
        Sequence(self.info()["state"]["last_seq"].as_u64().expect("a number"))
    }

    /// Returns the name of the server that leads the stream.
    pub fn leader(&self) -> String {
        self.info()["cluster"]["leader"].as_str().expect("a leader").to_owned()
    }

    pub fn delete(&self) {
        self.call(&format!("STREAM.DELETE.{STREAM}"), &json!({}));
    }

    /// Changes fields of the stream's configuration.
    pub fn edit(&self, fields: &Value) {
        let mut config = self.info()["config"].clone();
        for (name, value) in fields.as_object().expect("fields") {
            config[name] = value.clone();
        }
        self.call(&format!("STREAM.UPDATE.{STREAM}"), &config);
    }
}

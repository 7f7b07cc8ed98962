//! Hubs of a cluster, and what they answer.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

use fanfare_testing::http::{get, request};
use fanfare_testing::nats::NatsServer;
use fanfare_testing::{HubProcess, eventually, free_address, until};
use serde_json::Value;

/// The exit code of a hub that has left its cluster.
pub const LEFT_CLUSTER: i32 = 75;

/// A hub of this name on the server, which is not started yet.
pub fn hub(server: &NatsServer, name: &str) -> HubProcess {
    hub_at(free_address(), server, name)
}

/// A hub of this name on the server that will listen at this address.
pub fn hub_at(addr: SocketAddr, server: &NatsServer, name: &str) -> HubProcess {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command.envs([
        ("FANFARE_CLUSTER__BACKPLANE", "nats"),
        ("FANFARE_CLUSTER__NAME", "test"),
        ("FANFARE_CLUSTER__NODE", name),
        ("FANFARE_CLUSTER__SERVERS", &server.url()),
        ("FANFARE_CLUSTER__REPLICAS", "1"),
        ("FANFARE_CLUSTER__MAX_BYTES", "64MiB"),
        ("FANFARE_CLUSTER__STALE_AFTER", "2s"),
        ("FANFARE_DRAIN__WINDOW", "1s"),
    ]);
    HubProcess::at(addr, free_address(), command)
}

/// Returns the JSON after the head of an answer.
pub fn json(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// Publishes an event, and returns its id.
pub async fn publish(hub: &HubProcess, channel: &str, data: &str) -> String {
    let length = data.len();
    let head = format!("POST /v1/channels/{channel} HTTP/1.1\r\nContent-Length: {length}");
    let answer = request(hub.addr(), &head, data).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    json(&answer)["last_id"].as_str().expect("an id").to_owned()
}

/// Returns the data of the published events after this id; of all without one. An id that this hub has not
/// reached is waited for.
pub async fn read(hub: &HubProcess, channel: &str, after: Option<&str>) -> Vec<String> {
    let from = after.map_or("from=earliest".to_owned(), |id| format!("last_event_id={id}"));
    let page = json(&get(hub.addr(), &format!("/v1/channels/{channel}?{from}")).await);
    let events = page["events"].as_array().unwrap_or_else(|| panic!("{page}")).iter();
    let published = events.filter(|event| event["event"].is_null());
    published.map(|event| event["data"].as_str().expect("data").to_owned()).collect()
}

/// Returns the cluster as the hub sees it.
pub async fn cluster(hub: &HubProcess) -> Value {
    json(&get(hub.admin(), "/v1/cluster").await)
}

/// Returns the names of the hubs of the cluster, as the hub sees them.
pub async fn names(hub: &HubProcess) -> Vec<String> {
    let cluster = cluster(hub).await;
    let nodes = cluster["nodes"].as_array().expect("a list").iter();
    nodes.map(|node| node["name"].as_str().expect("a name").to_owned()).collect()
}

/// Waits until the hub says that it is not ready for this reason, and returns what it says.
pub async fn not_ready(hub: &HubProcess, reason: &str) -> Value {
    eventually(reason, async || {
        let answer = get(hub.admin(), "/readyz").await;
        let not_ready = answer.starts_with("HTTP/1.1 503").then(|| json(&answer));
        not_ready.filter(|problem| problem["reason"] == reason)
    })
    .await
}

/// Waits until the hub is ready.
pub async fn ready(hub: &HubProcess) {
    eventually("the hub to be ready", async || {
        get(hub.admin(), "/readyz").await.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
}

/// Waits until the socket at this address listens.
pub fn listens(addr: SocketAddr) {
    until("a listener", || TcpStream::connect(addr).ok().map(drop));
}

/// Deletes the stream of the cluster.
pub fn delete_stream(server: &NatsServer) {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port())).unwrap();
    let request = "CONNECT {\"verbose\":false}\r\nSUB inbox 1\r\n\
                   PUB $JS.API.STREAM.DELETE.FANFARE_test inbox 0\r\n\r\n";
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    let mut piece = [0; 4096];
    while !answer.contains("\"success\":true") {
        let read = socket.read(&mut piece).unwrap();
        assert!(read > 0 && !answer.contains("\"error\""), "{answer}");
        answer.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
}

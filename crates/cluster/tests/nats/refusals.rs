//! Servers and streams that cannot be used are refused in a sentence that helps.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::thread;
use std::time::Duration;

use fanfare_cluster::log::LogEnd;
use fanfare_cluster::nats::{Config, StreamSettings};
use serde_json::json;

use crate::admin::{Admin, STREAM};
use crate::hub::{Hub, config};
use crate::server::{NatsServer, Setup};

pub fn assert_refused(config: Config, text: &str) {
    match Hub::start(config).end() {
        LogEnd::Refused(reason) => assert!(reason.contains(text), "`{text}` is not in: {reason}"),
        other => panic!("{other:?}"),
    }
}

pub fn replicated(config: Config) -> Config {
    let stream = StreamSettings { replicas: 3, ..config.stream };
    Config { stream, ..config }
}

#[test]
fn a_server_that_takes_small_messages_only_is_refused() {
    let server = NatsServer::configured("max_payload: 32KB\n");
    let text = "`max_payload` of the NATS server must be at least 65536 bytes, and is 32768";
    assert_refused(config(&[server.url()]), text);
}

#[test]
fn a_stream_with_other_settings_is_refused() {
    let server = NatsServer::one();
    let servers = [server.url()];
    let admin = Admin::connect(&servers);
    let stream = json!({
        "name": STREAM, "subjects": ["fanfare.test.log"], "retention": "limits", "discard": "new",
        "storage": "file", "num_replicas": 1, "max_bytes": 1 << 20, "max_msgs": -1,
        "allow_direct": true, "description": "mine", "allow_msg_ttl": true,
        "allow_rollup_hdrs": true, "first_seq": 7, "persist_mode": "async",
        "subject_transform": { "src": ">", "dest": ">" },
    });
    admin.call(&format!("STREAM.CREATE.{STREAM}"), &stream);
    for text in [
        "the stream `FANFARE_test` has other settings than this hub needs",
        "`discard` is \"new\" and must be \"old\"",
        "`deny_purge` is false and must be true",
        "`max_bytes` is 1048576 and must be at least 67108864",
        "`republish` is null and must be {",
        "`allow_msg_ttl` is true and must be false",
        "`allow_rollup_hdrs` is true and must be false",
        "`first_seq` is 7 and must be 0",
        "`persist_mode` is \"async\" and must be \"default\"",
        "`subject_transform` is {\"dest\":\">\",\"src\":\">\"} and must be null",
        "nats stream edit",
    ] {
        assert_refused(config(&servers), text);
    }
}

#[test]
fn a_stream_of_somebody_else_or_of_a_later_format_is_refused() {
    let server = NatsServer::one();
    let servers = [server.url()];
    drop(Hub::start(config(&servers)).opened());
    let admin = Admin::connect(&servers);
    admin.edit(&json!({ "description": "fanfare format=2 epoch=k7q2xm lease=5000ms" }));
    let text = "has messages of format 2, and this hub reads format 1: update the hub";
    assert_refused(config(&servers), text);
    admin.edit(&json!({ "description": "fanfare format=1 epoch=k7q2xm lease=0ms" }));
    assert_refused(config(&servers), "must be from 5s to 10m");
    admin.edit(&json!({ "description": "mine" }));
    assert_refused(config(&servers), "is not a log of Fanfare: its description is `mine`");
}

#[test]
fn a_hub_with_another_secret_is_refused() {
    let server = NatsServer::one();
    let with =
        |secret: Option<&str>| Config { secret: secret.map(Into::into), ..config(&[server.url()]) };
    drop(Hub::start(with(Some("65e9c2d4"))).opened());
    assert_refused(with(Some("0a0b0c0d")), "was created with another `cluster.secret`");
    assert_refused(with(None), "was created with a `cluster.secret`, and this hub has none");
    drop(Hub::start(with(Some("65e9c2d4"))).opened());
    Admin::connect(&[server.url()]).delete();
    drop(Hub::start(with(None)).opened());
    assert_refused(with(Some("65e9c2d4")), "was created without a `cluster.secret`");
}

#[test]
fn replicas_need_more_than_one_server() {
    let server = NatsServer::one();
    let text = "`replicas = 3` needs a cluster of NATS servers, and this server has no other";
    assert_refused(replicated(config(&[server.url()])), text);
}

#[test]
fn a_lack_of_room_and_of_jetstream_is_reported_until_it_is_gone() {
    let with = |room| NatsServer::with(&Setup { room: Some(room), ..Setup::default() });
    let small = with("max_file_store: 1MB, max_memory_store: 1MB");
    let hub = Hub::start(config(&[small.url()]));
    hub.wait_for_problem("have no room for a stream of 67108864 bytes");
    let without = with("");
    let hub = Hub::start(config(&[without.url()]));
    hub.wait_for_problem("JetStream: it is not enabled for this account");
}

#[test]
fn a_hub_that_is_not_to_create_the_stream_waits_for_it() {
    let server = NatsServer::one();
    let servers = [server.url()];
    let mut waiting = config(&servers);
    waiting.stream.create = false;
    let waiting = Hub::start(waiting);
    waiting.wait_for_problem("the stream `FANFARE_test` does not exist");
    let _creating = Hub::start(config(&servers)).opened();
    waiting.opened();
}

#[test]
fn servers_that_are_too_old_are_refused() {
    for (version, replicas, text) in [
        ("2.8.4", 1, "the NATS server is 2.8.4, and `feed = \"tail\"` needs 2.10.0 or later"),
        ("2.10.22", 3, "the NATS server is 2.10.22, and 3 replicas needs 2.10.23 or later"),
        ("new", 1, "the server has no version: `new`"),
    ] {
        let mut config = config(&[pretend(version)]);
        config.stream.replicas = replicas;
        assert_refused(config, text);
    }
}

/// Returns the address of a server that only says which version it is.
fn pretend(version: &str) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let info = format!("INFO {{\"version\":\"{version}\",\"max_payload\":1048576}} \r\n");
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("a client");
        socket.write_all(info.as_bytes()).expect("a client");
        for line in BufReader::new(socket.try_clone().expect("a socket")).lines() {
            if line.is_ok_and(|line| line == "PING") {
                socket.write_all(b"PONG\r\n").expect("a client");
            }
        }
    });
    format!("nats://127.0.0.1:{port}")
}

#[test]
fn settings_that_are_not_valid_are_refused_at_once() {
    let refuse = |change: fn(&mut Config), text: &str| {
        let mut config = config(&["nats://localhost:4222".to_owned()]);
        change(&mut config);
        let error = Hub::try_start(config).err().expect("an error").to_string();
        assert!(error.contains(text), "{error}");
    };
    refuse(|config| config.servers.clear(), "must not be empty");
    refuse(
        |config| config.servers.push("nats://a b".to_owned()),
        "`nats://a b` is not the address",
    );
    refuse(|config| config.name = "a.b".to_owned(), "and is `a.b`");
    refuse(|config| config.stream.replicas = 2, "must be 1, 3 or 5, and is 2");
    refuse(|config| config.node.clear(), "the name of a hub must not be empty");
    refuse(|config| config.stream.max_bytes = 0, "`max_bytes` of the log must not be 0");
    refuse(|config| config.stream.max_age = Duration::ZERO, "`max_age` of the log must be at");
    let lease = "the lease must be from 5s to 10m, and is";
    refuse(|config| config.stream.lease = Duration::ZERO, lease);
    refuse(|config| config.stream.lease = Duration::from_secs(601), lease);
}

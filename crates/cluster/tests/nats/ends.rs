//! The log ends for a hub that can no longer follow it.

use std::thread;
use std::time::Duration;

use bytes::Bytes;
use fanfare_cluster::log::{
    LogEnd, LogInfo, LogReader, LogWriter, Message, NotStored, SendNumber, Sequence,
};
use fanfare_cluster::nats::{Config, Feed, NatsLog};
use serde_json::json;
use tokio::time::Instant;

use crate::admin::{Admin, store};
use crate::hub::{Hub, PATIENCE, assert_equal, config};
use crate::proxy::Proxy;
use crate::server::NatsServer;

fn config_of(feed: Feed, servers: &[String]) -> Config {
    Config { feed, ..config(servers) }
}

fn assert_replaced(hub: &Hub, text: &str) {
    assert_replaced_for(hub, &[text]);
}

fn assert_replaced_for(hub: &Hub, texts: &[&str]) {
    match hub.end() {
        LogEnd::Replaced(reason) => {
            assert!(texts.iter().any(|text| reason.contains(text)), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_that_is_deleted_and_made_again_is_another_log() {
    let server = NatsServer::one();
    let servers = [server.url()];
    let hub = Hub::start(config_of(Feed::Tail, &servers)).opened();
    let mut by_consumer = Hub::start(config_of(Feed::Consumer, &servers)).opened();
    by_consumer.load(10, 100, 2);
    Admin::connect(&servers).delete();
    let mut next = Hub::start(config(&servers)).opened();
    next.load(30, 100, 2);
    // By its first messages, or by its state if a hub asks for that earlier.
    for hub in [&hub, &by_consumer] {
        assert_replaced_for(hub, &["is another one than was read", "its epoch is"]);
    }
}

#[test]
fn a_stream_that_is_deleted_is_gone() {
    let server = NatsServer::one();
    let servers = [server.url()];
    let hub = Hub::start(config_of(Feed::Tail, &servers)).opened();
    let by_consumer = Hub::start(config_of(Feed::Consumer, &servers)).opened();
    Admin::connect(&servers).delete();
    assert_replaced(&hub, "the stream `FANFARE_test` was deleted");
    assert_replaced(&by_consumer, "the stream `FANFARE_test` was deleted");
}

#[test]
fn a_log_that_has_lost_its_end_is_another_one() {
    let server = NatsServer::one();
    let proxy = Proxy::start(server.port());
    let admin = Admin::connect(&[server.url()]);
    let feeds = [Feed::Tail, Feed::Consumer];
    let hubs = feeds.map(|feed| Hub::start(config_of(feed, &[proxy.url()])).opened());
    let mut other = Hub::start(config(&[server.url()])).opened();
    other.load(10, 100, 2);
    let read = admin.last();
    hubs.iter().for_each(|hub| hub.wait("last message", |_| hub.log.health().read == read));
    proxy.cut();
    // The last two messages are replaced by two of another hub.
    let config_of_stream = admin.info()["config"].clone();
    admin.delete();
    admin.call("STREAM.CREATE.FANFARE_test", &config_of_stream);
    drop(other);
    let again = Hub::start(config(&[server.url()])).opened();
    let contents = hubs[0].recorded(|recorded| recorded.messages.clone());
    for (at, message) in contents.iter().enumerate() {
        let content =
            if at + 2 < contents.len() { message.content.clone() } else { "another".into() };
        again.log.send(SendNumber(at as u64), content);
        again.wait("message", |recorded| recorded.messages.len() > at);
    }
    // No request for a single message is answered: the comparison does not depend on one.
    proxy.observe(|subject| !subject.contains("DIRECT.GET"));
    proxy.restore();
    for hub in &hubs {
        assert_replaced(hub, "is another one");
    }
}

#[test]
fn messages_that_are_trimmed_before_they_are_read_are_reported() {
    let server = NatsServer::one();
    let proxy = Proxy::start(server.port());
    let feeds = [Feed::Tail, Feed::Consumer];
    let hubs = feeds.map(|feed| Hub::start(config_of(feed, &[proxy.url()])).opened());
    let mut other = Hub::start(config(&[server.url()])).opened();
    other.load(10, 100, 2);
    let admin = Admin::connect(&[server.url()]);
    let read = admin.last();
    hubs.iter().for_each(|hub| hub.wait("last message", |_| hub.log.health().read == read));
    proxy.cut();
    other.load(50, 100, 4);
    admin.edit(&json!({ "max_msgs": 20 }));
    admin.edit(&json!({ "max_msgs": -1 }));
    proxy.restore();
    let gone = LogEnd::Deleted { from: read.next(), to: Sequence(admin.last().0 - 20) };
    assert_eq!(hubs.map(|hub| hub.end()), [gone.clone(), gone]);
}

#[test]
fn a_log_that_is_trimmed_while_a_hub_starts_begins_later() {
    for feed in [Feed::Tail, Feed::Consumer] {
        let server = NatsServer::one();
        let proxy = Proxy::start(server.port());
        let mut other = Hub::start(config(&[server.url()])).opened();
        other.load(50, 100, 4);
        // Each time that the hub begins to read, five messages more are deleted.
        let admin = Admin::connect(&[server.url()]);
        let mut kept = 50;
        proxy.observe(move |subject| {
            if subject.contains("CONSUMER.CREATE") && kept > 10 {
                kept -= 5;
                admin.edit(&json!({ "max_msgs": kept }));
            }
            true
        });
        let hub = Hub::start(config_of(feed, &[proxy.url()])).opened();
        other.load(5, 100, 4);
        assert_equal(&[&other, &hub], other.log.health().read);
    }
}

#[test]
fn a_hub_can_start_after_a_message_that_is_missing() {
    let server = NatsServer::one();
    let servers = [server.url()];
    drop(Hub::start(config(&servers)).opened());
    let admin = Admin::connect(&servers);
    let mut config_of_stream = admin.info()["config"].clone();
    admin.delete();
    config_of_stream["deny_delete"] = false.into();
    admin.call("STREAM.CREATE.FANFARE_test", &config_of_stream);
    (0..10).for_each(|_| store(server.port(), "NATS/1.0", "a message"));
    admin.call("STREAM.MSG.DELETE.FANFARE_test", &json!({ "seq": 5 }));
    admin.edit(&json!({ "deny_delete": true }));
    for feed in [Feed::Tail, Feed::Consumer] {
        let missing = LogEnd::Deleted { from: Sequence(5), to: Sequence(5) };
        assert_eq!(Hub::start(config_of(feed, &servers)).end(), missing);
        let hub = Hub::start_from(config_of(feed, &servers), Sequence(6)).opened();
        assert_equal(&[&hub], Sequence(10));
        assert_eq!(hub.recorded(|recorded| recorded.messages[0].sequence), Sequence(6));
    }
}

struct Panics;

impl LogReader for Panics {
    fn opened(&mut self, _: LogInfo) {}
    fn message(&mut self, _: Message) {
        panic!("the panic of this test");
    }
    fn caught_up(&mut self) {}
    fn not_stored(&mut self, _: SendNumber, _: NotStored) {}
    fn broadcast(&mut self, _: Bytes) {}
    fn ended(&mut self, _: LogEnd) {}
}

#[test]
fn a_reader_that_panics_is_reported() {
    let server = NatsServer::one();
    let log = NatsLog::start(config(&[server.url()]), None, Box::new(Panics)).expect("a thread");
    let deadline = Instant::now() + PATIENCE;
    let mut is_sent = false;
    while log.health().problem.is_none_or(|text| !text.contains("has panicked")) {
        assert!(Instant::now() < deadline, "{:?}", log.health());
        if !is_sent && log.health().server.is_some() {
            log.send(SendNumber(1), "a message".into());
            is_sent = true;
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(log.health().server, None);
}

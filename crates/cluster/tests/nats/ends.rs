//! The log ends for a hub that can no longer follow it.

use fanfare_cluster::log::{LogEnd, Sequence};
use fanfare_cluster::nats::{Config, Feed};
use serde_json::json;

use crate::admin::Admin;
use crate::hub::{Hub, config};
use crate::proxy::Proxy;
use crate::server::NatsServer;

fn config_of(feed: Feed, servers: &[String]) -> Config {
    Config { feed, ..config(servers) }
}

fn assert_replaced(hub: &Hub, text: &str) {
    match hub.end() {
        LogEnd::Replaced(reason) => assert!(reason.contains(text), "{reason}"),
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
    assert_replaced(&hub, "");
    assert_replaced(&by_consumer, "epoch");
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
        let number = fanfare_cluster::log::SendNumber(at as u64);
        fanfare_cluster::log::LogWriter::send(&again.log, number, content);
        again.wait("message", |recorded| recorded.messages.len() > at);
    }
    proxy.restore();
    for hub in &hubs {
        match hub.end() {
            LogEnd::Replaced(reason) => assert!(reason.contains("is another one"), "{reason}"),
            other => panic!("{other:?}"),
        }
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

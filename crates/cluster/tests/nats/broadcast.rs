//! Broadcasts between hubs.

use std::time::Duration;

use bytes::Bytes;
use fanfare_cluster::log::{LogWriter, MAX_BROADCAST};
use fanfare_cluster::nats::{Config, Feed};
use tokio::time::Instant;

use crate::access::with_password;
use crate::hub::{Hub, PATIENCE, Recorded, config};
use crate::proxy::Proxy;
use crate::server::{NatsServer, Setup};

/// Sends a broadcast until another hub has received it: it may be lost.
fn broadcast_until_received(from: &Hub, to: &Hub, content: &'static str) {
    let deadline = Instant::now() + PATIENCE;
    let has_it = |recorded: &Recorded| recorded.broadcasts.iter().any(|it| it == content);
    while !to.recorded(has_it) {
        assert!(Instant::now() < deadline, "{:?} {:?}", from.log.health(), to.log.health());
        from.log.broadcast(content.into());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_broadcast_reaches_the_other_hubs_and_not_its_sender() {
    for is_old in [false, true] {
        let server = NatsServer::with(&Setup { is_old, ..Setup::default() });
        let feeds =
            if is_old { [Feed::Consumer; 3] } else { [Feed::Tail, Feed::Consumer, Feed::Tail] };
        let start = |feed| Hub::start(Config { feed, ..config(&[server.url()]) }).opened();
        let mut hubs = feeds.map(start);
        let [first, second, third] = &hubs;
        broadcast_until_received(second, first, "ready");
        broadcast_until_received(first, second, "ready");
        broadcast_until_received(first, third, "ready");
        // Too large for a broadcast: discarded.
        first.log.broadcast(Bytes::from(vec![b'x'; MAX_BROADCAST + 1]));
        first.log.broadcast(Bytes::from(vec![b'x'; MAX_BROADCAST]));
        for hub in [second, third] {
            hub.wait("large broadcast", |recorded| {
                recorded.broadcasts.iter().any(|it| it.len() == MAX_BROADCAST)
            });
            let is_too_large = |it: &Bytes| it.len() > MAX_BROADCAST;
            assert!(!hub.recorded(|recorded| recorded.broadcasts.iter().any(is_too_large)));
        }
        // What it has sent before this would have come back before this.
        broadcast_until_received(second, first, "last");
        let is_own = |it: &Bytes| it.len() >= MAX_BROADCAST;
        assert!(!first.recorded(|recorded| recorded.broadcasts.iter().any(is_own)));
        // They are not in the log.
        hubs[0].load(1, 100, 1);
        assert_eq!(hubs[0].recorded(|recorded| recorded.messages.len()), 1);
    }
}

#[test]
fn broadcasts_work_after_a_connection_was_lost_and_are_not_sent_late() {
    let server = NatsServer::one();
    let proxy = Proxy::start(server.port());
    let cut = Hub::start(config(&[proxy.url()])).opened();
    let other = Hub::start(config(&[server.url()])).opened();
    broadcast_until_received(&cut, &other, "before");
    broadcast_until_received(&other, &cut, "before");
    proxy.cut();
    cut.wait_for_problem("no NATS server accepts a connection");
    cut.log.broadcast("without a connection".into());
    proxy.restore();
    broadcast_until_received(&other, &cut, "after");
    broadcast_until_received(&cut, &other, "after");
    let is_late = |it: &Bytes| it == "without a connection";
    assert!(!other.recorded(|recorded| recorded.broadcasts.iter().any(is_late)));
}

#[test]
fn a_hub_that_may_not_broadcast_works_and_reports_it() {
    let denied = "deny: \"fanfare.test.viewers\"";
    for (permissions, text) in [
        (format!("publish: {{ {denied} }}"), "Publish to \"fanfare.test.viewers\""),
        (format!("subscribe: {{ {denied} }}"), "Subscription to \"fanfare.test.viewers\""),
    ] {
        let server = NatsServer::configured(&format!(
            "authorization {{ users: [ {{ user: hub, password: secret, \
             permissions: {{ {permissions} }} }} ] }}\n"
        ));
        let mut hub = with_password(&server.url(), "secret").opened();
        let deadline = Instant::now() + PATIENCE;
        let has_text = |problem: Option<Box<str>>| problem.is_some_and(|it| it.contains(text));
        while !has_text(hub.log.health().broadcast_problem) {
            assert!(Instant::now() < deadline, "no `{text}`: {:?}", hub.log.health());
            hub.log.broadcast("a broadcast".into());
            std::thread::sleep(Duration::from_millis(20));
        }
        hub.load(20, 100, 2);
        assert_eq!(hub.log.health().problem, None);
        assert!(has_text(hub.log.health().broadcast_problem));
    }
}

//! Messages that the tail has lost are read in their place.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use fanfare_cluster::log::{NotStored, Sequence};
use fanfare_cluster::nats::{Config, Feed};

use crate::admin::{Admin, store};
use crate::hub::{Hub, assert_equal, config};
use crate::proxy::Proxy;
use crate::server::NatsServer;

/// Runs a load while a hub loses messages of the tail. Returns the hub's health at the end.
fn lose(
    count: u32,
    discards: impl FnMut(u64) -> bool + Send + 'static,
) -> fanfare_cluster::nats::Health {
    let server = NatsServer::one();
    let proxy = Proxy::start(server.port());
    let lossy = Hub::start(config(&[proxy.url()])).opened();
    proxy.discard(discards);
    let mut other = Hub::start(config(&[server.url()])).opened();
    other.load(count, 100, 8);
    assert_equal(&[&other, &lossy], Admin::connect(&[server.url()]).last());
    lossy.log.health()
}

#[test]
fn single_messages_are_requested() {
    let health = lose(500, |number| number % 5 == 3);
    assert!(health.filled_by_request >= 100, "{health:?}");
    assert_eq!(health.read_by_consumer, 0, "{health:?}");
}

#[test]
fn many_messages_are_read_by_a_consumer() {
    let health = lose(1000, |number| (100..600).contains(&number));
    assert!(health.read_by_consumer >= 100, "{health:?}");
}

#[test]
fn the_last_messages_are_missed_after_a_silence() {
    let health = lose(50, |number| number > 40);
    assert!(health.filled_by_request >= 10, "{health:?}");
    assert_eq!(health.connections, 1, "{health:?}");
}

#[test]
fn a_server_that_does_not_answer_is_the_last_that_is_tried_again() {
    let server = NatsServer::one();
    let proxies = [(); 3].map(|()| Proxy::start(server.port()));
    let urls = proxies.iter().map(Proxy::url).collect::<Vec<_>>();
    let [first, silent, last] = proxies;
    // Wherever the hub begins, it comes to this one.
    first.cut();
    last.cut();
    let hub = Hub::start(config(&urls)).opened();
    last.restore();
    let requests = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&requests);
    silent.discard(|_| true);
    silent.observe(move |subject| {
        let is_request = subject.contains("STREAM.INFO");
        counted.fetch_add(u32::from(is_request), Ordering::Relaxed);
        !is_request
    });
    let mut other = Hub::start(config(&[server.url()])).opened();
    other.load(5, 100, 1);
    assert_equal(&[&other, &hub], other.log.health().read);
    assert_eq!(requests.load(Ordering::Relaxed), 1);
}

#[test]
fn a_server_that_does_not_answer_is_left_early() {
    let server = NatsServer::one();
    let proxy = Proxy::start(server.port());
    let hub = Hub::start(config(&[proxy.url()])).opened();
    let mut other = Hub::start(config(&[server.url()])).opened();
    other.load(5, 100, 1);
    hub.wait("messages", |recorded| recorded.messages.len() >= 5);
    proxy.discard(|_| true);
    proxy.observe(|subject| !subject.contains("STREAM.INFO"));
    // Not by the longer time after which silence alone is a reason.
    hub.wait_for_problem("");
    let problem = hub.log.health().problem.expect("a problem");
    assert!(problem.contains("has not answered within 1s"), "{problem}");
    proxy.discard(|_| false);
    proxy.observe(|_| true);
    other.load(5, 100, 1);
    assert_equal(&[&other, &hub], other.log.health().read);
}

#[test]
fn headers_of_a_publisher_are_not_believed() {
    let server = NatsServer::one();
    let servers = [server.url()];
    let by_consumer = Config { feed: Feed::Consumer, ..config(&servers) };
    let mut hubs = [config(&servers), by_consumer.clone()].map(|it| Hub::start(it).opened());
    hubs[0].load(3, 100, 1);
    for headers in [
        "NATS/1.0\r\nNats-Time-Stamp: 2500-01-01T00:00:00Z",
        "NATS/1.0\r\nNats-Sequence: 18446744073709551615",
        "NATS/1.0\r\nNats-Sequence: 20",
        "NATS/1.0 100 Idle Heartbeat",
        "NATS/1.0 408 Request Timeout",
        "NATS/1.0 503",
    ] {
        store(server.port(), headers, "a message");
    }
    hubs[0].load(20, 100, 1);
    let last = Admin::connect(&servers).last();
    assert!(last >= Sequence(29));
    let late = [config(&servers), by_consumer].map(|it| Hub::start(it).opened());
    assert_equal(&[&hubs[0], &hubs[1], &late[0], &late[1]], last);
}

#[test]
fn a_lost_connection_is_made_again_and_nothing_is_sent_later() {
    let server = NatsServer::one();
    let proxy = Proxy::start(server.port());
    let mut hub = Hub::start(config(&[proxy.url()])).opened();
    let mut other = Hub::start(config(&[server.url()])).opened();
    hub.load(20, 100, 2);
    proxy.cut();
    hub.wait_for_problem("no NATS server accepts a connection");
    let unsent = hub.send(100);
    hub.wait("report", |recorded| !recorded.not_stored.is_empty());
    let reports = hub.recorded(|recorded| recorded.not_stored.clone());
    assert_eq!(reports, [(unsent, NotStored::Unavailable)]);
    other.load(200, 100, 4);
    proxy.restore();
    let admin = Admin::connect(&[server.url()]);
    assert_equal(&[&other, &hub], admin.last());
    let health = hub.log.health();
    assert_eq!((health.connections, health.problem), (2, None));
    // What was sent without a connection would be stored before the next message.
    let next = hub.send(100);
    other.wait("next message", |it| it.messages.iter().any(|message| hub.is_own(message, next)));
    let stored = other.recorded(|it| it.messages.clone());
    assert!(!stored.iter().any(|message| hub.is_own(message, unsent)), "it was sent later");
}

#[test]
fn a_log_that_stores_nothing_reports_it() {
    let server = NatsServer::one();
    let mut hub = Hub::start(config(&[server.url()])).opened();
    let too_large = hub.send((1 << 20) + 1);
    hub.wait("report", |recorded| !recorded.not_stored.is_empty());
    let reports = hub.recorded(|recorded| recorded.not_stored.clone());
    assert_eq!(reports, [(too_large, NotStored::Refused)]);
    Admin::connect(&[server.url()]).delete();
    let unstored = hub.send(100);
    hub.wait("report", |recorded| recorded.not_stored.len() == 2);
    let reports = hub.recorded(|recorded| recorded.not_stored.clone());
    assert_eq!(reports[1], (unstored, NotStored::Unavailable));
}

//! All hubs read one order, whenever they start and by whatever feed.

use std::time::Duration;

use fanfare_cluster::log::Sequence;
use fanfare_cluster::nats::{Config, Feed};

use crate::admin::Admin;
use crate::hub::{Hub, Recorded, assert_equal, config};
use crate::server::NatsServer;

fn by_consumer(config: Config) -> Config {
    Config { feed: Feed::Consumer, ..config }
}

#[test]
fn hubs_that_start_later_read_all_from_the_first_message() {
    let server = NatsServer::one();
    let servers = [server.url()];
    let mut first = Hub::start(config(&servers)).opened();
    let info = first.recorded(|recorded| recorded.info.clone()).expect("the properties");
    let front = |recorded: &Recorded| recorded.messages.first().map(|message| message.sequence);
    assert_eq!(first.recorded(front), None);
    assert_eq!(info.lease, Duration::from_secs(5));
    assert_eq!(info.max_message, 1 << 20);
    first.load(1500, 200, 32);
    assert_eq!(first.recorded(front), Some(Sequence(1)));
    let last = Admin::connect(&servers).last();
    let by_tail = Hub::start(config(&servers)).opened();
    let by_consumer = Hub::start(by_consumer(config(&servers))).opened();
    for hub in [&by_tail, &by_consumer] {
        assert_eq!(hub.recorded(|recorded| recorded.info.clone()), Some(info.clone()));
        let caught_up_at = hub.recorded(|recorded| recorded.caught_up_at).expect("caught up");
        assert!(caught_up_at >= last.0 as usize, "{caught_up_at} of {last:?}");
        assert!(hub.log.health().is_caught_up);
        assert_eq!(hub.log.health().server.as_deref(), Some("n1"));
    }
    first.load(300, 200, 2);
    let last = Admin::connect(&servers).last();
    assert_equal(&[&first, &by_tail, &by_consumer], last);
    assert_eq!(by_tail.log.health().lag(), 0);
}

#[test]
fn hubs_that_create_the_log_at_once_have_one_epoch() {
    let server = NatsServer::one();
    let servers = [server.url()];
    let hubs: Vec<_> = (0..4).map(|_| Hub::start(config(&servers))).collect();
    let hubs: Vec<_> = hubs.into_iter().map(Hub::opened).collect();
    let epoch = |hub: &Hub| hub.recorded(|recorded| recorded.info.clone()).expect("open").epoch;
    assert!(hubs.iter().all(|hub| epoch(hub) == epoch(&hubs[0])));
}

#[test]
fn large_messages_are_read_whole() {
    let server = NatsServer::one();
    let servers = [server.url()];
    let mut hub = Hub::start(config(&servers)).opened();
    hub.load(20, 1 << 20, 2);
    let other = Hub::start(by_consumer(config(&servers))).opened();
    assert_equal(&[&hub, &other], Sequence(20));
}

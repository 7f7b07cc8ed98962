//! The oldest version of servers that is accepted: without replicas, and by a consumer.

use fanfare_cluster::nats::{Config, Feed};

use crate::admin::Admin;
use crate::hub::{Hub, assert_equal, config};
use crate::refusals::{assert_refused, replicated};
use crate::server::{NatsServer, Setup};

/// Starts the server of the distribution: of Debian 12, that is 2.9.10. A later one is not old.
fn old() -> Option<NatsServer> {
    let server = NatsServer::with(&Setup { is_old: true, ..Setup::default() });
    let is_old = server.version().starts_with("nats-server: v2.9.");
    if !is_old {
        eprintln!("not tested: the distribution has {}", server.version());
    }
    is_old.then_some(server)
}

#[test]
fn an_old_server_is_read_by_a_consumer() {
    let Some(mut server) = old() else { return };
    let servers = [server.url()];
    let by_consumer = || Config { feed: Feed::Consumer, ..config(&servers) };
    let mut hub = Hub::start(by_consumer()).opened();
    hub.load(600, 100, 8);
    server.kill();
    server.start();
    hub.load(20, 100, 2);
    let other = Hub::start(by_consumer()).opened();
    assert_equal(&[&hub, &other], Admin::connect(&servers).last());
}

#[test]
fn an_old_server_is_refused_for_replicas_and_for_the_tail() {
    let Some(server) = old() else { return };
    let text = ", and 3 replicas needs 2.10.23 or later";
    assert_refused(replicated(config(&[server.url()])), text);
    let text = ", and `feed = \"tail\"` needs 2.10.0 or later, or `feed = \"consumer\"`";
    assert_refused(config(&[server.url()]), text);
}

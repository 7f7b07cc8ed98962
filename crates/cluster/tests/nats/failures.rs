//! Three servers, of which some fail under load.

use std::thread;
use std::time::Duration;

use fanfare_cluster::nats::{Config, Feed};

use crate::admin::Admin;
use crate::hub::{Hub, assert_equal, config};
use crate::refusals::replicated;
use crate::server::NatsCluster;

/// The hubs of a cluster: each begins with a server of its own.
struct Hubs {
    senders: Vec<Hub>,
    by_consumer: Hub,
}

impl Hubs {
    fn start(cluster: &NatsCluster) -> Self {
        let urls = cluster.urls();
        let start = |feed| Hub::start(Config { feed, ..replicated(config(&urls)) });
        let senders = (0..3).map(|_| start(Feed::Tail)).collect::<Vec<_>>();
        let senders = senders.into_iter().map(Hub::opened).collect();
        Self { senders, by_consumer: start(Feed::Consumer).opened() }
    }

    /// Sends messages by all hubs while something fails.
    fn load(&mut self, count: u32, fail: impl FnOnce()) {
        thread::scope(|scope| {
            for hub in &mut self.senders {
                scope.spawn(move || hub.load(count, 200, 2));
            }
            fail();
        });
    }

    /// Returns a server to which a hub is connected, if one is as wanted; any such server otherwise.
    fn server_with_a_hub(&self, is_wanted: impl Fn(&str) -> bool) -> String {
        let connected = self.senders.iter().filter_map(|hub| hub.log.health().server);
        let connected = connected.map(String::from).find(|name| is_wanted(name));
        let all = ["n1", "n2", "n3"].into_iter().find(|name| is_wanted(name));
        connected.unwrap_or_else(|| all.expect("a server").to_owned())
    }

    /// Returns the longest time between two messages that a hub has read, since the last call.
    fn longest_silence(&self) -> Duration {
        let silences = self.senders.iter().map(Hub::take_silence);
        silences.max().unwrap_or(Duration::ZERO)
    }

    fn assert_equal(&self, admin: &Admin) {
        let mut all: Vec<_> = self.senders.iter().collect();
        all.push(&self.by_consumer);
        assert_equal(&all, admin.last());
    }
}

#[test]
fn all_hubs_read_one_order_through_failures_of_servers() {
    let mut cluster = NatsCluster::three();
    let urls = cluster.urls();
    let mut hubs = Hubs::start(&cluster);
    let admin = Admin::connect(&urls);
    hubs.load(500, || {});
    hubs.assert_equal(&admin);
    println!("the longest silence without a failure: {:?}", hubs.longest_silence());

    // The leader is killed. It comes back while the others work.
    let leader = admin.leader();
    hubs.load(500, || cluster.named(&leader).kill());
    cluster.named(&leader).start();
    hubs.load(500, || {});
    hubs.assert_equal(&admin);
    println!("when the leader is killed: {:?}", hubs.longest_silence());

    // A follower is frozen, and with it all connections to it.
    let leader = admin.leader();
    let follower = hubs.server_with_a_hub(|name| name != leader);
    hubs.load(500, || cluster.named(&follower).pause());
    println!("when a follower is frozen: {:?}", hubs.longest_silence());
    cluster.named(&follower).resume();
    hubs.load(500, || {});
    hubs.assert_equal(&admin);

    // The leader is frozen: its connections stay open, and it does not step down.
    let leader = admin.leader();
    hubs.load(500, || cluster.named(&leader).pause());
    println!("when the leader is frozen: {:?}", hubs.longest_silence());
    cluster.named(&leader).resume();
    hubs.load(500, || {});
    hubs.assert_equal(&admin);

    // All are killed at once.
    hubs.load(500, || {
        cluster.servers.iter_mut().for_each(|server| server.kill());
        cluster.servers.iter_mut().for_each(|server| server.start());
    });
    hubs.assert_equal(&admin);
    let late = Hub::start(replicated(config(&urls))).opened();
    assert_equal(&[&hubs.senders[0], &late], admin.last());
    println!("when all are killed: {:?}", hubs.longest_silence());
}

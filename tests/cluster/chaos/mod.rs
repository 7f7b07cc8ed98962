//! Three hubs over three servers of NATS, of which some fail under load: nothing that was
//! acknowledged is lost, doubled or reordered for any viewer, and all hubs are equal in the end.
//!
//! The network between a hub and the servers is a network namespace of Linux, which needs root.
//! Without it, a proxy holds all bytes instead. `FANFARE_CHAOS_SEED` repeats the choices of a run.

mod cluster;
mod generation;
mod jetstream;
mod load;
mod network;
mod publisher;
mod viewer;

use std::time::Duration;

use tokio::sync::Mutex;

use fanfare_testing::eventually;
use fanfare_testing::wire::Request;

use cluster::{Cluster, STREAM};
use load::Load;

/// Each scenario needs the machine for itself.
static ALONE: Mutex<()> = Mutex::const_new(());

/// The time in which nothing fails, before and after something does.
const CALM: Duration = Duration::from_secs(2);

/// The time for which a server or a network fails: longer than the servers need to notice it.
const OUTAGE: Duration = Duration::from_secs(8);

/// The time for which the server that leads is frozen: longer than an election, which begins later
/// than after a kill, because its connections stay open.
const FREEZE: Duration = Duration::from_secs(13);

/// Longer than the lease of a hub.
const BEYOND_LEASE: Duration = Duration::from_secs(7);

/// Runs the load while something fails.
async fn scenario(name: &str, mut cluster: Cluster, fail: impl AsyncFnOnce(&mut Cluster)) {
    let load = Load::start(&cluster);
    tokio::time::sleep(CALM).await;
    fail(&mut cluster).await;
    tokio::time::sleep(CALM).await;
    cluster.ready().await;
    load.finish(name, &cluster).await;
    let restarts: u32 = cluster.hubs.iter().map(|hub| hub.restarts()).sum();
    assert_eq!(restarts, 0, "hubs that had to start again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_fails() {
    let _alone = ALONE.lock().await;
    scenario("nothing", Cluster::start().await, async |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_that_leads_is_killed() {
    let _alone = ALONE.lock().await;
    scenario("leader killed", Cluster::start().await, async |cluster| {
        let leader = cluster.leader().await;
        leader.kill();
        tokio::time::sleep(OUTAGE).await;
        leader.start();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_that_leads_is_frozen() {
    let _alone = ALONE.lock().await;
    scenario("leader frozen", Cluster::start().await, async |cluster| {
        let leader = cluster.leader().await;
        leader.pause();
        tokio::time::sleep(FREEZE).await;
        leader.resume();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_follows_is_frozen() {
    let _alone = ALONE.lock().await;
    scenario("follower frozen", Cluster::start().await, async |cluster| {
        let follower = cluster.follower().await;
        follower.pause();
        tokio::time::sleep(OUTAGE).await;
        follower.resume();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_are_killed() {
    let _alone = ALONE.lock().await;
    scenario("two servers killed", Cluster::start().await, async |cluster| {
        let servers = &mut cluster.nats.servers[..2];
        servers.iter_mut().for_each(|server| server.kill());
        tokio::time::sleep(OUTAGE).await;
        servers.iter_mut().for_each(|server| server.start());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_servers_are_killed() {
    let _alone = ALONE.lock().await;
    scenario("all servers killed", Cluster::start().await, async |cluster| {
        let servers = &mut cluster.nats.servers;
        servers.iter_mut().for_each(|server| server.kill());
        tokio::time::sleep(CALM).await;
        servers.iter_mut().for_each(|server| server.start());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hubs_are_killed() {
    let _alone = ALONE.lock().await;
    scenario("hubs killed", Cluster::start().await, async |cluster| {
        for hub in &cluster.hubs {
            hub.kill();
            tokio::time::sleep(CALM).await;
            hub.spawn();
            hub.ready().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_is_paused_for_longer_than_its_lease() {
    let _alone = ALONE.lock().await;
    scenario("hub paused", Cluster::start().await, async |cluster| {
        cluster.hubs[0].pause();
        tokio::time::sleep(BEYOND_LEASE).await;
        cluster.hubs[0].resume();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_between_a_hub_and_the_servers_are_lost() {
    let _alone = ALONE.lock().await;
    scenario("network cut", Cluster::separate().await, async |cluster| {
        cluster.hubs[0].network.cut();
        tokio::time::sleep(OUTAGE).await;
        cluster.hubs[0].network.restore();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_and_two_hubs_fail_at_the_same_time() {
    let _alone = ALONE.lock().await;
    scenario("several at once", Cluster::separate().await, async |cluster| {
        let leader = cluster.leader().await;
        leader.kill();
        cluster.hubs[0].network.cut();
        cluster.hubs[1].kill();
        cluster.hubs[1].spawn(); // while there is no leader
        tokio::time::sleep(OUTAGE).await;
        cluster.hubs[0].network.restore();
        for server in &mut cluster.nats.servers {
            if !server.is_running() {
                server.start();
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_are_restarted_one_after_the_other() {
    let _alone = ALONE.lock().await;
    scenario("rolling restart", Cluster::start().await, async |cluster| {
        for hub in &cluster.hubs {
            hub.stop().await;
            hub.spawn();
            hub.ready().await;
        }
        for at in 0..cluster.nats.servers.len() {
            cluster.nats.servers[at].stop().await;
            cluster.nats.servers[at].start();
            jetstream::in_sync(&cluster.nats, STREAM).await;
            cluster.ready().await;
        }
    })
    .await;
}

/// Without the stream nothing can be kept: the hubs start again with another epoch, and say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_the_stream_was_deleted_hubs_serve_another_one() {
    let _alone = ALONE.lock().await;
    let cluster = Cluster::start().await;
    let post = Request::new("POST", "/v1/channels/chat").text("before");
    let before = cluster.hubs[0].ask(&post).await.expect(200).json();
    let id = before["last_id"].as_str().expect("an id").to_owned();
    jetstream::request(&cluster.nats, &format!("$JS.API.STREAM.DELETE.{STREAM}")).await;
    eventually("all hubs to start again", async || {
        cluster.hubs.iter().all(|hub| hub.restarts() > 0).then_some(())
    })
    .await;
    cluster.ready().await;
    let post = Request::new("POST", "/v1/channels/chat").text("after");
    cluster.hubs[1].ask(&post).await.expect(200);
    for hub in &cluster.hubs {
        let path = "/v1/channels/chat";
        let stream = fanfare_testing::wire::Stream::open(hub.addr, path, Some(&id), None).await;
        let mut stream = stream.expect("an answer").expect("a stream");
        let gap = stream.next().await.expect("a stream").expect("a gap");
        gap.assert_gap("epoch", &id);
        let event = stream.next().await.expect("a stream").expect("an event");
        assert_eq!(event.data, "after");
    }
}

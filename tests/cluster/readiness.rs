//! When a hub of a cluster is ready, and when it serves.

use std::net::TcpStream;

use fanfare_testing::nats::NatsServer;
use fanfare_testing::{eventually, until};

use crate::support::{hub, hub_at, listens, not_ready, publish, read, ready};

#[tokio::test]
async fn a_hub_serves_clients_when_it_has_joined_and_its_operator_at_once() {
    let mut server = NatsServer::one();
    server.kill();
    let mut a = hub(&server, "a");
    a.spawn();
    listens(a.admin());
    eventually("the reason", async || {
        let problem = not_ready(&a, "connecting").await;
        assert_eq!(problem["code"], "backplane_unavailable");
        let detail = problem["detail"].as_str().unwrap();
        detail.contains("no NATS server accepts a connection").then_some(())
    })
    .await;
    let refused = TcpStream::connect(a.addr()).map(drop).map_err(|error| error.kind());
    assert_eq!(refused, Err(std::io::ErrorKind::ConnectionRefused));
    server.start();
    ready(&a).await;
    listens(a.addr());
    publish(&a, "chat/1", "one").await;
}

#[tokio::test]
async fn a_hub_without_its_servers_is_stale_until_they_are_back_and_loses_nothing() {
    let mut server = NatsServer::one();
    let (a, b) = (hub(&server, "a").started(), hub(&server, "b").started());
    let id = publish(&a, "chat/1", "one").await;
    server.kill();
    not_ready(&a, "stale").await;
    not_ready(&b, "stale").await;
    assert_eq!(read(&b, "chat/1", None).await, ["one"], "readers are still served");
    server.start();
    ready(&a).await;
    ready(&b).await;
    publish(&a, "chat/1", "two").await;
    assert_eq!(read(&b, "chat/1", Some(&id)).await, ["two"]);
}

#[tokio::test]
async fn of_two_hubs_with_one_address_the_later_one_ends() {
    let mut server = NatsServer::one();
    server.kill();
    let mut a = hub(&server, "a");
    let mut b = hub_at(a.addr(), &server, "b");
    for hub in [&mut a, &mut b] {
        hub.spawn();
        listens(hub.admin());
    }
    server.start();
    let ended = until("the end of a hub", || {
        let ended = [&mut a, &mut b].into_iter().find_map(|hub| {
            let log = hub.log();
            (!hub.is_running()).then_some(log)
        });
        ended.filter(|log| log.contains("cannot listen on"))
    });
    assert!(a.is_running() != b.is_running(), "{ended}");
}

//! Hubs that leave their cluster, and those that must.

use fanfare_testing::eventually;
use fanfare_testing::http::get;
use fanfare_testing::nats::NatsServer;

use crate::support::{LEFT_CLUSTER, delete_stream, hub, json, names, publish, read, ready};

#[tokio::test]
async fn a_hub_that_drains_is_gone_for_the_others_at_once() {
    let server = NatsServer::one();
    let mut a = hub(&server, "a").started();
    let b = hub(&server, "b").started();
    eventually("both hubs", async || (names(&b).await == ["a", "b"]).then_some(())).await;
    a.stop().await;
    // Its lease is 5 s.
    assert_eq!(names(&b).await, ["b"]);
}

#[tokio::test]
async fn a_hub_whose_stream_is_deleted_ends_to_start_again_in_another_epoch() {
    let server = NatsServer::one();
    let mut a = hub(&server, "a").started();
    let old = publish(&a, "chat/1", "one").await;
    delete_stream(&server);
    let status = a.ended().await;
    assert_eq!(status.code(), Some(LEFT_CLUSTER), "{}", a.log());
    assert!(a.log().contains("the stream `FANFARE_test` was deleted"), "{}", a.log());
    a.start();
    ready(&a).await;
    let new = publish(&a, "chat/1", "two").await;
    let epoch = |id: &str| id.split_once('-').map(|(epoch, _)| epoch.to_owned());
    assert_ne!(epoch(&old), epoch(&new));
    let page = get(a.addr(), &format!("/v1/channels/chat/1?last_event_id={old}")).await;
    let gap = json(&page)["events"][0].clone();
    assert_eq!(gap["event"], "fanfare.gap", "{page}");
    assert!(gap["data"].as_str().unwrap().contains("\"reason\":\"epoch\""), "{gap}");
    assert_eq!(read(&a, "chat/1", None).await, ["two"]);
}

#[tokio::test]
async fn a_hub_with_another_secret_is_refused() {
    let server = NatsServer::one();
    let with_secret = |name, secret| {
        let mut hub = hub(&server, name);
        let variables =
            [("FANFARE_CLUSTER__SECRET", "env:CLUSTER_SECRET"), ("CLUSTER_SECRET", secret)];
        hub.command().envs(variables);
        hub
    };
    let a = with_secret("a", "the secret of this cluster").started();
    let mut b = with_secret("b", "the secret of another one");
    let mut c = hub(&server, "c");
    b.spawn();
    c.spawn();
    assert_eq!(b.ended().await.code(), Some(LEFT_CLUSTER), "{}", b.log());
    assert_eq!(c.ended().await.code(), Some(LEFT_CLUSTER), "{}", c.log());
    for log in [b.log(), c.log()] {
        assert!(log.contains("secret"), "{log}");
    }
    publish(&a, "chat/1", "one").await;
    assert_eq!(names(&a).await, ["a"]);
}

#[tokio::test]
async fn a_hub_that_never_joined_leaves_on_a_signal() {
    let mut server = NatsServer::one();
    server.kill();
    let mut a = hub(&server, "a");
    a.spawn();
    eventually("the hub to try", async || a.log().contains("not connected").then_some(())).await;
    a.stop().await;
}

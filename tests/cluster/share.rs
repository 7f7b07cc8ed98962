//! What is published at one hub is at all of them.

use fanfare_testing::http::{get, head};
use fanfare_testing::nats::NatsServer;

use crate::support::{cluster, hub, publish, read};

#[tokio::test]
async fn a_publish_to_one_hub_is_read_at_another_and_its_id_resumed_at_any() {
    let server = NatsServer::one();
    let (a, b) = (hub(&server, "a").started(), hub(&server, "b").started());
    let first = publish(&a, "chat/1", "one").await;
    let second = publish(&b, "chat/1", "two").await;
    publish(&a, "chat/1", "three").await;
    // The id of the last event of each hub waits at the other until it is there.
    for hub in [&a, &b] {
        assert_eq!(read(hub, "chat/1", Some(&second)).await, ["three"]);
        assert_eq!(read(hub, "chat/1", Some(&first)).await, ["two", "three"]);
        assert_eq!(read(hub, "chat/1", None).await, ["one", "two", "three"]);
    }
}

#[tokio::test]
async fn a_hub_that_starts_later_knows_what_was_published_before() {
    let server = NatsServer::one();
    let mut a = hub(&server, "a").started();
    let id = publish(&a, "chat/1", "one").await;
    publish(&a, "chat/1?close=complete", "two").await;
    a.stop().await;
    let b = hub(&server, "b").started();
    assert_eq!(read(&b, "chat/1", Some(&id)).await, ["two"]);
    let state = head(b.addr(), "/v1/channels/chat/1").await.to_lowercase();
    assert!(state.contains("fanfare-state: complete"), "{state}");
}

#[tokio::test]
async fn a_hub_lists_all_of_the_cluster_to_its_operator() {
    let server = NatsServer::one();
    let a = hub(&server, "a").started();
    let mut b = hub(&server, "b");
    b.command().env("FANFARE_CHANNELS__MAX_EVENTS", "7");
    let b = b.started();
    publish(&b, "chat/1", "so that both are known").await;
    let seen = cluster(&b).await;
    assert_eq!(
        (&seen["name"], &seen["node"], &seen["phase"]),
        (&"test".into(), &"b".into(), &"live".into())
    );
    assert_eq!(seen["server"], "n1");
    let nodes: Vec<_> = seen["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| {
            let name = node["name"].as_str().unwrap();
            (name, node["agrees"].as_bool().unwrap(), node["this"].as_bool().unwrap())
        })
        .collect();
    assert_eq!(nodes, [("a", false, false), ("b", true, true)], "other settings for channels");
    assert_eq!(cluster(&a).await["epoch"], seen["epoch"]);
    let public = get(a.addr(), "/v1/cluster").await;
    assert!(public.starts_with("HTTP/1.1 404"), "{public}");
}

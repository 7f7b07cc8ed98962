//! Two hubs cannot use one directory.

use super::support::Hub;
use super::wire::Request;

async fn assert_works(hub: &Hub, texts: &[&str]) {
    hub.ask(&Request::new("GET", "/readyz")).await.expect(200);
    let events = hub.read("a", None).await;
    assert_eq!(events.iter().map(|seen| seen.text.as_str()).collect::<Vec<_>>(), texts);
}

#[tokio::test]
async fn two_hubs_never_share_a_directory() {
    let mut hub = Hub::start("store.durability = \"sync\"\n");
    hub.publish("a", "one").await;
    for _ in 0..2 {
        let mut second = hub.second();
        second.spawn();
        let status = second.ended().await;
        let error = second.log();
        assert!(!status.success(), "two hubs had one directory, and both ended well: {error}");
        assert!(status.code().is_some(), "it is refused, and does not crash: {error}");
        let directory = hub.directory();
        let named = error.contains(directory.to_str().expect("text"));
        assert!(named, "the error does not name {}: {error}", directory.display());
    }
    assert!(hub.is_running(), "the first hub has ended");
    assert_works(&hub, &["one"]).await;
    hub.publish("a", "two").await;
    assert_works(&hub, &["one", "two"]).await;

    // The lock of a killed hub does not count, and neither process did harm.
    hub.restart();
    hub.publish("a", "three").await;
    assert_works(&hub, &["one", "two", "three"]).await;
}

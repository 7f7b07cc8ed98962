//! Two hubs cannot use one directory.

use std::process::{Child, Command, Output, Stdio};

use super::support::{Hub, eventually};
use super::wire::Request;

/// A process that is killed if it does not end by itself.
struct Guard(Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Returns the output of a program, which must end by itself.
async fn ended(mut program: Command) -> Output {
    let child = program.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut guard = Guard(Some(child.expect("a process")));
    eventually("the second hub to end by itself", async || {
        guard.0.as_mut().expect("a process").try_wait().expect("a status")
    })
    .await;
    let child = guard.0.take().expect("a process");
    child.wait_with_output().expect("what it said")
}

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
        let second = ended(hub.second()).await;
        let error = String::from_utf8(second.stderr).expect("text");
        assert!(
            !second.status.success(),
            "two hubs had one directory, and both ended well: {error}"
        );
        assert!(second.status.code().is_some(), "it is refused, and does not crash: {error}");
        let directory = hub.directory();
        let named = error.contains(directory.to_str().expect("text"));
        assert!(named, "the error does not name {}: {error}", directory.display());
    }
    assert!(hub.lives(), "the first hub has ended");
    assert_works(&hub, &["one"]).await;
    hub.publish("a", "two").await;
    assert_works(&hub, &["one", "two"]).await;

    // The lock of a killed hub does not count, and neither process did harm.
    hub.restart();
    hub.publish("a", "three").await;
    assert_works(&hub, &["one", "two", "three"]).await;
}

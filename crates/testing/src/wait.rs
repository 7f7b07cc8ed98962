//! Waits with a time limit.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

/// The time limit of any wait, generous for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The interval at which a condition is checked.
const INTERVAL: Duration = Duration::from_millis(10);

/// Awaits a future, with a time limit.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

/// Polls until there is a value.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    })
    .await
}

/// Polls until there is a value, and blocks the thread meanwhile.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(INTERVAL);
    }
}

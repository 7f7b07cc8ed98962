//! Leaving politely: the signal in its two stages, and the tasks that are waited for.

use std::future::Future;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tells everyone that the hub is going down, and knows when all have gone: a cheap handle.
///
/// It comes in two stages. *Draining*: nothing new begins, what runs may end. *Stopping*: what
/// still runs says goodbye now.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    stopping: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Begins the first stage.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Begins the second stage.
    pub fn stop(&self) {
        self.draining.cancel();
        self.stopping.cancel();
    }

    /// Whether the first stage has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Resolves when the first stage begins.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Resolves when the second stage begins.
    pub async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Runs a task that is waited for, in this runtime.
    pub fn spawn_on<F>(&self, task: F, runtime: &Handle)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn_on(task, runtime);
    }

    /// Resolves when all tasks have ended.
    pub async fn all_gone(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

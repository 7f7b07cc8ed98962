//! Graceful shutdown: a signal in two stages, and the tasks to wait for.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

/// Signals the shutdown to all parts of the hub, and waits for their tasks: a cheap handle.
///
/// It has two stages. *Draining*: nothing new begins, running work may finish. *Stopping*: what
/// still runs ends now.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<ShutdownState>);

#[derive(Debug, Default)]
struct ShutdownState {
    draining: Stage,
    stopping: Stage,
    tasks: TaskTracker,
}

/// A stage that begins once. Every request checks it, so the check takes no lock.
#[derive(Debug, Default)]
struct Stage {
    has_begun: AtomicBool,
    begins: Notify,
}

impl Stage {
    fn begin(&self) {
        self.has_begun.store(true, Ordering::Release);
        self.begins.notify_waiters();
    }

    fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Acquire)
    }

    async fn begun(&self) {
        // Registered before the check, so that a begin between check and wait is not missed.
        let begins = self.begins.notified();
        if !self.has_begun() {
            begins.await;
        }
    }
}

impl Shutdown {
    /// Begins the first stage.
    pub fn drain(&self) {
        self.0.draining.begin();
    }

    /// Begins the second stage.
    pub fn stop(&self) {
        self.0.draining.begin();
        self.0.stopping.begin();
    }

    /// Returns whether the first stage has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.has_begun()
    }

    /// Returns whether the second stage has begun.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.has_begun()
    }

    /// Waits until the first stage begins.
    pub async fn draining(&self) {
        self.0.draining.begun().await;
    }

    /// Waits until the second stage begins.
    pub async fn stopping(&self) {
        self.0.stopping.begun().await;
    }

    /// Spawns a task on this runtime that [`Self::all_gone`] waits for.
    pub fn spawn_on<F>(&self, task: F, runtime: &Handle)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.0.tasks.spawn_on(task, runtime);
    }

    /// Waits until all tasks have ended.
    pub async fn all_gone(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

//! Leaving politely: the signal in its two stages, and the tasks that are waited for.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

/// Tells everyone that the hub is going down, and knows when all have gone: a cheap handle.
///
/// It comes in two stages. *Draining*: nothing new begins, what runs may end. *Stopping*: what
/// still runs says goodbye now.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<ShutdownState>);

#[derive(Debug, Default)]
struct ShutdownState {
    draining: Stage,
    stopping: Stage,
    tasks: TaskTracker,
}

/// A stage that begins once. Every request looks whether it has, so that takes no lock.
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
        // Hears of whatever comes from here on: nothing is missed between looking and waiting.
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

    /// Whether the first stage has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.has_begun()
    }

    /// Whether the second stage has begun.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.stopping.has_begun()
    }

    /// Resolves when the first stage begins.
    pub async fn draining(&self) {
        self.0.draining.begun().await;
    }

    /// Resolves when the second stage begins.
    pub async fn stopping(&self) {
        self.0.stopping.begun().await;
    }

    /// Runs a task that is waited for, in this runtime.
    pub fn spawn_on<F>(&self, task: F, runtime: &Handle)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.0.tasks.spawn_on(task, runtime);
    }

    /// Resolves when all tasks have ended.
    pub async fn all_gone(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

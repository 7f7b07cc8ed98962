//! Outgoing HTTP calls when a channel ends, one to each hook whose pattern matches.
//!
//! A channel that ends puts one [`Ended`] into a bounded queue, and does not wait. From there it is
//! distributed to the hooks, each of which has a worker with its own queue, memory limit and calls:
//! a receiver that is slow or down affects neither the hub nor other receivers. What does not fit
//! is dropped and counted.

mod config;
mod message;
mod secret;
mod worker;

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

pub use config::{Config, Hook};
pub use secret::{HookSecret, InvalidSecret};

use message::HookMessage;
use worker::Worker;

use crate::auth::Environment;
use crate::hub::{Ended, Hub};
use crate::limits::MAX_QUEUED_HOOKS;
use crate::outbound::{Client, NoCertificates};
use crate::shutdown::Shutdown;

/// The running hooks: a cheap handle.
#[derive(Clone)]
pub struct Hooks {
    hub: Hub,
    shutdown: Shutdown,
    /// The runtime of the workers.
    runtime: Handle,
    queue: mpsc::Sender<Ended>,
    /// Whether an end may have left the queue without having reached a worker.
    is_distributing: Arc<AtomicBool>,
    workers: Arc<RwLock<Vec<Arc<Worker>>>>,
    /// Workers of hooks that a reload has removed, until they have delivered their calls.
    retired: Arc<Mutex<Vec<Weak<Worker>>>>,
}

/// Hooks that can be started: their secrets are loaded.
pub struct Ready {
    hooks: Vec<(Hook, Option<HookSecret>)>,
    client: Client,
}

/// The reason for which hooks cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// There is an `https` hook, and no CA certificate to verify its receiver.
    #[error("cannot call `https` hooks (`hooks`): {0}")]
    NoCertificates(#[from] NoCertificates),
    /// The secret of a hook cannot be read.
    #[error("hooks: the hook for `{pattern}`: {error}")]
    Secret {
        /// Its pattern.
        pattern: String,
        /// The cause.
        error: InvalidSecret,
    },
}

impl Ready {
    /// Reads the secrets of these hooks.
    ///
    /// # Errors
    /// A secret cannot be read, or there is no CA certificate to verify receivers.
    pub fn new(config: &Config, environment: Environment<'_>) -> Result<Self, HookError> {
        let client = Client::new(config.needs_tls())?;
        let read = |hook: &Hook| {
            let secret = hook.secret.as_ref().map(|secret| secret.read(environment)).transpose();
            let pattern = hook.pattern.to_string();
            let secret = secret.map_err(|error| HookError::Secret { pattern, error })?;
            Ok((hook.clone(), secret))
        };
        let hooks = config.0.iter().map(read).collect::<Result<_, HookError>>()?;
        Ok(Self { hooks, client })
    }
}

impl Hooks {
    /// Starts the workers for the channels of this hub, until it stops. Must be called within a
    /// runtime, on which they run.
    #[must_use]
    pub fn start(ready: Ready, hub: &Hub, shutdown: &Shutdown) -> Self {
        let (queue, ended) = mpsc::channel(MAX_QUEUED_HOOKS);
        let hooks = Self {
            hub: hub.clone(),
            shutdown: shutdown.clone(),
            runtime: Handle::current(),
            queue,
            is_distributing: Arc::default(),
            workers: Arc::default(),
            retired: Arc::default(),
        };
        let workers = hooks.workers.clone();
        let wanted = move |name: &_| workers.read().iter().any(|worker| worker.wants(name));
        hub.on_end(wanted, hooks.queue.clone());
        let task = hooks.clone().distribute(ended, shutdown.clone());
        shutdown.spawn_on(task, &hooks.runtime);
        hooks.exchange(ready);
        hooks
    }

    /// Replaces the hooks. Workers of unchanged hooks continue with their queues; those of removed
    /// hooks deliver what they have, and end.
    pub fn exchange(&self, ready: Ready) {
        let Ready { hooks, client } = ready;
        let mut workers = self.workers.write();
        let mut before = std::mem::take(&mut *workers);
        for (hook, secret) in hooks {
            let same = before.iter().position(|worker| worker.is_for(&hook, secret.as_ref()));
            workers.push(match same {
                Some(place) => before.swap_remove(place),
                None => self.start_worker(hook, secret, &client),
            });
        }
        drop(workers);
        let mut retired = self.retired.lock();
        retired.retain(|worker| worker.strong_count() > 0);
        for worker in before {
            worker.retire();
            retired.push(Arc::downgrade(&worker));
        }
        drop(retired);
        self.hub.hooks_changed();
    }

    fn start_worker(&self, hook: Hook, secret: Option<HookSecret>, client: &Client) -> Arc<Worker> {
        let metrics = self.hub.metrics().clone();
        let shutdown = self.shutdown.clone();
        Worker::start((hook, secret), client.clone(), metrics, shutdown, &self.runtime)
    }

    /// Returns whether no call is queued or running.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        // In the order in which an end passes through them, so that none is missed.
        self.queue.capacity() == self.queue.max_capacity()
            && !self.is_distributing.load(Ordering::SeqCst)
            && self.workers.read().iter().all(|worker| worker.is_idle())
            && self.retired.lock().iter().filter_map(Weak::upgrade).all(|worker| worker.is_idle())
    }

    async fn distribute(self, mut ended: mpsc::Receiver<Ended>, shutdown: Shutdown) {
        loop {
            tokio::select! {
                Some(ended) = self.next(&mut ended) => {
                    self.enqueue(&ended);
                    self.is_distributing.store(false, Ordering::SeqCst);
                }
                () = shutdown.stopping() => break,
            }
        }
        // Late ends are passed on to be counted: the workers refuse them.
        ended.close();
        while let Ok(ended) = ended.try_recv() {
            self.enqueue(&ended);
        }
    }

    /// Returns the next end. `is_distributing` is set before it leaves the queue.
    async fn next(&self, ended: &mut mpsc::Receiver<Ended>) -> Option<Ended> {
        poll_fn(|context| {
            self.is_distributing.store(true, Ordering::SeqCst);
            let next = ended.poll_recv(context);
            if next.is_pending() {
                self.is_distributing.store(false, Ordering::SeqCst);
            }
            next
        })
        .await
    }

    fn enqueue(&self, ended: &Ended) {
        let message = Arc::new(HookMessage::new(ended));
        // Under the lock, so that no worker is retired before it has its messages.
        let workers = self.workers.read();
        for worker in workers.iter().filter(|worker| worker.wants(&ended.channel)) {
            worker.take(message.clone());
        }
    }
}

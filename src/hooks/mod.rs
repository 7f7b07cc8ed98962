//! Calls out when a channel has ended: each hook whose pattern matches is told by HTTP.
//!
//! A channel that ends puts one [`Ended`] into a bounded queue, and forgets about it. From there it
//! is dealt out to the hooks, each of which has a worker with a queue, a bound on its memory and
//! calls of its own: a receiver that is slow or down costs neither the hub nor other receivers
//! anything. What does not fit is dropped and counted.

mod config;
mod message;
mod secret;
mod worker;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::Handle;
use tokio::sync::mpsc;

pub use config::{Config, Hook, HookUrl, InvalidHook, InvalidHookUrl};
pub use secret::{InvalidSecret, Secret};

use message::Message;
use worker::Worker;

use crate::hub::{Ended, Hub};
use crate::limits::MAX_QUEUED_HOOKS;
use crate::outbound::{Client, NoCertificates};
use crate::shutdown::Shutdown;

/// The running hooks: a cheap handle.
#[derive(Clone)]
pub struct Hooks {
    queue: mpsc::Sender<Ended>,
    /// Something may be out of the queue, and with no worker yet.
    dealing: Arc<AtomicBool>,
    workers: Arc<[Arc<Worker>]>,
}

impl Hooks {
    /// Begins to call out for the channels of this hub, until it stops. Must be called within a
    /// runtime, which does the work.
    ///
    /// # Errors
    /// There is an `https` hook, and no certificate to trust its receiver by.
    pub fn start(config: &Config, hub: &Hub, shutdown: &Shutdown) -> Result<Self, NoCertificates> {
        let (queue, ended) = mpsc::channel(MAX_QUEUED_HOOKS);
        let client = Client::new(config.needs_tls())?;
        let start = |hook: &Hook| {
            Worker::start(hook.clone(), client.clone(), hub.metrics().clone(), shutdown.clone())
        };
        let workers = config.0.iter().map(start).collect();
        let hooks = Self { queue, dealing: Arc::default(), workers };
        if !hooks.workers.is_empty() {
            let workers = hooks.workers.clone();
            let wanted = move |name: &_| workers.iter().any(|worker| worker.wants(name));
            hub.on_end(wanted, hooks.queue.clone());
            let dealing = hooks.clone().deal_out(ended, shutdown.clone());
            shutdown.spawn_on(dealing, &Handle::current());
        }
        Ok(hooks)
    }

    /// Whether nobody waits to be told of anything.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        // In the order in which an end passes through them, so that none is overlooked.
        self.queue.capacity() == self.queue.max_capacity()
            && !self.dealing.load(Ordering::SeqCst)
            && self.workers.iter().all(|worker| worker.is_idle())
    }

    async fn deal_out(self, mut ended: mpsc::Receiver<Ended>, shutdown: Shutdown) {
        loop {
            tokio::select! {
                Some(ended) = self.next(&mut ended) => {
                    self.tell(&ended);
                    self.dealing.store(false, Ordering::SeqCst);
                }
                () = shutdown.stopping() => break,
            }
        }
        // What came too late is counted by the workers, who no longer take it.
        ended.close();
        while let Ok(ended) = ended.try_recv() {
            self.tell(&ended);
        }
    }

    /// The next end; from before it leaves the queue on, `dealing` is set.
    async fn next(&self, ended: &mut mpsc::Receiver<Ended>) -> Option<Ended> {
        poll_fn(|context| {
            self.dealing.store(true, Ordering::SeqCst);
            let next = ended.poll_recv(context);
            if next.is_pending() {
                self.dealing.store(false, Ordering::SeqCst);
            }
            next
        })
        .await
    }

    fn tell(&self, ended: &Ended) {
        let message = Arc::new(Message::new(ended));
        for worker in self.workers.iter().filter(|worker| worker.wants(&ended.channel)) {
            worker.take(message.clone());
        }
    }
}

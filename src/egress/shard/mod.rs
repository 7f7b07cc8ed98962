//! The engine for sockets: one thread per core, each with an `epoll` of its own and the subscribers
//! whose sockets it was given.
//!
//! A publish wakes each shard that has subscribers of the channel, once. A shard then sweeps the
//! channel: it writes what is new to each subscriber in one call, the log's bytes as they are.
//! While it sweeps, new events pile up in the log, and the next sweep writes all of them at once:
//! batching that costs no latency when idle and grows by itself under load.

mod attach;
mod clock;
mod detach;
mod inbox;
mod inline_delivery;
mod local_channel;
mod notifier;
mod reactor;
mod scheduler;
mod slow_consumers;
mod subscriber;
mod sweep;
mod wheel;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

pub(super) use self::inbox::NewSubscriber;
use self::inbox::{Inbox, ShardMessage};
use self::reactor::{OnDetach, Reactor, Thread};
use super::config::Config;
use super::policy::Drain;
use crate::hub::{Channel, Hub};

/// Subscribers up to which a channel is small: waking a second thread for half of them takes more
/// time than it saves.
const SMALL_CHANNEL: usize = 64;

/// All shards of a hub.
pub(super) struct Shards {
    shards: Vec<Shard>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    next: AtomicUsize,
    active: Arc<AtomicUsize>,
}

/// A shard, as other threads use it.
struct Shard {
    inbox: Arc<Inbox>,
    reactor: Arc<Mutex<Reactor>>,
}

impl Shards {
    /// Starts the threads.
    pub(super) fn start(hub: &Hub, config: &Arc<Config>, on_detach: OnDetach) -> io::Result<Self> {
        let count = match config.shards {
            0 => std::thread::available_parallelism()?.get(),
            count => count,
        };
        let active = Arc::new(AtomicUsize::new(0));
        let mut shards = Vec::new();
        let mut threads = Vec::new();
        for number in 0..count {
            let active = active.clone();
            let on_detach = on_detach.clone();
            let thread = Thread::new(hub.clone(), config.clone(), active, on_detach)?;
            shards.push(Shard { inbox: thread.inbox.clone(), reactor: thread.reactor.clone() });
            let builder = std::thread::Builder::new().name(format!("shard-{number}"));
            threads.push(builder.spawn(move || thread.run())?);
        }
        let threads = Mutex::new(threads);
        Ok(Self { shards, threads, next: AtomicUsize::new(0), active })
    }

    /// Gives a subscriber's socket to a shard: on this thread if the shard's lock is free, because
    /// waking the shard's thread takes more time.
    pub(super) fn attach(&self, new: NewSubscriber) {
        self.active.fetch_add(1, Ordering::Relaxed);
        let shard = &self.shards[self.choose(new.ticket.channel()) % self.shards.len()];
        match shard.reactor.try_lock() {
            Some(mut reactor) => reactor.attach_inline(new),
            None => shard.inbox.send(ShardMessage::Attach(Box::new(new))),
        }
    }

    /// Ends the subscriptions whose lease has been revoked.
    pub(super) fn recheck(&self) {
        for shard in &self.shards {
            shard.inbox.send(ShardMessage::Recheck);
        }
    }

    /// Chooses a shard. Subscribers of a small channel share one, so that an event wakes one
    /// thread; those of a large one are spread over all.
    fn choose(&self, channel: &Channel) -> usize {
        if channel.subscribers() > SMALL_CHANNEL {
            return self.next.fetch_add(1, Ordering::Relaxed);
        }
        let mut hasher = DefaultHasher::new();
        channel.name().hash(&mut hasher);
        hasher.finish() as usize
    }

    /// Ends all subscriptions, present and future, each at its own moment of the drain.
    pub(super) fn drain(&self, drain: Drain) {
        for shard in &self.shards {
            shard.inbox.send(ShardMessage::Drain(drain));
        }
    }

    /// Returns the number of sockets that the shards own.
    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }
}

impl Drop for Shards {
    fn drop(&mut self) {
        for shard in &self.shards {
            shard.inbox.send(ShardMessage::Stop);
        }
        for thread in self.threads.lock().drain(..) {
            // The panic of a shard has been reported already.
            let _ = thread.join();
        }
    }
}

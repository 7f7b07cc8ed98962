//! The hub: channels, and subscriptions that read them. It is independent of HTTP, of who a client
//! is, and of where events come from.

mod channel;
pub mod cluster;
mod coalesce;
mod commit;
mod completion;
mod config;
mod context;
mod control;
mod control_events;
mod core;
mod deadlines;
mod error;
mod memory;
mod merge;
mod metadata;
mod open;
mod pending_deletes;
mod presence;
mod producer;
mod read;
mod read_cache;
mod registry;
mod sequencer;
mod signals;
mod subscription;
mod subscription_step;
mod sweeper;
mod ticket;
mod viewer_changes;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::mpsc;

pub use channel::{
    Append, Appended, Channel, ChannelListener, Configured, Description, Hold, Keyed, Producer,
    ReceiptFn, Snapshot,
};
pub use coalesce::{Coalesce, InvalidCoalesce, MergedBatch};
pub use commit::{CommitAck, Submitted};
pub use completion::ThreadCompletions;
pub use config::{ChannelOptions, Config, Rule, Settings, Signal, WhenUnwatched};
pub use control::{EndReason, SubscriptionControl};
pub use control_events::{Close, End, Ended, Gap};
pub use error::{
    ClaimError, ConfigureError, DeleteError, GenerationOver, LogError, StopError, SubmitError,
    SubscribeError, TooManyChannels,
};
pub use open::{Later, Opened, Selection};
pub use presence::{Counted, Presence};
pub use producer::ProducerHandle;
pub use read::ReadResult;
pub use registry::ClaimPurpose;
pub use signals::{Signals, Stopped};
pub use subscription::Subscription;
pub use subscription_step::{Bounds, Next, OnLag, Step};
pub use ticket::{ChannelTicket, Ticket, TicketHead};

use self::core::Core;
use channel::{LogPlace, refusal};
use cluster::{Applier, ClusterKey, KeyedRequest, Replica, ReplicaConfig};
use commit::{Refused, committed};
use context::ChannelContext;
use control_events::OnEnd;
use deadlines::Deadlines;
use memory::Memory;
use pending_deletes::PendingDeletes;
use read::{Start, StartAt};
use read_cache::ReadCache;
use registry::{Registry, StoreContext};
use sequencer::Sequencer;
use viewer_changes::ViewerChanges;

use crate::channel::ChannelName;
use crate::clock::Clock;
use crate::position::{Epoch, Offset, Position};
use crate::quota::Account;
use crate::store::disk::{self, Disk, TrimPoint};
use crate::telemetry::Metrics;

/// A cheap handle to the running engine.
#[derive(Clone)]
pub struct Hub(Arc<Core>);

impl Hub {
    /// Creates a hub with a new epoch, in memory only.
    #[must_use]
    pub fn new(config: Config, metrics: Arc<Metrics>) -> Self {
        Self::build(config, metrics, Sequencer::new(Epoch::random()), 0, None, None)
    }

    /// Creates a hub of a cluster, in memory only: its events come from the shared log.
    #[must_use]
    pub fn of_cluster(config: Config, replica: ReplicaConfig, metrics: Arc<Metrics>) -> Self {
        let replica = Arc::new(Replica::new(replica));
        Self::build(config, metrics, Sequencer::shared(), 0, None, Some(replica))
    }

    /// Creates a hub that continues the epoch and the channels of a store.
    #[must_use]
    pub fn resume(
        config: Config,
        metrics: Arc<Metrics>,
        disk: &Disk,
        store: &disk::Config,
        found: &disk::Recovered,
    ) -> Self {
        let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
        let kept = StoreContext {
            disk: disk.clone(),
            durability: store.durability,
            window: store.window.as_u64(),
            before: Offset(disk.first_offset().0.saturating_sub(1)),
            gone: found.gone,
        };
        let sequencer = Sequencer::resumed(disk.clone());
        let hub =
            Self::build(config, metrics, sequencer, bytes(store.read_cache), Some(kept), None);
        if let Some(store) = hub.0.registry.store() {
            for stream in &found.streams {
                hub.0.registry.restore(stream, store, found.power_cut);
            }
        }
        hub
    }

    fn build(
        config: Config,
        metrics: Arc<Metrics>,
        sequencer: Sequencer,
        read_cache: usize,
        store: Option<StoreContext>,
        replica: Option<Arc<Replica>>,
    ) -> Self {
        metrics.declare_ends(EndReason::ALL.map(EndReason::as_str));
        let budget = usize::try_from(config.memory_budget.as_u64()).unwrap_or(usize::MAX);
        let shared = Arc::new(ChannelContext {
            sequencer,
            memory: Memory::new(budget, metrics.clone()),
            metrics,
            deadlines: Deadlines::default(),
            viewer_changes: replica.as_ref().map(|_| ViewerChanges::default()),
            on_end: OnceLock::new(),
            read_cache: ReadCache::new(read_cache),
            pending_deletes: Arc::new(PendingDeletes::default()),
            end_retry: config.end_reconnect_delay,
            clock: config.clock.clone(),
        });
        let registry = Registry::new(config, shared.clone(), store);
        Self(Arc::new(Core::new(registry, shared, replica)))
    }

    /// Returns the hub's side of the shared log, if the hub is in a cluster.
    #[must_use]
    pub fn replica(&self) -> Option<&Arc<Replica>> {
        self.0.replica.as_ref()
    }

    /// Begins a request with an idempotency key that belongs to a scope, and is kept for this
    /// window. `None` for a hub that is alone.
    #[must_use]
    pub fn begin_keyed(
        &self,
        scope: fmt::Arguments<'_>,
        key: &str,
        window: Duration,
    ) -> Option<ClusterKey> {
        Some(KeyedRequest::begin(self.0.replica.as_ref()?, &scope.to_string(), key, window))
    }

    /// Returns a reader for a shared log that begins, and forgets what was read before: only until
    /// the hub serves clients. `None` for a hub that is alone.
    #[must_use]
    pub fn log_reader(&self) -> Option<Applier> {
        let replica = self.0.replica.clone()?;
        replica.reset();
        self.0.registry.clear();
        Some(Applier::new(self.0.clone(), replica))
    }

    /// Returns the health of the store, if there is one.
    #[must_use]
    pub fn store_health(&self) -> disk::Health {
        self.0.registry.store().map_or_else(Default::default, |store| store.disk.health())
    }

    /// Returns whether some channels outlive the process.
    #[must_use]
    pub fn has_store(&self) -> bool {
        self.0.registry.store().is_some()
    }

    /// Returns the clock of the hub.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.0.shared.clock
    }

    /// Returns the hub's metrics.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.shared.metrics
    }

    /// Sends the end of each channel that the filter selects to this queue, and drops it if that is
    /// full; a deletion is no end. Only the first call counts. The filter is called when a channel
    /// comes into memory, and again by [`hooks_changed`](Self::hooks_changed).
    pub fn on_end(
        &self,
        filter: impl Fn(&ChannelName) -> bool + Send + Sync + 'static,
        queue: mpsc::Sender<Ended>,
    ) {
        let _ = self.0.shared.on_end.set(OnEnd::new(filter, queue));
    }

    /// Applies these settings, also to existing channels, except for options of their own. Which
    /// names are durable does not change.
    pub fn reconfigure(&self, config: Config) {
        let budget = usize::try_from(config.memory_budget.as_u64()).unwrap_or(usize::MAX);
        self.0.shared.memory.budget().resize(budget);
        self.0.registry.reconfigure(config);
        self.0.evict_for_memory();
    }

    /// Applies the filter of [`on_end`](Self::on_end) again to all channels.
    pub fn hooks_changed(&self) {
        let Some(on_end) = self.0.shared.on_end.get() else { return };
        for channel in self.0.registry.all() {
            channel.set_hooked(on_end.wants(channel.name()));
        }
    }

    /// Returns the position of an offset in this hub's epoch.
    #[must_use]
    pub fn position(&self, offset: Offset) -> Position {
        self.0.position(offset)
    }

    /// Returns the id of the event with this offset.
    #[must_use]
    pub fn event_id(&self, offset: Offset) -> String {
        self.0.shared.sequencer.epoch().event_id(offset)
    }

    /// Returns the position after all events published so far.
    #[must_use]
    #[cfg(any(test, feature = "internals"))]
    pub fn tail(&self) -> Position {
        self.position(Offset(self.0.shared.sequencer.watermark().0 - 1))
    }

    /// Appends to a channel, which is made if it does not exist, and waits for the commit.
    ///
    /// # Errors
    /// The channel is closed, there are too many channels, or the store takes no writes; nothing
    /// was appended.
    pub fn append(
        &self,
        name: &ChannelName,
        append: Append<'_>,
    ) -> impl Future<Output = Result<Appended, SubmitError>> {
        committed(move || self.try_append(name, append))
    }

    /// Submits an append and does not wait for its commit. An end that is pending refuses it,
    /// although that may still fail.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    pub fn submit(
        &self,
        name: &ChannelName,
        append: Append<'_>,
    ) -> Submitted<Appended, SubmitError> {
        loop {
            match self.try_append(name, append) {
                Ok(ack) => return Ok(ack),
                Err(Refused::Retired) => {}
                Err(Refused::Ending(end)) => return Err(refusal(&end.record)),
                Err(Refused::Because(why)) => return Err(why),
            }
        }
    }

    fn try_append(
        &self,
        name: &ChannelName,
        append: Append<'_>,
    ) -> Result<CommitAck<Appended, SubmitError>, Refused<SubmitError>> {
        let channel = self.0.registry.get_for(name, append.account, ClaimPurpose::ToPublish);
        let channel = channel.map_err(|why| Refused::Because(why.into()))?;
        if let Some(replica) = &self.0.replica {
            let channel = channel.begin_use().ok_or(Refused::Retired)?;
            let ack = replica.append(channel, &append, LogPlace::default(), |_| ());
            return ack.map_err(Refused::Because);
        }
        let ack = channel.append(append)?;
        self.0.keep_budgets(&channel);
        Ok(ack)
    }

    /// Creates a channel, or changes its settings. It counts for this account if it was not
    /// published to before.
    ///
    /// # Errors
    /// There are too many channels, or the store takes no writes.
    pub fn configure(
        &self,
        name: &ChannelName,
        options: &ChannelOptions,
        account: Option<&Arc<Account>>,
    ) -> Submitted<Configured, ConfigureError> {
        loop {
            let channel = self.0.registry.get_for(name, account, ClaimPurpose::ToPublish)?;
            if let Some(replica) = &self.0.replica {
                let Some(channel) = channel.begin_use() else { continue };
                return replica.configure(channel, options);
            }
            if let Some(ack) = channel.configure(options)? {
                return Ok(ack);
            }
        }
    }

    /// Ends a channel's subscriptions with `deleted` and frees its name.
    ///
    /// # Errors
    /// There is no such channel, in memory or on disk.
    pub fn delete(&self, name: &ChannelName) -> Submitted<(), DeleteError> {
        if let Some(replica) = &self.0.replica {
            return replica.delete(name);
        }
        self.0.registry.delete(name).ok_or(DeleteError::Unknown)
    }

    /// Returns a channel's state; `None` until the first publish or the channel's creation.
    #[must_use]
    pub fn describe(&self, name: &ChannelName) -> Option<Description> {
        self.0.registry.get(name)?.describe()
    }

    /// Returns the settings in which a channel differs from the configuration for its name.
    #[must_use]
    pub fn own_settings(&self, channel: &Description) -> ChannelOptions {
        channel.settings.beyond(&self.0.registry.settings_for(&channel.name))
    }

    /// Returns at most `limit` channels whose names begin with `prefix` and follow `after`, by
    /// name.
    #[must_use]
    pub fn list(&self, prefix: &str, after: &str, limit: usize) -> Vec<Description> {
        let wanted = |name: &str| name.starts_with(prefix) && name > after;
        let mut channels = self.0.registry.all();
        channels.retain(|channel| wanted(channel.name().as_str()));
        channels.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        channels.iter().filter_map(|channel| channel.describe()).take(limit).collect()
    }

    /// Returns the tail of a channel, before its end event if it has ended.
    #[must_use]
    pub fn tail_of(&self, channel: &Channel) -> TrimPoint {
        let Start { position, last_before, .. } = channel.begin(StartAt::Tail);
        TrimPoint { position, last_trimmed: last_before }
    }

    /// Returns the position of the last event before this byte of a channel's log.
    #[must_use]
    pub fn position_before(&self, channel: &Channel, byte: u64) -> Position {
        self.position(channel.offset_before(byte))
    }

    /// Makes the channel for this account, unless it was published to before. The channel and what
    /// it retains count for the account until it is gone. Without a first use it is evicted soon:
    /// the first append claims it again.
    ///
    /// # Errors
    /// The account, or the hub, has as many channels as it may.
    pub fn claim(
        &self,
        name: &ChannelName,
        account: &Arc<Account>,
        why: ClaimPurpose,
    ) -> Result<(), ClaimError> {
        self.0.registry.claim(name, account, why).map(drop)
    }

    /// Runs the hub's housekeeping for ever: evicts by age and idleness, and does what is due.
    pub async fn sweep(self) {
        let Core { registry, shared, replica, .. } = &*self.0;
        let replica = replica.as_deref();
        let replicate = async {
            if let (Some(replica), Some(changes)) = (replica, &shared.viewer_changes) {
                replica.keep_time(registry, changes).await;
            }
        };
        let keep_time = sweeper::keep_time(registry, &shared.deadlines, replica);
        tokio::join!(sweeper::run(registry, replica), keep_time, replicate);
    }
}

#[cfg(test)]
pub(crate) mod tests;

//! The hub: channels, and subscriptions that read them. It is independent of HTTP, of who a client
//! is, and of where events come from.

mod channel;
mod coalesce;
mod commit;
mod completion;
mod config;
mod control;
mod control_events;
mod deadlines;
mod memory;
mod merge;
mod pending_deletes;
mod presence;
mod producer;
mod read;
mod read_cache;
mod registry;
mod sequencer;
mod signals;
mod subscription;
mod sweeper;
mod ticket;

use std::sync::{Arc, OnceLock};

use tokio::sync::oneshot;

pub use channel::{
    AppendError, Appended, Channel, ChannelListener, Close, Description, Hold, Producer, ReceiptFn,
    Snapshot,
};
pub use coalesce::{Coalesce, InvalidCoalesce, MergedBatch};
pub use commit::CommitAck;
pub use completion::ThreadCompletions;
pub use config::{ChannelOptions, Config, Rule, Settings, Signal, WhenUnwatched};
pub use control::{EndReason, SubscriptionControl};
pub use control_events::{End, Ended, Gap};
pub use presence::{Counted, Presence};
pub use producer::ProducerHandle;
pub use read::ReadResult;
pub use registry::{ClaimError, ClaimPurpose, TooManyChannels};
pub use signals::{GenerationOver, Signals, StopError, Stopped};
pub use subscription::{Bounds, Next, OnLag, Step, Subscription};
pub use ticket::{ChannelTicket, Ticket, TicketHead};

use channel::ChannelContext;
use control_events::{OnEnd, OpeningEvent};
use deadlines::Deadlines;
use memory::Memory;
use merge::{MergeStart, MergedReader};
use pending_deletes::PendingDeletes;
use read::{Start, StartAt};
use read_cache::ReadCache;
use registry::{Registry, StoreContext};
use sequencer::Sequencer;
use ticket::{ManyTicket, TicketKind};

use crate::channel::{ChannelName, ChannelPattern};
use crate::clock::Clock;
use crate::event::{GapReason, NewEvent};
use crate::limits::MAX_LAST_EVENTS;
use crate::position::{Epoch, Offset, Position, StartFrom};
use crate::quota::Account;
use crate::store::disk::{self, Disk, Durability, TrimPoint, WriteError};
use crate::telemetry::Metrics;

/// A cheap handle to the running engine.
#[derive(Clone)]
pub struct Hub(Arc<Core>);

/// State that the handles share.
pub(crate) struct Core {
    registry: Registry,
    shared: Arc<ChannelContext>,
    /// Held while evicting for a budget: one thread at a time is enough.
    evicting: parking_lot::Mutex<()>,
}

/// The channels that a subscription reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// One channel.
    One(ChannelName),
    /// All channels of these patterns, in the hub's one order.
    Many(Vec<ChannelPattern>),
}

/// The result of opening a subscription.
pub enum Opened<T> {
    /// There is something to read, or there may be.
    Live(T),
    /// The subscriber has seen the end of all that it asks for.
    Over,
    /// The start must be read from disk first: open again after that.
    Later(Later),
}

/// Pending reads from disk.
pub struct Later(Vec<oneshot::Receiver<()>>);

impl Later {
    /// Resolves when all of it has been read.
    pub async fn over(self) {
        for read in self.0 {
            // A channel that is gone sends nothing: opening again finds that out.
            let _ = read.await;
        }
    }
}

/// A start in each channel, with a gap if the requested one cannot be used.
struct ResolvedStart {
    begin: StartAt,
    gap: Option<(GapReason, Box<str>)>,
}

impl Core {
    /// Returns the position of an offset in this hub's epoch.
    fn position(&self, offset: Offset) -> Position {
        self.shared.sequencer.position(offset)
    }
}

impl Hub {
    /// Creates a hub with a new epoch, in memory only.
    #[must_use]
    pub fn new(config: Config, metrics: Arc<Metrics>) -> Self {
        Self::build(config, metrics, Sequencer::new(Epoch::random()), 0, None)
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
        let hub = Self::build(config, metrics, sequencer, bytes(store.read_cache), Some(kept));
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
    ) -> Self {
        metrics.declare_ends(EndReason::ALL.map(EndReason::as_str));
        let budget = usize::try_from(config.memory_budget.as_u64()).unwrap_or(usize::MAX);
        let shared = Arc::new(ChannelContext {
            sequencer,
            memory: Memory::new(budget, metrics.clone()),
            metrics,
            deadlines: Deadlines::default(),
            on_end: OnceLock::new(),
            read_cache: ReadCache::new(read_cache),
            pending_deletes: Arc::new(PendingDeletes::default()),
            end_retry: config.end_reconnect_delay,
            clock: config.clock.clone(),
        });
        let registry = Registry::new(config, shared.clone(), store);
        Self(Arc::new(Core { registry, shared, evicting: parking_lot::Mutex::new(()) }))
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

    /// Returns whether events of this channel outlive the process.
    #[must_use]
    pub fn is_durable(&self, name: &ChannelName) -> bool {
        self.0.registry.durability(name) != Durability::Memory
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
        queue: tokio::sync::mpsc::Sender<Ended>,
    ) {
        let _ = self.0.shared.on_end.set(OnEnd::new(filter, queue));
    }

    /// Applies these settings, also to existing channels, except for options of their own. Which
    /// names are durable does not change.
    pub fn reconfigure(&self, config: Config) {
        let budget = usize::try_from(config.memory_budget.as_u64()).unwrap_or(usize::MAX);
        self.0.shared.memory.budget().resize(budget);
        self.0.registry.reconfigure(config);
        self.evict_for_memory();
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
    pub fn tail(&self) -> Position {
        self.position(Offset(self.0.shared.sequencer.watermark().0 - 1))
    }

    /// Appends events to a channel, which is made if it does not exist, and closes it if asked to.
    ///
    /// # Errors
    /// The channel is closed, there are too many channels, or the store takes no writes; nothing
    /// was appended.
    pub fn append(
        &self,
        name: &ChannelName,
        events: &[NewEvent],
        close: Option<&Close>,
    ) -> Result<Appended, SubmitError> {
        self.append_with(name, events, close, None)
    }

    /// Appends events as [`append`](Self::append) does. In a durable channel, the receipt is stored
    /// with the events in one write.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    pub fn append_with(
        &self,
        name: &ChannelName,
        events: &[NewEvent],
        close: Option<&Close>,
        receipt: Option<ReceiptFn<'_>>,
    ) -> Result<Appended, SubmitError> {
        loop {
            let channel = self.0.registry.get_or_create(name)?;
            match channel.append(events, close, receipt) {
                Ok(appended) => {
                    self.keep_budgets(&channel);
                    return Ok(appended);
                }
                Err(error) => refused(error)?,
            }
        }
    }

    /// Creates a channel, or changes its settings. Returns its description, whether it is new, and
    /// the acknowledgement.
    ///
    /// # Errors
    /// There are too many channels, or the store takes no writes.
    pub fn configure(
        &self,
        name: &ChannelName,
        options: &ChannelOptions,
    ) -> Result<(Description, bool, CommitAck), ConfigureError> {
        loop {
            let channel = self.0.registry.get_or_create(name)?;
            let (created, ack) = match channel.configure(options) {
                Err(AppendError::Unstored(why)) => return Err(why.into()),
                Err(_) => continue,
                Ok(configured) => configured,
            };
            if let Some(description) = channel.describe() {
                return Ok((description, created, ack));
            }
        }
    }

    /// Ends a channel's subscriptions with `deleted` and frees its name. Returns the
    /// acknowledgement; `None` if there was no such channel, in memory or on disk.
    #[must_use]
    pub fn delete(&self, name: &ChannelName) -> Option<CommitAck> {
        self.0.registry.delete(name)
    }

    /// Returns the acknowledgement of the end for which an append was refused; `None` if the
    /// channel has ended. If that end fails, the append can be tried again.
    #[must_use]
    pub fn coming_end(&self, name: &ChannelName) -> Option<CommitAck> {
        let channel = self.0.registry.get(name);
        channel.map_or_else(|| Some(CommitAck::ready()), |channel| channel.coming_end())
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

    /// Opens a subscription and reads it in this task: see [`open`](Self::open).
    ///
    /// # Errors
    /// There are too many channels, or the patterns select too many.
    pub fn subscribe(
        &self,
        selection: Selection,
        from: &StartFrom,
        bounds: Bounds,
    ) -> Result<Opened<Subscription>, SubscribeError> {
        Ok(match self.open(selection, from)? {
            Opened::Live(ticket) => Opened::Live(ticket.subscribe(bounds)),
            Opened::Over => Opened::Over,
            Opened::Later(later) => Opened::Later(later),
        })
    }

    /// Opens a subscription. It is counted and its start is fixed; the ticket decides who reads it.
    ///
    /// # Errors
    /// There are too many channels, or the patterns select too many.
    pub fn open(
        &self,
        selection: Selection,
        from: &StartFrom,
    ) -> Result<Opened<Ticket>, SubscribeError> {
        match selection {
            Selection::One(name) => Ok(self.open_one(&name, from)?),
            Selection::Many(patterns) => self.open_many(patterns, from),
        }
    }

    fn open_one(
        &self,
        name: &ChannelName,
        from: &StartFrom,
    ) -> Result<Opened<Ticket>, TooManyChannels> {
        let start = self.start(from);
        if let StartAt::After(offset) = start.begin
            && self.0.registry.get(name).is_none()
            && self.0.registry.was_deleted_at(name, offset)
        {
            return Ok(Opened::Over);
        }
        let (channel, mut beginning, presence) = loop {
            let channel = self.0.registry.get_or_create(name)?;
            let (beginning, presence) = Presence::join(&self.0, &channel, start.begin);
            if let Some(seek) = beginning.on_disk {
                return Ok(Opened::Later(Later(vec![channel.fetched(seek)])));
            }
            if !beginning.retired {
                break (channel, beginning, presence);
            }
        };
        let mut snapshot = None;
        if *from == StartFrom::Snapshot {
            (beginning, snapshot) = channel.begin_with_snapshot();
        }
        if beginning.over {
            return Ok(Opened::Over);
        }
        let gap = self.gap_of_one(start, &beginning, name);
        let at_tail = beginning.at_tail && matches!(from, StartFrom::Tail | StartFrom::Last(_));
        let opening = at_tail.then(|| OpeningEvent::of_one(name, beginning.state).data().into());
        let snapshot = snapshot.map(|snapshot| {
            let position = self.position(snapshot.through);
            (snapshot, position)
        });
        let start = self.position(beginning.last_before);
        Ok(Opened::Live(Ticket(TicketKind::One(Box::new(ChannelTicket {
            presence,
            counted: self.count_start(from),
            position: beginning.position,
            joined: channel.end(),
            head: TicketHead { start, opening, gap, snapshot },
            last_before: beginning.last_before,
        })))))
    }

    fn gap_of_one(&self, start: ResolvedStart, at: &Start, name: &ChannelName) -> Option<Gap> {
        let (reason, requested) = match (start.gap, start.begin) {
            (Some(gap), _) => gap,
            (None, StartAt::After(offset)) if at.trimmed => {
                (GapReason::Evicted, self.position(offset).to_string().into())
            }
            _ => return None,
        };
        let resumed = self.position(at.last_before);
        Some(Gap { channel: Some(name.clone()), reason, requested: Some(requested), resumed })
    }

    fn count_start(&self, from: &StartFrom) -> Counted {
        Counted::start(self.metrics(), matches!(from, StartFrom::After(_)))
    }

    fn open_many(
        &self,
        patterns: Vec<ChannelPattern>,
        from: &StartFrom,
    ) -> Result<Opened<Ticket>, SubscribeError> {
        if *from == StartFrom::Snapshot {
            return Err(SubscribeError::SnapshotOfMany);
        }
        let ResolvedStart { begin, gap } = self.start(from);
        let at_tail = matches!(from, StartFrom::Tail | StartFrom::Last(0));
        let opening = at_tail.then(|| OpeningEvent::of_many(&patterns).data().into());
        let origin = |patterns: &[ChannelPattern], now| {
            let (cursor, excused) = match begin {
                StartAt::After(offset) => (offset, offset),
                StartAt::Earliest => (Offset::ZERO, now),
                StartAt::Last(count) if count > 0 => {
                    (self.before_last(patterns, count.min(MAX_LAST_EVENTS)).min(now), now)
                }
                StartAt::Tail | StartAt::Last(_) | StartAt::At(_) => (now, now),
            };
            let gap = gap.map(|(reason, requested)| Gap {
                channel: None,
                reason,
                requested: Some(requested),
                resumed: self.position(cursor),
            });
            // A resumed subscription has had the ends before the cursor; any other has not.
            MergeStart { cursor, excused, gap, tell_ends: !matches!(begin, StartAt::After(_)) }
        };
        let resumes = matches!(begin, StartAt::After(_));
        let merge = MergedReader::new(self.0.clone(), patterns, origin)?;
        if resumes && merge.is_over() {
            return Ok(Opened::Over);
        }
        let (counted, start) = (self.count_start(from), self.position(merge.cursor()));
        let ticket = ManyTicket { merge, counted, start, opening };
        Ok(Opened::Live(Ticket(TicketKind::Many(Box::new(ticket)))))
    }

    /// Returns the offset after which the last `count` events of all these channels begin.
    fn before_last(&self, patterns: &[ChannelPattern], count: u64) -> Offset {
        let selected = |channel: &&Arc<Channel>| {
            patterns.iter().any(|pattern| pattern.matches(channel.name()))
        };
        let channels = self.0.registry.all();
        let offsets = channels.iter().filter(selected).flat_map(|c| c.last_offsets(count));
        let mut offsets: Vec<Offset> = offsets.collect();
        offsets.sort_unstable();
        let skipped = offsets.len().saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
        offsets.get(skipped).map_or(Offset::ZERO, |first| Offset(first.0 - 1))
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

    fn start(&self, from: &StartFrom) -> ResolvedStart {
        let begin = |begin| ResolvedStart { begin, gap: None };
        let text = match from {
            StartFrom::Tail => return begin(StartAt::Tail),
            // The channel knows the position of its snapshot, once the subscription is attached.
            StartFrom::Earliest | StartFrom::Snapshot => return begin(StartAt::Earliest),
            StartFrom::Last(count) => return begin(StartAt::Last(*count)),
            StartFrom::After(text) => text,
        };
        let sequencer = &self.0.shared.sequencer;
        let reason = match text.parse::<Position>() {
            Ok(position) if position.epoch != *sequencer.epoch() => GapReason::Epoch,
            Ok(position) if position.offset < sequencer.watermark() => {
                return begin(StartAt::After(position.offset));
            }
            _ => GapReason::Unknown,
        };
        // Truncated, because it is sent back.
        let requested = text.chars().take(crate::limits::MAX_EVENT_ID_BYTES).collect::<String>();
        ResolvedStart { begin: StartAt::Earliest, gap: Some((reason, requested.into())) }
    }

    /// Applies the memory budget, and the quota of the channel's owner, after an append to it.
    fn keep_budgets(&self, channel: &Channel) {
        self.evict_for_memory();
        if let Some(owner) = channel.owner_in_excess() {
            self.evict_for(&owner);
        }
    }

    fn evict_for_memory(&self) {
        let budget = self.0.shared.memory.budget();
        if !budget.is_exceeded() {
            return;
        }
        // Another thread is evicting, and will see what this publish added.
        let Some(_evicting) = self.0.evicting.try_lock() else {
            return;
        };
        sweeper::evict_oldest(&self.0, budget, |_| true);
    }

    /// Makes the channel for this account, unless it was published to before. The channel and what
    /// it retains count for the account until it is gone. An unused channel may be evicted before
    /// its first use; the one that is made then belongs to no account.
    ///
    /// # Errors
    /// The account, or the hub, has as many channels as it may.
    pub fn claim(
        &self,
        name: &ChannelName,
        account: &Arc<Account>,
        why: ClaimPurpose,
    ) -> Result<(), ClaimError> {
        self.0.registry.claim(name, account, why)
    }

    /// Evicts the oldest of what this account retains, if that is more than its quota.
    fn evict_for(&self, account: &Arc<Account>) {
        let budget = account.retained();
        if !budget.is_exceeded() {
            return;
        }
        let Some(_evicting) = self.0.evicting.try_lock() else {
            return;
        };
        self.metrics().limit_hit("quotas.max_retained");
        sweeper::evict_oldest(&self.0, budget, |channel| channel.is_owned_by(account));
    }

    /// Runs the hub's housekeeping for ever: evicts by age and idleness, and does what is due.
    pub async fn sweep(self) {
        tokio::join!(sweeper::run(&self.0), sweeper::keep_time(&self.0));
    }
}

/// The reason why a publish failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The channel has ended.
    #[error("the channel is closed ({0}): it takes no more events until it is deleted")]
    Closed(crate::event::ChannelState),
    /// The channel was stopped, with an optional reason.
    #[error("the channel was stopped: nobody wants the rest")]
    Stopped(Option<Box<str>>),
    /// Its generation has a producer already.
    #[error("another request with `close=auto` is streaming into this channel: one at a time")]
    Busy,
    /// The limit of channels is reached.
    #[error(transparent)]
    TooManyChannels(#[from] TooManyChannels),
    /// The store takes no writes.
    #[error(transparent)]
    Unstored(#[from] WriteError),
}

/// The reason why a channel's settings were not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigureError {
    /// The limit of channels is reached.
    #[error(transparent)]
    TooManyChannels(#[from] TooManyChannels),
    /// The store takes no writes.
    #[error(transparent)]
    Unstored(#[from] WriteError),
}

/// Returns the error for the publisher; `Ok` if the channel must be looked up again.
fn refused(error: AppendError) -> Result<(), SubmitError> {
    match error {
        AppendError::Retired => Ok(()),
        AppendError::Closed(state) => Err(SubmitError::Closed(state)),
        AppendError::Stopped(reason) => Err(SubmitError::Stopped(reason)),
        AppendError::Busy => Err(SubmitError::Busy),
        AppendError::Unstored(why) => Err(SubmitError::Unstored(why)),
    }
}

/// The reason why a subscription could not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The limit of channels is reached.
    #[error(transparent)]
    TooManyChannels(#[from] TooManyChannels),
    /// A snapshot is of one channel.
    #[error("`from=snapshot` is for one channel: subscribe to /v1/channels/{{name}}")]
    SnapshotOfMany,
    /// The patterns are too wide.
    #[error(
        "the patterns select more than {} channels: use narrower ones",
        crate::limits::MAX_MATCHED_CHANNELS
    )]
    TooManyMatches,
}

#[cfg(test)]
pub(crate) mod tests;

//! All channels by name, the watchers of patterns, and the tombstones of removed channels.
//!
//! Locks are taken in this order: a shard of the map, a channel, then the rest.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use parking_lot::{Mutex, RwLock};

use super::channel::{Assigned, Channel, StoreTarget};
use super::commit::CommitAck;
use super::config::{Config, Settings};
use super::context::ChannelContext;
use super::error::{ClaimError, DeleteError, TooManyChannels};
use super::metadata::ChannelMetadata;
use crate::channel::{ChannelName, ChannelPattern};
use crate::limits::MAX_TOMBSTONES;
use crate::position::Offset;
use crate::quota::Account;
use crate::store::disk::{Disk, Durability, StoredStream};

/// A watcher that is notified of new channels.
pub(super) trait Watcher: Send + Sync {
    /// Notifies that a channel was made which one of the watcher's patterns selects.
    fn channel_appeared(&self, channel: &Arc<Channel>);
}

/// The channels of a hub.
pub(super) struct Registry {
    /// The configuration at the start: it decides which names are durable.
    config: Config,
    /// The configuration in force for everything else: a reload replaces it.
    live: RwLock<Arc<Config>>,
    shared: Arc<ChannelContext>,
    store: Option<StoreContext>,
    channels: DashMap<ChannelName, Arc<Channel>>,
    watchers: RwLock<Watchers>,
    tombstones: Mutex<Tombstones>,
    /// The last offset of what the shared log had deleted before this hub began to read it.
    front: AtomicU64,
}

/// The purpose of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimPurpose {
    /// To publish to the channel, or to give it settings.
    ToPublish,
    /// To subscribe to the channel.
    ToWait,
}

/// The store of durable channels.
pub(super) struct StoreContext {
    pub(super) disk: Disk,
    /// The durability of channels for which no rule sets one.
    pub(super) durability: Durability,
    /// Bytes of each channel that are kept in memory.
    pub(super) window: u64,
    /// The last offset before this start: nothing is left of the channels in memory from before it.
    pub(super) before: Offset,
    /// The last offset that is gone of durable channels: of deleted ones, and of names that were
    /// not durable before.
    pub(super) gone: Offset,
}

impl StoreContext {
    fn target(&self, durability: Durability) -> Option<StoreTarget> {
        let target = StoreTarget { disk: self.disk.clone(), durability, window: self.window };
        (durability != Durability::Memory).then_some(target)
    }
}

impl Registry {
    pub(super) fn new(
        config: Config,
        shared: Arc<ChannelContext>,
        store: Option<StoreContext>,
    ) -> Self {
        let live = RwLock::new(Arc::new(config.clone()));
        Self {
            config,
            live,
            shared,
            store,
            channels: DashMap::new(),
            watchers: RwLock::default(),
            tombstones: Mutex::default(),
            front: AtomicU64::new(0),
        }
    }

    /// Returns the settings from the configuration for a channel of this name.
    pub(super) fn settings_for(&self, name: &ChannelName) -> Settings {
        self.live.read().settings_for(name)
    }

    /// Applies these settings, also to existing channels.
    pub(super) fn reconfigure(&self, config: Config) {
        *self.live.write() = Arc::new(config);
        for channel in self.all() {
            channel.follow_configuration(self.settings_for(channel.name()));
        }
    }

    pub(super) fn get(&self, name: &ChannelName) -> Option<Arc<Channel>> {
        self.channels.get(name).map(|channel| channel.clone())
    }

    /// Returns the channel of this name, which is made if it does not exist.
    pub(super) fn get_or_create(
        &self,
        name: &ChannelName,
    ) -> Result<Arc<Channel>, TooManyChannels> {
        match self.get(name) {
            Some(channel) => Ok(channel),
            None => Ok(self.create(name, None)?.0),
        }
    }

    /// Returns the channel of this name, which is claimed for the account, if there is one.
    pub(super) fn get_for(
        &self,
        name: &ChannelName,
        by: Option<&Arc<Account>>,
        why: ClaimPurpose,
    ) -> Result<Arc<Channel>, ClaimError> {
        match by {
            Some(account) => self.claim(name, account, why),
            None => Ok(self.get_or_create(name)?),
        }
    }

    /// Returns the channel of this name, which is made for this account if it does not exist. An
    /// existing channel that was only subscribed to moves to the account of its first publisher.
    pub(super) fn claim(
        &self,
        name: &ChannelName,
        by: &Arc<Account>,
        why: ClaimPurpose,
    ) -> Result<Arc<Channel>, ClaimError> {
        let over_quota = || {
            self.shared.metrics.limit_hit("quotas.max_channels");
            ClaimError::OverQuota(by.max_channels())
        };
        loop {
            let Some(channel) = self.get(name) else {
                if !by.take_channel() {
                    return Err(over_quota());
                }
                let made = self.create(name, Some(by.clone()));
                if let Ok((channel, true)) = made {
                    return Ok(channel);
                }
                by.free_channel(0);
                // Another has made it meanwhile.
                made?;
                continue;
            };
            if why == ClaimPurpose::ToWait {
                return Ok(channel);
            }
            if let Some(counted) = channel.transfer(by) {
                return counted.then_some(channel).ok_or_else(over_quota);
            }
        }
    }

    /// Makes the channel, unless it exists by then. Returns whether it was made.
    fn create(
        &self,
        name: &ChannelName,
        owner: Option<Arc<Account>>,
    ) -> Result<(Arc<Channel>, bool), TooManyChannels> {
        let max_channels = self.live.read().max_channels;
        if self.channels.len() >= max_channels {
            self.shared.metrics.limit_hit("channels.max_channels");
            return Err(TooManyChannels(max_channels));
        }
        Ok(self.insert(name, owner))
    }

    /// Returns the channel of this name, which is made if it does not exist, also over the limit:
    /// the cluster has it.
    pub(super) fn get_or_insert(&self, name: &ChannelName) -> Arc<Channel> {
        self.get(name).unwrap_or_else(|| self.insert(name, None).0)
    }

    /// Makes the channel, unless it exists by then. Returns whether it was made.
    fn insert(&self, name: &ChannelName, owner: Option<Arc<Account>>) -> (Arc<Channel>, bool) {
        match self.channels.entry(name.clone()) {
            Entry::Occupied(entry) => (entry.get().clone(), false),
            Entry::Vacant(entry) => {
                let durability = self.durability(name);
                let target = self.store.as_ref().and_then(|store| store.target(durability));
                let channel = self.make(name, owner, target);
                entry.insert(channel.clone());
                // Under the shard's lock: nothing can be appended before the watchers know the
                // channel.
                self.watchers.read().announce(&channel);
                (channel, true)
            }
        }
    }

    fn make(
        &self,
        name: &ChannelName,
        owner: Option<Arc<Account>>,
        target: Option<StoreTarget>,
    ) -> Arc<Channel> {
        let settings = self.settings_for(name);
        let shared = self.shared.clone();
        let mut missing = self.tombstones.lock().trimmed_through(name).max(self.front());
        if let Some(store) = &self.store {
            let before = if target.is_some() { store.gone } else { store.before };
            missing = missing.max(before);
        }
        let store = target.map(|target| {
            let stream = target.disk.new_stream();
            (target, stream)
        });
        Channel::new(name.clone(), shared, owner, settings, missing, store)
    }

    /// Returns the durability of a channel of this name.
    pub(super) fn durability(&self, name: &ChannelName) -> Durability {
        let Some(store) = &self.store else { return Durability::Memory };
        let rule = self.config.rules.iter().find(|rule| rule.pattern.matches(name));
        rule.and_then(|rule| rule.durability).unwrap_or(store.durability)
    }

    /// Restores a channel from its stream. If the configuration now keeps it in memory only, its
    /// stored events stay until their retention has passed.
    pub(super) fn restore(&self, stream: &StoredStream, store: &StoreContext, power_cut: bool) {
        let durability = self.durability(&stream.name).max(Durability::Async);
        let channel = self.make(&stream.name, None, store.target(durability));
        let metadata = ChannelMetadata::from_text(&stream.options).unwrap_or_default();
        channel.restore(stream, &metadata);
        if stream.unsure || (power_cut && durability == Durability::Async) {
            channel.note_possible_loss();
        }
        self.channels.insert(stream.name.clone(), channel);
    }

    pub(super) fn store(&self) -> Option<&StoreContext> {
        self.store.as_ref()
    }

    /// Removes the channel if it is unused; one that was never published to or created, if it has
    /// been idle for this time. Returns whether it did.
    pub(super) fn evict_if_unused(&self, name: &ChannelName, least_idle: Duration) -> bool {
        let bury = |channel: &Arc<Channel>| {
            let Some(tail) = channel.retire_if_unused(least_idle) else {
                return false;
            };
            self.tombstones.lock().add(name, tail, false);
            true
        };
        let removed = self.channels.remove_if(name, |_, channel| bury(channel));
        if let Some((_, channel)) = &removed {
            channel.notify_retired();
        }
        removed.is_some()
    }

    /// Ends and removes the channel. Returns the acknowledgement; `None` if there was no channel,
    /// and no deletion of one is pending.
    pub(super) fn delete(&self, name: &ChannelName) -> Option<CommitAck<(), DeleteError>> {
        let mut deleted = None;
        let removed = self.channels.remove_if(name, |_, channel| {
            let Some((tail, ack)) = channel.delete() else {
                return false;
            };
            self.tombstones.lock().add(name, tail, true);
            deleted = Some(ack);
            true
        });
        if let Some((_, channel)) = removed {
            channel.notify_retired();
        }
        deleted.or_else(|| self.shared.pending_deletes.resubmit(&self.store.as_ref()?.disk, name))
    }

    /// Deletes the channel, as the shared log has decided. Returns it; its readers are to be
    /// notified when the watermark has passed its end.
    pub(super) fn delete_shared(
        &self,
        name: &ChannelName,
        assigned: Assigned,
    ) -> Option<Arc<Channel>> {
        let removed = self.channels.remove_if(name, |_, channel| {
            let tail = channel.delete_shared(assigned);
            self.tombstones.lock().add(name, tail, true);
            true
        });
        removed.map(|(_, channel)| channel)
    }

    /// Removes what the channel retains, as the shared log has decided, and the channel unless it
    /// has subscribers. Returns it if it is removed; its readers are to be notified.
    pub(super) fn remove_shared(&self, name: &ChannelName) -> Option<Arc<Channel>> {
        let settings = self.settings_for(name);
        let removed = self.channels.remove_if(name, |_, channel| {
            let tail = channel.remove_shared(settings);
            if let Some(tail) = tail {
                self.tombstones.lock().add(name, tail, false);
            }
            tail.is_some()
        });
        removed.map(|(_, channel)| channel)
    }

    /// Sets the last offset of what the shared log had deleted before this hub began to read it.
    pub(super) fn set_front(&self, front: Offset) {
        self.front.store(front.0, Ordering::Relaxed);
    }

    fn front(&self) -> Offset {
        Offset(self.front.load(Ordering::Relaxed))
    }

    /// Removes all channels: the shared log is read again from another message.
    pub(super) fn clear(&self) {
        self.channels
            .retain(|name, channel| channel.remove_shared(self.settings_for(name)).is_none());
        *self.tombstones.lock() = Tombstones::default();
    }

    /// Submits refused deletions again, if the store takes writes now.
    pub(super) fn resubmit_deletes(&self) {
        if let Some(store) = self.store.as_ref().filter(|store| store.disk.check().is_ok()) {
            self.shared.pending_deletes.resubmit_refused(&store.disk);
        }
    }

    /// Returns whether the channel of this name was deleted with its end at this offset.
    pub(super) fn was_deleted_at(&self, name: &ChannelName, offset: Offset) -> bool {
        self.tombstones.lock().deleted_at(name) == Some(offset)
    }

    /// Adds a watcher. Returns the channels that its wildcards select now. It is notified of later
    /// ones, and perhaps of some of these.
    pub(super) fn watch(
        &self,
        patterns: &[ChannelPattern],
        watcher: &Arc<dyn Watcher>,
    ) -> Vec<Arc<Channel>> {
        let mut watchers = self.watchers.write();
        for pattern in patterns {
            watchers.add(pattern, watcher);
        }
        drop(watchers);
        if patterns.iter().all(|pattern| pattern.exact().is_some()) {
            return Vec::new();
        }
        let selected = |name: &ChannelName| patterns.iter().any(|pattern| pattern.matches(name));
        let mut channels = self.all();
        channels.retain(|channel| selected(channel.name()));
        channels
    }

    /// Returns the tails after `after` of removed channels that these wildcards select, each with
    /// its name if that is still known.
    pub(super) fn gone(
        &self,
        patterns: &[ChannelPattern],
        after: Offset,
    ) -> Vec<(Offset, Option<ChannelName>)> {
        let wild = patterns.iter().filter(|pattern| pattern.exact().is_none());
        let wild: Vec<_> = wild.collect();
        if wild.is_empty() {
            return Vec::new();
        }
        let named = |name: &ChannelName| patterns.iter().any(|p| p.as_str() == name.as_str());
        let tombstones = self.tombstones.lock();
        let selected = tombstones.by_name.iter().filter(|(name, tombstone)| {
            tombstone.tail > after && !named(name) && wild.iter().any(|p| p.matches(name))
        });
        let mut gone: Vec<_> =
            selected.map(|(name, tombstone)| (tombstone.tail, Some(name.clone()))).collect();
        let forgotten = self.before(patterns).max(tombstones.floor);
        if forgotten > after {
            gone.push((forgotten, None));
        }
        gone
    }

    /// Returns the last offset, from before this start, of channels that these patterns may have
    /// selected and of which nothing is left.
    fn before(&self, patterns: &[ChannelPattern]) -> Offset {
        let Some(store) = &self.store else { return self.front() };
        let wild = patterns.iter().filter(|pattern| pattern.exact().is_none());
        let durable = |pattern| self.config.is_durable(pattern, store.durability);
        if wild.into_iter().all(durable) { store.gone } else { store.before }
    }

    /// Removes a watcher.
    pub(super) fn unwatch(&self, patterns: &[ChannelPattern], watcher: &Arc<dyn Watcher>) {
        let mut watchers = self.watchers.write();
        for pattern in patterns {
            watchers.remove(pattern, watcher);
        }
    }

    /// Returns all channels; no lock is held when they are used.
    pub(super) fn all(&self) -> Vec<Arc<Channel>> {
        self.channels.iter().map(|channel| channel.clone()).collect()
    }
}

/// The watchers by name and by pattern.
#[derive(Default)]
struct Watchers {
    by_name: HashMap<ChannelName, Vec<Arc<dyn Watcher>>>,
    by_pattern: Vec<(ChannelPattern, Arc<dyn Watcher>)>,
}

impl Watchers {
    fn add(&mut self, pattern: &ChannelPattern, watcher: &Arc<dyn Watcher>) {
        match pattern.exact() {
            Some(name) => self.by_name.entry(name).or_default().push(watcher.clone()),
            None => self.by_pattern.push((pattern.clone(), watcher.clone())),
        }
    }

    fn remove(&mut self, pattern: &ChannelPattern, watcher: &Arc<dyn Watcher>) {
        let Some(name) = pattern.exact() else {
            return self.by_pattern.retain(|(_, other)| !Arc::ptr_eq(other, watcher));
        };
        if let Some(waiting) = self.by_name.get_mut(&name) {
            waiting.retain(|other| !Arc::ptr_eq(other, watcher));
            if waiting.is_empty() {
                self.by_name.remove(&name);
            }
        }
    }

    fn announce(&self, channel: &Arc<Channel>) {
        let named = self.by_name.get(channel.name()).into_iter().flatten();
        let matching = self.by_pattern.iter();
        let matching = matching.filter(|(pattern, _)| pattern.matches(channel.name()));
        for watcher in named.chain(matching.map(|(_, watcher)| watcher)) {
            watcher.channel_appeared(channel);
        }
    }
}

/// The tails of removed channels, in bounded memory. A forgotten one raises `floor`: a gap may then
/// be reported that is none, but none is missed.
#[derive(Default)]
struct Tombstones {
    by_name: HashMap<ChannelName, Tombstone>,
    order: VecDeque<(ChannelName, Offset)>,
    floor: Offset,
}

#[derive(Clone, Copy)]
struct Tombstone {
    tail: Offset,
    deleted: bool,
}

impl Tombstones {
    fn add(&mut self, name: &ChannelName, tail: Offset, deleted: bool) {
        // A later channel of this name that had no events has no later tail.
        if tail <= self.trimmed_through(name) {
            return;
        }
        self.by_name.insert(name.clone(), Tombstone { tail, deleted });
        self.order.push_back((name.clone(), tail));
        while self.order.len() > MAX_TOMBSTONES {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((name, tail)) = self.order.pop_front() else {
            return;
        };
        // A name that was removed again has a newer tombstone, which is kept.
        if self.by_name.get(&name).is_some_and(|tombstone| tombstone.tail == tail) {
            self.by_name.remove(&name);
            self.floor = self.floor.max(tail);
        }
    }

    fn trimmed_through(&self, name: &ChannelName) -> Offset {
        self.by_name.get(name).map_or(self.floor, |tombstone| tombstone.tail)
    }

    fn deleted_at(&self, name: &ChannelName) -> Option<Offset> {
        self.by_name.get(name).filter(|tombstone| tombstone.deleted).map(|tombstone| tombstone.tail)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, OnceLock};
    use std::thread;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::event::NewEvent;
    use crate::hub::{
        Append, ChannelListener, ChannelOptions, ConfigureError, Hold, Hub, StopError, SubmitError,
    };

    #[tokio::test(start_paused = true)]
    async fn a_channel_that_was_claimed_waits_for_its_first_use() {
        let hub = Hub::new(Config::default(), Arc::default());
        let registry = &hub.0.registry;
        let name = "a".parse().unwrap();
        let grace = Duration::from_millis(500);
        let account = Arc::new(Account::new(1, 0));
        registry.claim(&name, &account, ClaimPurpose::ToPublish).unwrap();
        tokio::time::advance(grace - Duration::from_millis(1)).await;
        assert!(!registry.evict_if_unused(&name, grace), "its first use is still to come");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(registry.evict_if_unused(&name, grace));
    }

    #[test]
    fn a_channel_that_was_made_during_a_claim_belongs_to_the_account() {
        let hub = Hub::new(Config::default(), Arc::default());
        let registry = &hub.0.registry;
        let name: ChannelName = "a".parse().unwrap();
        let account = Arc::new(Account::new(1, 0));
        for _ in 0..5_000 {
            let both = Barrier::new(2);
            thread::scope(|scope| {
                scope.spawn(|| {
                    both.wait();
                    registry.get_or_create(&name).unwrap();
                });
                both.wait();
                registry.claim(&name, &account, ClaimPurpose::ToPublish).unwrap();
            });
            assert!(registry.get(&name).unwrap().is_owned_by(&account));
            assert!(registry.evict_if_unused(&name, Duration::ZERO));
        }
    }

    type Use<'a> = &'a dyn Fn(&ChannelName) -> Result<(), ClaimError>;

    fn claim_error(error: SubmitError) -> ClaimError {
        match error {
            SubmitError::Claim(error) => error,
            error => panic!("{error}"),
        }
    }

    #[test]
    fn a_channel_that_was_evicted_after_its_claim_is_claimed_again() {
        let hub = Hub::new(Config::default(), Arc::default());
        let registry = &hub.0.registry;
        let account = Arc::new(Account::new(1, 0));
        let event = || NewEvent { event_type: None, data: "x".to_owned().into() };
        let append = |name: &ChannelName| {
            let append =
                Append { events: &[event()], account: Some(&account), ..Append::default() };
            hub.submit(name, append).map(drop).map_err(claim_error)
        };
        let produce = |name: &ChannelName| {
            let produced = hub.produce(name, Some(&account), Hold::Sole, None).now_or_never();
            produced.unwrap().map(drop).map_err(claim_error)
        };
        let configure = |name: &ChannelName| {
            let configured = hub.configure(name, &ChannelOptions::default(), Some(&account));
            configured.map(drop).map_err(|error| match error {
                ConfigureError::Claim(error) => error,
                error => panic!("{error}"),
            })
        };
        let stop = |name: &ChannelName| {
            let stopped = hub.stop(name, None, None, Some(&account)).now_or_never();
            stopped.unwrap().map(drop).map_err(|error| match error {
                StopError::Claim(error) => error,
                error => panic!("{error}"),
            })
        };
        let uses: [Use<'_>; 4] = [&append, &produce, &configure, &stop];
        let [name, other] = ["a", "b"].map(|text| text.parse::<ChannelName>().unwrap());
        for use_channel in uses {
            registry.claim(&name, &account, ClaimPurpose::ToPublish).unwrap();
            assert!(registry.evict_if_unused(&name, Duration::ZERO));
            use_channel(&name).unwrap();
            assert!(registry.get(&name).unwrap().is_owned_by(&account));
            assert_eq!(use_channel(&other), Err(ClaimError::OverQuota(1)));
            drop(hub.delete(&name));
        }
    }

    #[test]
    fn a_channel_that_has_left_memory_is_not_moved_to_an_account() {
        let hub = Hub::new(Config::default(), Arc::default());
        let registry = &hub.0.registry;
        let name = "a".parse().unwrap();
        let channel = registry.get_or_create(&name).unwrap();
        assert!(registry.evict_if_unused(&name, Duration::ZERO));
        assert_eq!(channel.transfer(&Arc::new(Account::new(1, 0))), None);
    }

    /// Notes whether the registry was locked when the channel had changed.
    struct LockWitness(Hub, ChannelName, OnceLock<bool>);

    impl ChannelListener for LockWitness {
        fn channel_changed(&self) {
            let is_locked = self.0.0.registry.channels.try_get(&self.1).is_locked();
            let _ = self.2.set(is_locked);
        }
    }

    #[test]
    fn no_listener_is_notified_under_a_lock_of_the_registry() {
        let hub = Hub::new(Config::default(), Arc::default());
        let name: ChannelName = "a".parse().unwrap();
        let removals: [fn(&Registry, &ChannelName); 2] = [
            |registry, name| assert!(registry.evict_if_unused(name, Duration::ZERO)),
            |registry, name| drop(registry.delete(name).unwrap()),
        ];
        for (known, remove) in removals.into_iter().enumerate() {
            let registry = &hub.0.registry;
            let channel = registry.get_or_create(&name).unwrap();
            if known > 0 {
                drop(hub.configure(&name, &ChannelOptions::default(), None).unwrap());
            }
            let witness = LockWitness(hub.clone(), name.clone(), OnceLock::new());
            let witness = Arc::new(witness);
            channel.add_listener(witness.clone());
            remove(registry, &name);
            assert_eq!(witness.2.get(), Some(&false));
        }
    }

    #[test]
    fn a_forgotten_tombstone_raises_the_floor() {
        let mut tombstones = Tombstones::default();
        let name = |number: usize| format!("c/{number}").parse::<ChannelName>().unwrap();
        for number in 0..MAX_TOMBSTONES + 10 {
            tombstones.add(&name(number), Offset(number as u64 + 1), false);
        }
        assert_eq!(tombstones.trimmed_through(&name(0)), Offset(10));
        assert_eq!(tombstones.trimmed_through(&name(10)), Offset(11));
        assert_eq!(tombstones.by_name.len(), MAX_TOMBSTONES);
    }
}

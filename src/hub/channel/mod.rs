//! A channel: a log with one writer, its producers and its readers.
//!
//! Events take one path: `append.rs` renders them into a batch, `backend.rs` makes the batch
//! durable, and `Channel::commit` appends it to the log. A batch that the store has not written yet
//! is pending, and no reader sees it.

mod append;
mod apply;
mod backend;
mod folding;
mod generation;
mod life;
mod listeners;
mod log_end;
mod pending;
mod producing;
mod read;
mod render;
mod replicated;
mod retention;
mod stored;
mod usage;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;
use tokio::sync::watch;

pub use self::append::{Append, Appended, Keyed, ReceiptFn};
pub(in crate::hub) use self::append::{Effects, refusal};
pub(in crate::hub) use self::apply::ChannelUse;
use self::backend::Backend;
pub(in crate::hub) use self::backend::StoreTarget;
use self::generation::Generation;
pub use self::generation::Snapshot;
use self::life::Life;
pub use self::life::Producer;
pub use self::listeners::ChannelListener;
use self::listeners::Listeners;
use self::log_end::LogEnd;
use self::pending::PendingBatches;
pub use self::producing::Hold;
pub(in crate::hub) use self::producing::UNWATCHED;
pub(in crate::hub) use self::render::Assigned;
use self::replicated::Replicated;
pub(in crate::hub) use self::replicated::{LogPlace, Overdue, SharedEvents};
use self::usage::Usage;

use crate::channel::ChannelName;
use crate::event::ChannelState;
use crate::generation::Format;
use crate::hub::coalesce::MergeCache;
use crate::hub::commit::CommitAck;
use crate::hub::config::{ChannelOptions, Settings};
use crate::hub::context::ChannelContext;
use crate::hub::error::ConfigureError;
use crate::hub::read::{Start, StartAt};
use crate::hub::signals::Signals;
use crate::position::{Offset, Position};
use crate::quota::Account;
use crate::store::disk::{StreamId, TrimPoint, WriteError};
use crate::store::{Entry, Log, LogPosition};

/// A named, ordered log of events, and its listeners.
pub struct Channel {
    name: ChannelName,
    shared: Arc<ChannelContext>,
    me: Weak<Self>,
    inner: Mutex<ChannelInner>,
    end: LogEnd,
    listeners: Listeners,
    subscribers: AtomicUsize,
    /// Number of subscribers at the other hubs of the cluster.
    remote_subscribers: AtomicUsize,
    /// Set when the channel's owner retains more than its quota.
    in_excess: AtomicBool,
    /// Signals for producer handles; set by the first of them.
    signals: OnceLock<watch::Sender<Signals>>,
    merged: MergeCache,
}

/// State that the channel's lock protects.
struct ChannelInner {
    log: Log,
    /// Where batches become durable before they are committed to the log.
    backend: Backend,
    /// The batches on their way there.
    pending: PendingBatches,
    /// The producer and the end.
    life: Life,
    /// The holders, the owner, and the memory.
    usage: Usage,
    /// The format and the fold of the events; set when first needed.
    generation: Option<Box<Generation>>,
    /// Whether a hook wants the end of the channel, with its fold.
    hooked: bool,
    /// The first and the last event ever appended, retained or not.
    span: Option<(Entry, Entry)>,
    /// The options set on the channel itself.
    options: ChannelOptions,
    settings: Settings,
    /// Whether the channel was ever published to, created or stopped.
    known: bool,
    /// Removed from the registry: a caller that holds the channel must look up its name again.
    retired: bool,
    /// The last offset of earlier channels of this name, whose events are missing.
    inherited: Offset,
    /// The channel in the shared log; `None` if the log does not have it.
    replicated: Option<Box<Replicated>>,
}

/// The result of a change of a channel's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Configured {
    /// Whether the channel was created.
    pub created: bool,
    /// The channel with its new settings.
    pub channel: Description,
}

/// The state of a channel at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// The channel.
    pub name: ChannelName,
    /// Whether it is open, or the state in which it ended.
    pub state: ChannelState,
    /// The earliest retained event.
    pub earliest: Option<Position>,
    /// The last event that was ever appended.
    pub tail: Position,
    /// Number of retained events.
    pub events: u64,
    /// Number of retained bytes.
    pub bytes: u64,
    /// Number of subscribers.
    pub subscribers: usize,
    /// The format of its generation, if it is known.
    pub format: Option<&'static str>,
    /// The producer of its generation.
    pub producer: Producer,
    /// The settings in force.
    pub settings: Settings,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Channel").field(&self.name).finish()
    }
}

impl Channel {
    pub(in crate::hub) fn new(
        name: ChannelName,
        shared: Arc<ChannelContext>,
        owner: Option<Arc<Account>>,
        settings: Settings,
        trimmed_through: Offset,
        store: Option<(StoreTarget, StreamId)>,
    ) -> Arc<Self> {
        let log = match store {
            None => Log::new(trimmed_through),
            Some(_) => Log::stored(
                TrimPoint { position: LogPosition::default(), last_trimmed: trimmed_through },
                LogPosition::default(),
                trimmed_through,
            ),
        };
        let inner = ChannelInner {
            log,
            backend: Backend::new(store),
            pending: PendingBatches::default(),
            life: Life::default(),
            usage: Usage::new(owner),
            generation: None,
            hooked: shared.on_end.get().is_some_and(|on_end| on_end.wants(&name)),
            span: None,
            options: ChannelOptions::default(),
            settings,
            known: false,
            retired: false,
            inherited: trimmed_through,
            replicated: None,
        };
        shared.metrics.channel_created();
        Arc::new_cyclic(|me| Self {
            name,
            shared,
            me: me.clone(),
            inner: Mutex::new(inner),
            end: LogEnd::default(),
            listeners: Listeners::default(),
            subscribers: AtomicUsize::new(0),
            remote_subscribers: AtomicUsize::new(0),
            in_excess: AtomicBool::new(false),
            signals: OnceLock::new(),
            merged: MergeCache::default(),
        })
    }

    /// The channel's name.
    #[must_use]
    pub fn name(&self) -> &ChannelName {
        &self.name
    }

    /// Creates the channel if it is not known, and sets its own options. `None` if the channel has
    /// left memory.
    ///
    /// # Errors
    /// The store takes no writes.
    pub(in crate::hub) fn configure(
        &self,
        options: &ChannelOptions,
    ) -> Result<Option<CommitAck<Configured, ConfigureError>>, WriteError> {
        let mut inner = self.inner.lock();
        if inner.retired {
            return Ok(None);
        }
        inner.backend.check()?;
        let created = !inner.known;
        inner.known = true;
        inner.usage.note_use();
        inner.settings = inner.settings.with(options);
        inner.options = inner.options.with(options);
        self.apply_retention(&mut inner);
        self.set_deadline(&inner);
        // The acknowledgement is for this write, even if the store has the same metadata.
        inner.backend.forget_metadata();
        let configured = Configured { created, channel: self.description(&mut inner) };
        Ok(Some(self.describe_to_store(&mut inner, configured)))
    }

    /// Applies the settings of a new configuration, under the channel's own options.
    pub(in crate::hub) fn follow_configuration(&self, configured: Settings) {
        let mut inner = self.inner.lock();
        let settings = configured.with(&inner.options);
        if inner.retired || settings == inner.settings {
            return;
        }
        inner.settings = settings;
        self.apply_retention(&mut inner);
        self.set_deadline(&inner);
    }

    /// Returns the channel's state; `None` until the first publish or the channel's creation.
    #[must_use]
    pub fn describe(&self) -> Option<Description> {
        let mut inner = self.inner.lock();
        inner.known.then(|| self.description(&mut inner))
    }

    /// Returns the channel's state, whether or not it was published to.
    pub(in crate::hub) fn describe_now(&self) -> Description {
        self.description(&mut self.inner.lock())
    }

    fn description(&self, inner: &mut ChannelInner) -> Description {
        let format = inner.apparent_format().map(Format::as_str);
        let position = |offset| self.shared.sequencer.position(offset);
        let retained = inner.log.start().distance_to(inner.log.end());
        let ends = u64::from(inner.life.has_ended()); // in the log as well, and no event
        Description {
            name: self.name.clone(),
            state: inner.life.state(),
            earliest: inner.earliest().map(position),
            tail: position(inner.log.tail()),
            events: retained.seq.saturating_sub(ends),
            bytes: retained.byte,
            subscribers: self.subscribers(),
            format,
            producer: inner.life.producer(),
            settings: inner.settings,
        }
    }

    /// Returns the number of subscribers, at all hubs of the cluster.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.local_subscribers() + self.remote_subscribers.load(Ordering::Relaxed)
    }

    /// Returns the number of subscribers at this hub.
    pub(in crate::hub) fn local_subscribers(&self) -> usize {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// Returns the position after the last event, without taking the channel's lock.
    #[must_use]
    pub fn end(&self) -> LogPosition {
        self.end.get()
    }

    /// Returns the last offset of earlier channels of this name.
    pub(in crate::hub) fn inherited(&self) -> Offset {
        self.inner.lock().inherited
    }

    /// Adds a listener that is not counted as a subscriber. Returns its key.
    pub fn add_listener(&self, listener: Arc<dyn ChannelListener>) -> usize {
        self.listeners.add(listener)
    }

    /// Removes a listener that is not counted as a subscriber.
    pub fn remove_listener(&self, key: usize) {
        self.listeners.remove(key);
    }

    /// Adds a subscriber with its listener and returns where its reading begins, in one step.
    pub(in crate::hub) fn attach(
        &self,
        begin: StartAt,
        holds: bool,
        listener: Arc<dyn ChannelListener>,
    ) -> (Start, usize) {
        let mut inner = self.inner.lock();
        let key = self.listeners.add(listener);
        let beginning = self.count_in(&mut inner, begin, holds);
        drop(inner);
        self.post_signals();
        (beginning, key)
    }

    /// Adds a subscriber without a listener, and holds the channel. Returns where its reading
    /// begins.
    pub(in crate::hub) fn join(&self, begin: StartAt) -> Start {
        let mut inner = self.inner.lock();
        let beginning = self.count_in(&mut inner, begin, true);
        drop(inner);
        self.post_signals();
        beginning
    }

    fn count_in(&self, inner: &mut ChannelInner, begin: StartAt, holds: bool) -> Start {
        inner.usage.note_use();
        if holds {
            inner.usage.hold();
        }
        self.subscribers.fetch_add(1, Ordering::Relaxed);
        self.note_viewers_changed();
        inner.life.note_watched();
        inner.begin(begin)
    }

    fn note_viewers_changed(&self) {
        if let Some(changes) = &self.shared.viewer_changes {
            changes.note(&self.name);
        }
    }

    /// Removes a subscriber. Returns whether the channel is now unused: not held, never published
    /// to and never created.
    pub(in crate::hub) fn leave(&self, held: bool) -> bool {
        let left = self.subscribers.fetch_sub(1, Ordering::Relaxed) - 1;
        self.note_viewers_changed();
        let unused = {
            let mut inner = self.inner.lock();
            if held {
                inner.usage.let_go();
            }
            inner.usage.note_use();
            if self.subscribers() == 0 {
                self.note_unwatched(&mut inner);
            }
            if left == 0 {
                self.merged.clear();
            }
            !inner.usage.is_held() && !inner.known
        };
        self.post_signals();
        unused
    }
}

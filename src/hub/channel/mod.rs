//! A channel: the sole writer of its log.

mod durable;
mod generation;
mod live;
mod retention;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use slab::Slab;
use tokio::sync::watch;
use tokio::time::Instant;

use self::durable::Durable;
pub use self::durable::ReceiptFn;
pub(in crate::hub) use self::durable::StoreTarget;
use self::generation::Generation;
pub use self::generation::Snapshot;
pub use self::live::Hold;

use crate::channel::ChannelName;
use crate::clock::{Clock, Moment};
use crate::event::{self, ChannelState, NewEvent};
use crate::generation::Format;
use crate::hub::coalesce::MergedBatch;
use crate::hub::commit::CommitAck;
use crate::hub::config::{ChannelOptions, Settings};
use crate::hub::control_events::{End, OnEnd};
use crate::hub::deadlines::Deadlines;
use crate::hub::memory::Memory;
use crate::hub::pending_deletes::PendingDeletes;
use crate::hub::read::{PeekResult, ReadResult, Start, StartAt};
use crate::hub::read_cache::ReadCache;
use crate::hub::sequencer::Sequencer;
use crate::hub::signals::Signals;
use crate::position::{Epoch, Offset, Position};
use crate::quota::Account;
use crate::sse;
use crate::store::disk::{Seek, StreamId, TrimPoint, WriteError};
use crate::store::{BatchBuilder, Entry, Log, LogPosition, LogRead};
use crate::telemetry::Metrics;

/// A listener that is notified when a channel has something new to read.
pub trait ChannelListener: Send + Sync {
    /// Notifies that the channel has changed. Clear the latch before reading the tail.
    fn channel_changed(&self);

    /// Returns whether the listener takes [`deliver`](Self::deliver) calls.
    fn can_deliver(&self) -> bool {
        false
    }

    /// Delivers new events to its readers, on the publisher's thread and with no lock held. Returns
    /// whether all was delivered; if not, [`channel_changed`](Self::channel_changed) is called.
    fn deliver(&self) -> bool {
        false
    }

    /// Notifies that the channel is about to change: its lock is held, and no offset has been taken
    /// yet. A merged reader must list this channel before the offset counts for the watermark.
    fn channel_changing(&self) {}
}

/// State that all channels of a hub share.
#[derive(Debug)]
pub(in crate::hub) struct ChannelContext {
    pub(in crate::hub) sequencer: Sequencer,
    pub(in crate::hub) memory: Memory,
    pub(in crate::hub) metrics: Arc<Metrics>,
    pub(in crate::hub) deadlines: Deadlines,
    pub(in crate::hub) on_end: OnceLock<OnEnd>,
    pub(in crate::hub) read_cache: ReadCache,
    pub(in crate::hub) pending_deletes: Arc<PendingDeletes>,
    /// The reconnect delay in an end event.
    pub(in crate::hub) end_retry: Duration,
    pub(in crate::hub) clock: Clock,
}

/// A named, ordered log of events, and its listeners.
pub struct Channel {
    name: ChannelName,
    shared: Arc<ChannelContext>,
    inner: Mutex<ChannelInner>,
    /// The log's end, which the lag of readers is measured against.
    end_seq: AtomicU64,
    end_byte: AtomicU64,
    listeners: RwLock<Slab<Arc<dyn ChannelListener>>>,
    subscribers: AtomicUsize,
    /// Set when the channel's owner retains more than its quota.
    in_excess: AtomicBool,
    /// Signals for producer handles; set by the first of them.
    signals: OnceLock<watch::Sender<Signals>>,
    /// The last merged batch, with its start: readers at the same position share it.
    merged: Mutex<Option<(LogPosition, MergedBatch)>>,
}

/// State that the channel's lock protects.
struct ChannelInner {
    log: Log,
    /// The durable part, unless the channel is in memory only.
    durable: Option<Box<Durable>>,
    /// The account that the channel is counted for: of its publisher or creator, or else of its
    /// first subscriber.
    owner: Option<Arc<Account>>,
    /// The end event, if the channel has ended.
    end: Option<End>,
    /// Whether the channel was ended by a stop.
    stopped: bool,
    /// The time of the end.
    ended_at: Moment,
    /// The first and the last event ever appended, retained or not.
    span: Option<(Entry, Entry)>,
    /// Whether a hook wants the end of the channel, with its fold.
    hooked: bool,
    /// The format and the fold of the events; set when first needed.
    generation: Option<Box<Generation>>,
    producer: Producer,
    /// The reason that the producer gave when it left.
    left: Option<Box<str>>,
    /// Whether the channel ever had a sole producer.
    produced: bool,
    /// The options set on the channel itself.
    options: ChannelOptions,
    settings: Settings,
    /// Whether the channel was ever published to, created or stopped.
    known: bool,
    /// Removed from the registry: a caller that holds the channel must look up its name again.
    retired: bool,
    /// The last offset of earlier channels of this name, whose events are missing.
    inherited: Offset,
    /// Number of subscriptions and handles that keep the channel in memory.
    holders: usize,
    last_used: Instant,
    /// The number of bytes last reported to the memory budget.
    footprint: usize,
}

/// The producer of a channel's generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Producer {
    /// There is no sole producer.
    None,
    /// A producer is connected.
    Streaming {
        /// The time since which there has been no viewer, if there is none.
        unwatched: Option<Instant>,
    },
    /// A producer left without an end.
    Away {
        /// When it left, or when something was last published.
        since: Instant,
    },
}

/// The state and the reason to close a channel with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Close {
    /// The state to end in.
    pub state: ChannelState,
    /// The reason, in words.
    pub reason: Option<Box<str>>,
}

/// The result of an append.
#[derive(Debug)]
pub struct Appended {
    /// The offsets of the first and the last event, if there was any.
    pub offsets: Option<(Offset, Offset)>,
    /// Number of subscribers at the time of the append.
    pub subscribers: usize,
    /// The channel's state after the append.
    pub state: ChannelState,
    /// Resolves when the append is committed; before that, no reader of a durable channel sees it.
    pub ack: CommitAck,
}

/// The reason why nothing was appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The channel has ended.
    #[error("the channel is closed ({0}): it takes no more events until it is deleted")]
    Closed(ChannelState),
    /// The channel was stopped, with an optional reason.
    #[error("the channel was stopped")]
    Stopped(Option<Box<str>>),
    /// The channel's generation has a producer already.
    #[error("another producer is at it")]
    Busy,
    /// The channel has left memory since it was looked up.
    #[error("the channel was evicted")]
    Retired,
    /// The store takes no writes.
    #[error(transparent)]
    Unstored(#[from] WriteError),
}

impl AppendError {
    fn ended(end: &End, stopped: bool) -> Self {
        if stopped { Self::Stopped(end.reason.clone()) } else { Self::Closed(end.state) }
    }
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
        durable: Option<(StoreTarget, StreamId, Weak<Self>)>,
    ) -> Self {
        let log = match durable {
            None => Log::new(trimmed_through),
            Some(_) => Log::stored(
                TrimPoint { position: LogPosition::default(), last_trimmed: trimmed_through },
                LogPosition::default(),
                trimmed_through,
            ),
        };
        let durable = durable.map(|(target, stream, me)| Durable::new(target, stream, me));
        let inner = ChannelInner {
            log,
            durable: durable.map(Box::new),
            owner,
            end: None,
            stopped: false,
            ended_at: Moment::default(),
            span: None,
            hooked: shared.on_end.get().is_some_and(|on_end| on_end.wants(&name)),
            generation: None,
            producer: Producer::None,
            left: None,
            produced: false,
            options: ChannelOptions::default(),
            inherited: trimmed_through,
            settings,
            known: false,
            retired: false,
            holders: 0,
            last_used: Instant::now(),
            footprint: 0,
        };
        shared.metrics.channel_created();
        Self {
            name,
            shared,
            inner: Mutex::new(inner),
            end_seq: AtomicU64::new(0),
            end_byte: AtomicU64::new(0),
            listeners: RwLock::new(Slab::new()),
            subscribers: AtomicUsize::new(0),
            in_excess: AtomicBool::new(false),
            signals: OnceLock::new(),
            merged: Mutex::default(),
        }
    }

    /// The channel's name.
    #[must_use]
    pub fn name(&self) -> &ChannelName {
        &self.name
    }

    /// Appends events, then closes the channel if asked to, in one step: no other event comes
    /// between. Notifies the listeners.
    ///
    /// # Errors
    /// The channel is closed or has left memory, or the store takes no writes; nothing was
    /// appended.
    pub fn append(
        &self,
        events: &[NewEvent],
        close: Option<&Close>,
        receipt: Option<ReceiptFn<'_>>,
    ) -> Result<Appended, AppendError> {
        let appended = {
            let mut inner = self.inner.lock();
            inner.check_writable()?;
            inner.check_stored()?;
            self.shared.sequencer.check().map_err(AppendError::Unstored)?;
            inner.known = true;
            inner.last_used = Instant::now();
            self.forewarn();
            if inner.durable.is_some() {
                let close = close.map(|close| (close, false));
                return Ok(self.stage(&mut inner, events, close, receipt));
            }
            let offsets = self.append_events(&mut inner, events);
            inner.note_progress();
            if let Some(close) = close {
                self.append_end(&mut inner, close);
            }
            self.apply_retention(&mut inner);
            let (subscribers, state) = (self.subscribers(), inner.state());
            Appended { offsets, subscribers, state, ack: CommitAck::ready() }
        };
        if !events.is_empty() || close.is_some() {
            self.notify();
        }
        if close.is_some() {
            self.tell_of_end();
        }
        Ok(appended)
    }

    /// Creates the channel if it is not known, and sets its own options. Returns whether it was
    /// created, and the acknowledgement.
    ///
    /// # Errors
    /// The channel has left memory, or the store takes no writes.
    pub fn configure(&self, options: &ChannelOptions) -> Result<(bool, CommitAck), AppendError> {
        let mut inner = self.inner.lock();
        if inner.retired {
            return Err(AppendError::Retired);
        }
        inner.check_stored()?;
        let created = !inner.known;
        inner.known = true;
        inner.last_used = Instant::now();
        inner.settings = inner.settings.with(options);
        inner.options = inner.options.with(options);
        self.apply_retention(&mut inner);
        self.set_clocks(&mut inner);
        let metadata = inner.metadata();
        let ack = inner.durable.as_mut().map(|durable| durable.describe_again(self, &metadata));
        Ok((created, ack.unwrap_or_else(CommitAck::ready)))
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
        self.set_clocks(&mut inner);
    }

    /// Returns the channel's state; `None` until the first publish or the channel's creation.
    #[must_use]
    pub fn describe(&self) -> Option<Description> {
        let mut inner = self.inner.lock();
        let format = inner.apparent_format().map(Format::as_str);
        let position = |offset| self.shared.sequencer.position(offset);
        let retained = inner.log.start().distance_to(inner.log.end());
        let ends = u64::from(inner.end.is_some()); // in the log as well, and no event
        inner.known.then(|| Description {
            name: self.name.clone(),
            state: inner.state(),
            earliest: inner.earliest().map(position),
            tail: position(inner.log.tail()),
            events: retained.seq.saturating_sub(ends),
            bytes: retained.byte,
            subscribers: self.subscribers(),
            format,
            producer: inner.producer(),
            settings: inner.settings,
        })
    }

    /// Returns the acknowledgement of an end that is not stored yet; `None` if the channel has
    /// ended.
    pub(in crate::hub) fn coming_end(&self) -> Option<CommitAck> {
        let inner = self.inner.lock();
        let coming = || inner.durable.as_ref().and_then(|durable| durable.coming_end());
        let ack = || coming().map_or_else(CommitAck::ready, |coming| coming.ack());
        (inner.end.is_none() && !inner.retired).then(ack)
    }

    /// Returns the end, if the channel has ended.
    pub(in crate::hub) fn ended(&self) -> Option<End> {
        self.inner.lock().end.clone()
    }

    /// Returns the number of subscribers.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.subscribers.load(Ordering::Relaxed)
    }

    /// Returns the events at a position, up to `max_bytes` of them but at least one.
    #[must_use]
    pub fn read(&self, at: LogPosition, max_bytes: usize) -> LogRead {
        let mut inner = self.inner.lock();
        let read = inner.log.read(at, max_bytes);
        if matches!(read, LogRead::OnDisk) {
            self.fetch(&mut inner, Seek::Seq(at.seq));
        }
        read
    }

    /// Returns the frames from this byte of the log on, which is the edge of a frame: for a reader
    /// that counts bytes because its socket does.
    #[must_use]
    pub fn read_at_byte(&self, byte: u64, max_bytes: usize, merge: bool) -> ReadResult {
        let mut inner = self.inner.lock();
        let batch = match inner.log.read_from_byte(byte, max_bytes) {
            LogRead::Batch(batch) => batch,
            LogRead::Missing(missing) => return ReadResult::Missing(missing),
            // The last event cannot be read any more, or the reader's gap reaches after it: only
            // the end is left.
            LogRead::CaughtUp if inner.end.is_some() => {
                let merged = BatchBuilder::new(inner.log.end()).finish().into();
                return ReadResult::Frames { batch: merged, more: false, last: true };
            }
            LogRead::CaughtUp => return ReadResult::Nothing,
            LogRead::OnDisk => {
                self.fetch(&mut inner, Seek::Byte(byte));
                return ReadResult::Nothing;
            }
        };
        let more = batch.end() != inner.log.end();
        let last = inner.end.is_some() && !more;
        let format = if merge { inner.known_format() } else { None };
        drop(inner);
        let merged = match format {
            Some(format) => self.merge(&batch, format),
            None => batch.into(),
        };
        ReadResult::Frames { batch: merged, more, last }
    }

    /// Returns the number of events and bytes after this byte of the log.
    #[must_use]
    pub fn lag_at_byte(&self, byte: u64) -> LogPosition {
        let inner = self.inner.lock();
        inner.log.position_near_byte(byte).distance_to(inner.log.end())
    }

    /// Returns the offset of the last event before this byte of the log.
    pub(in crate::hub) fn offset_before(&self, byte: u64) -> Offset {
        let inner = self.inner.lock();
        let last = inner.log.position_near_byte(byte).seq.checked_sub(1);
        let entry = last.and_then(|seq| inner.log.peek(seq));
        entry.map_or(inner.log.trimmed_through(), |entry| entry.offset)
    }

    /// Adds a listener that is not counted as a subscriber.
    pub fn add_listener(&self, listener: Arc<dyn ChannelListener>) -> usize {
        self.listeners.write().insert(listener)
    }

    /// Removes a listener that is not counted as a subscriber.
    pub fn remove_listener(&self, key: usize) {
        self.listeners.write().remove(key);
    }

    /// Returns the position after the last event, without taking the channel's lock.
    #[must_use]
    pub fn end(&self) -> LogPosition {
        LogPosition {
            seq: self.end_seq.load(Ordering::Acquire),
            byte: self.end_byte.load(Ordering::Acquire),
        }
    }

    /// Returns the offset of the first event that is not stored yet.
    pub(in crate::hub) fn coming(&self) -> Option<Offset> {
        self.inner.lock().durable.as_ref()?.coming()
    }

    /// Returns what a reader at this position would read next.
    pub(in crate::hub) fn look(&self, at: LogPosition) -> PeekResult {
        let inner = self.inner.lock();
        let coming = inner.durable.as_ref().and_then(|durable| durable.coming());
        match (inner.log.peek(at.seq), inner.log.missing_at(at)) {
            (Some(entry), _) => PeekResult::Event(entry.offset),
            (None, Some(missing)) => PeekResult::Missing(missing),
            (None, None) if at.seq < inner.log.end().seq => PeekResult::OnDisk,
            (None, None) if inner.end.is_some() => PeekResult::Over,
            (None, None) if inner.retired => PeekResult::Retired,
            (None, None) => coming.map_or(PeekResult::Nothing, PeekResult::Coming),
        }
    }

    /// Returns the last offset of earlier channels of this name.
    pub(in crate::hub) fn inherited(&self) -> Offset {
        self.inner.lock().inherited
    }

    /// Adds a subscriber with its listener and returns where its reading begins, in one step.
    pub(in crate::hub) fn attach(
        &self,
        begin: StartAt,
        holds: bool,
        listener: Arc<dyn ChannelListener>,
    ) -> (Start, usize) {
        let mut inner = self.inner.lock();
        let key = self.listeners.write().insert(listener);
        let beginning = self.count_in(&mut inner, begin, holds);
        drop(inner);
        self.post();
        (beginning, key)
    }

    /// Adds a subscriber without a listener, and holds the channel. Returns where its reading
    /// begins.
    pub(in crate::hub) fn join(&self, begin: StartAt) -> Start {
        let mut inner = self.inner.lock();
        let beginning = self.count_in(&mut inner, begin, true);
        drop(inner);
        self.post();
        beginning
    }

    fn count_in(&self, inner: &mut ChannelInner, begin: StartAt, holds: bool) -> Start {
        inner.last_used = Instant::now();
        inner.holders += usize::from(holds);
        self.subscribers.fetch_add(1, Ordering::Relaxed);
        inner.watched();
        inner.begin(begin)
    }

    /// Removes a subscriber. Returns whether the channel is now unused: not held, never published
    /// to and never created.
    pub(in crate::hub) fn leave(&self, held: bool) -> bool {
        let left = self.subscribers.fetch_sub(1, Ordering::Relaxed) - 1;
        let unused = {
            let mut inner = self.inner.lock();
            inner.holders -= usize::from(held);
            inner.last_used = Instant::now();
            if left == 0 {
                self.note_unwatched(&mut inner);
                *self.merged.lock() = None;
            }
            inner.holders == 0 && !inner.known
        };
        self.post();
        unused
    }

    /// Returns where a read without a subscriber begins.
    pub(in crate::hub) fn begin(&self, begin: StartAt) -> Start {
        let mut inner = self.inner.lock();
        inner.last_used = Instant::now();
        inner.begin(begin)
    }

    /// Returns the offsets of the last `count` events, oldest first.
    pub(in crate::hub) fn last_offsets(&self, count: u64) -> Vec<Offset> {
        let inner = self.inner.lock();
        let end = inner.log.end().seq;
        (end.saturating_sub(count)..end)
            .filter_map(|seq| inner.log.peek(seq))
            .map(|e| e.offset)
            .collect()
    }

    fn append_events(
        &self,
        inner: &mut ChannelInner,
        events: &[NewEvent],
    ) -> Option<(Offset, Offset)> {
        let last = events.len().checked_sub(1)? as u64;
        let first = self.shared.sequencer.take(events.len() as u64);
        let mut writer = FrameWriter::new(&self.shared);
        for (offset, event) in (first.0..).zip(events) {
            let (entry, frame) = writer.event(Offset(offset), event);
            inner.log.append(entry, frame, &inner.settings.retention);
        }
        let entry = |offset| Entry { offset: Offset(offset), time: writer.time };
        let first_ever = inner.span.map_or(entry(first.0), |(first_ever, _)| first_ever);
        inner.span = Some((first_ever, entry(first.0 + last)));
        self.publish_end(inner);
        let bytes = events.iter().map(|event| event.data.as_bytes().len() as u64).sum();
        self.shared.metrics.published(events.len() as u64, bytes);
        Some((first, Offset(first.0 + last)))
    }

    fn append_end(&self, inner: &mut ChannelInner, close: &Close) {
        let end = End::of(&self.name, close);
        let offset = self.shared.sequencer.take(1);
        let mut writer = FrameWriter::new(&self.shared);
        let (entry, frame) = writer.end(offset, &end, self.shared.end_retry);
        inner.log.append(entry, frame, &inner.settings.retention);
        inner.ended_at = entry.time;
        self.note_end(inner, end);
        self.publish_end(inner);
    }

    /// Sets the channel's end. A closed channel that is deleted counts as one end in the metrics.
    fn note_end(&self, inner: &mut ChannelInner, end: End) {
        if inner.end.is_none() {
            self.shared.metrics.channel_ended(end.state, inner.stopped);
        }
        inner.end = Some(end);
    }

    fn publish_end(&self, inner: &ChannelInner) {
        let end = inner.log.end();
        self.end_seq.store(end.seq, Ordering::Release);
        self.end_byte.store(end.byte, Ordering::Release);
    }

    fn forewarn(&self) {
        for (_, listener) in self.listeners.read().iter() {
            listener.channel_changing();
        }
    }

    fn notify(&self) {
        let mut delivering = Vec::new();
        for (_, listener) in self.listeners.read().iter() {
            if listener.can_deliver() {
                delivering.push(listener.clone());
            } else {
                listener.channel_changed();
            }
        }
        // They read the channel, so the list must be unlocked: a new subscriber holds the channel's
        // lock and waits for the list.
        for listener in delivering.into_iter().filter(|listener| !listener.deliver()) {
            listener.channel_changed();
        }
    }
}

impl ChannelInner {
    /// Returns whether events may follow on the log and on the staged batches.
    fn check_writable(&self) -> Result<(), AppendError> {
        self.check_open()?;
        let coming = self.durable.as_ref().and_then(|durable| durable.coming_end());
        coming.map_or(Ok(()), |coming| Err(AppendError::ended(&coming.end, coming.stopped)))
    }

    /// Returns whether the channel is in memory, and has not ended.
    fn check_open(&self) -> Result<(), AppendError> {
        match &self.end {
            _ if self.retired => Err(AppendError::Retired),
            None => Ok(()),
            Some(end) => Err(AppendError::ended(end, self.stopped)),
        }
    }

    /// Returns the offset of the earliest retained event, in memory or on disk.
    fn earliest(&self) -> Option<Offset> {
        let on_disk = || self.durable.as_ref().and_then(|durable| durable.earliest());
        self.log.earliest().map(|entry| entry.offset).or_else(on_disk)
    }

    fn state(&self) -> ChannelState {
        self.end.as_ref().map_or(ChannelState::Open, |end| end.state)
    }

    fn begin(&self, begin: StartAt) -> Start {
        let log = &self.log;
        let ends = self.kept_at_end();
        let found = match begin {
            StartAt::Tail => log.position_of_last(ends),
            StartAt::Earliest => Ok(log.start()),
            StartAt::Last(count) => log.position_of_last(count.saturating_add(ends)),
            StartAt::At(mark) => Ok(mark.max(log.start())),
            StartAt::After(offset) => log.position_after(offset),
        };
        let mark = found.unwrap_or(log.start());
        Start {
            position: mark,
            on_disk: found.err(),
            last_before: log.offset_before(mark).unwrap_or(match begin {
                StartAt::After(offset) => offset,
                _ => log.trimmed_through(),
            }),
            at_tail: mark.seq.saturating_add(ends) >= log.end().seq,
            state: self.state(),
            trimmed: matches!(begin, StartAt::After(offset) if offset < log.trimmed_through()),
            inherited: self.inherited,
            over: ends > 0 && mark.seq >= log.end().seq,
            retired: self.retired,
        }
    }
}

/// Renders the frames of one append.
struct FrameWriter<'a> {
    epoch: &'a Epoch,
    id: String,
    frame: Vec<u8>,
    time: Moment,
}

impl<'a> FrameWriter<'a> {
    fn new(shared: &'a ChannelContext) -> Self {
        let (epoch, time) = (shared.sequencer.epoch(), shared.clock.now());
        Self { epoch, id: String::new(), frame: Vec::new(), time }
    }

    fn event(&mut self, offset: Offset, event: &NewEvent) -> (Entry, &[u8]) {
        let event_type = event.event_type.as_ref().map(event::EventType::as_str);
        self.render(offset, event_type, event.data.as_bytes())
    }

    fn end(&mut self, offset: Offset, end: &End, retry: Duration) -> (Entry, &[u8]) {
        self.next_id(offset);
        let (mut text, data) = (Vec::new(), end.data());
        sse::end_retry(&mut text, retry);
        let (event_type, data) = (Some(event::END), data.as_bytes());
        sse::event_text(&mut text, &sse::Text { id: Some(&self.id), event_type, data });
        sse::chunk(&mut self.frame, &text);
        (Entry { offset, time: self.time }, &self.frame)
    }

    fn next_id(&mut self, offset: Offset) {
        self.id.clear();
        self.epoch.write_event_id(offset, &mut self.id);
        self.frame.clear();
    }

    fn render(&mut self, offset: Offset, event_type: Option<&str>, data: &[u8]) -> (Entry, &[u8]) {
        self.next_id(offset);
        sse::encode(&mut self.frame, &sse::Text { id: Some(&self.id), event_type, data });
        (Entry { offset, time: self.time }, &self.frame)
    }
}

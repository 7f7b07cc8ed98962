//! Group commit: the sync thread and the results that wait for it.
//!
//! Invariants: the results of one stream are delivered in the order of its records, even if their
//! durability differs. A sync covers everything written before it began. After a failed sync there
//! is never another: the kernel may have dropped the pages that it could not write.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::time::{ClockId, clock_gettime};

use super::completion::{CompletionBatch, CompletionQueue, OnComplete};
use super::config::Durability;
use super::engine::Engine;
use super::error::WriteError;
use super::files::{File, IoError};
use super::stream::StreamId;

/// The result of a submitted record and its completion.
pub(super) struct CommitResult {
    pub(super) stream: Option<StreamId>,
    /// Bytes of its events.
    pub(super) bytes: usize,
    pub(super) durability: Durability,
    pub(super) outcome: Result<(), WriteError>,
    pub(super) completions: Option<Arc<dyn CompletionQueue>>,
    pub(super) on_complete: OnComplete,
}

struct Waiter {
    result: CommitResult,
    /// Bytes written in this life of the store, up to and with this.
    written: u64,
}

/// Counts written and synced bytes since the store was opened, and holds the results that wait.
pub(super) struct CommitQueue {
    state: Mutex<CommitState>,
    wake: Condvar,
    /// Notified when `synced` grows, and when the store fails.
    synced_changed: Condvar,
    /// Bytes of submitted events whose result has not been delivered.
    in_flight: AtomicUsize,
}

struct CommitState {
    /// In the order of `written`.
    waiting: VecDeque<Waiter>,
    /// Number of results per stream that wait or are being delivered.
    pending: HashMap<StreamId, usize>,
    file: Arc<dyn File>,
    name: String,
    written: u64,
    synced: u64,
    /// A caller of `sync_now` waits until this many bytes are synced.
    wanted: u64,
    /// Time of the first write that is not synced.
    since: Option<Duration>,
    closed: bool,
}

/// The next action of the sync thread.
enum CommitStep {
    Complete(Vec<Waiter>),
    Sync,
    End,
}

impl CommitQueue {
    pub(super) fn new(file: Arc<dyn File>, name: String) -> Self {
        let state = CommitState {
            waiting: VecDeque::new(),
            pending: HashMap::new(),
            file,
            name,
            written: 0,
            synced: 0,
            wanted: 0,
            since: None,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            wake: Condvar::new(),
            synced_changed: Condvar::new(),
            in_flight: AtomicUsize::new(0),
        }
    }

    /// Counts the bytes of a submitted record.
    pub(super) fn add_in_flight(&self, bytes: usize) {
        self.in_flight.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn in_flight_bytes(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Records that `written` bytes are written. Called before the index shows the change, so that
    /// a reader of the index can wait for its sync.
    pub(super) fn wrote(&self, written: u64) {
        self.state.lock().wrote(written);
    }

    /// Waits until everything written before the call is synced. Returns `false` if the store
    /// failed.
    pub(super) fn sync_now(&self, engine: &Engine) -> bool {
        let mut state = self.state.lock();
        let up_to = state.written;
        state.wanted = state.wanted.max(up_to);
        self.wake.notify_one();
        while state.synced < up_to {
            if engine.health.has_failed() {
                return false;
            }
            self.synced_changed.wait(&mut state);
        }
        true
    }

    /// Records that `written` bytes are written, and delivers each result when it is due.
    pub(super) fn written(&self, written: u64, results: Vec<CommitResult>) {
        let (now, later): (Vec<_>, Vec<_>) = {
            let mut state = self.state.lock();
            results.into_iter().partition(|result| !state.must_wait(result))
        };
        // Before those that wait are queued, so that the results of a stream keep their order.
        self.deliver(now.into_iter());
        let mut state = self.state.lock();
        state.waiting.extend(later.into_iter().map(|result| Waiter { result, written }));
        state.wrote(written);
        self.wake.notify_one();
    }

    /// Switches to the next journal, after the writer has synced the previous one.
    pub(super) fn rotated(&self, file: Arc<dyn File>, name: String) {
        let mut state = self.state.lock();
        (state.file, state.name) = (file, name);
        state.synced = state.written;
        state.since = None;
        self.wake.notify_one();
        self.synced_changed.notify_all();
    }

    /// Returns the number of bytes that are known to be synced.
    pub(super) fn synced(&self) -> u64 {
        self.state.lock().synced
    }

    /// Returns whether everything is synced and every result delivered.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.synced == state.written && state.waiting.is_empty()
    }

    pub(super) fn wake(&self) {
        // With the lock, the wake-up cannot fall between a thread's check and its wait.
        let _state = self.state.lock();
        self.wake.notify_one();
        self.synced_changed.notify_all();
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    /// Waits for the next step.
    fn next(&self, engine: &Engine) -> CommitStep {
        let mut state = self.state.lock();
        loop {
            let failed = engine.health.has_failed();
            if let Some(step) = state.step(failed, engine.config.sync_interval) {
                return step;
            }
            match state.since.filter(|_| !failed) {
                None => self.wake.wait(&mut state),
                Some(since) => {
                    let left = (since + engine.config.sync_interval).saturating_sub(monotonic());
                    self.wake.wait_for(&mut state, left);
                }
            }
        }
    }

    /// Returns the journal, its name, and the number of bytes written.
    fn unsynced(&self) -> (Arc<dyn File>, String, u64) {
        let state = self.state.lock();
        (state.file.clone(), state.name.clone(), state.written)
    }

    /// Records a sync of `up_to` bytes that began at `began`. Later bytes were written after that.
    fn synced_to(&self, up_to: u64, began: Duration) {
        let mut state = self.state.lock();
        state.synced = state.synced.max(up_to);
        state.since = (state.synced < state.written).then_some(began);
        self.synced_changed.notify_all();
    }

    fn deliver(&self, results: impl Iterator<Item = CommitResult>) {
        let mut batch = CompletionBatch::default();
        for CommitResult { bytes, outcome, completions, on_complete: done, .. } in results {
            self.in_flight.fetch_sub(bytes, Ordering::Relaxed);
            batch.add(completions, (done, outcome));
        }
        batch.deliver();
    }

    /// Delivers results, then removes them from `pending`: only then may later results of their
    /// streams be delivered at once.
    fn complete(&self, told: Vec<Waiter>) {
        let streams: Vec<_> = told.iter().filter_map(|waiting| waiting.result.stream).collect();
        self.deliver(told.into_iter().map(|waiting| waiting.result));
        let mut state = self.state.lock();
        for stream in streams {
            if let Some(count) = state.pending.get_mut(&stream) {
                *count -= 1;
                if *count == 0 {
                    state.pending.remove(&stream);
                }
            }
        }
    }
}

impl CommitState {
    fn wrote(&mut self, written: u64) {
        if written > self.written {
            self.written = written;
            self.since.get_or_insert_with(monotonic);
        }
    }

    /// Returns whether the result waits for a sync, or for an earlier result of its stream. If so,
    /// it is counted in `pending`.
    fn must_wait(&mut self, result: &CommitResult) -> bool {
        let syncs = result.waits_for_sync();
        let follows = result.stream.is_some_and(|stream| self.pending.contains_key(&stream));
        if let Some(stream) = result.stream.filter(|_| syncs || follows) {
            *self.pending.entry(stream).or_default() += 1;
        }
        syncs || follows
    }

    fn step(&mut self, failed: bool, interval: Duration) -> Option<CommitStep> {
        let synced = self.synced;
        let ready = |waiting: &Waiter| failed || waiting.written <= synced;
        let count = self.waiting.iter().take_while(|waiting| ready(waiting)).count();
        if count > 0 {
            let told = self.waiting.drain(..count);
            let refuse = |waiting: Waiter| if failed { waiting.refused() } else { waiting };
            return Some(CommitStep::Complete(told.map(refuse).collect()));
        }
        let unsynced = self.written > self.synced && !failed;
        let is_old = || self.since.is_some_and(|since| monotonic() >= since + interval);
        let wanted = !self.waiting.is_empty() || self.wanted > self.synced;
        if unsynced && (wanted || self.closed || is_old()) {
            return Some(CommitStep::Sync);
        }
        self.closed.then_some(CommitStep::End)
    }
}

impl CommitResult {
    pub(super) fn waits_for_sync(&self) -> bool {
        self.durability == Durability::Sync && self.outcome.is_ok()
    }
}

impl Waiter {
    fn refused(mut self) -> Self {
        self.result.outcome = self.result.outcome.and(Err(WriteError::Failed));
        self
    }
}

/// Runs the sync thread until the store is closed.
pub(super) fn run(engine: &Engine) {
    loop {
        match engine.commits.next(engine) {
            CommitStep::Complete(told) => engine.commits.complete(told),
            CommitStep::Sync => sync(engine),
            CommitStep::End => return,
        }
    }
}

/// Syncs everything written so far.
fn sync(engine: &Engine) {
    let (file, name, up_to) = engine.commits.unsynced();
    let began = monotonic();
    match file.sync().map_err(IoError::of(&name)) {
        Ok(()) => engine.commits.synced_to(up_to, began),
        Err(fault) => drop(engine.fail(&fault)),
    }
    engine.metrics.store_synced(monotonic().saturating_sub(began));
}

/// Reads the monotonic clock, which is never set.
pub(super) fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}

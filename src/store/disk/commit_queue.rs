//! The queue of group commit: counts written and synced bytes, and holds the results that wait.
//!
//! Invariant: the results of one stream are delivered in the order of its records, even if their
//! durability differs.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::completion::{CompletionBatch, CompletionQueue, OnComplete};
use super::config::Durability;
use super::error::WriteError;
use super::files::File;
use super::stream::StreamId;
use crate::clock::{self, Micros};

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

/// A result that waits for a sync, or for an earlier result of its stream.
pub(super) struct Waiter {
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
    /// Time of the first write that is not synced, on the steady clock.
    since: Option<Micros>,
    /// No sync succeeds any more, and every result is a refusal.
    failed: bool,
    closed: bool,
}

/// The next action of the sync thread.
pub(super) enum CommitStep {
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
            failed: false,
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
    pub(super) fn note_written(&self, written: u64) {
        self.state.lock().note_written(written);
    }

    /// Waits until everything written before the call is synced. Returns `false` if the store
    /// failed.
    pub(super) fn sync_now(&self) -> bool {
        let mut state = self.state.lock();
        let up_to = state.written;
        state.wanted = state.wanted.max(up_to);
        self.wake.notify_one();
        while state.synced < up_to {
            if state.failed {
                return false;
            }
            self.synced_changed.wait(&mut state);
        }
        true
    }

    /// Submits results of records that end within the first `written` bytes. Delivers those that
    /// are due, and queues those that wait for a sync.
    pub(super) fn submit(&self, written: u64, results: Vec<CommitResult>) {
        let (now, later): (Vec<_>, Vec<_>) = {
            let mut state = self.state.lock();
            results.into_iter().partition(|result| !state.must_wait(result))
        };
        // Before those that wait are queued, so that the results of a stream keep their order.
        self.deliver(now.into_iter());
        let mut state = self.state.lock();
        state.waiting.extend(later.into_iter().map(|result| Waiter { result, written }));
        state.note_written(written);
        self.wake.notify_one();
    }

    /// Switches to the next journal, after the writer has synced the previous one.
    pub(super) fn rotated(&self, file: Arc<dyn File>, name: String) {
        let mut state = self.state.lock();
        state.file = file;
        state.name = name;
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

    /// Refuses all results from now on, as nothing more can be synced.
    pub(super) fn fail(&self) {
        self.state.lock().failed = true;
        self.wake.notify_one();
        self.synced_changed.notify_all();
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    /// Waits for the next step. Written bytes are synced after `interval`, and earlier if a caller
    /// waits for that.
    pub(super) fn next(&self, interval: Duration) -> CommitStep {
        let mut state = self.state.lock();
        loop {
            if let Some(step) = state.step(interval) {
                return step;
            }
            match state.since.filter(|_| !state.failed) {
                None => self.wake.wait(&mut state),
                Some(since) => {
                    let left = interval.saturating_sub(clock::elapsed(since));
                    self.wake.wait_for(&mut state, left);
                }
            }
        }
    }

    /// Returns the journal, its name, and the number of bytes written.
    pub(super) fn unsynced(&self) -> (Arc<dyn File>, String, u64) {
        let state = self.state.lock();
        (state.file.clone(), state.name.clone(), state.written)
    }

    /// Records a sync of `up_to` bytes that began at `began`. Later bytes were written after that.
    pub(super) fn synced_to(&self, up_to: u64, began: Micros) {
        let mut state = self.state.lock();
        state.synced = state.synced.max(up_to);
        state.since = (state.synced < state.written).then_some(began);
        self.synced_changed.notify_all();
    }

    fn deliver(&self, results: impl Iterator<Item = CommitResult>) {
        let mut batch = CompletionBatch::default();
        for CommitResult { bytes, outcome, completions, on_complete, .. } in results {
            self.in_flight.fetch_sub(bytes, Ordering::Relaxed);
            batch.add(completions, (on_complete, outcome));
        }
        batch.deliver();
    }

    /// Delivers results, then removes them from `pending`: only then may later results of their
    /// streams be delivered at once.
    pub(super) fn complete(&self, due: Vec<Waiter>) {
        let streams: Vec<_> = due.iter().filter_map(|waiter| waiter.result.stream).collect();
        self.deliver(due.into_iter().map(|waiter| waiter.result));
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
    fn note_written(&mut self, written: u64) {
        if written > self.written {
            self.written = written;
            self.since.get_or_insert_with(clock::steady);
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

    fn step(&mut self, interval: Duration) -> Option<CommitStep> {
        let synced = self.synced;
        let failed = self.failed;
        let due = self.waiting.iter().take_while(|waiter| failed || waiter.written <= synced);
        let count = due.count();
        if count > 0 {
            let mut due: Vec<_> = self.waiting.drain(..count).collect();
            if failed {
                due.iter_mut().for_each(Waiter::refuse);
            }
            return Some(CommitStep::Complete(due));
        }
        let unsynced = self.written > self.synced && !failed;
        let wanted = !self.waiting.is_empty() || self.wanted > self.synced;
        let is_old = self.since.is_some_and(|since| clock::elapsed(since) >= interval);
        if unsynced && (wanted || self.closed || is_old) {
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
    fn refuse(&mut self) {
        self.result.outcome = self.result.outcome.and(Err(WriteError::Failed));
    }
}

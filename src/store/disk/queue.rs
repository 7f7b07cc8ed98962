//! Work queues of the store's threads. Unbounded: producers are bounded elsewhere, as a publish
//! waits for its result.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A queue with one consumer thread.
#[derive(Debug)]
pub(super) struct WorkQueue<T> {
    inner: Mutex<QueueState<T>>,
    wake: Condvar,
}

#[derive(Debug)]
struct QueueState<T> {
    items: VecDeque<T>,
    /// The consumer sleeps until an item arrives.
    idle: bool,
    /// Number of items in the last batch.
    taken: usize,
    closed: bool,
}

impl<T> WorkQueue<T> {
    pub(super) fn new() -> Self {
        let inner = QueueState { items: VecDeque::new(), idle: false, taken: 0, closed: false };
        Self { inner: Mutex::new(inner), wake: Condvar::new() }
    }

    /// Adds an item. Returns it as the error if the queue is closed.
    pub(super) fn push(&self, item: T) -> Result<(), T> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(item);
        }
        inner.items.push_back(item);
        if inner.idle {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Waits for items and takes those queued, until their weight exceeds `most`. Returns `None`
    /// when the queue is closed and empty.
    ///
    /// If the last batch had several items and this one has fewer, waits up to `gather` for more,
    /// as the cost of a batch hardly depends on its size. A single producer never waits for that.
    pub(super) fn take(
        &self,
        gather: Duration,
        most: usize,
        weight: impl Fn(&T) -> usize,
    ) -> Option<VecDeque<T>> {
        let mut inner = self.inner.lock();
        while inner.items.is_empty() && !inner.closed {
            inner.idle = true;
            self.wake.wait(&mut inner);
            inner.idle = false;
        }
        if inner.taken > 1 && inner.items.len() < inner.taken && !inner.closed {
            // Only closing wakes a thread that is not idle.
            self.wake.wait_for(&mut inner, gather);
        }
        let total: usize = inner.items.iter().map(&weight).sum();
        let taken = if total <= most {
            // The usual case: swapping the queue keeps the lock short for producers.
            std::mem::take(&mut inner.items)
        } else {
            let mut total = 0;
            let last = inner.items.iter().position(|item| {
                total += weight(item);
                total > most
            });
            let rest = inner.items.split_off(last.map_or(0, |last| last + 1));
            std::mem::replace(&mut inner.items, rest)
        };
        inner.taken = taken.len();
        (!taken.is_empty()).then_some(taken)
    }

    pub(super) fn close(&self) {
        self.inner.lock().closed = true;
        self.wake.notify_all();
    }
}

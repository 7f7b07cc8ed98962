//! What waits for a thread. Who hands in is bounded elsewhere: a publish waits for its answer.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A queue with one thread at its end.
#[derive(Debug)]
pub(super) struct WorkQueue<T> {
    inner: Mutex<QueueState<T>>,
    wake: Condvar,
}

#[derive(Debug)]
struct QueueState<T> {
    items: VecDeque<T>,
    /// The thread at the end sleeps until something comes.
    idle: bool,
    /// How many it took last.
    taken: usize,
    closed: bool,
}

impl<T> WorkQueue<T> {
    pub(super) fn new() -> Self {
        let inner = QueueState { items: VecDeque::new(), idle: false, taken: 0, closed: false };
        Self { inner: Mutex::new(inner), wake: Condvar::new() }
    }

    /// Adds an item, or gives it back if nothing is taken any more.
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

    /// Waits for items and takes those that are there, until they weigh more than `most`. `None`
    /// when the queue is closed and everything has been taken.
    ///
    /// Where several came together the last time, others are on their way now: it gathers them for
    /// so long, as each batch costs about the same. Whoever comes alone never waits for that.
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
            // Nobody wakes a thread that is not idle, but by closing.
            self.wake.wait_for(&mut inner, gather);
        }
        let total: usize = inner.items.iter().map(&weight).sum();
        let taken = if total <= most {
            // As a rule: whoever hands in does not wait until each is moved.
            std::mem::take(&mut inner.items)
        } else {
            let mut total = 0;
            let heavy = |item: &T| {
                total += weight(item);
                total > most
            };
            let first = inner.items.iter().position(heavy).map_or(0, |at| at + 1);
            let rest = inner.items.split_off(first);
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

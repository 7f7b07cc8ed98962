//! What waits for a thread. Who hands in is bounded elsewhere: a publish waits for its answer.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

/// A queue with one thread at its end.
#[derive(Debug)]
pub(super) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    wake: Condvar,
}

#[derive(Debug)]
struct Inner<T> {
    items: VecDeque<T>,
    closed: bool,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        let inner = Inner { items: VecDeque::new(), closed: false };
        Self { inner: Mutex::new(inner), wake: Condvar::new() }
    }

    /// Adds an item, or gives it back if nothing is taken any more.
    pub(super) fn push(&self, item: T) -> Result<(), T> {
        let mut inner = self.inner.lock();
        if inner.closed {
            return Err(item);
        }
        inner.items.push_back(item);
        self.wake.notify_one();
        Ok(())
    }

    /// Waits for items and takes those that are there, until they weigh more than `most`. `None`
    /// when the queue is closed and everything has been taken.
    pub(super) fn take(&self, most: usize, weight: impl Fn(&T) -> usize) -> Option<Vec<T>> {
        let mut inner = self.inner.lock();
        while inner.items.is_empty() && !inner.closed {
            self.wake.wait(&mut inner);
        }
        let mut total = 0;
        let mut taken = Vec::new();
        while total <= most
            && let Some(item) = inner.items.pop_front()
        {
            total += weight(&item);
            taken.push(item);
        }
        (!taken.is_empty()).then_some(taken)
    }

    pub(super) fn close(&self) {
        self.inner.lock().closed = true;
        self.wake.notify_all();
    }
}

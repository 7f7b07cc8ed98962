//! Work of a thread that can wait: reading for subscribers that lag, and over many channels.
//!
//! Publishes and live delivery share the thread, and must not queue up after this work. So it waits
//! for a turn. Turns are granted when the thread has polled all tasks that were ready, and its
//! sockets: one at a time, first come first served, for [`SLICE`] at most until the thread polls
//! its tasks and sockets again. The task that takes a turn bounds the work in it.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::task::yield_now;
use tokio::time::Instant;

/// Time for which turns follow each other before other tasks are polled: a publish that arrives
/// meanwhile waits this long, and for one turn.
const SLICE: Duration = Duration::from_micros(200);

/// No turn is wanted.
const IDLE: u8 = 0;
/// A turn has been asked for.
const WAITING: u8 = 1;
/// A turn has been granted, and not yet taken.
const GRANTED: u8 = 2;
/// The task no longer exists.
const GONE: u8 = 3;

thread_local! {
    static HERE: Arc<Background> = Arc::default();
}

/// The queue of turns of one thread.
#[derive(Default)]
pub(super) struct Background(Mutex<TurnQueue>);

#[derive(Default)]
struct TurnQueue {
    waiting: VecDeque<Arc<TurnRequest>>,
    /// A turn is being taken, or will be granted when the thread has polled its other tasks.
    busy: bool,
    /// The time at which the thread last polled its other tasks.
    since: Option<Instant>,
}

#[derive(Default)]
struct TurnRequest {
    state: AtomicU8,
    waker: AtomicWaker,
}

/// The handle by which a task asks for turns.
pub(super) struct Turns {
    queue: Arc<Background>,
    request: Arc<TurnRequest>,
}

/// A turn. The next begins when this is dropped.
pub struct Turn(Arc<Background>);

impl Background {
    fn add(self: &Arc<Self>, request: &Arc<TurnRequest>) {
        let mut queue = self.0.lock();
        queue.waiting.push_back(request.clone());
        let idle = !std::mem::replace(&mut queue.busy, true);
        drop(queue);
        if idle {
            self.yield_first();
        }
    }

    /// Grants the next turn when the thread has polled the tasks that are ready.
    fn yield_first(self: &Arc<Self>) {
        let waker = Waker::from(self.clone());
        // Tokio keeps the waker of a task that yields until then.
        let _ = pin!(yield_now()).poll(&mut Context::from_waker(&waker));
    }

    fn end_turn(self: &Arc<Self>) {
        let mut queue = self.0.lock();
        if queue.waiting.is_empty() {
            queue.busy = false;
        } else if queue.since.is_some_and(|since| since.elapsed() < SLICE) {
            drop(queue);
            self.grant();
        } else {
            drop(queue);
            self.yield_first();
        }
    }

    fn grant(&self) {
        loop {
            let next = {
                let mut queue = self.0.lock();
                let next = queue.waiting.pop_front();
                queue.busy = next.is_some();
                next
            };
            match next {
                Some(request) if !request.grant() => {}
                _ => return,
            }
        }
    }
}

impl Wake for Background {
    fn wake(self: Arc<Self>) {
        self.0.lock().since = Some(Instant::now());
        self.grant();
    }
}

impl TurnRequest {
    /// Grants the turn. Returns whether a task still waits for it.
    fn grant(&self) -> bool {
        let granted = self.transition(WAITING, GRANTED);
        if granted {
            self.waker.wake();
        }
        granted
    }

    fn transition(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

impl Turns {
    /// Returns a handle for the turns of the calling thread.
    pub(super) fn here() -> Self {
        Self { queue: HERE.with(Arc::clone), request: Arc::default() }
    }

    /// Waits for a turn.
    pub(super) async fn next(&mut self) -> Turn {
        poll_fn(|cx| self.poll_turn(cx)).await
    }

    /// Withdraws the request, and ends a turn that was granted but not taken.
    pub(super) fn withdraw(&mut self) {
        if self.request.state.swap(IDLE, Ordering::SeqCst) == GRANTED {
            self.queue.end_turn();
        }
    }

    /// Asks for a turn, and takes it when it is granted.
    pub(super) fn poll_turn(&mut self, cx: &Context<'_>) -> Poll<Turn> {
        self.request.waker.register(cx.waker());
        if self.request.transition(GRANTED, IDLE) {
            return Poll::Ready(Turn(self.queue.clone()));
        }
        if self.request.transition(IDLE, WAITING) {
            self.queue.add(&self.request);
        }
        Poll::Pending
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        if self.request.state.swap(GONE, Ordering::SeqCst) == GRANTED {
            self.queue.end_turn();
        }
        // The request that is left in the queue keeps no task alive.
        self.request.waker.take();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.end_turn();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::task::LocalSet;

    use super::*;

    type Log = Rc<RefCell<Vec<&'static str>>>;

    async fn work(name: &'static str, turns: usize, log: Log) {
        let mut mine = Turns::here();
        for _ in 0..turns {
            let turn = mine.next().await;
            log.borrow_mut().push(name);
            std::thread::sleep(SLICE);
            drop(turn);
        }
    }

    #[tokio::test]
    async fn tasks_that_are_ready_run_between_any_two_turns() {
        let log = Log::default();
        let publishes = async {
            for _ in 0..6 {
                log.borrow_mut().push("publish");
                // Not `yield_now`, which waits until nothing else is ready.
                let mut woken = false;
                poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    if std::mem::replace(&mut woken, true) {
                        Poll::Ready(())
                    } else {
                        Poll::Pending
                    }
                })
                .await;
            }
        };
        let set = LocalSet::new();
        for name in ["a", "b", "c"] {
            set.spawn_local(work(name, 2, log.clone()));
        }
        set.run_until(async {
            publishes.await;
            while log.borrow().len() < 12 {
                yield_now().await;
            }
        })
        .await;
        let log = log.borrow();
        let work: Vec<_> = log.iter().filter(|name| **name != "publish").copied().collect();
        assert_eq!(work, ["a", "b", "c", "a", "b", "c"], "{log:?}");
    }

    #[tokio::test]
    async fn a_turn_that_is_not_taken_is_passed_on() {
        let mut gone: Vec<Turns> = (0..3).map(|_| Turns::here()).collect();
        let cx = Context::from_waker(Waker::noop());
        for turns in &mut gone {
            assert!(turns.poll_turn(&cx).is_pending());
        }
        let log = Log::default();
        let mut last = gone.pop();
        // The first was granted its turn, the second waits.
        yield_now().await;
        drop(gone);
        last.take();
        tokio::time::timeout(Duration::from_secs(10), work("last", 2, log.clone())).await.unwrap();
        assert_eq!(*log.borrow(), ["last", "last"]);
    }
}

//! The threads that serve connections: one per core, each with a runtime of its own, so that a
//! request is served by the thread that its socket woke.
//!
//! A runtime that shares its tasks among threads wakes a second one whenever there might be work
//! for it: with small requests that costs more than it gains. Connections are distributed in turn.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

/// Interval at which each thread wakes up: typically shorter than the deadlines of connections.
const TICK: Duration = Duration::from_millis(500);

/// The pool of threads. When the last handle is dropped, tasks that still run are dropped too.
#[derive(Clone)]
pub struct Workers(Arc<Pool>);

struct Pool {
    handles: Vec<Handle>,
    next: AtomicUsize,
    stop: CancellationToken,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts the threads, or one per core for zero. Each begins with the task of `on_each`.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn start<T>(count: usize, on_each: impl Fn() -> T) -> io::Result<Self>
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let count = match count {
            0 => std::thread::available_parallelism()?.get(),
            count => count,
        };
        let handles = Vec::new();
        let threads = Vec::new();
        let stop = CancellationToken::new();
        let mut pool = Pool { handles, next: AtomicUsize::new(0), stop, threads };
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            pool.handles.push(runtime.handle().clone());
            let stopped = pool.stop.clone().cancelled_owned();
            runtime.spawn(on_each());
            runtime.spawn(tick());
            let thread = std::thread::Builder::new().name(format!("http-{number}"));
            pool.threads.push(thread.spawn(move || runtime.block_on(stopped))?);
        }
        Ok(Self(Arc::new(pool)))
    }

    /// Returns the runtime of the next worker, round robin.
    pub(super) fn next(&self) -> &Handle {
        let turn = self.0.next.fetch_add(1, Ordering::Relaxed);
        &self.0.handles[turn % self.0.handles.len()]
    }
}

/// Keeps a timer that expires before those of connections. If a thread has no earlier timer, tokio
/// announces each new one by a system call, even from the thread itself (tokio 1.54,
/// `runtime/time/mod.rs`, `reregister`): that is, for each request.
async fn tick() {
    let mut ticks = interval(TICK);
    loop {
        ticks.tick().await;
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop.cancel();
        let me = std::thread::current().id();
        for thread in self.threads.drain(..).filter(|thread| thread.thread().id() != me) {
            // The panic of a worker has been reported already.
            let _ = thread.join();
        }
    }
}

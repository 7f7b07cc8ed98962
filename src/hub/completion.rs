//! Runs the completions of the store on the thread that submitted the writes.
//!
//! If the threads of the store ran them, each completion would wake a task of another thread by a
//! system call, and one thread would free what another has allocated. So each thread that serves
//! requests has a completion queue, and the store delivers all completions for it at once.

use std::cell::RefCell;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::store::disk::{Completion, CompletionQueue};

/// The completion queue of a thread that runs tasks. Its length is bounded by the writes submitted
/// to the store.
#[derive(Debug)]
pub struct ThreadCompletions(UnboundedSender<Vec<Completion>>);

thread_local! {
    static HERE: RefCell<Option<Arc<ThreadCompletions>>> = const { RefCell::new(None) };
}

impl ThreadCompletions {
    /// Returns the completion queue of this thread, if it has one.
    pub(super) fn here() -> Option<Arc<dyn CompletionQueue>> {
        HERE.with_borrow(|here| {
            here.clone().map(|completions| completions as Arc<dyn CompletionQueue>)
        })
    }

    /// Opens a completion queue on the thread that polls this, for as long as it does.
    #[expect(clippy::disallowed_methods, reason = "bounded by what is handed in to the store")]
    pub async fn serve() {
        let (completions, answers) = unbounded_channel();
        HERE.set(Some(Arc::new(Self(completions))));
        let mut open = CompletionReceiver(answers);
        while let Some(answers) = open.0.recv().await {
            run_all(answers);
        }
    }
}

impl CompletionQueue for ThreadCompletions {
    fn deliver(&self, answers: Vec<Completion>) {
        if let Err(closed) = self.0.send(answers) {
            run_all(closed.0);
        }
    }
}

/// The receiver of a completion queue. When it is dropped, it runs what is left: every completion
/// has a waiter.
struct CompletionReceiver(UnboundedReceiver<Vec<Completion>>);

impl Drop for CompletionReceiver {
    fn drop(&mut self) {
        let _ = HERE.try_with(RefCell::take);
        self.0.close();
        while let Ok(answers) = self.0.try_recv() {
            run_all(answers);
        }
    }
}

fn run_all(answers: Vec<Completion>) {
    answers.into_iter().for_each(|(done, outcome)| done(outcome));
}

//! Where the store's answers are given: on the thread that asked.
//!
//! If the threads of the store called back themselves, each answer would wake a task of another
//! thread by a system call, and one thread would free what another has allocated. So each thread
//! that serves requests has a completion queue, and the store puts there at once all that is for
//! it.

use std::cell::RefCell;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::store::disk::{Completion, CompletionQueue};

/// The completion queue of a thread that runs tasks. How much may lie there is bounded by what is
/// handed in.
#[derive(Debug)]
pub struct ThreadCompletions(UnboundedSender<Vec<Completion>>);

thread_local! {
    static HERE: RefCell<Option<Arc<ThreadCompletions>>> = const { RefCell::new(None) };
}

impl ThreadCompletions {
    /// The completion queue of this thread, if it has one.
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

/// A completion queue that is served. When it closes, nothing is left lying: somebody counts on
/// every answer.
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

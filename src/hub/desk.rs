//! Where the store's answers are given: on the thread that asked.
//!
//! If the threads of the store called back themselves, each answer would wake a task of another
//! thread by a system call, and one thread would free what another has allocated. So each thread
//! that serves requests has a desk, and the store puts there at once all that is for it.

use std::cell::RefCell;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::store::disk::{Desk, Told};

/// The desk of a thread that runs tasks. How much may lie there is bounded by what is handed in.
#[derive(Debug)]
pub struct ThreadDesk(UnboundedSender<Vec<Told>>);

thread_local! {
    static HERE: RefCell<Option<Arc<ThreadDesk>>> = const { RefCell::new(None) };
}

impl ThreadDesk {
    /// The desk of this thread, if it has one.
    pub(super) fn here() -> Option<Arc<dyn Desk>> {
        HERE.with_borrow(|here| here.clone().map(|desk| desk as Arc<dyn Desk>))
    }

    /// Opens a desk on the thread that polls this, for as long as it does.
    #[expect(clippy::disallowed_methods, reason = "bounded by what is handed in to the store")]
    pub async fn serve() {
        let (desk, answers) = unbounded_channel();
        HERE.set(Some(Arc::new(Self(desk))));
        let mut open = Open(answers);
        while let Some(answers) = open.0.recv().await {
            tell(answers);
        }
    }
}

impl Desk for ThreadDesk {
    fn give(&self, answers: Vec<Told>) {
        if let Err(closed) = self.0.send(answers) {
            tell(closed.0);
        }
    }
}

/// A desk that is served. When it closes, nothing is left lying: somebody counts on every answer.
struct Open(UnboundedReceiver<Vec<Told>>);

impl Drop for Open {
    fn drop(&mut self) {
        let _ = HERE.try_with(RefCell::take);
        self.0.close();
        while let Ok(answers) = self.0.try_recv() {
            tell(answers);
        }
    }
}

fn tell(answers: Vec<Told>) {
    answers.into_iter().for_each(|(done, outcome)| done(outcome));
}

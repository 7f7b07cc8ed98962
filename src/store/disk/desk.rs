//! Where answers are given: on the thread that asked.
//!
//! If the threads of the store called back themselves, each answer would wake a task of another
//! thread by a system call, and what one thread has allocated another would free. So they hand all
//! that is for one thread over at once. Threads without a desk are called back as answers come.

use std::cell::RefCell;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{Done, Refused};

type Outcome = Result<(), Refused>;

/// The desk of a thread that runs tasks. Answers are given in the order in which they are put here.
/// How many may wait is for those to bound who hand in.
#[derive(Clone, Debug)]
pub struct Desk(UnboundedSender<Vec<(Done, Outcome)>>);

thread_local! {
    static HERE: RefCell<Option<Desk>> = const { RefCell::new(None) };
}

impl Desk {
    /// The desk of this thread, if it has one.
    #[must_use]
    pub fn here() -> Option<Self> {
        HERE.with_borrow(Clone::clone)
    }

    /// Opens a desk on the thread that polls this, for as long as it does.
    pub async fn serve() {
        let (desk, answers) = unbounded_channel();
        HERE.set(Some(Self(desk)));
        let mut open = Open(answers);
        while let Some(answers) = open.0.recv().await {
            give(answers);
        }
    }
}

/// A desk that is served. Behind it nothing is left lying: somebody counts on every answer.
struct Open(UnboundedReceiver<Vec<(Done, Outcome)>>);

impl Drop for Open {
    fn drop(&mut self) {
        let _ = HERE.try_with(RefCell::take);
        self.0.close();
        while let Ok(answers) = self.0.try_recv() {
            give(answers);
        }
    }
}

fn give(answers: Vec<(Done, Outcome)>) {
    answers.into_iter().for_each(|(done, outcome)| done(outcome));
}

/// Answers that are to be given, sorted by where.
#[derive(Default)]
pub(super) struct Tray {
    here: Vec<(Done, Outcome)>,
    desks: Vec<(Desk, Vec<(Done, Outcome)>)>,
}

impl Tray {
    pub(super) fn put(&mut self, desk: Option<Desk>, done: Done, outcome: Outcome) {
        let Some(desk) = desk else {
            return self.here.push((done, outcome));
        };
        match self.desks.iter_mut().find(|(known, _)| known.0.same_channel(&desk.0)) {
            Some((_, answers)) => answers.push((done, outcome)),
            None => self.desks.push((desk, vec![(done, outcome)])),
        }
    }

    /// Hands all over. Those whose desk is closed are called from here.
    pub(super) fn hand_over(self) {
        for (desk, answers) in self.desks {
            if let Err(closed) = desk.0.send(answers) {
                give(closed.0);
            }
        }
        give(self.here);
    }
}

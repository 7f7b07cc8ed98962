//! Where answers are given, if not on the threads of the store.

use std::fmt;
use std::sync::Arc;

use super::{OnComplete, WriteError};

/// What became of something, and whom to tell.
pub type Completion = (OnComplete, Result<(), WriteError>);

/// A place where answers are given. All that is for one place is put there at once.
pub trait CompletionQueue: fmt::Debug + Send + Sync {
    /// Has these told, in this order, after all that was given before. Never waits.
    fn deliver(&self, answers: Vec<Completion>);
}

/// Answers, sorted by where they are to be given.
#[derive(Default)]
pub(super) struct CompletionBatch {
    here: Vec<Completion>,
    queues: Vec<(Arc<dyn CompletionQueue>, Vec<Completion>)>,
}

impl CompletionBatch {
    pub(super) fn add(
        &mut self,
        completions: Option<Arc<dyn CompletionQueue>>,
        completion: Completion,
    ) {
        let Some(completions) = completions else {
            return self.here.push(completion);
        };
        match self.queues.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &completions)) {
            Some((_, answers)) => answers.push(completion),
            None => self.queues.push((completions, vec![completion])),
        }
    }

    pub(super) fn deliver(self) {
        self.queues.into_iter().for_each(|(completions, answers)| completions.deliver(answers));
        self.here.into_iter().for_each(|(done, outcome)| done(outcome));
    }
}

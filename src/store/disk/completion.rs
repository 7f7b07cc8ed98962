//! Completion queues, which run the completions of the store on other threads.

use std::fmt;
use std::sync::Arc;

use super::error::WriteError;

/// Called once, from a thread of the store or of a completion queue, when the record is as durable
/// as requested, or has failed. Dropped without a call if the store is closed.
pub type OnComplete = Box<dyn FnOnce(Result<(), WriteError>) + Send>;

/// A completion callback and its result.
pub type Completion = (OnComplete, Result<(), WriteError>);

/// Runs completions on a thread outside the store. Those for one queue are delivered together.
pub trait CompletionQueue: fmt::Debug + Send + Sync {
    /// Queues completions after those already queued, in this order. Does not block.
    fn deliver(&self, answers: Vec<Completion>);
}

/// Completions grouped by their queue.
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

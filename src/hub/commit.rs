//! Commit acknowledgements: a writer numbers its submissions, which complete in order, and a caller
//! waits until its number is committed.

use tokio::sync::watch;

use crate::store::disk::WriteError;

/// How far the submissions of one writer are committed. The first failure is final for all that
/// are not committed by then: the writer begins another progress for later ones.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    committed: u64,
    failed: Option<WriteError>,
}

/// Numbers the submissions of one writer.
#[derive(Debug)]
pub(super) struct Submissions {
    last: u64,
    progress: watch::Sender<Progress>,
}

impl Default for Submissions {
    fn default() -> Self {
        Self { last: 0, progress: watch::Sender::new(Progress::default()) }
    }
}

impl Submissions {
    /// Adds a submission. Returns its acknowledgement, and what completes it.
    pub(super) fn add(&mut self) -> (CommitAck, Completer) {
        self.last += 1;
        (self.ack(), Completer(Some(self.progress.clone())))
    }

    /// Returns the acknowledgement of all submissions so far.
    pub(super) fn ack(&self) -> CommitAck {
        CommitAck(vec![Awaited { number: self.last, progress: self.progress.subscribe() }])
    }
}

/// Completes one submission, after those before it. A drop fails it.
#[derive(Debug)]
pub(super) struct Completer(Option<watch::Sender<Progress>>);

impl Completer {
    pub(super) fn complete(mut self, outcome: Result<(), WriteError>) {
        if let Some(progress) = self.0.take() {
            note(&progress, outcome);
        }
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        if let Some(progress) = self.0.take() {
            // A store that was closed without a result has stored nothing reliably.
            note(&progress, Err(WriteError::Failed));
        }
    }
}

fn note(progress: &watch::Sender<Progress>, outcome: Result<(), WriteError>) {
    progress.send_modify(|progress| match (outcome, progress.failed) {
        (Ok(()), None) => progress.committed += 1,
        (Err(why), None) => progress.failed = Some(why),
        (_, Some(_)) => {}
    });
}

/// Resolves when submissions are as durable as their channels require. Without any, it is resolved.
#[derive(Debug, Default)]
pub struct CommitAck(Vec<Awaited>);

#[derive(Debug)]
struct Awaited {
    number: u64,
    progress: watch::Receiver<Progress>,
}

impl CommitAck {
    /// Returns an acknowledgement that is resolved.
    pub(super) fn ready() -> Self {
        Self::default()
    }

    /// Returns an acknowledgement that waits for both.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Returns whether it is still to be waited for.
    #[must_use]
    #[cfg(any(test, feature = "internals"))]
    pub fn is_pending(&self) -> bool {
        !self.0.is_empty()
    }

    /// Waits for all submissions.
    ///
    /// # Errors
    /// One failed: its content is not stored.
    pub async fn wait(&mut self) -> Result<(), WriteError> {
        let mut outcome = Ok(());
        while let Some(awaited) = self.0.pop() {
            outcome = awaited.wait().await.and(outcome);
        }
        outcome
    }
}

impl Awaited {
    async fn wait(mut self) -> Result<(), WriteError> {
        let number = self.number;
        let is_known =
            |progress: &Progress| progress.committed >= number || progress.failed.is_some();
        match self.progress.wait_for(is_known).await.map(|progress| *progress) {
            Ok(progress) if progress.committed >= number => Ok(()),
            Ok(Progress { failed: Some(why), .. }) => Err(why),
            _ => Err(WriteError::Failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_caller_waits_for_its_number_and_those_before_it() {
        let mut submissions = Submissions::default();
        let (mut first, first_done) = submissions.add();
        let (mut second, second_done) = submissions.add();
        let mut both = submissions.ack();
        first_done.complete(Ok(()));
        assert_eq!(first.wait().await, Ok(()));
        let waits = tokio::spawn(async move { (second.wait().await, both.wait().await) });
        second_done.complete(Ok(()));
        assert_eq!(waits.await.unwrap(), (Ok(()), Ok(())));
    }

    #[tokio::test]
    async fn the_first_failure_is_final() {
        let mut submissions = Submissions::default();
        let (mut first, first_done) = submissions.add();
        let (mut second, second_done) = submissions.add();
        let (mut third, third_done) = submissions.add();
        first_done.complete(Ok(()));
        second_done.complete(Err(WriteError::Full));
        third_done.complete(Err(WriteError::Failed));
        assert_eq!(first.wait().await, Ok(()));
        assert_eq!(second.wait().await, Err(WriteError::Full));
        assert_eq!(third.wait().await, Err(WriteError::Full));
    }

    #[tokio::test]
    async fn a_submission_that_is_dropped_has_failed() {
        let mut submissions = Submissions::default();
        let (mut ack, done) = submissions.add();
        drop((submissions, done));
        assert_eq!(ack.wait().await, Err(WriteError::Failed));
    }

    #[tokio::test]
    async fn an_acknowledgement_of_several_writers_waits_for_all() {
        let mut one = Submissions::default();
        let mut other = Submissions::default();
        let ((first, first_done), (second, second_done)) = (one.add(), other.add());
        let mut both = first.and(second);
        first_done.complete(Err(WriteError::Full));
        second_done.complete(Ok(()));
        assert!(both.is_pending());
        assert_eq!(both.wait().await, Err(WriteError::Full));
        assert!(!both.is_pending());
    }
}

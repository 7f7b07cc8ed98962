//! Commit acknowledgements: an operation is submitted in a call, and its acknowledgement resolves
//! with its result when it is committed.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::Either;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::error::LogError;
use super::metadata::EndRecord;
use crate::store::disk::WriteError;

/// Resolves with the result of an operation when that is as durable as its channel requires. In
/// memory, it is resolved from the start.
#[must_use]
#[derive(Debug)]
pub struct CommitAck<T, E>(State<T, E>);

#[derive(Debug)]
enum State<T, E> {
    Committed(T),
    Pending {
        /// The result if the operation succeeds, where it is known already.
        expected: Option<T>,
        outcome: oneshot::Receiver<Result<T, E>>,
        /// The time at which a shared log counts as not available.
        until: Option<Instant>,
    },
}

/// The acknowledgement of an operation, or the reason why it was refused at once.
pub type Submitted<T, E> = Result<CommitAck<T, E>, E>;

impl<T, E> CommitAck<T, E> {
    /// Returns an acknowledgement that is resolved.
    pub(super) fn ready(value: T) -> Self {
        Self(State::Committed(value))
    }

    /// Returns an acknowledgement that resolves with this value, and what completes it.
    pub(super) fn pending(value: T) -> (Self, Completer<T, E>)
    where
        T: Clone,
    {
        let (answer, outcome) = oneshot::channel();
        let expected = Some(value.clone());
        let pending = State::Pending { expected, outcome, until: None };
        (Self(pending), Completer { value, answer })
    }

    /// Returns an acknowledgement that resolves with what a shared log decides, within this time,
    /// and the way to tell it.
    pub(super) fn undecided(patience: Duration) -> (Self, oneshot::Sender<Result<T, E>>) {
        let (answer, outcome) = oneshot::channel();
        let until = Some(Instant::now() + patience);
        let pending = State::Pending { expected: None, outcome, until };
        (Self(pending), answer)
    }

    /// Returns the result that the operation has if it succeeds; `None` if the commit decides it.
    pub fn expected(&self) -> Option<&T> {
        match &self.0 {
            State::Committed(value) => Some(value),
            State::Pending { expected, .. } => expected.as_ref(),
        }
    }

    /// Returns whether it is still to be waited for.
    #[must_use]
    #[cfg(any(test, feature = "internals"))]
    pub fn is_pending(&self) -> bool {
        matches!(self.0, State::Pending { .. })
    }

    /// Returns the result of an operation that was committed in the call.
    #[must_use]
    #[cfg(any(test, feature = "internals"))]
    pub fn committed(self) -> Option<T> {
        match self.0 {
            State::Committed(value) => Some(value),
            State::Pending { .. } => None,
        }
    }

    /// Waits for the commit.
    ///
    /// # Errors
    /// The operation has failed, and has changed nothing.
    pub fn wait(self) -> impl Future<Output = Result<T, E>>
    where
        E: From<WriteError> + From<LogError>,
    {
        match self.0 {
            State::Committed(value) => Either::Left(ready(Ok(value))),
            // A store that was closed without an outcome has stored nothing reliably.
            State::Pending { outcome, until: None, .. } => Either::Right(Either::Left(
                outcome.map(|outcome| outcome.unwrap_or_else(|_| Err(WriteError::Failed.into()))),
            )),
            State::Pending { outcome, until: Some(until), .. } => {
                let answer = timeout_at(until, outcome).map(|answer| match answer {
                    Ok(Ok(outcome)) => outcome,
                    Ok(Err(_)) | Err(_) => Err(LogError::Unconfirmed.into()),
                });
                // In a box: its timer is large, and a hub that is alone has none.
                Either::Right(Either::Right(Box::pin(answer)))
            }
        }
    }
}

/// Completes one operation, which resolves its acknowledgement. A drop fails it.
#[derive(Debug)]
pub(super) struct Completer<T, E> {
    value: T,
    answer: oneshot::Sender<Result<T, E>>,
}

impl<T, E: From<WriteError>> Completer<T, E> {
    pub(super) fn complete(self, outcome: Result<(), WriteError>) {
        // The caller may have left.
        let _ = self.answer.send(outcome.map(|()| self.value).map_err(E::from));
    }

    /// Returns a completer of an operation that consists of this many writes: it is committed when
    /// all of them are, and has failed when one has.
    pub(super) fn after(self, writes: usize) -> JointCompleter<T, E> {
        JointCompleter(Arc::new(Mutex::new(Joint { left: writes, completer: Some(self) })))
    }
}

/// Completes one operation after several writes.
#[derive(Debug)]
pub(super) struct JointCompleter<T, E>(Arc<Mutex<Joint<T, E>>>);

#[derive(Debug)]
struct Joint<T, E> {
    /// Number of writes whose outcome is not known.
    left: usize,
    /// Taken when the outcome of the operation is known.
    completer: Option<Completer<T, E>>,
}

impl<T, E> Clone for JointCompleter<T, E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T, E: From<WriteError>> JointCompleter<T, E> {
    /// Notes the outcome of one write.
    pub(super) fn complete_one(&self, outcome: Result<(), WriteError>) {
        let mut joint = self.0.lock();
        joint.left = joint.left.saturating_sub(1);
        let is_known = joint.left == 0 || outcome.is_err();
        if let Some(completer) = joint.completer.take_if(|_| is_known) {
            completer.complete(outcome);
        }
    }
}

/// The reason why a channel has submitted nothing.
#[derive(Debug)]
pub(super) enum Refused<E> {
    /// The channel has left memory: its name must be looked up again.
    Retired,
    /// The end of the channel is pending, and may still fail.
    Ending(PendingEnd),
    /// The operation is refused for this reason.
    Because(E),
}

/// An end that is submitted and not committed yet.
#[derive(Debug)]
pub(super) struct PendingEnd {
    pub(super) record: EndRecord,
    /// Closed when the outcome is known.
    pub(super) settled: watch::Receiver<()>,
}

impl PendingEnd {
    /// Resolves when the end is committed or has failed.
    async fn settled(mut self) {
        while self.settled.changed().await.is_ok() {}
    }
}

/// Submits an operation and waits for its commit. If an end is pending, the operation waits for its
/// outcome and is submitted again, because an end that fails refuses nothing.
pub(super) async fn committed<T, E: From<WriteError> + From<LogError>>(
    submit: impl Fn() -> Result<CommitAck<T, E>, Refused<E>>,
) -> Result<T, E> {
    loop {
        match submit() {
            Ok(ack) => return ack.wait().await,
            Err(Refused::Retired) => {}
            // Boxed: it is rare, and every append would have room for it.
            Err(Refused::Ending(end)) => Box::pin(end.settled()).await,
            Err(Refused::Because(why)) => return Err(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::error::ConfigureError;

    type Ack = CommitAck<u8, ConfigureError>;

    #[tokio::test]
    async fn an_operation_has_the_outcome_of_its_write() {
        let (first, first_completer) = Ack::pending(1);
        let (second, second_completer) = Ack::pending(2);
        assert_eq!((first.is_pending(), first.expected()), (true, Some(&1)));
        second_completer.complete(Err(WriteError::Full));
        first_completer.complete(Ok(()));
        assert_eq!(
            (first.wait().await, second.wait().await),
            (Ok(1), Err(WriteError::Full.into()))
        );
        assert_eq!(Ack::ready(3).committed(), Some(3));
    }

    #[tokio::test]
    async fn a_write_that_is_dropped_has_failed() {
        let (ack, completer) = Ack::pending(1);
        drop(completer);
        assert_eq!(ack.wait().await, Err(WriteError::Failed.into()));
        let (ack, completer) = Ack::pending(1);
        let completer = completer.after(2);
        completer.complete_one(Ok(()));
        drop(completer);
        assert_eq!(ack.wait().await, Err(WriteError::Failed.into()));
    }

    #[tokio::test]
    async fn an_operation_of_several_writes_needs_all_of_them() {
        for (last, outcome) in
            [(Ok(()), Ok(1)), (Err(WriteError::Full), Err(WriteError::Full.into()))]
        {
            let (ack, completer) = Ack::pending(1);
            let completer = completer.after(2);
            completer.complete_one(Ok(()));
            completer.complete_one(last);
            assert_eq!(ack.wait().await, outcome);
        }
    }
}

//! The phases of a hub in its cluster, in words, and the reasons for which it leaves.

use fanfare_cluster::log::LogEnd;
use fanfare_cluster::nats::{Health, StartError};

use crate::hub::cluster::Phase;

/// The reason for which a hub cannot be one of its cluster any more. It must start again, with
/// nothing of what it knows.
#[derive(Debug, thiserror::Error)]
pub enum BackplaneEnd {
    /// The thread of the log was not started.
    #[error(transparent)]
    NotStarted(#[from] StartError),
    /// The log cannot be read any more.
    #[error(transparent)]
    Log(#[from] LogEnd),
    /// Other hubs have another state.
    #[error("other hubs of the cluster have another state than this one")]
    Diverged,
    /// The session has ended, and no other one begins.
    #[error("the session of this hub in the cluster has ended, and another one does not begin")]
    Fenced,
    /// The thread of the log has panicked.
    #[error("the thread of the shared log has panicked")]
    Panicked,
}

/// The reason for which a hub of a cluster is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReady {
    /// The reason in a word.
    pub reason: &'static str,
    /// The reason in a sentence.
    pub detail: String,
}

/// Returns the name of a phase.
pub(super) fn name_of(phase: &Phase) -> &'static str {
    match phase {
        Phase::Connecting => "connecting",
        Phase::CatchingUp { .. } | Phase::Joining => "catching_up",
        Phase::Live => "live",
        Phase::Stale => "stale",
        Phase::Fenced => "fenced",
        Phase::Diverged => "diverged",
        Phase::Ended(_) => "ended",
    }
}

/// Checks whether a hub in this phase is ready.
pub(super) fn check_ready(phase: &Phase, health: Option<&Health>) -> Result<(), NotReady> {
    let problem = health.and_then(|health| health.problem.as_deref());
    let because = problem.map(|problem| format!(": {problem}")).unwrap_or_default();
    let detail = match phase {
        Phase::Live => return Ok(()),
        Phase::Connecting => format!("the shared log of the cluster is not open{because}"),
        Phase::CatchingUp { applied } => {
            let of = health.map_or(0, |health| health.last.0);
            format!("the hub reads the shared log, and is at message {applied} of {of}{because}")
        }
        Phase::Joining => format!("the hub has read the shared log, and joins{because}"),
        Phase::Stale => format!("nothing of this hub comes back from the shared log{because}"),
        Phase::Fenced => format!("the hub was silent for the lease, and joins again{because}"),
        Phase::Diverged => BackplaneEnd::Diverged.to_string(),
        Phase::Ended(end) => end.to_string(),
    };
    Err(NotReady { reason: name_of(phase), detail })
}

#[cfg(test)]
mod tests {
    use fanfare_cluster::log::Sequence;

    use super::*;

    #[test]
    fn a_hub_that_is_not_ready_says_why() {
        let health = Health {
            problem: Some("no NATS server accepts a connection".into()),
            last: Sequence(9),
            ..Health::default()
        };
        let ended = Phase::Ended(LogEnd::Replaced("another stream".into()));
        for (phase, reason, detail) in [
            (Phase::Connecting, "connecting", "log of the cluster is not open: no NATS server"),
            (Phase::CatchingUp { applied: 3 }, "catching_up", "is at message 3 of 9"),
            (Phase::Joining, "catching_up", "has read the shared log, and joins"),
            (Phase::Stale, "stale", "comes back from the shared log: no NATS server accepts"),
            (Phase::Fenced, "fenced", "silent for the lease"),
            (Phase::Diverged, "diverged", "have another state"),
            (ended, "ended", "the log was replaced: another stream"),
        ] {
            let not_ready = check_ready(&phase, Some(&health)).unwrap_err();
            assert_eq!(not_ready.reason, reason);
            assert!(not_ready.detail.contains(detail), "{not_ready:?}");
        }
        assert_eq!(check_ready(&Phase::Live, Some(&health)), Ok(()));
    }
}

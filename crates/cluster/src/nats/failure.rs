//! The reasons for which a connection is given up.

use crate::log::LogEnd;

/// The reason for which a connection is given up.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The log was dropped: the thread ends.
    #[error("the log was stopped")]
    Stopped,
    /// Another connection may be better.
    #[error("{0}")]
    Retry(String),
    /// The settings and the servers do not fit.
    #[error("{0}")]
    Refused(String),
    /// The log has ended for this hub.
    #[error("{0}")]
    Ended(#[from] LogEnd),
}

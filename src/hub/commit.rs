//! Commit acknowledgements, and the metadata of channels in the store.

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use super::config::ChannelOptions;
use super::control_events::End;
use crate::channel::ChannelName;
use crate::event::ChannelState;
use crate::store::disk::WriteError;

/// Resolves when a write is as durable as its channel asks for.
#[derive(Debug, Default)]
pub struct CommitAck {
    source: Option<AckSource>,
    /// Further writes to wait for; rarely any.
    more: Vec<AckSource>,
}

/// The source of a write's result.
#[derive(Debug)]
enum AckSource {
    /// For the caller that submitted the write.
    Once(oneshot::Receiver<Result<(), WriteError>>),
    /// For all that wait for the same write.
    Shared(CommitOutcome),
}

/// The result of a write that several callers may wait for; `None` until it is known.
pub(super) type CommitOutcome = watch::Receiver<Option<Result<(), WriteError>>>;

impl CommitAck {
    /// Returns an acknowledgement that is resolved.
    pub(super) fn ready() -> Self {
        Self::default()
    }

    /// Returns an acknowledgement and the function that resolves it.
    pub(super) fn pending() -> (Self, impl FnOnce(Result<(), WriteError>) + Send + 'static) {
        let (tell, source) = oneshot::channel();
        let tell = move |outcome| {
            // The receiver may be gone.
            let _ = tell.send(outcome);
        };
        (Self { source: Some(AckSource::Once(source)), more: Vec::new() }, tell)
    }

    /// Returns an acknowledgement of a write that another caller has submitted.
    pub(super) fn shared(outcome: CommitOutcome) -> Self {
        Self { source: Some(AckSource::Shared(outcome)), more: Vec::new() }
    }

    /// Returns an acknowledgement that waits for both.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.more.extend(other.source.into_iter().chain(other.more));
        self
    }

    /// Returns whether it is still to be waited for.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.source.is_some() || !self.more.is_empty()
    }

    /// Waits for all writes.
    ///
    /// # Errors
    /// A write failed: its content is not stored.
    pub async fn wait(&mut self) -> Result<(), WriteError> {
        let mut outcome = Ok(());
        while let Some(source) = self.source.take().or_else(|| self.more.pop()) {
            outcome = outcome.and(source.wait().await);
        }
        outcome
    }
}

impl AckSource {
    async fn wait(self) -> Result<(), WriteError> {
        let source = match self {
            Self::Once(source) => source.await.ok(),
            // Boxed: it is rare, and would enlarge every other future.
            Self::Shared(mut outcome) => {
                Box::pin(async move {
                    outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| *outcome)
                })
                .await
            }
        };
        // A store that was dropped without a result has stored nothing reliably.
        source.unwrap_or(Err(WriteError::Failed))
    }
}

/// The metadata of a channel in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ChannelMetadata {
    /// The options set on the channel itself.
    #[serde(default)]
    pub(super) options: ChannelOptions,
    /// Whether a producer has begun a generation: without an end it is abandoned.
    #[serde(default)]
    pub(super) produced: bool,
    /// The last offset of earlier channels of this name.
    #[serde(default)]
    pub(super) inherited: u64,
}

impl ChannelMetadata {
    pub(super) fn to_text(self) -> String {
        // Numbers and short texts: this cannot fail.
        serde_json::to_string(&self).unwrap_or_default()
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// The end of a channel in the store.
#[derive(Serialize, Deserialize)]
struct EndMetadata {
    state: ChannelState,
    reason: Option<Box<str>>,
    stopped: bool,
}

impl End {
    pub(super) fn to_text(&self, stopped: bool) -> String {
        let end = EndMetadata { state: self.state, reason: self.reason.clone(), stopped };
        serde_json::to_string(&end).unwrap_or_default()
    }

    /// Returns the end, and whether it was a stop.
    pub(super) fn from_text(channel: &ChannelName, text: &str) -> Option<(Self, bool)> {
        let EndMetadata { state, reason, stopped } = serde_json::from_str(text).ok()?;
        Some((Self { channel: channel.clone(), state, reason }, stopped))
    }
}

//! What the hub has the store keep for it, as text, and the wait until it is kept.

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use super::config::ChannelOptions;
use super::control_events::End;
use crate::channel::ChannelName;
use crate::event::ChannelState;
use crate::store::disk::WriteError;

/// Resolves when something is as durable as its channel asks for.
#[derive(Debug, Default)]
pub struct CommitAck {
    source: Option<AckSource>,
    /// What has to be stored besides; rarely anything.
    more: Vec<AckSource>,
}

/// Where it is told how it went.
#[derive(Debug)]
enum AckSource {
    /// To whoever handed it in.
    Once(oneshot::Receiver<Result<(), WriteError>>),
    /// To all who have come to wait for it.
    Shared(CommitOutcome),
}

/// What becomes of something that more than one may wait for, once that is known.
pub(super) type CommitOutcome = watch::Receiver<Option<Result<(), WriteError>>>;

impl CommitAck {
    /// There is nothing to wait for.
    pub(super) fn ready() -> Self {
        Self::default()
    }

    /// It is to be waited for, until somebody says how it went.
    pub(super) fn pending() -> (Self, impl FnOnce(Result<(), WriteError>) + Send + 'static) {
        let (tell, source) = oneshot::channel();
        let tell = move |outcome| {
            // Nobody need be waiting.
            let _ = tell.send(outcome);
        };
        (Self { source: Some(AckSource::Once(source)), more: Vec::new() }, tell)
    }

    /// Somebody else has handed it in, and knows when it is known how it went.
    pub(super) fn shared(outcome: CommitOutcome) -> Self {
        Self { source: Some(AckSource::Shared(outcome)), more: Vec::new() }
    }

    /// This, and the other as well.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.more.extend(other.source.into_iter().chain(other.more));
        self
    }

    /// Whether it is still to be waited for.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.source.is_some() || !self.more.is_empty()
    }

    /// Waits.
    ///
    /// # Errors
    /// It is not kept.
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
            // Boxed: it is rare, and all others would keep room for it.
            Self::Shared(mut outcome) => {
                Box::pin(async move {
                    outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| *outcome)
                })
                .await
            }
        };
        // A store that has gone without a word has kept nothing that anybody could rely on.
        source.unwrap_or(Err(WriteError::Failed))
    }
}

/// What a channel is, besides its events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ChannelMetadata {
    /// The settings of its own.
    #[serde(default)]
    pub(super) options: ChannelOptions,
    /// A producer has begun it as a generation: without an end it will be abandoned.
    #[serde(default)]
    pub(super) produced: bool,
    /// How far the events of its predecessors reached.
    #[serde(default)]
    pub(super) inherited: u64,
}

impl ChannelMetadata {
    pub(super) fn to_text(self) -> String {
        // Numbers and short texts: there is nothing that could fail.
        serde_json::to_string(&self).unwrap_or_default()
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// How a channel has ended.
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

    /// The end, and whether somebody had stopped the channel.
    pub(super) fn from_text(channel: &ChannelName, text: &str) -> Option<(Self, bool)> {
        let EndMetadata { state, reason, stopped } = serde_json::from_str(text).ok()?;
        Some((Self { channel: channel.clone(), state, reason }, stopped))
    }
}

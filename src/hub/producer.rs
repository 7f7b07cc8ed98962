//! The handle of a producer: it appends to a channel, and reads the channel's signals.
//!
//! A channel posts its signals once the first handle asks for them. Producers and feeds read only
//! the latest state.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Hub;
use super::channel::{Append, Appended, Channel, Hold};
use super::commit::{CommitAck, Refused, Submitted, committed};
use super::core::Core;
use super::error::{GenerationOver, StopError, SubmitError, TooManyChannels};
use super::registry::ClaimPurpose;
use super::signals::{Signals, Stopped};
use crate::channel::ChannelName;
use crate::event::ChannelState;
use crate::generation::{Format, Recogniser};
use crate::limits::MAX_REASON_BYTES;
use crate::position::Position;
use crate::quota::Account;

/// A producer's hold on a channel: it reads the signals, and keeps the channel in memory.
pub struct ProducerHandle {
    core: Arc<Core>,
    channel: Arc<Channel>,
    signals: watch::Receiver<Signals>,
    sole: bool,
    /// The reason why the sole producer leaves, once it gives one.
    why: Option<Box<str>>,
}

impl ProducerHandle {
    /// Returns the current signals.
    #[must_use]
    pub fn read(&mut self) -> Signals {
        self.signals.borrow_and_update().clone()
    }

    /// Resolves when the signals have changed.
    pub async fn changed(&mut self) {
        if self.signals.changed().await.is_err() {
            // The sender lives as long as the channel, which this holds.
            std::future::pending::<()>().await;
        }
    }

    /// Resolves when the channel has ended, with the error that an append would return.
    pub async fn refused(&mut self) -> SubmitError {
        loop {
            let signals = self.read();
            if signals.end.is_some() {
                return refusal(&signals);
            }
            self.changed().await;
        }
    }

    /// Appends to this channel, never to a later one of the same name, and waits for the commit.
    ///
    /// # Errors
    /// The channel has ended, or the store takes no writes; nothing was appended.
    pub fn append(
        &self,
        append: Append<'_>,
    ) -> impl Future<Output = Result<Appended, SubmitError>> {
        committed(move || self.try_append(append))
    }

    fn try_append(
        &self,
        append: Append<'_>,
    ) -> Result<CommitAck<Appended, SubmitError>, Refused<SubmitError>> {
        let ack = self.channel.append(append).map_err(|refused| match refused {
            // While the channel is held, only a deletion removes it from memory.
            Refused::Retired => Refused::Because(SubmitError::Closed(ChannelState::Deleted)),
            refused => refused,
        })?;
        self.core.keep_budgets(&self.channel);
        Ok(ack)
    }

    /// Returns the recogniser, after it has read the channel's events.
    #[must_use]
    pub fn recogniser(&self) -> Recogniser {
        self.channel.recogniser()
    }

    /// Notes why the producer leaves: viewers read this if it does not come back. A producer that
    /// is dropped without a reason counts as lost.
    pub fn leave(&mut self, why: &str) {
        self.why = Some(why[..why.floor_char_boundary(MAX_REASON_BYTES)].into());
    }
}

fn refusal(signals: &Signals) -> SubmitError {
    match &signals.end {
        Some(end) if signals.stopped => SubmitError::Stopped(end.reason.clone()),
        Some(end) => SubmitError::Closed(end.state),
        None => SubmitError::Closed(ChannelState::Deleted),
    }
}

impl Drop for ProducerHandle {
    fn drop(&mut self) {
        if self.channel.let_go(self.sole, self.why.take()) {
            self.core.registry.evict_if_unused(self.channel.name(), Duration::ZERO);
        }
    }
}

impl Hub {
    /// Returns a handle that only reads the channel's signals.
    ///
    /// # Errors
    /// There are too many channels.
    pub fn producer_handle(&self, name: &ChannelName) -> Result<ProducerHandle, TooManyChannels> {
        loop {
            let channel = self.0.registry.get_or_create(name)?;
            if let Some(producer) = self.hold(channel) {
                return Ok(producer);
            }
        }
    }

    /// Returns a handle; `None` if the channel has left memory.
    fn hold(&self, channel: Arc<Channel>) -> Option<ProducerHandle> {
        let signals = channel.hold()?;
        Some(ProducerHandle { core: self.0.clone(), channel, signals, sole: false, why: None })
    }

    /// Begins to produce into a channel, which counts for this account if it was not published to
    /// before. `format` is the format of its events, if it is known.
    ///
    /// # Errors
    /// The channel has ended or has a producer already, or there are too many channels.
    pub fn produce(
        &self,
        name: &ChannelName,
        account: Option<&Arc<Account>>,
        hold: Hold,
        format: Option<Format>,
    ) -> Submitted<ProducerHandle, SubmitError> {
        loop {
            let channel = self.0.registry.get_for(name, account, ClaimPurpose::ToPublish)?;
            if let Some(mut producer) = self.hold(channel)
                && producer.channel.produce(hold, format)?.is_some()
            {
                producer.sole = hold == Hold::Sole;
                return Ok(CommitAck::ready(producer));
            }
        }
    }

    /// Stops a channel: it ends as cancelled. A stop before the first publish makes the channel,
    /// for this account, and ends it at once, so that its producer is refused. Waits for the
    /// commit, also of a stop that is pending.
    ///
    /// # Errors
    /// `generation` is an event id of another life of the channel, there are too many channels, or
    /// the store takes no writes.
    pub async fn stop(
        &self,
        name: &ChannelName,
        reason: Option<Box<str>>,
        generation: Option<&Position>,
        account: Option<&Arc<Account>>,
    ) -> Result<Stopped, StopError> {
        committed(|| self.try_stop(name, reason.clone(), generation, account)).await
    }

    fn try_stop(
        &self,
        name: &ChannelName,
        reason: Option<Box<str>>,
        generation: Option<&Position>,
        account: Option<&Arc<Account>>,
    ) -> Result<CommitAck<Stopped, StopError>, Refused<StopError>> {
        let registry = &self.0.registry;
        let channel = match (registry.get(name), generation) {
            (Some(channel), _) => Ok(channel),
            (None, Some(_)) => Err(GenerationOver.into()),
            (None, None) => {
                registry.get_for(name, account, ClaimPurpose::ToWait).map_err(StopError::from)
            }
        };
        channel.map_err(Refused::Because)?.stop(reason, generation)
    }
}

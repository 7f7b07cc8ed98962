//! The handle of a producer: it appends to a channel, and reads the channel's signals.
//!
//! A channel posts its signals once the first handle asks for them. Producers and feeds read only
//! the latest state.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Hub;
use super::channel::{Appended, Channel, Hold, ReceiptFn};
use super::commit::CommitAck;
use super::control_events::Close;
use super::core::Core;
use super::error::{GenerationOver, StopError, SubmitError, TooManyChannels};
use super::signals::{Signals, Stopped};
use crate::channel::ChannelName;
use crate::event::{ChannelState, NewEvent};
use crate::generation::{Format, Recogniser};
use crate::limits::MAX_REASON_BYTES;
use crate::position::Position;

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

    /// Appends to this channel, never to a later one of the same name.
    ///
    /// # Errors
    /// The channel has ended, or the store takes no writes; nothing was appended.
    pub fn append(
        &self,
        events: &[NewEvent],
        close: Option<&Close>,
        receipt: Option<ReceiptFn<'_>>,
    ) -> Result<Appended, SubmitError> {
        // While the channel is held, only a deletion removes it from memory.
        let appended = self.channel.append(events, close, receipt)?;
        let appended = appended.ok_or(SubmitError::Closed(ChannelState::Deleted))?;
        self.core.keep_budgets(&self.channel);
        Ok(appended)
    }

    /// Returns the acknowledgement of the end for which an append was refused; `None` if the
    /// channel has ended. If that end fails, the append can be tried again.
    #[must_use]
    pub fn pending_end(&self) -> Option<CommitAck> {
        self.channel.pending_end()
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
            if let Some(signals) = channel.hold() {
                return Ok(ProducerHandle {
                    core: self.0.clone(),
                    channel,
                    signals,
                    sole: false,
                    why: None,
                });
            }
        }
    }

    /// Begins to produce into a channel. `format` is the format of its events, if it is known.
    ///
    /// # Errors
    /// The channel has ended or has a producer already, or there are too many channels.
    pub fn produce(
        &self,
        name: &ChannelName,
        hold: Hold,
        format: Option<Format>,
    ) -> Result<ProducerHandle, SubmitError> {
        loop {
            let mut producer = self.producer_handle(name)?;
            if producer.channel.produce(hold, format)?.is_some() {
                producer.sole = hold == Hold::Sole;
                return Ok(producer);
            }
        }
    }

    /// Stops a channel: it ends as cancelled. A stop before the first publish ends the channel at
    /// once, so that its producer is refused. Returns the acknowledgement.
    ///
    /// # Errors
    /// `generation` is an event id of another life of the channel; or there are too many channels.
    pub fn stop(
        &self,
        name: &ChannelName,
        reason: Option<Box<str>>,
        generation: Option<&Position>,
    ) -> Result<(Stopped, CommitAck), StopError> {
        loop {
            let channel = match (self.0.registry.get(name), generation) {
                (Some(channel), _) => channel,
                (None, Some(_)) => return Err(GenerationOver.into()),
                (None, None) => self.0.registry.get_or_create(name)?,
            };
            if let Some(stopped) = channel.stop(reason.clone(), generation) {
                return Ok(stopped?);
            }
        }
    }
}

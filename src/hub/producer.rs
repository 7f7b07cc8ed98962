//! The way back to the producer: stop, and how many are watching.
//!
//! A channel has a producer handle on which its present signals stand, once somebody has asked for
//! it. Producers and feeds look at the producer handle; only its last state counts.

use std::sync::Arc;

use tokio::sync::watch;

use super::channel::{Appended, Channel, Close, Hold, ReceiptFn};
use super::commit::CommitAck;
use super::signals::{GenerationOver, Signals, StopError, Stopped};
use super::{Core, Hub, SubmitError, TooManyChannels, refused};
use crate::channel::ChannelName;
use crate::event::{ChannelState, NewEvent};
use crate::generation::{Format, Recogniser};
use crate::limits::MAX_REASON_BYTES;
use crate::position::Position;

/// Looks at a channel's board, and keeps the channel in memory meanwhile.
pub struct ProducerHandle {
    core: Arc<Core>,
    channel: Arc<Channel>,
    signals: watch::Receiver<Signals>,
    sole: bool,
    /// Why the sole producer leaves, once it says so.
    why: Option<Box<str>>,
}

impl ProducerHandle {
    /// What stands there now.
    #[must_use]
    pub fn read(&mut self) -> Signals {
        self.signals.borrow_and_update().clone()
    }

    /// Resolves when something else stands there.
    pub async fn changed(&mut self) {
        if self.signals.changed().await.is_err() {
            // The board lives as long as the channel, which this holds.
            std::future::pending::<()>().await;
        }
    }

    /// Resolves when the channel has ended: what whoever publishes there is told.
    pub async fn refused(&mut self) -> SubmitError {
        loop {
            let signals = self.read();
            if signals.end.is_some() {
                return refusal(&signals);
            }
            self.changed().await;
        }
    }

    /// Appends to this channel, and no other that may come to have its name.
    ///
    /// # Errors
    /// The channel has ended, or the store takes nothing; nothing was appended.
    pub fn append(
        &self,
        events: &[NewEvent],
        close: Option<&Close>,
        receipt: Option<ReceiptFn<'_>>,
    ) -> Result<Appended, SubmitError> {
        match self.channel.append(events, close, receipt) {
            Ok(appended) => {
                Hub(self.core.clone()).keep_budgets(&self.channel);
                Ok(appended)
            }
            Err(error) => {
                refused(error)?;
                // While it is held, only a deletion takes it out of memory.
                Err(SubmitError::Closed(ChannelState::Deleted))
            }
        }
    }

    /// When the end counts for which an append was refused; nothing if it does already. If it
    /// never will, the append is worth another try.
    #[must_use]
    pub fn coming_end(&self) -> Option<CommitAck> {
        self.channel.coming_end()
    }

    /// What the channel's events have told of their format.
    #[must_use]
    pub fn recogniser(&self) -> Recogniser {
        self.channel.recogniser()
    }

    /// Notes why the producer leaves: what viewers read if it does not come back. One that is gone
    /// without this was lost.
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
            self.core.registry.evict_if_unused(self.channel.name());
        }
    }
}

impl Hub {
    /// The board of a channel, for whoever only looks.
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

    /// Begins to produce into a channel. What is known of the events' format is noted.
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
            match producer.channel.produce(hold, format) {
                Ok(()) => {
                    producer.sole = hold == Hold::Sole;
                    return Ok(producer);
                }
                Err(error) => refused(error)?,
            }
        }
    }

    /// Stops a channel: it ends as cancelled. One to which nobody has published yet ends before it
    /// has begun, so that its producer is told when it comes. Says when it counts.
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

//! The handle of a producer: it appends to a channel, and reads the channel's signals.
//!
//! A channel posts its signals once the first handle asks for them. Producers and feeds read only
//! the latest state.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::Hub;
use super::channel::{Append, Appended, Channel, Hold, LogPlace};
use super::cluster::{NotProduced, Replica, SoleHold};
use super::commit::{CommitAck, Refused, Submitted, committed};
use super::core::Core;
use super::error::{GenerationOver, StopError, SubmitError, TooManyChannels};
use super::registry::ClaimPurpose;
use super::signals::{Signals, Stopped};
use crate::channel::ChannelName;
use crate::event::ChannelState;
use crate::generation::{Format, Recogniser};
use crate::limits::MAX_REASON_BYTES;
use crate::position::{Offset, Position};
use crate::quota::Account;

/// Time without a message of the hub of a sole producer after which it is probably gone.
const SILENCE: Duration = Duration::from_secs(2);

/// Maximum time for which a producer waits for the end of the session of such a hub: some leases.
const PATIENCE: Duration = Duration::from_secs(20);

/// Interval at which such a producer tries again.
const BUSY_CHECK: Duration = Duration::from_millis(250);

/// A producer's hold on a channel: it reads the signals, and keeps the channel in memory.
pub struct ProducerHandle {
    core: Arc<Core>,
    channel: Arc<Channel>,
    signals: watch::Receiver<Signals>,
    sole: bool,
    /// The life of the channel in the shared log of a cluster, once something was appended.
    life: Arc<OnceLock<Offset>>,
    /// The hold of a sole producer in a cluster.
    hold: Option<SoleHold>,
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
        if let Some(replica) = &self.core.replica {
            // A publish that streams continues in the life of its first events.
            let shared = || LogPlace { life: self.life.get().copied(), hold: None };
            let place = self.hold.as_ref().map_or_else(shared, SoleHold::place);
            let known = self.life.clone();
            let note_life = move |life| {
                let _ = known.set(life);
            };
            let Some(channel) = self.channel.begin_use() else {
                return Err(Refused::Because(SubmitError::Closed(ChannelState::Deleted)));
            };
            let ack = replica.append(channel, &append, place, note_life);
            return ack.map_err(Refused::Because);
        }
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
        if let Some(hold) = self.hold.take() {
            hold.release(self.why.as_deref());
        }
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
        if let Some(replica) = &self.0.replica {
            channel.set_remote_subscribers(replica.remote_viewers(channel.name().as_str()));
        }
        let (core, life) = (self.0.clone(), Arc::default());
        Some(ProducerHandle { core, channel, signals, sole: false, life, hold: None, why: None })
    }

    /// Begins to produce into a channel, which counts for this account if it was not published to
    /// before. `format` is the format of its events, if it is known.
    ///
    /// # Errors
    /// The channel has ended or has a producer already, or there are too many channels.
    pub async fn produce(
        &self,
        name: &ChannelName,
        account: Option<&Arc<Account>>,
        hold: Hold,
        format: Option<Format>,
    ) -> Result<ProducerHandle, SubmitError> {
        if let Some(replica) = &self.0.replica
            && hold == Hold::Sole
        {
            return Box::pin(self.produce_shared(replica, name, account, format)).await;
        }
        loop {
            let channel = self.0.registry.get_for(name, account, ClaimPurpose::ToPublish)?;
            if let Some(mut producer) = self.hold(channel)
                && producer.channel.produce(hold, format)?.is_some()
            {
                producer.sole = hold == Hold::Sole;
                return Ok(producer);
            }
        }
    }

    /// Becomes the sole producer in a cluster. If the hub of the present one is silent, it is
    /// probably gone: this waits for the end of its session.
    async fn produce_shared(
        &self,
        replica: &Arc<Replica>,
        name: &ChannelName,
        account: Option<&Arc<Account>>,
        format: Option<Format>,
    ) -> Result<ProducerHandle, SubmitError> {
        let mut producer = loop {
            let channel = self.0.registry.get_for(name, account, ClaimPurpose::ToPublish)?;
            if let Some(producer) = self.hold(channel) {
                break producer;
            }
        };
        let began = Instant::now();
        let format = format.map(Format::as_str);
        loop {
            match replica.produce(&producer.channel, format)?.wait().await? {
                Ok(hold) => {
                    producer.channel.count_producer();
                    producer.sole = true;
                    producer.hold = Some(hold);
                    return Ok(producer);
                }
                Err(NotProduced::Busy { silent })
                    if silent >= SILENCE && began.elapsed() < PATIENCE =>
                {
                    sleep(BUSY_CHECK).await;
                }
                Err(NotProduced::Busy { .. }) => return Err(SubmitError::Busy),
                Err(NotProduced::Because(why)) => return Err(why),
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
        if let Some(replica) = &self.0.replica {
            let stopped = self.stop_shared(replica, name, reason, generation, account);
            return stopped.map_err(Refused::Because);
        }
        let channel = match (registry.get(name), generation) {
            (Some(channel), _) => Ok(channel),
            (None, Some(_)) => Err(GenerationOver.into()),
            (None, None) => {
                registry.get_for(name, account, ClaimPurpose::ToWait).map_err(StopError::from)
            }
        };
        channel.map_err(Refused::Because)?.stop(reason, generation)
    }

    fn stop_shared(
        &self,
        replica: &Replica,
        name: &ChannelName,
        reason: Option<Box<str>>,
        generation: Option<&Position>,
        account: Option<&Arc<Account>>,
    ) -> Submitted<Stopped, StopError> {
        if generation.is_some_and(|meant| meant.epoch != *self.0.shared.sequencer.epoch()) {
            return Err(GenerationOver.into());
        }
        let registry = &self.0.registry;
        let settings = match (registry.get(name), generation) {
            (Some(channel), _) => channel.settings(),
            (None, Some(_)) => return Err(GenerationOver.into()),
            // The stop makes the channel: limits and quotas are asked first.
            (None, None) => registry.get_for(name, account, ClaimPurpose::ToWait)?.settings(),
        };
        let generation = generation.map(|meant| meant.offset);
        replica.stop(name, &settings, reason.as_deref(), generation)
    }
}

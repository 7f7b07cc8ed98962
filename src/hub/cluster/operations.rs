//! The operations of a hub in a cluster, as commands of the shared log.

use std::sync::Arc;
use std::time::Duration;

use fanfare_cluster::command::{self, Command, Due};
use fanfare_cluster::sender::Refused;
use fanfare_cluster::state_machine::{Outcome, Refusal};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::commands::{
    close_for_log, events_for_log, keyed_of_log, log_error, log_offset, millis, offset,
    options_for_log, reason_for_log, state_of_log, submit_error,
};
use super::replica::{Replica, Ticket};
use crate::channel::ChannelName;
use crate::event::ChannelState;
use crate::hub::channel::{
    Append, Appended, Channel, ChannelUse, Configured, LogPlace, Overdue, UNWATCHED,
};
use crate::hub::commit::{CommitAck, Submitted};
use crate::hub::config::{ChannelOptions, Settings};
use crate::hub::error::{
    ConfigureError, DeleteError, GenerationOver, LogError, StopError, SubmitError,
};
use crate::hub::signals::Stopped;
use crate::limits::STOP_KEPT_SECONDS;
use crate::position::Offset;

/// Delay of each further hub before it proposes what all hubs would.
const PROPOSAL_DELAY: Duration = Duration::from_millis(250);

/// Time after which a proposal is made again.
const PROPOSE_AGAIN: Duration = Duration::from_secs(5);

/// The reason why a channel was not produced into.
pub(in crate::hub) enum NotProduced {
    /// Another producer holds it, whose hub was silent for this time.
    Busy { silent: Duration },
    /// Anything else.
    Because(SubmitError),
}

impl Replica {
    /// Submits a command. `result` makes the result of the operation from its outcome.
    fn ask<T: Send + 'static, E: From<LogError> + Send + 'static>(
        &self,
        command: &Command,
        result: impl FnOnce(Outcome) -> Result<T, E> + Send + 'static,
    ) -> Submitted<T, E> {
        let (ack, answer) = CommitAck::undecided(self.publish_timeout());
        self.submit(command, ticket(answer, result))?;
        Ok(ack)
    }

    /// Appends events, and the end of the channel if asked to.
    pub(in crate::hub) fn append(
        &self,
        channel: ChannelUse,
        append: &Append<'_>,
        place: LogPlace,
        note_life: impl FnOnce(Offset) + Send + 'static,
    ) -> Submitted<Appended, SubmitError> {
        let kept = channel.settings().retention.max_age;
        let command = Command::Append(command::Append {
            channel: channel.name().as_str().into(),
            life: place.life.map(log_offset),
            hold: place.hold.map(log_offset),
            events: events_for_log(append.events),
            close: append.close.and_then(|close| close_for_log(close, kept)),
            key: append.key.cloned(),
        });
        self.ask(&command, move |outcome| match outcome {
            Outcome::Appended(appended) => {
                if let Some(life) = appended.life {
                    note_life(offset(life));
                }
                Ok(Appended {
                    offsets: appended.offsets.map(|(first, last)| (offset(first), offset(last))),
                    subscribers: channel.subscribers(),
                    state: appended.state.map_or(ChannelState::Open, state_of_log),
                    keyed: appended.key.map(keyed_of_log),
                })
            }
            // All of it was published before, by a request with the same key.
            Outcome::Replayed(totals) => Ok(Appended {
                offsets: None,
                subscribers: channel.subscribers(),
                state: totals.state.map_or(ChannelState::Open, state_of_log),
                keyed: Some(keyed_of_log(totals)),
            }),
            Outcome::Refused(refusal) => {
                Err(submit_error(refusal, || channel.ended().and_then(|end| end.reason)))
            }
            _ => Err(LogError::Refused.into()),
        })
    }

    /// Makes this hub's client the sole producer of a channel.
    pub(in crate::hub) fn produce(
        self: &Arc<Self>,
        channel: &Arc<Channel>,
        format: Option<&str>,
    ) -> Submitted<Result<SoleHold, NotProduced>, SubmitError> {
        let command = Command::Produce(command::Produce {
            channel: channel.name().as_str().into(),
            format: format.map(Into::into),
        });
        let (replica, channel) = (self.clone(), channel.clone());
        self.ask(&command, move |outcome| match outcome {
            Outcome::Produces { hold, life } => {
                let name = channel.name().clone();
                let (hold, life) = (offset(hold), offset(life));
                replica.holds().insert(hold, name.clone());
                Ok(Ok(SoleHold { replica, name, hold, life, is_released: false }))
            }
            Outcome::Refused(Refusal::Busy { silent }) => {
                Ok(Err(NotProduced::Busy { silent: Duration::from_nanos(silent) }))
            }
            Outcome::Refused(refusal) => {
                let reason = || channel.ended().and_then(|end| end.reason);
                Ok(Err(NotProduced::Because(submit_error(refusal, reason))))
            }
            _ => Err(LogError::Refused.into()),
        })
    }

    /// Sends the holds of the producers at this hub in a session that has begun: they ended with
    /// the one before it.
    pub(super) fn renew_holds(&self) {
        let holds: Vec<_> = self.holds().iter().map(|(hold, name)| (*hold, name.clone())).collect();
        for (hold, name) in holds {
            self.propose(&Command::Append(command::Append {
                channel: name.as_str().into(),
                hold: Some(log_offset(hold)),
                ..command::Append::default()
            }));
        }
    }

    /// Stops a channel. `settings` are those of the channel, or of its name.
    pub(in crate::hub) fn stop(
        &self,
        name: &ChannelName,
        settings: &Settings,
        reason: Option<&str>,
        generation: Option<Offset>,
    ) -> Submitted<Stopped, StopError> {
        let kept = settings.retention.max_age;
        let command = Command::Stop(command::Stop {
            channel: name.as_str().into(),
            reason: reason_for_log(reason),
            generation: generation.map(log_offset),
            kept: millis(kept),
            kept_early: millis(kept.min(Duration::from_secs(STOP_KEPT_SECONDS))),
        });
        self.ask(&command, |outcome| match outcome {
            Outcome::Done => Ok(Stopped::Now),
            Outcome::EndedBefore(state) => Ok(Stopped::Before(state_of_log(state))),
            Outcome::Refused(Refusal::Removed) => Err(GenerationOver.into()),
            Outcome::Refused(refusal) => Err(log_error(refusal).into()),
            _ => Err(LogError::Refused.into()),
        })
    }

    /// Sets options of a channel.
    pub(in crate::hub) fn configure(
        &self,
        channel: ChannelUse,
        options: &ChannelOptions,
    ) -> Submitted<Configured, ConfigureError> {
        let most = Duration::from_secs(self.max_retention().as_secs());
        if let Some(asked) = options.max_age.filter(|asked| *asked > most) {
            return Err(ConfigureError::MaxAge { asked, most });
        }
        let command = Command::Configure(command::Configure {
            channel: channel.name().as_str().into(),
            options: options_for_log(options),
        });
        self.ask(&command, move |outcome| match outcome {
            Outcome::Configured { created, .. } => {
                Ok(Configured { created, channel: channel.describe_now() })
            }
            Outcome::Refused(refusal) => Err(log_error(refusal).into()),
            _ => Err(LogError::Refused.into()),
        })
    }

    /// Deletes a channel.
    pub(in crate::hub) fn delete(&self, name: &ChannelName) -> Submitted<(), DeleteError> {
        let command = Command::Delete(command::Delete { channel: name.as_str().into() });
        self.ask(&command, |outcome| match outcome {
            Outcome::Done => Ok(()),
            Outcome::Refused(Refusal::Removed) => Err(DeleteError::Unknown),
            Outcome::Refused(refusal) => Err(log_error(refusal).into()),
            _ => Err(LogError::Refused.into()),
        })
    }

    /// Proposes to the cluster what is due for a channel. Returns the time of the next deadline, if
    /// there is one.
    pub(in crate::hub) fn meet_deadline(&self, channel: &Channel) -> Option<Instant> {
        let again = Instant::now() + PROPOSE_AGAIN;
        if !self.is_live() {
            return Some(again);
        }
        let kept = millis(channel.settings().retention.max_age);
        let name = channel.name().as_str();
        let lapse = |due, since, reason: Option<&str>| {
            let (channel, since) = (name.into(), log_offset(since));
            let reason = reason_for_log(reason);
            Command::Lapse(command::Lapse { channel, due, since, reason, kept })
        };
        let command = match channel.overdue(PROPOSAL_DELAY.saturating_mul(self.rank())) {
            Err(next) => return next,
            Ok(Overdue::Abandoned(since, why)) => lapse(Due::Abandoned, since, why.as_deref()),
            // Viewers may be at a hub that is not heard of.
            Ok(Overdue::Unwatched(_)) if !self.knows_viewers() => return Some(again),
            Ok(Overdue::Unwatched(hold)) => lapse(Due::Unwatched, hold, Some(UNWATCHED)),
        };
        self.propose(&command);
        // When it is applied, nothing is due any more.
        Some(again)
    }

    /// Proposes to the cluster to remove a channel that is not used.
    pub(in crate::hub) fn propose_removal(&self, channel: &Channel) {
        // While the log takes nothing, proposals would fill the room of what producers must send.
        if self.is_live()
            && let Some(since) = channel.propose_removal(PROPOSE_AGAIN)
        {
            self.propose(&Command::Lapse(command::Lapse {
                channel: channel.name().as_str().into(),
                due: Due::Idle,
                since: log_offset(since),
                reason: None,
                kept: 0,
            }));
        }
    }
}

/// The hold of a sole producer in the shared log. When it is dropped, the producer has left: also
/// if its request had ended when the log granted it.
pub(in crate::hub) struct SoleHold {
    replica: Arc<Replica>,
    name: ChannelName,
    hold: Offset,
    life: Offset,
    is_released: bool,
}

impl SoleHold {
    pub(in crate::hub) fn place(&self) -> LogPlace {
        LogPlace { life: Some(self.life), hold: Some(self.hold) }
    }

    /// Reports that the producer has left, for this reason if it gave one.
    pub(in crate::hub) fn release(mut self, why: Option<&str>) {
        self.propose_release(why);
    }

    fn propose_release(&mut self, why: Option<&str>) {
        if std::mem::replace(&mut self.is_released, true) {
            return;
        }
        self.replica.holds().remove(&self.hold);
        self.replica.propose(&Command::Release(command::Release {
            channel: self.name.as_str().into(),
            hold: log_offset(self.hold),
            reason: reason_for_log(why),
        }));
    }
}

impl Drop for SoleHold {
    fn drop(&mut self) {
        self.propose_release(None);
    }
}

/// Returns a ticket that answers with the result of an outcome.
fn ticket<T: Send + 'static, E: From<LogError> + Send + 'static>(
    answer: oneshot::Sender<Result<T, E>>,
    result: impl FnOnce(Outcome) -> Result<T, E> + Send + 'static,
) -> Ticket {
    Box::new(move |outcome: Result<Outcome, Refused>| {
        let result = outcome.map_err(|Refused| LogError::Refused.into()).and_then(result);
        // The caller may have left.
        drop(answer.send(result));
    })
}

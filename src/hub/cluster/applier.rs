//! Applies the shared log to the channels of the hub.

use std::sync::Arc;

use bytes::Bytes;
use fanfare_cluster::log::{LogEnd, LogInfo, LogReader, Message, NotStored, SendNumber};
use fanfare_cluster::offset;
use fanfare_cluster::state_machine::{Applied, Change, Effect};
use fanfare_cluster::text::Text;
use fanfare_cluster::viewers::Totals;

use super::commands::{
    close_of_log, events_of_log, moment, offset as of_log, options_of_log, reason_of_log,
};
use super::replica::Replica;
use super::viewers;
use crate::channel::ChannelName;
use crate::clock::Moment;
use crate::generation::Format;
use crate::hub::channel::{Assigned, Channel, Effects, SharedEvents};
use crate::hub::core::Core;
use crate::position::Offset;

/// Reads the shared log. It is called by the thread of the log, and never waits.
///
/// A message is applied in three steps. Its events are appended, then the watermark moves on, and
/// then readers are notified: a reader of many channels that was notified sooner would find events
/// that it may not read.
pub struct Applier {
    core: Arc<Core>,
    replica: Arc<Replica>,
    /// Whether the log cannot be applied any further.
    has_failed: bool,
    /// Whether a message was applied.
    has_begun: bool,
}

/// What is applied with one message.
struct Turn {
    time: Moment,
    /// Whether another hub has sent the message.
    is_foreign: bool,
    /// The channels that have changed.
    changed: Vec<(Arc<Channel>, Effects)>,
    /// The channels that are gone.
    retired: Vec<Arc<Channel>>,
}

impl Applier {
    pub(in crate::hub) fn new(core: Arc<Core>, replica: Arc<Replica>) -> Self {
        Self { core, replica, has_failed: false, has_begun: false }
    }

    fn apply(&mut self, applied: &mut Applied) {
        let session = self.replica.latest_session();
        let mut turn = Turn {
            time: moment(applied.time, &self.core.shared.clock),
            is_foreign: session.is_none_or(|session| session != applied.session),
            changed: Vec::new(),
            retired: Vec::new(),
        };
        self.replica.note_members(applied);
        let is_of_channel = |effect: &mut Effect| matches!(effect, Effect::Channel { .. });
        let effects: Vec<_> = applied.effects.extract_if(.., is_of_channel).collect();
        for effect in effects {
            if let Effect::Channel { name, life, change } = effect {
                self.change(&name, of_log(life), change, &mut turn);
            }
        }
        let next = offset::Offset::new(applied.sequence.next(), 0);
        self.core.shared.sequencer.pass(of_log(next));
        for (channel, effects) in turn.changed {
            channel.announce(effects);
            self.core.keep_budgets(&channel);
        }
        for channel in turn.retired {
            channel.notify_retired();
        }
        self.replica.report(applied);
        self.set_viewers(self.replica.note_sessions(applied));
    }

    /// Sets the numbers of viewers at the other hubs.
    fn set_viewers(&self, totals: Totals) {
        for (name, viewers) in totals {
            let name = ChannelName::try_from(name.as_str());
            if let Some(channel) = name.ok().and_then(|name| self.core.registry.get(&name)) {
                channel.set_remote_subscribers(viewers::count(viewers));
            }
        }
    }

    /// Applies a change of one channel.
    fn change(&self, name: &Text, life: Offset, change: Change, turn: &mut Turn) {
        let Ok(name) = ChannelName::try_from(name.as_str()) else {
            return tracing::warn!("the shared log has a channel with an invalid name");
        };
        let registry = &self.core.registry;
        let (time, is_foreign) = (turn.time, turn.is_foreign);
        let assigned = |first| Assigned { first: of_log(first), time };
        match change {
            Change::Appended { first, events, end } => {
                let assigned = assigned(first);
                let (events, close) = (events_of_log(events), end.map(close_of_log));
                let (channel, effects) = self.change_channel(&name, is_foreign, |channel| {
                    let close = close.clone();
                    let events = &events;
                    channel
                        .commit_shared(life, SharedEvents { assigned, events, close, is_foreign })
                });
                turn.changed.push((channel, effects));
            }
            Change::Produced { hold, format, .. } => {
                let format = format.and_then(|format| format.as_str().parse::<Format>().ok());
                self.change_channel(&name, is_foreign, |channel| {
                    channel.note_producer(life, of_log(hold), format)
                });
            }
            Change::Back { hold, .. } => {
                let hold = of_log(hold);
                self.change_channel(&name, is_foreign, |channel| {
                    channel.note_producer(life, hold, None)
                });
            }
            Change::Away { since, reason } => {
                let reason = reason_of_log(reason);
                self.change_channel(&name, is_foreign, |channel| {
                    channel.note_away(life, of_log(since), reason.clone())
                });
            }
            Change::Configured { at, options } => {
                let (at, options) = (of_log(at), options_of_log(options));
                let configured = registry.settings_for(&name);
                self.change_channel(&name, is_foreign, |channel| {
                    channel.set_options(life, at, options, configured)
                });
            }
            Change::Deleted { at } => {
                turn.retired.extend(registry.delete_shared(&name, assigned(at)));
            }
            Change::Removed => turn.retired.extend(registry.remove_shared(&name)),
        }
    }

    /// Changes the channel of this name, which is made if it does not exist.
    fn change_channel<T>(
        &self,
        name: &ChannelName,
        is_foreign: bool,
        change: impl Fn(&Channel) -> Option<T>,
    ) -> (Arc<Channel>, T) {
        loop {
            let channel = self.core.registry.get_or_insert(name);
            if !channel.is_replicated() {
                let viewers = self.replica.remote_viewers(name.as_str());
                channel.set_remote_subscribers(viewers);
                if is_foreign {
                    channel.free_account();
                }
            }
            // A channel that was only waited for may leave memory at any time.
            if let Some(changed) = change(&channel) {
                return (channel, changed);
            }
        }
    }

    fn fail(&mut self, why: LogEnd) {
        self.has_failed = true;
        self.replica.end(why);
    }
}

impl LogReader for Applier {
    fn opened(&mut self, log: LogInfo) {
        match log.epoch.parse() {
            Ok(epoch) => self.core.shared.sequencer.open(epoch),
            Err(why) => {
                let why = format!("its epoch `{}` is not valid: {why}", log.epoch);
                return self.fail(LogEnd::Refused(why.into()));
            }
        }
        self.replica.open(&log);
    }

    fn message(&mut self, message: Message) {
        if self.has_failed {
            return;
        }
        let sequence = message.sequence;
        if !self.has_begun {
            self.has_begun = true;
            let first = offset::Offset::new(sequence, 0);
            self.core.registry.set_front(Offset(first.0.saturating_sub(1)));
        }
        match self.replica.apply(message) {
            None => {}
            Some(Ok(mut applied)) => {
                if let Some(Effect::EpochBegan { epoch }) = applied
                    .effects
                    .iter()
                    .find(|effect| matches!(effect, Effect::EpochBegan { .. }))
                {
                    let why = format!("the epoch {} has begun", epoch.as_str());
                    return self.fail(LogEnd::Replaced(why.into()));
                }
                self.apply(&mut applied);
                self.replica.note_progress(sequence.0);
            }
            Some(Err(why)) => self.fail(LogEnd::Refused(why.to_string().into())),
        }
    }

    fn caught_up(&mut self) {
        if !self.has_failed {
            self.replica.join();
        }
    }

    fn not_stored(&mut self, number: SendNumber, reason: NotStored) {
        self.replica.note_not_stored(number, reason);
    }

    fn broadcast(&mut self, content: Bytes) {
        if !self.has_failed {
            self.set_viewers(self.replica.receive(&content));
        }
    }

    fn ended(&mut self, reason: LogEnd) {
        self.fail(reason);
    }
}

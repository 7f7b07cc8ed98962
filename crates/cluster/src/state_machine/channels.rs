//! Channels: their lives, their sole producers and their ends.
//!
//! A replica that began to read after the front of the log does not know what the trimmed messages
//! did, and may apply late copies of batches in its first messages, which others reject. There, a
//! life or a hold that began before it was certain of the sessions is taken for the current one,
//! until the channel is removed. So replicas name one life differently: by its first offset, or by
//! the first one that they have read. All names of a life are between its first offset and that of
//! the next life, and are compared by order.

use std::collections::{BTreeMap, BTreeSet};

use super::applied::{Appended, Change, End, Outcome, Refusal};
use super::context::Context;
use super::gone::Gone;
use super::table::Table;
use crate::command::{
    Append, Configure, Delete, Due, EndState, Lapse, NewEvent, Options, Produce, Producer, Release,
    Renew, SessionId, Stop,
};
use crate::log::{LogTime, Sequence};
use crate::offset::Offset;
use crate::text::Text;

/// Maximum number of channels, of which those that have ended are kept for a time.
pub const MAX_CHANNELS: usize = 1_000_000;

/// All channels.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Channels {
    by_name: Table<Text, Channel>,
    /// The channels that sessions hold.
    held: BTreeSet<(SessionId, Text)>,
    /// The channels that have ended, by the time at which their end is forgotten.
    ended: BTreeMap<(LogTime, Offset), Text>,
    /// The open channels, by the message that has last reported all of their state.
    open: BTreeSet<(Sequence, Text)>,
    /// The channels of which nothing is left that the replica is not certain of.
    gone: Gone,
}

#[derive(Debug, PartialEq, Eq)]
struct Channel {
    /// The first offset of this life, as far as the replica knows it.
    life: Offset,
    /// The last event.
    last: Option<Offset>,
    options: Options,
    /// The last change of the options.
    configured: Option<Offset>,
    producer: Producer,
    /// The last change of the producer.
    produced: Offset,
    /// The message that has last reported all of this state.
    renewed: Sequence,
    end: Option<Ended>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ended {
    state: EndState,
    stopped: bool,
    /// The place of the channel in [`Channels::ended`].
    forgotten: (LogTime, Offset),
}

impl Channel {
    fn set_producer(&mut self, producer: Producer, at: Offset) {
        (self.producer, self.produced) = (producer, at);
    }

    /// Returns why the channel takes no events.
    fn refusal(&self) -> Option<Refusal> {
        self.end.map(|end| if end.stopped { Refusal::Stopped } else { Refusal::Ended(end.state) })
    }

    fn state(&self) -> Option<EndState> {
        self.end.map(|end| end.state)
    }

    /// Returns whether the channel was not used after `offset`, which is of this life.
    fn is_unused_since(&self, offset: Offset, certain: Offset) -> bool {
        let is_meant = offset >= self.life || offset < certain;
        is_meant && self.last.max(self.configured).is_none_or(|used| offset >= used)
    }

    /// Returns whether `offset` is of this life.
    fn is_of_this_life(&self, offset: Offset, certain: Offset) -> bool {
        let last = match (self.last, self.end) {
            (_, Some(end)) => end.forgotten.1,
            (Some(last), None) => last,
            (None, None) => return offset < certain,
        };
        offset < certain || (self.life..=last).contains(&offset)
    }
}

impl Channels {
    /// Removes the channels whose end has been kept for long enough.
    pub(super) fn forget(&mut self, cx: &mut Context) {
        while let Some(entry) = self.ended.first_entry()
            && entry.key().0 <= cx.now
        {
            let ((_, at), name) = entry.remove_entry();
            if let Some(channel) = self.by_name.remove(name.as_bytes()) {
                self.note_gone(&name, at, cx);
                cx.change(&name, channel.life, Change::Removed);
            }
        }
    }

    /// Returns the offset from which on the replica is certain of a channel: no offset is before it
    /// if the channel was removed since the replica is certain of the sessions.
    fn certain(&self, name: &Text, cx: &Context) -> Offset {
        if self.is_known(name, cx) { Offset::default() } else { cx.certain }
    }

    /// Returns whether the replica knows of a channel what all others know.
    fn is_known(&self, name: &Text, cx: &Context) -> bool {
        cx.certain == Offset::default() || self.gone.contains(name)
    }

    /// Notes that the life of a channel has ended at an offset.
    fn note_gone(&mut self, name: &Text, at: Offset, cx: &Context) {
        if at >= cx.certain && !self.is_known(name, cx) {
            self.gone.add(name);
        }
    }

    /// Removes all channels: another epoch begins.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Notes that the session of sole producers has ended: they may come back in another one.
    pub(super) fn end_session(&mut self, session: SessionId, cx: &mut Context) {
        for name in self.held_by(session) {
            let since = cx.here();
            let Some(channel) = self.by_name.get_mut(name.as_bytes()) else { continue };
            if let Producer::Streaming { hold, .. } = channel.producer {
                channel.set_producer(Producer::Away { since, hold: Some(hold) }, since);
                cx.change(&name, channel.life, Change::Away { since, reason: None });
            }
            self.held.remove(&(session, name));
        }
    }

    /// Moves the holds of a session to the one that replaces it.
    pub(super) fn replace_session(&mut self, old: SessionId, new: SessionId, cx: &mut Context) {
        for name in self.held_by(old) {
            let Some(channel) = self.by_name.get_mut(name.as_bytes()) else { continue };
            if let Producer::Streaming { hold, .. } = channel.producer {
                channel.set_producer(Producer::Streaming { hold, session: new }, cx.here());
                cx.change(&name, channel.life, Change::Back { hold, session: new });
            }
            self.held.remove(&(old, name.clone()));
            self.held.insert((new, name));
        }
    }

    fn held_by(&self, session: SessionId) -> Vec<Text> {
        let from = (session, Text::default());
        let held = self.held.range(from..).take_while(|(holder, _)| *holder == session);
        held.map(|(_, name)| name.clone()).collect()
    }

    /// Appends events and the end. Without either, only the hold is renewed.
    pub(super) fn append(&mut self, append: Append, cx: &mut Context) -> Outcome {
        let Append { channel: name, life, hold, events, close, key: _ } = append;
        let is_renewal = events.is_empty() && close.is_none();
        if is_renewal && hold.is_none() {
            return self.unchanged(&name, cx);
        }
        if let Err(refusal) = self.admit(&name, life, hold, cx) {
            return Outcome::Refused(refusal);
        }
        if let Some(hold) = hold
            && let Err(refusal) = self.renew_hold(&name, hold, cx)
        {
            return Outcome::Refused(refusal);
        }
        if is_renewal {
            return self.unchanged(&name, cx);
        }
        let end = close.map(|close| {
            let end = End { state: close.state, reason: close.reason, stopped: false };
            (end, cx.after(close.kept))
        });
        self.commit(&name, events, end, cx)
    }

    /// Returns the outcome of an append of nothing.
    fn unchanged(&self, name: &Text, cx: &Context) -> Outcome {
        let channel = self.by_name.get(name.as_bytes());
        let is_known = self.is_known(name, cx);
        Outcome::Appended(Appended {
            life: channel.map(|channel| if is_known { channel.life } else { cx.here() }),
            offsets: None,
            state: channel.and_then(Channel::state),
            key: None,
        })
    }

    /// Checks that a channel takes events, and creates it if no life or hold is meant that is over.
    fn admit(
        &mut self,
        name: &Text,
        life: Option<Offset>,
        hold: Option<Offset>,
        cx: &mut Context,
    ) -> Result<(), Refusal> {
        let certain = self.certain(name, cx);
        let Some(channel) = self.by_name.get(name.as_bytes()) else {
            if life.max(hold).is_some_and(|latest| latest >= certain) {
                return Err(Refusal::Removed);
            }
            return self.create(name, life.or(hold).unwrap_or(cx.here()), cx);
        };
        if life.is_some_and(|life| life < channel.life && life >= certain) {
            return Err(Refusal::Removed);
        }
        channel.refusal().map_or(Ok(()), Err)
    }

    fn create(&mut self, name: &Text, life: Offset, cx: &Context) -> Result<(), Refusal> {
        if self.by_name.len() >= MAX_CHANNELS {
            return Err(Refusal::TooManyChannels);
        }
        let name = name.detached();
        let renewed = cx.here().sequence();
        let channel = Channel {
            life,
            last: None,
            options: Options::default(),
            configured: None,
            producer: Producer::None,
            produced: Offset::default(),
            renewed,
            end: None,
        };
        self.open.insert((renewed, name.clone()));
        self.by_name.insert(name, channel);
        Ok(())
    }

    /// Checks a hold. A producer whose session has ended comes back with it.
    fn renew_hold(&mut self, name: &Text, hold: Offset, cx: &mut Context) -> Result<(), Refusal> {
        let (session, certain) = (cx.session, self.certain(name, cx));
        let Some(channel) = self.by_name.get_mut(name.as_bytes()) else { return Ok(()) };
        match channel.producer {
            Producer::Streaming { hold: current, session: of } if current == hold => {
                // A hold is used by the session that has it, which a batch cannot change.
                return if of == session { Ok(()) } else { Err(Refusal::HoldLost) };
            }
            Producer::Away { hold: Some(away), .. } if away == hold => {}
            Producer::None if hold < certain => {}
            _ => return Err(Refusal::HoldLost),
        }
        channel.set_producer(Producer::Streaming { hold, session }, cx.here());
        cx.change(name, channel.life, Change::Back { hold, session });
        self.held.insert((session, name.detached()));
        Ok(())
    }

    /// Appends events and the end to a channel that takes them.
    fn commit(
        &mut self,
        name: &Text,
        events: Vec<NewEvent>,
        end: Option<(End, LogTime)>,
        cx: &mut Context,
    ) -> Outcome {
        let is_known = self.is_known(name, cx);
        let Some(channel) = self.by_name.get_mut(name.as_bytes()) else {
            return Outcome::Refused(Refusal::Removed);
        };
        let first = cx.take(events.len() + usize::from(end.is_some()));
        let last = (events.len() as u64).checked_sub(1).map(|more| first.plus(more));
        if last.is_some() {
            channel.last = last;
        }
        if let Producer::Away { since, .. } = &mut channel.producer {
            *since = last.unwrap_or(first);
        }
        if let Some((end, until)) = &end {
            let at = first.plus(events.len() as u64);
            let producer = std::mem::take(&mut channel.producer);
            let forgotten = (*until, at);
            channel.end = Some(Ended { state: end.state, stopped: end.stopped, forgotten });
            self.open.remove(&(channel.renewed, name.clone()));
            self.ended.insert(forgotten, name.detached());
            if let Producer::Streaming { session, .. } = producer {
                self.held.remove(&(session, name.clone()));
            }
        }
        let (life, state) = (channel.life, channel.state());
        let end = end.map(|(end, _)| end);
        cx.change(name, life, Change::Appended { first, events, end });
        let offsets = last.map(|last| (first, last));
        let life = Some(if is_known { life } else { first });
        Outcome::Appended(Appended { life, offsets, state, key: None })
    }

    /// Makes the sender the sole producer. `silence` returns how long a session was silent.
    pub(super) fn produce(
        &mut self,
        produce: Produce,
        silence: impl Fn(SessionId) -> u64,
        cx: &mut Context,
    ) -> Outcome {
        let Produce { channel: name, format } = produce;
        let is_known = self.is_known(&name, cx);
        if let Err(refusal) = self.admit(&name, None, None, cx) {
            return Outcome::Refused(refusal);
        }
        let Some(channel) = self.by_name.get_mut(name.as_bytes()) else { return Outcome::Done };
        if let Producer::Streaming { session, .. } = channel.producer {
            return Outcome::Refused(Refusal::Busy { silent: silence(session) });
        }
        let session = cx.session;
        let hold = cx.take(1);
        channel.set_producer(Producer::Streaming { hold, session }, hold);
        self.held.insert((session, name.detached()));
        let life = channel.life;
        cx.change(&name, life, Change::Produced { hold, session, format });
        let life = if is_known { life } else { hold };
        Outcome::Produces { hold, life }
    }

    /// Notes that the sole producer has left.
    pub(super) fn release(&mut self, release: Release, cx: &mut Context) -> Outcome {
        let Release { channel: name, hold, reason } = release;
        let certain = self.certain(&name, cx);
        let Some(channel) = self.by_name.get_mut(name.as_bytes()) else {
            return Outcome::Refused(Refusal::Removed);
        };
        let session = match channel.producer {
            Producer::Streaming { hold: current, session } if current == hold => Some(session),
            Producer::Away { hold: Some(away), .. } if away == hold => None,
            Producer::None if hold < certain && channel.end.is_none() => None,
            _ => return Outcome::Refused(Refusal::HoldLost),
        };
        let since = cx.take(1);
        channel.set_producer(Producer::Away { since, hold: None }, since);
        let life = channel.life;
        if let Some(session) = session {
            self.held.remove(&(session, name.clone()));
        }
        cx.change(&name, life, Change::Away { since, reason });
        Outcome::Done
    }

    /// Stops a channel. One that does not exist is created and ends at once, so that its producer
    /// is refused.
    pub(super) fn stop(&mut self, stop: Stop, cx: &mut Context) -> Outcome {
        let Stop { channel: name, reason, generation, kept, kept_early } = stop;
        let certain = self.certain(&name, cx);
        let channel = self.by_name.get(name.as_bytes());
        let is_meant = generation.is_none_or(|meant| match channel {
            Some(channel) => channel.is_of_this_life(meant, certain),
            None => meant < certain,
        });
        if !is_meant {
            return Outcome::Refused(Refusal::Removed);
        }
        if let Some(state) = channel.and_then(Channel::state) {
            return Outcome::EndedBefore(state);
        }
        let is_early = channel.is_none_or(|channel| channel.last.is_none());
        if let Err(refusal) = self.admit(&name, None, None, cx) {
            return Outcome::Refused(refusal);
        }
        let end = End { state: EndState::Cancelled, reason, stopped: true };
        let until = cx.after(if is_early { kept.min(kept_early) } else { kept });
        self.commit(&name, Vec::new(), Some((end, until)), cx);
        Outcome::Done
    }

    /// Ends or removes a channel whose deadline has passed, if nothing has changed since then.
    pub(super) fn lapse(&mut self, lapse: Lapse, cx: &mut Context) -> Outcome {
        let Lapse { channel: name, due, since, reason, kept } = lapse;
        let certain = self.certain(&name, cx);
        let Some(channel) = self.by_name.get(name.as_bytes()) else {
            return Outcome::Refused(Refusal::Outdated);
        };
        let (state, stopped) = match (due, channel.producer) {
            _ if channel.end.is_some() => return Outcome::Refused(Refusal::Outdated),
            (Due::Abandoned, Producer::Away { since: left, .. }) if left == since => {
                (EndState::Abandoned, false)
            }
            (Due::Abandoned, Producer::None) if since < certain => (EndState::Abandoned, false),
            (Due::Unwatched, Producer::Streaming { hold, .. }) if hold == since => {
                (EndState::Cancelled, true)
            }
            (Due::Unwatched, Producer::None) if since < certain => (EndState::Cancelled, true),
            (Due::Idle, Producer::None) if channel.is_unused_since(since, certain) => {
                let life = channel.life;
                cx.take(1);
                self.open.remove(&(channel.renewed, name.clone()));
                self.by_name.remove(name.as_bytes());
                self.note_gone(&name, cx.here(), cx);
                cx.change(&name, life, Change::Removed);
                return Outcome::Done;
            }
            _ => return Outcome::Refused(Refusal::Outdated),
        };
        let until = cx.after(kept);
        self.commit(&name, Vec::new(), Some((End { state, reason, stopped }, until)), cx);
        Outcome::Done
    }

    /// Sets options of a channel, and creates it if it does not exist.
    pub(super) fn configure(&mut self, configure: Configure, cx: &mut Context) -> Outcome {
        let Configure { channel: name, options } = configure;
        let created = self.by_name.get(name.as_bytes()).is_none();
        if created && let Err(refusal) = self.create(&name, cx.here(), cx) {
            return Outcome::Refused(refusal);
        }
        let at = cx.take(1);
        let Some(channel) = self.by_name.get_mut(name.as_bytes()) else {
            return Outcome::Refused(Refusal::Removed);
        };
        channel.options = options.or(channel.options);
        channel.configured = Some(at);
        let options = channel.options;
        cx.change(&name, channel.life, Change::Configured { at, options });
        Outcome::Configured { created, options }
    }

    /// Notes the state of a channel, if this replica has not read all that has made it.
    pub(super) fn renew(
        &mut self,
        renew: &Renew,
        may_be_live: impl Fn(SessionId) -> bool,
        cx: &mut Context,
    ) -> Outcome {
        let Renew { channel: name, life, .. } = renew;
        let (certain, is_known) = (self.certain(name, cx), self.is_known(name, cx));
        let current = self.by_name.get(name.as_bytes()).map(|channel| channel.life);
        if *life >= certain && current.is_none_or(|current| *life < current) {
            return Outcome::Refused(Refusal::Removed);
        }
        let created = current.is_none();
        if created && let Err(refusal) = self.create(name, *life, cx) {
            return Outcome::Refused(refusal);
        }
        let is_meant = |it: &&mut Channel| it.end.is_none() && it.life < renew.until;
        let Some(channel) = self.by_name.get_mut(name.as_bytes()).filter(is_meant) else {
            return Outcome::Refused(Refusal::Outdated);
        };
        self.open.remove(&(channel.renewed, name.clone()));
        channel.renewed = cx.here().sequence();
        self.open.insert((channel.renewed, name.detached()));
        if !is_known {
            self.learn(renew, created, cx);
            self.learn_producer(renew, may_be_live, cx);
        }
        Outcome::Done
    }

    /// Learns what a channel has.
    fn learn(&mut self, renew: &Renew, created: bool, cx: &mut Context) {
        let Some(channel) = self.by_name.get_mut(renew.channel.as_bytes()) else { return };
        let before = (channel.options, channel.configured);
        channel.last = channel.last.max(renew.last);
        channel.configured = channel.configured.max(renew.configured);
        channel.options = channel.options.or(renew.options);
        if created || before != (channel.options, channel.configured) {
            let at = channel.last.max(channel.configured).unwrap_or(channel.life);
            let change = Change::Configured { at, options: channel.options };
            cx.change(&renew.channel, channel.life, change);
        }
    }

    /// Learns the sole producer of a channel, unless the replica has applied a later change.
    fn learn_producer(
        &mut self,
        renew: &Renew,
        may_be_live: impl Fn(SessionId) -> bool,
        cx: &mut Context,
    ) {
        let (name, mut producer) = (&renew.channel, renew.producer);
        let Some(channel) = self.by_name.get_mut(name.as_bytes()) else { return };
        let change = match &mut producer {
            // The session has ended since then: the next report has its producer as away.
            Producer::Streaming { session, .. } if !may_be_live(*session) => return,
            Producer::Streaming { hold, session } => {
                Some(Change::Back { hold: *hold, session: *session })
            }
            Producer::Away { since, .. } => {
                *since = channel.last.map_or(*since, |last| last.max(*since));
                Some(Change::Away { since: *since, reason: None })
            }
            Producer::None => None,
        };
        if channel.produced >= renew.until || channel.producer == producer {
            return;
        }
        if let Producer::Streaming { session, .. } = channel.producer {
            self.held.remove(&(session, name.clone()));
        }
        if let Producer::Streaming { session, .. } = producer {
            self.held.insert((session, name.detached()));
        }
        channel.set_producer(producer, Offset(renew.until.0.saturating_sub(1)));
        if let Some(change) = change {
            cx.change(name, channel.life, change);
        }
    }

    /// Returns the state of open channels that was last reported before a message, earliest first.
    /// `until` is the next offset of the log.
    pub(super) fn renewals(
        &self,
        older_than: Sequence,
        until: Offset,
    ) -> impl Iterator<Item = Renew> {
        let due = self.open.iter().take_while(move |(renewed, _)| *renewed < older_than);
        due.filter_map(move |(_, name)| {
            let Channel { life, last, options, configured, producer, produced, .. } =
                *self.by_name.get(name.as_bytes())?;
            // All replicas know the life by the latest of its offsets.
            let life = life.max(produced).max(last.max(configured).unwrap_or_default());
            let channel = name.clone();
            Some(Renew { channel, life, until, last, configured, options, producer })
        })
    }

    /// Deletes a channel. Its name is free for another life.
    pub(super) fn delete(&mut self, delete: &Delete, cx: &mut Context) -> Outcome {
        let name = &delete.channel;
        // Also of a channel that this replica does not know.
        self.note_gone(name, cx.here(), cx);
        let Some(channel) = self.by_name.remove(name.as_bytes()) else {
            return Outcome::Refused(Refusal::Removed);
        };
        if let Producer::Streaming { session, .. } = channel.producer {
            self.held.remove(&(session, name.clone()));
        }
        match channel.end {
            Some(end) => drop(self.ended.remove(&end.forgotten)),
            None => drop(self.open.remove(&(channel.renewed, name.clone()))),
        }
        let at = cx.take(1);
        cx.change(name, channel.life, Change::Deleted { at });
        Outcome::Done
    }
}

#[cfg(test)]
impl Channels {
    /// Returns the life of a channel, and the session and the hold of its producer.
    pub(super) fn current(&self, name: &str) -> Option<(Offset, Option<(SessionId, Offset)>)> {
        let channel = self.by_name.get(name.as_bytes())?;
        let hold = match channel.producer {
            Producer::Streaming { hold, session } => Some((session, hold)),
            Producer::None | Producer::Away { .. } => None,
        };
        Some((channel.life, hold))
    }

    /// Returns what the replicas of a trimmed log must know alike of a channel.
    pub(super) fn shared_state(&self, name: &str) -> Option<String> {
        let Channel { last, options, configured, producer, end, .. } =
            self.by_name.get(name.as_bytes())?;
        Some(format!("{last:?} {options:?} {configured:?} {producer:?} {end:?}"))
    }
}

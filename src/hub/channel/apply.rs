//! A channel of a cluster: applies the changes of the shared log, which has decided them.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::append::Effects;
use super::life::{Due, Life, Producer};
use super::pending::BatchContent;
use super::render::{Assigned, recycle};
use super::replicated::{Overdue, Replicated, SharedEvents};
use super::{Channel, ChannelInner};
use crate::generation::Format;
use crate::hub::config::{ChannelOptions, Settings};
use crate::hub::control_events::End;
use crate::hub::metadata::EndRecord;
use crate::position::Offset;

impl Channel {
    /// Commits events that the shared log has taken. `None` if the channel has left memory.
    pub(in crate::hub) fn commit_shared(
        &self,
        life: Offset,
        shared: SharedEvents<'_>,
    ) -> Option<Effects> {
        let SharedEvents { assigned, events, close, is_foreign } = shared;
        let mut inner = self.begin_change(life)?;
        self.listeners.notify_changing();
        let ending =
            close.map(|(close, stopped)| EndRecord { end: End::of(&self.name, &close), stopped });
        let frames = self.render(inner.log.end(), assigned, events, ending.as_ref());
        let data_bytes = events.iter().map(|event| event.data.as_bytes().len() as u64).sum();
        let content = BatchContent {
            events: if inner.is_followed() { events.into() } else { Default::default() },
            data_bytes,
            ending,
            is_foreign,
            ..BatchContent::default()
        };
        let effects = self.commit(&mut inner, frames.frames(), &content);
        recycle(frames);
        let last = inner.log.tail();
        let is_away = matches!(inner.life.producer(), Producer::Away { .. });
        if let Some(replicated) = &mut inner.replicated {
            replicated.used = replicated.used.max(last);
            if is_away {
                replicated.producer = Some(last);
            }
        }
        if is_away {
            self.set_deadline(&inner);
        }
        Some(effects)
    }

    /// Notes the sole producer of the channel, which has come, or has come back. `None` if the
    /// channel has left memory.
    pub(in crate::hub) fn note_producer(
        &self,
        life: Offset,
        hold: Offset,
        format: Option<Format>,
    ) -> Option<()> {
        let mut inner = self.begin_change(life)?;
        inner.life.begin_producing();
        if let Some(format) = format {
            inner.expect_format(format);
        }
        if let Some(replicated) = &mut inner.replicated {
            replicated.producer = Some(hold);
        }
        if self.subscribers() == 0 {
            self.note_unwatched(&mut inner);
        }
        Some(())
    }

    /// Notes that the sole producer is away. `None` if the channel has left memory.
    pub(in crate::hub) fn note_away(
        &self,
        life: Offset,
        since: Offset,
        why: Option<Box<str>>,
    ) -> Option<()> {
        let mut inner = self.begin_change(life)?;
        inner.life.note_left(why);
        if let Some(replicated) = &mut inner.replicated {
            replicated.producer = Some(since);
        }
        self.set_deadline(&inner);
        Some(())
    }

    /// Sets the options of the channel. `configured` are the settings of the configuration. `None`
    /// if the channel has left memory.
    pub(in crate::hub) fn set_options(
        &self,
        life: Offset,
        at: Offset,
        options: ChannelOptions,
        configured: Settings,
    ) -> Option<()> {
        let mut inner = self.begin_change(life)?;
        inner.options = options;
        inner.settings = configured.with(&options);
        if let Some(replicated) = &mut inner.replicated {
            replicated.used = replicated.used.max(at);
        }
        self.apply_retention(&mut inner);
        self.set_deadline(&inner);
        Some(())
    }

    /// Begins a change that the shared log has decided for this life of the channel.
    fn begin_change(&self, life: Offset) -> Option<parking_lot::MutexGuard<'_, ChannelInner>> {
        let mut inner = self.inner.lock();
        if inner.retired {
            return None;
        }
        inner.known = true;
        inner.usage.note_use();
        if inner.replicated.is_none() {
            let (producer, proposed) = (None, None);
            inner.replicated = Some(Box::new(Replicated { used: life, producer, proposed }));
        }
        Some(inner)
    }

    /// Ends the channel as deleted at this offset and retires it; the caller must remove it from
    /// the registry in the same step, and then notify its readers. Returns the last offset.
    pub(in crate::hub) fn delete_shared(&self, assigned: Assigned) -> Offset {
        let mut inner = self.inner.lock();
        self.listeners.notify_changing();
        drop(self.retire(&mut inner));
        self.commit_deletion_at(&mut inner, assigned);
        inner.log.tail()
    }

    /// Removes the life of the channel, of which nothing is kept. A channel that has subscribers
    /// and has not ended stays in memory with the settings of the configuration, so that they get
    /// what comes next. Returns the last offset of one that is retired; the caller must remove it
    /// from the registry in the same step, and then notify its readers.
    pub(in crate::hub) fn remove_shared(&self, configured: Settings) -> Option<Offset> {
        let mut inner = self.inner.lock();
        let tail = inner.log.tail();
        if !inner.usage.is_held() || inner.life.has_ended() {
            drop(self.retire(&mut inner));
            return Some(tail);
        }
        let trimmed = inner.log.trim_events(0, 0);
        self.count_evicted("idle", trimmed);
        inner.life = Life::default();
        inner.inherited = tail;
        (inner.options, inner.settings) = (ChannelOptions::default(), configured);
        (inner.generation, inner.span, inner.replicated, inner.known) = (None, None, None, false);
        self.account(&mut inner);
        None
    }

    /// Counts the channel, which another hub has made known, for no account here: it was that of a
    /// subscriber who waited for it.
    pub(in crate::hub) fn free_account(&self) {
        self.inner.lock().usage.disown();
    }

    /// Keeps the channel in memory until the returned value is dropped. `None` if it has left.
    pub(in crate::hub) fn begin_use(self: &Arc<Self>) -> Option<ChannelUse> {
        let mut inner = self.inner.lock();
        if inner.retired {
            return None;
        }
        inner.usage.hold();
        Some(ChannelUse(self.clone()))
    }

    /// Returns whether the shared log has the channel.
    pub(in crate::hub) fn is_replicated(&self) -> bool {
        self.inner.lock().replicated.is_some()
    }

    /// Sets the number of subscribers at the other hubs.
    pub(in crate::hub) fn set_remote_subscribers(&self, count: usize) {
        let before = self.remote_subscribers.swap(count, Ordering::Relaxed);
        if before == count {
            return;
        }
        {
            let mut inner = self.inner.lock();
            inner.usage.note_use();
            if self.subscribers() == 0 {
                self.note_unwatched(&mut inner);
            } else {
                inner.life.note_watched();
            }
        }
        self.post_signals();
    }

    /// Returns the offset for a proposal to remove the channel, if it is not used and was not
    /// proposed within this time.
    pub(in crate::hub) fn propose_removal(&self, again: std::time::Duration) -> Option<Offset> {
        let mut inner = self.inner.lock();
        // As on a hub that is alone, subscribers by a pattern hold no channel here.
        let remote = self.remote_subscribers.load(Ordering::Relaxed);
        let is_used = inner.retired || inner.usage.is_held() || remote > 0;
        if is_used || !inner.known || inner.life.has_ended() {
            return None;
        }
        let is_idle = inner.usage.idle() >= inner.settings.idle_timeout;
        let replicated = inner.replicated.as_mut().filter(|_| is_idle)?;
        let is_due = replicated.proposed.is_none_or(|proposed| proposed.elapsed() >= again);
        is_due.then(|| {
            replicated.proposed = Some(Instant::now());
            replicated.used
        })
    }

    /// Returns what is overdue, or the time of the next deadline.
    pub(in crate::hub) fn overdue(
        &self,
        delay: std::time::Duration,
    ) -> Result<Overdue, Option<Instant>> {
        let inner = self.inner.lock();
        let Some((at, due)) = inner.due() else { return Err(None) };
        let at = at + delay;
        if at > Instant::now() {
            return Err(Some(at));
        }
        let since = inner.replicated.as_ref().and_then(|replicated| replicated.producer);
        match (due, since) {
            (Due::Abandoned, Some(since)) => {
                Ok(Overdue::Abandoned(since, Some(inner.reason_of_absence())))
            }
            (Due::Unwatched, Some(hold)) if self.subscribers() == 0 => Ok(Overdue::Unwatched(hold)),
            _ => Err(None),
        }
    }

    /// Returns the settings in force.
    pub(in crate::hub) fn settings(&self) -> Settings {
        self.inner.lock().settings
    }
}

/// Keeps a channel in memory, for an operation that the shared log has not decided.
pub(in crate::hub) struct ChannelUse(Arc<Channel>);

impl Deref for ChannelUse {
    type Target = Arc<Channel>;

    fn deref(&self) -> &Arc<Channel> {
        &self.0
    }
}

impl Drop for ChannelUse {
    fn drop(&mut self) {
        let mut inner = self.0.inner.lock();
        inner.usage.let_go();
        inner.usage.note_use();
    }
}

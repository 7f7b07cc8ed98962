//! The format and the fold of a channel's events, fed from its log.

use std::sync::Arc;

use super::ChannelInner;
use super::generation::{CommittedEvents, Generation, Snapshot, apparent};
use super::pending::BatchContent;
use crate::generation::{Format, Recogniser};
use crate::store::{BatchRef, Entry};

impl ChannelInner {
    /// Sets the format that the producer names, unless one is final: the first producer's counts,
    /// and replaces a format that was recognised and is not final.
    pub(super) fn expect_format(&mut self, format: Format) {
        let Self { generation, log, .. } = self;
        if generation.as_ref().is_none_or(|known| !known.recogniser().is_settled()) {
            *generation = Some(Box::new(Generation::new(Recogniser::named(format), log)));
        }
    }

    /// Folds all events, before some of them are trimmed.
    pub(super) fn catch_up(&mut self) {
        let max_bytes = self.settings.retention.max_bytes;
        if self.is_followed() {
            self.known_format();
        }
        let Self { generation, log, .. } = self;
        if let Some(generation) = generation {
            generation.follow(log, max_bytes);
        }
    }

    /// Returns the format, without keeping the recogniser for the sake of a description.
    pub(super) fn apparent_format(&mut self) -> Option<Format> {
        match &self.generation {
            Some(_) => self.known_format(),
            None => apparent(&mut self.log),
        }
    }

    /// Returns the format, after the recogniser has read the events in the log.
    pub(super) fn known_format(&mut self) -> Option<Format> {
        let Self { generation, log, .. } = self;
        if generation.is_none() && log.start() != log.end() {
            *generation = Some(Box::new(Generation::new(Recogniser::new(), log)));
        }
        let generation = generation.as_mut()?;
        generation.look(log);
        generation.format()
    }

    pub(super) fn snapshot(&mut self, channel: &str) -> Option<Arc<Snapshot>> {
        self.known_format();
        let state = self.life.state();
        let max_bytes = self.settings.retention.max_bytes;
        let Self { generation, log, .. } = self;
        generation.as_mut()?.snapshot(log, channel, state, max_bytes)
    }

    /// Returns whether the events are folded as they are committed.
    pub(super) fn is_followed(&self) -> bool {
        let is_new = || self.life.had_producer() || self.hooked;
        self.generation.as_ref().map_or_else(is_new, |generation| generation.reads())
    }

    /// Feeds the events of a batch that was just committed to the generation, if there is one or
    /// will be.
    pub(super) fn feed_generation(&mut self, frames: BatchRef<'_>, content: &BatchContent<'_>) {
        if !self.is_followed() {
            return;
        }
        let events = &content.events;
        let published = frames.count() - usize::from(content.ending.is_some());
        let first = frames.entry(0).filter(|_| events.len() == published);
        let Some(Entry { offset: first, .. }) = first else {
            // A batch from elsewhere: its events are decoded from the log.
            self.known_format();
            return;
        };
        let start = frames.start();
        let end = frames.position(events.len());
        let max_bytes = self.settings.retention.max_bytes;
        let Self { generation, log, .. } = self;
        let new = || Box::new(Generation::new(Recogniser::new(), log));
        generation.get_or_insert_with(new).feed(
            CommittedEvents { events, first, start, end },
            log,
            max_bytes,
        );
    }

    /// Lets the fold follow the log, before retention trims it.
    pub(super) fn follow_generation(&mut self) {
        let retention = self.settings.retention;
        if self.is_followed() {
            self.known_format();
        }
        let Self { generation, log, backend, .. } = self;
        let Some(generation) = generation else { return };
        let retained = log.start().distance_to(log.end());
        let trims = retained.seq > retention.max_events || retained.byte > retention.max_bytes;
        let in_memory = log.resident_from().distance_to(log.end()).byte;
        let leaves = backend.window().is_some_and(|window| in_memory > window);
        if trims || leaves || generation.is_due(log) {
            generation.follow(log, retention.max_bytes);
        }
    }
}

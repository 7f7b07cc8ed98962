//! The life of a channel: its producer, its end, and what is due next.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Moment;
use crate::event::ChannelState;
use crate::hub::config::Settings;
use crate::hub::error::SubmitError;
use crate::hub::metadata::EndRecord;
use crate::limits::STOP_KEPT_SECONDS;

/// The producer of a channel's generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Producer {
    /// There is no sole producer.
    #[default]
    None,
    /// A producer is connected.
    Streaming {
        /// The time since which there has been no viewer, if there is none.
        unwatched: Option<Instant>,
    },
    /// A producer left without an end.
    Away {
        /// When it left, or when something was last published.
        since: Instant,
    },
}

/// What is due at a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The end of a generation whose producer did not come back.
    Abandoned,
    /// The end of a generation without viewers.
    Unwatched,
    /// The notice of a loss, which the store has refused.
    Notice,
}

/// The producer and the end of a channel.
#[derive(Debug, Default)]
pub(super) struct Life {
    producer: Producer,
    /// The reason that the producer gave when it left.
    left: Option<Box<str>>,
    /// Whether the channel ever had a sole producer.
    produced: bool,
    ending: Option<EndRecord>,
    ended_at: Moment,
    /// Whether a notice of a possible loss is still to be written.
    owes_notice: bool,
}

impl Life {
    /// Restores a life from before the start of the hub.
    pub(super) fn restore(&mut self, produced: bool, ending: Option<EndRecord>, last: Moment) {
        self.produced = produced;
        if ending.is_none() && produced {
            // A producer from before the restart is no longer connected.
            self.producer = Producer::Away { since: Instant::now() };
        }
        self.ended_at = if ending.is_some() { last } else { Moment::default() };
        self.ending = ending;
    }

    pub(super) fn ending(&self) -> Option<&EndRecord> {
        self.ending.as_ref()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ending.is_some()
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.ending.as_ref().is_some_and(|ending| ending.stopped)
    }

    pub(super) fn ended_at(&self) -> Moment {
        self.ended_at
    }

    pub(super) fn state(&self) -> ChannelState {
        self.ending.as_ref().map_or(ChannelState::Open, |ending| ending.end.state)
    }

    /// Sets the end. A channel that has ended can still be deleted. Returns whether it is the first
    /// end.
    pub(super) fn end(&mut self, ending: EndRecord, at: Moment) -> bool {
        let is_first = self.ending.is_none();
        self.ended_at = at;
        self.ending = Some(ending);
        is_first
    }

    /// Returns the producer; `None` if the channel has ended.
    pub(super) fn producer(&self) -> Producer {
        if self.has_ended() { Producer::None } else { self.producer }
    }

    /// Returns whether a sole producer has come since the start of the hub.
    pub(super) fn had_producer(&self) -> bool {
        self.producer != Producer::None
    }

    /// Returns whether the channel ever had a sole producer.
    pub(super) fn was_produced(&self) -> bool {
        self.produced
    }

    /// Begins the generation of a sole producer.
    ///
    /// # Errors
    /// It has a producer already.
    pub(super) fn produce(&mut self) -> Result<(), SubmitError> {
        if matches!(self.producer, Producer::Streaming { .. }) {
            return Err(SubmitError::Busy);
        }
        self.begin_producing();
        Ok(())
    }

    /// Notes that a sole producer has come.
    pub(super) fn begin_producing(&mut self) {
        self.produced = true;
        self.producer = Producer::Streaming { unwatched: None };
    }

    /// Notes that the sole producer left, and the reason that it gave.
    pub(super) fn note_left(&mut self, why: Option<Box<str>>) {
        self.producer = Producer::Away { since: Instant::now() };
        self.left = why;
    }

    /// Returns the reason that the producer gave when it left.
    pub(super) fn reason_to_leave(&self) -> Option<Box<str>> {
        self.left.clone()
    }

    /// Restarts the grace of a producer that is away: something was published.
    pub(super) fn note_progress(&mut self) {
        if let Producer::Away { since } = &mut self.producer {
            *since = Instant::now();
        }
    }

    /// Notes that the channel has a viewer.
    pub(super) fn note_watched(&mut self) {
        if let Producer::Streaming { unwatched } = &mut self.producer {
            *unwatched = None;
        }
    }

    /// Notes that the channel has no viewers.
    pub(super) fn note_unwatched(&mut self) {
        if let Producer::Streaming { unwatched } = &mut self.producer {
            unwatched.get_or_insert_with(Instant::now);
        }
    }

    /// Notes that a notice of a possible loss is to be written.
    pub(super) fn owe_notice(&mut self) {
        self.owes_notice = true;
    }

    /// Returns whether a notice is to be written, and notes that it is.
    pub(super) fn take_notice(&mut self) -> bool {
        std::mem::take(&mut self.owes_notice)
    }

    /// Returns the next deadline of a channel that has not ended.
    pub(super) fn due(&self, settings: &Settings) -> Option<(Instant, Due)> {
        match (self.producer, settings.when_unwatched) {
            _ if self.has_ended() => None,
            _ if self.owes_notice => Some((Instant::now(), Due::Notice)),
            (Producer::Away { since }, _) => {
                Some((since.checked_add(settings.producer_grace)?, Due::Abandoned))
            }
            (Producer::Streaming { unwatched: Some(since) }, Some(when)) => {
                Some((since.checked_add(when.after)?, Due::Unwatched))
            }
            _ => None,
        }
    }

    /// Returns the time for which the end of the channel is kept. A stop that came before the
    /// producer, `alone` in the log, is kept for a short time.
    pub(super) fn kept_after_end(&self, settings: &Settings, alone: bool) -> Duration {
        let kept = settings.retention.max_age;
        if self.is_stopped() && alone {
            kept.min(Duration::from_secs(STOP_KEPT_SECONDS))
        } else {
            kept
        }
    }
}

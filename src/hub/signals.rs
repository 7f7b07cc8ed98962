//! The way back to the producer: stop, and how many are watching.
//!
//! A channel has a board on which its present signals stand, once somebody has asked for it.
//! Producers and feeds look at the board; only its last state counts.

use std::sync::Arc;

use tokio::sync::watch;

use super::channel::Channel;
use super::notice::End;
use super::{Core, Hub, PublishError, TooManyChannels, refused};
use crate::channel::ChannelName;
use crate::event::ChannelState;
use crate::generation::Format;
use crate::position::Position;

/// What stands on a channel's board.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// Subscribers now.
    pub viewers: usize,
    /// How the channel ended, if it did.
    pub end: Option<End>,
    /// It ended because somebody stopped it.
    pub stopped: bool,
}

/// What became of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The channel has ended as cancelled.
    Now,
    /// The channel had ended before, like this.
    Before(ChannelState),
}

/// The stop was meant for a generation that is over: its event id belongs to a former life of the
/// channel, or to none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`generation` is no event id of the channel's present generation: that one is over")]
pub struct GenerationOver;

/// Why nothing was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// Another generation was meant.
    #[error(transparent)]
    Over(#[from] GenerationOver),
    /// No room for another channel.
    #[error(transparent)]
    TooManyChannels(#[from] TooManyChannels),
}

/// How a producer holds its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Beside others.
    Shared,
    /// As the producer of the generation: there is one at a time, and when it leaves without an end
    /// the channel is abandoned after the grace.
    Sole,
}

/// Looks at a channel's board, and keeps the channel in memory meanwhile.
pub struct Board {
    core: Arc<Core>,
    channel: Arc<Channel>,
    signals: watch::Receiver<Signals>,
    sole: bool,
}

impl Board {
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

    /// Resolves when the channel has been stopped.
    pub async fn stopped(&mut self) {
        if self.signals.wait_for(|signals| signals.stopped).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        if self.channel.let_go(self.sole) {
            self.core.registry.evict_if_unused(self.channel.name());
        }
    }
}

impl Hub {
    /// The board of a channel, for whoever only looks.
    ///
    /// # Errors
    /// There are too many channels.
    pub fn board(&self, name: &ChannelName) -> Result<Board, TooManyChannels> {
        loop {
            let channel = self.0.registry.get_or_create(name)?;
            if let Some(signals) = channel.hold() {
                return Ok(Board { core: self.0.clone(), channel, signals, sole: false });
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
    ) -> Result<Board, PublishError> {
        loop {
            let mut board = self.board(name)?;
            match board.channel.produce(hold, format) {
                Ok(()) => {
                    board.sole = hold == Hold::Sole;
                    return Ok(board);
                }
                Err(error) => refused(error)?,
            }
        }
    }

    /// Stops a channel: it ends as cancelled. One to which nobody has published yet ends before it
    /// has begun, so that its producer is told when it comes.
    ///
    /// # Errors
    /// `generation` is an event id of another life of the channel; or there are too many channels.
    pub fn stop(
        &self,
        name: &ChannelName,
        reason: Option<Box<str>>,
        generation: Option<&Position>,
    ) -> Result<Stopped, StopError> {
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

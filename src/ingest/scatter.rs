//! One publish to many channels: NDJSON whose lines name their channel.

use std::collections::HashMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;

use super::Ingest;
use super::body::{InvalidEvent, Lines};
use super::publish::{Failure, Place, PublishError, Tally};
use crate::channel::{ChannelName, InvalidChannelName};
use crate::event::NewEvent;

/// A line of the body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    channel: String,
    event: Option<String>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// The reply to a publish to many channels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScatterReceipt {
    /// How many events are in logs.
    pub events: u64,
    /// In how many channels.
    pub channels: usize,
    /// The id of the first event.
    pub first_id: Option<String>,
    /// The id of the last event.
    pub last_id: Option<String>,
    /// The subscribers of these channels, together.
    pub subscribers: usize,
}

/// Why a line was not published.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLine {
    /// The line has no such form.
    #[error("expected `{{\"channel\": …, \"event\": …, \"data\": …}}`: {0}")]
    Form(String),
    /// The channel's name.
    #[error(transparent)]
    Channel(#[from] InvalidChannelName),
}

/// A publish to many channels that is under way.
pub struct Scatter {
    ingest: Ingest,
    lines: Lines,
    tally: Tally,
    subscribers: HashMap<ChannelName, usize>,
    _permit: OwnedSemaphorePermit,
}

impl Scatter {
    pub(super) fn begin(ingest: Ingest, permit: OwnedSemaphorePermit) -> Self {
        // JSON may need six bytes for one of the data, and names its fields.
        let max_line = ingest.max_event_bytes().saturating_mul(6).saturating_add(4096);
        Self {
            ingest,
            lines: Lines::new(max_line),
            tally: Tally::default(),
            subscribers: HashMap::new(),
            _permit: permit,
        }
    }

    /// Publishes the lines that a piece of the body completes.
    ///
    /// # Errors
    /// A line is invalid or its channel refuses; the lines before it are published.
    pub fn feed(&mut self, piece: &Bytes) -> Result<(), Failure> {
        let Self { ingest, lines, tally, subscribers, .. } = self;
        let fed = lines.feed(piece, |line| publish_line(ingest, &line, tally, subscribers));
        fed.map_err(|error| self.failure(error))
    }

    /// Publishes the last line, if it lacked its end.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn finish(mut self) -> Result<ScatterReceipt, Failure> {
        let Self { ingest, lines, tally, subscribers, .. } = &mut self;
        let finished = lines.finish(|line| publish_line(ingest, &line, tally, subscribers));
        finished.map_err(|error| self.failure(error))?;
        let Tally { events, first_id, last_id } = self.tally;
        let (channels, subscribers) = (self.subscribers.len(), self.subscribers.values().sum());
        Ok(ScatterReceipt { events, channels, first_id, last_id, subscribers })
    }

    /// What was published so far, for whoever has to break off.
    #[must_use]
    pub fn kept(&self) -> &Tally {
        &self.tally
    }

    fn failure(&self, error: PublishError) -> Failure {
        let place = Some(Place::Line(self.lines.taken()));
        Failure { error, kept: self.tally.clone(), place }
    }
}

fn publish_line(
    ingest: &Ingest,
    line: &Bytes,
    tally: &mut Tally,
    subscribers: &mut HashMap<ChannelName, usize>,
) -> Result<(), PublishError> {
    let (name, event) = parse_line(line, ingest.max_event_bytes())?;
    let appended = ingest.hub().append(&name, std::slice::from_ref(&event), None)?;
    if let Some((offset, _)) = appended.offsets {
        let id = ingest.hub().position(offset).to_string();
        tally.first_id.get_or_insert_with(|| id.clone());
        tally.last_id = Some(id);
        tally.events += 1;
    }
    subscribers.insert(name, appended.subscribers);
    Ok(())
}

fn parse_line(line: &[u8], max_bytes: usize) -> Result<(ChannelName, NewEvent), PublishError> {
    let line: Line<'_> =
        serde_json::from_slice(line).map_err(|error| InvalidLine::Form(error.to_string()))?;
    let name = line.channel.parse().map_err(InvalidLine::Channel)?;
    let event_type = line.event.map(|text| text.parse()).transpose();
    let event_type = event_type.map_err(InvalidEvent::EventType)?;
    // A text is published as it is; any other JSON as it stands in the line.
    let data = match serde_json::from_str::<String>(line.data.get()) {
        Ok(text) => text,
        Err(_) => line.data.get().to_owned(),
    };
    if data.len() > max_bytes {
        return Err(InvalidEvent::TooLarge(max_bytes).into());
    }
    Ok((name, NewEvent { event_type, data: data.into() }))
}

//! Renders events into the frames of a batch.

use crate::clock::Moment;
use crate::event::{self, EventType, NewEvent};
use crate::hub::context::ChannelContext;
use crate::hub::control_events::{End, Gap};
use crate::position::Offset;
use crate::sse;
use crate::store::{Batch, BatchBuilder, Entry, LogPosition};

/// Bytes of a frame in addition to the data, for most events: the id, the type, and the chunk.
const USUAL_OVERHEAD: usize = 64;

/// The offset of the first event of a batch, and the time of all of them. The hub's sequencer
/// assigns it, or a log that several hubs share.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assigned {
    pub(super) first: Offset,
    pub(super) time: Moment,
}

/// Renders consecutive events of a channel, in the order of their offsets.
pub(super) struct BatchWriter<'a> {
    context: &'a ChannelContext,
    batch: BatchBuilder,
    next: Entry,
    id: String,
    frame: Vec<u8>,
}

impl<'a> BatchWriter<'a> {
    /// Creates a writer whose batch begins at this position of the log, for about this
    /// number of events and of bytes of data.
    pub(super) fn new(
        context: &'a ChannelContext,
        at: LogPosition,
        assigned: Assigned,
        (events, data_bytes): (usize, usize),
    ) -> Self {
        let Assigned { first, time } = assigned;
        let bytes = data_bytes + events * USUAL_OVERHEAD;
        Self {
            context,
            batch: BatchBuilder::with_capacity(at, events, bytes),
            next: Entry { offset: first, time },
            id: String::new(),
            frame: Vec::new(),
        }
    }

    pub(super) fn event(&mut self, event: &NewEvent) {
        let event_type = event.event_type.as_ref().map(EventType::as_str);
        self.text(event_type, event.data.as_bytes());
    }

    /// Adds the notice of a gap.
    pub(super) fn gap(&mut self, gap: &Gap) {
        self.text(Some(event::GAP), gap.data().as_bytes());
    }

    /// Adds the end of the channel. Its delay tells clients when to reconnect.
    pub(super) fn end(&mut self, end: &End) {
        self.next_id();
        let mut text = Vec::new();
        sse::end_retry(&mut text, self.context.end_retry);
        let id = Some(self.id.as_str());
        let data = end.data();
        let event = sse::Text { id, event_type: Some(event::END), data: data.as_bytes() };
        sse::event_text(&mut text, &event);
        sse::chunk(&mut self.frame, &text);
        self.push();
    }

    /// Returns the batch. It may be empty.
    pub(super) fn finish(self) -> Batch {
        self.batch.finish()
    }

    fn text(&mut self, event_type: Option<&str>, data: &[u8]) {
        self.next_id();
        sse::encode(&mut self.frame, &sse::Text { id: Some(&self.id), event_type, data });
        self.push();
    }

    fn next_id(&mut self) {
        self.id.clear();
        self.context.sequencer.epoch().write_event_id(self.next.offset, &mut self.id);
        self.frame.clear();
    }

    fn push(&mut self) {
        self.batch.push(self.next, &self.frame);
        self.next.offset = Offset(self.next.offset.0 + 1);
    }
}

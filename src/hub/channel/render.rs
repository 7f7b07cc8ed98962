//! Renders events into the frames of a batch.
//!
//! A batch in memory is copied into the log at once. Each thread keeps one to render the next into.

use std::cell::RefCell;

use crate::clock::Moment;
use crate::event::{self, EventType, NewEvent};
use crate::hub::context::ChannelContext;
use crate::hub::control_events::{End, Gap};
use crate::position::Offset;
use crate::sse;
use crate::store::{BatchBuilder, Entry, LogPosition};

/// Maximum bytes of a batch that is kept to be reused.
const MAX_KEPT: usize = 16 * 1024;

thread_local! {
    static KEPT: RefCell<BatchBuilder> = RefCell::default();
}

/// Keeps the memory of a batch for the next one of this thread.
pub(super) fn recycle(batch: BatchBuilder) {
    if batch.footprint() <= MAX_KEPT {
        KEPT.replace(batch);
    }
}

/// The offset of the first event of a batch, and the time of all of them. The hub's sequencer
/// assigns it, or a log that several hubs share.
#[derive(Clone, Copy, Debug)]
pub(in crate::hub) struct Assigned {
    pub(in crate::hub) first: Offset,
    pub(in crate::hub) time: Moment,
}

/// Renders consecutive events of a channel, in the order of their offsets.
pub(super) struct BatchWriter<'a> {
    context: &'a ChannelContext,
    batch: BatchBuilder,
    next: Entry,
    id: String,
}

impl<'a> BatchWriter<'a> {
    /// Creates a writer whose batch begins at this position of the log.
    pub(super) fn new(context: &'a ChannelContext, at: LogPosition, assigned: Assigned) -> Self {
        let Assigned { first, time } = assigned;
        let mut batch = KEPT.take();
        batch.restart(at);
        Self { context, batch, next: Entry { offset: first, time }, id: String::new() }
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
        self.write_id();
        let Self { context, batch, next, id } = self;
        let data = end.data();
        let event = sse::Text { id: Some(id), event_type: Some(event::END), data: data.as_bytes() };
        let mut text = Vec::new();
        sse::end_retry(&mut text, context.end_retry);
        sse::event_text(&mut text, &event);
        batch.push_with(*next, |frames| sse::chunk(frames, &text));
        next.offset = Offset(next.offset.0 + 1);
    }

    /// Returns the batch. It may be empty.
    pub(super) fn finish(self) -> BatchBuilder {
        self.batch
    }

    fn text(&mut self, event_type: Option<&str>, data: &[u8]) {
        self.write_id();
        let Self { batch, next, id, .. } = self;
        let text = sse::Text { id: Some(id), event_type, data };
        batch.push_with(*next, |frames| sse::encode(frames, &text));
        next.offset = Offset(next.offset.0 + 1);
    }

    /// Writes the id of the next event.
    fn write_id(&mut self) {
        self.id.clear();
        self.context.sequencer.epoch().write_event_id(self.next.offset, &mut self.id);
    }
}

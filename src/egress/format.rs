//! A subscription's steps as bytes: event-stream text as in the log, or JSON.

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;

use super::config::Config;
use super::policy::Drain;
use crate::channel::ChannelName;
use crate::clock::{now, rfc3339};
use crate::event::{END, GAP, OPEN, SNAPSHOT, UNAUTHENTICATED};
use crate::hub::{End, EndReason, Gap, Snapshot, Step};
use crate::lease::LeaseEnd;
use crate::position::Position;
use crate::sse::{self, Frame, Frames, Text};
use crate::store::{Batch, Entry};

/// The encoding of a live stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFormat {
    /// Event-stream text of one channel, the published bytes.
    EventStream,
    /// Event-stream text of many channels: each `data` is an envelope that names the channel.
    Envelopes,
    /// A JSON object per line, of one channel.
    Ndjson,
    /// A JSON object per line, of many channels.
    NdjsonEnvelopes,
    /// Event-stream text of one channel, without the hub's own fields and events.
    Bare,
    /// The data of one channel's events, one line each.
    BareLines,
}

impl StreamFormat {
    /// Returns whether it is an event stream.
    #[must_use]
    pub fn is_event_stream(self) -> bool {
        matches!(self, Self::EventStream | Self::Envelopes | Self::Bare)
    }

    /// Returns whether it has none of the hub's own fields and events.
    #[must_use]
    pub fn is_bare(self) -> bool {
        matches!(self, Self::Bare | Self::BareLines)
    }

    /// Returns whether it is an event stream with the hub's own fields and events.
    fn has_own_fields(self) -> bool {
        self.is_event_stream() && !self.is_bare()
    }

    /// Appends the beginning of a subscription: the reconnect delay and, if it begins at the tail,
    /// `fanfare.open` with the id of the tail, so that its client can resume before the first
    /// event. That is an event, because half of all clients drop a block that has only an id, and
    /// others take one for an empty event.
    pub(super) fn push_opening(
        self,
        config: &Config,
        opening: Option<&str>,
        tail: &Position,
        out: &mut Vec<u8>,
    ) {
        if self.has_own_fields() {
            sse::retry(out, config.reconnect_delay);
        }
        if let Some(opening) = opening {
            self.push_notice(&Notice::of_opening(opening, tail), out);
        }
    }

    /// Appends a gap event.
    pub(super) fn push_gap(self, gap: &Gap, out: &mut Vec<u8>) {
        self.push_notice(&Notice::of_gap(gap), out);
    }

    /// Appends a snapshot of the events up to a position.
    pub(super) fn push_snapshot(self, snapshot: &Snapshot, at: &Position, out: &mut Vec<u8>) {
        self.push_notice(&Notice::of_snapshot(snapshot, at), out);
    }

    fn push_notice(self, notice: &Notice<'_>, out: &mut Vec<u8>) {
        match self {
            Self::EventStream | Self::Envelopes => notice.push_text(out),
            Self::Ndjson | Self::NdjsonEnvelopes => {
                push_json(&notice.record(false), out);
                out.push(b'\n');
            }
            Self::Bare | Self::BareLines => {}
        }
    }

    /// Appends what precedes the end of a stream: the end of its lease, and the reconnect delay.
    /// The delay is a line of its own: a block would be an event to some clients.
    pub(super) fn push_end(
        self,
        config: &Config,
        reason: EndReason,
        drain: Option<&Drain>,
        out: &mut Vec<u8>,
    ) {
        if let Some(over) = reason.over() {
            self.push_lease_end(over, config.end_reconnect_delay, out);
        }
        match (reason, drain) {
            (EndReason::Closed, _) if self == Self::Envelopes => {
                sse::end_retry(out, config.end_reconnect_delay);
            }
            (EndReason::Draining, Some(drain)) if self.has_own_fields() => {
                sse::retry(out, drain.return_delay(config.reconnect_delay));
            }
            _ => {}
        }
    }

    /// Appends a heartbeat; in a bare stream, the given one.
    pub(super) fn push_heartbeat(self, bare: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::EventStream | Self::Envelopes => sse::comment(out),
            Self::Ndjson | Self::NdjsonEnvelopes => out.push(b'\n'),
            Self::Bare | Self::BareLines => out.extend_from_slice(bare),
        }
    }

    /// Returns the number of bytes of the log that typically fill `room` bytes of output.
    pub(super) fn filling(self, room: usize) -> usize {
        match self {
            Self::EventStream | Self::Bare | Self::BareLines => room,
            // The rest is for field names, the channel and the time.
            Self::Envelopes | Self::Ndjson | Self::NdjsonEnvelopes => room / 2,
        }
    }

    /// Appends the event that asks a client for another credential; nothing in a bare stream.
    fn push_lease_end(self, over: LeaseEnd, retry: Duration, out: &mut Vec<u8>) {
        match self {
            Self::EventStream | Self::Envelopes => push_over(over, retry, out),
            Self::Ndjson | Self::NdjsonEnvelopes => {
                let event = Some(UNAUTHENTICATED);
                let data = over_data(over).into();
                let time = rfc3339(now());
                push_json(&JsonRecord { channel: None, id: None, event, data, time }, out);
                out.push(b'\n');
            }
            Self::Bare | Self::BareLines => {}
        }
    }

    /// Appends a step; returns the number of published events in it.
    pub(super) fn render(self, step: &Step, out: &mut Vec<u8>) -> u64 {
        match self {
            Self::EventStream => render_text(step, out, |_, frame, _, out| {
                out.extend_from_slice(frame.text());
            }),
            Self::Envelopes => render_text(step, out, push_envelope),
            // Written by `bare`, which keeps state between steps.
            Self::Bare | Self::BareLines => 0,
            Self::Ndjson => render_lines(step, false, out),
            Self::NdjsonEnvelopes => render_lines(step, true, out),
        }
    }
}

/// An event as JSON.
#[derive(Serialize)]
pub(super) struct JsonRecord<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Cow<'a, str>>,
    event: Option<&'a str>,
    data: Cow<'a, str>,
    time: String,
}

impl JsonRecord<'_> {
    /// The event id, if the record carries it.
    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }
}

/// Passes the events of a step to `take` as records, with their ids.
pub(super) fn each_record(step: &Step, name_channel: bool, mut take: impl FnMut(&JsonRecord<'_>)) {
    match step {
        Step::Events { channel, batch } => {
            let channel = name_channel.then(|| channel.name().as_str());
            each_event(batch, |frame, entry| {
                let mut record = record(channel, frame, entry);
                record.id = Some(frame.id().into());
                take(&record);
            });
        }
        Step::Snapshot { snapshot, position } => {
            take(&Notice::of_snapshot(snapshot, position).record(name_channel));
        }
        Step::Gap(gap) => take(&Notice::of_gap(gap).record(name_channel)),
        Step::Ended { end, position } => {
            take(&Notice::of_end(end, position).record(name_channel));
        }
    }
}

/// Appends, as event-stream text, the event that asks a client for another credential. It has no
/// id: the client resumes after the last that it saw. The delay is for a client that does not know
/// the event, and reconnects with the same credential.
fn push_over(over: LeaseEnd, retry: Duration, out: &mut Vec<u8>) {
    sse::end_retry(out, retry);
    let data = over_data(over);
    let event_type = Some(UNAUTHENTICATED);
    sse::event_text(out, &Text { id: None, event_type, data: data.as_bytes() });
}

fn over_data(over: LeaseEnd) -> String {
    format!("{{\"reason\":\"{}\"}}", over.as_str())
}

pub(super) fn push_json<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    // Text and numbers into memory: nothing can fail.
    let _ = serde_json::to_writer(out, value);
}

fn render_lines(step: &Step, name_channel: bool, out: &mut Vec<u8>) -> u64 {
    each_record(step, name_channel, |record| {
        push_json(record, out);
        out.push(b'\n');
    });
    count(step)
}

/// Renders a step as event-stream text. The hub's own events have the same text in every event
/// stream; `push` writes published ones.
fn render_text(
    step: &Step,
    out: &mut Vec<u8>,
    push: impl Fn(&str, Frame<'_>, Entry, &mut Vec<u8>),
) -> u64 {
    match step {
        Step::Events { channel, batch } => each_event(batch, |frame, entry| {
            push(channel.name().as_str(), frame, entry, out);
        }),
        Step::Snapshot { snapshot, position } => {
            Notice::of_snapshot(snapshot, position).push_text(out);
        }
        Step::Gap(gap) => Notice::of_gap(gap).push_text(out),
        Step::Ended { end, position } => Notice::of_end(end, position).push_text(out),
    }
    count(step)
}

fn push_envelope(channel: &str, frame: Frame<'_>, entry: Entry, out: &mut Vec<u8>) {
    if frame.event_type() == Some(END) {
        // The other channels continue: the delay after this end is not the connection's.
        let id = Some(frame.id());
        let data = frame.data();
        let data = data.as_bytes();
        return sse::event_text(out, &Text { id, event_type: Some(END), data });
    }
    let mut data = Vec::new();
    push_json(&record(Some(channel), frame, entry), &mut data);
    sse::event_text(out, &Text { id: Some(frame.id()), event_type: None, data: &data });
}

fn record<'a>(channel: Option<&'a str>, frame: Frame<'a>, entry: Entry) -> JsonRecord<'a> {
    let event = frame.event_type();
    let data = frame.data();
    let time = rfc3339(entry.time.wall);
    JsonRecord { channel, id: None, event, data, time }
}

fn each_event(batch: &Batch, mut take: impl FnMut(Frame<'_>, Entry)) {
    for (frame, entry) in Frames::new(&batch.bytes()).zip(batch.entries()) {
        take(frame, entry);
    }
}

fn count(step: &Step) -> u64 {
    match step {
        Step::Events { batch, .. } => batch.count() as u64,
        Step::Snapshot { .. } | Step::Gap(_) | Step::Ended { .. } => 0,
    }
}

/// An event of the hub's own, for one subscriber.
struct Notice<'a> {
    channel: Option<&'a str>,
    id: String,
    event_type: &'static str,
    data: Cow<'a, str>,
}

impl<'a> Notice<'a> {
    fn of_opening(opening: &'a str, tail: &Position) -> Self {
        Self { channel: None, id: tail.to_string(), event_type: OPEN, data: opening.into() }
    }

    fn of_gap(gap: &'a Gap) -> Self {
        let channel = gap.channel.as_ref().map(ChannelName::as_str);
        Self { channel, id: gap.resumed.to_string(), event_type: GAP, data: gap.data().into() }
    }

    fn of_end(end: &'a End, position: &Position) -> Self {
        let channel = Some(end.channel.as_str());
        Self { channel, id: position.to_string(), event_type: END, data: end.data().into() }
    }

    fn of_snapshot(snapshot: &'a Snapshot, position: &Position) -> Self {
        let id = position.to_string();
        let data = Cow::Borrowed(&*snapshot.data);
        Self { channel: None, id, event_type: SNAPSHOT, data }
    }

    fn push_text(&self, out: &mut Vec<u8>) {
        let event_type = Some(self.event_type);
        let data = self.data.as_bytes();
        sse::event_text(out, &Text { id: Some(&self.id), event_type, data });
    }

    fn record(&self, name_channel: bool) -> JsonRecord<'_> {
        JsonRecord {
            channel: self.channel.filter(|_| name_channel),
            id: Some(self.id.as_str().into()),
            event: Some(self.event_type),
            data: (&*self.data).into(),
            time: rfc3339(now()),
        }
    }
}

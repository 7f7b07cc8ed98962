//! A subscriber: parses an event stream like a browser, and keeps every byte for inspection.
//!
//! The parser follows the HTML standard, section 9.2.6, and shares nothing with `src/sse`.

use std::collections::VecDeque;

use serde_json::Value;

use super::{Head, Piece, Wire, within};

/// An event as its block on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SseEvent {
    /// The `id:` in this block, not one from an earlier block.
    pub(crate) id: Option<String>,
    pub(crate) event: Option<String>,
    pub(crate) data: String,
}

impl SseEvent {
    /// Returns the id, which every event of a hub has.
    #[track_caller]
    pub(crate) fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_else(|| panic!("an event without an id: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    #[track_caller]
    pub(crate) fn assert_gap(&self, reason: &str) -> Value {
        assert_eq!(self.event.as_deref(), Some("fanfare.gap"), "{self:?}");
        let gap = self.json();
        assert_eq!(gap["reason"], reason, "{gap}");
        assert_eq!(gap["resumed"], self.id(), "a gap's id is where it resumes");
        let message = gap["message"].as_str().unwrap_or_default();
        assert!(message.contains(' '), "a sentence: {gap}");
        gap
    }

    #[track_caller]
    pub(crate) fn assert_end(&self, state: &str) -> Value {
        assert_eq!(self.event.as_deref(), Some("fanfare.end"), "{self:?}");
        assert!(self.id.is_some(), "{self:?}");
        let end = self.json();
        assert_eq!(end["state"], state, "{end}");
        end
    }
}

/// Returns the first bytes of a subscription to this channel that begins at the tail, if the tail
/// has this id.
pub(crate) fn opening_text(channel: &str, id: &str) -> String {
    format!(
        "retry: 3000\nevent: fanfare.open\n\
         data: {{\"channel\":\"{channel}\",\"state\":\"open\"}}\nid: {id}\n\n"
    )
}

/// One subscription over HTTP/1.1.
pub(crate) struct SseClient {
    pub(crate) head: Head,
    wire: Wire,
    parser: Parser,
    raw: Vec<u8>,
    ready: VecDeque<SseEvent>,
    /// The `fanfare.open` of a subscription that begins at the tail. It is no published event, so
    /// it is not among the events.
    opening: Option<SseEvent>,
    /// `Some(true)`: the stream ended properly. `Some(false)`: it broke off.
    ended: Option<bool>,
}

impl SseClient {
    /// Reads a subscription that was just requested on this connection.
    pub(crate) async fn read(mut wire: Wire) -> Self {
        let head = wire.head().await;
        Self {
            head,
            wire,
            parser: Parser::default(),
            raw: Vec::new(),
            ready: VecDeque::new(),
            opening: None,
            ended: None,
        }
    }

    /// Returns the `fanfare.open` at the beginning of the stream, if there was one.
    pub(crate) fn opening(&self) -> Option<&SseEvent> {
        self.opening.as_ref()
    }

    /// Returns the next event; the stream may not end before it.
    pub(crate) async fn next(&mut self) -> SseEvent {
        match self.maybe_next().await {
            Some(event) => event,
            None => panic!("the stream ended: {} {}", self.head.status, self.raw_tail()),
        }
    }

    /// Returns the next event, or `None` when the stream ends first.
    pub(crate) async fn maybe_next(&mut self) -> Option<SseEvent> {
        // One deadline for the event, because heartbeats are no progress.
        let waiting = async {
            while self.ready.is_empty() && self.ended.is_none() {
                self.advance().await;
            }
        };
        if tokio::time::timeout(super::PATIENCE, waiting).await.is_err() {
            panic!("waited in vain for an event; so far: {}", self.raw_tail());
        }
        self.ready.pop_front()
    }

    /// Returns the next `n` events.
    pub(crate) async fn take(&mut self, n: usize) -> Vec<SseEvent> {
        let mut events = Vec::with_capacity(n);
        while events.len() < n {
            events.push(self.next().await);
        }
        events
    }

    /// Returns everything up to the end of the stream.
    pub(crate) async fn rest(&mut self) -> Vec<SseEvent> {
        let mut events = Vec::new();
        while let Some(event) = self.maybe_next().await {
            events.push(event);
        }
        events
    }

    /// Returns everything up to and including the event that has this data.
    pub(crate) async fn until(&mut self, data: &str) -> Vec<SseEvent> {
        let mut events = vec![self.next().await];
        while events.last().is_some_and(|event| event.data != data) {
            events.push(self.next().await);
        }
        events
    }

    /// Asserts that the stream ends properly now.
    pub(crate) async fn assert_eof(&mut self) {
        let more = self.maybe_next().await;
        assert_eq!(more, None, "the end of the stream");
        assert_eq!(self.ended, Some(true), "a proper end, not a broken connection");
    }

    /// Waits until the bytes so far satisfy the condition, and returns them as text.
    pub(crate) async fn raw_until(&mut self, what: &str, is: impl Fn(&str) -> bool) -> String {
        within(what, async {
            loop {
                let text = String::from_utf8_lossy(&self.raw).into_owned();
                if is(&text) || self.ended.is_some() {
                    return text;
                }
                self.advance().await;
            }
        })
        .await
    }

    /// Waits for the preamble of a subscription that starts at the tail: after it, no published
    /// event is missed.
    pub(crate) async fn settled(mut self) -> Self {
        assert_eq!(self.head.status, 200, "{:?}", self.head);
        while self.parser.last_id.is_none() && self.ended.is_none() {
            within("the first id", self.advance()).await;
        }
        self
    }

    /// Sends another request on the same connection, without waiting for the end of the stream.
    pub(crate) async fn ask_again(&mut self, to: &str) {
        self.wire.send_head("GET", to, &[]).await;
    }

    /// Returns the value that an `EventSource` would send as `Last-Event-ID`.
    pub(crate) fn last_id(&self) -> Option<&str> {
        self.parser.last_id.as_deref()
    }

    /// Returns the last reconnect delay that the hub set, in milliseconds.
    pub(crate) fn retry(&self) -> Option<u64> {
        self.parser.retry
    }

    /// Returns the number of comment lines.
    pub(crate) fn comments(&self) -> usize {
        self.parser.comments
    }

    fn raw_tail(&self) -> String {
        let from = self.raw.len().saturating_sub(2000);
        format!("{:?}", String::from_utf8_lossy(&self.raw[from..]))
    }

    async fn advance(&mut self) {
        match self.wire.piece().await {
            Piece::Data(bytes) => {
                self.raw.extend_from_slice(&bytes);
                let mut events = VecDeque::new();
                let first = self.parser.events == 0;
                self.parser.push(&bytes, &mut events);
                let opens = |event: &SseEvent| event.event.as_deref() == Some("fanfare.open");
                if first && events.front().is_some_and(opens) {
                    self.opening = events.pop_front();
                }
                assert!(!events.iter().any(opens), "it opens once, and first: {events:?}");
                self.ready.append(&mut events);
            }
            Piece::End => self.ended = Some(true),
            Piece::Broken => self.ended = Some(false),
        }
    }
}

/// The event stream grammar, line by line.
#[derive(Default)]
struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    id: Option<String>,
    event: Option<String>,
    data: Option<String>,
    last_id: Option<String>,
    retry: Option<u64>,
    comments: usize,
    events: usize,
}

impl Parser {
    fn push(&mut self, bytes: &[u8], ready: &mut VecDeque<SseEvent>) {
        for &byte in bytes {
            let second_half = byte == b'\n' && self.after_cr;
            self.after_cr = byte == b'\r';
            if second_half {
                continue;
            }
            if byte == b'\n' || byte == b'\r' {
                let line = String::from_utf8(std::mem::take(&mut self.line)).expect("UTF-8");
                ready.extend(self.end_of_line(&line));
            } else {
                self.line.push(byte);
            }
        }
    }

    fn end_of_line(&mut self, line: &str) -> Option<SseEvent> {
        if line.is_empty() {
            if self.id.is_some() {
                self.last_id.clone_from(&self.id);
            }
            let id = self.id.take();
            let event = self.event.take();
            let data = self.data.take();
            self.events += usize::from(data.is_some());
            return data.map(|data| SseEvent { id, event, data });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.comments += 1,
            "id" => self.id = Some(value.to_owned()),
            "event" => self.event = Some(value.to_owned()),
            "retry" => self.retry = Some(value.parse().expect("retry is a number")),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                none => *none = Some(value.to_owned()),
            },
            other => panic!("a field that no browser knows: {other:?}"),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Vec<SseEvent>, Parser) {
        let mut parser = Parser::default();
        let mut ready = VecDeque::new();
        parser.push(text.as_bytes(), &mut ready);
        (ready.into(), parser)
    }

    #[test]
    fn the_examples_of_the_standard_are_understood() {
        let (events, _) = parse("data: YHOO\ndata: +2\ndata: 10\n\n");
        assert_eq!(events[0].data, "YHOO\n+2\n10");
        let (events, parser) = parse(": test\n\ndata: a\nid: 1\n\ndata:b\nid\n\ndata:  c\n\n");
        let data: Vec<_> = events.iter().map(|event| event.data.as_str()).collect();
        assert_eq!(data, ["a", "b", " c"]);
        assert_eq!((parser.comments, parser.last_id.as_deref()), (1, Some("")));
        let (events, _) = parse("data\n\ndata\ndata\n\ndata:");
        assert_eq!((events.len(), events[0].data.as_str(), events[1].data.as_str()), (2, "", "\n"));
    }

    #[test]
    fn a_block_with_only_an_id_moves_the_last_id_and_is_no_event() {
        let (events, parser) = parse("retry: 5\r\nid: k-1\r\n\r\n");
        assert_eq!((events.len(), parser.retry), (0, Some(5)));
        assert_eq!(parser.last_id.as_deref(), Some("k-1"));
    }
}

//! The publishers: one thread that keeps to a schedule of intended send times.
//!
//! A lane is one connection. With a POST per event it has one request in flight, and events that
//! fall due meanwhile wait: the wait is part of their latency. With streams it has one long body,
//! and writes all due events as one chunk.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use fanfare_sse as sse;

use super::clock::{self, Alarm, SECOND};
use super::response::{self, ResponseHead};
use super::schedule::{Schedule, ScheduleSlot};
use super::stats::LatencyTimes;
use super::template::{Publication, write_chunk, write_data};

/// The token of the alarm; lanes have their number.
const ALARM: Token = Token(usize::MAX);

/// Bytes that a stream writes as one chunk, at most.
const BATCH_BYTES: usize = 64 * 1024;

/// Chunks that a stream writes before the other lanes are served.
const BATCHES_PER_TURN: usize = 8;

/// The time without a response after which the run stops waiting for the last responses.
const CLOSING_PATIENCE: u64 = 5 * SECOND;

/// The limit of the wait for the last responses, even if the server still delivers.
const CLOSING_LIMIT: u64 = 60 * SECOND;

/// The method of sending events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mode {
    /// One POST per event, on keep-alive connections
    Post,
    /// One long streamed body per channel
    Stream,
}

/// The events to send and their destination.
#[derive(Clone, Debug)]
pub(crate) struct PublishersSpec {
    pub(crate) address: SocketAddr,
    pub(crate) mode: Mode,
    pub(crate) schedule: Schedule,
    /// One publication per channel.
    pub(crate) publications: Vec<Publication>,
    pub(crate) size: usize,
    /// The number of each channel's first event.
    pub(crate) first_seq: u64,
    /// Only acknowledgements of events intended from this time on enter the latencies.
    pub(crate) measure_from: u64,
    /// No event is started after this time, regardless of the schedule.
    pub(crate) halt_at: u64,
}

/// Counters that are readable during the run.
#[derive(Debug, Default)]
pub(crate) struct PublishProgress {
    pub(crate) sent: AtomicU64,
    pub(crate) acknowledged: AtomicU64,
    /// The time of the last delivery to a subscriber: a server that still delivers is not stalled.
    pub(crate) last_delivery: AtomicU64,
}

/// The result of a publishing run.
#[derive(Clone, Debug)]
pub(crate) struct PublishersOutcome {
    /// Events that the server acknowledged, per channel.
    pub(crate) acknowledged: Vec<u64>,
    /// Events that were sent.
    pub(crate) sent: u64,
    pub(crate) failed: u64,
    /// From the intended send time to the acknowledgement; only with a POST per event.
    pub(crate) times: LatencyTimes,
    /// The delay of sends on idle lanes, which the load generator itself caused.
    pub(crate) lag: LatencyTimes,
    pub(crate) first_error: Option<String>,
}

impl PublishersOutcome {
    pub(crate) fn published(&self) -> u64 {
        self.acknowledged.iter().sum()
    }
}

#[derive(Debug, Default)]
struct PublisherLane {
    stream: Option<TcpStream>,
    /// The number of the lane's next event, counted within the lane.
    next: u64,
    out: Vec<u8>,
    written: usize,
    /// With a POST per event: the event in flight and its intended send time.
    in_flight: Option<(ScheduleSlot, u64)>,
    reply: Vec<u8>,
    /// With streams: the number of events in the body, whether it has begun, and whether it has
    /// ended.
    streamed: u64,
    begun: bool,
    ended: bool,
    /// With streams: answered or broken; nothing more can be sent.
    over: bool,
    /// The time since which the lane has been idle.
    free_since: u64,
}

/// The publishing thread.
#[derive(Debug)]
pub(crate) struct Press {
    spec: PublishersSpec,
    progress: Arc<PublishProgress>,
    poll: Poll,
    alarm: Alarm,
    lanes: Vec<PublisherLane>,
    /// Lanes that have used up `BATCHES_PER_TURN` and have more to write.
    again: Vec<usize>,
    /// The number of events that are due.
    due: u64,
    last_progress: u64,
    data: Vec<u8>,
    batch: Vec<u8>,
    outcome: PublishersOutcome,
}

impl Press {
    pub(crate) fn new(spec: PublishersSpec, progress: Arc<PublishProgress>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let alarm = Alarm::new()?;
        poll.registry().register(&mut SourceFd(&alarm.fd()), ALARM, Interest::READABLE)?;
        let mut lanes = Vec::new();
        lanes.resize_with(spec.schedule.lanes as usize, PublisherLane::default);
        let outcome = PublishersOutcome {
            acknowledged: vec![0; spec.publications.len()],
            sent: 0,
            failed: 0,
            times: LatencyTimes::new(),
            lag: LatencyTimes::new(),
            first_error: None,
        };
        let mut press = Self {
            spec,
            progress,
            poll,
            alarm,
            lanes,
            again: Vec::new(),
            due: 0,
            last_progress: 0,
            data: Vec::new(),
            batch: Vec::new(),
            outcome,
        };
        for lane in 0..press.lanes.len() {
            press.open(lane)?;
        }
        Ok(press)
    }

    pub(crate) fn run(mut self) -> io::Result<PublishersOutcome> {
        let mut events = Events::with_capacity(1024);
        loop {
            let now = clock::now();
            let closing = self.release_due(now)?;
            if closing && self.is_over(now) {
                return Ok(self.finish());
            }
            let idle = self.again.is_empty();
            let wait = Duration::from_millis(if idle { 100 } else { 0 });
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in events.iter().filter(|event| event.token() != ALARM) {
                self.drive(event.token().0);
            }
            for lane in std::mem::take(&mut self.again) {
                self.advance(lane);
            }
            self.progress.sent.store(self.outcome.sent, Relaxed);
        }
    }

    /// Sends all due events and arms the timer for the next one. Returns whether every event was
    /// sent.
    fn release_due(&mut self, now: u64) -> io::Result<bool> {
        let schedule = self.spec.schedule;
        let halted = now >= self.spec.halt_at;
        if !halted {
            let seen = self.due;
            let due = schedule.due(now);
            self.due = due;
            if due - seen >= u64::from(schedule.lanes) {
                (0..self.lanes.len()).for_each(|lane| self.advance(lane));
            } else {
                (seen..due).for_each(|k| self.advance(schedule.lane(k) as usize));
            }
        }
        if halted || self.due == schedule.total {
            return Ok(true);
        }
        self.alarm.set(schedule.intended(self.due).min(self.spec.halt_at))?;
        Ok(false)
    }

    /// Returns whether every lane is finished, or the server has stalled; ends the bodies of
    /// streams.
    fn is_over(&mut self, now: u64) -> bool {
        let halted = now >= self.spec.halt_at;
        let mut open = 0;
        for lane in 0..self.lanes.len() {
            let more = !halted && self.next_due(lane).is_some();
            if self.spec.mode == Mode::Stream && !more {
                self.end(lane);
            }
            let this = &self.lanes[lane];
            let waits = match self.spec.mode {
                Mode::Post => this.in_flight.is_some(),
                Mode::Stream => this.begun && !this.over,
            };
            if more || waits {
                open += 1;
            }
        }
        let stirred = self.last_progress.max(self.progress.last_delivery.load(Relaxed));
        let silent = now > stirred.max(self.spec.schedule.start) + CLOSING_PATIENCE;
        let endless = now > self.spec.halt_at.saturating_add(CLOSING_LIMIT);
        open == 0 || endless || (silent && (halted || self.spec.schedule.is_paced()))
    }

    fn finish(mut self) -> PublishersOutcome {
        for lane in &self.lanes {
            let lost = match self.spec.mode {
                Mode::Post => u64::from(lane.in_flight.is_some()),
                Mode::Stream if lane.over => 0,
                Mode::Stream => lane.streamed,
            };
            if lost > 0 {
                self.outcome.failed += lost;
                self.outcome.first_error.get_or_insert_with(|| "no answer to a publish".into());
            }
        }
        self.progress.sent.store(self.outcome.sent, Relaxed);
        self.outcome
    }

    fn open(&mut self, lane: usize) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.spec.address)?;
        let _ = stream.set_nodelay(true); // without it slower, but correct
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, Token(lane), interest)?;
        self.lanes[lane].stream = Some(stream);
        Ok(())
    }

    /// Returns the lane's next event, if it is due.
    fn next_due(&self, lane: usize) -> Option<ScheduleSlot> {
        let number = u32::try_from(lane).unwrap_or(0); // the number of lanes fits
        let slot = self.spec.schedule.nth(number, self.lanes[lane].next)?;
        (slot.k < self.due && !self.lanes[lane].over).then_some(slot)
    }

    /// Handles a readiness event of the lane's socket.
    fn drive(&mut self, lane: usize) {
        if self.lanes[lane].stream.is_some() {
            self.hear(lane);
        }
        if self.lanes[lane].stream.is_some() {
            self.flush(lane);
        }
        self.advance(lane);
    }

    /// Sends due events, if the lane is free.
    fn advance(&mut self, lane: usize) {
        if clock::now() >= self.spec.halt_at {
            return;
        }
        match self.spec.mode {
            Mode::Post => self.advance_post(lane),
            Mode::Stream => self.advance_stream(lane),
        }
    }

    fn advance_post(&mut self, lane: usize) {
        if self.lanes[lane].in_flight.is_some() {
            return;
        }
        let Some(slot) = self.next_due(lane) else { return };
        let intended = self.begin(lane, slot);
        let this = &mut self.lanes[lane];
        this.out.clear();
        this.written = 0;
        self.spec.publications[slot.channel as usize].post(&mut this.out, &self.data);
        this.in_flight = Some((slot, intended));
        this.next += 1;
        self.outcome.sent += 1;
        if self.lanes[lane].stream.is_none()
            && let Err(error) = self.open(lane)
        {
            return self.fail(lane, format!("cannot connect: {error}"));
        }
        self.flush(lane);
    }

    fn advance_stream(&mut self, lane: usize) {
        for _ in 0..BATCHES_PER_TURN {
            let this = &mut self.lanes[lane];
            if this.written < this.out.len() || this.over || this.ended {
                return;
            }
            this.out.clear();
            this.written = 0;
            self.batch.clear();
            while self.batch.len() < BATCH_BYTES
                && let Some(slot) = self.next_due(lane)
            {
                self.begin(lane, slot);
                let text = sse::Text { id: None, event_type: None, data: &self.data };
                sse::event_text(&mut self.batch, &text);
                let this = &mut self.lanes[lane];
                this.next += 1;
                this.streamed += 1;
                self.outcome.sent += 1;
            }
            if self.batch.is_empty() {
                return;
            }
            let this = &mut self.lanes[lane];
            if !this.begun {
                this.begun = true;
                this.out.extend_from_slice(&self.spec.publications[lane].stream);
            }
            write_chunk(&mut this.out, &self.batch);
            self.flush(lane);
        }
        if self.next_due(lane).is_some() {
            self.again.push(lane);
        }
    }

    /// Ends the body of a stream, once all of it is written.
    fn end(&mut self, lane: usize) {
        let this = &mut self.lanes[lane];
        if this.begun && !this.ended && !this.over && this.written == this.out.len() {
            this.ended = true;
            this.out.clear();
            this.written = 0;
            this.out.extend_from_slice(b"0\r\n\r\n");
            self.flush(lane);
        }
    }

    /// Writes the data of an event and returns its intended send time, which is now for an unpaced
    /// run.
    fn begin(&mut self, lane: usize, slot: ScheduleSlot) -> u64 {
        let schedule = &self.spec.schedule;
        let now = clock::now();
        let paced = schedule.is_paced();
        let intended = if paced { schedule.intended(slot.k) } else { now };
        if paced && intended >= self.spec.measure_from && self.lanes[lane].free_since <= intended {
            self.outcome.lag.record(now.saturating_sub(intended));
        }
        write_data(&mut self.data, self.spec.first_seq + slot.seq, intended, self.spec.size);
        intended
    }

    /// Writes as much as the socket accepts.
    fn flush(&mut self, lane: usize) {
        let this = &mut self.lanes[lane];
        let Some(stream) = this.stream.as_mut() else { return };
        while this.written < this.out.len() {
            match stream.write(&this.out[this.written..]) {
                Ok(len) => {
                    this.written += len;
                    self.last_progress = clock::now();
                    if self.spec.mode == Mode::Stream {
                        this.free_since = self.last_progress;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::NotConnected => return,
                Err(error) => return self.fail(lane, format!("cannot send: {error}")),
            }
        }
    }

    /// Reads responses.
    fn hear(&mut self, lane: usize) {
        let mut buffer = [0; 16 * 1024];
        loop {
            let this = &mut self.lanes[lane];
            let Some(stream) = this.stream.as_mut() else { return };
            match stream.read(&mut buffer) {
                Ok(0) => return self.hear_end(lane),
                Ok(len) => {
                    this.reply.extend_from_slice(&buffer[..len]);
                    self.last_progress = clock::now();
                    self.answer(lane, false);
                    if len < buffer.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::NotConnected => return,
                Err(error) => return self.fail(lane, error.to_string()),
            }
        }
    }

    /// Handles the end of the connection, which a server may close between requests.
    fn hear_end(&mut self, lane: usize) {
        self.answer(lane, true);
        let this = &mut self.lanes[lane];
        let expects = this.in_flight.is_some() || (this.begun && !this.over);
        if expects && this.stream.is_some() {
            self.fail(lane, "closed without an answer".into());
        }
        self.hang_up(lane);
    }

    /// Handles a response, if it is complete.
    fn answer(&mut self, lane: usize, at_end: bool) {
        let this = &mut self.lanes[lane];
        match whole(&this.reply, at_end) {
            Ok(None) => {}
            Ok(Some((head, len))) => {
                let told = String::from_utf8_lossy(&this.reply[head.len.min(len)..len]);
                let told: String = told.trim().chars().take(200).collect();
                this.reply.drain(..len);
                self.answered(lane, head, &told);
            }
            Err(error) => self.fail(lane, error.to_string()),
        }
    }

    fn answered(&mut self, lane: usize, head: ResponseHead, told: &str) {
        if !(200..300).contains(&head.status) {
            self.fail(lane, format!("HTTP {} {told}", head.status));
            return;
        }
        let now = clock::now();
        let this = &mut self.lanes[lane];
        this.free_since = now;
        let (channel, events) = match (self.spec.mode, this.in_flight.take()) {
            (Mode::Post, Some((slot, intended))) => {
                if intended >= self.spec.measure_from {
                    self.outcome.times.record(now.saturating_sub(intended));
                }
                (slot.channel as usize, 1)
            }
            (Mode::Stream, _) if this.ended => {
                this.over = true;
                (lane, this.streamed)
            }
            _ => return self.fail(lane, "an answer to nothing that was asked".into()),
        };
        self.outcome.acknowledged[channel] += events;
        self.progress.acknowledged.fetch_add(events, Relaxed);
        if head.close || self.spec.mode == Mode::Stream {
            self.hang_up(lane);
        }
    }

    /// Counts the event in flight as unacknowledged.
    fn fail(&mut self, lane: usize, why: String) {
        self.outcome.first_error.get_or_insert(why);
        let this = &mut self.lanes[lane];
        self.outcome.failed += match self.spec.mode {
            Mode::Post => u64::from(this.in_flight.take().is_some()),
            Mode::Stream if this.over => 0,
            Mode::Stream => {
                this.over = true;
                this.streamed
            }
        };
        self.hang_up(lane);
        self.again.push(lane); // an open loop does not stop at a failure
    }

    /// Closes the connection; the next event opens another.
    fn hang_up(&mut self, lane: usize) {
        let this = &mut self.lanes[lane];
        this.stream = None;
        this.reply.clear();
        this.out.clear();
        this.written = 0;
    }
}

/// Returns the first response in the bytes and its length, if it is complete.
fn whole(
    bytes: &[u8],
    at_end: bool,
) -> Result<Option<(ResponseHead, usize)>, response::MalformedResponse> {
    let mut start = 0;
    loop {
        if start == bytes.len() {
            return Ok(None);
        }
        let Some(head) = response::head(&bytes[start..])? else { return Ok(None) };
        if head.status < 200 {
            start += head.len; // skips 100 Continue
            continue;
        }
        let mut body = head.body;
        let mut rest = &bytes[start + head.len..];
        while !body.take(&mut rest).is_empty() {}
        let len = bytes.len() - rest.len();
        return Ok((body.is_done() || at_end).then_some((head, len)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is() {
        let one = b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok";
        for len in 0..one.len() {
            assert_eq!(whole(&one[..len], false), Ok(None), "{len} bytes");
        }
        let mut two = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
        two.extend_from_slice(one);
        two.extend_from_slice(b"HTTP");
        let (head, len) = whole(&two, false).unwrap().unwrap();
        assert_eq!((head.status, len), (202, two.len() - 4));
        let until_end = b"HTTP/1.1 200 OK\r\n\r\nid";
        assert_eq!(whole(until_end, false), Ok(None));
        assert_eq!(whole(until_end, true).unwrap().unwrap().1, until_end.len());
    }
}

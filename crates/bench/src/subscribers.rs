//! The subscribers: an epoll loop on each of a few threads, about a hundred bytes per connection.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};

use super::clock::{self, SECOND};
use super::response::{self, ResponseBody};
use super::scan::{self, Carry};
use super::sequence_check::{SequenceCheck, SequenceVerdict};
use super::stats::Stats;

/// The limit of connections without a response: less than any server's accept queue holds.
const IN_FLIGHT: usize = 256;

/// The size of the read buffer. Each thread has one, and keeps none of its content.
const READ_BUFFER_BYTES: usize = 128 * 1024;

/// The receive buffer of a slow reader: small, so that the server soon sees backpressure.
const SLOW_RECEIVE_BUFFER_BYTES: usize = 4096;

/// The limit of a response head or a refusal.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Bytes of a refusal that an error message quotes.
const TOLD_BYTES: usize = 200;

/// The connections to open.
#[derive(Clone, Debug)]
pub(crate) struct SubscribersSpec {
    pub(crate) address: SocketAddr,
    /// Local addresses to connect from, in turn; empty: chosen by the kernel.
    pub(crate) sources: Vec<IpAddr>,
    /// The subscription request of each channel.
    pub(crate) requests: Vec<Vec<u8>>,
    pub(crate) per_channel: usize,
    pub(crate) threads: usize,
    /// Connections per second; zero: as fast as the server responds.
    pub(crate) ramp: u64,
    /// The number of subscribers that never read.
    pub(crate) slow: usize,
    /// The number of the first event that each subscriber should receive.
    pub(crate) first_seq: u32,
    /// A subscriber has caught up when this is its next expected number.
    pub(crate) caught_up_at: Option<u32>,
    /// Whether to remember the last id of each channel.
    pub(crate) watch_ids: bool,
}

impl SubscribersSpec {
    pub(crate) fn total(&self) -> usize {
        self.requests.len() * self.per_channel
    }

    /// Returns whether a subscriber is a slow reader; they are spread evenly.
    fn is_slow(&self, index: usize) -> bool {
        let total = self.total().max(1);
        (index + 1) * self.slow / total > index * self.slow / total
    }
}

/// Counters that are readable during the run.
#[derive(Debug, Default)]
pub(crate) struct SubscribersState {
    pub(crate) opened: AtomicU64,
    pub(crate) failed: AtomicU64,
    /// Connections that the server closed.
    pub(crate) closed: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) caught_up: AtomicU64,
    /// The time of the last response to a connection.
    pub(crate) last_opened: AtomicU64,
    /// Events intended from this time on enter the latencies.
    pub(crate) measure_from: AtomicU64,
    stop: AtomicBool,
    pub(crate) first_error: Mutex<Option<String>>,
}

impl SubscribersState {
    fn fail(&self, why: impl FnOnce() -> String) {
        self.failed.fetch_add(1, Relaxed);
        self.first_error.lock().get_or_insert_with(why);
    }
}

/// The running subscriber threads.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) shared: Arc<SubscribersState>,
    pub(crate) total: u64,
    /// The time of the first connection attempt.
    pub(crate) started: u64,
    threads: Vec<JoinHandle<io::Result<Stats>>>,
}

impl Fleet {
    pub(crate) fn launch(spec: SubscribersSpec) -> anyhow::Result<Self> {
        let shared = Arc::new(SubscribersState::default());
        shared.measure_from.store(u64::MAX, Relaxed);
        let total = spec.total() as u64;
        let started = clock::now();
        let spec = Arc::new(spec);
        let mut threads = Vec::new();
        for number in 0..spec.threads.max(1) {
            let crew = Crew::new(number, Arc::clone(&spec), Arc::clone(&shared), started)?;
            let thread = std::thread::Builder::new().name(format!("subscribers-{number}"));
            threads.push(thread.spawn(move || crew.run()).context("cannot start a thread")?);
        }
        Ok(Self { shared, total, started, threads })
    }

    /// Returns the number of connections that have a response or have failed.
    pub(crate) fn settled(&self) -> u64 {
        self.shared.opened.load(Relaxed) + self.shared.failed.load(Relaxed)
    }

    /// Closes all connections and sums the measurements.
    pub(crate) fn finish(self) -> anyhow::Result<Stats> {
        self.shared.stop.store(true, Relaxed);
        let mut sum: Option<Stats> = None;
        for thread in self.threads {
            let joined = thread.join().map_err(|_| anyhow::anyhow!("a subscriber thread died"))?;
            let stats = joined.context("the subscribers' loop failed")?;
            match &mut sum {
                Some(sum) => sum.add(&stats),
                None => sum = Some(stats),
            }
        }
        sum.context("there were no subscribers")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    /// The request is sent, the head of the response is incomplete.
    Asked,
    Reading,
    /// Confirmed, and never read again.
    Slow,
    Gone,
}

#[derive(Debug)]
struct SubscriberConnection {
    stream: Option<TcpStream>,
    phase: Phase,
    channel: u32,
    sequence: SequenceCheck,
    body: ResponseBody,
    carry: Carry,
}

/// The state of one thread.
#[derive(Debug)]
struct Crew {
    number: usize,
    spec: Arc<SubscribersSpec>,
    shared: Arc<SubscribersState>,
    started: u64,
    poll: Poll,
    connections: Vec<SubscriberConnection>,
    /// Incomplete response heads.
    heads: HashMap<usize, Vec<u8>>,
    /// The one connection per channel whose ids are recorded, with its current line.
    watches: HashMap<usize, Vec<u8>>,
    in_flight: usize,
    stats: Stats,
}

impl Crew {
    fn new(
        number: usize,
        spec: Arc<SubscribersSpec>,
        shared: Arc<SubscribersState>,
        started: u64,
    ) -> io::Result<Self> {
        Ok(Self {
            number,
            poll: Poll::new()?,
            connections: Vec::with_capacity(spec.total() / spec.threads.max(1) + 1),
            heads: HashMap::new(),
            watches: HashMap::new(),
            in_flight: 0,
            stats: Stats::new(spec.requests.len()),
            spec,
            shared,
            started,
        })
    }

    fn run(mut self) -> io::Result<Stats> {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        while !self.shared.stop.load(Relaxed) {
            let more = self.open_more();
            let wait = Duration::from_millis(if more { 1 } else { 20 });
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            let woke = clock::now();
            let before = self.stats.delivered;
            let measure_from = self.shared.measure_from.load(Relaxed);
            for event in &events {
                self.handle(event, &mut buffer, measure_from);
            }
            if self.stats.delivered > before {
                self.shared.delivered.fetch_add(self.stats.delivered - before, Relaxed);
                if woke >= measure_from {
                    self.stats.lag.record(clock::now() - woke);
                }
            }
        }
        Ok(self.finish())
    }

    fn finish(mut self) -> Stats {
        for connection in &self.connections {
            let channel = connection.channel as usize;
            if connection.phase == Phase::Reading {
                self.stats.readers[channel] += 1;
            }
        }
        self.stats
    }

    /// Opens the connections that are due; returns whether more remain.
    fn open_more(&mut self) -> bool {
        let spec = Arc::clone(&self.spec);
        let threads = self.spec.threads.max(1);
        let at_once = (IN_FLIGHT / threads).max(1);
        loop {
            let index = self.connections.len() * threads + self.number;
            if index >= spec.total() {
                return false;
            }
            let allowed = if spec.ramp == 0 {
                u64::MAX
            } else {
                let elapsed = u128::from(clock::now() - self.started);
                let ramped = elapsed * u128::from(spec.ramp) / u128::from(SECOND);
                u64::try_from(ramped).unwrap_or(u64::MAX)
            };
            if self.in_flight >= at_once || index as u64 >= allowed {
                return true;
            }
            self.open(&spec, index);
        }
    }

    fn open(&mut self, spec: &SubscribersSpec, index: usize) {
        let channel = index % spec.requests.len();
        let token = self.connections.len();
        let stream = connect(spec, index).and_then(|mut stream| {
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(token), interest)?;
            Ok(stream)
        });
        let mut phase = Phase::Connecting;
        match &stream {
            Ok(_) => self.in_flight += 1,
            Err(error) => {
                self.shared.fail(|| format!("cannot connect: {error}"));
                phase = Phase::Gone;
            }
        }
        if spec.watch_ids && index < spec.requests.len() {
            self.watches.insert(token, Vec::new());
        }
        self.connections.push(SubscriberConnection {
            stream: stream.ok(),
            phase,
            channel: u32::try_from(channel).unwrap_or(0), // the number of channels fits
            sequence: SequenceCheck::starting_at(spec.first_seq),
            body: ResponseBody::EMPTY,
            carry: Carry::EMPTY,
        });
    }

    fn handle(&mut self, event: &Event, buffer: &mut [u8], measure_from: u64) {
        let token = event.token().0;
        match self.connections[token].phase {
            Phase::Gone => {}
            Phase::Connecting => self.ask(token),
            Phase::Slow => {
                if event.is_read_closed() || event.is_error() {
                    self.leave(token, None);
                }
            }
            Phase::Asked | Phase::Reading => self.read(token, buffer, measure_from),
        }
    }

    /// Sends the request on a new connection, or records that it failed.
    fn ask(&mut self, token: usize) {
        let connection = &mut self.connections[token];
        let Some(stream) = connection.stream.as_mut() else { return };
        if let Ok(Some(error)) | Err(error) = stream.take_error() {
            return self.leave(token, Some(format!("cannot connect: {error}")));
        }
        let request = &self.spec.requests[connection.channel as usize];
        match stream.write(request) {
            Ok(written) if written == request.len() => connection.phase = Phase::Asked,
            Ok(_) => self.leave(token, Some("cannot send a request in one piece".into())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::NotConnected => {}
            Err(error) => self.leave(token, Some(format!("cannot send a request: {error}"))),
        }
    }

    /// Reads until the socket is empty, as edge-triggered polling requires.
    fn read(&mut self, token: usize, buffer: &mut [u8], measure_from: u64) {
        loop {
            let Some(stream) = self.connections[token].stream.as_mut() else { return };
            match stream.read(buffer) {
                Ok(0) => return self.leave(token, None),
                Ok(len) => {
                    let now = clock::now();
                    self.take(token, &buffer[..len], now, measure_from);
                    // A short read has emptied the socket; later data is a new edge.
                    if len < buffer.len() || self.connections[token].phase == Phase::Slow {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return self.leave(token, Some(error.to_string())),
            }
        }
    }

    fn take(&mut self, token: usize, bytes: &[u8], now: u64, measure_from: u64) {
        if self.connections[token].phase == Phase::Reading {
            return self.consume(token, bytes, now, measure_from);
        }
        // The head nearly always arrives in one piece, and then nothing is copied.
        let gathered = self.heads.remove(&token).map(|mut head| {
            head.extend_from_slice(bytes);
            head
        });
        let all = gathered.as_deref().unwrap_or(bytes);
        match response::head(all) {
            Ok(Some(head)) if head.status == 200 => {
                let rest = &all[head.len..];
                self.confirm(token, head.body, now);
                if self.connections[token].phase == Phase::Reading {
                    self.consume(token, rest, now, measure_from);
                }
            }
            Ok(Some(head)) => {
                let body = String::from_utf8_lossy(&all[head.len..]);
                let told: String = body.trim().chars().take(TOLD_BYTES).collect();
                let why = format!("HTTP {} {told}", head.status);
                self.leave(token, Some(why.trim_end().into()));
            }
            Ok(None) if all.len() < MAX_HEAD_BYTES => {
                let gathered = gathered.unwrap_or_else(|| bytes.to_vec());
                self.heads.insert(token, gathered);
            }
            Ok(None) | Err(_) => self.leave(token, Some("the answer is not HTTP/1.1".into())),
        }
    }

    /// Handles a successful response head.
    fn confirm(&mut self, token: usize, body: ResponseBody, now: u64) {
        let index = token * self.spec.threads.max(1) + self.number;
        let slow = self.spec.is_slow(index);
        let connection = &mut self.connections[token];
        connection.phase = if slow { Phase::Slow } else { Phase::Reading };
        connection.body = body;
        self.in_flight -= 1;
        self.shared.last_opened.fetch_max(now, Relaxed);
        self.shared.opened.fetch_add(1, Relaxed);
    }

    /// Accounts for the received bytes.
    fn consume(&mut self, token: usize, mut bytes: &[u8], now: u64, measure_from: u64) {
        let SubscriberConnection { channel, sequence, body, carry, .. } =
            &mut self.connections[token];
        let stats = &mut self.stats;
        let channel = *channel as usize;
        stats.bytes += bytes.len() as u64;
        let before = stats.delivered;
        let mut watch = if self.spec.watch_ids { self.watches.get_mut(&token) } else { None };
        loop {
            let run = body.take(&mut bytes);
            if run.is_empty() {
                break;
            }
            if let Some(line) = watch.as_mut() {
                watch_ids(line, run, &mut stats.last_ids[channel]);
            }
            carry.tokens(run, |text| {
                let Some(payload) = scan::payload(text) else { return };
                match sequence.note(payload.seq) {
                    SequenceVerdict::Duplicate => return stats.duplicates += 1,
                    SequenceVerdict::Late => stats.disorder += 1,
                    SequenceVerdict::Fresh => {}
                }
                stats.delivered += 1;
                if payload.intended >= measure_from {
                    stats.latency.record(now.saturating_sub(payload.intended));
                    stats.completions.note(channel, payload.seq, now);
                }
            });
        }
        let fresh = stats.delivered - before;
        stats.received[channel] += fresh;
        if fresh > 0
            && self.spec.caught_up_at.is_some_and(|next| sequence.next() >= next)
            && sequence.missing() == 0
        {
            stats.catch_up.record(now - self.started);
            self.shared.caught_up.fetch_add(1, Relaxed);
        }
        if body.is_done() {
            self.leave(token, None);
        }
    }

    /// Closes the connection and keeps its measurements.
    fn leave(&mut self, token: usize, why: Option<String>) {
        let connection = &mut self.connections[token];
        match connection.phase {
            Phase::Connecting | Phase::Asked => {
                self.in_flight -= 1;
                self.shared.fail(|| why.unwrap_or_else(|| "closed without an answer".into()));
            }
            Phase::Reading => {
                self.shared.closed.fetch_add(1, Relaxed);
                // The server closed an open stream: events that it misses from now on count as
                // lost.
                self.stats.readers[connection.channel as usize] += 1;
            }
            Phase::Slow | Phase::Gone => {
                self.shared.closed.fetch_add(1, Relaxed);
            }
        }
        connection.phase = Phase::Gone;
        connection.stream = None; // closing also removes it from the poll
    }
}

/// Records the id of the last complete line that has one.
fn watch_ids(line: &mut Vec<u8>, run: &[u8], last: &mut Option<String>) {
    /// The name that Durable Streams use for the position after an event.
    const OFFSET: &str = "\"streamNextOffset\":\"";
    for piece in run.split_inclusive(|byte| *byte == b'\n') {
        line.extend_from_slice(piece);
        if !piece.ends_with(b"\n") {
            return;
        }
        let text = String::from_utf8_lossy(line);
        if let Some(id) = scan::field(line, b"id") {
            *last = Some(String::from_utf8_lossy(id).trim_end().into());
        } else if let Some((_, rest)) = text.split_once(OFFSET) {
            *last = rest.split('"').next().map(Into::into);
        }
        line.clear();
    }
}

fn connect(spec: &SubscribersSpec, index: usize) -> io::Result<TcpStream> {
    let domain = Domain::for_address(spec.address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // Closing resets the connection: tens of thousands in TIME_WAIT would use up the ports of the
    // next run.
    socket.set_linger(Some(Duration::ZERO))?;
    if spec.is_slow(index) {
        socket.set_recv_buffer_size(SLOW_RECEIVE_BUFFER_BYTES)?;
    }
    if !spec.sources.is_empty() {
        let source = spec.sources[index % spec.sources.len()];
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&spec.address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(IN_PROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// EINPROGRESS: the connection is being established.
const IN_PROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_about_a_hundred_bytes() {
        assert!(size_of::<SubscriberConnection>() <= 112, "{}", size_of::<SubscriberConnection>());
    }

    #[test]
    fn slow_readers_are_spread_evenly() {
        let spec = SubscribersSpec {
            address: ([127, 0, 0, 1], 1).into(),
            sources: vec![],
            requests: vec![vec![]; 10],
            per_channel: 20,
            threads: 1,
            ramp: 0,
            slow: 4,
            first_seq: 0,
            caught_up_at: None,
            watch_ids: false,
        };
        let slow: Vec<_> = (0..200).filter(|index| spec.is_slow(*index)).collect();
        assert_eq!(slow, [49, 99, 149, 199]);
    }

    #[test]
    fn the_last_id_is_remembered_wherever_lines_are_cut() {
        let text = b"id: e-1\ndata: 0 1\n\nid:urn:x\r\ndata: 1 1\n\nid: e-9";
        for cut in 0..text.len() {
            let mut line = Vec::new();
            let mut last = None;
            watch_ids(&mut line, &text[..cut], &mut last);
            watch_ids(&mut line, &text[cut..], &mut last);
            assert_eq!(last.as_deref(), Some("urn:x"), "cut at {cut}");
        }
        let mut line = Vec::new();
        let mut last = None;
        let control = b"data:{\"streamNextOffset\":\"00_25\",\"upToDate\":true}\n\n";
        watch_ids(&mut line, control, &mut last);
        assert_eq!(last.as_deref(), Some("00_25"));
    }
}

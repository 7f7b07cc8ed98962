//! The cost of a sweep: one real shard that writes to sockets on loopback, from the append until
//! the last reader has every byte.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a benchmark may, as a test may

use std::io::{ErrorKind, Read as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use criterion::{Criterion, Throughput};
use fanfare::internals::channel::ChannelName;
use fanfare::internals::egress::{Config, Egress, OpenStream, StreamFormat};
use fanfare::internals::event::NewEvent;
use fanfare::internals::hub::{self, Append, Coalesce, Hub, Opened, Selection};
use fanfare::internals::lease::AccessLease;
use fanfare::internals::position::{Offset, StartFrom};
use fanfare::internals::telemetry::Metrics;
use fanfare_sse as sse;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The time limit for bytes to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// Subscribers of the one channel.
const AUDIENCES: [usize; 3] = [10, 100, 1000];

/// Events that one sweep has to write to each of them.
const PENDING: [usize; 2] = [1, 100];

/// The response's head: the shard sends these bytes first.
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// The counters shared by the readers' thread and the measuring thread.
struct Tally {
    read: AtomicU64,
    /// The number of bytes at which the measuring thread is woken.
    wanted: AtomicU64,
    stop: AtomicBool,
    waiting: Thread,
}

impl Tally {
    fn add(&self, bytes: usize) {
        let read = self.read.fetch_add(bytes as u64, SeqCst) + bytes as u64;
        if read >= self.wanted.load(SeqCst) {
            self.waiting.unpark();
        }
    }

    /// Waits until all readers together have read this many bytes.
    fn wait(&self, bytes: u64) {
        self.wanted.store(bytes, SeqCst);
        while self.read.load(SeqCst) < bytes {
            let before = self.read.load(SeqCst);
            thread::park_timeout(PATIENCE);
            let read = self.read.load(SeqCst);
            assert!(read > before || read >= bytes, "{read} of {bytes} bytes came");
        }
        assert_eq!(self.read.load(SeqCst), bytes, "more was written than was published");
        self.wanted.store(u64::MAX, SeqCst);
    }
}

/// A hub with one shard, and its readers.
struct Hall {
    hub: Hub,
    channel: ChannelName,
    events: Vec<NewEvent>,
    audience: usize,
    tally: Arc<Tally>,
    expected: u64,
    frames: Vec<u8>,
    readers: Option<JoinHandle<()>>,
    _egress: Egress,
}

impl Hall {
    fn open(audience: usize, pending: usize) -> Self {
        let hub = Hub::new(hub::Config::default(), Arc::new(Metrics::new()));
        let config = Config {
            shards: 1,
            // A pause after a long sweep would count into the next measurement.
            max_pause: Duration::ZERO,
            heartbeat: Duration::from_secs(3600),
            ..Config::default()
        };
        let egress = Egress::new(config, &hub, || {}).expect("a shard");
        let channel: ChannelName = "chat/1".parse().unwrap();
        let sockets = seat(&hub, &egress, &channel, audience);
        let tally = Arc::new(Tally {
            read: AtomicU64::new(0),
            wanted: AtomicU64::new(u64::MAX),
            stop: AtomicBool::new(false),
            waiting: thread::current(),
        });
        let readers = thread::spawn({
            let tally = tally.clone();
            move || drain(sockets, &tally)
        });
        let text = |number| format!("token {number:4} of what somebody has to say");
        let event = |number| NewEvent { event_type: None, data: text(number).into() };
        let events = (0..pending).map(event).collect();
        let readers = Some(readers);
        Self {
            hub,
            channel,
            events,
            audience,
            tally,
            expected: 0,
            frames: Vec::new(),
            readers,
            _egress: egress,
        }
    }

    /// Publishes, and waits until the last reader has everything.
    fn round(&mut self) {
        let appended = self.hub.submit(&self.channel, Append::of(&self.events, None)).unwrap();
        let (Offset(first), _) = appended.committed().unwrap().offsets.unwrap();
        // The expected bytes of each reader, computed while the shard writes them.
        self.frames.clear();
        for (offset, event) in (first..).zip(&self.events) {
            let id = self.hub.position(Offset(offset)).to_string();
            let id = Some(id.as_str());
            let data = event.data.as_bytes();
            sse::encode(&mut self.frames, &sse::Text { id, event_type: None, data });
        }
        self.expected += (self.frames.len() * self.audience) as u64;
        self.tally.wait(self.expected);
    }
}

impl Drop for Hall {
    fn drop(&mut self) {
        self.tally.stop.store(true, SeqCst);
        if let Some(readers) = self.readers.take() {
            let ended = readers.join();
            assert!(ended.is_ok() || thread::panicking(), "the readers died");
        }
    }
}

/// Connects `audience` sockets, and passes their other ends to the shard. Each has read the bytes
/// before the first event.
fn seat(hub: &Hub, egress: &Egress, channel: &ChannelName, audience: usize) -> Vec<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sockets = Vec::with_capacity(audience);
    for _ in 0..audience {
        let mut near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        far.set_nodelay(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let selection = Selection::One(channel.clone());
        let opened = hub.open(selection, &StartFrom::Tail).unwrap();
        let Opened::Live(ticket) = opened else { panic!("the channel is open") };
        let open = OpenStream {
            egress: egress.clone(),
            ticket,
            format: StreamFormat::EventStream,
            coalesce: Coalesce::Off,
            heartbeat: egress.config().heartbeat,
            link: None,
            lease: AccessLease::default(),
        };
        assert!(open.can_be_attached(), "a shard serves it");
        open.attach(far, HEAD.to_vec());
        read_opening(&mut near);
        near.set_nonblocking(true).unwrap();
        sockets.push(TcpStream::from_std(near));
    }
    sockets
}

/// Reads the head and the first chunk, which ends with a blank line.
fn read_opening(near: &mut std::net::TcpStream) {
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut seen = Vec::new();
    let mut piece = [0; 1024];
    while !seen.ends_with(b"\n\n\r\n") {
        let count = near.read(&mut piece).expect("the first chunk");
        assert!(count > 0, "the shard hung up");
        seen.extend_from_slice(&piece[..count]);
    }
}

/// Reads everything, until stopped.
fn drain(mut sockets: Vec<TcpStream>, tally: &Tally) {
    let mut poll = Poll::new().unwrap();
    for (number, socket) in sockets.iter_mut().enumerate() {
        poll.registry().register(socket, Token(number), Interest::READABLE).unwrap();
    }
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 64 * 1024];
    while !tally.stop.load(SeqCst) {
        poll.poll(&mut events, Some(Duration::from_millis(20))).unwrap();
        for event in &events {
            read_all(&mut sockets[event.token().0], &mut buffer, tally);
        }
    }
}

fn read_all(socket: &mut TcpStream, buffer: &mut [u8], tally: &Tally) {
    loop {
        match socket.read(buffer) {
            Ok(0) => panic!("the shard hung up"),
            Ok(count) => {
                tally.add(count);
                // A short read has emptied the socket; later data is a new edge.
                if count < buffer.len() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn sweeps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sweep");
    for audience in AUDIENCES {
        for pending in PENDING {
            let id = format!("{audience} sockets, {pending} pending");
            group.throughput(Throughput::Elements((audience * pending) as u64));
            // Opened on first use, so that a filter on the command line opens only what it selects.
            let mut hall = None;
            group.bench_function(id, |bencher| {
                let hall = hall.get_or_insert_with(|| Hall::open(audience, pending));
                bencher.iter(|| hall.round());
            });
        }
    }
    group.finish();
}

/// Two descriptors for each socket: more than many a shell allows by default.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("up to the hard limit");
}

fn main() {
    raise_open_files();
    let mut criterion = Criterion::default().configure_from_args();
    sweeps(&mut criterion);
    criterion.final_summary();
}

//! A hub as the log sees it: a reader that records, and a sender that sends again what is lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_cluster::log::{
    LogEnd, LogInfo, LogReader, LogWriter, Message, NotStored, SendNumber, Sequence,
};
use fanfare_cluster::nats::{
    Config, Credentials, Feed, NatsLog, StartError, Storage, StreamSettings, Tls,
};
use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

/// Maximum time that a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// The time after which a message that was not read is sent again.
const RESEND: Duration = Duration::from_secs(1);

/// What a reader has received.
#[derive(Default)]
pub struct Recorded {
    pub info: Option<LogInfo>,
    pub messages: Vec<Message>,
    pub caught_up_at: Option<usize>,
    pub not_stored: Vec<(SendNumber, NotStored)>,
    pub broadcasts: Vec<Bytes>,
    pub end: Option<LogEnd>,
    pub last_read: Option<Instant>,
    /// The longest time between two messages.
    pub longest_silence: Duration,
}

#[derive(Default)]
struct Shared {
    recorded: Mutex<Recorded>,
    changed: Condvar,
}

struct Recorder(Arc<Shared>);

impl Recorder {
    fn record(&self, change: impl FnOnce(&mut Recorded)) {
        let mut recorded = self.0.recorded.lock();
        assert!(recorded.end.is_none(), "a call after the end");
        change(&mut recorded);
        self.0.changed.notify_all();
    }
}

impl LogReader for Recorder {
    fn opened(&mut self, log: LogInfo) {
        self.record(|recorded| assert!(recorded.info.replace(log).is_none(), "opened twice"));
    }

    fn message(&mut self, message: Message) {
        self.record(|recorded| {
            let last = recorded.messages.last().map(|last| last.sequence);
            assert!(recorded.info.is_some(), "not opened");
            let next = last.map_or(message.sequence, Sequence::next);
            assert_eq!(message.sequence, next, "a hole, or a message twice");
            recorded.messages.push(message);
            let now = Instant::now();
            let silence = recorded.last_read.map_or(Duration::ZERO, |last| now - last);
            recorded.longest_silence = recorded.longest_silence.max(silence);
            recorded.last_read = Some(now);
        });
    }

    fn caught_up(&mut self) {
        self.record(|recorded| {
            assert!(recorded.caught_up_at.replace(recorded.messages.len()).is_none(), "twice");
        });
    }

    fn not_stored(&mut self, number: SendNumber, reason: NotStored) {
        self.record(|recorded| recorded.not_stored.push((number, reason)));
    }

    fn broadcast(&mut self, content: Bytes) {
        self.record(|recorded| {
            assert!(recorded.info.is_some(), "not opened");
            recorded.broadcasts.push(content);
        });
    }

    fn ended(&mut self, reason: LogEnd) {
        self.record(|recorded| recorded.end = Some(reason));
    }
}

/// Returns the settings of a hub for these servers, without replicas.
pub fn config(servers: &[String]) -> Config {
    Config {
        servers: servers.to_vec(),
        name: "test".to_owned(),
        node: "hub".to_owned(),
        credentials: Credentials::None,
        tls: Tls::default(),
        domain: None,
        secret: None,
        feed: Feed::Tail,
        stream: StreamSettings {
            create: true,
            replicas: 1,
            storage: Storage::File,
            max_bytes: 64 << 20,
            max_age: Duration::from_secs(3600),
            lease: Duration::from_secs(5),
        },
    }
}

/// A hub on the log.
pub struct Hub {
    pub log: NatsLog,
    name: u32,
    shared: Arc<Shared>,
    sent: u32,
    read: u32,
    checked: usize,
    in_flight: VecDeque<(u32, Instant)>,
}

impl Hub {
    pub fn start(config: Config) -> Self {
        Self::try_start(config).expect("valid settings")
    }

    pub fn try_start(config: Config) -> Result<Self, StartError> {
        Self::try_start_from(config, None)
    }

    /// Starts a hub that reads from a message on.
    pub fn start_from(config: Config, from: Sequence) -> Self {
        Self::try_start_from(config, Some(from)).expect("valid settings")
    }

    fn try_start_from(config: Config, from: Option<Sequence>) -> Result<Self, StartError> {
        let shared: Arc<Shared> = Arc::default();
        let log = NatsLog::start(config, from, Box::new(Recorder(Arc::clone(&shared))))?;
        let (name, in_flight) = (fastrand::u32(..), VecDeque::new());
        Ok(Self { log, name, shared, sent: 0, read: 0, checked: 0, in_flight })
    }

    /// Waits until what was recorded is as wanted.
    pub fn wait(&self, what: &str, is_wanted: impl Fn(&Recorded) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut recorded = self.shared.recorded.lock();
        while !is_wanted(&recorded) {
            let waited = self.shared.changed.wait_until(&mut recorded, deadline.into_std());
            assert!(
                !waited.timed_out(),
                "no {what}: {} messages, end {:?}, {:?}",
                recorded.messages.len(),
                recorded.end,
                self.log.health()
            );
        }
    }

    pub fn recorded<T>(&self, get: impl FnOnce(&Recorded) -> T) -> T {
        get(&self.shared.recorded.lock())
    }

    /// Returns the longest time between two messages since the last call.
    pub fn take_silence(&self) -> Duration {
        std::mem::take(&mut self.shared.recorded.lock().longest_silence)
    }

    pub fn opened(self) -> Self {
        self.wait("open log", |recorded| recorded.caught_up_at.is_some());
        self
    }

    /// Waits for the end of the log, and returns it.
    pub fn end(&self) -> LogEnd {
        self.wait("end", |recorded| recorded.end.is_some());
        self.recorded(|recorded| recorded.end.clone()).expect("an end")
    }

    /// Waits until the health has a problem with this text.
    pub fn wait_for_problem(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        let has_text = |problem: Option<Box<str>>| problem.is_some_and(|it| it.contains(text));
        while !has_text(self.log.health().problem) {
            assert!(Instant::now() < deadline, "no `{text}`: {:?}", self.log.health());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns whether this hub has sent the message under this number.
    pub fn is_own(&self, message: &Message, number: SendNumber) -> bool {
        let (name, sent) = origin(message);
        (name, u64::from(sent)) == (self.name, number.0)
    }

    /// Sends one message, once.
    pub fn send(&mut self, size: usize) -> SendNumber {
        self.sent += 1;
        self.log.send(SendNumber(self.sent.into()), content(self.name, self.sent, size));
        SendNumber(self.sent.into())
    }

    /// Sends further messages, at most `window` at once, and again until they are read.
    pub fn load(&mut self, count: u32, size: usize, window: usize) {
        let last = self.sent + count;
        let deadline = Instant::now() + PATIENCE;
        while self.read < last {
            assert!(Instant::now() < deadline, "a message is not read: {:?}", self.log.health());
            while self.in_flight.len() < window && self.sent < last {
                let number = self.send(size).0 as u32;
                self.in_flight.push_back((number, Instant::now()));
            }
            self.check(Duration::from_millis(20));
            if self.in_flight.front().is_some_and(|(_, sent)| sent.elapsed() > RESEND) {
                for (number, sent) in &mut self.in_flight {
                    let number = *number;
                    let again = content(self.name, number, size);
                    self.log.send(SendNumber(number.into()), again);
                    *sent = Instant::now();
                }
            }
        }
    }

    /// Looks for own messages among those that were read since the last call. A number counts if it
    /// is the next, as in the state machine.
    fn check(&mut self, patience: Duration) {
        let mut recorded = self.shared.recorded.lock();
        if recorded.messages.len() == self.checked {
            self.shared.changed.wait_for(&mut recorded, patience);
        }
        for message in &recorded.messages[self.checked..] {
            if origin(message) == (self.name, self.read + 1) {
                self.read += 1;
                self.in_flight.retain(|(number, _)| *number > self.read);
            }
        }
        self.checked = recorded.messages.len();
    }
}

/// Returns a message of a hub: its name, its number, and some bytes.
fn content(name: u32, number: u32, size: usize) -> Bytes {
    let mut content = Vec::with_capacity(size.max(8));
    content.extend_from_slice(&name.to_le_bytes());
    content.extend_from_slice(&number.to_le_bytes());
    content.resize(size.max(8), b'x');
    content.into()
}

/// Returns the name of the hub that has sent a message, and the message's number.
pub fn origin(message: &Message) -> (u32, u32) {
    let number = |at: usize| {
        let bytes = message.content[at..at + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes)
    };
    (number(0), number(4))
}

/// Waits until all hubs have read as much as the log has, and checks that they have read the same.
pub fn assert_equal(hubs: &[&Hub], last: Sequence) {
    let read_all = |recorded: &Recorded| {
        recorded.messages.last().is_some_and(|message| message.sequence >= last)
    };
    for hub in hubs {
        hub.wait("last message", read_all);
    }
    let all = |hub: &Hub| {
        hub.recorded(|recorded| {
            let until = recorded.messages.iter().take_while(|message| message.sequence <= last);
            until.cloned().collect::<Vec<_>>()
        })
    };
    let first = all(hubs[0]);
    for hub in &hubs[1..] {
        let other = all(hub);
        let from = first[0].sequence.max(other[0].sequence);
        let tail = |messages: &[Message]| {
            messages.iter().filter(|message| message.sequence >= from).cloned().collect::<Vec<_>>()
        };
        assert!(tail(&first) == tail(&other), "two hubs have read different messages");
    }
}

//! A hub of the model: a sender and a replica, which notes where it has seen each event.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use fanfare_cluster::batch::Codec;
use fanfare_cluster::command::{Command, Hello};
use fanfare_cluster::fake::{FakeLog, FakeReader};
use fanfare_cluster::log::{LogEnd, LogTime, Sequence};
use fanfare_cluster::offset::Offset;
use fanfare_cluster::sender::{Limits, Reports, Sender};
use fanfare_cluster::state_machine::{Applied, Change, Effect, StateMachine};

const LEASE: Duration = Duration::from_secs(5);

/// So small that many batches have parts.
const MAX_MESSAGE: usize = 300;

pub struct Hub {
    /// Which hub this is, of all that have ever been.
    pub life: u64,
    pub state: StateMachine,
    pub sender: Sender<u64>,
    reader: FakeReader,
    /// The first message that it has read.
    pub front: Option<Sequence>,
    time: LogTime,
    /// The time for which it has read.
    read_for: Duration,
    /// The message from which on its state is that of the others.
    settled: Option<Sequence>,
    pub events: HashMap<String, Offset>,
    /// The holds that it was given: channel, life and hold.
    pub holds: VecDeque<(usize, Offset, Offset)>,
    hello: Hello,
    /// When it has sent again what it knows, and the last message by then.
    pub renewed: (Duration, Sequence),
    /// When all its commands were applied.
    idle_at: Duration,
    pub paused_until: Duration,
}

impl Hub {
    pub fn new(life: u64, epoch: &str, log: &FakeLog) -> Self {
        let hello = Hello { level: 1, nonce: life << 32, ..Hello::default() };
        let limits = Limits { max_message: MAX_MESSAGE, ..Limits::default() };
        Self {
            life,
            state: StateMachine::new(Codec::default(), epoch.into(), LEASE),
            sender: Sender::new(Codec::default(), hello.clone(), limits),
            reader: log.reader(),
            front: None,
            time: LogTime::default(),
            read_for: Duration::ZERO,
            settled: None,
            events: HashMap::new(),
            holds: VecDeque::new(),
            hello,
            renewed: (Duration::ZERO, Sequence(0)),
            idle_at: Duration::MAX,
            paused_until: Duration::ZERO,
        }
    }

    pub fn submit(&mut self, command: &Command, id: u64) {
        self.sender.submit(command, id).unwrap();
    }

    /// Returns whether the hub decides on a message as all others do: not if it has begun to read
    /// shortly before it, after the front of the log.
    pub fn knows(&self, sequence: Sequence) -> bool {
        let settled = self.settled.is_some_and(|settled| sequence >= settled);
        self.front == Some(Sequence(1)) || settled
    }

    /// Returns whether the hub serves clients: the log is kept for so long that it knows the state
    /// by the time at which it has read all of it.
    pub fn serves(&self) -> bool {
        self.state.last().is_some_and(|last| self.knows(last))
    }

    /// Notes a message that was read. A long step of the log counts as two seconds.
    fn note_time(&mut self, applied: &Applied) {
        self.front.get_or_insert(applied.sequence);
        let step = applied.time.0.saturating_sub(self.time.0);
        let first = self.time == LogTime::default();
        self.read_for += Duration::from_nanos(if first { 0 } else { step.min(2_000_000_000) });
        self.time = applied.time;
        if self.read_for > LEASE * 4 {
            self.settled.get_or_insert(applied.sequence);
        }
    }

    /// Reads and applies one message, if there is one.
    pub fn read(
        &mut self,
        log: &mut FakeLog,
        now: Duration,
    ) -> Result<Option<(Applied, Reports<u64>)>, LogEnd> {
        let Some(message) = self.reader.read(log)? else { return Ok(None) };
        let applied = self.state.apply(&message).unwrap();
        self.note_time(&applied);
        for effect in &applied.effects {
            if !self.knows(applied.sequence) {
                break;
            }
            if let Effect::Channel { change: Change::Appended { first, events, .. }, .. } = effect {
                for (index, event) in events.iter().enumerate() {
                    let at = first.plus(index as u64);
                    let text = event.data.as_str().trim_end_matches('.');
                    let before = self.events.insert(text.to_owned(), at);
                    assert_eq!(before, None, "{text} is doubled at {at:?}");
                }
            }
        }
        let reports = self.sender.applied(&applied, now);
        Ok(Some((applied, reports)))
    }

    /// Returns what it must send again.
    pub fn renewals(&self) -> Vec<Command> {
        let session = self.sender.session().unwrap_or_default();
        self.state.renewals(session, &self.hello, self.renewed.1).collect()
    }

    /// Drops the holds that are over. A log that is trimmed needs it: a replica that has begun
    /// later cannot know of a hold from before its front that it is over.
    pub fn drop_holds(&mut self, applied: &Applied) {
        for effect in &applied.effects {
            let Effect::Channel { name, change, .. } = effect else { continue };
            let is_over = |of: usize| format!("channel {of}") == name.as_str();
            match change {
                Change::Appended { end: None, .. } | Change::Configured { .. } => {}
                Change::Back { hold, .. } => {
                    self.holds.retain(|(of, _, own)| !is_over(*of) || own == hold)
                }
                _ => self.holds.retain(|(of, ..)| !is_over(*of)),
            }
        }
    }

    /// Returns whether a command waits for longer than the log is kept: it may name a life that is
    /// over, which a replica that has begun later cannot know. A hub begins again instead.
    pub fn is_cut_off(&mut self, now: Duration) -> bool {
        if self.sender.is_idle() {
            self.idle_at = now;
        }
        now.saturating_sub(self.idle_at) > Duration::from_secs(10)
    }

    /// Sends all that can be sent now.
    pub fn send(&mut self, log: &mut FakeLog, now: Duration) {
        while let Some((number, content)) = self.sender.poll(now) {
            assert!(content.len() <= MAX_MESSAGE);
            if let Err(reason) = log.send(content) {
                self.sender.not_stored(number, reason, now);
            }
        }
    }
}

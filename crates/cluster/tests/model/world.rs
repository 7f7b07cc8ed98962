//! The model's hubs, log and clients, and the oracle.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use fanfare_cluster::command::{
    Append, Close, Command, Configure, Delete, EndState, EpochChange, NewEvent, Options, Produce,
    Release, Stop,
};
use fanfare_cluster::fake::{FakeLog, Faults};
use fanfare_cluster::log::{LogEnd, Sequence};
use fanfare_cluster::offset::Offset;
use fanfare_cluster::sender::{Refused, Reports};
use fanfare_cluster::state_machine::{Applied, Outcome};

use crate::hub::Hub;
use crate::publisher::Publisher;

const HUBS: usize = 3;

/// The interval at which hubs send again what they know: a part of the age of the log.
const RENEWAL: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The log keeps all messages.
    Complete,
    /// The log loses old messages.
    Trimmed,
    /// The log loses its latest messages.
    Truncated,
}

/// A command, and what became of it.
struct Asked {
    /// The hub that sent it.
    life: u64,
    channel: usize,
    events: Vec<String>,
    outcome: Option<Result<Outcome, Refused>>,
}

pub struct World {
    kind: Kind,
    random: fastrand::Rng,
    log: FakeLog,
    hubs: Vec<Option<Hub>>,
    now: Duration,
    ids: u64,
    lives: u64,
    epoch: String,
    asked: BTreeMap<u64, Asked>,
    /// What each message did, by the front of the replica.
    applied: HashMap<(Sequence, Sequence), Applied>,
    publishers: Vec<Publisher>,
    /// The first message that was lost from the tail.
    lost_from: Sequence,
}

impl World {
    pub fn new(kind: Kind, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut some = |most| if random.bool() { random.u32(..most) } else { 0 };
        let (refused, lost, late) = (some(30), some(30), some(20));
        let (doubled, hole) = (some(20), some(10));
        // Within the age of a log, hubs must be able to send again what they know.
        let room = if kind == Kind::Trimmed { 0 } else { some(20) };
        let publishers = if kind == Kind::Complete { random.usize(..4) } else { 0 };
        // A publisher, or another epoch, cannot do without a command.
        let may_refuse = kind != Kind::Truncated && publishers == 0;
        let refused_for_good = if may_refuse { random.u32(..5) } else { 0 };
        let faults = Faults { refused, refused_for_good, lost, late, doubled, hole, room };
        let lines = |name| Publisher::new(name, 1 + name as u64 * 7);
        Self {
            kind,
            log: FakeLog::new(random.u64(..), faults),
            random,
            hubs: (0..HUBS).map(|_| None).collect(),
            now: Duration::from_secs(1),
            ids: 0,
            lives: 0,
            epoch: "epoch0".to_owned(),
            asked: BTreeMap::new(),
            applied: HashMap::new(),
            publishers: (0..publishers).map(lines).collect(),
            lost_from: Sequence(u64::MAX),
        }
    }

    pub fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            let at = self.random.usize(..HUBS);
            match self.random.u32(..300) {
                0..2 => self.hubs[at] = None,
                2..4 => {
                    let time = Duration::from_millis(self.random.u64(..9000));
                    if let Some(hub) = &mut self.hubs[at] {
                        hub.paused_until = self.now + time;
                    }
                }
                4..6 => self.log.stop(Duration::from_millis(self.random.u64(..10_000))),
                6..12 if self.kind == Kind::Trimmed => self.log.trim(Duration::from_secs(12)),
                6..8 if self.kind == Kind::Truncated => self.truncate(),
                _ => self.command(at),
            }
            let step = Duration::from_millis(self.random.u64(..200));
            let starts = self.random.u32(..20) == 0;
            self.step(step, starts);
        }
    }

    fn truncate(&mut self) {
        let before = self.log.last();
        self.log.truncate(self.random.usize(1..10));
        if self.log.last() < before {
            self.lost_from = self.lost_from.min(self.log.last().next());
        }
    }

    /// Lets the time pass, and everything run until all commands are applied.
    pub fn heal(&mut self) {
        self.log.set_faults(Faults::default());
        self.log.stop(Duration::ZERO);
        for hub in self.hubs.iter_mut().flatten() {
            hub.paused_until = Duration::ZERO;
        }
        let step = Duration::from_millis(50);
        for _ in 0..1200 {
            self.step(step, true);
            let idle = self.hubs.iter().flatten().filter(|hub| hub.sender.is_idle()).count();
            if idle == HUBS && self.publishers.iter().all(|publisher| publisher.is_done) {
                return self.read_all();
            }
        }
        panic!("a command or a publisher does not complete");
    }

    fn read_all(&mut self) {
        let is_read = |world: &Self| {
            let last = world.log.last();
            let has_read = |hub: &&Hub| hub.state.last().unwrap_or_default() == last;
            world.hubs.iter().flatten().filter(has_read).count() == HUBS
        };
        for _ in 0..100 {
            if is_read(self) {
                return;
            }
            self.now += Duration::from_millis(100);
            self.log.advance(Duration::from_millis(100));
            (0..HUBS).for_each(|at| self.read(at));
        }
        panic!("a hub does not read all of the log");
    }

    fn step(&mut self, step: Duration, starts: bool) {
        self.now += step;
        self.log.advance(step);
        for at in 0..HUBS {
            if self.hubs[at].is_none() && starts {
                self.lives += 1;
                self.hubs[at] = Some(Hub::new(self.lives, &self.epoch, &self.log));
            }
            let is_cut_off = |hub: &mut Hub| hub.is_cut_off(self.now);
            if self.kind == Kind::Trimmed && self.hubs[at].as_mut().is_some_and(is_cut_off) {
                self.hubs[at] = None;
            }
            if self.hubs[at].as_ref().is_some_and(|hub| hub.paused_until <= self.now) {
                self.read(at);
                if self.kind == Kind::Trimmed {
                    self.renew(at);
                }
                if let Some(hub) = &mut self.hubs[at] {
                    hub.send(&mut self.log, self.now);
                }
            }
        }
        let Self { publishers, hubs, random, ids, asked, .. } = self;
        for publisher in publishers {
            let outcome = |id| asked.get(&id).and_then(|asked: &Asked| asked.outcome?.ok());
            publisher.step(hubs, random, ids, outcome);
        }
    }

    /// Reads all that one hub can read. Its state must be that of the others at each message.
    fn read(&mut self, at: usize) {
        let Some(mut hub) = self.hubs[at].take() else { return };
        loop {
            match hub.read(&mut self.log, self.now) {
                Ok(Some((applied, reports))) => {
                    let front = hub.front.unwrap();
                    let place = (front, applied.sequence);
                    if self.kind != Kind::Truncated {
                        let first = self.applied.entry(place).or_insert_with(|| applied.clone());
                        assert_eq!(*first, applied, "hub {}", hub.life);
                    }
                    if self.kind == Kind::Trimmed {
                        hub.drop_holds(&applied);
                    }
                    self.note(&mut hub, reports);
                }
                Ok(None) => break,
                Err(LogEnd::Replaced(_)) => {
                    return self.begin_epoch(at);
                }
                Err(LogEnd::Deleted { .. }) => return,
                Err(LogEnd::Refused(reason)) => panic!("{reason}"),
            }
        }
        self.hubs[at] = Some(hub);
    }

    /// The log is another one than this hub has read: it starts again, with another epoch.
    fn begin_epoch(&mut self, at: usize) {
        self.lives += 1;
        let mut hub = Hub::new(self.lives, &self.epoch, &self.log);
        let new = format!("epoch{}", self.lives);
        let change = EpochChange { old: self.epoch.as_str().into(), new: new.as_str().into() };
        self.ids += 1;
        hub.submit(&Command::Epoch(change), self.ids);
        self.hubs[at] = Some(hub);
    }

    fn note(&mut self, hub: &mut Hub, reports: Reports<u64>) {
        for (id, outcome) in reports {
            let asked = self.asked.entry(id).or_insert_with(|| Asked {
                life: hub.life,
                channel: 0,
                events: Vec::new(),
                outcome: None,
            });
            assert!(asked.outcome.is_none() && asked.life == hub.life, "command {id} is reported");
            asked.outcome = Some(outcome);
            if let Ok(Outcome::Produces { hold, life }) = outcome {
                hub.holds.push_back((asked.channel, life, hold));
            }
        }
    }

    /// Sends again what hubs that begin to read later need to know.
    fn renew(&mut self, at: usize) {
        let is_due = |hub: &&mut Hub| hub.serves() && hub.renewed.0 + RENEWAL <= self.now;
        let Some(hub) = self.hubs[at].as_mut().filter(is_due) else { return };
        let commands = hub.renewals();
        hub.renewed = (self.now, hub.state.last().unwrap());
        for command in commands {
            self.ids += 1;
            hub.submit(&command, self.ids);
        }
    }

    fn command(&mut self, at: usize) {
        let Some(hub) = self.hubs[at].as_mut().filter(|hub| hub.serves()) else { return };
        self.ids += 1;
        let channel = self.random.usize(..4);
        let name = || format!("channel {channel}").into();
        // Of a few parts, or of more than are sent at once.
        let length = match self.random.u32(..300) {
            0 => 5000,
            1..15 => 700,
            _ => 0,
        };
        let event = |index| {
            let filler = ".".repeat(length);
            format!("command {} event {index}{filler}", self.ids)
        };
        let events: Vec<_> = (0..self.random.usize(1..4)).map(event).collect();
        let append = Append {
            channel: name(),
            events: events.iter().map(|text| data(text)).collect(),
            ..Append::default()
        };
        let hold = if self.random.bool() { hub.holds.back() } else { None };
        // A replica that begins later does not know of ends: they are kept for a small part of the
        // age of the log.
        let (kept, kept_early) = if self.kind == Kind::Trimmed { (500, 200) } else { (3000, 0) };
        let (command, events, channel) = match (self.random.u32(..20), hold) {
            (0..9, Some((channel, life, hold))) => {
                let append = Append {
                    channel: format!("channel {channel}").into(),
                    life: Some(*life),
                    hold: Some(*hold),
                    ..append
                };
                (Command::Append(append), events, *channel)
            }
            (9, Some((channel, _, hold))) => {
                let name = format!("channel {channel}").into();
                let release = Release { channel: name, hold: *hold, reason: None };
                (Command::Release(release), Vec::new(), *channel)
            }
            (10, _) => {
                let close = Close { state: EndState::Complete, reason: None, kept };
                (Command::Append(Append { close: Some(close), ..append }), events, channel)
            }
            (11 | 12, _) => {
                let produce = Produce { channel: name(), format: None };
                (Command::Produce(produce), Vec::new(), channel)
            }
            (13, _) => {
                let stop = Stop { channel: name(), kept, kept_early, ..Stop::default() };
                (Command::Stop(stop), Vec::new(), channel)
            }
            (15, _) => {
                let max_age = Some(self.random.u64(..9));
                let options = Options { max_age, ..Options::default() };
                (Command::Configure(Configure { channel: name(), options }), Vec::new(), channel)
            }
            (14, _) => (Command::Delete(Delete { channel: name() }), Vec::new(), channel),
            _ => (Command::Append(append), events, channel),
        };
        let events = events.iter().map(|text| text.trim_end_matches('.').to_owned()).collect();
        hub.submit(&command, self.ids);
        let asked = Asked { life: hub.life, channel, events, outcome: None };
        self.asked.insert(self.ids, asked);
    }

    /// The oracle.
    pub fn check(&self) {
        let hubs: Vec<_> = self.hubs.iter().flatten().collect();
        for hub in &hubs {
            let same_front = hubs.iter().filter(|other| other.front == hub.front);
            for other in same_front {
                assert!(hub.state.is_equal(&other.state), "the states differ");
            }
            for asked in self.asked.values() {
                self.check_command(asked, hub);
            }
            for publisher in &self.publishers {
                for line in 0..publisher.lines {
                    assert!(hub.events.contains_key(&publisher.line(line)), "line {line}");
                }
            }
        }
        self.check_order();
    }

    fn check_command(&self, asked: &Asked, hub: &Hub) {
        let found: Vec<_> = asked.events.iter().map(|event| hub.events.get(event)).collect();
        match asked.outcome {
            Some(Ok(Outcome::Appended(appended))) => {
                let Some((first, _)) = appended.offsets else { return };
                if first.sequence() >= self.lost_from || !hub.knows(first.sequence()) {
                    return;
                }
                for (index, found) in found.into_iter().enumerate() {
                    assert_eq!(found, Some(&first.plus(index as u64)), "{}", asked.events[index]);
                }
            }
            Some(_) => {
                let mut found = found.into_iter().flatten();
                assert!(found.all(|at| !hub.knows(at.sequence())), "{:?}", asked.events);
            }
            // The hub has died: all or nothing.
            None => assert!(found.windows(2).all(|pair| pair[0].is_some() == pair[1].is_some())),
        }
    }

    /// What one hub sent is applied in the order in which it was sent.
    fn check_order(&self) {
        let mut last: HashMap<u64, Offset> = HashMap::new();
        for asked in self.asked.values() {
            if let Some(Ok(Outcome::Appended(appended))) = asked.outcome
                && let Some((first, _)) = appended.offsets
            {
                let before = last.insert(asked.life, first);
                assert!(before < Some(first), "{:?} are out of order", asked.events);
            }
        }
    }
}

fn data(text: &str) -> NewEvent {
    NewEvent { event_type: None, data: text.into() }
}

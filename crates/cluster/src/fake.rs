//! A log in memory with faults, for tests: what it does depends on a seed alone.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::log::{LogEnd, LogTime, MAX_BROADCAST, Message, NotStored, Sequence};

/// How often faults happen, in percent of the messages, and how many messages it takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A message is refused, and this is reported.
    pub refused: u32,
    /// A message is refused for good.
    pub refused_for_good: u32,
    /// A message is lost, or only its acknowledgement is: the sender hears nothing in either case.
    /// A broadcast is lost for one reader.
    pub lost: u32,
    /// A message is stored late, after later ones. A broadcast comes after a later one.
    pub late: u32,
    /// A message is stored, and once more later.
    pub doubled: u32,
    /// A reader gets a message, and all after it, only after some time.
    pub hole: u32,
    /// The number of messages that are taken from one call of [`FakeLog::advance`] to the next;
    /// further ones are lost. Any number if it is zero.
    pub room: u32,
}

/// Maximum number of broadcasts that a log keeps for its readers.
const MAX_BROADCASTS: usize = 1000;

/// A log in memory.
#[derive(Debug)]
pub struct FakeLog {
    random: fastrand::Rng,
    faults: Faults,
    messages: VecDeque<Message>,
    last: Sequence,
    now: Duration,
    /// The number of messages that were taken since the time has advanced.
    taken: u32,
    /// Messages that are under way, with the time of their arrival.
    late: Vec<(Duration, Bytes)>,
    stopped_until: Duration,
    /// The first message that replaced another one, if the tail was truncated.
    replaced_from: Option<Sequence>,
    /// Number of truncations.
    life: u64,
    /// Broadcasts, each with its reader; the last ones.
    broadcasts: VecDeque<(u64, Bytes)>,
    /// Number of broadcasts that are no longer kept.
    broadcasts_before: u64,
    /// Number of readers that were made.
    readers: AtomicU64,
}

/// A reader of a [`FakeLog`].
#[derive(Debug)]
pub struct FakeReader {
    id: u64,
    /// Number of broadcasts that came before the next one.
    heard: u64,
    next: Option<Sequence>,
    life: u64,
    hole_until: Duration,
}

impl FakeLog {
    /// Returns an empty log.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            faults,
            messages: VecDeque::new(),
            last: Sequence::default(),
            now: Duration::from_secs(1),
            taken: 0,
            late: Vec::new(),
            stopped_until: Duration::ZERO,
            replaced_from: None,
            life: 0,
            broadcasts: VecDeque::new(),
            broadcasts_before: 0,
            readers: AtomicU64::new(0),
        }
    }

    /// Sets how often faults happen from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Returns the last message.
    #[must_use]
    pub fn last(&self) -> Sequence {
        self.last
    }

    /// Returns the first message that is kept.
    #[must_use]
    pub fn first(&self) -> Sequence {
        self.messages.front().map_or(self.last.next(), |message| message.sequence)
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The message is certainly not stored. In all other cases it may be.
    pub fn send(&mut self, content: Bytes) -> Result<(), NotStored> {
        if self.now < self.stopped_until || self.happens(self.faults.refused) {
            let reasons = [NotStored::Unavailable, NotStored::Overloaded];
            return Err(reasons[self.random.usize(..reasons.len())]);
        }
        if self.happens(self.faults.refused_for_good) {
            return Err(NotStored::Refused);
        }
        let delay = Duration::from_millis(self.random.u64(1..3000));
        self.taken += 1;
        let is_full = self.faults.room > 0 && self.taken > self.faults.room;
        if is_full || self.happens(self.faults.lost) {
            return Ok(());
        }
        if self.happens(self.faults.late) {
            self.late.push((self.now + delay, content));
            return Ok(());
        }
        if self.happens(self.faults.doubled) {
            self.late.push((self.now + delay, content.clone()));
        }
        self.store(content);
        Ok(())
    }

    fn happens(&mut self, percent: u32) -> bool {
        self.random.u32(..100) < percent
    }

    fn store(&mut self, content: Bytes) {
        self.last = self.last.next();
        let skew = self.random.u64(..2_000_000);
        let time = u64::try_from(self.now.as_nanos()).unwrap_or(u64::MAX).saturating_sub(skew);
        self.messages.push_back(Message { sequence: self.last, time: LogTime(time), content });
    }

    /// Lets time pass.
    pub fn advance(&mut self, step: Duration) {
        self.now += step;
        self.taken = 0;
        if self.now >= self.stopped_until {
            let now = self.now;
            let due: Vec<_> = self.late.extract_if(.., |(time, _)| *time <= now).collect();
            for (_, content) in due {
                self.store(content);
            }
        }
    }

    /// Makes the log unavailable for some time.
    pub fn stop(&mut self, time: Duration) {
        self.stopped_until = self.now + time;
    }

    /// Deletes the messages that are older than this.
    pub fn trim(&mut self, age: Duration) {
        let oldest = u64::try_from(self.now.saturating_sub(age).as_nanos()).unwrap_or(u64::MAX);
        while self.messages.front().is_some_and(|message| message.time.0 < oldest) {
            self.messages.pop_front();
        }
    }

    /// Loses messages from the tail. Others get their sequences.
    pub fn truncate(&mut self, count: usize) {
        let left = self.messages.len().saturating_sub(count);
        if let Some(first) = self.messages.get(left) {
            let from = first.sequence;
            self.replaced_from = Some(self.replaced_from.map_or(from, |other| other.min(from)));
            self.last = Sequence(from.0 - 1);
            self.messages.truncate(left);
            self.late.clear();
            self.life += 1;
        }
    }

    /// Returns a reader that begins with the first message.
    #[must_use]
    pub fn reader(&self) -> FakeReader {
        FakeReader {
            id: self.readers.fetch_add(1, Ordering::Relaxed),
            heard: self.broadcasts_end(),
            next: None,
            life: self.life,
            hole_until: Duration::ZERO,
        }
    }

    /// Returns the number of all broadcasts.
    fn broadcasts_end(&self) -> u64 {
        self.broadcasts_before + self.broadcasts.len() as u64
    }
}

impl FakeReader {
    /// Returns the next message, if it can be read now.
    ///
    /// # Errors
    /// The reader must start again.
    pub fn read(&mut self, log: &mut FakeLog) -> Result<Option<Message>, LogEnd> {
        let first = log.first();
        let next = *self.next.get_or_insert(first);
        if let Some(from) = log.replaced_from.filter(|from| self.life != log.life && next > *from) {
            return Err(LogEnd::Replaced(format!("message {} is another one", from.0).into()));
        }
        self.life = log.life;
        if next < first {
            return Err(LogEnd::Deleted { from: next, to: Sequence(first.0 - 1) });
        }
        if log.now < self.hole_until || next > log.last {
            return Ok(None);
        }
        if log.happens(log.faults.hole) {
            self.hole_until = log.now + Duration::from_millis(log.random.u64(1..1500));
            return Ok(None);
        }
        let at = usize::try_from(next.0 - first.0).unwrap_or(usize::MAX);
        let message = log.messages.get(at).cloned();
        self.next = Some(next.next());
        Ok(message)
    }

    /// Sends a broadcast to the other readers.
    pub fn broadcast(&self, log: &mut FakeLog, content: Bytes) {
        if content.len() > MAX_BROADCAST || log.now < log.stopped_until {
            return;
        }
        log.broadcasts.push_back((self.id, content));
        let last = log.broadcasts.len() - 1;
        if last > 0 && log.happens(log.faults.late) {
            log.broadcasts.swap(last - 1, last);
        }
        if log.broadcasts.len() > MAX_BROADCASTS {
            log.broadcasts.pop_front();
            log.broadcasts_before += 1;
        }
    }

    /// Returns the next broadcast of another reader, if there is one.
    pub fn next_broadcast(&mut self, log: &mut FakeLog) -> Option<Bytes> {
        while self.heard < log.broadcasts_end() {
            let at = self.heard.max(log.broadcasts_before);
            self.heard = at + 1;
            let at = usize::try_from(at - log.broadcasts_before).unwrap_or(usize::MAX);
            let (id, content) = log.broadcasts.get(at)?.clone();
            if id != self.id && !log.happens(log.faults.lost) {
                return Some(content);
            }
        }
        None
    }
}

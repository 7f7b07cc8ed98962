//! A client that publishes a body with an idempotency key, until it succeeds: in pieces of any
//! size, and after a failure again from the beginning, at any hub.

use fanfare_cluster::command::{Append, Command, KeyId, KeyUse, Lines, NewEvent, ReleaseKey};
use fanfare_cluster::state_machine::{Outcome, Refusal};

use crate::hub::Hub;

pub struct Publisher {
    name: usize,
    pub lines: u64,
    /// The hub and its life.
    hub: (usize, u64),
    request: u64,
    next: u64,
    /// The command that is under way: its id, and the line after it.
    waits: Option<(u64, u64)>,
    pub is_done: bool,
}

impl Publisher {
    pub fn new(name: usize, lines: u64) -> Self {
        let hub = (0, u64::MAX);
        Self { name, lines, hub, request: 0, next: 0, waits: None, is_done: false }
    }

    pub fn line(&self, line: u64) -> String {
        format!("key {} line {line}", self.name)
    }

    fn key(&self) -> KeyId {
        KeyId::of("scope", &self.name.to_string())
    }

    /// Takes a step: `outcome` returns what became of a command.
    pub fn step(
        &mut self,
        hubs: &mut [Option<Hub>],
        random: &mut fastrand::Rng,
        ids: &mut u64,
        outcome: impl Fn(u64) -> Option<Outcome>,
    ) {
        if self.is_done {
            return;
        }
        let lives = hubs[self.hub.0].as_ref().is_some_and(|hub| hub.life == self.hub.1);
        if !lives || random.u32(..200) == 0 {
            return self.start_again(hubs, random, ids);
        }
        let Some((id, next)) = self.waits else { return self.publish(hubs, random, ids) };
        match outcome(id) {
            None => {}
            Some(Outcome::Appended(_)) => {
                (self.next, self.waits) = (next, None);
                self.is_done = next > self.lines;
            }
            Some(Outcome::Replayed(totals)) => {
                assert_eq!(totals.events, self.lines);
                self.is_done = true;
            }
            Some(Outcome::Refused(Refusal::KeyRunning)) => self.start_again(hubs, random, ids),
            Some(outcome) => panic!("{outcome:?}"),
        }
    }

    /// The client leaves, and its hub notices it, if it lives. Then it tries another one.
    fn start_again(&mut self, hubs: &mut [Option<Hub>], random: &mut fastrand::Rng, ids: &mut u64) {
        *ids += 1;
        if let Some(hub) = hubs[self.hub.0].as_mut().filter(|hub| hub.life == self.hub.1) {
            let release = ReleaseKey { id: self.key(), request: self.request };
            hub.submit(&Command::ReleaseKey(release), *ids);
        }
        let at = random.usize(..hubs.len());
        self.hub = (at, hubs[at].as_ref().map_or(u64::MAX, |hub| hub.life));
        (self.next, self.waits, self.request) = (0, None, *ids);
    }

    fn publish(&mut self, hubs: &mut [Option<Hub>], random: &mut fastrand::Rng, ids: &mut u64) {
        let Some(hub) = hubs[self.hub.0].as_mut() else { return };
        *ids += 1;
        let to = (self.next + random.u64(..4)).min(self.lines);
        let last = to == self.lines;
        let event = |line| NewEvent { event_type: None, data: self.line(line).into() };
        let append = Append {
            channel: format!("keyed {}", self.name % 2).into(),
            events: (self.next..to).map(event).collect(),
            key: Some(KeyUse {
                id: self.key(),
                request: self.request,
                lines: Lines::From(self.next),
                last,
                window: 3_600_000,
            }),
            ..Append::default()
        };
        hub.submit(&Command::Append(append), *ids);
        self.waits = Some((*ids, to + u64::from(last)));
    }
}

//! The model test of viewers: hubs that report their viewers to each other, with losses, pauses and
//! deaths. Each run depends on its seed alone: `SEED=7 cargo test -p fanfare-cluster --test viewers`
//! runs one.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test may

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use fanfare_cluster::batch::Codec;
use fanfare_cluster::command::SessionId;
use fanfare_cluster::fake::{FakeLog, FakeReader, Faults};
use fanfare_cluster::log::{LogTime, Sequence};
use fanfare_cluster::viewers::{RemoteViewers, ViewerReports};

const HUBS: usize = 3;
const CHANNELS: usize = 6;

/// Maximum age of the reports by which a channel counts as unwatched.
const MAX_AGE: Duration = Duration::from_secs(3);

/// Maximum time of one step of the model.
const MAX_STEP: Duration = Duration::from_millis(200);

/// The time after which a viewer is in a report: the interval of reports, and a step.
const REPORTED_AFTER: Duration = Duration::from_millis(700);

/// Time within which a round begins, and ends.
const ROUND: Duration = Duration::from_secs(16);

struct Hub {
    session: SessionId,
    reader: FakeReader,
    local: ViewerReports,
    remote: RemoteViewers,
    viewers: [u64; CHANNELS],
    /// The time since when a channel has viewers.
    watched_since: [Option<Duration>; CHANNELS],
    /// Totals by the changes that were reported to the hub.
    noted: BTreeMap<String, u64>,
    paused_until: Duration,
}

struct World {
    random: fastrand::Rng,
    log: FakeLog,
    codec: Codec,
    now: Duration,
    sessions: u64,
    hubs: Vec<Hub>,
    /// Number of times that all reports were young.
    young: u64,
}

fn name(channel: usize) -> String {
    format!("channel {channel}")
}

impl Hub {
    fn new(id: u64, log: &FakeLog, codec: &Codec, now: Duration) -> Self {
        let session = SessionId(Sequence(id));
        let mut local = ViewerReports::new(codec.clone(), "epoch".into());
        local.begin(session);
        Self {
            session,
            reader: log.reader(),
            local,
            remote: RemoteViewers::new(codec.clone(), "epoch".into()),
            viewers: [0; CHANNELS],
            watched_since: [None; CHANNELS],
            noted: BTreeMap::new(),
            paused_until: now,
        }
    }

    fn set(&mut self, channel: usize, viewers: u64, now: Duration) {
        self.viewers[channel] = viewers;
        self.local.set(&name(channel), viewers);
        let since = self.watched_since[channel].unwrap_or(now);
        self.watched_since[channel] = (viewers > 0).then_some(since);
    }

    fn receive(&mut self, broadcast: &Bytes, is_live: impl Fn(SessionId) -> bool, now: Duration) {
        let changed = self.remote.receive(broadcast, is_live, now).unwrap();
        self.note(changed.into_iter().map(|(channel, total)| (channel.as_str().to_owned(), total)));
    }

    fn end_session(&mut self, session: SessionId) {
        let changed = self.remote.end_session(session);
        self.note(changed.into_iter().map(|(channel, total)| (channel.as_str().to_owned(), total)));
    }

    fn note(&mut self, changed: impl Iterator<Item = (String, u64)>) {
        self.noted.extend(changed);
        for (channel, total) in &self.noted {
            assert_eq!(self.remote.total(channel), *total, "a change of {channel} is not reported");
        }
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut some = |most| if random.bool() { random.u32(..most) } else { 0 };
        let faults = Faults { lost: some(20), late: some(10), ..Faults::default() };
        let log = FakeLog::new(random.u64(..), faults);
        let codec = Codec::new(random.bool().then_some(b"secret"));
        let now = Duration::from_secs(100);
        let hubs = (1..=HUBS as u64).map(|id| Hub::new(id, &log, &codec, now)).collect();
        Self { random, log, codec, now, sessions: HUBS as u64, hubs, young: 0 }
    }

    fn time(&self) -> LogTime {
        LogTime(u64::try_from(self.now.as_nanos()).unwrap())
    }

    fn step(&mut self) {
        let at = self.random.usize(..HUBS);
        match self.random.u32(..1000) {
            0..5 => self.replace(at),
            5..12 => {
                let pause = Duration::from_millis(self.random.u64(..8000));
                self.hubs[at].paused_until = self.now + pause;
            }
            12..15 => self.log.stop(Duration::from_millis(self.random.u64(..4000))),
            15..200 => {
                let (channel, viewers) = (self.random.usize(..CHANNELS), self.random.u64(..4));
                self.hubs[at].set(channel, viewers, self.now);
            }
            _ => {}
        }
        let step = MAX_STEP.mul_f64(self.random.f64());
        self.pass(step);
    }

    /// A hub is killed, and another one starts.
    fn replace(&mut self, at: usize) {
        self.sessions += 1;
        let ended = self.hubs[at].session;
        self.hubs[at] = Hub::new(self.sessions, &self.log, &self.codec, self.now);
        for (other, hub) in self.hubs.iter_mut().enumerate() {
            if other != at {
                hub.end_session(ended);
                hub.local.repeat();
            }
        }
    }

    fn pass(&mut self, step: Duration) {
        self.now += step;
        self.log.advance(step);
        let (now, time) = (self.now, self.time());
        let live: Vec<_> = self.hubs.iter().map(|hub| hub.session).collect();
        for hub in self.hubs.iter_mut().filter(|hub| hub.paused_until <= now) {
            for broadcast in hub.local.poll(now, time) {
                hub.reader.broadcast(&mut self.log, broadcast);
            }
            // A hub that has waited reads some of what waits, and checks what it knows.
            for _ in 0..self.random.usize(..40) {
                let Some(broadcast) = hub.reader.next_broadcast(&mut self.log) else { break };
                hub.receive(&broadcast, |session| live.contains(&session), now);
            }
        }
        (0..HUBS).for_each(|at| self.check_unwatched(at));
    }

    /// Checks that a channel with viewers at another hub does not count as unwatched.
    fn check_unwatched(&mut self, at: usize) {
        let hub = &self.hubs[at];
        let others = self.hubs.iter().filter(|other| other.session != hub.session);
        let sessions = others.clone().map(|other| other.session);
        let oldest = hub.remote.oldest_report(sessions, self.now, self.time());
        if hub.paused_until > self.now || oldest >= MAX_AGE {
            return;
        }
        self.young += 1;
        for other in others {
            for channel in 0..CHANNELS {
                let since = other.watched_since[channel].unwrap_or(self.now);
                let is_watched = since + MAX_AGE + REPORTED_AFTER < self.now;
                assert!(!is_watched || hub.remote.total(&name(channel)) > 0, "unwatched");
            }
        }
    }

    /// Ends all faults, and waits for the next round.
    fn heal(&mut self) {
        self.log.set_faults(Faults::default());
        self.log.stop(Duration::ZERO);
        self.hubs.iter_mut().for_each(|hub| hub.paused_until = Duration::ZERO);
        let end = self.now + ROUND * 2;
        while self.now < end {
            self.pass(MAX_STEP);
        }
    }

    fn check(&self) {
        for hub in &self.hubs {
            let others = self.hubs.iter().filter(|other| other.session != hub.session);
            for channel in 0..CHANNELS {
                let total: u64 = others.clone().map(|other| other.viewers[channel]).sum();
                assert_eq!(hub.remote.total(&name(channel)), total);
            }
            let sessions = others.map(|other| other.session);
            let oldest = hub.remote.oldest_report(sessions, self.now, self.time());
            assert!(oldest <= Duration::from_secs(1) + MAX_STEP * 2, "{oldest:?}");
        }
    }
}

#[test]
fn hubs_know_the_viewers_of_the_others_after_the_next_round() {
    let chosen = std::env::var("SEED").ok().map(|seed| seed.parse().unwrap());
    let seeds = chosen.map_or(0..1000, |seed: u64| seed..seed + 1);
    let mut young = 0;
    for seed in seeds {
        println!("seed {seed}");
        let mut world = World::new(seed);
        (0..1000).for_each(|_| world.step());
        young += world.young;
        world.heal();
        world.check();
    }
    assert!(young > 0, "no report was ever young");
}

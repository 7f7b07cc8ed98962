//! Viewers that resume after their last id at any hub, also while their connection is whole.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use fanfare_testing::eventually;
use fanfare_testing::publishes::moment;
use fanfare_testing::seen::{Seen, assert_ids_grow, assert_same};
use fanfare_testing::wire::{Event, Stream};

use super::cluster::Targets;

/// The longest time at one hub, in milliseconds.
const STAY: u64 = 3000;

/// The time limit of a connection and its response.
const PATIENCE: Duration = Duration::from_secs(2);

/// A viewer of a channel, or of patterns.
pub(crate) struct Viewer {
    path: String,
    shared: Arc<Mutex<Shared>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    seen: Vec<Seen>,
    /// The states of channels that have ended.
    ends: Vec<(String, String)>,
    last_id: Option<String>,
    hops: u32,
    last_event: Option<Instant>,
    longest_silence: Duration,
}

impl Viewer {
    /// Watches one channel from its first event on, until its end.
    pub(crate) fn of_channel(targets: &Targets, channel: &str, rng: fastrand::Rng) -> Self {
        let path = format!("/v1/channels/{channel}?from=earliest");
        Self::start(targets, path, Some(channel), rng)
    }

    /// Watches all channels that match, on one connection.
    pub(crate) fn of_patterns(targets: &Targets, patterns: &[&str], rng: fastrand::Rng) -> Self {
        let channels: String = patterns.iter().map(|name| format!("channel={name}&")).collect();
        Self::start(targets, format!("/v1/events?{channels}from=earliest"), None, rng)
    }

    fn start(targets: &Targets, path: String, channel: Option<&str>, rng: fastrand::Rng) -> Self {
        let shared: Arc<Mutex<Shared>> = Arc::default();
        let watch = Watch {
            targets: targets.clone(),
            path: path.clone(),
            channel: channel.map(str::to_owned),
            rng,
            shared: Arc::clone(&shared),
        };
        Self { path, shared, task: tokio::spawn(watch.run()) }
    }

    /// Returns the longest time between two events.
    pub(crate) fn longest_silence(&self) -> Duration {
        self.shared.lock().longest_silence
    }

    /// Returns how often it has subscribed.
    pub(crate) fn hops(&self) -> u32 {
        self.shared.lock().hops
    }

    /// Asserts that it has seen exactly this log, and the end in this state, if there is one.
    pub(crate) async fn assert_saw(self, log: &[Seen], end: Option<&str>) {
        let what = format!("the viewer of {}", self.path);
        let last = log.last().map(|seen| seen.id.clone());
        eventually(&format!("{what} to see {last:?} and {end:?}"), async || {
            let shared = self.shared.lock();
            let all =
                last.is_none() || shared.seen.iter().any(|seen| Some(&seen.id) == last.as_ref());
            let ended = end.is_none() || !shared.ends.is_empty();
            ((all && ended) || (self.task.is_finished() && end.is_none())).then_some(())
        })
        .await;
        let shared = std::mem::take(&mut *self.shared.lock());
        assert_ids_grow(&shared.seen);
        assert_same(&what, &shared.seen, log);
        if let Some(state) = end {
            assert_eq!(shared.ends.len(), 1, "{what} saw the ends {:?}", shared.ends);
            assert_eq!(shared.ends[0].1, state, "{what}");
        }
    }

    /// Returns the ends that a viewer of patterns has seen.
    pub(crate) fn ends(&self) -> Vec<(String, String)> {
        self.shared.lock().ends.clone()
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watch {
    targets: Targets,
    path: String,
    channel: Option<String>,
    rng: fastrand::Rng,
    shared: Arc<Mutex<Shared>>,
}

impl Watch {
    async fn run(mut self) {
        loop {
            let stay = moment(&mut self.rng, STAY);
            let has_ended = timeout(stay + PATIENCE, self.once(stay)).await;
            if let Ok(Ok(true)) = has_ended {
                return;
            }
            tokio::time::sleep(moment(&mut self.rng, 20)).await;
        }
    }

    /// Stays at a hub for this time. Returns whether the channel is over.
    async fn once(&mut self, stay: Duration) -> io::Result<bool> {
        let addr = self.targets.any(&mut self.rng);
        let last_id = self.shared.lock().last_id.clone();
        let opened =
            timeout(PATIENCE, Stream::try_open(addr, &self.path, last_id.as_deref(), None));
        let mut stream = match opened.await?? {
            Ok(stream) => stream,
            // After the end, which it has seen.
            Err(answer) if answer.status == 204 => return Ok(true),
            Err(answer) => {
                assert_eq!(answer.status, 503, "{}: {answer:?}", self.path);
                return Ok(false);
            }
        };
        self.shared.lock().hops += 1;
        let until = Instant::now() + stay;
        while let Ok(next) = tokio::time::timeout_at(until, stream.next()).await {
            let Some(event) = next? else { return Ok(false) };
            self.see(event, addr);
        }
        Ok(false)
    }

    fn see(&self, event: Event, addr: std::net::SocketAddr) {
        let mut shared = self.shared.lock();
        let now = Instant::now();
        if let Some(before) = shared.last_event.replace(now) {
            shared.longest_silence = shared.longest_silence.max(now - before);
        }
        shared.last_id = Some(event.id.clone());
        let text = |key: &str| {
            let json = event.json();
            json[key].as_str().unwrap_or_else(|| panic!("no {key}: {event:?}")).to_owned()
        };
        match event.name.as_str() {
            "fanfare.end" => shared.ends.push((text("channel"), text("state"))),
            name if name.starts_with("fanfare.") => {
                panic!("{} got from {addr}: {event:?}", self.path)
            }
            _ => {
                let (channel, text) = match &self.channel {
                    Some(channel) => (channel.clone(), event.data.clone()),
                    None => (text("channel"), text("data")),
                };
                shared.seen.push(Seen { id: event.id, channel, text });
            }
        }
    }
}

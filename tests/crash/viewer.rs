//! A subscriber that reconnects, as an `EventSource` does, after its last id, whenever its hub is
//! killed. A gap, or an end without a close, is a panic.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use fanfare_testing::eventually;
use fanfare_testing::publishes::moment;
use fanfare_testing::seen::Seen;

use super::wire::{Event, Stream};

/// The delay of a viewer before it reconnects. An `EventSource` waits longer.
const PAUSE: Duration = Duration::from_millis(5);

/// A subscriber of a channel or a pattern, and its speed.
pub(crate) struct Viewer {
    what: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    hurry: AtomicBool,
    subscribed: AtomicUsize,
}

struct Watch {
    addr: SocketAddr,
    path: String,
    /// The channel, if it is one. On `/v1/events` each envelope names it.
    channel: Option<String>,
    slow: Option<fastrand::Rng>,
    shared: Arc<Shared>,
}

impl Viewer {
    /// Watches one channel from its first event on.
    pub(crate) fn of_channel(addr: SocketAddr, channel: &str) -> Self {
        let path = format!("/v1/channels/{channel}?from=earliest");
        Self::start(addr, path, Some(channel), None)
    }

    /// Watches one channel from its first event on, reading slowly.
    pub(crate) fn slow(addr: SocketAddr, channel: &str, rng: fastrand::Rng) -> Self {
        let path = format!("/v1/channels/{channel}?from=earliest");
        Self::start(addr, path, Some(channel), Some(rng))
    }

    /// Watches all channels that match, on one connection.
    pub(crate) fn of_pattern(addr: SocketAddr, pattern: &str) -> Self {
        Self::start(addr, format!("/v1/events?channel={pattern}&from=earliest"), None, None)
    }

    fn start(
        addr: SocketAddr,
        path: String,
        channel: Option<&str>,
        slow: Option<fastrand::Rng>,
    ) -> Self {
        let manner = if slow.is_some() { "the slow viewer" } else { "the viewer" };
        let what = format!("{manner} of {path}");
        let shared = Arc::new(Shared::default());
        let channel = channel.map(str::to_owned);
        let watch = Watch { addr, path, channel, slow, shared: Arc::clone(&shared) };
        Self { what, shared, task: tokio::spawn(watch.for_ever()) }
    }

    /// Returns whether it has given up, which it does only after a failure.
    pub(crate) fn has_failed(&self) -> bool {
        self.task.is_finished()
    }

    /// Returns the name of this viewer for messages.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Returns the number of its subscriptions.
    pub(crate) fn subscribed(&self) -> usize {
        self.shared.subscribed.load(Ordering::Relaxed)
    }

    /// Returns all events that it has seen, as soon as the event with the last of these ids is
    /// among them. A slow viewer reads at full speed from now on.
    pub(crate) async fn all(mut self, log: &[Seen]) -> Vec<Seen> {
        self.shared.hurry.store(true, Ordering::Relaxed);
        let last = &log.last().expect("events").id;
        let what = format!("{} to see {last}", self.what);
        eventually(&what, async || {
            let failed = self.task.is_finished();
            let arrived = self.shared.seen.lock().last().is_some_and(|seen| seen.id == *last);
            (arrived || failed).then_some(())
        })
        .await;
        if self.task.is_finished() {
            (&mut self.task).await.expect("a viewer that has not failed");
        }
        std::mem::take(&mut *self.shared.seen.lock())
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    async fn for_ever(mut self) {
        let mut last_id = None;
        loop {
            // Killed hubs break connections. Any other failure is a panic.
            let _broken = self.once(&mut last_id).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn once(&mut self, last_id: &mut Option<String>) -> io::Result<()> {
        let buffer = self.slow.is_some().then_some(4096);
        let opened = Stream::open(self.addr, &self.path, last_id.as_deref(), buffer).await?;
        let mut stream = opened.expect("a stream, and not its end");
        self.shared.subscribed.fetch_add(1, Ordering::Relaxed);
        loop {
            let next = stream.next().await;
            last_id.clone_from(&stream.last_id);
            match next? {
                Some(event) => self.see(event),
                None => return Ok(()),
            }
            if let Some(rng) = &mut self.slow
                && !self.shared.hurry.load(Ordering::Relaxed)
            {
                tokio::time::sleep(moment(rng, 10)).await;
            }
        }
    }

    fn see(&self, event: Event) {
        let own = event.name.starts_with("fanfare.");
        assert!(!own, "{} got {event:?}", self.path);
        let (channel, text) = match &self.channel {
            Some(channel) => (channel.clone(), event.data),
            None => {
                let envelope = event.json();
                let text = |key: &str| envelope[key].as_str().expect("text").to_owned();
                (text("channel"), text("data"))
            }
        };
        self.shared.seen.lock().push(Seen { id: event.id, channel, text });
    }
}

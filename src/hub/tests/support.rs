//! Shared by the tests: a hub on a disk that can be blocked, and helpers that observe it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use crate::channel::ChannelName;
use crate::event::NewEvent;
use crate::hub::{
    Append, Bounds, ChannelTicket, Config, Hub, Next, OnLag, Opened, Selection, Step, StopError,
    Stopped, Subscription, Ticket,
};
use crate::position::StartFrom;
use crate::store::disk::tests::gated::{self, Gated, until_all_is_read};
use crate::store::disk::{
    Config as StoreConfig, Disk, Durability, OpenOptions, Recovered, WriteError,
};
use crate::telemetry::Metrics;

/// Time-out for a condition; longer than any of them takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// A hub, its store and its disk.
pub(crate) struct Stage {
    /// Dropped first: a test that fails while syncs are blocked must come to its end.
    opener: Opener,
    pub(crate) files: Gated,
    pub(crate) config: StoreConfig,
    pub(crate) disk: Disk,
    pub(crate) hub: Hub,
    pub(crate) found: Recovered,
}

struct Opener(Gated);

impl Drop for Opener {
    fn drop(&mut self) {
        self.0.open_up();
    }
}

impl Stage {
    pub(crate) fn new(durability: Durability) -> Self {
        Self::of(Gated::new(), gated::store_config(durability), Config::default())
    }

    pub(crate) fn of(files: Gated, config: StoreConfig, channels: Config) -> Self {
        let durable_names = Some(channels.durable_names(config.durability).into());
        let (disk, found) =
            files.store(&config, OpenOptions { durable_names, ..OpenOptions::default() });
        Self::on(files, config, channels, disk, found)
    }

    /// Creates a hub on an open store.
    pub(crate) fn on(
        files: Gated,
        config: StoreConfig,
        channels: Config,
        disk: Disk,
        found: Recovered,
    ) -> Self {
        let hub = Hub::resume(channels, Arc::new(Metrics::new()), &disk, &config, &found);
        Self { opener: Opener(files.clone()), files, config, disk, hub, found }
    }

    /// Starts another hub on the same disk.
    pub(crate) fn restart(self) -> Self {
        let (files, config) = self.shut_down();
        Self::of(files, config, Config::default())
    }

    /// Starts another hub on the disk as a killed process leaves it.
    pub(crate) fn kill(self, config: StoreConfig, channels: Config) -> Self {
        Self::of(self.files.after_kill(), config, channels)
    }

    /// Ends the hub, and then the store.
    pub(crate) fn shut_down(self) -> (Gated, StoreConfig) {
        let Self { opener, files, config, disk, hub, .. } = self;
        drop((opener, hub));
        disk.close();
        (files, config)
    }

    /// Leaves no free space on the disk. A publisher gets the error when its event is written.
    pub(crate) fn fill(&self) {
        self.files.disk.set_free(10);
    }

    /// Leaves no free space on the disk, and waits until the store has noticed.
    pub(crate) fn fill_up(&self) {
        self.fill();
        gated::check_free_space(&self.disk);
        assert_eq!(self.disk.check(), Err(WriteError::Full));
    }

    /// Frees space on the disk, and waits until the store has noticed.
    pub(crate) fn make_room(&self) {
        self.files.disk.set_free(u64::MAX);
        gated::check_free_space(&self.disk);
        assert_eq!(self.disk.check(), Ok(()));
    }

    /// Appends an event and waits for the commit.
    pub(crate) async fn append(&self, channel: &str, text: &str) -> Result<(), String> {
        let events = [event(text)];
        let appended = self.hub.append(&name(channel), Append::of(&events, None)).await;
        appended.map(drop).map_err(|error| error.to_string())
    }

    /// Stops a channel and waits for the commit.
    pub(crate) async fn stop(&self, channel: &str) -> Result<Stopped, StopError> {
        self.hub.stop(&name(channel), None, None, None).await
    }

    pub(crate) async fn subscribe(&self, channel: &str, from: &StartFrom) -> Subscription {
        self.open(channel, from).await.subscribe(bounds())
    }

    /// Opens a subscription as a shard does.
    pub(crate) async fn open_one(&self, channel: &str, from: &StartFrom) -> ChannelTicket {
        self.open(channel, from).await.into_one().unwrap()
    }

    async fn open(&self, channel: &str, from: &StartFrom) -> Ticket {
        for _ in 0..1000 {
            match self.hub.open(Selection::One(name(channel)), from).unwrap() {
                Opened::Live(ticket) => return ticket,
                Opened::Over => panic!("it is over"),
                Opened::Later(later) => later.over().await,
            }
        }
        panic!("it asks for the same for ever");
    }

    /// Returns all events that can be read now.
    pub(crate) fn seen(&self, subscription: &mut Subscription) -> Vec<String> {
        let mut seen = Vec::new();
        let mut idle = 0;
        while idle < 2 {
            match subscription.try_next() {
                Next::Step(Step::Events { batch, .. }) => {
                    seen.extend(batch.entries().map(|entry| format!("event {}", entry.offset.0)));
                }
                Next::Step(Step::Gap(gap)) => seen.push(format!("gap {:?}", gap.reason)),
                Next::Step(_) => seen.push("other".to_owned()),
                Next::Finished => {
                    seen.push("finished".to_owned());
                    return seen;
                }
                Next::Again => {}
                Next::Pending => {
                    // The read may only have started a read from disk.
                    until_all_is_read(&self.disk);
                    idle += 1;
                    continue;
                }
            }
            idle = 0;
        }
        seen
    }

    /// Returns the offset of the first event of a channel.
    pub(crate) fn first(&self, channel: &str) -> u64 {
        self.hub.describe(&name(channel)).unwrap().earliest.unwrap().offset.0
    }
}

pub(crate) fn name(text: &str) -> ChannelName {
    text.parse().unwrap()
}

pub(crate) fn event(text: &str) -> NewEvent {
    NewEvent { event_type: None, data: text.to_owned().into() }
}

/// Polls an operation once, so that it is submitted, and returns the rest of it.
pub(crate) fn begun<F: Future>(operation: F) -> Pin<Box<F>> {
    let mut operation = Box::pin(operation);
    let polled = operation.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending(), "it waits for the disk");
    operation
}

/// Waits for a condition, and names it if it does not come true.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..PATIENCE.as_millis() {
        if is_so() {
            return;
        }
        // A paused clock advances, and the disk, whose time cannot be paused, gets some.
        tokio::time::sleep(Duration::from_millis(5)).await;
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("it never came: {what}");
}

pub(crate) fn bounds() -> Bounds {
    Bounds { max_lag_events: u64::MAX, max_lag_bytes: u64::MAX, on_lag: OnLag::Skip }
}

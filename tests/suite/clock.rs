//! A wall clock that is set: events and keys keep their real age, and event times are those of the
//! wall clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use fanfare::internals::clock::{Clock, Moment};
use serde_json::{Value, json};

use crate::support::{TestHub, assert_ascending, eventually, page_ids, page_texts};

const YEAR: i64 = 365 * DAY;
const DAY: i64 = 86_400;

/// The steady clock at the start of a machine, in microseconds.
const STEADY_START: u64 = 1 << 52;

/// The clocks of a machine: the test sets the wall clock, and advances time.
#[derive(Clone, Default)]
struct Machine(Arc<Times>);

#[derive(Default)]
struct Times {
    /// The seconds by which the wall clock was set.
    set: AtomicI64,
    /// Simulated seconds, in addition to the real ones.
    passed: AtomicU64,
    /// The steady clock at the last restart of the machine.
    started: AtomicU64,
}

impl Machine {
    fn now(&self) -> Moment {
        let Times { set, passed, started } = &*self.0;
        let now = Moment::now();
        let passed = passed.load(SeqCst) * 1_000_000;
        Moment {
            wall: (now.wall + passed).saturating_add_signed(set.load(SeqCst) * 1_000_000),
            steady: now.steady + passed - started.load(SeqCst),
        }
    }

    fn clock(&self) -> Clock {
        let machine = self.clone();
        Clock::of(move || machine.now())
    }

    fn set(&self, seconds: i64) {
        self.0.set.fetch_add(seconds, SeqCst);
    }

    fn pass(&self, time: Duration) {
        self.0.passed.fetch_add(time.as_secs(), SeqCst);
    }

    /// Restarts the steady clock, as of a second ago.
    fn restart(&self) {
        let runs = self.now().steady - STEADY_START;
        self.0.started.fetch_add(runs - 1_000_000, SeqCst);
    }

    /// Returns the date of the wall clock.
    fn date(&self) -> String {
        fanfare::internals::clock::rfc3339(self.now().wall)[..10].to_owned()
    }
}

/// A machine with a directory. Channels `d/…` are durable, all others are not.
struct Place {
    machine: Machine,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { machine: Machine::default(), folder: tempfile::tempdir().expect("a folder") }
    }

    async fn hub(&self) -> TestHub {
        let path = self.folder.path().display();
        let settings = format!(
            "store.path = \"{path}\"\nstore.min_free = \"1MiB\"\ndrain.window = \"50ms\"\n\
             channels.max_age = \"1h\"\nchannels.idle_timeout = \"1day\"\n\
             publish.idempotency_window = \"10m\"\n\
             [[channels.rules]]\npattern = \"d/*\"\ndurability = \"sync\"\n"
        );
        TestHub::with_clock(&settings, self.machine.clock()).await
    }

    /// Starts another hub in place of this one.
    async fn restart(&self, mut hub: TestHub) -> TestHub {
        self.stop(&mut hub).await;
        self.hub().await
    }

    async fn stop(&self, hub: &mut TestHub) {
        hub.drain();
        hub.stopped().await;
    }

    /// Changes the directory as a restart of the machine would.
    fn note_restart(&self) {
        self.machine.restart();
        let path = self.folder.path().join("fanfare.store");
        let mut identity: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        identity["boot"] = json!("another");
        identity.as_object_mut().unwrap().remove("checksum");
        std::fs::write(&path, identity.to_string()).unwrap();
    }
}

const CHANNELS: [&str; 2] = ["m", "d/1"];

async fn retained(hub: &TestHub, channel: &str) -> Vec<String> {
    let page = hub.page(channel, "from=earliest").await;
    page_texts(&page).into_iter().map(str::to_owned).collect()
}

/// Waits until the hub has checked the age of every event.
async fn swept(hub: &TestHub, machine: &Machine) {
    static SWEEPS: AtomicU64 = AtomicU64::new(0);
    let channel = format!("sweep/{}", SWEEPS.fetch_add(1, SeqCst));
    assert_eq!(hub.put(&channel, r#"{"max_age":"2s"}"#).await.status(), 201);
    hub.publish(&channel, "old").await;
    machine.pass(Duration::from_secs(5));
    let gone = async || retained(hub, &channel).await.is_empty();
    eventually("a sweep", gone).await;
    // A second round, because the first sweep may have begun before the call.
    hub.publish(&channel, "old").await;
    machine.pass(Duration::from_secs(5));
    eventually("a sweep", gone).await;
}

async fn publish_everywhere(hub: &TestHub, data: &str) {
    for channel in CHANNELS {
        hub.publish(channel, data).await;
    }
}

#[tokio::test]
async fn events_leave_at_their_real_age_and_show_what_the_wall_clock_said() {
    // Forward, back, and forward temporarily.
    for jumps in [[YEAR, 0], [-DAY, 0], [YEAR, -YEAR], [-3 * YEAR, 2 * YEAR]] {
        let place = Place::new();
        let hub = place.hub().await;
        let machine = &place.machine;
        let mut dates = vec![machine.date()];
        publish_everywhere(&hub, "0").await;
        for (number, jump) in ["1", "2"].iter().zip(jumps) {
            machine.set(jump);
            swept(&hub, machine).await;
            machine.pass(Duration::from_secs(600));
            dates.push(machine.date());
            publish_everywhere(&hub, number).await;
        }
        swept(&hub, machine).await;
        for channel in CHANNELS {
            let page = hub.page(channel, "from=earliest").await;
            assert_eq!(page_texts(&page), ["0", "1", "2"], "{channel} {jumps:?}");
            assert_ascending(page_ids(&page).iter().map(String::as_str));
            let events = page["events"].as_array().unwrap();
            let shown: Vec<_> =
                events.iter().map(|event| &event["time"].as_str().unwrap()[..10]).collect();
            assert_eq!(shown, dates, "{channel} {jumps:?}");
        }
        machine.pass(Duration::from_secs(2700));
        swept(&hub, machine).await;
        for channel in CHANNELS {
            assert_eq!(retained(&hub, channel).await, ["1", "2"], "{channel} {jumps:?}");
        }
        machine.pass(Duration::from_secs(1000));
        swept(&hub, machine).await;
        for channel in CHANNELS {
            assert_eq!(retained(&hub, channel).await, [""; 0], "{channel} {jumps:?}");
        }
    }
}

#[tokio::test]
async fn stored_events_keep_their_real_age_over_a_restart() {
    for jump in [YEAR, -DAY] {
        let place = Place::new();
        let hub = place.hub().await;
        let machine = &place.machine;
        hub.publish("d/1", "0").await;
        machine.set(jump);
        machine.pass(Duration::from_secs(1200));
        hub.publish("d/1", "1").await;
        let hub = place.restart(hub).await;
        swept(&hub, machine).await;
        assert_eq!(retained(&hub, "d/1").await, ["0", "1"], "{jump}");
        // A restart of the machine, and a corrected clock.
        let mut hub = hub;
        place.stop(&mut hub).await;
        place.note_restart();
        let hub = place.hub().await;
        machine.set(-jump);
        swept(&hub, machine).await;
        assert_eq!(retained(&hub, "d/1").await, ["0", "1"], "{jump}");
        machine.pass(Duration::from_secs(1200));
        let mut hub = place.restart(hub).await;
        assert_eq!(retained(&hub, "d/1").await, ["0", "1"], "{jump}");
        // The clock is set while no hub runs.
        place.stop(&mut hub).await;
        machine.set(jump);
        let hub = place.hub().await;
        swept(&hub, machine).await;
        assert_eq!(retained(&hub, "d/1").await, ["0", "1"], "{jump}");
        machine.pass(Duration::from_secs(1200));
        swept(&hub, machine).await;
        assert_eq!(retained(&hub, "d/1").await, ["1"], "{jump}");
        machine.pass(Duration::from_secs(1200));
        swept(&hub, machine).await;
        assert_eq!(retained(&hub, "d/1").await, [""; 0], "{jump}");
    }
}

#[tokio::test]
async fn a_key_is_good_for_its_window_and_no_longer_however_the_clock_is_set() {
    for jump in [YEAR, -DAY] {
        let place = Place::new();
        let hub = place.hub().await;
        let machine = &place.machine;
        let publish = async |hub: &TestHub| {
            for channel in CHANNELS {
                let to = format!("/v1/channels/{channel}");
                let key = [("Idempotency-Key", "k"), ("Content-Type", "text/plain")];
                hub.request("POST", &to, &key, "x").await.ok();
            }
        };
        publish(&hub).await;
        machine.set(jump);
        publish(&hub).await;
        for channel in CHANNELS {
            assert_eq!(retained(&hub, channel).await, ["x"], "{channel} {jump}");
        }
        machine.pass(Duration::from_secs(300));
        let mut hub = place.restart(hub).await;
        publish(&hub).await;
        assert_eq!(retained(&hub, "d/1").await, ["x"], "{jump}");
        // The machine was restarted within the window.
        place.stop(&mut hub).await;
        place.note_restart();
        let hub = place.hub().await;
        machine.set(-jump);
        publish(&hub).await;
        assert_eq!(retained(&hub, "d/1").await, ["x"], "{jump}");
        machine.pass(Duration::from_secs(310));
        let hub = place.restart(hub).await;
        publish(&hub).await;
        assert_eq!(retained(&hub, "d/1").await, ["x", "x"], "{jump}");
    }
}

#[tokio::test]
async fn a_closed_channel_stays_for_its_real_time() {
    for jump in [YEAR, -DAY] {
        let place = Place::new();
        let hub = place.hub().await;
        let machine = &place.machine;
        publish_everywhere(&hub, "0").await;
        for channel in CHANNELS {
            hub.close(channel, "complete").await;
        }
        machine.set(jump);
        swept(&hub, machine).await;
        for channel in CHANNELS {
            assert_eq!(hub.head(channel).await.status(), 200, "{channel} {jump}");
        }
        machine.pass(Duration::from_secs(3700));
        for channel in CHANNELS {
            let gone = async || hub.head(channel).await.status() == 404;
            eventually("the channel to go", gone).await;
        }
    }
}

//! A hundred thousand quiet channels use little memory, and are evicted when no client uses them.
//!
//! A separate test binary, because it measures the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests may: helpers are not seen as tests

use std::sync::Arc;
use std::time::Duration;

use fanfare::internals::channel::ChannelName;
use fanfare::internals::event::NewEvent;
use fanfare::internals::hub::{Append, Config, Hub};
use fanfare::internals::telemetry::{self, Metrics};
use fanfare_testing::usage::resident;

const CHANNELS: usize = 100_000;
const EVENTS: usize = 20;

/// The memory limit of the channels, in bytes.
const ROOM: u64 = 400 << 20;

/// The time limit of the housekeeping.
const DEADLINE: Duration = Duration::from_secs(60);

fn name(number: usize) -> ChannelName {
    format!("chat/{number}").parse().unwrap()
}

/// Publishes twenty events of forty bytes, one after the other, like one publisher.
fn fill(hub: &Hub, channel: &ChannelName) {
    for number in 0..EVENTS {
        let data = format!("token {number:2} of what somebody has to say...");
        let event = NewEvent { event_type: None, data: data.into() };
        drop(hub.submit(channel, Append::of(&[event], None)).unwrap());
    }
}

fn gauge(metrics: &Metrics, name: &str) -> f64 {
    let text = String::from_utf8(telemetry::encode(metrics)).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap().parse().unwrap()
}

#[test]
fn a_hundred_thousand_quiet_channels_fit_in_400_mb_and_go_when_idle() {
    let metrics = Arc::new(Metrics::new());
    let config = Config { idle_timeout: Duration::from_millis(100), ..Config::default() };
    let hub = Hub::new(config, metrics.clone());
    let before = resident(std::process::id());
    for number in 0..CHANNELS {
        fill(&hub, &name(number));
    }
    let taken = resident(std::process::id()) - before;
    for number in [0, CHANNELS / 2, CHANNELS - 1] {
        let description = hub.describe(&name(number)).expect("still there");
        assert_eq!(description.events as usize, EVENTS, "the budget holds all of them");
    }
    let each = taken / CHANNELS as u64;
    assert!(taken <= ROOM, "{} MiB, {each} bytes each", taken >> 20);
    println!("{} MiB, {each} bytes a channel", taken >> 20);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let sweep = tokio::spawn(hub.clone().sweep());
        let gone = async {
            while gauge(&metrics, "fanfare_channels") > 0.0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let gone = tokio::time::timeout(DEADLINE, gone).await;
        assert!(gone.is_ok(), "{} channels are left", gauge(&metrics, "fanfare_channels"));
        sweep.abort();
    });
    assert_eq!(hub.list("", "", 1), [], "no channel is left");
    let retained = gauge(&metrics, "fanfare_retained_bytes");
    assert!(retained.abs() < 1.0, "{retained} bytes are counted of nothing");
}

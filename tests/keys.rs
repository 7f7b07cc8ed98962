//! The memory cost of a stored idempotency key.
//!
//! A separate test binary, because it measures the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests may: helpers are not seen as tests

use std::sync::Arc;

use bytes::Bytes;
use fanfare::internals::hub::{self, Hub};
use fanfare::internals::ingest::{Begun, BodyKind, Config, Ingest, PublishOptions};
use fanfare::internals::telemetry::Metrics;
use fanfare_testing::usage::resident;

const KEYS: usize = 100_000;

/// Bytes per key: two hashes, two times and a receipt as text, in tables that are partly empty.
const MOST: u64 = 400;

async fn publish(ingest: &Ingest, number: usize, with_key: bool) -> bool {
    // Nearly the maximum length of a key.
    let key = with_key.then(|| format!("{number:0200}").parse().unwrap());
    let options = PublishOptions { idempotency_key: key, ..PublishOptions::default() };
    let channel = format!("chat/{}", number % 100).parse().unwrap();
    match ingest.publish(channel, BodyKind::Single, options).await.unwrap() {
        Begun::Replay(receipt) => {
            assert_eq!((receipt.channel, receipt.events), (format!("chat/{}", number % 100), 1));
            true
        }
        Begun::Publish(mut publish) => {
            publish.feed(&Bytes::from_static(b"token")).await.unwrap();
            publish.finish().await.unwrap();
            false
        }
    }
}

#[tokio::test]
async fn a_hundred_thousand_idempotency_keys_take_some_300_bytes_each() {
    let metrics = Arc::new(Metrics::new());
    let config = hub::Config { max_events: 10, ..hub::Config::default() };
    let ingest = Ingest::new(
        Hub::new(config, metrics),
        Config { max_idempotency_keys: 2 * KEYS, ..Config::default() },
    );
    // Fills the channels to their largest size.
    for number in 0..20_000 {
        assert!(!publish(&ingest, number, false).await);
    }
    let before = resident(std::process::id());
    for number in 0..KEYS {
        assert!(!publish(&ingest, number, true).await);
    }
    let each = (resident(std::process::id()) - before) / KEYS as u64;
    println!("{each} bytes each");
    assert!(each <= MOST, "{each} bytes each");
    for number in [0, KEYS / 2, KEYS - 1] {
        assert!(publish(&ingest, number, true).await, "{number} is remembered");
    }
}

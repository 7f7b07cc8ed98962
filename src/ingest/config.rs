//! Settings of the section `publish`.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// Settings of the section `publish`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes of data in one event.
    pub max_event_bytes: ByteSize,
    /// Time for which the receipt of a request with an `Idempotency-Key` is kept.
    #[serde(with = "humantime_serde")]
    pub idempotency_window: Duration,
    /// Maximum number of remembered keys; the oldest are forgotten first.
    pub max_idempotency_keys: usize,
    /// Maximum number of publish requests at a time.
    pub max_streams: usize,
    /// Maximum bytes of all bodies together that are not events yet.
    pub max_unfinished: ByteSize,
    /// Maximum time for which a streamed body may send nothing; comments count as data.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_event_bytes: ByteSize::mib(8),
            idempotency_window: Duration::from_secs(300),
            max_idempotency_keys: 100_000,
            max_streams: 10_000,
            max_unfinished: ByteSize::mib(256),
            idle_timeout: Duration::from_secs(300),
        }
    }
}

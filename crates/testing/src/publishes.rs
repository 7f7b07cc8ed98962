//! Publishes with an idempotency key, which are the same in each attempt, and their receipts.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;

use super::wire::Request;

/// Returns a random time of at most this many milliseconds.
pub fn moment(rng: &mut fastrand::Rng, milliseconds: u64) -> Duration {
    Duration::from_micros(rng.u64(0..=milliseconds * 1000))
}

/// Returns the text of a publisher's event in a channel.
#[must_use]
pub fn label(publisher: usize, number: u64) -> String {
    format!("{publisher}-{number}")
}

/// One request, which is the same in each attempt.
#[derive(Clone)]
pub struct Operation {
    /// Its channel.
    pub channel: String,
    /// The number of its first event.
    pub first: u64,
    /// The number of its events.
    pub count: u64,
    /// The request.
    pub request: Request,
}

/// An operation and its receipt.
pub struct Entry {
    /// The operation.
    pub operation: Operation,
    /// The receipt.
    pub receipt: Value,
}

impl Entry {
    /// Asserts that a repetition has the same receipt.
    pub fn assert_same(&self, again: &Value) {
        for key in ["channel", "events", "first_id", "last_id"] {
            let receipt = &self.receipt;
            assert_eq!(again[key], receipt[key], "another receipt: {again} after {receipt}");
        }
    }
}

/// Makes the operations of a publisher: its events are numbered in each channel.
pub struct Operations {
    publisher: usize,
    channels: [String; 2],
    /// The maximum pause between the parts of a body, in milliseconds.
    pause: u64,
    next: HashMap<String, u64>,
}

impl Operations {
    /// Returns the operations of a publisher in these channels.
    #[must_use]
    pub fn new(publisher: usize, channels: [String; 2], pause: u64) -> Self {
        Self { publisher, channels, pause, next: HashMap::new() }
    }

    /// Returns an event, a few lines, or a body that is sent piece by piece.
    pub fn make(&mut self, rng: &mut fastrand::Rng) -> Operation {
        let channel = self.channels[usize::from(rng.bool())].clone();
        let next = self.next.entry(channel.clone()).or_default();
        let first = *next;
        let form = rng.u8(..3);
        let count = if form == 0 { 1 } else { rng.u64(2..=6) };
        *next += count;
        let publisher = self.publisher;
        let labels = (first..first + count).map(|number| label(publisher, number));
        let request = Request::new("POST", &format!("/v1/channels/{channel}"))
            .header("Idempotency-Key", &format!("{publisher}-{first}"));
        let request = match form {
            0 => request.text(&label(publisher, first)),
            1 => {
                let lines: String = labels.map(|label| format!("\"{label}\"\n")).collect();
                request.header("Content-Type", "application/x-ndjson").text(&lines)
            }
            _ => {
                let events = labels.map(|label| format!("data: {label}\n\n")).collect();
                let pause = moment(rng, self.pause);
                request.header("Content-Type", "text/event-stream").streamed(events, pause)
            }
        };
        Operation { channel, first, count, request }
    }
}

//! Receipts: what a publish replies, and what it has published so far.

use serde::de::IntoDeserializer;
use serde::de::value::Error as Unknown;
use serde::{Deserialize, Deserializer, Serialize};

use crate::event::ChannelState;

/// The beginning of a publish `P` with a receipt `R`.
pub enum Begun<P, R> {
    /// The publish runs: feed it the body.
    Publish(P),
    /// It was done before, with this receipt; the body need not be read.
    Replay(R),
}

impl<P, R> Begun<P, R> {
    /// Adds a value that the publish needs, and a replay does not.
    pub fn with<T>(self, besides: T) -> Begun<(P, T), R> {
        match self {
            Self::Publish(publish) => Begun::Publish((publish, besides)),
            Self::Replay(receipt) => Begun::Replay(receipt),
        }
    }

    /// Replaces the receipt by a reply that is made from it.
    pub fn replied<T>(self, reply: impl FnOnce(R) -> T) -> Begun<P, T> {
        match self {
            Self::Publish(publish) => Begun::Publish(publish),
            Self::Replay(receipt) => Begun::Replay(reply(receipt)),
        }
    }
}

/// The events that were published so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Number of events.
    pub events: u64,
    /// The id of the first event.
    pub first_id: Option<String>,
    /// The id of the last event.
    pub last_id: Option<String>,
    /// Lines, counted from zero, that are published although an earlier line is not: it was refused
    /// while these, of other channels, were being written.
    #[serde(default, skip_serializing_if = "<[u64]>::is_empty")]
    pub beyond: Box<[u64]>,
}

impl Tally {
    /// Returns the number of lines before the first that is not published.
    fn prefix(&self) -> u64 {
        self.events.saturating_sub(self.beyond.len() as u64)
    }

    /// Returns whether the line is published.
    pub(super) fn has(&self, line: u64) -> bool {
        line < self.prefix() || self.beyond.binary_search(&line).is_ok()
    }

    /// Notes that the line is published, with this id.
    pub(super) fn count(&mut self, line: u64, id: String) {
        self.first_id.get_or_insert_with(|| id.clone());
        self.last_id = Some(id);
        let from = self.prefix();
        self.events += 1;
        if line == from && self.beyond.is_empty() {
            return;
        }
        let mut beyond = std::mem::take(&mut self.beyond).into_vec();
        beyond.insert(beyond.partition_point(|other| *other < line), line);
        // Lines that follow the prefix without a hole now belong to it.
        let joins = beyond.iter().zip(from..).take_while(|(line, next)| *line == next);
        beyond.drain(..joins.count());
        self.beyond = beyond.into();
    }
}

/// The reply to a publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The channel.
    pub channel: String,
    /// Number of events of this body that are in the log.
    pub events: u64,
    /// The id of the first of them.
    pub first_id: Option<String>,
    /// The id of the last of them.
    pub last_id: Option<String>,
    /// Number of subscribers when the last was appended.
    pub subscribers: usize,
    /// The channel's state after the publish.
    pub state: ChannelState,
    /// Bytes at the end of the body that are no complete event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discarded_bytes: Option<u64>,
    /// Why the channel did not close, where the publisher may have expected it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known_hint")]
    pub hint: Option<Hint>,
}

/// Why a channel stays open although its publisher may have expected it to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hint {
    /// The last event is an end mark, and the publisher did not ask to close at one.
    MarkClosesNothing,
    /// The body had no event.
    NoEvent,
    /// No event has shown the format.
    NoFormat,
    /// The body ended without an end mark.
    NoMark,
}

/// Leaves out a hint that this version does not know: a stored receipt counts without it as well.
fn known_hint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Hint>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text
        .and_then(|text| Hint::deserialize(text.into_deserializer()).map_err(drop::<Unknown>).ok()))
}

/// The reply to a publish to many channels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MultiReceipt {
    /// Number of events of this body that are in logs.
    pub events: u64,
    /// Number of their channels.
    pub channels: usize,
    /// The id of the first event.
    pub first_id: Option<String>,
    /// The id of the last event.
    pub last_id: Option<String>,
    /// The subscribers of these channels, together.
    pub subscribers: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(tally: &Tally) -> Vec<u64> {
        (0..10).filter(|line| tally.has(*line)).collect()
    }

    #[test]
    fn lines_may_count_in_any_order_and_are_remembered_exactly() {
        let mut tally = Tally::default();
        for line in [0, 3, 5, 2] {
            tally.count(line, format!("e-{line}"));
        }
        assert_eq!((has(&tally), tally.events), (vec![0, 2, 3, 5], 4));
        let text = serde_json::to_string(&tally).unwrap();
        assert_eq!(serde_json::from_str::<Tally>(&text).unwrap(), tally);
        tally.count(1, "e-1".to_owned());
        assert_eq!((has(&tally), &tally.beyond[..]), (vec![0, 1, 2, 3, 5], &[5][..]));
        tally.count(4, "e-4".to_owned());
        assert_eq!((has(&tally), tally.beyond.len()), ((0..6).collect(), 0));
        assert_eq!((tally.first_id.as_deref(), tally.events), (Some("e-0"), 6));
    }

    #[test]
    fn a_stored_receipt_with_a_hint_of_another_version_counts_without_it() {
        let receipt = |hint: &str| {
            let text = format!(
                r#"{{"channel":"a","events":1,"first_id":null,"last_id":null,"subscribers":0,
                    "state":"open","hint":{hint}}}"#
            );
            serde_json::from_str::<Receipt>(&text).unwrap().hint
        };
        assert_eq!(receipt(r#""no_mark""#), Some(Hint::NoMark));
        assert_eq!(receipt(r#""the body had no end mark""#), None);
        assert_eq!(receipt("null"), None);
    }

    #[test]
    fn what_was_stored_before_lines_were_remembered_reads_as_the_first_so_many() {
        let tally: Tally =
            serde_json::from_str(r#"{"events":2,"first_id":"e-1","last_id":"e-2"}"#).unwrap();
        assert_eq!(has(&tally), [0, 1]);
        assert!(!serde_json::to_string(&tally).unwrap().contains("beyond"));
    }
}

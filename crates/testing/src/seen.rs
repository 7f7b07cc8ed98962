//! Events as readers receive them, and comparisons of what several readers have seen.

use std::net::SocketAddr;

use super::wait::within;
use super::wire::{Client, Request};

/// An event as a reader receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its id.
    pub id: String,
    /// Its channel.
    pub channel: String,
    /// Its data.
    pub text: String,
}

/// Splits an id, which is opaque to clients, into its epoch and its offset.
pub fn halves(id: &str) -> (&str, u64) {
    let (epoch, offset) = id.rsplit_once('-').unwrap_or_else(|| panic!("no id: {id:?}"));
    (epoch, offset.parse().unwrap_or_else(|_| panic!("no id: {id:?}")))
}

/// Asserts that all ids are of one epoch, which is returned, and that they increase.
pub fn assert_ids_grow(seen: &[Seen]) -> Option<&str> {
    for pair in seen.windows(2) {
        let first = halves(&pair[0].id);
        let second = halves(&pair[1].id);
        assert_eq!(first.0, second.0, "the epoch changed: {pair:?}");
        assert!(first.1 < second.1, "ids do not grow: {pair:?}");
    }
    seen.first().map(|first| halves(&first.id).0)
}

/// Asserts that both have the same events, and prints the first difference.
pub fn assert_same(what: &str, seen: &[Seen], log: &[Seen]) {
    let parting = seen.iter().zip(log).position(|(seen, logged)| seen != logged);
    if let Some(at) = parting {
        let from = at.saturating_sub(2);
        let seen = &seen[from..seen.len().min(at + 3)];
        let log = &log[from..log.len().min(at + 3)];
        panic!("{what} parts from the log at event {at}:\nseen: {seen:#?}\nlog: {log:#?}");
    }
    let last = seen.last().or(log.last());
    assert_eq!(
        seen.len(),
        log.len(),
        "{what}: events seen and events in the log; both to {last:?}"
    );
}

/// Reads the retained events of a channel after this id, or from the first event on, and its end.
pub async fn read(
    addr: SocketAddr,
    channel: &str,
    after: Option<&str>,
) -> (Vec<Seen>, Option<Seen>) {
    let mut client = Client::new(addr);
    let mut seen = Vec::<Seen>::new();
    loop {
        let last = seen.last().map(|last| last.id.as_str()).or(after);
        let from = last.map_or("from=earliest".to_owned(), |id| format!("last_event_id={id}"));
        let path = format!("/v1/channels/{channel}?{from}&limit=1000");
        let request = Request::new("GET", &path).header("Accept", "application/json");
        let answer = within("a page", client.send(&request)).await.expect("a page");
        let page = answer.expect(200).json();
        let events = page["events"].as_array().expect("events");
        if events.is_empty() {
            return (seen, None);
        }
        for event in events {
            let text = |key: &str| event[key].as_str().expect("text").to_owned();
            let entry = Seen { id: text("id"), channel: channel.into(), text: text("data") };
            match event["event"].as_str() {
                Some("fanfare.end") => return (seen, Some(entry)),
                name => {
                    let own = name.is_some_and(|name| name.starts_with("fanfare."));
                    assert!(!own, "the log of `{channel}` has {event}");
                    seen.push(entry);
                }
            }
        }
    }
}

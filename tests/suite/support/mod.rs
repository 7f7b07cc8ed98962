//! Support of the tests: a hub, clients, and waits with a time limit.

pub(crate) mod generation;
mod hub;
pub(crate) mod keys;
mod publisher;
mod receiver;
mod sse;
pub(crate) mod tls;
pub(crate) mod tokens;
mod wire;

use std::future::Future;
use std::time::Duration;

use serde_json::Value;

pub(crate) use hub::{TestHub, in_cluster};
pub(crate) use publisher::Publisher;
pub(crate) use receiver::{Answer, Receiver};
pub(crate) use sse::{SseClient, SseEvent, opening_text};
pub(crate) use wire::{Head, Piece, Response, Wire};

/// The time limit of a condition. Generous, because the machine is shared.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Awaits a future, with a time limit.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for: {what}"),
    }
}

/// Polls until the answer is true.
pub(crate) async fn eventually(what: &str, mut question: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !question().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Asserts that this is a problem document with the given status and code, whose message contains
/// `hint`, and returns the document.
#[track_caller]
pub(crate) fn assert_problem(response: &Response, status: u16, code: &str, hint: &str) -> Value {
    let text = response.text();
    assert_eq!(response.status(), status, "{text}");
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{text}");
    let problem = response.json();
    assert_eq!(problem["code"], code, "{text}");
    assert_eq!(problem["status"], status, "{text}");
    assert_eq!(problem["type"], format!("urn:fanfare:problem:{code}"), "{text}");
    assert!(problem["retryable"].is_boolean(), "{text}");
    assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()), "{text}");
    let detail = problem["detail"].as_str().unwrap_or_default();
    assert!(detail.split_whitespace().count() >= 4, "a sentence that helps: {text}");
    let said = detail.to_lowercase();
    assert!(said.contains(&hint.to_lowercase()), "the sentence should say {hint:?}: {text}");
    problem
}

/// Returns the offset in an event id.
#[track_caller]
pub(crate) fn offset(id: &str) -> u64 {
    let (epoch, offset) = id.rsplit_once('-').unwrap_or_else(|| panic!("not an event id: {id}"));
    assert!(!epoch.is_empty() && id.len() <= 128, "{id}");
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    assert!(id.bytes().all(plain), "an id that needs a preflight: {id}");
    offset.parse().unwrap_or_else(|_| panic!("not an event id: {id}"))
}

/// Asserts that the ids increase.
#[track_caller]
pub(crate) fn assert_ascending<'a>(ids: impl IntoIterator<Item = &'a str>) {
    let mut before = None;
    for id in ids {
        let now = offset(id);
        assert!(before.is_none_or(|before| before < now), "{now} behind {before:?}");
        before = Some(now);
    }
}

/// Asserts an RFC 3339 time in UTC with milliseconds.
#[track_caller]
pub(crate) fn assert_time(value: &Value) {
    let text = value.as_str().unwrap_or_else(|| panic!("not a time: {value}"));
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "{text}");
}

/// Returns the data of each event.
pub(crate) fn texts(events: &[SseEvent]) -> Vec<&str> {
    events.iter().map(|event| event.data.as_str()).collect()
}

/// Returns the `data` of each event of a JSON page.
#[track_caller]
pub(crate) fn page_texts(page: &Value) -> Vec<&str> {
    let events = page["events"].as_array().unwrap_or_else(|| panic!("not a page: {page}"));
    events.iter().map(|event| event["data"].as_str().expect("data is a string")).collect()
}

/// Returns the `id` of each event of a JSON page.
#[track_caller]
pub(crate) fn page_ids(page: &Value) -> Vec<String> {
    let events = page["events"].as_array().unwrap_or_else(|| panic!("not a page: {page}"));
    events.iter().map(|event| event["id"].as_str().expect("an id").to_owned()).collect()
}

/// Returns the names of an object's members, sorted.
pub(crate) fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> =
        value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// Encodes an event stream of these events, each of one line.
pub(crate) fn event_stream(data: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    data.into_iter().map(|data| format!("data: {data}\n\n")).collect()
}

//! The message to a hook: a JSON document, and the id that all attempts to deliver it share.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::channel::ChannelName;
use crate::clock::rfc3339;
use crate::hub::Ended;

/// The message about one channel's end.
pub(super) struct HookMessage {
    /// The `webhook-id`.
    pub(super) id: String,
    /// The channel, for logs.
    pub(super) channel: ChannelName,
    /// The document.
    pub(super) body: Bytes,
}

#[derive(Serialize)]
struct HookDocument<'a> {
    r#type: &'static str,
    channel: &'a str,
    state: &'static str,
    reason: Option<&'a str>,
    format: Option<&'static str>,
    text: Option<&'a str>,
    usage: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    incomplete: bool,
    events: u64,
    duration: f64,
    first_id: Option<&'a str>,
    last_id: Option<&'a str>,
    time: String,
}

impl HookMessage {
    pub(super) fn new(ended: &Ended) -> Self {
        let document = HookDocument {
            r#type: "channel.ended",
            channel: ended.channel.as_str(),
            state: ended.state.as_str(),
            reason: ended.reason.as_deref(),
            format: ended.format,
            text: ended.text.as_deref(),
            usage: ended.usage.clone().and_then(|json| RawValue::from_string(json).ok()),
            incomplete: ended.incomplete,
            events: ended.events,
            duration: ended.duration.as_secs_f64(),
            first_id: ended.first_id.as_deref(),
            last_id: ended.last_id.as_deref(),
            time: rfc3339(ended.time),
        };
        // A struct of strings and numbers always serialises.
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let id = format!("msg_{:032x}", fastrand::u128(..));
        Self { id, channel: ended.channel.clone(), body: body.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::event::ChannelState;

    fn ended() -> Ended {
        Ended {
            channel: "chat/42".parse().unwrap(),
            state: ChannelState::Error,
            reason: Some("overloaded".into()),
            format: Some("openai-chat"),
            text: Some("a \"b\"\n💬".into()),
            usage: Some("{\"tokens\": 1e2}".into()),
            incomplete: false,
            events: 3,
            duration: Duration::from_millis(1500),
            first_id: Some("e-1".into()),
            last_id: Some("e-3".into()),
            time: 951_827_696_789_999,
        }
    }

    #[test]
    fn a_message_says_all_that_is_known() {
        let body: Value = serde_json::from_slice(&HookMessage::new(&ended()).body).unwrap();
        let expected = json!({
            "type": "channel.ended", "channel": "chat/42", "state": "error",
            "reason": "overloaded", "format": "openai-chat", "text": "a \"b\"\n💬",
            "usage": {"tokens": 1e2}, "events": 3, "duration": 1.5, "first_id": "e-1",
            "last_id": "e-3", "time": "2000-02-29T12:34:56.789Z",
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn usage_is_passed_on_as_it_came_and_what_is_no_json_is_left_out() {
        let text =
            |ended: &Ended| String::from_utf8(HookMessage::new(ended).body.to_vec()).unwrap();
        assert!(text(&ended()).contains("\"usage\":{\"tokens\": 1e2}"));
        let broken = Ended { usage: Some("{".into()), ..ended() };
        assert!(text(&broken).contains("\"usage\":null"));
    }

    #[test]
    fn an_incomplete_text_is_marked_as_such() {
        let body = HookMessage::new(&Ended { incomplete: true, ..ended() }).body;
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["incomplete"], true);
    }

    #[test]
    fn each_message_has_an_id_of_its_own() {
        let one = HookMessage::new(&ended());
        let other = HookMessage::new(&ended());
        assert_ne!(one.id, other.id);
        assert!(one.id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    }
}

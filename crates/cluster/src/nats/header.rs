//! What the servers say of a stored message, in headers and in reply subjects.

use std::time::{Duration, UNIX_EPOCH};

use crate::log::{LogTime, Message, Sequence};

/// Returns the message of the log that the stream has republished, or has returned to a request.
pub(super) fn stored(message: async_nats::Message) -> Option<Message> {
    let headers = message.headers.as_ref()?;
    let sequence = headers.get("Nats-Sequence")?.as_str().parse().ok()?;
    let time = log_time(headers.get("Nats-Time-Stamp")?.as_str())?;
    Some(Message { sequence: Sequence(sequence), time, content: message.payload })
}

/// Parses a time of RFC 3339.
fn log_time(text: &str) -> Option<LogTime> {
    let since = humantime::parse_rfc3339(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    nanoseconds(since).map(LogTime)
}

/// Returns a duration in nanoseconds.
pub(super) fn nanoseconds(duration: Duration) -> Option<u64> {
    duration.as_nanos().try_into().ok()
}

/// A message of the log that a consumer has delivered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    /// The message.
    pub message: Message,
    /// Its number among those that the consumer has delivered, from 1.
    pub number: u64,
}

/// Returns the message of the log that a consumer has delivered. All but its content is in the
/// subject of its acknowledgement.
pub(super) fn delivered(message: async_nats::Message) -> Option<Delivered> {
    let reply = message.reply.as_ref()?;
    let parts: Vec<&str> = reply.split('.').collect();
    // `$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<number>.<time>.<pending>`, or with a
    // domain and a hash of the account before the stream, and a token at the end.
    let first = match parts.len() {
        9 => 5,
        11.. => 7,
        _ => return None,
    };
    let number = |at: usize| parts.get(first + at)?.parse::<u64>().ok();
    let sequence = Sequence(number(0)?);
    let time = LogTime(number(2)?);
    let content = message.payload;
    Some(Delivered { message: Message { sequence, time, content }, number: number(1)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(reply: &str) -> async_nats::Message {
        async_nats::Message {
            subject: "inbox".into(),
            reply: Some(reply.into()),
            payload: "x".into(),
            headers: None,
            status: None,
            description: None,
            length: 1,
        }
    }

    #[test]
    fn a_delivery_is_read_with_and_without_a_domain() {
        let message_7 = Message { sequence: Sequence(7), time: LogTime(1700), content: "x".into() };
        let expected = Delivered { message: message_7, number: 3 };
        for reply in ["$JS.ACK.S.C.1.7.3.1700.9", "$JS.ACK.hub.Hash.S.C.1.7.3.1700.9.token"] {
            assert_eq!(delivered(message(reply)).as_ref(), Some(&expected));
        }
        for reply in ["$JS.ACK.S.C.1.7.3.1700", "$JS.ACK.S.C.1.7.x.1700.9", "other"] {
            assert_eq!(delivered(message(reply)), None, "{reply}");
        }
    }

    #[test]
    fn a_time_has_nanoseconds() {
        let time = log_time("2026-11-30T15:38:53.1234567Z");
        assert_eq!(time.map(|time| time.0 % 1_000_000_000), Some(123_456_700));
        assert_eq!(log_time("yesterday"), None);
    }
}

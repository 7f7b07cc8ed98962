//! What the servers say of a stored message, in headers and in reply subjects.

use std::time::{Duration, UNIX_EPOCH};

use crate::log::{LogTime, Message, Sequence};

/// Returns the message of the log that the stream has republished, or has returned to a request.
/// Nothing, if its publisher has set the headers that the servers set: it is then read by a
/// consumer.
pub(super) fn stored(message: async_nats::Message) -> Option<Message> {
    let headers = message.headers.as_ref()?;
    let only = |name: &str| {
        let mut values = headers.get_all(name);
        let value = values.next()?.as_str();
        values.next().is_none().then_some(value)
    };
    let sequence = sequence(only("Nats-Sequence")?)?;
    let time = log_time(only("Nats-Time-Stamp")?)?;
    Some(Message { sequence, time, content: message.payload })
}

/// Parses a sequence. The last one of all has none after it, and is no sequence.
fn sequence(text: &str) -> Option<Sequence> {
    text.parse().ok().filter(|sequence| *sequence < u64::MAX).map(Sequence)
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
pub(super) fn delivered(message: &async_nats::Message) -> Option<Delivered> {
    let reply = message.reply.as_ref()?;
    let parts: Vec<&str> = reply.split('.').collect();
    // `$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<number>.<time>.<pending>`, or with a
    // domain and a hash of the account before the stream, and a token at the end.
    let first = match parts.len() {
        9 => 5,
        11.. => 7,
        _ => return None,
    };
    if parts[..2] != ["$JS", "ACK"] {
        return None;
    }
    let number = |at: usize| parts.get(first + at)?.parse::<u64>().ok();
    let sequence = sequence(parts.get(first)?)?;
    let time = LogTime(number(2)?);
    let content = message.payload.clone();
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
            assert_eq!(delivered(&message(reply)).as_ref(), Some(&expected));
        }
        let others = ["$JS.ACK.S.C.1.7.3.1700", "$JS.ACK.S.C.1.7.x.1700.9", "other"];
        for reply in others.into_iter().chain(["A.B.C.D.1.7.3.1700.9"]) {
            assert_eq!(delivered(&message(reply)), None, "{reply}");
        }
    }

    #[test]
    fn a_message_with_two_values_of_a_header_is_not_believed() {
        let with = |headers: &[(&str, &str)]| {
            let mut map = async_nats::HeaderMap::new();
            headers.iter().for_each(|(name, value)| map.append(*name, *value));
            stored(async_nats::Message { headers: Some(map), ..message("none") })
        };
        let (first, second) = ("2026-11-30T15:38:53Z", "2500-01-01T00:00:00Z");
        let sequence = ("Nats-Sequence", "7");
        let time = ("Nats-Time-Stamp", first);
        assert_eq!(with(&[sequence, time]).map(|message| message.sequence), Some(Sequence(7)));
        for forged in [("Nats-Sequence", "8"), ("Nats-Time-Stamp", second)] {
            assert_eq!(with(&[forged, sequence, time]), None);
            assert_eq!(with(&[sequence, time, forged]), None);
        }
        assert_eq!(with(&[("Nats-Sequence", "18446744073709551615"), time]), None);
    }

    #[test]
    fn a_time_has_nanoseconds() {
        let time = log_time("2026-11-30T15:38:53.1234567Z");
        assert_eq!(time.map(|time| time.0 % 1_000_000_000), Some(123_456_700));
        assert_eq!(log_time("yesterday"), None);
    }
}

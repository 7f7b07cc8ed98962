//! Bodies of publishes, through ingest and into the log: NDJSON, event streams, text and single
//! events to one channel, and lines that name their own channel.
//!
//! The input: a byte that selects the kind of body, its cuts and whether events may be large, and
//! the body.

use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use bytesize::ByteSize;
use fanfare::internals::channel::ChannelName;
use fanfare::internals::hub::{self, Hub};
use fanfare::internals::ingest::{
    self, Begun, BodyKind, ErrorPlace, Failure, Ingest, InvalidEvent, PublishOptions, Sender,
};
use fanfare::internals::ingest::{PublishError, Tally};
use fanfare::internals::position::StartFrom;
use fanfare::internals::telemetry::Metrics;

use crate::log::{self, Logged};

/// A size limit of events that inputs reach.
const FEW: usize = 24;

/// Two hubs: one for events of any size, and one for small ones.
static HUBS: LazyLock<[(Hub, Ingest); 2]> = LazyLock::new(|| {
    [1 << 20, FEW].map(|most| {
        let hub = Hub::new(hub::Config::default(), Arc::new(Metrics::new()));
        let max_event_bytes = ByteSize(most as u64);
        let config = ingest::Config { max_event_bytes, ..ingest::Config::default() };
        (hub.clone(), Ingest::new(hub, config))
    })
});

/// The result of a publish.
#[derive(Debug, PartialEq)]
struct Outcome {
    /// Type and data of the events in the log.
    events: Vec<(Option<String>, String)>,
    /// The error that stopped the publish, and its place.
    failure: Option<(PublishError, Option<ErrorPlace>)>,
}

/// Checks one input.
///
/// # Panics
/// If a property does not hold.
pub fn check(input: &[u8]) {
    let Some((&how, body)) = input.split_first() else { return };
    let (hub, ingest) = &HUBS[usize::from(how >> 7)];
    let most = if how >> 7 == 0 { 1 << 20 } else { FEW };
    let size = [1, 2, 3, 5, 8, 13, 64, 511][usize::from(how & 7)];
    let body = Bytes::copy_from_slice(body);
    let kind = match (how >> 3) & 7 {
        0 | 5 => BodyKind::Ndjson,
        1 => BodyKind::EventStream,
        2 => BodyKind::Text,
        3 => BodyKind::Single,
        _ => return scatter(hub, ingest, &body, size),
    };
    let whole = publish(hub, ingest, kind, &body, usize::MAX);
    let cut = publish(hub, ingest, kind, &body, size);
    if kind == BodyKind::Text {
        same_text(&body, &whole, &cut);
    } else {
        assert_eq!(whole, cut, "it matters where the body is cut");
    }
    if kind == BodyKind::Ndjson {
        assert_eq!(whole, by_lines(&body, most));
    }
}

fn pieces(body: &Bytes, size: usize) -> impl Iterator<Item = Bytes> + '_ {
    let step = size.min(body.len()).max(1);
    (0..body.len()).step_by(step).map(move |at| body.slice(at..body.len().min(at + step)))
}

fn publish(hub: &Hub, ingest: &Ingest, kind: BodyKind, body: &Bytes, size: usize) -> Outcome {
    let name: ChannelName = "fuzz/publish".parse().expect("a name");
    let begun = at_once(ingest.publish(name.clone(), kind, PublishOptions::default()));
    let Ok(Begun::Publish(mut publish)) = begun else { panic!("it begins") };
    let fed = pieces(body, size).try_for_each(|piece| at_once(publish.feed(&piece)).map(drop));
    let ended = match fed {
        Ok(()) => at_once(publish.finish()).map(|receipt| Tally {
            events: receipt.events,
            first_id: receipt.first_id,
            last_id: receipt.last_id,
            ..Tally::default()
        }),
        Err(failure) => {
            assert_eq!(*publish.kept(), failure.kept);
            Err(failure)
        }
    };
    let seen = log::read(hub, &name, &StartFrom::Earliest);
    assert!(seen.gaps.is_empty(), "a gap before anything was trimmed");
    assert!(hub.delete(&name).is_ok() || seen.events.is_empty(), "it was there");
    let (tally, failure) = tell(ended);
    holds(&tally, &seen.events);
    Outcome {
        events: seen.events.into_iter().map(|event| (event.event_type, event.data)).collect(),
        failure,
    }
}

fn tell(ended: Result<Tally, Failure>) -> (Tally, Option<(PublishError, Option<ErrorPlace>)>) {
    match ended {
        Ok(tally) => (tally, None),
        Err(Failure { error, kept, place }) => (kept, Some((plain(error), place))),
    }
}

/// Removes the beginning of the body from the error of a first line that is no JSON.
fn plain(error: PublishError) -> PublishError {
    match error {
        PublishError::Invalid(InvalidEvent::Foreign(_)) => InvalidEvent::NotJson.into(),
        error => error,
    }
}

/// Checks that a receipt agrees with the log.
fn holds(tally: &Tally, logged: &[Logged]) {
    assert_eq!(tally.events, logged.len() as u64, "a receipt that is not true");
    assert_eq!(tally.first_id.as_ref(), logged.first().map(|event| &event.id));
    assert_eq!(tally.last_id.as_ref(), logged.last().map(|event| &event.id));
}

/// Checks that a text is the same in pieces: each piece is published on arrival, so the events
/// differ.
fn same_text(body: &[u8], whole: &Outcome, cut: &Outcome) {
    let text = |outcome: &Outcome| -> String {
        outcome.events.iter().map(|(_, data)| data.as_str()).collect()
    };
    let valid = match std::str::from_utf8(body) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&body[..error.valid_up_to()]).expect("it is valid"),
    };
    let published = text(whole);
    assert_eq!(published, text(cut), "it matters where the body is cut");
    assert_eq!(published, valid.replace("\r\n", "\n").replace('\r', "\n"));
    assert_eq!(whole.failure.is_some(), valid.len() < body.len());
    assert_eq!(whole.failure.is_some(), cut.failure.is_some());
}

/// A second implementation of NDJSON.
fn by_lines(body: &[u8], most: usize) -> Outcome {
    let mut outcome = Outcome { events: Vec::new(), failure: None };
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut lines = body.split(|byte| *byte == b'\n').peekable();
    let mut number = 0;
    while let Some(line) = lines.next() {
        number += 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let text = line.trim_ascii();
        let wrong = if line.len() > most {
            InvalidEvent::TooLarge(most)
        } else if text.is_empty() {
            continue;
        } else {
            match std::str::from_utf8(text) {
                Err(_) => InvalidEvent::NotUtf8,
                Ok(text) if is_json(text.as_bytes()) => {
                    outcome.events.push((None, text.replace("\r\n", "\n").replace('\r', "\n")));
                    continue;
                }
                Ok(_) => InvalidEvent::NotJson,
            }
        };
        outcome.failure = Some((PublishError::Invalid(wrong), Some(ErrorPlace::Line(number))));
        break;
    }
    outcome
}

/// RFC 8259, by its grammar.
fn is_json(text: &[u8]) -> bool {
    value(text).is_some_and(|rest| rest.trim_ascii_start().is_empty())
}

fn value(text: &[u8]) -> Option<&[u8]> {
    let text = space(text);
    for word in ["true", "false", "null"] {
        if let Some(rest) = text.strip_prefix(word.as_bytes()) {
            return Some(rest);
        }
    }
    match text.first()? {
        b'"' => string(text),
        b'[' => list(&text[1..], b']', value),
        b'{' => list(&text[1..], b'}', |text| {
            let rest = space(string(space(text))?);
            value(rest.strip_prefix(b":")?)
        }),
        _ => number(text),
    }
}

fn space(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|byte| !b" \t\r\n".contains(byte));
    &text[end.unwrap_or(text.len())..]
}

fn list<'a>(
    text: &'a [u8],
    end: u8,
    item: impl Fn(&'a [u8]) -> Option<&'a [u8]>,
) -> Option<&'a [u8]> {
    let mut rest = space(text);
    if let Some(rest) = rest.strip_prefix(&[end]) {
        return Some(rest);
    }
    loop {
        rest = space(item(rest)?);
        match rest.split_first()? {
            (b',', more) => rest = more,
            (byte, more) if *byte == end => return Some(more),
            _ => return None,
        }
    }
}

fn string(text: &[u8]) -> Option<&[u8]> {
    let mut rest = text.strip_prefix(b"\"")?;
    loop {
        let (byte, more) = rest.split_first()?;
        rest = more;
        match byte {
            b'"' => return Some(rest),
            b'\\' => {
                let (escape, more) = rest.split_first()?;
                rest = match escape {
                    b'u' => {
                        let (digits, more) = more.split_at_checked(4)?;
                        digits.iter().all(u8::is_ascii_hexdigit).then_some(more)?
                    }
                    other if b"\"\\/bfnrt".contains(other) => more,
                    _ => return None,
                };
            }
            0..0x20 => return None,
            _ => {}
        }
    }
}

fn number(text: &[u8]) -> Option<&[u8]> {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut rest = text.strip_prefix(b"-").unwrap_or(text);
    match digits(rest) {
        0 => return None,
        _ if rest[0] == b'0' => rest = &rest[1..],
        count => rest = &rest[count..],
    }
    if let Some(fraction) = rest.strip_prefix(b".") {
        let count = digits(fraction);
        rest = (count > 0).then(|| &fraction[count..])?;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = match exponent {
            [b'+' | b'-', digits @ ..] => digits,
            digits => digits,
        };
        let count = digits(exponent);
        rest = (count > 0).then(|| &exponent[count..])?;
    }
    Some(rest)
}

/// Polls once, because channels in memory never wait.
fn at_once<T>(done: impl Future<Output = T>) -> T {
    let mut done = std::pin::pin!(done);
    match done.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("channels in memory wait for nothing"),
    }
}

/// Lines that name their channel: no line is published twice or lost, however the body is cut.
fn scatter(hub: &Hub, ingest: &Ingest, body: &Bytes, size: usize) {
    let whole = scatter_once(hub, ingest, body, usize::MAX);
    let cut = scatter_once(hub, ingest, body, size);
    assert_eq!(whole, cut, "it matters where the body is cut");
    let lines = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let bad_lines = lines.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let is_object = |line: &[u8]| line.starts_with(b"{") && line.ends_with(b"}") && is_json(line);
    let odd = bad_lines.filter(|line| !line.is_empty()).any(|line| !is_object(line));
    assert!(!odd || whole.failure.is_some(), "a line that is no object was passed over");
}

fn scatter_once(hub: &Hub, ingest: &Ingest, body: &Bytes, size: usize) -> Outcome {
    let sender = Sender { name: "anybody".into(), may: Box::new(|_| true), account: None };
    let Ok(Begun::Publish(mut publish)) = ingest.publish_many(sender, None) else {
        panic!("it begins")
    };
    let fed = pieces(body, size).try_for_each(|piece| at_once(publish.feed(&piece)));
    let ended = match fed {
        Ok(()) => at_once(publish.finish()).map(|receipt| Tally {
            events: receipt.events,
            first_id: receipt.first_id,
            last_id: receipt.last_id,
            ..Tally::default()
        }),
        Err(failure) => Err(failure),
    };
    let everything = "**".parse().expect("a pattern");
    let seen = log::read_many(hub, &everything, &StartFrom::Earliest);
    for channel in hub.list("", "", usize::MAX) {
        assert!(hub.delete(&channel.name).is_ok(), "it was listed");
    }
    let (tally, failure) = tell(ended);
    holds(&tally, &seen.events);
    Outcome {
        events: seen.events.into_iter().map(|event| (event.event_type, event.data)).collect(),
        failure,
    }
}

//! Tests of the wire form.

use bytes::{Bytes, BytesMut};

use super::*;
use crate::command::{
    Append, Check, Close, Command, Configure, Delete, Due, EndState, EpochChange, Hello, KeyId,
    KeyUse, Lapse, Lines, NewEvent, Options, Produce, Producer, Release, ReleaseKey, Renew, Stop,
};
use crate::offset::Offset;
use crate::text::Text;

/// Returns a command of each kind, with all fields.
fn every_command() -> Vec<Command> {
    let channel = || Text::from("chat/1");
    let reason = || Some(Text::from("why"));
    let event = |event_type: Option<&str>, data: &str| NewEvent {
        event_type: event_type.map(Text::from),
        data: data.into(),
    };
    let append = Append {
        channel: channel(),
        life: Some(Offset(7 << 16)),
        hold: Some(Offset(7 << 16 | 1)),
        events: vec![event(None, "a"), event(Some("token"), "ü\nb")],
        close: Some(Close { state: EndState::Error, reason: reason(), kept: 3_600_000 }),
        key: Some(KeyUse {
            id: KeyId([9; 16]),
            request: 300,
            lines: Lines::Listed(vec![0, 200]),
            last: true,
            window: 300_000,
        }),
    };
    let plain = Append {
        channel: channel(),
        events: vec![event(None, "")],
        key: append.key.clone().map(|key| KeyUse { lines: Lines::From(5), last: false, ..key }),
        ..Append::default()
    };
    let options = Options { max_age: Some(1000), when_unwatched: Some(0), ..Options::default() };
    vec![
        Command::Hello(Hello {
            level: 1,
            nonce: 2,
            replaces: Some(SessionId(Sequence(3))),
            node: "hub-1".into(),
            rules: 4,
        }),
        Command::Bye,
        Command::Append(append),
        Command::Append(plain),
        Command::Produce(Produce { channel: channel(), format: Some("text".into()) }),
        Command::Release(Release { channel: channel(), hold: Offset(5), reason: None }),
        Command::Stop(Stop {
            channel: channel(),
            reason: reason(),
            generation: None,
            kept: 6,
            kept_early: 7,
        }),
        Command::Lapse(Lapse {
            channel: channel(),
            due: Due::Idle,
            since: Offset(8),
            reason: None,
            kept: 9,
        }),
        Command::Configure(Configure { channel: channel(), options }),
        renew(Producer::None),
        renew(Producer::Streaming { hold: Offset(300), session: SessionId(Sequence(3)) }),
        renew(Producer::Away { since: Offset(13), hold: Some(Offset(14)) }),
        Command::Delete(Delete { channel: channel() }),
        Command::Epoch(EpochChange { old: "a".into(), new: "b".into() }),
        Command::ReleaseKey(ReleaseKey { id: KeyId([1; 16]), request: 128 }),
        Command::Check(Check { window: 10, digest: 11 }),
    ]
}

fn renew(producer: Producer) -> Command {
    Command::Renew(Renew {
        channel: "chat/1".into(),
        life: Offset(10),
        until: Offset(11),
        last: Some(Offset(12)),
        configured: None,
        options: Options { max_age: Some(1000), ..Options::default() },
        producer,
    })
}

fn body_of(commands: &[Command]) -> Bytes {
    let mut body = BytesMut::new();
    for command in commands {
        write_command(command, &mut body);
    }
    body.freeze()
}

fn header() -> Header {
    let session = SessionId(Sequence(0x0102_0304_0506));
    Header { session, number: 42, more: true, continues: false }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_command_is_read_as_it_was_written() {
    let commands = every_command();
    assert_eq!(read_commands(body_of(&commands)).unwrap(), commands);
}

/// Hubs of other versions read and write these bytes: a change needs another version or kind.
#[test]
fn the_wire_form_does_not_change() {
    let message = Codec::default().encode(header(), &body_of(&every_command()));
    let golden = include_str!("golden.hex").replace(['\n', ' '], "");
    assert_eq!(hex(&message), golden);
}

#[test]
fn no_damaged_bit_is_accepted() {
    let secret = Codec::new(Some(b"secret"));
    for codec in [Codec::default(), secret] {
        let message = codec.encode(header(), &body_of(&every_command()));
        assert_eq!(codec.decode(&message).unwrap().0, header());
        for bit in 0..message.len() * 8 {
            let mut damaged = message.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(codec.decode(&damaged.into()), Err(BatchError::Damaged));
        }
        for length in 0..message.len() {
            assert!(codec.decode(&message.slice(..length)).is_err());
        }
    }
}

#[test]
fn only_the_same_secret_is_accepted() {
    let codecs = [None, Some(&b"one"[..]), Some(&b"two"[..])].map(Codec::new);
    for (at, writer) in codecs.iter().enumerate() {
        let message = writer.encode(header(), b"body");
        for (other, reader) in codecs.iter().enumerate() {
            let expected = match (at, other) {
                (at, other) if at == other => Ok((header(), Bytes::from_static(b"body"))),
                (_, 0) => Err(BatchError::NoSecret),
                _ => Err(BatchError::Signature),
            };
            assert_eq!(reader.decode(&message), expected);
        }
    }
}

#[test]
fn a_fingerprint_tells_secrets_apart() {
    let [none, one, two] =
        [None, Some(&b"one"[..]), Some(&b"two"[..])].map(|secret| Codec::new(secret).fingerprint());
    assert_eq!(none, None);
    assert_eq!(one.as_ref().map(|text| text.len()), Some(8));
    assert_ne!(one, two);
    // It is in the descriptions of streams: it must not change.
    assert_eq!(one.as_deref(), Some("65e9c2d4"));
}

#[test]
fn a_message_of_a_later_version_is_recognised() {
    let mut message = Codec::default().encode(header(), b"body").to_vec();
    message.truncate(message.len() - CHECKSUM_BYTES);
    message[1] = 2;
    let checksum = crc32fast::hash(&message);
    message.extend(checksum.to_le_bytes());
    assert_eq!(Codec::default().decode(&message.into()), Err(BatchError::Version(2)));
}

#[test]
fn a_later_command_is_ignored_if_it_may_be() {
    let read = |kind: u8| read_commands(Bytes::from(vec![kind, 2, 0, 0]));
    assert_eq!(read(200), Ok(vec![Command::Unknown]));
    assert_eq!(read(100), Err(CommandError::Unsupported(100)));
}

#[test]
fn a_batch_has_no_more_events_than_offsets() {
    let events = |count| vec![NewEvent::default(); count];
    let append = |count| {
        let (channel, events) = ("a".into(), events(count));
        Command::Append(Append { channel, events, ..Append::default() })
    };
    let read = |counts: &[usize]| {
        let commands: Vec<_> = counts.iter().map(|count| append(*count)).collect();
        read_commands(body_of(&commands)).map(|commands| commands.len())
    };
    assert_eq!(read(&[MAX_WEIGHT - 1, 0]), Ok(2));
    assert_eq!(read(&[MAX_WEIGHT - 1, 0, 0]), Err(CommandError::TooHeavy));
    assert_eq!(read(&[MAX_WEIGHT + 1]), Err(CommandError::Invalid(WireError::Range)));
}

#[test]
fn a_count_without_items_reserves_no_memory() {
    // The channel is `a`, and 2^40 events are announced.
    let fields = [1, b'a', 0, 0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20];
    let mut body = vec![3, 11];
    body.extend(fields);
    assert_eq!(read_commands(body.into()), Err(CommandError::Invalid(WireError::Short)));
}

#[test]
fn a_text_that_a_hub_would_not_accept_of_a_client_is_refused() {
    let check = |command: Command| read_commands(body_of(&[command])).is_ok();
    let channel = |name: &str| check(Command::Delete(Delete { channel: name.into() }));
    let most = "x".repeat(255);
    for name in ["a", "chat/42", "ünïcode/💬", "a b", "...", "a.b", &most] {
        assert!(channel(name), "{name}");
    }
    let over = "x".repeat(256);
    for name in ["", "/a", "a/", "a//b", "a/..", ".", "a*", "a\nb", "a\u{85}", "a\0", &over] {
        assert!(!channel(name), "{name}");
    }
    let event = |event_type: &str, data: &str| {
        let event = NewEvent { event_type: Some(event_type.into()), data: data.into() };
        let events = vec![event];
        check(Command::Append(Append { channel: "a".into(), events, ..Append::default() }))
    };
    assert!(event("token", "a\r\nb\0") && event(&"x".repeat(128), ""));
    for event_type in ["", "a\nid: 7", "a\r", "fanfare.end", &"x".repeat(129)] {
        assert!(!event(event_type, ""), "{event_type}");
    }
    let epoch =
        |new: &str| check(Command::Epoch(EpochChange { old: "k7q2xm".into(), new: new.into() }));
    assert!(epoch("0az") && !epoch("") && !epoch("a-1") && !epoch("a\n") && !epoch("é"));
    let hello = |node: &str| check(Command::Hello(Hello { node: node.into(), ..Hello::default() }));
    assert!(hello("hub 1") && !hello("hub\n1") && !hello(&over));
    let reason = |length| {
        let reason = Some("x".repeat(length).into());
        check(Command::Release(Release { channel: "a".into(), hold: Offset(1), reason }))
    };
    assert!(reason(4096) && !reason(4097));
    let format = |format: &str| {
        check(Command::Produce(Produce { channel: "a".into(), format: Some(format.into()) }))
    };
    assert!(format("openai-chat") && !format("") && !format("a\nb"));
}

#[test]
fn a_number_has_one_form() {
    let read = |bytes: &[u8]| wire::Reader::new(Bytes::copy_from_slice(bytes)).number();
    assert_eq!(read(&[0x80, 0]), Err(WireError::Number));
    assert_eq!(read(&[0xff; 10]), Err(WireError::Number));
    assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), Ok(u64::MAX));
    for number in [0, 1, 127, 128, 1 << 14, 1 << 56, 1 << 63, u64::MAX] {
        let mut bytes = BytesMut::new();
        wire::Writer::number(&mut bytes, number);
        assert_eq!(read(&bytes), Ok(number));
    }
}

#[test]
fn random_bytes_are_no_commands_and_no_panic() {
    let mut random = fastrand::Rng::with_seed(1);
    let body = body_of(&every_command());
    for _ in 0..20_000 {
        let mut damaged = body.to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..damaged.len());
            damaged[at] = random.u8(..);
        }
        let damaged = Bytes::from(damaged);
        // What is read is written in one way only.
        if let Ok(commands) = read_commands(damaged.clone())
            && !commands.contains(&Command::Unknown)
        {
            assert_eq!(body_of(&commands), damaged);
        }
    }
}

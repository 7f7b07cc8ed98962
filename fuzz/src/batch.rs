//! Batches of the shared log: what is read is written in one way only, takes no more memory than the
//! input, and is applied alike by two replicas.
//!
//! The input: the commands of a batch.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fanfare_cluster::batch::{Codec, Header, read_commands, write_command};
use fanfare_cluster::command::{Command, Hello, SessionId};
use fanfare_cluster::log::{LogTime, Message, Sequence};
use fanfare_cluster::state_machine::StateMachine;

/// Checks one input.
///
/// # Panics
/// If a property does not hold.
pub fn check(input: &[u8]) {
    let input = Bytes::copy_from_slice(input);
    let codecs = [Codec::default(), Codec::new(Some(b"secret"))];
    for codec in &codecs {
        let message = codec.encode(Header::default(), &input);
        assert_eq!(codec.decode(&message), Ok((Header::default(), input.clone())));
    }
    assert!(codecs[1].decode(&input).is_err(), "a signature was found");
    if let Ok(commands) = read_commands(input.clone()) {
        assert!(weight(&commands) <= input.len(), "more events than bytes");
        if !commands.contains(&Command::Unknown) {
            let mut written = BytesMut::new();
            commands.iter().for_each(|command| write_command(command, &mut written));
            assert_eq!(written, input);
        }
    }
    // From the first message on, and from after the hello.
    for front in [1, 2] {
        let states = [applied(&input, front), applied(&input, front)];
        assert!(states[0].is_equal(&states[1]), "the states differ");
    }
}

fn weight(commands: &[Command]) -> usize {
    commands.iter().map(Command::weight).sum()
}

/// Applies the input twice, as two batches of a session, from a message on.
fn applied(input: &Bytes, front: u64) -> StateMachine {
    let mut state = StateMachine::new(Codec::default(), "epoch".into(), Duration::from_secs(5));
    let mut hello = BytesMut::new();
    write_command(&Command::Hello(Hello::default()), &mut hello);
    let session = SessionId(Sequence(1));
    for number in 0..3 {
        let (header, body) = match number {
            0 => (Header::default(), &hello[..]),
            number => (Header { session, number, ..Header::default() }, &input[..]),
        };
        let content = Codec::default().encode(header, body);
        let time = LogTime(number * 1_000_000_000);
        let message = Message { sequence: Sequence(number + 1), time, content };
        if message.sequence < Sequence(front) {
            continue;
        }
        if state.apply(&message).is_err() {
            break;
        }
    }
    state
}

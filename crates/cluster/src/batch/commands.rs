//! The commands of a batch as bytes: each is its kind, its length and its fields.

use bytes::{BufMut, Bytes, BytesMut};

use super::texts::check_texts;
use super::wire::{Reader, WireError, Writer};
use crate::command::{
    Append, Check, Close, Command, Configure, Delete, Due, EndState, EpochChange, Hello, KeyId,
    KeyUse, Lapse, Lines, NewEvent, Options, Produce, Producer, Release, ReleaseKey, Renew,
    SessionId, Stop,
};
use crate::log::Sequence;
use crate::offset::Offset;

/// Maximum number of offsets that the commands of one batch take: an offset has 16 bits for them.
pub const MAX_WEIGHT: usize = 60_000;

/// The commands of a batch cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A later version has written a command that must not be ignored.
    #[error("the command {0} is of a later version")]
    Unsupported(u8),
    /// A command is damaged.
    #[error("a command is not valid: {0}")]
    Invalid(#[from] WireError),
    /// The commands take more than [`MAX_WEIGHT`] offsets.
    #[error("the batch has more events than {MAX_WEIGHT}")]
    TooHeavy,
}

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const BYE: u8 = 2;
    pub(super) const APPEND: u8 = 3;
    pub(super) const PRODUCE: u8 = 4;
    pub(super) const RELEASE: u8 = 5;
    pub(super) const STOP: u8 = 6;
    pub(super) const LAPSE: u8 = 7;
    pub(super) const CONFIGURE: u8 = 8;
    pub(super) const DELETE: u8 = 9;
    pub(super) const EPOCH: u8 = 10;
    pub(super) const RELEASE_KEY: u8 = 11;
    pub(super) const RENEW: u8 = 12;
    // From here on, a hub may ignore the kinds that it does not know.
    pub(super) const CHECK: u8 = 128;
    /// The first of the kinds that this version does not know and may ignore.
    pub(super) const OPTIONAL: u8 = 129;
}

/// The parts that an append may have.
mod part {
    pub(super) const CLOSE: u8 = 1;
    pub(super) const KEY: u8 = 2;
    /// The key has a list of lines.
    pub(super) const LISTED: u8 = 4;
    /// The key is used for the last time.
    pub(super) const LAST: u8 = 8;
}

/// Appends a command to the body of a batch.
pub fn write_command(command: &Command, body: &mut BytesMut) {
    let mut fields = BytesMut::new();
    let kind = write_fields(command, &mut fields);
    body.reserve(fields.len() + 6);
    body.put_u8(kind);
    body.number(fields.len() as u64);
    body.put_slice(&fields);
}

/// Returns the commands in the body of a batch.
///
/// # Errors
/// One of them is damaged or of a later version.
pub fn read_commands(body: Bytes) -> Result<Vec<Command>, CommandError> {
    let mut commands = Vec::new();
    let mut weight = 0;
    let mut reader = Reader::new(body);
    while reader.left() > 0 {
        let kind = reader.byte()?;
        let length = reader.number()?;
        let command = read_fields(kind, reader.bytes(length)?)?;
        check_texts(&command)?;
        weight += command.weight();
        if weight > MAX_WEIGHT {
            return Err(CommandError::TooHeavy);
        }
        commands.push(command);
    }
    Ok(commands)
}

fn write_fields(command: &Command, out: &mut BytesMut) -> u8 {
    match command {
        Command::Hello(hello) => {
            out.number(hello.level);
            out.put_u64_le(hello.nonce);
            out.number(hello.replaces.map_or(0, |session| session.0.0));
            out.text(&hello.node);
            out.put_u64_le(hello.rules);
            kind::HELLO
        }
        Command::Bye => kind::BYE,
        Command::Append(append) => {
            write_append(append, out);
            kind::APPEND
        }
        Command::Produce(produce) => {
            out.text(&produce.channel);
            out.optional_text(produce.format.as_ref());
            kind::PRODUCE
        }
        Command::Release(release) => {
            out.text(&release.channel);
            out.number(release.hold.0);
            out.optional_text(release.reason.as_ref());
            kind::RELEASE
        }
        Command::Stop(stop) => {
            write_stop(stop, out);
            kind::STOP
        }
        Command::Lapse(lapse) => {
            out.text(&lapse.channel);
            out.put_u8(lapse.due as u8);
            out.number(lapse.since.0);
            out.optional_text(lapse.reason.as_ref());
            out.number(lapse.kept);
            kind::LAPSE
        }
        Command::Configure(configure) => {
            out.text(&configure.channel);
            write_options(&configure.options, out);
            kind::CONFIGURE
        }
        Command::Renew(renew) => {
            write_renew(renew, out);
            kind::RENEW
        }
        Command::Delete(delete) => {
            out.text(&delete.channel);
            kind::DELETE
        }
        Command::Epoch(epoch) => {
            out.text(&epoch.old);
            out.text(&epoch.new);
            kind::EPOCH
        }
        Command::ReleaseKey(release) => {
            out.put_slice(&release.id.0);
            out.number(release.request);
            kind::RELEASE_KEY
        }
        Command::Check(check) => {
            out.number(check.window);
            out.put_u64_le(check.digest);
            kind::CHECK
        }
        Command::Unknown => u8::MAX,
    }
}

fn read_fields(kind: u8, fields: Bytes) -> Result<Command, CommandError> {
    let mut reader = Reader::new(fields);
    let reader = &mut reader;
    let command = match kind {
        kind::HELLO => Command::Hello(Hello {
            level: reader.number()?,
            nonce: reader.fixed()?,
            replaces: read_offset(reader)?.map(|offset| SessionId(Sequence(offset.0))),
            node: reader.text()?,
            rules: reader.fixed()?,
        }),
        kind::BYE => Command::Bye,
        kind::APPEND => Command::Append(read_append(reader)?),
        kind::PRODUCE => {
            Command::Produce(Produce { channel: reader.text()?, format: reader.optional_text()? })
        }
        kind::RELEASE => Command::Release(Release {
            channel: reader.text()?,
            hold: Offset(reader.number()?),
            reason: reader.optional_text()?,
        }),
        kind::STOP => Command::Stop(Stop {
            channel: reader.text()?,
            reason: reader.optional_text()?,
            generation: read_offset(reader)?,
            kept: reader.number()?,
            kept_early: reader.number()?,
        }),
        kind::LAPSE => Command::Lapse(Lapse {
            channel: reader.text()?,
            due: read_due(reader)?,
            since: Offset(reader.number()?),
            reason: reader.optional_text()?,
            kept: reader.number()?,
        }),
        kind::CONFIGURE => Command::Configure(Configure {
            channel: reader.text()?,
            options: read_options(reader)?,
        }),
        kind::RENEW => Command::Renew(read_renew(reader)?),
        kind::DELETE => Command::Delete(Delete { channel: reader.text()? }),
        kind::EPOCH => Command::Epoch(EpochChange { old: reader.text()?, new: reader.text()? }),
        kind::RELEASE_KEY => Command::ReleaseKey(ReleaseKey {
            id: KeyId(reader.array()?),
            request: reader.number()?,
        }),
        kind::CHECK => Command::Check(Check { window: reader.number()?, digest: reader.fixed()? }),
        kind::OPTIONAL.. => return Ok(Command::Unknown),
        _ => return Err(CommandError::Unsupported(kind)),
    };
    reader.end()?;
    Ok(command)
}

fn write_append(append: &Append, out: &mut BytesMut) {
    let Append { channel, life, hold, events, close, key } = append;
    let mut parts = 0;
    if close.is_some() {
        parts |= part::CLOSE;
    }
    if let Some(key) = key {
        parts |= part::KEY;
        parts |= if matches!(key.lines, Lines::Listed(_)) { part::LISTED } else { 0 };
        parts |= if key.last { part::LAST } else { 0 };
    }
    out.text(channel);
    write_offset(*life, out);
    write_offset(*hold, out);
    out.put_u8(parts);
    out.number(events.len() as u64);
    for event in events {
        write_event(event, out);
    }
    if let Some(close) = close {
        out.put_u8(close.state as u8);
        out.optional_text(close.reason.as_ref());
        out.number(close.kept);
    }
    if let Some(key) = key {
        write_key(key, out);
    }
}

fn read_append(reader: &mut Reader) -> Result<Append, WireError> {
    let channel = reader.text()?;
    let life = read_offset(reader)?;
    let hold = read_offset(reader)?;
    let parts = reader.byte()?;
    let (close, key) = (parts & part::CLOSE != 0, parts & part::KEY != 0);
    let known = part::CLOSE | if key { part::KEY | part::LISTED | part::LAST } else { 0 };
    if parts & !known != 0 {
        return Err(WireError::Range);
    }
    let count = reader.count(1)?;
    if count > MAX_WEIGHT {
        return Err(WireError::Range);
    }
    let mut events = Vec::with_capacity(count);
    for _ in 0..count {
        events.push(read_event(reader)?);
    }
    let close = close.then(|| read_close(reader)).transpose()?;
    let key = key.then(|| read_key(reader, parts, count)).transpose()?;
    Ok(Append { channel, life, hold, events, close, key })
}

/// Writes an event: the length of its data with one bit that says whether it has a type, the type,
/// and the data.
fn write_event(event: &NewEvent, out: &mut BytesMut) {
    let length = event.data.as_bytes().len() as u64;
    out.number(length << 1 | u64::from(event.event_type.is_some()));
    if let Some(event_type) = &event.event_type {
        out.text(event_type);
    }
    out.put_slice(event.data.as_bytes());
}

fn read_event(reader: &mut Reader) -> Result<NewEvent, WireError> {
    let head = reader.number()?;
    let event_type = if head & 1 == 0 { None } else { Some(reader.text()?) };
    Ok(NewEvent { event_type, data: reader.text_of(head >> 1)? })
}

fn read_close(reader: &mut Reader) -> Result<Close, WireError> {
    let state = match reader.byte()? {
        1 => EndState::Complete,
        2 => EndState::Error,
        3 => EndState::Cancelled,
        4 => EndState::Abandoned,
        _ => return Err(WireError::Range),
    };
    Ok(Close { state, reason: reader.optional_text()?, kept: reader.number()? })
}

fn write_stop(stop: &Stop, out: &mut BytesMut) {
    let Stop { channel, reason, generation, kept, kept_early } = stop;
    out.text(channel);
    out.optional_text(reason.as_ref());
    write_offset(*generation, out);
    out.number(*kept);
    out.number(*kept_early);
}

/// Writes a key. Of listed lines, each but the first is written as its distance to the one before.
fn write_key(key: &KeyUse, out: &mut BytesMut) {
    out.put_slice(&key.id.0);
    out.number(key.request);
    match &key.lines {
        Lines::From(line) => out.number(*line),
        Lines::Listed(lines) => {
            let mut before = 0;
            for line in lines {
                out.number(line.wrapping_sub(before));
                before = *line;
            }
        }
    }
    out.number(key.window);
}

fn read_key(reader: &mut Reader, parts: u8, events: usize) -> Result<KeyUse, WireError> {
    let id = KeyId(reader.array()?);
    let request = reader.number()?;
    let lines = if parts & part::LISTED == 0 {
        let from = reader.number()?;
        from.checked_add(events as u64).ok_or(WireError::Range)?;
        Lines::From(from)
    } else {
        let mut lines = Vec::with_capacity(events.min(reader.left()));
        for _ in 0..events {
            lines.push(read_line(reader, lines.last().copied())?);
        }
        Lines::Listed(lines)
    };
    let last = parts & part::LAST != 0;
    Ok(KeyUse { id, request, lines, last, window: reader.number()? })
}

fn read_line(reader: &mut Reader, before: Option<u64>) -> Result<u64, WireError> {
    let distance = reader.number()?;
    let line = match before {
        None => Some(distance),
        Some(_) if distance == 0 => None,
        Some(before) => before.checked_add(distance),
    };
    // The number after the last line is a number as well.
    line.filter(|line| *line < u64::MAX).ok_or(WireError::Range)
}

fn write_renew(renew: &Renew, out: &mut BytesMut) {
    let Renew { channel, life, until, last, configured, options, producer } = renew;
    out.text(channel);
    out.number(life.0);
    out.number(until.0);
    write_offset(*last, out);
    write_offset(*configured, out);
    write_options(options, out);
    match *producer {
        Producer::None => out.put_u8(0),
        Producer::Streaming { hold, session } => {
            out.put_u8(1);
            out.number(hold.0);
            out.number(session.0.0);
        }
        Producer::Away { since, hold } => {
            out.put_u8(2);
            out.number(since.0);
            write_offset(hold, out);
        }
    }
}

fn read_renew(reader: &mut Reader) -> Result<Renew, WireError> {
    Ok(Renew {
        channel: reader.text()?,
        life: Offset(reader.number()?),
        until: Offset(reader.number()?),
        last: read_offset(reader)?,
        configured: read_offset(reader)?,
        options: read_options(reader)?,
        producer: match reader.byte()? {
            0 => Producer::None,
            1 => Producer::Streaming {
                hold: Offset(reader.number()?),
                session: SessionId(Sequence(reader.number()?)),
            },
            2 => Producer::Away { since: Offset(reader.number()?), hold: read_offset(reader)? },
            _ => return Err(WireError::Range),
        },
    })
}

fn read_due(reader: &mut Reader) -> Result<Due, WireError> {
    match reader.byte()? {
        1 => Ok(Due::Abandoned),
        2 => Ok(Due::Unwatched),
        3 => Ok(Due::Idle),
        _ => Err(WireError::Range),
    }
}

/// Writes an offset that may be missing: no offset is zero, because sequences begin with one.
fn write_offset(offset: Option<Offset>, out: &mut BytesMut) {
    out.number(offset.map_or(0, |offset| offset.0));
}

fn read_offset(reader: &mut Reader) -> Result<Option<Offset>, WireError> {
    let offset = reader.number()?;
    Ok((offset != 0).then_some(Offset(offset)))
}

fn write_options(options: &Options, out: &mut BytesMut) {
    let values = values_of(options);
    let mut present = 0;
    for (bit, value) in values.iter().enumerate() {
        present |= u8::from(value.is_some()) << bit;
    }
    out.put_u8(present);
    for value in values.into_iter().flatten() {
        out.number(value);
    }
}

/// Returns the options in the order of the bits that say which are present.
fn values_of(options: &Options) -> [Option<u64>; 7] {
    let Options {
        max_events,
        max_bytes,
        max_age,
        idle_timeout,
        producer_grace,
        coalesce,
        when_unwatched,
    } = *options;
    [max_events, max_bytes, max_age, idle_timeout, producer_grace, coalesce, when_unwatched]
}

fn read_options(reader: &mut Reader) -> Result<Options, WireError> {
    let present = reader.byte()?;
    if present >= 1 << 7 {
        return Err(WireError::Range);
    }
    let mut option = |bit: u8| (present & 1 << bit != 0).then(|| reader.number()).transpose();
    Ok(Options {
        max_events: option(0)?,
        max_bytes: option(1)?,
        max_age: option(2)?,
        idle_timeout: option(3)?,
        producer_grace: option(4)?,
        coalesce: option(5)?,
        when_unwatched: option(6)?,
    })
}

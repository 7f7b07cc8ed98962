//! Offset, epoch, and the event id that carries both over the wire.

use std::fmt;
use std::str::FromStr;

use crate::limits::MAX_EVENT_ID_BYTES;

/// An event's place in the single order of the hub: strictly increasing over all channels, not
/// necessarily by one. `Offset::ZERO` is before every event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl Offset {
    /// The offset before the first event.
    pub const ZERO: Self = Self(0);
}

/// Digits of the largest offset.
const OFFSET_DIGITS: usize = 20;

/// One life of the hub's log. After a change of epoch, a client's event ids are void.
///
/// Letters `a-z` and digits only, so that an event id needs no CORS preflight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(Box<str>);

impl Epoch {
    /// Returns a new random epoch: 31 bits in base 36.
    #[must_use]
    pub fn random() -> Self {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let text = std::iter::repeat_with(|| char::from(DIGITS[fastrand::usize(..36)])).take(6);
        Self(text.collect())
    }

    /// Returns the epoch as written in an event id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the event id of this offset, in the text form of [`Position`].
    #[must_use]
    pub fn event_id(&self, offset: Offset) -> String {
        let mut id = String::new();
        self.write_event_id(offset, &mut id);
        id
    }

    /// Appends the event id of this offset to `id`.
    pub fn write_event_id(&self, offset: Offset, id: &mut String) {
        id.reserve(self.0.len() + 1 + OFFSET_DIGITS);
        id.push_str(&self.0);
        id.push('-');
        id.push_str(itoa::Buffer::new().format(offset.0));
    }
}

impl FromStr for Epoch {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if text.is_empty() || text.len() > MAX_EVENT_ID_BYTES || !text.bytes().all(plain) {
            return Err(InvalidEventId);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An offset within an epoch. Its text is the event id, `<epoch>-<offset>`, opaque to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The life of the log that the offset belongs to.
    pub epoch: Epoch,
    /// The offset in that life.
    pub offset: Offset,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.epoch.event_id(self.offset))
    }
}

impl FromStr for Position {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        let (epoch, offset) = text.rsplit_once('-').ok_or(InvalidEventId)?;
        let canonical = offset == "0" || !offset.starts_with(['0', '+']);
        if text.len() > MAX_EVENT_ID_BYTES || !canonical {
            return Err(InvalidEventId);
        }
        let offset = Offset(offset.parse().map_err(|_| InvalidEventId)?);
        Ok(Self { epoch: epoch.parse()?, offset })
    }
}

/// The text is not an event id of any Fanfare hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an event id: expected `<epoch>-<offset>`, as the hub wrote it in `id:`")]
pub struct InvalidEventId;

/// The point at which a subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// At the next event that is published.
    Tail,
    /// At the earliest retained event.
    Earliest,
    /// With a snapshot of the events so far, followed by the next event.
    Snapshot,
    /// At the last `n` retained events.
    Last(u64),
    /// After the event with this id, as the client sent it: not yet parsed, because an invalid id
    /// is answered with a gap, and not with an error that would end an `EventSource` for good.
    After(Box<str>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_id_reads_back_as_the_position_it_was_written_from() {
        for offset in [0, 1, 1042, u64::MAX] {
            let position = Position { epoch: Epoch::random(), offset: Offset(offset) };
            assert_eq!(position.to_string(), format!("{}-{offset}", position.epoch));
            assert_eq!(position.to_string().parse(), Ok(position));
        }
    }

    #[test]
    fn what_the_hub_never_wrote_is_not_an_event_id() {
        let long = "9".repeat(200);
        for text in ["", "-", "abc", "abc-", "-1", "abc-x", "abc-01", "abc-+1", "ABC-1", "a b-1"]
            .into_iter()
            .chain([long.as_str(), "abc-18446744073709551616", "é-1", "abc--1"])
        {
            assert_eq!(text.parse::<Position>(), Err(InvalidEventId), "{text:?}");
        }
    }
}

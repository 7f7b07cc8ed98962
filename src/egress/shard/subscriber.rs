//! One subscriber of a shard: a socket and a place in a log, in about 64 bytes.

use std::io::{self, Write};
use std::time::Duration;

use bytes::{Buf, Bytes};
use mio::net::TcpStream;
use socket2::SockRef;

use super::reactor::millis;
use crate::lease::AccessLease;

/// See the module. Times are in milliseconds since the shard began; zero stands for never.
pub(super) struct Subscriber {
    pub(super) tcp: TcpStream,
    /// What is written next: always the edge of a frame.
    pub(super) at: Cursor,
    /// The end of the log when the subscription began.
    pub(super) joined: u64,
    /// Bytes of its own that go out before any of the log.
    pub(super) own: Option<Box<Own>>,
    pub(super) channel: u32,
    /// Where it stands among the members of its channel.
    pub(super) index: u32,
    pub(super) last_write: u32,
    /// Since when its socket takes nothing.
    pub(super) blocked: u32,
    /// When it is to end.
    pub(super) ends: u32,
    /// What it may stay by.
    pub(super) lease: AccessLease,
    /// The tick of the wheel at which its heartbeat is due.
    pub(super) due: u32,
    /// How often it is sent a heartbeat.
    pub(super) heartbeat: Interval,
    /// What piles up while its socket takes nothing is merged.
    pub(super) adaptive: bool,
    /// Its socket was full, and it has not caught up since.
    pub(super) lags: bool,
    /// It stands in line with those who have much to catch up with, and no sweep visits it.
    pub(super) catching_up: bool,
    /// How much its client has sent, who should only listen.
    pub(super) heard: u8,
    /// Its client has closed its side, or has left: it is given what there is, and then its end.
    pub(super) leaves: bool,
}

/// How often a subscriber is sent a heartbeat, in a byte: in quarters of a second, rounded down;
/// zero for as often as the setting says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Interval(u8);

impl Interval {
    pub(super) fn of(asked: Duration, setting: Duration) -> Self {
        let quarters = (asked.as_millis() / 250).clamp(1, u8::MAX.into());
        Self(if asked >= setting { 0 } else { quarters as u8 })
    }

    pub(super) fn millis(self, setting: Duration) -> u64 {
        if self.0 == 0 { millis(setting) } else { u64::from(self.0) * 250 }
    }
}

/// A byte of the log. It only moves forward, so that no event is written twice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor(u64);

impl Cursor {
    pub(super) fn new(byte: u64) -> Self {
        Self(byte)
    }

    pub(super) fn byte(self) -> u64 {
        self.0
    }

    pub(super) fn advance(&mut self, to: u64) {
        self.0 = self.0.max(to);
    }
}

/// A subscriber's own bytes, such as the rest of a frame that its socket took in part.
pub(super) struct Own {
    bytes: Bytes,
    /// Nothing follows: close the connection.
    last: bool,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrote {
    /// All of it was taken.
    All,
    /// So much was taken; the rest must wait until the socket can be written again.
    Part(usize),
    /// The client is gone.
    Gone,
}

impl Subscriber {
    /// Whether what it is given is to be merged, because it has been slow.
    pub(super) fn is_catching_up(&self) -> bool {
        self.adaptive && self.lags
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked != 0
    }

    /// Writes, and notes whether the socket takes it.
    pub(super) fn write(&mut self, bytes: &[u8], now: u32) -> Wrote {
        let wrote = write_all(&mut self.tcp, bytes);
        match wrote {
            Wrote::All => (self.blocked, self.last_write) = (0, now),
            // Progress restarts the clock; its absence does not stop it.
            Wrote::Part(count) if count > 0 => (self.blocked, self.last_write) = (now, now),
            Wrote::Part(_) if self.blocked == 0 => self.blocked = now,
            Wrote::Part(_) | Wrote::Gone => {}
        }
        wrote
    }

    /// Writes what there is of its own. Returns what became of it, and whether that was the last.
    pub(super) fn write_own(&mut self, now: u32) -> (Wrote, bool) {
        let Some(mut own) = self.own.take() else { return (Wrote::All, false) };
        let wrote = self.write(&own.bytes, now);
        let last = own.last;
        if let Wrote::Part(count) = wrote {
            own.bytes.advance(count);
            self.own = Some(own);
        }
        (wrote, last)
    }

    /// Puts bytes of its own in line; `last` if nothing follows them.
    pub(super) fn say(&mut self, bytes: impl Into<Bytes>, last: bool) {
        let bytes = bytes.into();
        let bytes = match self.own.take() {
            Some(own) => Bytes::from([own.bytes, bytes].concat()),
            None => bytes,
        };
        self.own = Some(Box::new(Own { bytes, last }));
    }

    /// Whether exactly these bytes of its own are in line.
    #[cfg(test)]
    pub(super) fn owes(&self, bytes: &[u8], last: bool) -> bool {
        self.own.as_ref().is_some_and(|own| own.bytes == bytes && own.last == last)
    }

    /// Closes without waiting for what the client does not read: the kernel keeps nothing of it.
    pub(super) fn reset(&self) {
        let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
    }
}

fn write_all(tcp: &mut TcpStream, mut bytes: &[u8]) -> Wrote {
    let whole = bytes.len();
    while !bytes.is_empty() {
        match tcp.write(bytes) {
            Ok(0) => return Wrote::Gone,
            Ok(count) => bytes = &bytes[count..],
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Wrote::Part(whole - bytes.len()),
                io::ErrorKind::Interrupted => {}
                _ => return Wrote::Gone,
            },
        }
    }
    Wrote::All
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_is_about_a_cache_line() {
        // In builds for debugging, the library's socket is larger than its descriptor, which has
        // room in what the other fields leave of the last word.
        let beside = size_of::<Subscriber>() - size_of::<TcpStream>();
        assert!(beside <= 64, "{beside}");
    }
}

//! One subscriber of a shard: a socket and a cursor, in about 64 bytes.

use std::io::{self, Write};
use std::time::Duration;

use bytes::{Buf, Bytes};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use super::clock::millis;
use crate::lease::AccessLease;

/// A subscriber of a shard. Times are in milliseconds since the shard began; zero means never.
pub(super) struct Subscriber {
    pub(super) tcp: TcpStream,
    /// The position of the next event to write: always the edge of a frame.
    pub(super) at: Cursor,
    /// The end of the log when the subscription began.
    pub(super) joined: u64,
    /// Bytes for this subscriber only, written before any of the log.
    pub(super) own: Option<Box<Own>>,
    pub(super) channel: u32,
    /// Index in `LocalChannel::members`.
    pub(super) index: u32,
    pub(super) last_write: u32,
    /// The time since which the socket has taken nothing.
    pub(super) blocked: u32,
    /// The time at which the subscription ends.
    pub(super) ends: u32,
    /// The access lease of the subscription.
    pub(super) lease: AccessLease,
    /// The tick of the wheel at which its heartbeat is due.
    pub(super) due: u32,
    /// The interval between heartbeats.
    pub(super) heartbeat: Interval,
    /// Deltas that pile up while the socket is blocked are merged.
    pub(super) adaptive: bool,
    /// The socket was blocked, and the subscriber has not caught up since.
    pub(super) lags: bool,
    /// It is queued to catch up, and no sweep visits it.
    pub(super) catching_up: bool,
    /// The shard's poll reports when the socket is writable.
    pub(super) awaits_room: bool,
    /// Bytes received from the client, in `HEARD_UNIT`s.
    pub(super) heard: u8,
    /// The client has closed its side: it gets the rest of the log, and then the end.
    pub(super) leaves: bool,
}

/// An interval between heartbeats, in a byte: in quarters of a second, rounded down; zero for the
/// configured interval.
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

/// A subscriber's own bytes, such as the rest of a partly written frame.
pub(super) struct Own {
    bytes: Bytes,
    /// The connection is closed after these bytes.
    last: bool,
}

/// The result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrote {
    /// All of it was written.
    All,
    /// Bytes written before the socket blocked.
    Part(usize),
    /// The client is gone.
    Gone,
}

impl Subscriber {
    /// Returns whether deltas are merged for it, because it has been slow.
    pub(super) fn is_catching_up(&self) -> bool {
        self.adaptive && self.lags
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked != 0
    }

    /// Writes to the socket, and records progress or that it is blocked.
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

    /// Lets the shard's poll report when the socket is writable. Not so from the start: each new
    /// socket would be reported once, and most never block.
    pub(super) fn await_room(&mut self, registry: &Registry, key: usize) {
        if !self.awaits_room {
            self.awaits_room = true;
            let interest = Interest::READABLE | Interest::WRITABLE;
            // If this fails, the write timeout ends the subscription.
            let _ = registry.reregister(&mut self.tcp, Token(key), interest);
        }
    }

    /// Writes its own bytes. Returns the result, and whether nothing follows them.
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

    /// Queues bytes of its own; `last` if nothing follows them.
    pub(super) fn queue_bytes(&mut self, bytes: impl Into<Bytes>, last: bool) {
        let bytes = bytes.into();
        let bytes = match self.own.take() {
            Some(own) => Bytes::from([own.bytes, bytes].concat()),
            None => bytes,
        };
        self.own = Some(Box::new(Own { bytes, last }));
    }

    /// Returns whether exactly these bytes of its own are queued.
    #[cfg(test)]
    pub(super) fn owes(&self, bytes: &[u8], last: bool) -> bool {
        self.own.as_ref().is_some_and(|own| own.bytes == bytes && own.last == last)
    }

    /// Sets the socket to be reset on close: the kernel keeps none of the bytes that are not read.
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
        // In debug builds, mio's socket is larger than its descriptor, which fits into the padding
        // of the other fields.
        let beside = size_of::<Subscriber>() - size_of::<TcpStream>();
        assert!(beside <= 64, "{beside}");
    }
}

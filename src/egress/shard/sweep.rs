//! Advancing subscribers: their own bytes first, then the log's.

use bytes::Bytes;

use super::local_channel::LocalChannel;
use super::subscriber::{Subscriber, Wrote};
use crate::hub::{Bounds, Channel, EndReason, MergedBatch, OnLag, ReadResult};
use crate::limits::MAX_BATCH_BYTES;
use crate::sse;
use crate::store::{LogPosition, Missing};

/// The result of advancing a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// It is at the tail, or its next event is being read from disk.
    CaughtUp,
    /// There is more to write.
    More,
    /// Its socket is blocked.
    Blocked,
    /// The events after its cursor are missing.
    Overtaken(Missing),
    /// It is writable again, and its lag exceeds its limit.
    Lagging,
    /// The subscription has ended.
    Ended(EndReason),
}

/// A piece of a log, shared by the subscribers of the channel with the same cursor.
pub(super) struct SharedRead {
    /// The channel's key at the shard: subscribers of several channels catch up in one turn.
    channel: u32,
    from: u64,
    /// Neighbouring deltas are merged.
    merged: bool,
    /// The frames; if the channel has ended, also the last chunk of the body.
    bytes: Bytes,
    batch: MergedBatch,
    more: bool,
    last: bool,
}

/// Counts of a sweep, for the metrics.
#[derive(Default)]
pub(super) struct SweepProgress {
    pub(super) events: u64,
    pub(super) writes: u64,
    pub(super) bytes: u64,
}

/// Writes to a subscriber what fits into one turn.
pub(super) fn advance(
    subscriber: &mut Subscriber,
    local: &LocalChannel,
    bounds: &Bounds,
    shared: &mut Option<SharedRead>,
    done: &mut SweepProgress,
    now: u32,
) -> Moved {
    let channel = &local.channel;
    let was_blocked = subscriber.is_blocked();
    if let Some(moved) = write_own_bytes(subscriber, now) {
        return moved;
    }
    if was_blocked
        && bounds.on_lag == OnLag::Skip
        && bounds.passed_by(lag(subscriber, channel)).is_some()
    {
        return Moved::Lagging;
    }
    let merge = local.merges() || subscriber.is_catching_up();
    match piece_for(subscriber, channel, merge, shared) {
        Ok(piece) => write_piece(subscriber, piece, done, now),
        Err(moved) => moved,
    }
}

/// Writes new events to a subscriber at the tail, if they are a single piece without an end.
/// Returns nothing if a sweep must do the rest, such as the end of a stream whose client leaves.
pub(super) fn advance_inline(
    subscriber: &mut Subscriber,
    channel: &Channel,
    shared: &mut Option<SharedRead>,
    done: &mut SweepProgress,
    now: u32,
) -> Option<Moved> {
    if subscriber.own.is_some() || subscriber.leaves {
        return None;
    }
    match piece_for(subscriber, channel, false, shared) {
        Ok(piece) if piece.last || piece.more => None,
        Ok(piece) => match write_piece(subscriber, piece, done, now) {
            Moved::Ended(_) => None,
            moved => Some(moved),
        },
        Err(Moved::CaughtUp) => Some(Moved::CaughtUp),
        Err(_) => None,
    }
}

/// Returns the next piece for a subscriber: the shared one, if it begins at the cursor.
fn piece_for<'s>(
    subscriber: &Subscriber,
    channel: &Channel,
    merge: bool,
    shared: &'s mut Option<SharedRead>,
) -> Result<&'s SharedRead, Moved> {
    let fits = |shared: &SharedRead| {
        shared.channel == subscriber.channel
            && shared.from == subscriber.at.byte()
            && shared.merged == merge
    };
    let piece = match shared.take().filter(fits) {
        Some(piece) => piece,
        None => read(subscriber, channel, merge)?,
    };
    Ok(shared.insert(piece))
}

fn write_piece(
    subscriber: &mut Subscriber,
    piece: &SharedRead,
    done: &mut SweepProgress,
    now: u32,
) -> Moved {
    match subscriber.write(&piece.bytes, now) {
        Wrote::Gone => Moved::Ended(EndReason::ClientGone),
        Wrote::All => {
            subscriber.at.advance(piece.batch.end.byte);
            subscriber.lags &= piece.more;
            done.count(piece.batch.events.count(), piece.bytes.len() as u64);
            match (piece.last, piece.more) {
                (true, _) => Moved::Ended(EndReason::Closed),
                (false, true) => Moved::More,
                // A later append has set the latch, and is for the next sweep.
                (false, false) => Moved::CaughtUp,
            }
        }
        Wrote::Part(count) => {
            part_written(subscriber, piece, count, done);
            Moved::Blocked
        }
    }
}

/// Returns the lag of a subscriber, not counting what was published before it joined.
pub(super) fn lag(subscriber: &Subscriber, channel: &Channel) -> LogPosition {
    channel.lag_at_byte(subscriber.at.byte().max(subscriber.joined))
}

/// Writes the subscriber's own bytes; returns nothing if the log may follow.
fn write_own_bytes(subscriber: &mut Subscriber, now: u32) -> Option<Moved> {
    match subscriber.write_own(now) {
        (Wrote::Gone, _) => Some(Moved::Ended(EndReason::ClientGone)),
        (Wrote::Part(_), _) => Some(Moved::Blocked),
        (Wrote::All, true) => Some(Moved::Ended(EndReason::Closed)),
        (Wrote::All, false) => None,
    }
}

/// Handles a partial write: the rest of the frame becomes the subscriber's own bytes, so that its
/// cursor is at the edge of a frame even if the log is trimmed.
fn part_written(
    subscriber: &mut Subscriber,
    piece: &SharedRead,
    count: usize,
    done: &mut SweepProgress,
) {
    let edge = |events| piece.batch.bytes_of(events);
    let whole = piece.batch.events_within(count);
    // The last chunk of the body comes after the last event, and belongs to no event.
    let begun = (whole + usize::from(edge(whole) < count)).min(piece.batch.events.count());
    if piece.last && begun == piece.batch.events.count() {
        subscriber.queue_bytes(piece.bytes.slice(count..), true);
    } else if edge(begun) > count {
        subscriber.queue_bytes(piece.bytes.slice(count..edge(begun)), false);
    }
    subscriber.at.advance(piece.batch.byte_after(begun));
    subscriber.lags = true;
    done.count(begun, edge(begun) as u64);
}

fn read(subscriber: &Subscriber, channel: &Channel, merge: bool) -> Result<SharedRead, Moved> {
    let byte = subscriber.at.byte();
    match channel.read_at_byte(byte, MAX_BATCH_BYTES, merge) {
        ReadResult::Nothing => Err(Moved::CaughtUp),
        ReadResult::Missing(missing) => Err(Moved::Overtaken(missing)),
        ReadResult::Frames { batch, more, last } => {
            let frames = batch.events.bytes();
            let bytes =
                if last { Bytes::from([&frames, sse::LAST_CHUNK].concat()) } else { frames };
            let channel = subscriber.channel;
            Ok(SharedRead { channel, from: byte, merged: merge, bytes, batch, more, last })
        }
    }
}

impl SweepProgress {
    fn count(&mut self, events: usize, bytes: u64) {
        self.events += events as u64;
        self.writes += 1;
        self.bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::super::subscriber::{Cursor, Interval};
    use super::*;
    use crate::clock::Moment;
    use crate::lease::AccessLease;
    use crate::position::Offset;
    use crate::store::{Entry, Log, LogPosition, LogRead, Retention};

    /// A piece with one event that ends the body.
    fn last_piece() -> SharedRead {
        let retention =
            Retention { max_events: 9, max_bytes: 999, max_age: Duration::from_secs(9) };
        let mut log = Log::new(Offset::ZERO);
        let mut frame = Vec::new();
        sse::encode(&mut frame, &sse::Text { id: Some("e-1"), event_type: None, data: b"x" });
        log.append(Entry { offset: Offset(1), time: Moment::default() }, &frame, &retention);
        let LogRead::Batch(batch) = log.read(LogPosition::default(), 999) else {
            panic!("an event")
        };
        let bytes = Bytes::from([&batch.bytes()[..], sse::LAST_CHUNK].concat());
        let batch = batch.into();
        SharedRead { channel: 0, from: 0, merged: false, bytes, batch, more: false, last: true }
    }

    fn subscriber() -> Subscriber {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = mio::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        Subscriber {
            tcp,
            at: Cursor::new(0),
            joined: 0,
            own: None,
            channel: 0,
            index: 0,
            last_write: 1,
            blocked: 1,
            ends: 0,
            due: 0,
            heartbeat: Interval::default(),
            adaptive: false,
            lags: false,
            catching_up: false,
            awaits_room: false,
            heard: 0,
            leaves: false,
            lease: AccessLease::default(),
        }
    }

    #[test]
    fn a_socket_that_takes_a_part_of_the_last_chunk_is_owed_the_rest_of_it() {
        let piece = last_piece();
        for owed in 1..piece.bytes.len() {
            let mut subscriber = subscriber();
            part_written(
                &mut subscriber,
                &piece,
                piece.bytes.len() - owed,
                &mut SweepProgress::default(),
            );
            assert!(subscriber.owes(&piece.bytes[piece.bytes.len() - owed..], true), "{owed}");
            assert_eq!(subscriber.at.byte(), piece.batch.end.byte);
        }
    }
}

//! A block: the unit of writing and reading, with checksums. Every file is a sequence of blocks.
//!
//! Recovery relies on two rules. The checksum of a header covers its lengths, so that the next
//! block is found after one with a broken body. The magic has bytes that no UTF-8 text has, so
//! that the search for a header after a broken one never stops inside an event.

use crate::clock::Moment;
use crate::position::Offset;
use crate::store::{Entry, LogPosition};
use serde::{Deserialize, Serialize};

use super::record::StoredReceipt;
use super::stream::StreamId;

/// Bytes of a header.
const HEADER: usize = 76;
/// Bytes of a slot: an event's offset, the end of its frame, and its time, relative to the base.
const SLOT: usize = 12;
/// Bytes of the block at the end of a sorted file.
pub(super) const END_LENGTH: usize = HEADER + 8;
const MAGIC: [u8; 4] = [0xff, b'F', b'B', 0xfe];

/// The contents of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Events of one stream; its trailer is a [`Trailer`], or empty.
    Events = 1,
    /// A change of a stream, or a receipt: its trailer is a [`Note`].
    Note = 2,
    /// Positions of the blocks of a sorted file.
    Footer = 3,
    /// Position of the footer.
    End = 4,
    /// All streams, and receipts.
    Checkpoint = 5,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Events, Self::Note, Self::Footer, Self::End, Self::Checkpoint]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// The part of a block after its events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trailer {
    /// The final state of the stream, if the last event is its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<Box<str>>,
    /// Receipts of the publishes of the events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) receipts: Vec<StoredReceipt>,
}

impl Trailer {
    fn text(&self) -> Vec<u8> {
        if *self == Self::default() { Vec::new() } else { json(self) }
    }

    /// Parses a trailer. `None` if this version cannot read it.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        if text.is_empty() { Some(Self::default()) } else { serde_json::from_slice(text).ok() }
    }
}

/// The contents of a block without events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Note {
    /// A stream begins, or its options change.
    Stream { name: String, options: Box<str> },
    /// The stream is deleted.
    Gone {},
    /// A receipt of a publish.
    Receipt(StoredReceipt),
}

/// Serialises a value that always has a JSON form, as texts and numbers have.
pub(super) fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// The header of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) stream: StreamId,
    /// The position of the first event.
    pub(super) first: LogPosition,
    /// The first event, to which the slots are relative.
    pub(super) base: Entry,
    /// Bytes of this file that were known to be synced when the block was written.
    pub(super) synced: u64,
    pub(super) count: u32,
    pub(super) frames: u32,
    pub(super) trailer: u32,
    checksum: u32,
}

impl Header {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = FieldReader(bytes.get(..HEADER)?);
        let covered = &fields.0[..HEADER - 4];
        let magic: [u8; 4] = fields.take();
        let [kind, ..]: [u8; 4] = fields.take();
        let header = Self {
            kind: Kind::from_byte(kind)?,
            stream: StreamId(fields.u64()),
            first: LogPosition { seq: fields.u64(), byte: fields.u64() },
            base: Entry { offset: Offset(fields.u64()), time: fields.u64().into() },
            synced: fields.u64(),
            count: fields.u32(),
            frames: fields.u32(),
            trailer: fields.u32(),
            checksum: fields.u32(),
        };
        let sane = header.first.seq.checked_add(u64::from(header.count)).is_some()
            && header.first.byte.checked_add(u64::from(header.frames)).is_some();
        let whole = magic == MAGIC && fields.u32() == crc32fast::hash(covered) && sane;
        whole.then_some(header)
    }

    fn encode(&self, into: &mut Vec<u8>) {
        let from = into.len();
        into.extend_from_slice(&MAGIC);
        into.extend_from_slice(&[self.kind as u8, 0, 0, 0]);
        let longs = [self.stream.0, self.first.seq, self.first.byte];
        let base = [self.base.offset.0, self.base.time.wall, self.synced];
        longs.iter().chain(&base).for_each(|long| into.extend_from_slice(&long.to_le_bytes()));
        let shorts = [self.count, self.frames, self.trailer, self.checksum];
        shorts.iter().for_each(|short| into.extend_from_slice(&short.to_le_bytes()));
        let checksum = crc32fast::hash(&into[from..]);
        into.extend_from_slice(&checksum.to_le_bytes());
    }

    /// Returns the bytes of the whole block.
    pub(super) fn length(&self) -> usize {
        HEADER + self.slots() + self.frames as usize + self.trailer as usize
    }

    /// Returns the position after the last event.
    pub(super) fn end(&self) -> LogPosition {
        LogPosition {
            seq: self.first.seq + u64::from(self.count),
            byte: self.first.byte + u64::from(self.frames),
        }
    }

    fn slots(&self) -> usize {
        self.count as usize * SLOT
    }
}

/// A block whose checksums are right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block<'a> {
    pub(super) header: Header,
    body: &'a [u8],
}

impl<'a> Block<'a> {
    /// Parses the block at the beginning of `bytes`. If only its body is broken, the error has the
    /// header.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Option<Header>> {
        let header = Header::decode(bytes).ok_or(None)?;
        let body = bytes.get(HEADER..header.length()).ok_or(Some(header))?;
        let block = Self { header, body };
        let whole = crc32fast::hash(body) == header.checksum && block.ends_in_order();
        if whole { Ok(block) } else { Err(Some(header)) }
    }

    /// Returns the block with steady times: the wall clock was as far ahead of the steady clock as
    /// at `moment`.
    pub(super) fn dated(mut self, moment: Moment) -> Self {
        let base = &mut self.header.base;
        base.time = Moment::of_wall(base.time.wall, moment.ahead());
        self
    }

    /// Iterates over the events and their frames.
    pub(super) fn events(&self) -> impl Iterator<Item = (Entry, &'a [u8])> + use<'a> {
        let Self { header, body } = *self;
        let (slots, rest) = body.split_at(header.slots());
        let mut from = 0;
        slots.chunks_exact(SLOT).map(move |slot| {
            let (entry, end) = slot_of(slot, header.base);
            let frame = &rest[from..end];
            from = end;
            (entry, frame)
        })
    }

    /// Returns the entry of the last event.
    pub(super) fn last(&self) -> Option<Entry> {
        let slots = &self.body[..self.header.slots()];
        slots.rchunks_exact(SLOT).next().map(|slot| slot_of(slot, self.header.base).0)
    }

    /// Returns the bytes after the events.
    pub(super) fn trailer(&self) -> &'a [u8] {
        &self.body[self.header.slots() + self.header.frames as usize..]
    }

    /// Returns whether the ends of the frames ascend, and the last one is the end of all frames.
    fn ends_in_order(&self) -> bool {
        let slots = self.body[..self.header.slots()].chunks_exact(SLOT);
        let mut ends = slots.map(|slot| slot_of(slot, self.header.base).1);
        let last = ends.try_fold(0, |from, end| (from <= end).then_some(end));
        last == Some(self.header.frames as usize)
    }
}

fn slot_of(slot: &[u8], base: Entry) -> (Entry, usize) {
    let mut fields = FieldReader(slot);
    let offset = Offset(base.offset.0.saturating_add(u64::from(fields.u32())));
    let end = fields.u32() as usize;
    (Entry { offset, time: base.time.later(fields.u32()) }, end)
}

/// Reads numbers from the front. Missing bytes read as zero, and fail the checksum.
pub(super) struct FieldReader<'a>(pub(super) &'a [u8]);

impl FieldReader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk() else {
            return [0; N];
        };
        self.0 = rest;
        *field
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// Events of one stream that will be written as one block.
#[derive(Debug)]
pub(super) struct EventsDraft {
    stream: StreamId,
    first: LogPosition,
    base: Entry,
    last: Entry,
    slots: Vec<u8>,
    frames: Vec<u8>,
    pub(super) trailer: Trailer,
}

impl EventsDraft {
    pub(super) fn new(stream: StreamId, first: LogPosition) -> Self {
        Self {
            stream,
            first,
            base: Entry::default(),
            last: Entry::default(),
            slots: Vec::new(),
            frames: Vec::new(),
            trailer: Trailer::default(),
        }
    }

    /// Returns whether these events can be added: they follow the last one, and fit into `most`
    /// bytes.
    pub(super) fn fits(
        &self,
        first: LogPosition,
        mut entries: impl Iterator<Item = Entry>,
        bytes: usize,
        most: usize,
    ) -> bool {
        let mut last = self.last;
        first == self.end()
            && self.trailer.state.is_none()
            && self.frames.len() + bytes <= most
            && entries.all(|entry| entry.joins(self.base, std::mem::replace(&mut last, entry)))
    }

    pub(super) fn push(&mut self, entry: Entry, frame: &[u8]) {
        if self.slots.is_empty() {
            self.base = entry;
        }
        self.frames.extend_from_slice(frame);
        let offset = entry.offset.0.saturating_sub(self.base.offset.0) as u32;
        let time = entry.time.wall.saturating_sub(self.base.time.wall) as u32;
        for field in [offset, self.frames.len() as u32, time] {
            self.slots.extend_from_slice(&field.to_le_bytes());
        }
        self.last = Entry { offset: entry.offset, time: self.base.time.later(time) };
    }

    pub(super) fn end(&self) -> LogPosition {
        let count = self.slots.len() / SLOT;
        LogPosition {
            seq: self.first.seq + count as u64,
            byte: self.first.byte + self.frames.len() as u64,
        }
    }

    /// Returns the entry of the last event.
    pub(super) fn last(&self) -> Entry {
        self.last
    }

    /// Appends the encoded block to `into`.
    pub(super) fn encode(&self, synced: u64, into: &mut Vec<u8>) -> Header {
        let trailer = self.trailer.text();
        let header = Header {
            kind: Kind::Events,
            stream: self.stream,
            first: self.first,
            base: self.base,
            synced,
            count: (self.slots.len() / SLOT) as u32,
            frames: self.frames.len() as u32,
            trailer: trailer.len() as u32,
            checksum: checksum([&self.slots, &self.frames, &trailer]),
        };
        header.encode(into);
        for part in [&self.slots, &self.frames, &trailer] {
            into.extend_from_slice(part);
        }
        header
    }
}

/// Appends an encoded block without events to `into`.
pub(super) fn encode(kind: Kind, stream: StreamId, body: &[u8], synced: u64, into: &mut Vec<u8>) {
    let header = Header {
        kind,
        stream,
        first: LogPosition::default(),
        base: Entry::default(),
        synced,
        count: 0,
        frames: 0,
        trailer: body.len() as u32,
        checksum: checksum([body]),
    };
    header.encode(into);
    into.extend_from_slice(body);
}

fn checksum<const N: usize>(parts: [&[u8]; N]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize()
}

/// A piece of a file.
#[derive(Debug)]
pub(super) enum ScannedPart<'a> {
    Whole {
        position: usize,
        block: Block<'a>,
    },
    /// No valid block up to `end`; `header` is set if only the body is broken.
    Broken {
        position: usize,
        end: usize,
        header: Option<Header>,
    },
}

/// Splits a file into whole and broken parts, from its beginning to its end.
pub(super) fn scan(bytes: &[u8]) -> Vec<ScannedPart<'_>> {
    let mut parts = Vec::new();
    let mut position = 0;
    while position < bytes.len() {
        let (part, end) = match Block::parse(&bytes[position..]) {
            Ok(block) => (ScannedPart::Whole { position, block }, position + block.header.length()),
            Err(header) => {
                let end = after_broken(bytes, position, header);
                (ScannedPart::Broken { position, end, header }, end)
            }
        };
        parts.push(part);
        position = end;
    }
    parts
}

/// Returns the position after a broken block: from its header, or by a search for the next header.
fn after_broken(bytes: &[u8], position: usize, header: Option<Header>) -> usize {
    if let Some(header) = header {
        return (position + header.length()).min(bytes.len());
    }
    let candidates = memchr::memmem::find_iter(&bytes[position + 1..], &MAGIC);
    candidates
        .map(|found| position + 1 + found)
        .find(|at| Header::decode(&bytes[*at..]).is_some())
        .unwrap_or(bytes.len())
}

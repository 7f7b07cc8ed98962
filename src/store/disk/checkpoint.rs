//! Checkpoints, which list the streams.
//!
//! Recovery relies on this: a checkpoint is replaced as a whole, or not at all. Checkpoint N has
//! the streams as of the beginning of file N. Files from the number of the older of the last two
//! checkpoints on are neither rewritten nor deleted: if the newest checkpoint is broken, the one
//! before it and these files are enough. A clean close writes a checkpoint, too: it shows which
//! events are missing if later files are.

use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::block::{Block, Kind, encode, json};
use super::file_names::Role;
use super::files::{Files, IoError, read_all, replace};
use super::index::BlockIndex;
use super::record::StoredReceipt;
use super::stream::{StreamId, TrimPoint};
use super::stream_index::StreamIndex;
use crate::clock::Moment;
use crate::position::Offset;
use crate::store::{Entry, LogPosition};

/// All streams at one moment, and the receipts within their window.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) number: u32,
    pub(super) streams: Vec<(StreamId, StreamIndex)>,
    pub(super) receipts: Vec<StoredReceipt>,
    pub(super) next_stream: u64,
    pub(super) gone: Offset,
}

#[derive(Serialize, Deserialize)]
struct CheckpointText {
    /// The number of the file, to detect a copy under another number. Missing in checkpoints of
    /// earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    number: Option<u32>,
    next_stream: u64,
    gone: u64,
    streams: Vec<StreamText>,
    receipts: Vec<StoredReceipt>,
}

/// A stream in numbers: `span` has offset and time of the first and the last event; `floor`, the
/// trim point, has seq, byte and offset.
#[derive(Serialize, Deserialize)]
struct StreamText {
    id: u64,
    name: String,
    options: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    span: Option<[u64; 4]>,
    floor: [u64; 3],
    end: [u64; 2],
}

impl Checkpoint {
    /// Describes the streams of the index. Only the writer adds to it, so between two writes this
    /// is the state at the beginning of file `number`.
    pub(super) fn of(index: &mut BlockIndex, number: u32, now: Moment) -> Self {
        index.receipts.forget_expired(now);
        Self {
            number,
            streams: index.summary(),
            receipts: index.receipts.to_vec(),
            next_stream: index.next_stream,
            gone: index.gone,
        }
    }

    pub(super) fn save(&self, files: &dyn Files) -> Result<(), IoError> {
        let text = CheckpointText {
            number: Some(self.number),
            next_stream: self.next_stream,
            gone: self.gone.0,
            streams: self.streams.iter().map(to_text).collect(),
            receipts: self.receipts.clone(),
        };
        let mut bytes = Vec::new();
        encode(Kind::Checkpoint, StreamId(0), &json(&text), 0, &mut bytes);
        replace(files, &Role::Checkpoint.file_name(self.number), &bytes)
    }

    pub(super) fn load(files: &dyn Files, number: u32) -> Result<Self, String> {
        let file =
            files.open(&Role::Checkpoint.file_name(number)).map_err(|error| error.to_string())?;
        let bytes = read_all(&*file).map_err(|error| error.to_string())?;
        let block = Block::parse(&bytes).map_err(|_| "its checksum is wrong".to_owned())?;
        let text = serde_json::from_slice(block.trailer()).map_err(|why| why.to_string())?;
        let CheckpointText { number: recorded, next_stream, gone, streams, receipts } = text;
        if let Some(other) = recorded.filter(|recorded| *recorded != number) {
            return Err(format!("it is a copy of `{}`", Role::Checkpoint.file_name(other)));
        }
        let streams = streams.into_iter().map(from_text).collect::<Option<_>>();
        let streams = streams.ok_or_else(|| "it has an invalid channel name".to_owned())?;
        Ok(Self { number, streams, receipts, next_stream, gone: Offset(gone) })
    }
}

fn to_text((id, stream): &(StreamId, StreamIndex)) -> StreamText {
    let TrimPoint { position, last_trimmed } = stream.trim_point;
    StreamText {
        id: id.0,
        name: stream.name.as_str().to_owned(),
        options: Box::from(&*stream.options),
        state: stream.state.as_deref().map(Box::from),
        span: stream
            .span
            .map(|(first, last)| [first.offset.0, first.time.wall, last.offset.0, last.time.wall]),
        floor: [position.seq, position.byte, last_trimmed.0],
        end: [stream.end.seq, stream.end.byte],
    }
}

fn from_text(text: StreamText) -> Option<(StreamId, StreamIndex)> {
    let mut stream = StreamIndex::new(FromStr::from_str(&text.name).ok()?, text.options.into());
    let entry = |offset, time: u64| Entry { offset: Offset(offset), time: time.into() };
    let [seq, byte, last_trimmed] = text.floor;
    stream.state = text.state.map(Arc::from);
    stream.span = text.span.map(|[a, b, c, d]| (entry(a, b), entry(c, d)));
    stream.trim_point =
        TrimPoint { position: LogPosition { seq, byte }, last_trimmed: Offset(last_trimmed) };
    stream.end = LogPosition { seq: text.end[0], byte: text.end[1] };
    Some((StreamId(text.id), stream))
}

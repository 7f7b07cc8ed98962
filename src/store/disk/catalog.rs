//! The small files: what each is called, the identity of the directory, and catalogs, which say
//! what streams there are.
//!
//! Recovery relies on this: both are put in place whole, or not at all. Catalog N has the streams
//! as they were when file N was begun. Files whose number is not below that of the older of the two
//! newest catalogs are neither rewritten nor deleted: with one broken catalog, the one before it
//! and the files still tell everything.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::block::{Block, Kind, encode, json};
use super::files::{Fault, Files, read_all, replace};
use super::shelf::Shelved;
use super::{Floor, OpenError, Receipt, StreamId};
use crate::position::Offset;
use crate::store::{Entry, Mark};

/// The file whose lock is the directory's.
pub(super) const LOCK: &str = "lock";
const IDENTITY: &str = "fanfare.store";
const VERSION: u32 = 1;

/// What a file with a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Blocks in the order of their arrival.
    Journal,
    /// Blocks sorted by stream.
    Sorted,
    Catalog,
}

impl Role {
    fn ending(self) -> &'static str {
        match self {
            Self::Journal => "log",
            Self::Sorted => "seg",
            Self::Catalog => "cat",
        }
    }
}

/// The name of the file with this number.
pub(super) fn name(number: u32, role: Role) -> String {
    format!("{number:016}.{}", role.ending())
}

/// What a file is, by its name.
pub(super) fn parse_name(text: &str) -> Option<(u32, Role)> {
    let (number, _) = text.split_once('.')?;
    let number = number.parse().ok()?;
    let roles = [Role::Journal, Role::Sorted, Role::Catalog].into_iter();
    roles.map(|role| (number, role)).find(|(number, role)| name(*number, *role) == text)
}

/// What the directory is, and how it was left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    version: u32,
    pub(super) epoch: Box<str>,
    /// The start of the machine in which it was last opened.
    pub(super) boot: Box<str>,
    /// Closed after everything was synced.
    pub(super) clean: bool,
    /// No offset from here on has been given out.
    pub(super) next_offset: u64,
    /// Tells which names were durable in the life that was last; nothing in directories of hubs
    /// that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    durable_names: Option<Box<str>>,
    /// Up to this offset, names that are durable by now may have had events in memory alone.
    #[serde(default)]
    pub(super) in_memory: u64,
}

impl Identity {
    pub(super) fn new(epoch: &str) -> Self {
        let epoch = epoch.into();
        Self {
            version: VERSION,
            epoch,
            boot: Box::default(),
            clean: true,
            next_offset: 1,
            durable_names: None,
            in_memory: 0,
        }
    }

    /// A life begins, with this offset and these names. If others were durable before, nobody knows
    /// which of the new ones had events that are gone.
    pub(super) fn note_names(&mut self, durable_names: Option<Box<str>>, first: u64) {
        if durable_names.is_some() && durable_names != self.durable_names {
            self.in_memory = first.saturating_sub(1);
            self.durable_names = durable_names;
        }
    }

    /// Reads it. `None` means a directory that has nothing yet.
    pub(super) fn load(files: &dyn Files, directory: &Path) -> Result<Option<Self>, OpenError> {
        let names = files.list().map_err(|error| Fault::of("")(error).in_directory(directory))?;
        if !names.iter().any(|name| name == IDENTITY) {
            return nothing_of_others(&names, directory);
        }
        let failed = |error| Fault::of(IDENTITY)(error).in_directory(directory);
        let file = files.open(IDENTITY).map_err(failed)?;
        let text = read_all(&*file).map_err(failed)?;
        let foreign = |why: &serde_json::Error| foreign(&directory.join(IDENTITY), why.to_string());
        let version: Version = serde_json::from_slice(&text).map_err(|why| foreign(&why))?;
        if version.version > VERSION {
            let (path, found) = (directory.to_owned(), version.version);
            return Err(OpenError::Newer { path, found, known: VERSION });
        }
        serde_json::from_slice(&text).map(Some).map_err(|why| foreign(&why))
    }

    /// Whether the machine may have gone down while a hub had the directory. A start of the machine
    /// that has no name may be another one.
    pub(super) fn tells_of_power_cut(&self, boot: &str) -> bool {
        !self.clean && (boot.is_empty() || *self.boot != *boot)
    }

    pub(super) fn save(&self, files: &dyn Files) -> Result<(), Fault> {
        // A person may look at it: one line per fact.
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        replace(files, IDENTITY, &text)
    }
}

/// What every version's identity has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

fn nothing_of_others<T>(names: &[String], directory: &Path) -> Result<Option<T>, OpenError> {
    let harmless = |name: &&String| *name == LOCK || *name == "lost+found" || is_unfinished(name);
    match names.iter().find(|name| !harmless(name)) {
        None => Ok(None),
        Some(name) => Err(foreign(directory, format!("it has {name}, but no {IDENTITY}"))),
    }
}

/// Left behind by a crash: never looked at, and deleted.
pub(super) fn is_unfinished(name: &str) -> bool {
    let whole = name.strip_suffix(".tmp");
    whole.is_some_and(|name| name == IDENTITY || parse_name(name).is_some())
}

/// Whether the store knows what this file is.
pub(super) fn is_ours(name: &str) -> bool {
    [LOCK, IDENTITY].contains(&name) || parse_name(name).is_some() || is_unfinished(name)
}

fn foreign(path: &Path, why: String) -> OpenError {
    OpenError::Foreign { path: path.to_owned(), why }
}

/// All streams at one moment, and the receipts that are not forgotten.
#[derive(Debug)]
pub(super) struct Catalog {
    pub(super) number: u32,
    pub(super) streams: Vec<(StreamId, Shelved)>,
    pub(super) receipts: Vec<Receipt>,
    pub(super) next_stream: u64,
    pub(super) gone: Offset,
}

#[derive(Serialize, Deserialize)]
struct CatalogText {
    next_stream: u64,
    gone: u64,
    streams: Vec<StreamText>,
    receipts: Vec<Receipt>,
}

/// A stream in numbers: first and last are offset and time; floor is seq, byte and offset.
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

impl Catalog {
    pub(super) fn save(&self, files: &dyn Files) -> Result<(), Fault> {
        let streams = self.streams.iter().map(to_text).collect();
        let (next_stream, receipts) = (self.next_stream, self.receipts.clone());
        let text = CatalogText { next_stream, gone: self.gone.0, streams, receipts };
        let mut bytes = Vec::new();
        encode(Kind::Catalog, StreamId(0), &json(&text), 0, &mut bytes);
        replace(files, &name(self.number, Role::Catalog), &bytes)
    }

    pub(super) fn load(files: &dyn Files, number: u32) -> Result<Self, String> {
        let file = files.open(&name(number, Role::Catalog)).map_err(|error| error.to_string())?;
        let bytes = read_all(&*file).map_err(|error| error.to_string())?;
        let block = Block::parse(&bytes).map_err(|_| "its checksum is wrong".to_owned())?;
        let text = serde_json::from_slice(block.trailer()).map_err(|why| why.to_string())?;
        let CatalogText { next_stream, gone, streams, receipts } = text;
        let streams = streams.into_iter().map(from_text).collect::<Option<_>>();
        let streams = streams.ok_or_else(|| "it has a name that is none".to_owned())?;
        Ok(Self { number, streams, receipts, next_stream, gone: Offset(gone) })
    }
}

fn to_text((id, stream): &(StreamId, Shelved)) -> StreamText {
    let Floor { mark, behind } = stream.floor;
    let numbers =
        |(first, last): (Entry, Entry)| [first.offset.0, first.time, last.offset.0, last.time];
    StreamText {
        id: id.0,
        name: stream.name.as_str().to_owned(),
        options: Box::from(&*stream.options),
        state: stream.state.as_deref().map(Box::from),
        span: stream.span.map(numbers),
        floor: [mark.seq, mark.byte, behind.0],
        end: [stream.end.seq, stream.end.byte],
    }
}

fn from_text(text: StreamText) -> Option<(StreamId, Shelved)> {
    let mut stream = Shelved::new(FromStr::from_str(&text.name).ok()?, text.options.into());
    let entry = |offset, time| Entry { offset: Offset(offset), time };
    let [seq, byte, behind] = text.floor;
    stream.state = text.state.map(Arc::from);
    stream.span = text.span.map(|[a, b, c, d]| (entry(a, b), entry(c, d)));
    stream.floor = Floor { mark: Mark { seq, byte }, behind: Offset(behind) };
    stream.end = Mark { seq: text.end[0], byte: text.end[1] };
    Some((StreamId(text.id), stream))
}

//! Checks whether a directory is whole, and reads every byte of every file.
//!
//! Not damage are a torn end of the newest journal, files that a crash left, and dead blocks.
//! Recovery decides which files count. In addition, this reads the blocks of sorted files, and
//! checks that the blocks of each stream join.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use super::{Inspected, held};
use crate::channel::ChannelName;
use crate::position::Offset;
use crate::store::LogPosition;
use crate::store::disk::block::{Block, Header, Kind, Note, ScannedPart, Trailer, scan};
use crate::store::disk::block_ref::BlockRef;
use crate::store::disk::checkpoint::Checkpoint;
use crate::store::disk::error::OpenError;
use crate::store::disk::file_names::{Role, SUPERBLOCK, is_ours, is_unfinished, parse_name};
use crate::store::disk::files::{Directory, File, IoError, read_all};
use crate::store::disk::footer::read_footer;
use crate::store::disk::recovery::{is_unused, read_readable, torn_at};
use crate::store::disk::stream::StreamId;
use crate::store::disk::stream_index::StreamIndex;

/// The result of a check.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Damage and remarks.
    pub findings: Vec<Finding>,
    /// Counts of what was read.
    pub totals: Totals,
}

impl Checked {
    /// Returns the number of findings that are damage.
    #[must_use]
    pub fn damages(&self) -> usize {
        self.findings.iter().filter(|finding| finding.damage).count()
    }
}

/// A finding of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: String,
    /// The byte in the file.
    pub offset: u64,
    /// Number of bytes; 0 for a position between two blocks.
    pub bytes: u64,
    /// The channel, if known.
    pub channel: Option<ChannelName>,
    /// The description.
    pub what: String,
    /// Whether it is damage: data that was whole once and is not now.
    pub damage: bool,
}

/// Counts of what was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Files of the store.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks, whole or not.
    pub blocks: u64,
    /// Channels.
    pub channels: u64,
    /// Retained events.
    pub events: u64,
}

/// Reads every byte of every file. Changes nothing.
///
/// # Errors
/// The directory cannot be checked; see [`OpenError`].
pub fn check(path: &Path) -> Result<Checked, OpenError> {
    Inspected::of_files(Arc::new(Directory::open_read_only(path)?), path)?.check(path)
}

impl Inspected {
    pub(in crate::store::disk) fn check(self, path: &Path) -> Result<Checked, OpenError> {
        let streams = self.recovered.index.streams.iter();
        let names = streams.map(|(id, stream)| (*id, stream.name.clone())).collect();
        let mut check =
            Check { inspected: &self, names, links: HashMap::new(), found: Checked::default() };
        check.run().map_err(|fault| fault.in_directory(path))?;
        Ok(check.found)
    }
}

/// A block of events, whole or lost.
struct BlockLink {
    block: BlockRef,
    lost: bool,
}

struct Check<'a> {
    inspected: &'a Inspected,
    /// The names of streams, including deleted ones that files still mention.
    names: HashMap<StreamId, ChannelName>,
    /// The blocks of each stream in the order of the files.
    links: HashMap<StreamId, Vec<BlockLink>>,
    found: Checked,
}

impl Check<'_> {
    fn run(&mut self) -> Result<(), IoError> {
        if let Some(why) = &self.inspected.damaged {
            let place = CheckedPlace { file: SUPERBLOCK, ..CheckedPlace::default() };
            self.damage(place, None, format!("the superblock is damaged: {why}"));
        }
        let mut events = BTreeMap::<u32, Vec<Role>>::new();
        let mut checkpoints = Vec::new();
        for name in self.inspected.files.list().map_err(IoError::of(""))? {
            match parse_name(&name) {
                Some((number, Role::Checkpoint)) => checkpoints.push(number),
                Some((number, role)) => events.entry(number).or_default().push(role),
                None => self.check_unnumbered(&name)?,
            }
        }
        checkpoints.sort_unstable();
        checkpoints.into_iter().try_for_each(|number| self.check_checkpoint(number))?;
        let newest = events.keys().last().copied();
        for (number, roles) in events {
            roles.into_iter().try_for_each(|role| self.check_events(number, role, newest))?;
        }
        self.check_streams();
        Ok(())
    }

    /// Checks a file without a number: the superblock, which is loaded already, the lock, or a
    /// file of others.
    fn check_unnumbered(&mut self, name: &str) -> Result<(), IoError> {
        if !is_ours(name) {
            self.remark(name, 0, "not a file of the store: ignored".to_owned());
            return Ok(());
        }
        let file = self.inspected.files.open(name).map_err(IoError::of(name))?;
        let size = file.size().map_err(IoError::of(name))?;
        if is_unfinished(name) {
            self.remark(name, size, "left unfinished by a crash: deleted at the next start".into());
        }
        self.count(size);
        Ok(())
    }

    fn check_checkpoint(&mut self, number: u32) -> Result<(), IoError> {
        let name = Role::Checkpoint.file_name(number);
        let file = self.inspected.files.open(&name).map_err(IoError::of(&name))?;
        let size = file.size().map_err(IoError::of(&name))?;
        self.count(size);
        self.found.totals.blocks += 1;
        if let Err(why) = Checkpoint::load(&*self.inspected.files, number) {
            let what = format!("the checkpoint is broken: {why}");
            self.damage(CheckedPlace { file: &name, offset: 0, bytes: size }, None, what);
        } else if let Some(extra) = read_all(&*file).ok().and_then(|bytes| after_first(&bytes)) {
            let offset = extra as u64;
            let place = CheckedPlace { file: &name, offset, bytes: size - offset };
            self.damage(place, None, "there is something after the checkpoint".to_owned());
        }
        Ok(())
    }

    /// Checks a file with events. Skips one that another has replaced, which the next start
    /// deletes.
    fn check_events(
        &mut self,
        number: u32,
        role: Role,
        newest: Option<u32>,
    ) -> Result<(), IoError> {
        let name = role.file_name(number);
        let file = self.inspected.files.open(&name).map_err(IoError::of(&name))?;
        let bytes = match read_all(&*file) {
            Ok(bytes) => bytes,
            Err(_) => read_readable(&name, &*file)?,
        };
        self.count(bytes.len() as u64);
        let counts = self.inspected.recovered.index.files.get(&number);
        if counts.is_none_or(|counts| counts.name != name) {
            let what = "left by a crash, and replaced by another file: deleted at the next start";
            self.remark(&name, bytes.len() as u64, what.to_owned());
            return Ok(());
        }
        let parts = scan(&bytes);
        let clean = self.inspected.superblock.clean;
        let may_be_torn = newest == Some(number) && role == Role::Journal;
        let torn = if may_be_torn { torn_at(&parts, bytes.len(), clean) } else { None };
        let end = torn.unwrap_or(bytes.len());
        let whole = self.check_parts(FileAt { number, role, name: &name }, &parts, end);
        if let Some(torn) = torn.filter(|torn| !is_unused(&bytes[*torn..])) {
            let left = (bytes.len() - torn) as u64;
            let what = "torn, as a crash leaves it: cut off at the next start, and no damage";
            self.remark_at(
                CheckedPlace { file: &name, offset: torn as u64, bytes: left },
                what.to_owned(),
            );
        }
        if role == Role::Sorted {
            self.check_footer(&name, &*file, number, &whole, bytes.len() as u64);
        }
        Ok(())
    }

    /// Checks all parts before `end`. Returns the whole blocks of events.
    fn check_parts(&mut self, file: FileAt<'_>, parts: &[ScannedPart<'_>], end: usize) -> Rows {
        let mut rows = Rows::new();
        for part in parts {
            match part {
                ScannedPart::Whole { position, block } if *position < end => {
                    self.found.totals.blocks += 1;
                    rows.extend(self.check_block(file, *position as u64, block));
                }
                ScannedPart::Broken { position, end: to, header } if *position < end => {
                    self.found.totals.blocks += 1;
                    let offset = *position as u64;
                    let bytes = (to - position) as u64;
                    let place = CheckedPlace { file: file.name, offset, bytes };
                    self.report_broken(file, place, header.as_ref());
                }
                ScannedPart::Whole { .. } | ScannedPart::Broken { .. } => {}
            }
        }
        rows
    }

    /// Checks the contents of a block whose checksums are right.
    fn check_block(
        &mut self,
        file: FileAt<'_>,
        position: u64,
        block: &Block<'_>,
    ) -> Option<(StreamId, BlockRef)> {
        let Header { kind, stream, .. } = block.header;
        let understood = match kind {
            Kind::Events => Trailer::parse(block.trailer()).is_some(),
            Kind::Note => self.check_note(stream, block.trailer()),
            Kind::Footer | Kind::End => file.role == Role::Sorted,
            Kind::Checkpoint => false,
        };
        if !understood {
            let bytes = block.header.length() as u64;
            let place = CheckedPlace { file: file.name, offset: position, bytes };
            let what = "the block is whole, but of a kind that does not belong here".to_owned();
            self.damage(place, self.names.get(&stream).cloned(), what);
        }
        let events = kind == Kind::Events;
        let block = BlockRef::of_block(block, file.number, position).filter(|_| events)?;
        self.links.entry(stream).or_default().push(BlockLink { block, lost: false });
        Some((stream, block))
    }

    /// Returns whether a note is valid. Remembers the name of its stream.
    fn check_note(&mut self, stream: StreamId, text: &[u8]) -> bool {
        match serde_json::from_slice(text) {
            Ok(Note::Stream { name, .. }) => {
                let name = name.parse().ok();
                let known = name.is_some();
                name.map(|name| self.names.entry(stream).or_insert(name));
                known
            }
            Ok(Note::Gone {} | Note::Receipt(_)) => true,
            Err(_) => false,
        }
    }

    fn report_broken(
        &mut self,
        file: FileAt<'_>,
        place: CheckedPlace<'_>,
        header: Option<&Header>,
    ) {
        let Some(header) = header else {
            let what = "not readable as blocks; the channels are not known".to_owned();
            self.damage(place, None, what);
            return;
        };
        let channel = self.names.get(&header.stream).cloned();
        let lost = BlockRef::new(header, header.base, file.number, place.offset);
        let what = match header.kind {
            Kind::Events => self.describe_loss(header, &lost),
            Kind::Note => "a broken block: a change of a channel is lost".to_owned(),
            Kind::Footer | Kind::End => "a broken block of the file's index".to_owned(),
            Kind::Checkpoint => "a broken block".to_owned(),
        };
        if header.kind == Kind::Events {
            self.links
                .entry(header.stream)
                .or_default()
                .push(BlockLink { block: lost, lost: true });
        }
        self.damage(place, channel, what);
    }

    fn describe_loss(&self, header: &Header, lost: &BlockRef) -> String {
        let stream = self.inspected.recovered.index.streams.get(&header.stream);
        let alive = stream.is_some_and(|stream| lost.end().seq > stream.trim_point.position.seq);
        // If everything before the loss is gone, the trim point was raised past it.
        let count = header.count;
        let offset = header.base.offset.0;
        let dead = if stream.is_none() { "; they were dead already" } else { "" };
        let first = if alive || stream.is_none() { "" } else { "; none before them is retained" };
        format!("a broken block: {count} events from offset {offset} on are lost{dead}{first}")
    }

    /// Compares the footer of a sorted file with its blocks.
    fn check_footer(&mut self, name: &str, file: &dyn File, number: u32, whole: &Rows, size: u64) {
        let place = CheckedPlace { file: name, offset: 0, bytes: size };
        match read_footer(file, number) {
            None => self.damage(place, None, "the file's index cannot be read".to_owned()),
            Some(mut rows) => {
                // Broken blocks are reported already.
                rows.retain(|row| !self.is_reported(name, u64::from(row.1.position)));
                if rows != *whole {
                    let what = "the file's index does not match its blocks".to_owned();
                    self.damage(place, None, what);
                }
            }
        }
    }

    /// Returns whether damage at this byte was reported.
    fn is_reported(&self, file: &str, byte: u64) -> bool {
        let mut findings = self.found.findings.iter().filter(|finding| finding.file == file);
        findings.any(|it| (it.offset..it.offset + it.bytes).contains(&byte))
    }

    /// Checks that the blocks of each stream join, from its trim point to its end.
    fn check_streams(&mut self) {
        let index = &self.inspected.recovered.index;
        let mut streams: Vec<_> = index.streams.iter().collect();
        streams.sort_unstable_by_key(|(id, _)| **id);
        for (id, stream) in streams {
            self.found.totals.channels += 1;
            self.found.totals.events += held(stream).0;
            let links = self.links.remove(id).unwrap_or_default();
            self.check_stream(stream, &links);
        }
    }

    fn check_stream(&mut self, stream: &StreamIndex, links: &[BlockLink]) {
        let trim_point = stream.trim_point.position;
        let mut end = trim_point;
        let mut offset = stream.trim_point.last_trimmed;
        let retained = links.iter().filter(|link| link.block.end().seq > trim_point.seq);
        for (at, BlockLink { block, lost }) in retained.enumerate() {
            if let Some(what) = fault_after(end, offset, at == 0, block) {
                self.damage_at(stream, block, what);
            }
            end = end.max(block.end());
            // The last offset of a broken block is not known.
            offset = if *lost { block.first_offset } else { block.last_offset };
        }
        if end.seq < stream.end.seq {
            let what = missing(stream.end.seq - end.seq, "after this block");
            match links.last() {
                Some(last) => self.damage_at(stream, &last.block, what),
                None => self.damage(CheckedPlace::default(), Some(stream.name.clone()), what),
            }
        }
    }

    fn damage_at(&mut self, stream: &StreamIndex, block: &BlockRef, what: String) {
        let file = self.inspected.recovered.index.files.get(&block.file);
        let file = file.map_or("", |file| &file.name);
        let offset = u64::from(block.position);
        self.damage(CheckedPlace { file, offset, bytes: 0 }, Some(stream.name.clone()), what);
    }

    fn damage(&mut self, place: CheckedPlace<'_>, channel: Option<ChannelName>, what: String) {
        self.found.findings.push(Finding { channel, damage: true, ..place.finding(what) });
    }

    /// Adds a remark about a position.
    fn remark_at(&mut self, place: CheckedPlace<'_>, what: String) {
        self.found.findings.push(place.finding(what));
    }

    /// Adds a remark about a whole file.
    fn remark(&mut self, file: &str, bytes: u64, what: String) {
        self.remark_at(CheckedPlace { file, offset: 0, bytes }, what);
    }

    fn count(&mut self, bytes: u64) {
        self.found.totals.files += 1;
        self.found.totals.bytes += bytes;
    }
}

/// Blocks of events of one file.
type Rows = Vec<(StreamId, BlockRef)>;

/// The file being checked.
#[derive(Clone, Copy)]
struct FileAt<'a> {
    number: u32,
    role: Role,
    name: &'a str,
}

/// The position of a finding.
#[derive(Clone, Copy, Default)]
struct CheckedPlace<'a> {
    file: &'a str,
    offset: u64,
    bytes: u64,
}

impl CheckedPlace<'_> {
    fn finding(self, what: String) -> Finding {
        Finding {
            file: self.file.to_owned(),
            offset: self.offset,
            bytes: self.bytes,
            channel: None,
            what,
            damage: false,
        }
    }
}

/// Returns what is wrong with a block after this position. Part of the first block may be below
/// the trim point.
fn fault_after(end: LogPosition, offset: Offset, first: bool, block: &BlockRef) -> Option<String> {
    if block.first.seq > end.seq {
        return Some(missing(block.first.seq - end.seq, "before this block"));
    }
    if first {
        return None;
    }
    let wrong = block.first != end || block.first_offset <= offset;
    wrong.then(|| "the block does not follow on the one before it".to_owned())
}

fn missing(events: u64, place: &str) -> String {
    format!("{events} events are missing {place}")
}

/// Returns the end of the first block, if bytes follow it.
fn after_first(bytes: &[u8]) -> Option<usize> {
    let length = Block::parse(bytes).ok()?.header.length();
    (length < bytes.len()).then_some(length)
}

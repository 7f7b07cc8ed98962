//! Helpers of the tests: numbered events, records, and reads that wait.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytesize::ByteSize;

use crate::clock::{Clock, Moment};
use crate::position::Offset;
use crate::store::disk::files::{Directory, Files};
use crate::store::disk::setup::Setup;
use crate::store::disk::tuning::Tuning;
use crate::store::disk::{
    Config, Disk, DiskRead, Durability, LogRecord, OpenError, OpenOptions, Recovered, Seek,
    StoredReceipt, StreamId, WriteDependency, WriteError,
};
use crate::store::{Batch, Entry, LogPosition};
use crate::telemetry::Metrics;

/// Sizes so small that every test sees many blocks and files.
pub(super) fn tiny() -> Tuning {
    Tuning {
        gather: Duration::ZERO,
        free_space_age: Duration::ZERO,
        journal_bytes: 2000,
        block_bytes: 200,
        ahead: 300,
        batch_bytes: 4096,
        read_bytes: 600,
        reserve: 1000,
        // Tests run maintenance themselves.
        maintenance_interval: Duration::from_secs(3600),
    }
}

pub(super) fn config() -> Config {
    Config { sync_interval: Duration::from_secs(3600), min_free: ByteSize(0), ..Config::default() }
}

pub(super) fn setup(files: Arc<dyn Files>, directory: &Path) -> Setup {
    Setup {
        files,
        directory: directory.to_owned(),
        boot: "this one".to_owned(),
        config: config(),
        tuning: tiny(),
        options: OpenOptions { clock: Clock::of(|| moment(NOW)), ..OpenOptions::default() },
        metrics: Arc::new(Metrics::new()),
    }
}

pub(super) fn open(path: &Path) -> (Disk, Recovered) {
    try_open(path).unwrap()
}

pub(super) fn try_open(path: &Path) -> Result<(Disk, Recovered), OpenError> {
    Disk::with(setup(Arc::new(Directory::lock(path)?), path))
}

/// Returns the frame of the event with this offset. Lengths differ.
pub(super) fn frame(offset: u64) -> Vec<u8> {
    format!("event {offset} {}\n", ".".repeat((offset * 7 % 40) as usize)).into_bytes()
}

pub(super) fn run(start: LogPosition, offsets: &[u64]) -> Batch {
    let events: Vec<_> = offsets
        .iter()
        .map(|offset| {
            (Entry { offset: Offset(*offset), time: moment(1000 + offset) }, frame(*offset))
        })
        .collect();
    Batch::rewritten(start, events.iter().map(|(entry, frame)| (*entry, &frame[..])))
}

/// Submits a record and waits for its result.
pub(super) fn write(
    disk: &Disk,
    record: LogRecord,
    durability: Durability,
) -> Result<(), WriteError> {
    // A closed store drops the completion.
    hand_in(disk, record, durability).recv().unwrap_or(Err(WriteError::Failed))
}

pub(super) fn hand_in(
    disk: &Disk,
    record: LogRecord,
    durability: Durability,
) -> mpsc::Receiver<Result<(), WriteError>> {
    let (tell, told) = mpsc::channel();
    // Some tests ignore the result.
    disk.write(
        record,
        durability,
        None,
        Box::new(move |outcome| tell.send(outcome).unwrap_or_default()),
    );
    told
}

pub(super) fn begin(stream: StreamId, name: &str) -> LogRecord {
    LogRecord::Stream { stream, name: name.parse().unwrap(), options: "{}".into() }
}

pub(super) fn events(stream: StreamId, batch: Batch) -> LogRecord {
    LogRecord::Events { stream, batch, state: None, receipt: None }
}

/// The time at which all tests run.
const NOW: u64 = 1 << 52;

/// Both clocks show the same: the wall clock was not set.
pub(super) fn moment(time: u64) -> Moment {
    Moment { wall: time, steady: time }
}

pub(super) fn receipt(key: &str) -> StoredReceipt {
    let scope = "a".into();
    let outcome = "b".into();
    StoredReceipt {
        scope,
        key: key.into(),
        outcome,
        time: moment(NOW),
        offset: 0,
        dependency: WriteDependency::default(),
    }
}

pub(super) fn read(disk: &Disk, stream: StreamId, seek: Seek) -> DiskRead {
    let (tell, told) = mpsc::channel();
    disk.read(stream, seek, Box::new(move |piece| tell.send(piece).unwrap()));
    told.recv().unwrap_or(DiskRead::Nothing)
}

/// Reads a stream from a position on, and compares each frame. Returns the offsets and the number
/// of holes.
pub(super) fn read_all(disk: &Disk, stream: StreamId, from: u64) -> (Vec<u64>, usize) {
    let mut offsets = Vec::new();
    let mut holes = 0;
    let mut seq = from;
    loop {
        match read(disk, stream, Seek::Seq(seq)) {
            DiskRead::Batch(batch) => {
                assert!(batch.count() > 0 && batch.start().seq <= seq && batch.end().seq > seq);
                let events = batch.events().skip((seq - batch.start().seq) as usize);
                for (entry, bytes) in events {
                    assert_eq!(bytes, frame(entry.offset.0), "the frame of {entry:?}");
                    assert_eq!(entry.time.wall, 1000 + entry.offset.0);
                    offsets.push(entry.offset.0);
                }
                seq = batch.end().seq;
            }
            DiskRead::Lost { to: trim_point, .. } | DiskRead::Trimmed(trim_point) => {
                assert!(trim_point.position.seq > seq, "reading goes on");
                holes += 1;
                seq = trim_point.position.seq;
            }
            DiskRead::Nothing => return (offsets, holes),
        }
    }
}

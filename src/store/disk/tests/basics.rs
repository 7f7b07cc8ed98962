//! Stored events are read back, before and after the store is opened again.

use super::support::*;
use crate::position::Offset;
use crate::store::disk::files::Directory;
use crate::store::disk::setup::Setup;
use crate::store::disk::{Disk, OpenOptions, StoredReceipt, StreamId, TrimPoint, Trimmed};
use crate::store::disk::{
    DiskRead, Durability, Health, LogRecord, OpenError, Recovered, Seek, WriteError,
};
use crate::store::{LogPosition, Retention};
use std::time::Duration;

use Durability::{Async, Sync};

/// Writes two streams with alternating events, one per record. Returns the end of the first.
fn fill(
    disk: &crate::store::disk::Disk,
    offsets: std::ops::Range<u64>,
    from: [LogPosition; 2],
) -> [LogPosition; 2] {
    let streams = [crate::store::disk::StreamId(1), crate::store::disk::StreamId(2)];
    let mut ends = from;
    for offset in offsets {
        let at = (offset % 2) as usize;
        let batch = run(ends[at], &[offset]);
        ends[at] = batch.end();
        disk.note_offset(Offset(offset));
        assert_eq!(
            write(disk, events(streams[at], batch), if offset % 3 == 0 { Sync } else { Async }),
            Ok(())
        );
    }
    ends
}

#[test]
fn what_was_written_is_read_back_also_after_opening_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, Recovered { streams, receipts, power_cut, .. }) = open(directory.path());
    assert!(streams.is_empty() && receipts.is_empty() && !power_cut);
    let epoch = disk.epoch();
    let a = disk.new_stream();
    let b = disk.new_stream();
    assert_eq!((a.0, b.0), (1, 2));
    for (stream, name) in [(a, "a"), (b, "b/c")] {
        assert_eq!(write(&disk, begin(stream, name), Async), Ok(()));
    }
    let ends = fill(&disk, 1..101, [LogPosition::default(); 2]);
    let even: Vec<u64> = (1..101).filter(|offset| offset % 2 == 0).collect();
    assert_eq!(read_all(&disk, a, 0), (even.clone(), 0));
    disk.close();
    assert_eq!(write(&disk, events(a, run(ends[0], &[101])), Sync), Err(WriteError::Failed));

    let (disk, found) = open(directory.path());
    assert_eq!(disk.epoch(), epoch);
    assert_eq!(disk.first_offset(), Offset(101), "closed cleanly: exactly the next one");
    assert_eq!(found.streams.len(), 2);
    assert_eq!(found.streams[0].end, ends[0]);
    assert_eq!(found.streams[0].span.unwrap().1.offset, Offset(100));
    assert_eq!(found.streams[1].name.as_str(), "b/c");
    assert_eq!(read_all(&disk, a, 0), (even, 0));
    assert!(disk.new_stream() > b);
    let ends = fill(&disk, 101..121, ends);
    assert_eq!(read_all(&disk, b, 0).0.len(), 60);
    assert_eq!(read_all(&disk, b, 0).0.last(), Some(&119));
    assert!(ends[1].seq == 60);
}

#[test]
fn states_receipts_and_ends_survive() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, _) = open(directory.path());
    let a = disk.new_stream();
    let b = disk.new_stream();
    write(&disk, begin(a, "a"), Async).unwrap();
    write(&disk, begin(b, "b"), Async).unwrap();
    let record = LogRecord::Events {
        stream: a,
        batch: run(LogPosition::default(), &[5, 6]),
        state: Some("complete".into()),
        receipt: Some(receipt("one")),
    };
    write(&disk, record, Sync).unwrap();
    write(&disk, events(b, run(LogPosition::default(), &[7])), Async).unwrap();
    disk.note_offset(Offset(7));
    write(&disk, LogRecord::Gone { stream: b }, Async).unwrap();
    write(&disk, LogRecord::Receipt(receipt("two")), Async).unwrap();
    drop(disk);
    let (disk, found) = open(directory.path());
    let [stream] = &found.streams[..] else { panic!("{found:?}") };
    assert_eq!(stream.state.as_deref(), Some("complete"));
    let kept = |number: usize, key| {
        let StoredReceipt { offset, .. } = found.receipts[number];
        StoredReceipt { offset, ..receipt(key) }
    };
    assert_eq!(found.receipts, [kept(0, "one"), kept(1, "two")]);
    assert_eq!(disk.first_offset(), Offset(8));
    assert!(matches!(read(&disk, b, Seek::Seq(0)), DiskRead::Nothing));
}

#[test]
fn places_are_found_by_number_byte_and_offset() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, _) = open(directory.path());
    let stream = disk.new_stream();
    write(&disk, begin(stream, "a"), Async).unwrap();
    let offsets: Vec<u64> = (1..50).map(|step| step * 10).collect();
    let mut end = LogPosition::default();
    let mut ends = Vec::new();
    for offset in &offsets {
        let batch = run(end, &[*offset]);
        end = batch.end();
        ends.push(end);
        write(&disk, events(stream, batch), Async).unwrap();
    }
    for (at, offset) in offsets.iter().enumerate() {
        let start = at.checked_sub(1).map_or(LogPosition::default(), |at| ends[at]);
        for seek in [
            Seek::Seq(at as u64),
            Seek::Byte(start.byte),
            Seek::Byte(ends[at].byte - 1),
            Seek::After(Offset(offset - 10)),
            Seek::After(Offset(offset - 1)),
        ] {
            let DiskRead::Batch(batch) = read(&disk, stream, seek) else { panic!("{seek:?}") };
            let has = batch.entries().any(|entry| entry.offset.0 == *offset);
            assert!(has, "{seek:?} has {offset}: {batch:?}");
        }
    }
    for seek in [Seek::Seq(49), Seek::Byte(end.byte), Seek::After(Offset(490))] {
        assert!(matches!(read(&disk, stream, seek), DiskRead::Nothing), "{seek:?}");
    }
}

#[test]
fn retention_raises_the_floor_by_whole_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, _) = open(directory.path());
    let stream = disk.new_stream();
    write(&disk, begin(stream, "a"), Async).unwrap();
    let mut end = LogPosition::default();
    for offset in 1..=20 {
        let batch = run(end, &[offset]);
        end = batch.end();
        write(&disk, events(stream, batch), Async).unwrap();
    }
    let all = Retention { max_events: 99, max_bytes: 9999, max_age: Duration::from_secs(9) };
    assert_eq!(disk.trim(stream, &all, moment(1000)).trim_point.position.seq, 0);
    let trim_point =
        disk.trim(stream, &Retention { max_events: 15, ..all }, moment(1000)).trim_point;
    assert_eq!((trim_point.position.seq, trim_point.last_trimmed), (5, Offset(5)));
    for seek in [Seek::Seq(4), Seek::After(Offset(4))] {
        assert!(matches!(read(&disk, stream, seek), DiskRead::Trimmed(at) if at == trim_point));
    }
    let DiskRead::Batch(batch) = read(&disk, stream, Seek::After(Offset(5))) else { panic!() };
    assert_eq!(batch.start(), trim_point.position);
    let age = Retention { max_age: Duration::from_micros(100), ..all };
    assert_eq!(disk.trim(stream, &age, moment(1111)).trim_point.position.seq, 10);
    assert_eq!(
        disk.trim(stream, &Retention { max_events: 0, ..all }, moment(0)).trim_point.position,
        end
    );
    assert!(
        matches!(read(&disk, stream, Seek::Seq(19)), DiskRead::Trimmed(at) if at.position == end)
    );
}

#[test]
fn a_trim_says_what_goes_next_and_nothing_goes_before() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, _) = open(directory.path());
    let stream = disk.new_stream();
    write(&disk, begin(stream, "a"), Async).unwrap();
    let all = Retention { max_events: 99, max_bytes: 9999, max_age: Duration::from_secs(9) };
    assert_eq!(disk.trim(stream, &all, moment(0)).next, None);
    let mut end = LogPosition::default();
    for offset in [1, 4, 7, 10] {
        let batch = run(end, &[offset, offset + 1, offset + 2]);
        end = batch.end();
        write(&disk, events(stream, batch), Async).unwrap();
    }
    for max_events in (0..=12).rev() {
        let before = disk.trim(stream, &all, moment(0));
        let retention = Retention { max_events, ..all };
        let due = before.next.is_some_and(|next| retention.is_filled_by(next.distance_to(end)));
        let after = disk.trim(stream, &retention, moment(0));
        assert_eq!(after != before, due, "{max_events}: {before:?}, {after:?}");
    }
    assert_eq!(
        disk.trim(stream, &all, moment(0)),
        Trimmed { trim_point: TrimPoint { position: end, last_trimmed: Offset(12) }, next: None }
    );
}

#[test]
fn what_does_not_follow_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, _) = open(directory.path());
    let stream = disk.new_stream();
    let first = run(LogPosition::default(), &[1, 2]);
    assert_eq!(write(&disk, events(stream, first.clone()), Sync), Err(WriteError::Full), "unknown");
    write(&disk, begin(stream, "a"), Sync).unwrap();
    assert_eq!(write(&disk, events(stream, run(first.end(), &[3])), Sync), Err(WriteError::Full));
    assert_eq!(write(&disk, events(stream, first), Sync), Ok(()));
    assert_eq!(disk.health(), Health::Good);
}

#[test]
fn a_directory_has_one_hub_and_one_version() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, _) = open(directory.path());
    let error = try_open(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::Locked(_)), "{error}");
    disk.close();
    let superblock = directory.path().join("fanfare.store");
    std::fs::write(&superblock, "{\"version\": 2, \"more\": 7}").unwrap();
    let error = try_open(directory.path()).unwrap_err();
    assert!(error.to_string().contains("has version 2 of the store"), "{error}");
    std::fs::write(&superblock, "{").unwrap();
    assert!(matches!(try_open(directory.path()), Err(OpenError::Damaged { .. })));
    std::fs::remove_file(&superblock).unwrap();
    assert!(matches!(try_open(directory.path()), Err(OpenError::Damaged { .. })));
}

#[test]
fn offsets_that_were_given_out_never_come_again() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, _) = open(directory.path());
    assert_eq!(disk.first_offset(), Offset(1));
    disk.note_offset(Offset(900));
    // The writer renews the reservation before it writes this.
    write(&disk, begin(disk.new_stream(), "a"), Sync).unwrap();
    let crashed = copy(directory.path());
    let (again, _) = open(crashed.path());
    assert_eq!(again.first_offset(), Offset(1900));
}

fn copy(from: &std::path::Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

/// Without names, two boots of a machine look the same.
#[test]
fn a_start_of_the_machine_that_has_no_name_may_be_another() {
    let directory = tempfile::tempdir().unwrap();
    let opened = |path: &std::path::Path, boot: &str| {
        let files = std::sync::Arc::new(Directory::lock(path).unwrap());
        let boot = boot.to_owned();
        Disk::with(Setup { boot, ..setup(files, path) }).unwrap()
    };
    for (boot, power_cut) in [("", true), ("this one", false)] {
        let (disk, _) = opened(directory.path(), boot);
        let crashed = copy(directory.path());
        assert_eq!(opened(crashed.path(), boot).1.power_cut, power_cut, "{boot:?}");
        disk.close();
        let (disk, found) = opened(directory.path(), boot);
        assert!(!found.power_cut, "it was closed cleanly");
        disk.close();
    }
}

#[test]
fn a_sorted_file_that_dies_over_several_lives_is_rewritten() {
    let directory = tempfile::tempdir().unwrap();
    let sorted = directory.path().join("0000000000000001.seg");
    let (disk, _) = open(directory.path());
    for name in ["a", "b", "c", "d", "e"] {
        let stream = disk.new_stream();
        write(&disk, begin(stream, name), Async).unwrap();
        write(&disk, events(stream, run(LogPosition::default(), &[7])), Async).unwrap();
    }
    disk.close();
    let size = || std::fs::metadata(&sorted).unwrap().len();
    let live = |dying: &[u64]| {
        let (disk, _) = open(directory.path());
        for stream in dying {
            write(&disk, LogRecord::Gone { stream: StreamId(*stream) }, Async).unwrap();
        }
        disk.maintenance().run_once().unwrap();
        disk.close();
    };
    live(&[]);
    live(&[]);
    let whole = size();
    live(&[1, 2]);
    assert_eq!(size(), whole, "more than half of it is alive");
    live(&[3]);
    assert!(size() < whole * 2 / 3, "{} of {whole}", size());
}

#[test]
fn answers_of_a_stream_come_in_order_whatever_they_wait_for() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, _) = open(directory.path());
    let stream = disk.new_stream();
    write(&disk, begin(stream, "a"), Async).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let mut end = LogPosition::default();
    for offset in 1..=60 {
        let batch = run(end, &[offset]);
        end = batch.end();
        let tell = tell.clone();
        let durability = if offset % 7 == 0 { Sync } else { Async };
        let done = Box::new(move |outcome| tell.send((offset, outcome)).unwrap());
        disk.write(events(stream, batch), durability, None, done);
    }
    disk.close();
    let told: Vec<_> = told.try_iter().collect();
    assert_eq!(told, (1..=60).map(|offset| (offset, Ok(()))).collect::<Vec<_>>());
}

/// `cargo test --release --lib store::disk -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn how_fast_it_is() {
    let directory = tempfile::tempdir_in(std::env::temp_dir()).unwrap();
    let config = crate::store::disk::Config {
        path: directory.path().join("store"),
        min_free: bytesize::ByteSize(0),
        ..Default::default()
    };
    let metrics = std::sync::Arc::new(crate::telemetry::Metrics::new());
    let (disk, _) =
        crate::store::disk::Disk::open(&config, OpenOptions::default(), metrics.clone()).unwrap();
    let mut next = 1;
    for (durability, publishers) in [(Async, 1), (Async, 64), (Sync, 1), (Sync, 64), (Sync, 512)] {
        let rounds = if durability == Sync { 200 } else { 2000 };
        let streams: Vec<_> = (0..publishers).map(|_| disk.new_stream()).collect();
        for stream in &streams {
            write(&disk, begin(*stream, &format!("s/{}", stream.0)), Async).unwrap();
        }
        let mut ends = vec![LogPosition::default(); publishers];
        let began = std::time::SystemTime::now();
        for _ in 0..rounds {
            let mut waiting = Vec::new();
            for (stream, end) in streams.iter().zip(&mut ends) {
                let batch = run(*end, &[next]);
                next += 1;
                *end = batch.end();
                waiting.push(hand_in(&disk, events(*stream, batch), durability));
            }
            waiting.into_iter().for_each(|told| told.recv().unwrap().unwrap());
        }
        let rate = f64::from(rounds) * publishers as f64 / began.elapsed().unwrap().as_secs_f64();
        println!("{durability:?}, {publishers} publishers: {rate:.0} records/s");
    }
    let stream = disk.new_stream();
    write(&disk, begin(stream, "large"), Async).unwrap();
    let frame = vec![b'x'; 1000];
    let mut end = LogPosition::default();
    let began = std::time::SystemTime::now();
    for group in 0..6000u64 {
        let events_of = (0..64).map(|step| {
            let offset = Offset(next + group * 64 + step);
            (crate::store::Entry { offset, time: moment(5) }, &frame[..])
        });
        let batch = crate::store::Batch::rewritten(end, events_of);
        end = batch.end();
        let told = hand_in(&disk, events(stream, batch), Async);
        if group % 16 == 15 {
            told.recv().unwrap().unwrap();
        }
    }
    let megabytes = end.byte as f64 / 1e6;
    println!("written: {:.0} MB/s", megabytes / began.elapsed().unwrap().as_secs_f64());
    let began = std::time::SystemTime::now();
    let mut seq = 0;
    while let DiskRead::Batch(batch) = read(&disk, stream, Seek::Seq(seq)) {
        seq = batch.end().seq;
    }
    assert_eq!(seq, end.seq);
    println!("read: {:.0} MB/s", megabytes / began.elapsed().unwrap().as_secs_f64());
    let began = std::time::SystemTime::now();
    disk.close();
    println!("closed in {:?}", began.elapsed().unwrap());
    let began = std::time::SystemTime::now();
    let (_disk, found) =
        crate::store::disk::Disk::open(&config, OpenOptions::default(), metrics).unwrap();
    println!("opened {} streams in {:?}", found.streams.len(), began.elapsed().unwrap());
}

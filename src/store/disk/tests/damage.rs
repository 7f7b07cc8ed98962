//! Torn ends, flipped bits, and sectors that cannot be read.

use std::path::Path;
use std::sync::Arc;

use super::fake::Disk as FakeDisk;
use super::support::*;
use crate::store::LogPosition;
use crate::store::disk::block::{ScannedPart, scan};
use crate::store::disk::file_names::parse_name;
use crate::store::disk::{Disk, DiskRead, Durability, Recovered, Seek, StreamId};

const STREAMS: [StreamId; 3] = [StreamId(1), StreamId(2), StreamId(3)];

fn start(files: &FakeDisk) -> (Disk, Recovered) {
    Disk::with(setup(Arc::new(files.clone()), Path::new("/fake"))).unwrap()
}

/// Writes three streams with `count` alternating events each, all synced.
fn filled(count: u64) -> (FakeDisk, Disk) {
    let files = FakeDisk::new();
    let (disk, _) = start(&files);
    for (stream, name) in STREAMS.iter().zip(["a", "b", "c"]) {
        assert_eq!(disk.new_stream(), *stream);
        write(&disk, begin(*stream, name), Durability::Sync).unwrap();
    }
    let mut ends = [LogPosition::default(); 3];
    for offset in 1..=count * 3 {
        let at = (offset % 3) as usize;
        let batch = run(ends[at], &[offset]);
        ends[at] = batch.end();
        write(&disk, events(STREAMS[at], batch), Durability::Sync).unwrap();
    }
    (files, disk)
}

/// Returns the offsets that [`filled`] gave a stream.
fn offsets(at: usize, count: u64) -> Vec<u64> {
    (1..=count * 3).filter(|offset| (offset % 3) as usize == at).collect()
}

#[test]
fn a_file_that_cannot_be_rewritten_costs_no_sync_and_no_checkpoint() {
    let (files, disk) = filled(4);
    let number = parse_name(JOURNAL).unwrap().0;
    files.make_unreadable(JOURNAL, 0..10_000);
    for number in [number, 999] {
        let before = || panic!("{number} is not replaced");
        let compacted = disk.maintenance().compaction.compact_file(number, before);
        assert!(compacted.unwrap().is_none(), "{number}");
    }
}

const JOURNAL: &str = "0000000000000001.log";

#[test]
fn a_torn_end_costs_the_blocks_that_are_torn_and_no_others() {
    let (files, disk) = filled(4);
    let left = files.after_kill();
    let mut whole = left.bytes(JOURNAL);
    disk.close();
    let ends: Vec<usize> = scan(&whole)
        .iter()
        .filter_map(|part| match part {
            ScannedPart::Whole { position, block } => Some(position + block.header.length()),
            ScannedPart::Broken { position, .. } => {
                assert!(whole[*position..].iter().all(|byte| *byte == 0), "{part:?}");
                None
            }
        })
        .collect();
    // Without the prepared zeros after the last block.
    whole.truncate(*ends.last().unwrap());
    // The last block records the sync of the one before it: only its own bytes may be torn.
    let synced = ends[ends.len() - 2];
    for length in synced..whole.len() {
        for fill in [0, whole.len() - length] {
            let mut torn = whole[..length].to_vec();
            torn.resize(length + fill, 0);
            let files = left.after_kill();
            files.set_bytes(JOURNAL, torn);
            let (disk, found) = start(&files);
            assert_eq!(found.streams.len(), 3);
            for (at, stream) in STREAMS.iter().enumerate() {
                let (read, holes) = read_all(&disk, *stream, 0);
                let mut expected = offsets(at, 4);
                expected.retain(|offset| *offset != 12);
                assert_eq!((read, holes), (expected, 0), "{length} bytes and {fill} zeros");
            }
            disk.close();
            let cut = files.bytes(JOURNAL).len();
            assert_eq!(cut, synced, "{length} bytes and {fill} zeros");
        }
    }
}

/// Flips one bit in every `step`-th byte of a file, and checks that at most one stream loses
/// events.
fn flip_each(left: &FakeDisk, name: &str, count: u64, step: usize) {
    let whole = left.bytes(name);
    for at in (0..whole.len()).step_by(step) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        let files = left.after_kill();
        files.set_bytes(name, flipped);
        let (disk, _) = start(&files);
        let lost = STREAMS.iter().enumerate().filter(|(at, stream)| {
            let (read, _) = read_all(&disk, **stream, 0);
            let expected = offsets(*at, count);
            assert!(read.iter().all(|offset| expected.contains(offset)));
            read != expected
        });
        let lost = lost.count();
        assert!(lost <= 1, "{name}, byte {at}: {lost} streams have lost something");
    }
}

#[test]
fn a_flipped_bit_in_a_journal_costs_at_most_its_stream() {
    let (files, disk) = filled(12);
    disk.maintenance().run_once().unwrap();
    disk.close();
    let mut names = files.names();
    names.retain(|name| name.ends_with(".log"));
    assert!(names.len() > 1);
    for name in names {
        // The first blocks have the names of the streams. If one is broken, its stream is unknown.
        flip_each(&files, &name, 12, 3);
    }
}

#[test]
fn a_flipped_bit_in_a_sorted_file_or_a_checkpoint_costs_at_most_its_stream() {
    let (files, disk) = filled(60);
    disk.maintenance().run_once().unwrap();
    disk.close();
    let mut names = files.names();
    names.retain(|name| !name.ends_with(".log") && name != "fanfare.store");
    assert!(names.iter().any(|name| name.ends_with(".seg")), "{names:?}");
    assert!(names.iter().any(|name| name.ends_with(".cat")), "{names:?}");
    for name in names {
        flip_each(&files, &name, 60, 29);
    }
}

#[test]
fn without_any_checkpoint_the_files_tell_everything() {
    let (files, disk) = filled(60);
    disk.maintenance().run_once().unwrap();
    disk.close();
    for name in files.names().iter().filter(|name| name.ends_with(".cat")) {
        files.set_bytes(name, b"?".to_vec());
    }
    let (disk, found) = start(&files);
    assert_eq!(found.streams.len(), 3);
    for (at, stream) in STREAMS.iter().enumerate() {
        assert_eq!(read_all(&disk, *stream, 0), (offsets(at, 60), 0));
    }
}

#[test]
fn a_sector_that_cannot_be_read_is_a_hole_in_one_stream() {
    let (files, disk) = filled(9);
    let second = files.bytes(JOURNAL).len() as u64 - 50;
    files.make_unreadable(JOURNAL, second..second + 1);
    let mut holes = 0;
    for (at, stream) in STREAMS.iter().enumerate() {
        let (read, lost) = read_all(&disk, *stream, 0);
        holes += lost;
        assert_eq!(read.len() + lost, offsets(at, 9).len());
    }
    assert_eq!(holes, 1);
    disk.close();
    let (disk, found) = start(&files);
    assert_eq!(found.streams.len(), 3, "what cannot be read at the start is no reason not to");
    assert!(!read_all(&disk, STREAMS[0], 0).0.is_empty());
}

#[test]
fn a_block_that_breaks_while_the_store_runs_is_a_hole() {
    let (files, disk) = filled(9);
    let mut bytes = files.bytes(JOURNAL);
    let found: Vec<_> = scan(&bytes)
        .iter()
        .filter_map(|part| match part {
            ScannedPart::Whole { position, block } => Some((*position, block.header)),
            ScannedPart::Broken { .. } => None,
        })
        .collect();
    let (position, header) = found[8];
    bytes[position + header.length() - 1] ^= 1;
    files.set_bytes(JOURNAL, bytes);
    let piece = read(&disk, header.stream, Seek::Seq(header.first.seq));
    let DiskRead::Lost { to: trim_point, .. } = piece else { panic!("{piece:?}") };
    assert_eq!(trim_point.position, header.end());
    let (_, holes) = read_all(&disk, header.stream, 0);
    assert_eq!(holes, 1);
}

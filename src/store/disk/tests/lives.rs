//! Crashes after a first life: while a directory is opened again, in the life after that, and
//! between interleaved records of several streams.

use std::collections::BTreeSet;

use super::fake::{Disk as FakeDisk, Fate};
use super::faults::{Hub, examine, life, start};
use super::support::*;
use crate::position::Offset;
use crate::store::LogPosition;
use crate::store::disk::{Disk, Durability, LogRecord, StoredReceipt, StreamId};

/// Returns the disk as left by a killed process, and as left by three power cuts.
fn left_over(files: &FakeDisk, seed: u64) -> Vec<FakeDisk> {
    let cut = |chance| files.after_power_cut(&mut fastrand::Rng::with_seed(seed * 10 + chance));
    std::iter::once(files.after_kill()).chain((0..3).map(cut)).collect()
}

/// Runs a first life that crashes at this change.
fn crashed(at: u64) -> Hub {
    let files = FakeDisk::new();
    files.fate(at, Fate::Crash);
    let mut hub = Hub::of(&files);
    if let Some((disk, _)) = start(&files) {
        life(&disk, &mut hub);
        disk.close();
    }
    hub
}

#[test]
fn a_crash_while_it_is_opened_again_is_like_any_other() {
    // A sample of the first life, with torn ends and unfinished files.
    for first in (1..120).step_by(7) {
        let hub = crashed(first);
        for (way, left) in left_over(&hub.files, first).iter().enumerate() {
            let opening = {
                let files = left.after_kill();
                let opened = start(&files);
                let changes = files.changes();
                drop(opened);
                changes
            };
            for second in 1..=opening {
                let files = left.after_kill();
                files.fate(second, Fate::Crash);
                drop(start(&files));
                for again in left_over(&files, second) {
                    let what = format!("crashes at {first} ({way}), and at {second} of opening");
                    examine(&again, &hub, &what);
                }
            }
        }
    }
}

/// Returns a hub whose directory has the journals and sorted files of a first life.
fn lived() -> Hub {
    let hub = crashed(u64::MAX);
    let files = hub.files.after_kill();
    hub.on(&files)
}

/// A life in an existing directory: events are trimmed, one stream ends, another is deleted, and
/// files are rewritten and deleted.
fn second_life(disk: &Disk, hub: &mut Hub) {
    let old = *hub.offered.keys().next().unwrap();
    let young = hub.begin(disk, "young").unwrap_or_default();
    let short = hub.begin(disk, "short").unwrap_or_default();
    let kept = hub.begin(disk, "kept").unwrap_or_default();
    for round in 0..8 {
        let durability = if round % 2 == 0 { Durability::Sync } else { Durability::Async };
        hub.publish(disk, old, 5, durability);
        hub.publish(disk, young, 4, Durability::Sync);
        hub.publish(disk, short, 3, Durability::Async);
        hub.publish(disk, kept, 3, Durability::Async);
        hub.trim(disk, old, 60 - 7 * round);
        hub.trim(disk, young, 9);
        let _ = disk.maintenance().run_once();
        match round {
            4 => hub.end(disk, young),
            5 => hub.leave(disk, short),
            6 => drop(disk.maintenance().compact()),
            _ => {}
        }
    }
    let _ = disk.maintenance().run_once();
}

/// Runs a second life in which the fate comes at the n-th change.
fn live_again(first: &Hub, n: u64, fate: Fate) -> Hub {
    let files = first.files.after_kill();
    let mut hub = first.on(&files);
    files.fate(n, fate);
    if let Some((disk, _)) = start(&files) {
        second_life(&disk, &mut hub);
        disk.close();
    }
    hub
}

#[test]
fn after_a_crash_in_a_second_life_all_that_was_synced_is_there() {
    let first = lived();
    let whole = live_again(&first, u64::MAX, Fate::Crash);
    examine(&whole.files.after_kill(), &whole, "a clean close");
    let sorted = |hub: &Hub| {
        let names = hub.files.names().into_iter().filter(|name| name.ends_with(".seg"));
        names.collect::<BTreeSet<_>>()
    };
    assert!(sorted(&first).difference(&sorted(&whole)).count() > 0, "files are deleted");
    assert!(sorted(&whole).difference(&sorted(&first)).count() > 0, "files are sorted");
    for n in 1..=whole.files.changes() {
        let hub = live_again(&first, n, Fate::Crash);
        for (way, left) in left_over(&hub.files, n).iter().enumerate() {
            examine(left, &hub, &format!("crash at {n}, {way}"));
        }
    }
}

#[test]
fn after_an_error_in_a_second_life_all_that_was_acknowledged_is_there() {
    let first = lived();
    let changes = live_again(&first, u64::MAX, Fate::Crash).files.changes();
    for n in 1..=changes {
        for fate in [Fate::Fails, Fate::Full] {
            let hub = live_again(&first, n, fate);
            examine(&hub.files.after_kill(), &hub, &format!("{fate:?} at {n}"));
        }
    }
}

/// If the note of a deletion was not synced, the channel comes back whole.
#[test]
fn what_is_gone_is_given_up_only_when_that_is_synced() {
    let hub = lived();
    let files = hub.files.clone();
    let stream = *hub.offered.keys().next().unwrap();
    let (disk, _) = start(&files).unwrap();
    let (whole, _) = read_all(&disk, StreamId(stream), 0);
    assert!(!whole.is_empty());
    disk.maintenance().run_once().unwrap();
    write(&disk, LogRecord::Gone { stream: StreamId(stream) }, Durability::Async).unwrap();
    disk.maintenance().compact().unwrap();
    for seed in 0..20 {
        let left = files.after_power_cut(&mut fastrand::Rng::with_seed(seed));
        let (disk, found) = start(&left).unwrap();
        if found.streams.iter().any(|found| found.id.0 == stream) {
            assert_eq!(read_all(&disk, StreamId(stream), 0), (whole.clone(), 0), "{seed}");
        }
    }
}

const STREAMS: [StreamId; 3] = [StreamId(1), StreamId(2), StreamId(3)];

/// Publishes events of several streams with a receipt after each three, many in one write. Returns
/// all offsets in the order of submission, and the number of offsets before each receipt.
fn interleave(disk: &Disk) -> (Vec<u64>, Vec<usize>) {
    let mut offsets = Vec::new();
    let mut receipts = Vec::new();
    let mut ends = [LogPosition::default(); 3];
    let mut told = Vec::new();
    for (stream, name) in STREAMS.iter().zip(["a", "b", "c"]) {
        told.push(hand_in(disk, begin(*stream, name), Durability::Async));
    }
    for group in 0..12 {
        // Holds up the writer: what comes after the first record is one write.
        let index = disk.0.parts.index.lock();
        for step in 0..9 {
            let at = step % 3;
            let offset = offsets.len() as u64 + 1;
            let batch = run(ends[at], &[offset]);
            ends[at] = batch.end();
            offsets.push(offset);
            // The last of each three has the receipt for all.
            let receipt = (at == 2).then(|| {
                receipts.push(offsets.len());
                let outcome = receipts.len().to_string().into();
                // The receipt is too young to be dropped.
                StoredReceipt {
                    outcome,
                    time: moment(u64::MAX),
                    ..receipt(&format!("k{}", receipts.len()))
                }
            });
            let record = LogRecord::Events { stream: STREAMS[at], batch, state: None, receipt };
            let last = group % 3 == 2 && step == 8;
            let durability = if last { Durability::Sync } else { Durability::Async };
            told.push(hand_in(disk, record, durability));
        }
        disk.note_offset(Offset(offsets.len() as u64));
        drop(index);
        // After a crash, the results do not matter.
        told.drain(..).for_each(|told| assert!(told.recv().is_ok()));
        let _ = disk.maintenance().run_once();
    }
    (offsets, receipts)
}

/// Checks that the disk has a prefix of the submitted events over all streams, and only receipts
/// whose events it has.
fn examine_interleaved(left: &FakeDisk, offsets: &[u64], receipts: &[usize], what: &str) {
    let (disk, found) = start(left).unwrap();
    let mut all = BTreeSet::new();
    for stream in STREAMS {
        let (read, holes) = read_all(&disk, stream, 0);
        assert_eq!(holes, 0, "{what}");
        all.extend(read);
    }
    let there: Vec<_> = all.into_iter().collect();
    assert!(offsets.starts_with(&there), "{what}: {there:?}");
    for receipt in &found.receipts {
        let number: usize = receipt.outcome.parse().unwrap();
        let by_then = receipts[number - 1];
        assert!(there.len() >= by_then, "{what}: receipt {number} speaks of {by_then}: {there:?}");
    }
    let expected = receipts.iter().filter(|by_then| there.len() >= **by_then).count();
    assert_eq!(found.receipts.len(), expected, "{what}: no receipt is lost without its events");
}

#[test]
fn a_receipt_is_never_there_without_what_it_speaks_of() {
    let whole = FakeDisk::new();
    let (disk, _) = start(&whole).unwrap();
    let (offsets, receipts) = interleave(&disk);
    disk.close();
    examine_interleaved(&whole.after_kill(), &offsets, &receipts, "a clean close");
    for n in 1..=whole.changes() {
        let files = FakeDisk::new();
        files.fate(n, Fate::Crash);
        if let Some((disk, _)) = start(&files) {
            interleave(&disk);
            disk.close();
        }
        for seed in 0..8 {
            let cut = files.after_power_cut(&mut fastrand::Rng::with_seed(n * 10 + seed));
            examine_interleaved(&cut, &offsets, &receipts, &format!("cut at {n}, {seed}"));
        }
        examine_interleaved(&files.after_kill(), &offsets, &receipts, &format!("kill at {n}"));
    }
}

#[test]
fn a_directory_that_could_not_be_opened_is_opened_the_next_time() {
    let first = lived();
    let opening = {
        let files = first.files.after_kill();
        let opened = start(&files);
        let changes = files.changes();
        drop(opened);
        changes
    };
    for n in 1..=opening {
        let files = first.files.after_kill();
        files.fate(n, Fate::Fails);
        drop(start(&files));
        examine(&files.after_kill(), &first.on(&files), &format!("opening fails at {n}"));
    }
}

//! Shortages of space and descriptors, and the data that must survive them.

use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use super::fake::Disk as FakeDisk;
use super::gated::{Gated, check_free_space, store_config};
use super::support::*;
use crate::clock::Moment;
use crate::position::Offset;
use crate::store::LogPosition;
use crate::store::disk::{
    Disk, DiskRead, Durability, Health, LogRecord, OpenOptions, Seek, WriteError,
};

use Durability::Async;

#[test]
fn receipts_of_one_key_do_not_pile_up() {
    let (disk, _) = Disk::with(setup(Arc::new(FakeDisk::new()), Path::new("/fake"))).unwrap();
    let stream = disk.new_stream();
    write(&disk, begin(stream, "c"), Async).unwrap();
    let mut end = LogPosition::default();
    for offset in 1..=1000 {
        let batch = run(end, &[offset]);
        end = batch.end();
        let mut receipt = receipt("the same");
        receipt.time = Moment::now();
        let record = LogRecord::Events { stream, batch, state: None, receipt: Some(receipt) };
        write(&disk, record, Async).unwrap();
    }
    assert_eq!(disk.0.parts.index.lock().receipts.to_vec().len(), 1);
}

#[test]
fn a_moment_without_descriptors_is_not_the_end_of_the_store() {
    let files = Gated::new();
    let (disk, _) = files.store(&store_config(Async), OpenOptions::default());
    let stream = disk.new_stream();
    write(&disk, begin(stream, "c"), Async).unwrap();
    files.disk.make_no_files(Some(Errno::MFILE));
    let mut end = LogPosition::default();
    let mut refused = 0;
    let mut offset = 0;
    // Until the journal is full, and the next one cannot be created.
    while refused == 0 {
        offset += 1;
        assert!(offset < 1000, "the journal has no end");
        let batch = run(end, &[offset]);
        match write(&disk, events(stream, batch.clone()), Async) {
            Ok(()) => end = batch.end(),
            Err(_) => refused = offset,
        }
    }
    files.disk.make_no_files(None);
    check_free_space(&disk);
    assert_eq!(disk.health(), Health::Good);
    assert_eq!(write(&disk, events(stream, run(end, &[refused])), Async), Ok(()));
}

/// Everything on the disk is in the current journal.
#[test]
fn what_a_deletion_frees_on_a_full_disk_is_given_back() {
    let files = FakeDisk::new();
    let mut first_life = setup(Arc::new(files.clone()), Path::new("/fake"));
    first_life.tuning.journal_bytes = 1 << 20;
    first_life.config.min_free = bytesize::ByteSize(1000);
    let (disk, _) = Disk::with(first_life).unwrap();
    let stays = disk.new_stream();
    let goes = disk.new_stream();
    write(&disk, begin(stays, "stays"), Async).unwrap();
    write(&disk, begin(goes, "goes"), Async).unwrap();
    let mut end = LogPosition::default();
    for offset in 1..=100 {
        let batch = run(end, &[offset]);
        end = batch.end();
        write(&disk, events(goes, batch), Async).unwrap();
    }
    let journals = || files.names().into_iter().filter(|name| name.ends_with(".log"));
    let first = journals().next().unwrap();
    files.set_free(999);
    let refused = write(&disk, events(stays, run(LogPosition::default(), &[101])), Async);
    assert_eq!((refused, journals().count()), (Err(WriteError::Full), 1));
    assert_eq!(write(&disk, LogRecord::Gone { stream: goes }, Async), Ok(()));
    for _ in 0..10 {
        disk.maintenance().run_round();
        // Runs after the requests of the maintenance thread.
        write(&disk, events(stays, run(LogPosition::default(), &[101])), Async).unwrap_err();
    }
    assert!(!files.names().contains(&first), "{:?}", files.names());
    assert!(journals().count() <= 2, "it comes to an end: {:?}", files.names());
    files.set_free(2000);
    disk.maintenance().run_round();
    assert_eq!(write(&disk, events(stays, run(LogPosition::default(), &[101])), Async), Ok(()));
    disk.close();
    let (disk, found) = Disk::with(setup(Arc::new(files), Path::new("/fake"))).unwrap();
    let names: Vec<_> = found.streams.iter().map(|stream| stream.name.as_str()).collect();
    assert_eq!((names, read_all(&disk, stays, 0)), (vec!["stays"], (vec![101], 0)));
}

#[test]
fn files_that_are_deleted_under_a_running_hub_are_noticed() {
    for ending in [".log", ".seg", "fanfare.store"] {
        let folder = tempfile::tempdir().unwrap();
        let (disk, _) = open(folder.path());
        let stream = disk.new_stream();
        write(&disk, begin(stream, "c"), Async).unwrap();
        let mut end = LogPosition::default();
        for offset in 1..=100 {
            let batch = run(end, &[offset]);
            end = batch.end();
            write(&disk, events(stream, batch), Async).unwrap();
            disk.maintenance().run_round();
        }
        assert_eq!(disk.health(), Health::Good);
        let entries = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<_> =
            entries.filter(|path| path.to_str().unwrap().ends_with(ending)).collect();
        names.sort();
        let gone = names.pop().expect(ending);
        std::fs::remove_file(&gone).unwrap();
        disk.maintenance().run_round();
        let Health::Failed(why) = disk.health() else { panic!("{ending}: {:?}", disk.health()) };
        let name = gone.file_name().unwrap().to_str().unwrap();
        assert!(why.starts_with(name) && why.contains("deleted or moved"), "{why}");
        let refused = write(&disk, events(stream, run(end, &[101])), Async);
        assert_eq!(refused, Err(WriteError::Failed));
        assert_eq!(read_all(&disk, stream, 0).0.len(), 100, "reads go on");
    }
}

#[test]
fn a_file_that_a_list_misses_while_it_is_replaced_is_not_taken_for_deleted() {
    let files = FakeDisk::new();
    let (disk, _) = Disk::with(setup(Arc::new(files.clone()), Path::new("/fake"))).unwrap();
    for name in files.names() {
        files.leave_out(&name);
        disk.maintenance().run_round();
        assert_eq!(disk.health(), Health::Good, "{name}");
    }
}

/// The oldest file is deleted, and the first block after it is broken, before a reader has seen
/// either.
#[test]
fn what_can_be_read_is_not_given_up() {
    let files = Gated::new();
    let (disk, _) = files.store(&store_config(Async), OpenOptions::default());
    let stream = disk.new_stream();
    write(&disk, begin(stream, "c"), Async).unwrap();
    let mut end = LogPosition::default();
    for offset in 1..=200 {
        let batch = run(end, &[offset]);
        end = batch.end();
        disk.note_offset(Offset(offset));
        write(&disk, events(stream, batch), Async).unwrap();
    }
    {
        let mut index = disk.0.parts.index.lock();
        let oldest = *index.files.keys().next().unwrap();
        index.drop_file(oldest);
        let next = *index.files.keys().next().unwrap();
        let (_, blocks) = index.blocks_of(next).remove(0);
        assert!(index.remove_lost(stream, &blocks[0]));
    }
    // First the trimmed events, and then the loss, which starts at the trim point.
    let DiskRead::Trimmed(trim_point) = read(&disk, stream, Seek::Seq(0)) else {
        panic!("not trimmed")
    };
    let lost = read(&disk, stream, Seek::Seq(trim_point.position.seq));
    let DiskRead::Lost { from, to } = lost else { panic!("{lost:?}") };
    assert_eq!(from, trim_point);
    let (offsets, holes) = read_all(&disk, stream, to.position.seq);
    assert_eq!((offsets.last(), holes), (Some(&200), 0), "what lies after is read");
    assert!(offsets.len() > 100);
}

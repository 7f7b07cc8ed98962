//! Other promises of the store: offsets are unique, receipts refer to no refused record, and the
//! history of durable names is known.

use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use super::fake::{Disk as FakeDisk, Fate};
use super::gated::{Gated, check_free_space, store_config};
use super::support::*;
use crate::position::Offset;
use crate::store::LogPosition;
use crate::store::disk::setup::Setup;
use crate::store::disk::{
    Disk, Durability, Health, LogRecord, OpenOptions, StoredReceipt, StreamId, WriteDependency,
    WriteError,
};

fn dependent(
    stream: StreamId,
    from: LogPosition,
    offset: u64,
    chain: &WriteDependency,
) -> LogRecord {
    let receipt = StoredReceipt { dependency: chain.clone(), ..receipt("key") };
    let batch = run(from, &[offset]);
    LogRecord::Events { stream, batch, state: None, receipt: Some(receipt) }
}

#[test]
fn a_receipt_that_speaks_of_something_refused_is_refused_with_its_events() {
    let files = FakeDisk::new();
    let (disk, _) = Disk::with(setup(Arc::new(files.clone()), Path::new("/fake"))).unwrap();
    let a = disk.new_stream();
    let b = disk.new_stream();
    for (stream, name) in [(a, "a"), (b, "b")] {
        write(&disk, begin(stream, name), Durability::Async).unwrap();
    }
    let hole = LogPosition { seq: 1, byte: 10 };
    let chain = WriteDependency::new();
    let record = dependent(a, hole, 1, &chain);
    assert_eq!(write(&disk, record, Durability::Async), Err(WriteError::Full));
    let record = dependent(b, LogPosition::default(), 2, &chain);
    assert_eq!(
        write(&disk, record, Durability::Async),
        Err(WriteError::Full),
        "of the same publish"
    );
    // If a write fails, all its records do.
    let chain = WriteDependency::new();
    files.fate(1, Fate::Full);
    let record = dependent(a, LogPosition::default(), 3, &chain);
    assert_eq!(write(&disk, record, Durability::Async), Err(WriteError::Full));
    disk.maintenance().check_free_space();
    let record = dependent(b, LogPosition::default(), 4, &chain);
    assert_eq!(write(&disk, record, Durability::Async), Err(WriteError::Full));
    let record = dependent(b, LogPosition::default(), 5, &WriteDependency::new());
    assert_eq!(write(&disk, record, Durability::Async), Ok(()), "of another");
}

#[test]
fn no_more_receipts_are_remembered_than_was_asked_for_and_the_oldest_go_first() {
    let files = FakeDisk::new();
    let opened = || {
        let terms = OpenOptions { max_receipts: 10, ..OpenOptions::default() };
        let setup = setup(Arc::new(files.clone()), Path::new("/fake"));
        Disk::with(Setup { options: terms, ..setup }).unwrap()
    };
    let (disk, _) = opened();
    let keys: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    for key in &keys {
        // A key that is used repeatedly has the youngest receipt.
        for key in ["often", key] {
            let receipt = StoredReceipt { time: moment(u64::MAX), ..receipt(key) };
            write(&disk, LogRecord::Receipt(receipt), Durability::Async).unwrap();
        }
    }
    let remembered = disk.0.parts.index.lock().receipts.to_vec();
    assert_eq!(remembered.len(), 10);
    disk.close();
    let (_disk, found) = opened();
    let found: Vec<&str> = found.receipts.iter().map(|receipt| &*receipt.key).collect();
    let mut expected: Vec<&str> = keys[91..].iter().map(String::as_str).collect();
    expected.insert(8, "often");
    assert_eq!(found, expected);
}

#[test]
fn after_a_failed_sync_nothing_is_written_any_more() {
    let files = FakeDisk::new();
    let (disk, _) = Disk::with(setup(Arc::new(files.clone()), Path::new("/fake"))).unwrap();
    let stream = disk.new_stream();
    write(&disk, begin(stream, "a"), Durability::Async).unwrap();
    disk.maintenance().run_once().unwrap();
    // The third change: after the prepared zeros and the event comes the sync.
    files.fate(3, Fate::Fails);
    let record = events(stream, run(LogPosition::default(), &[1]));
    assert_eq!(write(&disk, record, Durability::Sync), Err(WriteError::Failed));
    assert!(matches!(disk.health(), Health::Failed(_)));
    let changes = files.changes();
    disk.0.parts.checkpoints.submit(disk.0.parts.checkpoint(1));
    disk.maintenance().run_once().unwrap();
    disk.0.parts.superblock.renew_offsets();
    disk.close();
    assert_eq!(files.changes(), changes);
}

#[test]
fn offsets_that_cannot_be_reserved_are_not_given_out() {
    let files = Gated::new();
    let config = store_config(Durability::Memory);
    let (disk, _) = files.store(&config, OpenOptions::default());
    assert_eq!(disk.check_offsets(), Ok(()));
    files.disk.make_no_files(Some(Errno::NOSPC));
    let last = (1..3000).take_while(|offset| {
        let reserved = disk.check_offsets().is_ok();
        if reserved {
            disk.note_offset(Offset(*offset));
        }
        reserved
    });
    let last = last.last().unwrap();
    assert!(last > 900, "what is reserved is used: {last}");
    assert!(disk.check_offsets().is_err());
    let next = files.after_kill().store(&config, OpenOptions::default()).0.first_offset();
    assert!(next > Offset(last), "{next:?} of {last}");
    files.disk.make_no_files(None);
    check_free_space(&disk);
    assert_eq!(disk.check_offsets(), Ok(()), "when there is room, it goes on");
}

#[test]
fn what_is_left_of_names_that_were_not_durable_is_not_forgotten() {
    let config = store_config(Durability::Memory);
    let store = |files: &Gated, names: &str| {
        files.store(
            &config,
            OpenOptions { durable_names: Some(names.into()), ..OpenOptions::default() },
        )
    };
    let files = Gated::new();
    let (disk, found) = store(&files, "none");
    disk.note_offset(Offset(7));
    assert_eq!(found.gone, Offset(0));
    let files = files.after_kill();
    let (disk, found) = store(&files, "none");
    assert_eq!(found.gone, Offset(0), "nothing has changed");
    let before = disk.first_offset().0 - 1;
    let mut files = files.after_kill();
    let gone = store(&files, "all").1.gone.0;
    assert!(gone >= before, "{gone}");
    for _ in 0..2 {
        files = files.after_kill();
        assert_eq!(store(&files, "all").1.gone.0, gone, "in every life that comes");
    }
}

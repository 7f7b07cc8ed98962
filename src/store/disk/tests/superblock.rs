//! The superblock of a directory, damaged.

use std::path::Path;
use std::sync::Arc;

use super::fake::Disk as FakeDisk;
use super::support::*;
use crate::store::disk::file_names::SUPERBLOCK;
use crate::store::disk::inspect::Inspected;
use crate::store::disk::{Disk, Durability, OpenError};

/// Returns a directory that was closed cleanly.
fn closed() -> FakeDisk {
    let files = FakeDisk::new();
    let (disk, _) = Disk::with(setup(Arc::new(files.clone()), Path::new("/fake"))).unwrap();
    let stream = disk.new_stream();
    write(&disk, begin(stream, "c"), Durability::Sync).unwrap();
    disk.close();
    files
}

/// Returns the result of opening, and the number of damages that `store check` finds.
fn opened(files: &FakeDisk) -> (Result<(), OpenError>, usize) {
    let path = Path::new("/fake");
    let checked =
        Inspected::of_files(Arc::new(files.after_kill()), path).unwrap().check(path).unwrap();
    let opened = Disk::with(setup(Arc::new(files.after_kill()), path));
    (opened.map(|(disk, _)| disk.close()), checked.damages())
}

#[track_caller]
fn is_refused(files: &FakeDisk, what: &str) {
    let (opened, damages) = opened(files);
    let Err(error @ OpenError::Damaged { .. }) = opened else { panic!("{what}: {opened:?}") };
    assert!(error.to_string().starts_with("/fake/fanfare.store is damaged: "), "{error}");
    assert!(damages > 0, "{what} is no damage to `store check`");
}

#[test]
fn no_byte_of_it_can_change_without_being_noticed() {
    let files = closed();
    let whole = files.bytes(SUPERBLOCK);
    assert!(matches!(opened(&files), (Ok(()), 0)));
    for at in 0..whole.len() {
        for mask in [1, 2, 4, 8, 0x20, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= mask;
            files.set_bytes(SUPERBLOCK, bytes);
            is_refused(&files, &format!("byte {at}, mask {mask:x}"));
        }
        files.set_bytes(SUPERBLOCK, whole[..at].to_vec());
        is_refused(&files, &format!("cut to {at}"));
    }
    files.lose(SUPERBLOCK);
    is_refused(&files, "no superblock");
}

#[test]
fn one_without_a_checksum_is_taken_once_if_it_can_be_right() {
    let files = closed();
    let text = String::from_utf8(files.bytes(SUPERBLOCK)).unwrap();
    let (fields, _) = text.split_once(",\n  \"checksum\"").unwrap();
    let old = format!("{fields}\n}}");
    files.set_bytes(SUPERBLOCK, old.clone().into_bytes());
    let (disk, _) = Disk::with(setup(Arc::new(files.clone()), Path::new("/fake"))).unwrap();
    disk.close();
    assert!(files.bytes(SUPERBLOCK).ends_with(b"\"\n}"), "it has a checksum now");
    assert!(String::from_utf8(files.bytes(SUPERBLOCK)).unwrap().contains("\"checksum\": "));
    let next = old.split_once("\"next_offset\": ").unwrap().1.split(',').next().unwrap();
    for (from, to) in [
        (format!("\"next_offset\": {next}"), format!("\"next_offset\": {}", u64::MAX)),
        (format!("\"next_offset\": {next}"), "\"next_offset\": 0".to_owned()),
        ("\"in_memory\": 0".to_owned(), format!("\"in_memory\": {next}")),
        ("in_memory".to_owned(), "in_memorx".to_owned()),
        ("next_offset".to_owned(), "nextXoffset".to_owned()),
    ] {
        assert!(old.contains(&from), "{old}");
        files.set_bytes(SUPERBLOCK, old.replace(&from, &to).into_bytes());
        is_refused(&files, &to);
    }
}

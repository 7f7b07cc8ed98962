//! Moments in which something is short, and what must not be given up for them.

use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use super::fake::Disk as FakeDisk;
use super::gated::{Gated, look_at_room, store_config};
use super::support::*;
use crate::clock::now;
use crate::position::Offset;
use crate::store::Mark;
use crate::store::disk::{Disk, Durability, Health, Piece, Place, Record, Terms};

use Durability::Async;

#[test]
fn receipts_of_one_key_do_not_pile_up() {
    let (disk, _) = Disk::with(setup(Arc::new(FakeDisk::new()), Path::new("/fake"))).unwrap();
    let stream = disk.new_stream();
    write(&disk, begin(stream, "c"), Async).unwrap();
    let mut end = Mark::default();
    for offset in 1..=1000 {
        let run = run(end, &[offset]);
        end = run.end();
        let mut receipt = receipt("the same");
        receipt.time = now();
        let record = Record::Events { stream, run, state: None, receipt: Some(receipt) };
        write(&disk, record, Async).unwrap();
    }
    assert_eq!(disk.engine().shelf.lock().receipts.to_vec().len(), 1);
}

#[test]
fn a_moment_without_descriptors_is_not_the_end_of_the_store() {
    let files = Gated::new();
    let (disk, _) = files.store(&store_config(Async), Terms::default());
    let stream = disk.new_stream();
    write(&disk, begin(stream, "c"), Async).unwrap();
    files.disk.make_no_files(Some(Errno::MFILE));
    let (mut end, mut refused, mut offset) = (Mark::default(), 0, 0);
    // Until the journal is at its end, and the next one cannot be made.
    while refused == 0 {
        offset += 1;
        assert!(offset < 1000, "the journal has no end");
        let run = run(end, &[offset]);
        match write(&disk, events(stream, run.clone()), Async) {
            Ok(()) => end = run.end(),
            Err(_) => refused = offset,
        }
    }
    files.disk.make_no_files(None);
    look_at_room(&disk);
    assert_eq!(disk.health(), Health::Good);
    assert_eq!(write(&disk, events(stream, run(end, &[refused])), Async), Ok(()));
}

/// The oldest file goes, and the first block behind it is broken, before anybody has looked.
#[test]
fn what_can_be_read_is_not_given_up() {
    let files = Gated::new();
    let (disk, _) = files.store(&store_config(Async), Terms::default());
    let stream = disk.new_stream();
    write(&disk, begin(stream, "c"), Async).unwrap();
    let mut end = Mark::default();
    for offset in 1..=200 {
        let run = run(end, &[offset]);
        end = run.end();
        disk.note_offset(Offset(offset));
        write(&disk, events(stream, run), Async).unwrap();
    }
    {
        let mut shelf = disk.engine().shelf.lock();
        let oldest = *shelf.files.keys().next().unwrap();
        shelf.drop_file(oldest);
        let next = *shelf.files.keys().next().unwrap();
        let (_, blocks) = shelf.blocks_of(next).remove(0);
        assert!(shelf.lose(stream, &blocks[0]));
    }
    // First what retention took, and then what is lost: else nobody knows where that begins.
    let Piece::Trimmed(floor) = read(&disk, stream, Place::Seq(0)) else { panic!("not trimmed") };
    let lost = read(&disk, stream, Place::Seq(floor.mark.seq));
    let Piece::Lost { from, to } = lost else { panic!("{lost:?}") };
    assert_eq!(from, floor);
    let (offsets, holes) = read_all(&disk, stream, to.mark.seq);
    assert_eq!((offsets.last(), holes), (Some(&200), 0), "what lies behind is read");
    assert!(offsets.len() > 100);
}

//! Random lives of a store, compared with a map of lists.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::fake::Disk as FakeDisk;
use super::support::*;
use crate::position::Offset;
use crate::store::disk::{Disk, Durability, LogRecord, StreamId, TrimPoint};
use crate::store::{LogPosition, Retention};

#[derive(Clone, Debug)]
enum Step {
    Begin,
    /// Stream, number of events, whether they are synced, and whether the stream ends.
    Publish(usize, u64, bool, bool),
    Trim(usize, u64),
    Gone(usize),
    Maintain,
    Close,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Begin),
        20 => (0..4usize, 1..6u64, any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(stream, count, sync, ends)| Step::Publish(stream, count, sync, ends)),
        3 => (0..4usize, 0..30u64).prop_map(|(stream, keep)| Step::Trim(stream, keep)),
        1 => (0..4usize).prop_map(Step::Gone),
        4 => Just(Step::Maintain),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
    ]
}

#[derive(Debug, Default)]
struct Known {
    offsets: Vec<u64>,
    end: LogPosition,
    trim_point: TrimPoint,
    ended: bool,
}

struct Life {
    files: FakeDisk,
    disk: Disk,
    streams: BTreeMap<u64, Known>,
    next: u64,
}

impl Life {
    fn new() -> Self {
        let files = FakeDisk::new();
        let disk = start(&files);
        Self { files, disk, streams: BTreeMap::new(), next: 1 }
    }

    fn nth(&self, at: usize) -> Option<u64> {
        self.streams.keys().nth(at).copied()
    }

    fn live(&mut self, step: &Step) {
        match *step {
            Step::Begin if self.streams.len() < 4 => {
                let stream = self.disk.new_stream();
                let name = format!("channel/{}", stream.0);
                write(&self.disk, begin(stream, &name), Durability::Async).unwrap();
                assert!(self.streams.insert(stream.0, Known::default()).is_none());
            }
            Step::Publish(at, count, sync, ends) => self.publish(at, count, sync, ends),
            Step::Trim(at, keep) => self.trim(at, keep),
            Step::Gone(at) => {
                if let Some(stream) = self.nth(at) {
                    let gone = LogRecord::Gone { stream: StreamId(stream) };
                    write(&self.disk, gone, Durability::Async).unwrap();
                    self.streams.remove(&stream);
                }
            }
            Step::Maintain => self.disk.maintenance().run_once().unwrap(),
            Step::Begin => {}
            Step::Close => {
                self.disk.close();
                self.reopen();
            }
            Step::Kill => {
                let left = self.files.after_kill();
                self.disk.close();
                self.files = left;
                self.reopen();
            }
        }
    }

    fn publish(&mut self, at: usize, count: u64, sync: bool, ends: bool) {
        let Some(stream) = self.nth(at) else { return };
        let Some(known) = self.streams.get_mut(&stream).filter(|known| !known.ended) else {
            return;
        };
        let offsets: Vec<u64> = (0..count).map(|step| self.next + step * 2).collect();
        self.next += count * 2;
        self.disk.note_offset(Offset(self.next));
        let batch = run(known.end, &offsets);
        known.end = batch.end();
        known.offsets.extend(offsets);
        known.ended = ends;
        let state = ends.then(|| "complete".into());
        let record = LogRecord::Events { stream: StreamId(stream), batch, state, receipt: None };
        let durability = if sync { Durability::Sync } else { Durability::Async };
        write(&self.disk, record, durability).unwrap();
    }

    fn trim(&mut self, at: usize, keep: u64) {
        let Some(stream) = self.nth(at) else { return };
        let retention = Retention { max_events: keep, max_bytes: u64::MAX, max_age: Duration::MAX };
        let trim_point = self.disk.trim(StreamId(stream), &retention, moment(0)).trim_point;
        let known = self.streams.get_mut(&stream).unwrap();
        let rest = known.end.seq - trim_point.position.seq;
        assert!(
            rest >= keep.min(known.end.seq - known.trim_point.position.seq),
            "not too much goes"
        );
        assert!(trim_point.position >= known.trim_point.position);
        known.trim_point = trim_point;
    }

    fn reopen(&mut self) {
        self.disk = start(&self.files);
        self.next = self.disk.first_offset().0;
        let all = Retention { max_events: 9999, max_bytes: u64::MAX, max_age: Duration::MAX };
        for (stream, known) in &mut self.streams {
            // Trimmed events may be back, but no others may be missing.
            let trim_point = self.disk.trim(StreamId(*stream), &all, moment(0)).trim_point;
            assert!(trim_point.position <= known.trim_point.position, "{trim_point:?} {known:?}");
            known.trim_point = trim_point;
        }
    }

    fn check(&self) {
        for (stream, known) in &self.streams {
            let from = known.trim_point.position.seq as usize;
            let (read, holes) = read_all(&self.disk, StreamId(*stream), from as u64);
            assert_eq!((&read[..], holes), (&known.offsets[from..], 0));
            let after = from.checked_sub(1).map_or(0, |at| known.offsets[at]);
            assert!(known.trim_point.last_trimmed.0 >= after);
        }
    }
}

fn start(files: &FakeDisk) -> Disk {
    Disk::with(setup(Arc::new(files.clone()), Path::new("/fake"))).unwrap().0
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_store_is_a_map_of_lists(steps in prop::collection::vec(step(), 1..200)) {
        let mut life = Life::new();
        for step in &steps {
            life.live(step);
            if matches!(step, Step::Maintain | Step::Close | Step::Kill) {
                life.check();
            }
        }
        life.check();
    }
}

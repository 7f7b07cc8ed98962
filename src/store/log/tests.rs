//! The log against a model: a plain list of everything that was appended.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Append { step: u64, bytes: usize, later: u64 },
    TrimEvents(u64),
    TrimBytes(u64),
    TrimOlder(u64),
    EvictOldest,
    ReadFrom { back: u64, max_bytes: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let jump = prop_oneof![9 => 1u64..4, 1 => Just(1u64 << 33)];
    prop_oneof![
        8 => (jump, 1usize..3000, 0u64..9)
            .prop_map(|(step, bytes, later)| Op::Append { step, bytes, later }),
        1 => (0u64..40).prop_map(Op::TrimEvents),
        1 => (0u64..40_000).prop_map(Op::TrimBytes),
        1 => (0u64..60).prop_map(Op::TrimOlder),
        1 => Just(Op::EvictOldest),
        4 => (0u64..60, 1usize..9000)
            .prop_map(|(back, max_bytes)| Op::ReadFrom { back, max_bytes }),
    ]
}

struct Model {
    /// Everything ever appended: entry and frame.
    all: Vec<(Entry, Vec<u8>)>,
    start: usize,
}

impl Model {
    fn mark(&self, seq: usize) -> Mark {
        let byte = self.all[..seq].iter().map(|(_, frame)| frame.len() as u64).sum();
        Mark { seq: seq as u64, byte }
    }

    fn trim(&mut self, to: usize) {
        self.start = self.start.max(to.min(self.all.len()));
    }
}

fn check_whole(log: &mut Log, model: &Model) {
    let end = model.all.len();
    assert_eq!(log.start(), model.mark(model.start));
    assert_eq!(log.end(), model.mark(end));
    let through = model.start.checked_sub(1).map_or(Offset::ZERO, |last| model.all[last].0.offset);
    assert_eq!(log.trimmed_through(), through);
    assert_eq!(log.earliest(), model.all.get(model.start).map(|(entry, _)| *entry));
    for (seq, (entry, _)) in model.all.iter().enumerate() {
        let expected = model.mark((seq + 1).max(model.start));
        assert_eq!(log.mark_after(entry.offset), expected);
        assert_eq!(log.mark_at_byte(model.mark(seq + 1).byte), expected);
    }
    read_to_end(log, model, model.start, 1500);
}

fn read_to_end(log: &mut Log, model: &Model, from: usize, max_bytes: usize) {
    let mut at = model.mark(from);
    let mut seq = from;
    loop {
        match log.read(at, max_bytes) {
            Read::Run(run) => {
                assert!(run.count() > 0);
                let expected: Vec<u8> = model.all[seq..seq + run.count()]
                    .iter()
                    .flat_map(|(_, frame)| frame.clone())
                    .collect();
                assert_eq!(run.bytes(), expected);
                assert!(run.count() == 1 || expected.len() <= max_bytes);
                let entries: Vec<_> = run.entries().collect();
                let wanted: Vec<_> =
                    model.all[seq..seq + run.count()].iter().map(|(entry, _)| *entry).collect();
                assert_eq!(entries, wanted);
                seq += run.count();
                at = run.end();
                assert_eq!(at, model.mark(seq));
            }
            Read::CaughtUp => return assert_eq!(seq, model.all.len()),
            Read::Trimmed => return assert!(from < model.start),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn the_log_is_the_list_of_what_was_appended_from_its_start(
        ops in prop::collection::vec(op(), 1..80),
    ) {
        let retention = Retention { max_events: 1000, max_bytes: 40_000, max_age: Duration::MAX };
        let mut log = Log::new(Offset::ZERO);
        let mut model = Model { all: Vec::new(), start: 0 };
        let (mut offset, mut time) = (0, 1_000);
        for op in ops {
            match op {
                Op::Append { step, bytes, later } => {
                    offset += step;
                    time += later;
                    let entry = Entry { offset: Offset(offset), time };
                    let frame = vec![b'a' + (offset % 26) as u8; bytes];
                    log.append(entry, &frame, &retention);
                    model.all.push((entry, frame));
                }
                Op::TrimEvents(most) => {
                    log.trim_events(most, 0);
                    model.trim(model.all.len().saturating_sub(most as usize));
                }
                Op::TrimBytes(most) => {
                    log.trim_bytes(most, 0);
                    let end = model.mark(model.all.len()).byte;
                    let to = (0..=model.all.len()).find(|seq| end - model.mark(*seq).byte <= most);
                    model.trim(to.unwrap());
                }
                Op::TrimOlder(age) => {
                    let than = time.saturating_sub(age);
                    log.trim_older(than, 0);
                    model.trim(model.all.partition_point(|(entry, _)| entry.time <= than));
                }
                Op::EvictOldest => {
                    log.evict_oldest(0);
                    let start = log.start().seq as usize;
                    prop_assert!(start > model.start || model.start == model.all.len());
                    model.trim(start);
                }
                Op::ReadFrom { back, max_bytes } => {
                    let from = model.all.len().saturating_sub(back as usize);
                    read_to_end(&mut log, &model, from, max_bytes);
                }
            }
            check_whole(&mut log, &model);
        }
    }
}

#[test]
fn what_must_be_kept_survives_every_eviction() {
    let retention = Retention { max_events: 10, max_bytes: 10_000, max_age: Duration::MAX };
    let mut log = Log::new(Offset::ZERO);
    for offset in 1..=5 {
        log.append(Entry { offset: Offset(offset), time: offset }, b"frame", &retention);
    }
    log.trim_events(0, 1);
    log.trim_bytes(0, 1);
    log.trim_older(99, 1);
    log.evict_oldest(1);
    assert_eq!(log.earliest().map(|entry| entry.offset), Some(Offset(5)));
}

#[test]
fn a_log_gives_its_memory_back() {
    let retention = Retention { max_events: 10, max_bytes: 1 << 20, max_age: Duration::MAX };
    let mut log = Log::new(Offset::ZERO);
    let empty = log.footprint();
    for offset in 1..=1000 {
        log.append(Entry { offset: Offset(offset), time: offset }, &[b'x'; 1000], &retention);
    }
    assert!(log.footprint() >= 1_000_000);
    log.trim_events(0, 0);
    assert_eq!(log.footprint(), empty);
}

//! The log against a model: a plain list of everything that was appended.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::Moment;

/// A moment at which the steady clock shows `steady`.
fn at(steady: u64) -> Moment {
    Moment { wall: 1_000_000 + steady, steady }
}

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
    fn mark(&self, seq: usize) -> LogPosition {
        let byte = self.all[..seq].iter().map(|(_, frame)| frame.len() as u64).sum();
        LogPosition { seq: seq as u64, byte }
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
        assert_eq!(log.position_after(entry.offset), Ok(expected));
        assert_eq!(log.position_at_byte(model.mark(seq + 1).byte), Some(expected));
    }
    read_to_end(log, model, model.start, 1500);
}

fn read_to_end(log: &mut Log, model: &Model, from: usize, max_bytes: usize) {
    let mut at = model.mark(from);
    let mut seq = from;
    loop {
        match log.read(at, max_bytes) {
            LogRead::Batch(batch) => {
                assert!(batch.count() > 0);
                let expected: Vec<u8> = model.all[seq..seq + batch.count()]
                    .iter()
                    .flat_map(|(_, frame)| frame.clone())
                    .collect();
                assert_eq!(batch.bytes(), expected);
                assert!(batch.count() == 1 || expected.len() <= max_bytes);
                let entries: Vec<_> = batch.entries().collect();
                let wanted: Vec<_> =
                    model.all[seq..seq + batch.count()].iter().map(|(entry, _)| *entry).collect();
                assert_eq!(entries, wanted);
                seq += batch.count();
                at = batch.end();
                assert_eq!(at, model.mark(seq));
            }
            LogRead::CaughtUp => return assert_eq!(seq, model.all.len()),
            LogRead::Missing(missing) => {
                assert_eq!(missing.to.position, model.mark(model.start));
                return assert!(from < model.start);
            }
            LogRead::OnDisk => panic!("nothing is stored"),
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
        let mut offset = 0;
        let mut time = 1_000;
        for op in ops {
            match op {
                Op::Append { step, bytes, later } => {
                    offset += step;
                    time += later;
                    let entry = Entry { offset: Offset(offset), time: at(time) };
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
                    model.trim(model.all.partition_point(|(entry, _)| entry.time.steady <= than));
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
        log.append(Entry { offset: Offset(offset), time: at(offset) }, b"frame", &retention);
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
        log.append(Entry { offset: Offset(offset), time: at(offset) }, &[b'x'; 1000], &retention);
    }
    assert!(log.footprint() >= 1_000_000);
    log.trim_events(0, 0);
    assert_eq!(log.footprint(), empty);
}

/// A log whose events are on disk: the model is the disk.
mod stored {
    use super::*;
    use crate::store::BatchBuilder;
    use crate::store::disk::{Seek, TrimPoint};

    #[derive(Clone, Debug)]
    enum Op {
        Append { step: u64, bytes: usize },
        Release(u64),
        Fetch { at: usize, count: usize },
        Unload(usize),
        Trim(usize),
        Lose { at: usize, count: usize },
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => (1u64..4, 1usize..3000).prop_map(|(step, bytes)| Op::Append { step, bytes }),
            2 => (0u64..9000).prop_map(Op::Release),
            3 => (0usize..60, 1usize..9).prop_map(|(at, count)| Op::Fetch { at, count }),
            1 => (0usize..60).prop_map(Op::Unload),
            1 => (0usize..60).prop_map(Op::Trim),
            1 => (0usize..60, 1usize..4).prop_map(|(at, count)| Op::Lose { at, count }),
        ]
    }

    impl Model {
        fn floor(&self, seq: usize) -> TrimPoint {
            let last_trimmed =
                seq.checked_sub(1).map_or(Offset::ZERO, |last| self.all[last].0.offset);
            TrimPoint { position: self.mark(seq), last_trimmed }
        }

        fn piece(&self, from: usize, count: usize) -> Batch {
            let mut batch = BatchBuilder::new(self.mark(from));
            for (entry, frame) in self.all[from..].iter().take(count) {
                batch.push(*entry, frame);
            }
            batch.finish()
        }
    }

    /// Checks that each read returns what the model has, or has to be loaded.
    fn check(log: &mut Log, model: &Model, lost: &[bool]) {
        assert_eq!((log.start(), log.end()), (model.mark(model.start), model.mark(lost.len())));
        let events = model.all.iter().zip(lost).enumerate().skip(model.start);
        let is_lost = |seq: usize| lost[seq];
        for (seq, ((entry, frame), lost)) in events {
            let at = model.mark(seq);
            let lost = *lost;
            let away = at.seq < log.resident_from().seq;
            assert_eq!(log.missing_at(at).is_some(), away && lost, "{seq}");
            for read in [log.read(at, 1), log.read_from_byte(at.byte, 1)] {
                match read {
                    LogRead::Batch(batch) => assert_eq!(batch.bytes(), frame, "{seq}"),
                    LogRead::OnDisk => assert!(away && !lost, "{seq}"),
                    LogRead::Missing(Missing { to, reason }) => {
                        let on = to.position.seq as usize;
                        assert!(away && lost && on > seq, "{seq}");
                        assert_eq!((to, reason), (model.floor(on), GapReason::Lost));
                        assert!(
                            to.position == log.resident_from() || !is_lost(on),
                            "a second hole at {on}"
                        );
                    }
                    LogRead::CaughtUp => panic!("{seq} is there"),
                }
            }
            if let Some(found) = log.position_at_byte(at.byte) {
                assert!(found == at || lost, "{seq}: {found:?}");
            }
            let last_trimmed = model.mark(seq + 1);
            match log.position_after(entry.offset) {
                Ok(found) => assert!(found == last_trimmed || lost, "{seq}: {found:?}"),
                Err(seek) => {
                    assert_eq!(seek, Seek::After(entry.offset));
                    assert!(away, "{seq}");
                }
            }
            assert!(log.position_near_byte(at.byte).seq <= log.end().seq);
        }
    }

    fn fetch_what_follows(log: &mut Log, model: &Model, seq: usize) {
        let offset = model.all[seq].0.offset;
        if let Err(seek) = log.position_after(offset) {
            log.load(seek, &model.piece(seq + 1, 3));
            assert_eq!(log.position_after(offset), Ok(model.mark(seq + 1)), "{seq}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn a_stored_log_is_the_disk_and_what_was_fetched(
            ops in prop::collection::vec(op(), 1..60),
        ) {
            let retention =
                Retention { max_events: 1000, max_bytes: 40_000, max_age: Duration::MAX };
            let mut log = Log::stored(TrimPoint::default(), LogPosition::default(), Offset::ZERO);
            let mut model = Model { all: Vec::new(), start: 0 };
            let mut offset = 0;
            let mut lost = Vec::new();
            for op in ops {
                match op {
                    Op::Append { step, bytes } => {
                        offset += step;
                        let entry = Entry { offset: Offset(offset), time: at(7) };
                        let frame = vec![b'a' + (offset % 26) as u8; bytes];
                        log.append(entry, &frame, &retention);
                        model.all.push((entry, frame));
                        lost.push(false);
                    }
                    Op::Release(most) => log.release(most),
                    Op::Fetch { at, count } if at >= model.start && at < model.all.len() => {
                        let readable = lost[at..].iter().take(count).take_while(|lost| !**lost);
                        let count = readable.count();
                        if count > 0 {
                            log.load(Seek::Seq(at as u64), &model.piece(at, count));
                        }
                    }
                    Op::Unload(at) if at < model.all.len() => {
                        log.unload(model.mark(at));
                    }
                    Op::Trim(at) if at <= model.all.len() => {
                        log.trim_stored(model.floor(at));
                        model.trim(at);
                    }
                    Op::Lose { at, count } => {
                        let to = at + count;
                        let fetched = |seq: &usize| log.peek(*seq as u64).is_some();
                        let known = (at.max(1) - 1..to + 1).any(|seq| fetched(&seq));
                        let told = to < log.resident_from().seq as usize && at >= model.start;
                        if told && !known {
                            log.lose(Seek::Seq(at as u64), model.floor(at), model.floor(to));
                            lost[at..to].fill(true);
                        }
                    }
                    Op::Fetch { .. } | Op::Unload(_) | Op::Trim(_) => {}
                }
                check(&mut log, &model, &lost);
            }
            for seq in model.start..model.all.len().saturating_sub(1) {
                if !lost[seq + 1] {
                    fetch_what_follows(&mut log, &model, seq);
                }
            }
        }
    }
}

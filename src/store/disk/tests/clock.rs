//! Changes of the wall clock and reboots: stored events keep their times and their age.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proptest::prelude::*;

use super::fake::Disk as FakeDisk;
use super::support::*;
use crate::clock::{Clock, Moment};
use crate::position::Offset;
use crate::store::disk::setup::Setup;
use crate::store::disk::{
    Disk, DiskRead, Durability, Health, LogRecord, OpenOptions, Recovered, Seek, StoredReceipt,
    StreamId,
};
use crate::store::{Batch, Entry, LogPosition, Retention};

const SECOND: u64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND as i64;

/// A machine whose clocks do not show the real time.
#[derive(Clone, Default)]
struct Machine(Arc<Mutex<Times>>);

#[derive(Clone, Copy, Default)]
struct Times {
    real: u64,
    /// The sum of changes of the wall clock.
    set: i64,
    started: u64,
}

impl Machine {
    fn now(&self) -> Moment {
        let Times { real, set, started } = *self.0.lock();
        let wall = (1u64 << 51).saturating_add_signed(set) + real;
        Moment { wall, steady: (1 << 52) + real - started }
    }

    fn real(&self) -> u64 {
        self.0.lock().real
    }

    fn pass(&self, seconds: u64) {
        self.0.lock().real += seconds * SECOND;
    }

    fn set(&self, by: i64) {
        self.0.lock().set += by;
    }

    fn restart(&self) {
        let mut times = self.0.lock();
        times.started = times.real;
    }

    fn open(&self, files: &FakeDisk, window: Duration) -> (Disk, Recovered) {
        let setup = setup(Arc::new(files.clone()), Path::new("/fake"));
        let machine = self.clone();
        let clock = Clock::of(move || machine.now());
        let terms = OpenOptions { clock, receipts_window: window, ..OpenOptions::default() };
        let boot = format!("start {}", self.0.lock().started);
        Disk::with(Setup { boot, options: terms, ..setup }).unwrap()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Write {
        streams: Vec<usize>,
    },
    Pass(u64),
    Set(i64),
    /// The hub is closed, or killed after a round of maintenance.
    Restart {
        machine: bool,
        killed: bool,
    },
    Maintain,
}

fn op() -> impl Strategy<Value = Op> {
    let jump = prop_oneof![Just(365 * DAY), Just(-DAY), Just(-3 * SECOND as i64), Just(DAY / 24)];
    prop_oneof![
        6 => prop::collection::vec(0usize..2, 1..12).prop_map(|streams| Op::Write { streams }),
        3 => (1u64..5000).prop_map(Op::Pass),
        2 => jump.prop_map(Op::Set),
        1 => any::<(bool, bool)>().prop_map(|(machine, killed)| Op::Restart { machine, killed }),
        1 => Just(Op::Maintain),
    ]
}

/// The events of a stream: the real time and the wall clock time of each.
#[derive(Default)]
struct Written {
    end: LogPosition,
    events: Vec<(u64, u64)>,
}

fn write_one(disk: &Disk, machine: &Machine, at: usize, written: &mut Written, offset: u64) {
    let time = machine.now();
    let frame = frame(offset);
    let event = (Entry { offset: Offset(offset), time }, &frame[..]);
    let batch = Batch::rewritten(written.end, std::iter::once(event));
    written.end = batch.end();
    written.events.push((machine.real(), time.wall));
    disk.note_offset(Offset(offset));
    drop(hand_in(disk, events(StreamId(at as u64 + 1), batch), Durability::Async));
}

fn check_times(disk: &Disk, at: usize, written: &Written) {
    let mut seq = 0;
    while let DiskRead::Batch(batch) = read(disk, StreamId(at as u64 + 1), Seek::Seq(seq)) {
        for (entry, (_, wall)) in batch.entries().zip(&written.events[batch.start().seq as usize..])
        {
            assert_eq!(entry.time.wall, *wall, "the time that was shown");
        }
        seq = batch.end().seq;
    }
    assert_eq!(seq, written.end.seq);
}

/// Trims at each age: trimmed events are older, and the last event of the next block is not.
fn check_ages(disk: &Disk, machine: &Machine, at: usize, written: &Written) {
    let age = |seq: u64| machine.real() - written.events[seq as usize].0;
    let mut ages: Vec<u64> = (0..written.end.seq).map(age).collect();
    ages.sort_unstable_by(|one, other| other.cmp(one));
    for most in ages {
        let all = Retention { max_events: 1 << 20, max_bytes: 1 << 30, max_age: Duration::MAX };
        let retention = Retention { max_age: Duration::from_micros(most), ..all };
        let stream = StreamId(at as u64 + 1);
        let trimmed = disk.trim(stream, &retention, machine.now());
        if let Some(last) = trimmed.trim_point.position.seq.checked_sub(1) {
            assert!(age(last) > most, "it went after {} µs, not {most}", age(last));
        }
        if let Some(next) = trimmed.next {
            let youngest = age(next.seq - 1);
            assert!(youngest <= most, "it stays after {youngest} µs, not {most}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn stored_events_keep_their_times_and_their_age_however_the_wall_clock_is_set(
        ops in prop::collection::vec(op(), 1..40),
    ) {
        let machine = Machine::default();
        let mut files = FakeDisk::new();
        let mut disk = machine.open(&files, Duration::MAX).0;
        let mut written = [Written::default(), Written::default()];
        for name in ["a", "b"] {
            write(&disk, begin(disk.new_stream(), name), Durability::Async).unwrap();
        }
        let mut offset = 0;
        for op in ops {
            match op {
                Op::Write { streams } => for at in streams {
                    offset += 1;
                    write_one(&disk, &machine, at, &mut written[at], offset);
                },
                Op::Pass(seconds) => machine.pass(seconds),
                Op::Set(by) => machine.set(by),
                Op::Restart { machine: too, killed } => {
                    if killed {
                        // A record after which all others are written.
                        let last = begin(disk.new_stream(), "last");
                        write(&disk, last, Durability::Async).unwrap();
                        disk.maintenance().run_round();
                        files = files.after_kill();
                    }
                    disk.close();
                    machine.pass(60);
                    if too {
                        machine.restart();
                    } else {
                        // The hub does not run at that moment.
                        machine.set(DAY);
                    }
                    disk = machine.open(&files, Duration::MAX).0;
                    offset = offset.max(disk.first_offset().0);
                }
                Op::Maintain => disk.maintenance().run_round(),
            }
        }
        // A record after which all others are written.
        write(&disk, LogRecord::Receipt(receipt("last")), Durability::Async).unwrap();
        machine.pass(1);
        for (at, written) in written.iter().enumerate() {
            check_times(&disk, at, written);
            check_ages(&disk, &machine, at, written);
        }
    }
}

#[test]
fn a_machine_that_starts_with_a_wrong_date_keeps_no_event_for_ever() {
    for back in [0, -30 * 365 * DAY] {
        let machine = Machine::default();
        let files = FakeDisk::new();
        let disk = machine.open(&files, Duration::MAX).0;
        let stream = disk.new_stream();
        let mut written = Written::default();
        write(&disk, begin(stream, "a"), Durability::Async).unwrap();
        write_one(&disk, &machine, 0, &mut written, 1);
        disk.close();
        machine.restart();
        machine.set(back);
        let hour =
            Retention { max_events: 99, max_bytes: 1 << 20, max_age: Duration::from_secs(3600) };
        // The clock is corrected, and the hub restarted several times.
        for passes in [900, 900, 900] {
            let disk = machine.open(&files, Duration::MAX).0;
            machine.pass(passes);
            assert_eq!(disk.trim(stream, &hour, machine.now()).trim_point.position.seq, 0);
            if machine.now().wall < 1 << 51 {
                machine.set(-back);
            }
            disk.close();
        }
        let disk = machine.open(&files, Duration::MAX).0;
        machine.pass(901);
        assert_eq!(disk.trim(stream, &hour, machine.now()).trim_point.position.seq, 1, "{back}");
    }
}

#[test]
fn a_wrong_date_that_was_corrected_makes_no_event_old_after_a_power_cut() {
    for wrong in [-30 * 365 * DAY, -DAY] {
        let machine = Machine::default();
        let files = FakeDisk::new();
        let window = Duration::from_secs(3600);
        let disk = machine.open(&files, window).0;
        let stream = disk.new_stream();
        let mut written = Written::default();
        write(&disk, begin(stream, "a"), Durability::Async).unwrap();
        write_one(&disk, &machine, 0, &mut written, 1);
        let kept = StoredReceipt { time: machine.now(), offset: 1, ..receipt("kept") };
        write(&disk, LogRecord::Receipt(kept), Durability::Async).unwrap();
        disk.close();
        machine.restart();
        machine.set(wrong);
        let disk = machine.open(&files, window).0;
        machine.set(-wrong);
        disk.maintenance().run_round();
        let changes = files.changes();
        disk.maintenance().run_round();
        assert_eq!(files.changes(), changes, "it is saved once");
        let left = files.after_kill();
        machine.restart();
        let (disk, found) = machine.open(&left, window);
        let hour = Retention { max_events: 99, max_bytes: 1 << 20, max_age: window };
        assert_eq!(disk.trim(stream, &hour, machine.now()).trim_point.position.seq, 0, "{wrong}");
        assert_eq!(found.receipts.len(), 1, "{wrong}");
    }
}

#[test]
fn a_change_of_the_wall_clock_that_finds_no_room_is_saved_later() {
    let machine = Machine::default();
    let files = FakeDisk::new();
    let disk = machine.open(&files, Duration::MAX).0;
    let stream = disk.new_stream();
    let mut written = Written::default();
    write(&disk, begin(stream, "a"), Durability::Async).unwrap();
    write_one(&disk, &machine, 0, &mut written, 1);
    write(&disk, begin(disk.new_stream(), "b"), Durability::Sync).unwrap();
    disk.maintenance().run_round();
    machine.set(365 * DAY);
    files.make_no_files(Some(rustix::io::Errno::MFILE));
    disk.maintenance().run_round();
    assert_eq!(disk.health(), Health::Full);
    files.make_no_files(None);
    disk.maintenance().run_round();
    assert_eq!(disk.health(), Health::Good);
    let left = files.after_kill();
    machine.restart();
    let disk = machine.open(&left, Duration::MAX).0;
    let day = Duration::from_secs(86_400);
    let day = Retention { max_events: 99, max_bytes: 1 << 20, max_age: day };
    assert_eq!(disk.trim(stream, &day, machine.now()).trim_point.position.seq, 0);
}

#[test]
fn a_receipt_is_remembered_for_its_window_however_the_wall_clock_is_set() {
    for by in [365 * DAY, -DAY] {
        for reboot in [false, true] {
            let machine = Machine::default();
            let files = FakeDisk::new();
            let window = Duration::from_secs(300);
            let mut disk = machine.open(&files, window).0;
            let keep = |disk: &Disk, offset, key| {
                // The event that was published with the receipt.
                disk.note_offset(Offset(offset));
                let kept = StoredReceipt { time: machine.now(), ..receipt(key) };
                write(disk, LogRecord::Receipt(kept), Durability::Async).unwrap();
            };
            keep(&disk, 1, "before");
            machine.set(by);
            machine.pass(10);
            keep(&disk, 2, "after");
            for (passes, left) in [(100, 2), (185, 2), (10, 1), (10, 0)] {
                disk.close();
                machine.pass(passes);
                if reboot {
                    machine.restart();
                }
                let found;
                (disk, found) = machine.open(&files, window);
                assert_eq!(found.receipts.len(), left, "{by} {reboot}: {found:?}");
            }
        }
    }
}

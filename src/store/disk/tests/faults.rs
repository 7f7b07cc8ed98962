//! A crash, or an error, at every single change of a life of the store.

use std::collections::BTreeMap;
use std::path::Path;

use super::fake::{Disk as FakeDisk, Fate};
use super::support::*;
use crate::position::{Epoch, Offset};
use crate::store::disk::inspect::Inspected;
use crate::store::disk::{Disk, Durability, Health, LogRecord, Recovered, StreamId, WriteError};
use crate::store::{LogPosition, Retention};
use std::sync::Arc;
use std::time::Duration;

/// The expectations of a hub. Acknowledgements after a crash do not count, as no client received
/// them.
#[derive(Clone, Debug, Default)]
pub(super) struct Hub {
    pub(super) files: FakeDisk,
    ends: BTreeMap<u64, LogPosition>,
    pub(super) offered: BTreeMap<u64, Offered>,
    next: u64,
    /// The value of `next` before the crash, if there was one.
    given: u64,
    epoch: Option<Epoch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Refused,
    Written,
    Synced,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Offered {
    /// Whether the beginning of the stream was acknowledged.
    begun: bool,
    /// Submitted offsets and their acknowledgements.
    events: Vec<(u64, Told)>,
    /// If the stream was deleted: whether that was acknowledged.
    gone: Option<bool>,
    /// The offset through which retention has trimmed.
    trimmed: Offset,
    /// If the end was submitted: whether that was acknowledged as synced.
    ended: Option<bool>,
}

impl Hub {
    pub(super) fn of(files: &FakeDisk) -> Self {
        Self { files: files.clone(), ..Self::default() }
    }

    /// Continues on a disk that was left over.
    pub(super) fn on(&self, files: &FakeDisk) -> Self {
        Self { files: files.clone(), ..self.clone() }
    }

    pub(super) fn begin(&mut self, disk: &Disk, name: &str) -> Option<u64> {
        let stream = disk.new_stream();
        let begun = write(disk, begin(stream, name), Durability::Sync);
        begun.is_ok().then(|| {
            self.ends.insert(stream.0, LogPosition::default());
            let begun = !self.files.crashed();
            self.offered.insert(stream.0, Offered { begun, ..Offered::default() });
            stream.0
        })
    }

    pub(super) fn publish(&mut self, disk: &Disk, stream: u64, count: u64, how: Durability) {
        self.hand_in(disk, stream, count, how, None);
    }

    /// Publishes the last event of a stream, with which it ends.
    pub(super) fn end(&mut self, disk: &Disk, stream: u64) {
        let told = self.hand_in(disk, stream, 1, Durability::Sync, Some("complete".into()));
        if let Some(offered) = self.offered.get_mut(&stream) {
            offered.ended = Some(told == Some(Told::Synced));
        }
    }

    pub(super) fn trim(&mut self, disk: &Disk, stream: u64, max_events: u64) {
        let retention = Retention { max_events, max_bytes: u64::MAX, max_age: Duration::MAX };
        let trim_point = disk.trim(StreamId(stream), &retention, moment(0)).trim_point;
        if let Some(offered) = self.offered.get_mut(&stream) {
            offered.trimmed = offered.trimmed.max(trim_point.last_trimmed);
        }
    }

    fn hand_in(
        &mut self,
        disk: &Disk,
        stream: u64,
        count: u64,
        durability: Durability,
        state: Option<Box<str>>,
    ) -> Option<Told> {
        let end = self.ends.get(&stream).copied()?;
        let offsets: Vec<u64> = (0..count).map(|step| self.next + step).collect();
        self.next += count;
        if !self.files.crashed() {
            self.given = self.next;
        }
        disk.note_offset(Offset(self.next - 1));
        let batch = run(end, &offsets);
        let id = StreamId(stream);
        let record = LogRecord::Events { stream: id, batch: batch.clone(), state, receipt: None };
        let outcome = write(disk, record, durability);
        let offered = &mut self.offered.get_mut(&stream).unwrap().events;
        let told = match outcome {
            Err(_) => Told::Refused,
            Ok(()) if durability == Durability::Sync && !self.files.crashed() => Told::Synced,
            Ok(()) => Told::Written,
        };
        if told == Told::Synced {
            // A sync covers everything written before it.
            let written = offered.iter_mut().filter(|(_, told)| *told == Told::Written);
            written.for_each(|(_, told)| *told = Told::Synced);
        }
        offered.extend(offsets.iter().map(|offset| (*offset, told)));
        if outcome.is_ok() {
            self.ends.insert(stream, batch.end());
        }
        Some(told)
    }

    pub(super) fn leave(&mut self, disk: &Disk, stream: u64) {
        if self.ends.contains_key(&stream) {
            let gone = write(disk, LogRecord::Gone { stream: StreamId(stream) }, Durability::Sync);
            let gone = gone.is_ok() && !self.files.crashed();
            self.offered.get_mut(&stream).unwrap().gone = Some(gone);
            self.ends.remove(&stream);
        }
    }
}

/// A first life that exercises everything.
pub(super) fn life(disk: &Disk, hub: &mut Hub) {
    hub.next = hub.next.max(disk.first_offset().0);
    hub.epoch = Some(disk.epoch());
    let a = hub.begin(disk, "a").unwrap_or_default();
    let b = hub.begin(disk, "b").unwrap_or_default();
    for round in 0..14 {
        let durability = if round % 3 == 2 { Durability::Sync } else { Durability::Async };
        hub.publish(disk, a, 1 + round % 4, durability);
        hub.publish(disk, b, 4, Durability::Sync);
        hub.publish(disk, a, 2, Durability::Async);
        if round % 5 == 4 {
            let _ = disk.maintenance().run_once();
        }
        if round == 8 {
            hub.leave(disk, b);
        }
    }
    let _ = disk.maintenance().run_once();
}

pub(super) fn start(files: &FakeDisk) -> Option<(Disk, Recovered)> {
    Disk::with(setup(Arc::new(files.clone()), Path::new("/fake"))).ok()
}

/// Checks the invariants of a directory that was left over.
pub(super) fn examine(files: &FakeDisk, hub: &Hub, what: &str) {
    nothing_is_damaged(files, what);
    let (disk, found) = start(files).unwrap_or_else(|| panic!("{what}: it opens"));
    assert_eq!(disk.health(), Health::Good);
    for (stream, offered) in &hub.offered {
        let there = found.streams.iter().find(|found| found.id.0 == *stream);
        match offered.gone {
            Some(true) => assert!(there.is_none(), "{what}: {stream} is gone"),
            Some(false) => {}
            None => assert!(there.is_some() || !offered.begun, "{what}: {stream} is there"),
        }
        let Some(there) = there else { continue };
        let trim_point = there.trim_point;
        assert!(
            trim_point.last_trimmed <= offered.trimmed,
            "{what}: {stream}: {trim_point:?}: {offered:?}"
        );
        let (read, holes) = read_all(&disk, StreamId(*stream), trim_point.position.seq);
        let ended = there.state.is_some();
        assert!(ended || offered.ended != Some(true), "{what}: {stream} has ended");
        assert!(!ended || offered.ended.is_some(), "{what}: {stream} has not ended");
        assert_eq!(holes, 0, "{what}: no hole in {stream}");
        assert!(read.is_sorted_by(|one, next| one < next), "{what}: in order, once: {read:?}");
        for (offset, told) in &offered.events {
            let found = read.contains(offset) || *offset <= offered.trimmed.0;
            assert!(
                found || *told != Told::Synced,
                "{what}: {offset} of {stream} was acknowledged: {read:?}"
            );
        }
        let strange =
            read.iter().find(|it| !offered.events.iter().any(|(offset, _)| offset == *it));
        assert_eq!(strange, None, "{what}");
    }
    if hub.epoch == Some(disk.epoch()) {
        assert!(disk.first_offset().0 >= hub.given, "{what}: offsets go on");
    }
    // A new stream works as usual.
    let mut after = Hub { next: disk.first_offset().0, ..Hub::default() };
    let stream = after.begin(&disk, "after").unwrap();
    after.publish(&disk, stream, 3, Durability::Sync);
    assert_eq!(read_all(&disk, StreamId(stream), 0).0.len(), 3, "{what}");
}

/// Checks that `fanfare store check` finds no damage after a crash, and changes nothing.
fn nothing_is_damaged(files: &FakeDisk, what: &str) {
    if !files.names().iter().any(|name| name == "fanfare.store") {
        return;
    }
    let contents = || files.names().into_iter().map(|name| (files.bytes(&name), name));
    let before: Vec<_> = contents().collect();
    let path = Path::new("/fake");
    let checked = Inspected::of_files(Arc::new(files.clone()), path).unwrap().check(path).unwrap();
    assert_eq!(checked.damages(), 0, "{what}: {:#?}", checked.findings);
    assert!(contents().eq(before), "{what}: checking changes nothing");
}

/// Returns the number of changes in a whole life.
fn changes() -> u64 {
    let files = FakeDisk::new();
    let mut hub = Hub::default();
    let (disk, _) = start(&files).unwrap();
    life(&disk, &mut hub);
    disk.close();
    let names = files.names();
    assert!(names.iter().any(|name| name.ends_with(".seg")), "it sorts: {names:?}");
    examine(&files.after_kill(), &hub, "a clean close");
    files.changes()
}

/// Runs a life in which the fate comes at the n-th change.
fn live(files: &FakeDisk) -> Hub {
    let mut hub = Hub { files: files.clone(), ..Hub::default() };
    if let Some((disk, _)) = start(files) {
        life(&disk, &mut hub);
        disk.close();
    }
    hub
}

#[test]
fn after_a_crash_at_any_moment_all_that_was_synced_is_there() {
    for n in 1..=changes() {
        let files = FakeDisk::new();
        files.fate(n, Fate::Crash);
        let hub = live(&files);
        examine(&files.after_kill(), &hub, &format!("killed at {n}"));
        for seed in 0..4 {
            let mut chance = fastrand::Rng::with_seed(n * 10 + seed);
            let left = files.after_power_cut(&mut chance);
            examine(&left, &hub, &format!("power cut at {n}, {seed}"));
        }
    }
}

#[test]
fn after_an_error_at_any_moment_all_that_was_acknowledged_is_there() {
    for n in 1..=changes() {
        for fate in [Fate::Fails, Fate::Full] {
            let files = FakeDisk::new();
            files.fate(n, fate);
            let hub = live(&files);
            examine(&files.after_kill(), &hub, &format!("{fate:?} at {n}"));
        }
    }
}

#[test]
fn after_a_failed_sync_nothing_is_taken_any_more() {
    let files = FakeDisk::new();
    let (disk, _) = start(&files).unwrap();
    let mut hub = Hub { next: 1, ..Hub::default() };
    let stream = hub.begin(&disk, "a").unwrap();
    disk.maintenance().run_once().unwrap();
    files.fate(2, Fate::Fails);
    hub.publish(&disk, stream, 1, Durability::Sync);
    assert_eq!(disk.check(), Err(WriteError::Failed));
    let Health::Failed(why) = disk.health() else { panic!("{:?}", disk.health()) };
    assert!(why.starts_with("0000000000000001.log: "), "{why}");
    for durability in [Durability::Async, Durability::Sync] {
        let record = events(StreamId(stream), run(hub.ends[&stream], &[9]));
        assert_eq!(write(&disk, record, durability), Err(WriteError::Failed));
    }
    assert_eq!(read_all(&disk, StreamId(stream), 0).0, [1], "reads go on");
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let files = FakeDisk::new();
    let mut setup = setup(Arc::new(files.clone()), Path::new("/fake"));
    setup.config.min_free = bytesize::ByteSize(1000);
    let (disk, _) = Disk::with(setup).unwrap();
    let mut hub = Hub { next: 1, ..Hub::default() };
    let stream = hub.begin(&disk, "a").unwrap();
    hub.publish(&disk, stream, 3, Durability::Sync);
    files.set_free(999);
    hub.publish(&disk, stream, 1, Durability::Sync);
    assert_eq!((disk.check(), disk.health()), (Err(WriteError::Full), Health::Full));
    assert_eq!(read_all(&disk, StreamId(stream), 0).0, [1, 2, 3], "reads go on");
    files.set_free(1100);
    disk.maintenance().check_free_space();
    assert_eq!(disk.health(), Health::Full, "not to and fro");
    files.set_free(1250);
    disk.maintenance().check_free_space();
    assert_eq!(disk.health(), Health::Good);
    hub.publish(&disk, stream, 2, Durability::Sync);
    assert_eq!(read_all(&disk, StreamId(stream), 0).0, [1, 2, 3, 5, 6]);
}

#[test]
fn past_its_budget_the_oldest_file_goes() {
    let files = FakeDisk::new();
    let mut setup = setup(Arc::new(files.clone()), Path::new("/fake"));
    setup.config.max_bytes = bytesize::ByteSize(12_000);
    let (disk, _) = Disk::with(setup).unwrap();
    let mut hub = Hub { next: 1, ..Hub::default() };
    let stream = hub.begin(&disk, "a").unwrap();
    for _ in 0..200 {
        hub.publish(&disk, stream, 1, Durability::Sync);
        disk.maintenance().run_once().unwrap();
    }
    let held: usize = files.names().iter().map(|name| files.bytes(name).len()).sum();
    assert!(held < 15_000, "{held} bytes: {:?}", files.names());
    let all = Retention { max_events: 999, max_bytes: 99_999, max_age: Duration::MAX };
    let trim_point = disk.trim(StreamId(stream), &all, moment(0)).trim_point;
    assert!(
        trim_point.position.seq > 50 && trim_point.last_trimmed.0 == trim_point.position.seq,
        "{trim_point:?}"
    );
    let (read, holes) = read_all(&disk, StreamId(stream), 0);
    assert_eq!((read[0], *read.last().unwrap(), holes), (trim_point.position.seq + 1, 200, 1));
    let found = {
        disk.close();
        start(&files).unwrap().1
    };
    assert_eq!(found.streams[0].trim_point, trim_point);
}

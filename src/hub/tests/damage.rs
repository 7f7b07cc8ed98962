//! Damage on disk, of any kind: every reader comes to an end, and gets each event at most once, in
//! order, with one gap where events are missing.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::support::{Stage, bounds, name};
use crate::event::GAP;
use crate::hub::{Config, Next, Opened, ReadResult, Selection, Step, Subscription};
use crate::position::StartFrom;
use crate::sse::Frames;
use crate::store::Batch;
use crate::store::disk::tests::gated::{Gated, blocks_of, until_all_is_read};
use crate::store::disk::{Config as StoreConfig, Durability};

const CHANNELS: [&str; 3] = ["a", "b", "c"];

/// An item that a reader gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Event(u64),
    Gap,
}

/// A directory before it is damaged, and the offsets of the published events.
struct Whole {
    files: Gated,
    config: StoreConfig,
    published: BTreeMap<&'static str, Vec<u64>>,
}

/// Creates a directory with segments, journals and checkpoints.
async fn whole() -> Whole {
    let mut stage = Stage::new(Durability::Async);
    let mut published: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for round in 0..2 {
        for number in 0..70 {
            let channel = CHANNELS[number % 3];
            stage
                .append(channel, &format!("{channel} {number} {}", ".".repeat(number % 40)))
                .await
                .unwrap();
            let tail = stage.hub.describe(&name(channel)).unwrap().tail.offset.0;
            published.entry(channel).or_default().push(tail);
        }
        if round == 0 {
            stage = stage.restart();
        }
    }
    let (files, config) = stage.restart().shut_down();
    let names = files.disk.names();
    for ending in [".seg", ".log", ".cat"] {
        assert!(names.iter().any(|name| name.ends_with(ending)), "{names:?}");
    }
    Whole { files, config, published }
}

impl Whole {
    /// Starts a hub on a damaged copy of the directory.
    fn damaged(&self, damage: impl FnOnce(&Gated)) -> Stage {
        let files = self.files.after_kill();
        damage(&files);
        Stage::of(files, self.config.clone(), Config::default())
    }

    /// Returns the names of the files that hold events.
    fn names(&self) -> Vec<String> {
        let names = self.files.disk.names().into_iter();
        names.filter(|name| name != "fanfare.store").collect()
    }

    /// Reads every channel in every way, and publishes one more event at the end.
    async fn read_all(&self, damage: impl FnOnce(&Gated), what: &str) {
        let stage = &self.damaged(damage);
        let mut readers = Vec::new();
        for channel in CHANNELS {
            let resumed = self.published[channel].len() / 3;
            let id = stage.hub.event_id(crate::position::Offset(self.published[channel][resumed]));
            for from in [StartFrom::Earliest, StartFrom::After(id.into()), StartFrom::Last(9)] {
                let since = matches!(from, StartFrom::After(_)).then_some(resumed);
                let body = Reader::Body(Box::new(stage.subscribe(channel, &from).await));
                let ticket = stage.open_one(channel, &from).await;
                let first = ticket.head.gap.iter().map(|_| Seen::Gap).collect::<Vec<_>>();
                readers.push((channel, since, body, Vec::new()));
                readers.push((
                    channel,
                    since,
                    Reader::Shard(ticket.position.byte, ticket.channel().clone()),
                    first,
                ));
            }
        }
        let patterns = CHANNELS.iter().map(|channel| channel.parse().unwrap()).collect();
        let opened = stage.hub.subscribe(Selection::Many(patterns), &StartFrom::Earliest, bounds());
        let Ok(Opened::Live(many)) = opened else { panic!("no subscription") };
        let mut many = Reader::Body(Box::new(many));
        let mut merged: BTreeMap<&str, Vec<Seen>> = BTreeMap::new();
        let mut fresh = BTreeMap::new();
        for late in [false, true] {
            for channel in CHANNELS.iter().filter(|_| late) {
                stage.append(channel, "fresh").await.unwrap();
                let tail = stage.hub.describe(&name(channel)).unwrap().tail.offset.0;
                fresh.insert(*channel, tail);
            }
            for (_, _, reader, seen) in &mut readers {
                self.read(stage, reader, what, |_, step| seen.push(step));
            }
            self.read(stage, &mut many, what, |channel, step| {
                let channel = CHANNELS.into_iter().find(|known| *known == channel).unwrap();
                merged.entry(channel).or_default().push(step);
            });
        }
        for (channel, since, reader, seen) in readers {
            let how = if matches!(reader, Reader::Body(_)) { "body" } else { "shard" };
            self.check(channel, since, fresh[channel], &seen, &format!("{what}, {how}"));
        }
        for (channel, seen) in merged {
            self.check(channel, None, fresh[channel], &seen, &format!("{what}, merged"));
        }
    }

    fn read(
        &self,
        stage: &Stage,
        reader: &mut Reader,
        what: &str,
        mut saw: impl FnMut(&str, Seen),
    ) {
        let mut idle = 0;
        let mut steps = 0;
        while idle < 2 {
            steps += 1;
            assert!(steps < 500, "{what}: it goes on for ever");
            idle = if reader.step(&mut saw) { 0 } else { idle + 1 };
            if idle > 0 {
                until_all_is_read(&stage.disk);
            }
        }
    }

    /// Checks that each event comes at most once and in order, with one gap where some are missing,
    /// and no other gap.
    fn check(&self, channel: &str, since: Option<usize>, fresh: u64, seen: &[Seen], what: &str) {
        let mut published = self.published[channel].clone();
        published.push(fresh);
        let told =
            || format!("{what}, channel {channel}, since {since:?}: {seen:?} of {published:?}");
        assert_eq!(seen.last(), Some(&Seen::Event(fresh)), "{}", told());
        let mut next = since.map_or(0, |since| since + 1);
        let mut gaps = 0;
        let mut begun = since.is_some();
        for step in seen {
            let Seen::Event(offset) = step else {
                gaps += 1;
                assert!(gaps < 2, "two gaps in a row: {}", told());
                continue;
            };
            let at = published.binary_search(offset);
            let at = at.unwrap_or_else(|_| panic!("{offset} was never published: {}", told()));
            assert!(at >= next, "{offset} again: {}", told());
            // Retained events begin after the lost ones.
            assert!(gaps == usize::from(at > next) || !begun, "before {offset}: {}", told());
            (next, gaps, begun) = (at + 1, 0, true);
        }
    }
}

enum Reader {
    Body(Box<Subscription>),
    Shard(u64, std::sync::Arc<crate::hub::Channel>),
}

impl Reader {
    /// Takes one step. Returns whether there was one.
    fn step(&mut self, saw: &mut impl FnMut(&str, Seen)) -> bool {
        let mut events = |channel: &str, batch: &Batch| {
            let bytes = batch.bytes();
            for (frame, entry) in Frames::new(&bytes).zip(batch.entries()) {
                // The notice of a loss that was found at the start is in the log.
                let gap = frame.event_type() == Some(GAP);
                saw(channel, if gap { Seen::Gap } else { Seen::Event(entry.offset.0) });
            }
        };
        match self {
            Self::Body(subscription) => match subscription.try_next() {
                Next::Step(Step::Events { channel, batch }) => {
                    events(channel.name().as_str(), &batch)
                }
                Next::Step(Step::Gap(gap)) => {
                    saw(gap.channel.as_ref().map_or("", |name| name.as_str()), Seen::Gap);
                }
                Next::Step(step) => panic!("{step:?}"),
                Next::Pending => return false,
                Next::Again => {}
                Next::Finished => panic!("it has no end"),
            },
            Self::Shard(byte, channel) => match channel.read_at_byte(*byte, 300, false) {
                ReadResult::Frames { batch: merged, .. } => {
                    events(channel.name().as_str(), &merged.events);
                    *byte = merged.end.byte;
                }
                ReadResult::Missing(missing) => {
                    assert!(missing.to.position.byte > *byte, "{missing:?}");
                    *byte = missing.to.position.byte;
                    saw(channel.name().as_str(), Seen::Gap);
                }
                ReadResult::Nothing => return false,
            },
        }
        true
    }
}

/// Changes the bytes of one file.
fn edit(files: &Gated, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = files.disk.bytes(name);
    change(&mut bytes);
    files.disk.set_bytes(name, bytes);
}

#[tokio::test]
async fn one_block_or_two_neighbours_are_one_hole() {
    let whole = whole().await;
    let mut cases = 0;
    for file in &whole.names() {
        let blocks = blocks_of(&whole.files.disk.bytes(file));
        let pairs = blocks.windows(2).chain(blocks.chunks(1));
        for broken in pairs {
            for byte in [0, 100] {
                // In the header, or after it.
                let damage = |files: &Gated| {
                    edit(files, file, |bytes| {
                        broken.iter().for_each(|block| {
                            bytes[(block.start + byte).min(block.end - 1)] ^= 0xff
                        });
                    });
                };
                whole.read_all(damage, &format!("{file}: {broken:?}, byte {byte}")).await;
                cases += 1;
            }
        }
    }
    assert!(cases > 100, "{cases}");
}

#[tokio::test]
async fn a_file_may_be_cut_emptied_gone_copied_or_swapped() {
    let whole = whole().await;
    let names = whole.names();
    for (at, file) in names.iter().enumerate() {
        let length = whole.files.disk.bytes(file).len();
        for cut in [0, 1, length / 3, length / 2, length.saturating_sub(1)] {
            let damage = |files: &Gated| edit(files, file, |bytes| bytes.truncate(cut));
            whole.read_all(damage, &format!("{file} cut to {cut}")).await;
        }
        whole.read_all(|files| files.disk.lose(file), &format!("{file} is gone")).await;
        for other in &names[at + 1..] {
            for (from, to) in [(file, other), (other, file)] {
                let copy = |files: &Gated| files.disk.set_bytes(to, files.disk.bytes(from));
                whole.read_all(copy, &format!("{from} over {to}")).await;
            }
            let swap = |files: &Gated| {
                let one = files.disk.bytes(file);
                let two = files.disk.bytes(other);
                files.disk.set_bytes(file, two);
                files.disk.set_bytes(other, one);
            };
            whole.read_all(swap, &format!("{file} and {other} swapped")).await;
        }
    }
}

/// Damages a random place of a random file in a random way.
fn damage_at_random(files: &Gated, names: &[String], chance: &mut Rng) {
    let name = &names[chance.usize(..names.len())];
    let other = files.disk.bytes(&names[chance.usize(..names.len())]);
    let kind = chance.u8(..6);
    edit(files, name, |bytes| {
        let from = chance.usize(..=bytes.len());
        let to = chance.usize(from..=bytes.len().min(from + 400));
        match kind {
            0 => bytes.iter_mut().skip(from).take(1).for_each(|byte| *byte ^= chance.u8(1..)),
            1 => bytes[from..to].fill(0),
            2 => bytes[from..to].fill_with(|| chance.u8(..)),
            3 => bytes.truncate(from),
            4 => {
                let end = to.min(other.len()).max(from);
                bytes[from..end]
                    .copy_from_slice(&other[from.min(other.len())..end.min(other.len())]);
            }
            _ => drop(bytes.drain(from..to)),
        }
    });
}

#[tokio::test]
async fn every_reader_ends_over_any_damage() {
    let whole = whole().await;
    let names = whole.names();
    for seed in 0..1000 {
        let mut chance = Rng::with_seed(seed);
        let damage = |files: &Gated| {
            for _ in 0..chance.u8(1..4) {
                damage_at_random(files, &names, &mut chance);
            }
        };
        whole.read_all(damage, &format!("seed {seed}")).await;
    }
}

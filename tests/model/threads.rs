//! The same promise while threads race: publishers on different channels, concurrent readers.
//!
//! The number of events is fixed, so that every test ends by itself; a deadline catches a hub that
//! misses a wake-up.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use bytesize::ByteSize;
use fanfare::internals::channel::ChannelName;
use fanfare::internals::event::{ChannelState, NewEvent};
use fanfare::internals::hub::{
    Append, Bounds, Channel, ChannelListener, ChannelOptions, Close, Config, Hub, Next, OnLag,
    Opened, Rule, Selection, Step, Subscription,
};
use fanfare::internals::position::{Offset, StartFrom};
use fanfare::internals::store::disk::{self, Disk, Durability, OpenOptions};
use fanfare::internals::telemetry::Metrics;
use fanfare_sse::Frames;
use parking_lot::Mutex;

/// The time limit of any wait.
const DEADLINE: Duration = Duration::from_secs(20);

const PATIENT: Bounds =
    Bounds { max_lag_events: 1 << 40, max_lag_bytes: 1 << 40, on_lag: OnLag::Disconnect };

/// A received event: its offset, its channel, its data.
type Seen = (u64, String, String);

fn hub() -> Hub {
    Hub::new(Config::default(), Arc::new(Metrics::new()))
}

fn name(text: &str) -> ChannelName {
    text.parse().unwrap()
}

fn subscribe(hub: &Hub, selection: Selection, from: &StartFrom) -> Subscription {
    match hub.subscribe(selection, from, PATIENT).unwrap() {
        Opened::Live(subscription) => subscription,
        Opened::Over | Opened::Later(_) => panic!("over before anything was published"),
    }
}

fn many(patterns: &[&str]) -> Selection {
    Selection::Many(patterns.iter().map(|text| text.parse().unwrap()).collect())
}

/// Publishes numbered events in batches of one to three, then closes the channel.
fn publish(hub: &Hub, channel: &str, events: usize, pauses: bool) {
    let channel = name(channel);
    let mut next = 0;
    while next < events {
        let batch = fastrand::usize(1..=3).min(events - next);
        let data = (next..next + batch).map(|number| number.to_string());
        let batch_of = |data: String| NewEvent { event_type: None, data: data.into() };
        let batch_of: Vec<_> = data.map(batch_of).collect();
        submit(hub, &channel, &batch_of, None);
        next += batch;
        if pauses {
            pause();
        }
    }
    let close = Close { state: ChannelState::Complete, reason: None };
    submit(hub, &channel, &[], Some(&close));
}

/// Submits events, without waiting for a disk.
fn submit(hub: &Hub, channel: &ChannelName, events: &[NewEvent], close: Option<&Close>) {
    drop(hub.submit(channel, Append::of(events, close)).unwrap());
}

/// Yields to other threads for a random time: none, short, or long enough for readers to sleep.
fn pause() {
    match fastrand::u8(..16) {
        0 => thread::sleep(Duration::from_micros(fastrand::u64(..300))),
        1..4 => thread::yield_now(),
        4..8 => (0..fastrand::u32(..2000)).for_each(|_| std::hint::spin_loop()),
        _ => {}
    }
}

fn take(step: Step, seen: &mut Vec<Seen>) {
    let Step::Events { channel, batch: run } = step else {
        panic!("everything is retained, and yet {step:?}");
    };
    let bytes = run.bytes();
    for (entry, frame) in run.entries().zip(Frames::new(&bytes)) {
        let offset = entry.offset.0;
        let data = frame.data().into_owned();
        let last = seen.last().map_or(0, |(last, ..)| *last);
        assert!(offset > last, "{offset} behind {last}");
        seen.push((offset, channel.name().to_string(), data));
    }
}

/// Reads until the subscription ends, asleep between its wake-ups.
fn read_when_woken(mut subscription: Subscription) -> Vec<Seen> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut seen = Vec::new();
    let reading = async {
        while let Some(step) = poll_fn(|cx| subscription.poll_next(cx)).await {
            take(step, &mut seen);
        }
    };
    let read = runtime.block_on(async { tokio::time::timeout(DEADLINE, reading).await });
    assert!(read.is_ok(), "asleep after {} entries", seen.len());
    seen
}

/// Asserts that every channel's events are there, each once, in order, and its end.
fn check_complete(seen: &[Seen], channels: &[String], events: usize) {
    let mut count: HashMap<&str, usize> = HashMap::new();
    for (_, channel, data) in seen {
        let count = count.entry(channel).or_default();
        assert!(*data == count.to_string() || *count == events, "{data} after {count}");
        *count += 1;
    }
    for channel in channels {
        assert_eq!(count.get(channel.as_str()), Some(&(events + 1)), "of {channel}");
    }
}

/// Returns the events of a subscription from this offset on, all of which are already published.
fn rest(hub: &Hub, selection: Selection, offset: u64) -> Vec<Seen> {
    let from = StartFrom::After(
        hub.position(fanfare::internals::position::Offset(offset)).to_string().into(),
    );
    let mut seen = Vec::new();
    if let Opened::Live(mut subscription) = hub.subscribe(selection, &from, PATIENT).unwrap() {
        while let Next::Step(step) = subscription.try_next() {
            take(step, &mut seen);
        }
    }
    seen
}

fn race(channels: usize, events: usize, pauses: bool, wildcard: bool) {
    let hub = hub();
    let channels: Vec<String> = (0..channels).map(|number| format!("race/{number}")).collect();
    let names: Vec<&str> = channels.iter().map(String::as_str).collect();
    let selection = || if wildcard { many(&["race/*"]) } else { many(&names) };
    thread::scope(|scope| {
        let merged = subscribe(&hub, selection(), &StartFrom::Tail);
        let ones: Vec<_> = names
            .iter()
            .map(|channel| subscribe(&hub, Selection::One(name(channel)), &StartFrom::Tail))
            .collect();
        let total = channels.len() * (events + 1);
        let merged = if wildcard {
            scope.spawn(move || read_so_many(merged, total))
        } else {
            scope.spawn(move || read_when_woken(merged))
        };
        let ones = ones.into_iter().map(|one| scope.spawn(move || read_when_woken(one)));
        let ones: Vec<_> = ones.collect();
        for channel in &channels {
            let hub = &hub;
            scope.spawn(move || publish(hub, channel, events, pauses));
        }
        let merged = merged.join().unwrap();
        check_complete(&merged, &channels, events);
        for (one, channel) in ones.into_iter().zip(&channels) {
            let one = one.join().unwrap();
            check_complete(&one, std::slice::from_ref(channel), events);
        }
        check_resumes(&hub, &selection, &merged);
    });
}

/// Reads a fixed number of events, because a pattern never ends by itself.
fn read_so_many(mut subscription: Subscription, total: usize) -> Vec<Seen> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut seen = Vec::new();
    let reading = async {
        while seen.len() < total {
            let step = poll_fn(|cx| subscription.poll_next(cx)).await.expect("no end");
            take(step, &mut seen);
        }
    };
    let read = runtime.block_on(async { tokio::time::timeout(DEADLINE, reading).await });
    assert!(read.is_ok(), "asleep after {} of {total} entries", seen.len());
    seen
}

/// Asserts that resuming after every seen id gives exactly the rest.
fn check_resumes(hub: &Hub, selection: &impl Fn() -> Selection, seen: &[Seen]) {
    // The whole rest for some ids, because its cost is quadratic; the next step for all ids.
    let stride = seen.len() / 40 + 1;
    for (at, (offset, channel, _)) in seen.iter().enumerate() {
        if at % stride == 0 {
            assert_eq!(rest(hub, selection(), *offset), seen[at + 1..], "behind {offset}");
        }
        let from = hub.position(fanfare::internals::position::Offset(*offset)).to_string();
        let from = StartFrom::After(from.into());
        let one = Selection::One(name(channel));
        let mut next = seen[at + 1..].iter().filter(|(_, other, _)| other == channel);
        match (hub.subscribe(one, &from, PATIENT).unwrap(), next.next()) {
            (Opened::Live(mut subscription), Some(next)) => {
                let mut first = Vec::new();
                let Next::Step(step) = subscription.try_next() else {
                    panic!("nothing behind {offset}");
                };
                take(step, &mut first);
                assert_eq!(&first[0], next);
            }
            (Opened::Over, None) => {}
            (_, next) => panic!("behind {offset} should come {next:?}"),
        }
    }
}

#[test]
fn racing_publishers_never_overtake_one_another() {
    race(4, 2_000, false, false);
}

#[test]
fn racing_publishers_of_channels_that_appear() {
    race(4, 1_000, false, true);
}

#[test]
fn a_reader_that_sleeps_is_woken_for_everything() {
    race(3, 1_000, true, false);
    race(1, 2_000, true, true);
}

/// A reader that polls continuously must never see offset n when n - 1 is still to come.
#[test]
fn a_reader_that_never_sleeps_sees_the_one_order() {
    let hub = hub();
    let channels: Vec<String> = (0..3).map(|number| format!("race/{number}")).collect();
    let events = 3_000;
    let publishers = channels.len();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let hub = &hub;
        let done = &done;
        let mut subscription = subscribe(hub, many(&["race/*"]), &StartFrom::Tail);
        let reader = scope.spawn(move || {
            let mut seen = Vec::new();
            loop {
                let last = done.load(Ordering::SeqCst);
                while let Next::Step(step) = subscription.try_next() {
                    take(step, &mut seen);
                }
                if last {
                    return seen;
                }
            }
        });
        thread::scope(|scope| {
            for channel in &channels {
                scope.spawn(move || publish(hub, channel, events, false));
            }
        });
        done.store(true, Ordering::SeqCst);
        let seen = reader.join().unwrap();
        check_complete(&seen, &channels, events);
        // Offsets are dense when only these channels are published to, so no event came late.
        let offsets: Vec<u64> = seen.iter().map(|(offset, ..)| *offset).collect();
        assert!(offsets.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    });
    assert_eq!(hub.tail().offset.0 as usize, publishers * (events + 1));
}

/// Two subscribers wait for the same unpublished channel: one leaves as the other subscribes.
#[test]
fn who_waits_for_a_channel_that_others_leave_stays() {
    let hub = hub();
    let leaves = AtomicBool::new(false);
    thread::scope(|scope| {
        let hub = &hub;
        let leaves = &leaves;
        scope.spawn(move || {
            while !leaves.load(Ordering::SeqCst) {
                drop(subscribe(hub, Selection::One(name("a")), &StartFrom::Tail));
            }
        });
        let after = StartFrom::After(hub.tail().to_string().into());
        let mut over = None;
        for round in 0..20_000 {
            let from = if round % 2 == 0 { &StartFrom::Tail } else { &after };
            over = match hub.subscribe(many(&["a"]), from, PATIENT).unwrap() {
                Opened::Over | Opened::Later(_) => Some(round),
                Opened::Live(mut s) => matches!(s.try_next(), Next::Finished).then_some(round),
            };
            if over.is_some() {
                break;
            }
        }
        leaves.store(true, Ordering::SeqCst);
        assert_eq!(over, None, "a channel without a publish is reported as ended");
    });
}

/// Channels are created and evicted while a pattern is read, which gets every event of them.
#[test]
fn channels_that_come_and_go_are_all_heard_of() {
    let hub = hub();
    let channels = 3;
    let rounds = 300;
    thread::scope(|scope| {
        let hub = &hub;
        let subscription = subscribe(hub, many(&["race/*"]), &StartFrom::Tail);
        let total = channels * rounds * 3;
        let reader = scope.spawn(move || read_so_many(subscription, total));
        for number in 0..channels {
            scope.spawn(move || {
                let channel = name(&format!("race/{number}"));
                for round in 0..rounds {
                    let batch = NewEvent { event_type: None, data: round.to_string().into() };
                    submit(hub, &channel, &[batch.clone(), batch], None);
                    pause();
                    assert!(hub.delete(&channel).is_ok());
                    pause();
                }
            });
        }
        let seen = reader.join().unwrap();
        let offsets: Vec<u64> = seen.iter().map(|(offset, ..)| *offset).collect();
        assert_eq!(offsets, (1..=total as u64).collect::<Vec<_>>());
    });
}

/// A waker for a reader that polls a flag instead of sleeping: it wakes up without delay, so that
/// publishers race with every instant of its reading.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Waits until the condition holds; returns false after the time limit.
fn wait_until(condition: impl Fn() -> bool) -> bool {
    let begun = tokio::time::Instant::now();
    for round in 1u64.. {
        if condition() {
            return true;
        }
        if round % 512 == 0 {
            if begun.elapsed() > DEADLINE {
                return false;
            }
            thread::yield_now();
        }
    }
    false
}

/// Two events, close together, then none until both are read: a reader that misses the second
/// wake-up is not woken later.
fn pairs(selection: Selection, channels: [&str; 2], rounds: usize) {
    let hub = hub();
    let mut subscription = subscribe(&hub, selection, &StartFrom::Tail);
    let read = AtomicUsize::new(0);
    let stuck = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let flag = Arc::new(Flag(AtomicBool::new(true)));
            let waker = Waker::from(flag.clone());
            let mut seen = Vec::new();
            while seen.len() < 2 * rounds && !stuck.load(Ordering::SeqCst) {
                if !flag.0.swap(false, Ordering::SeqCst) {
                    thread::yield_now();
                    continue;
                }
                let mut context = Context::from_waker(&waker);
                while let Poll::Ready(step) = subscription.poll_next(&mut context) {
                    take(step.expect("no end"), &mut seen);
                    read.store(seen.len(), Ordering::SeqCst);
                }
            }
        });
        let event = || [NewEvent { event_type: None, data: "x".into() }];
        for round in 1..=rounds {
            submit(&hub, &name(channels[0]), &event(), None);
            (0..fastrand::u32(..600)).for_each(|_| std::hint::spin_loop());
            submit(&hub, &name(channels[1]), &event(), None);
            if !wait_until(|| read.load(Ordering::SeqCst) == 2 * round) {
                stuck.store(true, Ordering::SeqCst);
                panic!("not woken: {} of {} are read", read.load(Ordering::SeqCst), 2 * round);
            }
        }
    });
}

#[test]
fn no_subscriber_sleeps_through_the_last_event_of_many_channels() {
    pairs(many(&["race/*"]), ["race/0", "race/1"], 4_000);
}

#[test]
fn no_subscriber_sleeps_through_the_last_event_of_one_channel() {
    pairs(Selection::One(name("a")), ["a", "a"], 4_000);
}

/// A subscriber resumes repeatedly while channels are created and evicted: for every offset after
/// the id there is the entry, or a gap that covers it, and never both.
#[test]
fn who_resumes_while_channels_come_and_go_misses_nothing() {
    let hub = hub();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let hub = &hub;
        let done = &done;
        scope.spawn(move || {
            let event = NewEvent { event_type: None, data: "x".into() };
            for _ in 0..3_000 {
                let channel = name("race/0");
                submit(hub, &channel, std::slice::from_ref(&event), None);
                pause();
                assert!(hub.delete(&channel).is_ok());
            }
            done.store(true, Ordering::SeqCst);
        });
        while !done.load(Ordering::SeqCst) {
            let tail = hub.tail();
            let mut cursor = tail.offset.0;
            let from = StartFrom::After(tail.to_string().into());
            let mut subscription = subscribe(hub, many(&["race/*"]), &from);
            for _ in 0..20 {
                match subscription.try_next() {
                    Next::Step(Step::Events { batch: run, .. }) => {
                        for entry in run.entries() {
                            assert_eq!(entry.offset.0, cursor + 1, "behind {cursor}");
                            cursor += 1;
                        }
                    }
                    Next::Step(Step::Gap(gap)) => {
                        assert!(gap.resumed.offset.0 > cursor, "{gap:?} behind {cursor}");
                        cursor = gap.resumed.offset.0;
                    }
                    other => assert!(matches!(other, Next::Pending), "{other:?}"),
                }
            }
        }
    });
}

/// Reads until this channel's event with this data is there.
fn read_until(subscription: &mut Subscription, channel: &str, data: &str) -> Vec<Seen> {
    let mut seen: Vec<Seen> = Vec::new();
    let done = |seen: &[Seen]| seen.last().is_some_and(|(_, c, d)| c == channel && d == data);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let reading = async {
        while !done(&seen) {
            take(poll_fn(|cx| subscription.poll_next(cx)).await.expect("no end"), &mut seen);
        }
    };
    let read = runtime.block_on(async { tokio::time::timeout(DEADLINE, reading).await });
    assert!(read.is_ok(), "asleep after {} entries", seen.len());
    seen
}

/// Channels on disk and in memory are published to while subscriptions begin at the tail: in none
/// is the first id ahead of the next event, and resuming after any id gives exactly the rest.
#[test]
fn who_comes_while_events_are_being_stored_misses_nothing_after_any_id() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let durability = Durability::Sync;
    let store = disk::Config { path, durability, min_free: ByteSize(1), ..Default::default() };
    let metrics = Arc::new(Metrics::new());
    let (disk, found) = Disk::open(&store, OpenOptions::default(), metrics.clone()).unwrap();
    let in_memory = Rule {
        pattern: "race/m".parse().unwrap(),
        durability: Some(Durability::Memory),
        options: ChannelOptions::default(),
    };
    let config = Config { rules: vec![in_memory], max_events: 1 << 20, ..Config::default() };
    let hub = Hub::resume(config, metrics, &disk, &store, &found);
    let begun = thread::scope(|scope| {
        let hub = &hub;
        for channel in ["race/m", "race/0", "race/1", "race/2"] {
            scope.spawn(move || {
                for number in 0..500 {
                    let data = number.to_string().into();
                    submit(hub, &name(channel), &[NewEvent { event_type: None, data }], None);
                    pause();
                }
            });
        }
        let tails = (0..100).map(|_| {
            thread::sleep(Duration::from_micros(fastrand::u64(..400)));
            subscribe(hub, many(&["race/*"]), &StartFrom::Tail)
        });
        tails.collect::<Vec<_>>()
    });
    let last = || NewEvent { event_type: None, data: "last".into() };
    // In a durable channel: its arrival implies that all earlier writes were completed.
    submit(&hub, &name("race/0"), &[last()], None);
    for mut tail in begun {
        let start = tail.start().clone();
        let seen = read_until(&mut tail, "race/0", "last");
        assert!(start.offset.0 < seen[0].0, "{start} is behind {}", seen[0].0);
        for at in [0, 1, 2, seen.len() / 2] {
            let before = at.min(seen.len() - 1).checked_sub(1).map(|at| Offset(seen[at].0));
            let id = hub.position(before.unwrap_or(start.offset)).to_string();
            let from = StartFrom::After(id.into());
            let mut resumed = subscribe(&hub, many(&["race/*"]), &from);
            let rest = &seen[at.min(seen.len() - 1)..];
            assert_eq!(read_until(&mut resumed, "race/0", "last"), rest);
        }
    }
    drop(hub);
    disk.close();
}

/// Records the readable end of a channel at each notification.
struct Witness {
    channel: Arc<Channel>,
    warned: Mutex<Vec<u64>>,
    woken: Mutex<Vec<u64>>,
}

impl ChannelListener for Witness {
    fn channel_changing(&self) {
        self.warned.lock().push(self.channel.end().seq);
    }

    fn channel_changed(&self) {
        self.woken.lock().push(self.channel.end().seq);
    }
}

#[test]
fn a_listener_is_warned_before_an_event_is_there_and_woken_when_it_is() {
    let hub = hub();
    let event = [NewEvent { event_type: None, data: "x".into() }];
    submit(&hub, &name("a"), &event, None);
    let mut subscription = subscribe(&hub, Selection::One(name("a")), &StartFrom::Earliest);
    let Next::Step(Step::Events { channel, .. }) = subscription.try_next() else {
        panic!("an event is there");
    };
    let warned = Mutex::default();
    let woken = Mutex::default();
    let witness = Arc::new(Witness { channel: channel.clone(), warned, woken });
    channel.add_listener(witness.clone());
    for _ in 0..3 {
        submit(&hub, &name("a"), &event, None);
    }
    assert_eq!(*witness.warned.lock(), [1, 2, 3], "warned of it before it had an offset");
    assert_eq!(*witness.woken.lock(), [2, 3, 4], "each wake-up finds an event");
}

//! Hubs that share a log: one that is in memory, with frozen time.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanfare_cluster::batch::Codec;
use fanfare_cluster::fake::{FakeLog, FakeReader, Faults};
use fanfare_cluster::log::{LogInfo, LogReader, LogWriter, SendNumber};
use fanfare_cluster::sender::Limits;
use parking_lot::Mutex;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};

use super::support::{bounds, event, name};
use crate::clock::{Clock, Moment};
use crate::event::ChannelState;
use crate::generation::Format;
use crate::hub::cluster::{Applier, Phase, Replica, ReplicaConfig};
use crate::hub::{
    Append, ChannelListener, ChannelOptions, ClaimError, Close, Config, Hold, Hub, LogError, Next,
    Opened, Producer, Selection, Signal, Step, Stopped, SubmitError, Subscription, WhenUnwatched,
};
use crate::position::StartFrom;
use crate::quota::Account;
use crate::telemetry::Metrics;

/// Time between two turns of the log.
const TURN: Duration = Duration::from_millis(5);

const LEASE: Duration = Duration::from_secs(5);

/// Hubs that share a log.
pub(crate) struct Cluster {
    log: Rc<RefCell<FakeLog>>,
    members: Rc<RefCell<Vec<Member>>>,
    began: Instant,
    /// Whether all broadcasts are lost.
    loses_broadcasts: Rc<Cell<bool>>,
}

/// A hub of the cluster, with its place in the log.
struct Member {
    hub: Hub,
    applier: Applier,
    reader: FakeReader,
    outgoing: Arc<Outgoing>,
    is_paused: bool,
}

/// Messages that a hub has sent, until the next turn.
#[derive(Default)]
struct Outgoing(Mutex<Vec<(SendNumber, Bytes)>>, Mutex<Vec<Bytes>>);

impl LogWriter for Outgoing {
    fn send(&self, number: SendNumber, content: Bytes) {
        self.0.lock().push((number, content));
    }

    fn broadcast(&self, content: Bytes) {
        self.1.lock().push(content);
    }
}

impl Cluster {
    /// Starts a cluster of this many hubs, and waits until they are members.
    pub(crate) async fn start(hubs: usize) -> Self {
        let cluster = Self {
            log: Rc::new(RefCell::new(FakeLog::new(1, Faults::default()))),
            members: Rc::default(),
            began: Instant::now(),
            loses_broadcasts: Rc::default(),
        };
        let (log, members) = (cluster.log.clone(), cluster.members.clone());
        let loses_broadcasts = cluster.loses_broadcasts.clone();
        spawn_local(async move {
            loop {
                log.borrow_mut().advance(TURN);
                turn(&mut members.borrow_mut(), &mut log.borrow_mut());
                broadcast(&mut members.borrow_mut(), loses_broadcasts.get());
                sleep(TURN).await;
            }
        });
        for _ in 0..hubs {
            cluster.add().await;
        }
        cluster
    }

    /// Adds a hub, and waits until it is a member. Returns it.
    async fn add(&self) -> Hub {
        let number = self.members.borrow().len();
        let replica = ReplicaConfig {
            node: format!("hub-{number}").into(),
            codec: Codec::default(),
            rules: 0,
            max_retention: Duration::from_secs(24 * 3600),
            limits: Limits::default(),
            publish_timeout: Duration::from_secs(10),
            stale_after: Duration::from_secs(5),
            renew_after: Duration::from_secs(15),
            renew_after_bytes: 1 << 20,
        };
        // The clock of the log begins at its first second.
        let began = self.began;
        let clock = Clock::of(move || {
            let time = 1_000_000 + u64::try_from(began.elapsed().as_micros()).unwrap();
            Moment { wall: time, steady: time }
        });
        let config = Config { clock, ..Config::default() };
        let hub = Hub::of_cluster(config, replica, Arc::new(Metrics::new()));
        let mut applier = hub.log_reader().unwrap();
        applier.opened(LogInfo { epoch: "epoch".into(), lease: LEASE, max_message: 1 << 20 });
        let outgoing = Arc::new(Outgoing::default());
        let replica = hub.replica().unwrap().clone();
        replica.attach(outgoing.clone());
        let mut member = Member {
            hub: hub.clone(),
            applier,
            reader: self.log.borrow().reader(),
            outgoing,
            is_paused: false,
        };
        member.turn(&mut self.log.borrow_mut());
        member.applier.caught_up();
        self.members.borrow_mut().push(member);
        spawn_local(hub.clone().sweep());
        let mut phase = replica.phase();
        timeout(LEASE, phase.wait_for(|phase| *phase == Phase::Live)).await.unwrap().unwrap();
        hub
    }

    pub(crate) fn hub(&self, number: usize) -> Hub {
        self.members.borrow()[number].hub.clone()
    }

    /// Lets the log take nothing for some time.
    pub(crate) fn stop_log(&self, time: Duration) {
        self.log.borrow_mut().stop(time);
    }

    /// Stops a hub, as if its process were paused.
    fn pause(&self, number: usize) {
        self.members.borrow_mut()[number].is_paused = true;
    }
}

/// Lets the hubs that are not paused send and read.
fn turn(members: &mut [Member], log: &mut FakeLog) {
    for member in members.iter_mut().filter(|member| !member.is_paused) {
        member.turn(log);
    }
}

/// Delivers the broadcasts of each hub to the others, unless they are lost.
fn broadcast(members: &mut [Member], are_lost: bool) {
    for from in 0..members.len() {
        let contents = std::mem::take(&mut *members[from].outgoing.1.lock());
        for content in contents {
            for (to, member) in members.iter_mut().enumerate() {
                if to != from && !member.is_paused && !are_lost {
                    member.applier.broadcast(content.clone());
                }
            }
        }
    }
}

impl Member {
    /// Sends what the hub has to send, and lets it read what the log has.
    fn turn(&mut self, log: &mut FakeLog) {
        for (number, content) in std::mem::take(&mut *self.outgoing.0.lock()) {
            if let Err(reason) = log.send(content) {
                self.applier.not_stored(number, reason);
            }
        }
        while let Some(message) = self.reader.read(log).unwrap() {
            self.applier.message(message);
        }
    }
}

async fn publish(hub: &Hub, channel: &str, text: &str) -> u64 {
    let events = [event(text)];
    let appended = hub.append(&name(channel), Append::of(&events, None)).await.unwrap();
    appended.offsets.unwrap().0.0
}

async fn subscribe(hub: &Hub, selection: Selection, from: &StartFrom) -> Subscription {
    match hub.subscribe(selection, from, bounds()).unwrap() {
        Opened::Live(subscription) => subscription,
        Opened::Over => panic!("it is over"),
        Opened::Later(_) => panic!("nothing is on disk"),
    }
}

pub(crate) async fn subscribe_one(hub: &Hub, channel: &str, from: &StartFrom) -> Subscription {
    subscribe(hub, Selection::One(name(channel)), from).await
}

/// Returns the offsets of the events that can be read now, and what else is read.
pub(crate) fn seen(subscription: &mut Subscription) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        match subscription.try_next() {
            Next::Step(Step::Events { batch, .. }) => {
                seen.extend(batch.entries().map(|entry| entry.offset.0.to_string()));
            }
            Next::Step(Step::Gap(gap)) => seen.push(format!("gap {:?}", gap.reason)),
            Next::Step(_) => seen.push("other".to_owned()),
            Next::Again => {}
            Next::Pending => return seen,
            Next::Finished => {
                seen.push("finished".to_owned());
                return seen;
            }
        }
    }
}

/// Waits until a condition is true.
pub(crate) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "it never came: {what}");
        sleep(TURN).await;
    }
}

/// Runs a test with frozen time, in which tasks can be local.
macro_rules! local {
    ($name:ident, $test:expr) => {
        #[tokio::test(start_paused = true)]
        async fn $name() {
            tokio::task::LocalSet::new().run_until($test).await;
        }
    };
}

pub(crate) use local;

local!(an_event_has_the_same_offset_at_each_hub, async {
    let cluster = Cluster::start(3).await;
    let [a, b, c] = [0, 1, 2].map(|number| cluster.hub(number));
    let mut subscribers = Vec::new();
    for hub in [&a, &b, &c] {
        subscribers.push(subscribe_one(hub, "x", &StartFrom::Tail).await);
        drop(seen(subscribers.last_mut().unwrap()));
    }
    let first = publish(&a, "x", "one").await;
    let second = publish(&b, "x", "two").await;
    sleep(Duration::from_millis(50)).await;
    for subscriber in &mut subscribers {
        assert_eq!(seen(subscriber), [first.to_string(), second.to_string()]);
    }
    let id = a.event_id(crate::position::Offset(first));
    let mut resumed = subscribe_one(&c, "x", &StartFrom::After(id.into())).await;
    assert_eq!(seen(&mut resumed), [second.to_string()]);
});

local!(a_pattern_is_read_in_one_order_at_all_hubs, async {
    let cluster = Cluster::start(2).await;
    let [a, b] = [0, 1].map(|number| cluster.hub(number));
    let patterns = || Selection::Many(vec!["x/*".parse().unwrap()]);
    let mut at_a = subscribe(&a, patterns(), &StartFrom::Tail).await;
    let mut at_b = subscribe(&b, patterns(), &StartFrom::Tail).await;
    let mut offsets = Vec::new();
    for turn in 0..20 {
        let hub = if turn % 3 == 0 { &a } else { &b };
        offsets.push(publish(hub, &format!("x/{}", turn % 4), "text").await.to_string());
    }
    sleep(Duration::from_millis(50)).await;
    let of_events = |all: Vec<String>| all.into_iter().filter(|one| one != "other").collect();
    let at_a: Vec<String> = of_events(seen(&mut at_a));
    let at_b: Vec<String> = of_events(seen(&mut at_b));
    assert_eq!((&at_a, &at_b), (&offsets, &offsets));
});

local!(a_hub_that_comes_later_has_all_that_was_published, async {
    let cluster = Cluster::start(1).await;
    let a = cluster.hub(0);
    let options = ChannelOptions { max_events: Some(2), ..ChannelOptions::default() };
    let created = a.configure(&name("x"), &options, None).unwrap().wait().await.unwrap();
    assert!(created.created);
    let mut last = Vec::new();
    for text in ["one", "two", "three"] {
        last.push(publish(&a, "x", text).await.to_string());
    }
    let close = Close { state: ChannelState::Error, reason: Some("why".into()) };
    a.append(&name("y"), Append::of(&[event("z")], Some(&close))).await.unwrap();
    let b = cluster.add().await;
    for channel in ["x", "y"] {
        let [at_a, at_b] = [&a, &b].map(|hub| hub.describe(&name(channel)).unwrap());
        assert_eq!(at_a, at_b);
    }
    let mut subscriber = subscribe_one(&b, "x", &StartFrom::Earliest).await;
    assert_eq!(seen(&mut subscriber), last[1..]);
});

local!(a_generation_has_one_producer_in_the_cluster, async {
    let cluster = Cluster::start(2).await;
    let [a, b] = [0, 1].map(|number| cluster.hub(number));
    let channel = name("x");
    let producer = a.produce(&channel, None, Hold::Sole, Some(Format::Text)).await.unwrap();
    until("b knows the producer", || {
        let known = b.describe(&channel);
        known.is_some_and(|known| matches!(known.producer, Producer::Streaming { .. }))
    })
    .await;
    assert_eq!(b.describe(&channel).unwrap().format, Some("text"));
    let second = b.produce(&channel, None, Hold::Sole, None).await.map(drop);
    assert_eq!(second, Err(SubmitError::Busy));
    producer.append(Append::of(&[event("one")], None)).await.unwrap();
    drop(producer);
    until("b knows that it left", || {
        matches!(b.describe(&channel).unwrap().producer, Producer::Away { .. })
    })
    .await;
    let next = b.produce(&channel, None, Hold::Sole, None).await.unwrap();
    next.append(Append::of(&[event("two")], None)).await.unwrap();
    let close = Close { state: ChannelState::Complete, reason: None };
    next.append(Append::of(&[], Some(&close))).await.unwrap();
    until("a knows the end", || a.describe(&channel).unwrap().state == ChannelState::Complete)
        .await;
});

local!(a_generation_whose_hub_is_gone_goes_on_at_another, async {
    let cluster = Cluster::start(2).await;
    let [a, b] = [0, 1].map(|number| cluster.hub(number));
    let channel = name("x");
    let producer = a.produce(&channel, None, Hold::Sole, None).await.unwrap();
    producer.append(Append::of(&[event("one")], None)).await.unwrap();
    cluster.pause(0);
    sleep(Duration::from_secs(3)).await;
    // It waits for the end of the lease.
    let next = b.produce(&channel, None, Hold::Sole, None).await.unwrap();
    next.append(Append::of(&[event("two")], None)).await.unwrap();
    assert_eq!(b.describe(&channel).unwrap().events, 2);
});

local!(a_generation_without_a_producer_is_abandoned_once, async {
    let cluster = Cluster::start(3).await;
    let [a, b, c] = [0, 1, 2].map(|number| cluster.hub(number));
    let channel = name("x");
    let producer = a.produce(&channel, None, Hold::Sole, None).await.unwrap();
    producer.append(Append::of(&[event("one")], None)).await.unwrap();
    cluster.pause(0);
    until("it is abandoned", || {
        [&b, &c].iter().all(|hub| hub.describe(&channel).unwrap().state == ChannelState::Abandoned)
    })
    .await;
    let mut subscribers = Vec::new();
    for hub in [&b, &c] {
        subscribers.push(subscribe_one(hub, "x", &StartFrom::Earliest).await);
    }
    let [at_b, at_c] = &mut subscribers[..] else { panic!("two subscribers") };
    assert_eq!(seen(at_b), seen(at_c));
});

local!(a_stop_at_one_hub_reaches_the_producer_at_another, async {
    let cluster = Cluster::start(2).await;
    let [a, b] = [0, 1].map(|number| cluster.hub(number));
    let channel = name("x");
    let mut producer = a.produce(&channel, None, Hold::Sole, None).await.unwrap();
    producer.append(Append::of(&[event("one")], None)).await.unwrap();
    let stopped = b.stop(&channel, Some("enough".into()), None, None).await;
    assert_eq!(stopped, Ok(Stopped::Now));
    assert_eq!(producer.refused().await, SubmitError::Stopped(Some("enough".into())));
    let again = a.stop(&channel, None, None, None).await;
    assert_eq!(again, Ok(Stopped::Before(ChannelState::Cancelled)));
});

local!(a_deleted_channel_is_gone_at_all_hubs, async {
    let cluster = Cluster::start(2).await;
    let [a, b] = [0, 1].map(|number| cluster.hub(number));
    publish(&a, "x", "one").await;
    let mut subscriber = subscribe_one(&a, "x", &StartFrom::Earliest).await;
    assert_eq!(seen(&mut subscriber).len(), 1);
    b.delete(&name("x")).unwrap().wait().await.unwrap();
    until("a has deleted it", || a.describe(&name("x")).is_none()).await;
    assert_eq!(seen(&mut subscriber).last().map(String::as_str), Some("finished"));
    publish(&b, "x", "two").await;
    until("it is there again", || a.describe(&name("x")).is_some()).await;
    assert_eq!(a.describe(&name("x")).unwrap(), b.describe(&name("x")).unwrap());
});

local!(an_unused_channel_is_removed_at_all_hubs, async {
    let cluster = Cluster::start(2).await;
    let [a, b] = [0, 1].map(|number| cluster.hub(number));
    let options =
        ChannelOptions { idle_timeout: Some(Duration::from_secs(2)), ..ChannelOptions::default() };
    for channel in ["x", "y"] {
        a.configure(&name(channel), &options, None).unwrap().wait().await.unwrap();
    }
    let last = publish(&a, "y", "one").await;
    let mut waiting = subscribe_one(&b, "y", &StartFrom::Tail).await;
    drop(seen(&mut waiting));
    let is_gone = |channel: &str| [&a, &b].iter().all(|hub| hub.describe(&name(channel)).is_none());
    until("the channel without a viewer is removed", || is_gone("x")).await;
    sleep(Duration::from_secs(20)).await;
    assert!(a.describe(&name("y")).is_some(), "b has a viewer");
    // A viewer of which the hub that removes the channel has not heard keeps what comes next.
    cluster.loses_broadcasts.set(true);
    drop(waiting);
    let mut waiting = subscribe_one(&b, "y", &StartFrom::Tail).await;
    drop(seen(&mut waiting));
    let c = cluster.add().await;
    until("the other is removed", || is_gone("y") && c.describe(&name("y")).is_none()).await;
    let next = publish(&a, "y", "two").await;
    sleep(Duration::from_millis(50)).await;
    assert_eq!(seen(&mut waiting), [next.to_string()], "after {last}");
});

local!(a_publish_that_the_log_does_not_confirm_fails_in_time, async {
    let cluster = Cluster::start(1).await;
    let a = cluster.hub(0);
    cluster.log.borrow_mut().stop(Duration::from_secs(60));
    let events = [event("one")];
    let began = Instant::now();
    let appended = a.append(&name("x"), Append::of(&events, None)).await;
    assert_eq!(appended, Err(LogError::Unconfirmed.into()));
    assert_eq!(began.elapsed().as_secs(), 10);
    let phase = a.replica().unwrap().phase().borrow().clone();
    assert_eq!(phase, Phase::Stale);
    until("it is live again", || *a.replica().unwrap().phase().borrow() == Phase::Live).await;
    publish(&a, "x", "two").await;
    assert_eq!(a.describe(&name("x")).unwrap().events, 2, "the first was stored later");
});

local!(nothing_is_lost_or_doubled_by_a_log_with_faults, async {
    let cluster = Cluster::start(3).await;
    cluster.log.borrow_mut().set_faults(Faults {
        refused: 10,
        lost: 10,
        late: 10,
        doubled: 10,
        hole: 5,
        ..Faults::default()
    });
    let hubs = [0, 1, 2].map(|number| cluster.hub(number));
    let mut publishers = tokio::task::JoinSet::new();
    for (number, hub) in hubs.iter().enumerate() {
        for publisher in 0..4 {
            let hub = hub.clone();
            publishers.spawn_local(async move {
                let mut offsets = Vec::new();
                for turn in 0..25 {
                    let channel = format!("x/{}", (number + publisher + turn) % 5);
                    offsets.push(publish(&hub, &channel, &format!("{publisher} {turn}")).await);
                }
                assert!(offsets.is_sorted(), "in the order of the publishes");
                offsets
            });
        }
    }
    let mut published: Vec<u64> = publishers.join_all().await.into_iter().flatten().collect();
    published.sort_unstable();
    cluster.log.borrow_mut().set_faults(Faults::default());
    sleep(Duration::from_secs(10)).await;
    let expected: Vec<String> = published.iter().map(u64::to_string).collect();
    for hub in &hubs {
        let all = Selection::Many(vec!["x/*".parse().unwrap()]);
        let mut subscriber = subscribe(hub, all, &StartFrom::Earliest).await;
        assert_eq!(seen(&mut subscriber), expected);
    }
});

local!(viewers_of_all_hubs_count, async {
    let cluster = Cluster::start(2).await;
    let [a, b] = [0, 1].map(|number| cluster.hub(number));
    let viewer = subscribe_one(&b, "x", &StartFrom::Tail).await;
    sleep(Duration::from_secs(2)).await;
    let events = [event("one")];
    let appended = a.append(&name("x"), Append::of(&events, None)).await.unwrap();
    assert_eq!(appended.subscribers, 1, "it came before the channel was known");
    drop(viewer);
    until("it has left", || a.describe(&name("x")).unwrap().subscribers == 0).await;
    let viewers = [subscribe_one(&b, "x", &StartFrom::Tail).await];
    until("it is counted", || a.describe(&name("x")).unwrap().subscribers == 1).await;
    cluster.pause(1);
    until("its hub is gone", || a.describe(&name("x")).unwrap().subscribers == 0).await;
    drop(viewers);
});

local!(a_generation_is_stopped_when_no_hub_has_a_viewer, async {
    let cluster = Cluster::start(2).await;
    let [a, b] = [0, 1].map(|number| cluster.hub(number));
    let when = WhenUnwatched { after: Duration::from_secs(2), signal: Signal::Stop };
    let options = ChannelOptions { when_unwatched: Some(when), ..ChannelOptions::default() };
    let channel = name("x");
    a.configure(&channel, &options, None).unwrap().wait().await.unwrap();
    let viewer = subscribe_one(&b, "x", &StartFrom::Tail).await;
    sleep(Duration::from_secs(2)).await;
    let mut producer = a.produce(&channel, None, Hold::Sole, None).await.unwrap();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(a.describe(&channel).unwrap().state, ChannelState::Open, "b has a viewer");
    drop(viewer);
    assert_eq!(producer.refused().await, SubmitError::Stopped(Some("unwatched".into())));
});

local!(an_id_that_is_ahead_of_a_hub_is_waited_for, async {
    let cluster = Cluster::start(2).await;
    let [a, b] = [0, 1].map(|number| cluster.hub(number));
    publish(&a, "x", "one").await;
    sleep(Duration::from_millis(50)).await;
    cluster.pause(1);
    let second = publish(&a, "x", "two").await;
    let third = publish(&a, "x", "three").await;
    let id = StartFrom::After(a.event_id(crate::position::Offset(second)).into());
    let began = Instant::now();
    let opened = async {
        b.reach(&id).await;
        seen(&mut subscribe_one(&b, "x", &id).await)
    };
    let resume = async {
        sleep(Duration::from_secs(1)).await;
        cluster.members.borrow_mut()[1].is_paused = false;
    };
    let (seen, ()) = tokio::join!(opened, resume);
    assert_eq!(seen, [third.to_string()]);
    assert_eq!(began.elapsed().as_secs(), 1);
    let unknown = a.event_id(crate::position::Offset(u64::MAX));
    let began = Instant::now();
    b.reach(&StartFrom::After(unknown.into())).await;
    assert_eq!(began.elapsed().as_secs(), 5, "it is given up");
});

local!(what_is_still_needed_is_sent_again_before_the_log_deletes_it, async {
    let cluster = Cluster::start(2).await;
    let a = cluster.hub(0);
    let options = ChannelOptions { max_events: Some(7), ..ChannelOptions::default() };
    let channel = name("x");
    a.configure(&channel, &options, None).unwrap().wait().await.unwrap();
    let producer = a.produce(&channel, None, Hold::Sole, Some(Format::Text)).await.unwrap();
    for _ in 0..24 {
        sleep(Duration::from_secs(5)).await;
        cluster.log.borrow_mut().trim(Duration::from_secs(60));
    }
    let late = cluster.add().await;
    let known = late.describe(&channel).unwrap();
    assert_eq!(known.settings.retention.max_events, 7);
    assert!(matches!(known.producer, Producer::Streaming { .. }));
    producer.append(Append::of(&[event("one")], None)).await.unwrap();
    until("it is there", || late.describe(&channel).unwrap().events == 1).await;
    assert_eq!(late.replica().unwrap().nodes().len(), 3);
});

local!(a_hold_whose_producer_has_gone_meanwhile_is_released, async {
    let cluster = Cluster::start(2).await;
    let [a, b] = [0, 1].map(|number| cluster.hub(number));
    cluster.log.borrow_mut().stop(Duration::from_secs(12));
    let late = a.produce(&name("x"), None, Hold::Sole, None).await.map(drop);
    assert_eq!(late, Err(LogError::Unconfirmed.into()));
    let left = timeout(TURN, a.produce(&name("y"), None, Hold::Sole, None)).await;
    assert!(left.is_err(), "its client leaves before the log has decided");
    sleep(Duration::from_secs(10)).await;
    for channel in ["x", "y"] {
        assert!(b.produce(&name(channel), None, Hold::Sole, None).await.is_ok(), "{channel}");
    }
});

local!(a_quiet_producer_keeps_its_hold_over_the_end_of_a_session, async {
    let cluster = Cluster::start(2).await;
    let [a, b] = [0, 1].map(|number| cluster.hub(number));
    let producer = a.produce(&name("x"), None, Hold::Sole, None).await.unwrap();
    producer.append(Append::of(&[event("one")], None)).await.unwrap();
    cluster.pause(0);
    sleep(Duration::from_secs(7)).await;
    cluster.members.borrow_mut()[0].is_paused = false;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(b.describe(&name("x")).unwrap().state, ChannelState::Open);
    producer.append(Append::of(&[event("two")], None)).await.unwrap();
});

local!(a_reader_of_a_pattern_is_woken_for_a_channel_that_it_joins_late, async {
    let cluster = Cluster::start(1).await;
    let a = cluster.hub(0);
    let patterns = Selection::Many(vec!["x/*".parse().unwrap()]);
    let mut reader = subscribe(&a, patterns, &StartFrom::Tail).await;
    drop(seen(&mut reader));
    for number in 0..600 {
        let channel = name(&format!("x/{number}"));
        drop(a.configure(&channel, &ChannelOptions::default(), None).unwrap());
    }
    sleep(Duration::from_millis(500)).await;
    assert!(matches!(reader.try_next(), Next::Again), "it joins a part of them");
    let last = publish(&a, "x/599", "one").await;
    assert_eq!(seen(&mut reader), [last.to_string()]);
});

/// Notes the watermark when its channel has changed.
struct WatermarkWitness(Hub, Mutex<u64>);

impl ChannelListener for WatermarkWitness {
    fn channel_changed(&self) {
        *self.1.lock() = self.0.0.shared.sequencer.watermark().0;
    }
}

local!(a_deletion_is_notified_after_the_watermark_has_passed_it, async {
    let cluster = Cluster::start(2).await;
    let [a, b] = [0, 1].map(|number| cluster.hub(number));
    publish(&a, "x", "one").await;
    let channel = a.0.registry.get(&name("x")).unwrap();
    let witness = Arc::new(WatermarkWitness(a.clone(), Mutex::default()));
    channel.add_listener(witness.clone());
    b.delete(&name("x")).unwrap().wait().await.unwrap();
    until("a has deleted it", || a.describe(&name("x")).is_none()).await;
    let end = channel.describe_now().tail.offset;
    assert!(*witness.1.lock() > end.0, "the end is {end:?}");
});

local!(a_channel_is_idle_from_the_time_when_its_last_viewer_leaves_any_hub, async {
    let cluster = Cluster::start(2).await;
    let [a, b] = [0, 1].map(|number| cluster.hub(number));
    let options =
        ChannelOptions { idle_timeout: Some(Duration::from_secs(5)), ..ChannelOptions::default() };
    a.configure(&name("x"), &options, None).unwrap().wait().await.unwrap();
    let viewer = subscribe_one(&b, "x", &StartFrom::Tail).await;
    let dashboard = Selection::Many(vec!["*".parse().unwrap()]);
    let _dashboard = subscribe(&a, dashboard, &StartFrom::Tail).await;
    sleep(Duration::from_secs(30)).await;
    drop(viewer);
    sleep(Duration::from_secs(3)).await;
    assert!(a.describe(&name("x")).is_some(), "it was used until a moment ago");
    until("it is removed, whatever reads it by a pattern", || a.describe(&name("x")).is_none())
        .await;
});

local!(operations_that_wait_for_the_log_fail_at_the_same_time, async {
    let cluster = Cluster::start(1).await;
    let a = cluster.hub(0);
    cluster.log.borrow_mut().stop(Duration::from_secs(60));
    let began = Instant::now();
    let events = [event("one")];
    let acks = ["x", "y"].map(|channel| a.submit(&name(channel), Append::of(&events, None)));
    for ack in acks {
        assert_eq!(ack.unwrap().wait().await, Err(LogError::Unconfirmed.into()));
    }
    assert_eq!(began.elapsed().as_secs(), 10);
});

local!(a_channel_stays_in_memory_while_the_log_decides, async {
    let cluster = Cluster::start(1).await;
    let a = cluster.hub(0);
    cluster.log.borrow_mut().stop(Duration::from_secs(4));
    let account = Arc::new(Account::new(1, 0));
    let options = ChannelOptions { max_events: Some(7), ..ChannelOptions::default() };
    let configured = a.configure(&name("x"), &options, Some(&account)).unwrap().wait().await;
    assert_eq!(configured.unwrap().channel.settings.retention.max_events, 7);
    assert!(a.0.registry.get(&name("x")).unwrap().is_owned_by(&account));
    let stopped = a.stop(&name("y"), None, None, Some(&account)).await;
    assert_eq!(stopped, Err(ClaimError::OverQuota(1).into()), "a stop makes a channel as well");
});

local!(the_id_of_an_empty_channel_is_of_the_log_and_no_gap_at_another_hub, async {
    let cluster = Cluster::start(2).await;
    let a = cluster.hub(0);
    let selection = Selection::One(name("x"));
    sleep(Duration::from_secs(20)).await;
    let Opened::Live(ticket) = a.open(selection, &StartFrom::Tail).unwrap() else {
        panic!("there is something to wait for")
    };
    let ticket = ticket.into_one().unwrap();
    let id = StartFrom::After(ticket.head.start.to_string().into());
    // A hub that begins later knows less of the log.
    sleep(Duration::from_secs(10)).await;
    cluster.log.borrow_mut().trim(Duration::from_secs(15));
    let late = cluster.add().await;
    let mut resumed = subscribe_one(&late, "x", &id).await;
    assert_eq!(seen(&mut resumed), [] as [String; 0]);
});

local!(rules_that_change_are_known_to_the_other_hubs, async {
    let cluster = Cluster::start(2).await;
    let replicas = [0, 1].map(|number| cluster.hub(number).replica().unwrap().clone());
    let agree = |replica: &Arc<Replica>| replica.nodes().iter().all(|node| node.agrees);
    assert!(replicas.iter().all(agree));
    replicas[0].set_rules(7);
    until("they differ", || !replicas.iter().any(agree)).await;
    cluster.pause(0);
    sleep(Duration::from_secs(7)).await;
    cluster.members.borrow_mut()[0].is_paused = false;
    until("it is back", || replicas[1].nodes().len() == 2).await;
    assert!(!agree(&replicas[1]), "also in its next session");
    replicas[1].set_rules(7);
    until("they agree", || replicas.iter().all(agree)).await;
});

local!(events_are_not_retained_for_longer_than_the_log_keeps_them, async {
    let cluster = Cluster::start(1).await;
    let a = cluster.hub(0);
    let configure = |days: u64| {
        let max_age = Some(Duration::from_secs(days * 24 * 3600));
        let options = ChannelOptions { max_age, ..ChannelOptions::default() };
        a.configure(&name("x"), &options, None).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(configure(1), Ok(()));
    let error = configure(7).unwrap_err();
    assert!(error.starts_with("`max_age` is 7days, and at most 1day in this cluster"), "{error}");
});

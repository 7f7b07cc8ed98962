//! One subscriber, and the entries that it must see: every step is compared with the oracle.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use fanfare::internals::channel::ChannelName;
use fanfare::internals::event::{ChannelState, GapReason};
use fanfare::internals::hub::{End, Gap, Next, OnLag, Step, Subscription};
use fanfare::internals::position::Position;
use fanfare::internals::store::Batch;
use fanfare_sse::Frames;

use super::oracle::{Entry, Oracle};
use super::plan::{FIRST_OF_MANY, Lag};

/// A waker that records a wake-up.
#[derive(Default)]
pub(crate) struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// An end that a viewer learns outside the log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Unreported {
    pub(crate) channel: ChannelName,
    /// Its possible states: two if the channel was deleted after its end.
    pub(crate) ends: Vec<(ChannelState, Option<String>)>,
    /// The viewer must be informed, and not only may be.
    pub(crate) must: bool,
}

/// A subscription, and the steps that the oracle expects of it.
pub(crate) struct Viewer {
    subscription: Subscription,
    pub(crate) selection: usize,
    /// The channels that the selection matches, and those that it names.
    selected: Vec<usize>,
    named: Vec<usize>,
    lag: Lag,
    /// For every channel, the index in its history of the next due entry.
    next: HashMap<usize, usize>,
    /// The first index that counts as lag.
    joined: HashMap<usize, usize>,
    /// The life of the one channel that it reads, once there is one.
    bound: Option<usize>,
    /// Lives that it has met before their end: it must get everything retained at their end.
    owed: BTreeSet<usize>,
    /// Ends outside the log of which it must be informed.
    unreported: Vec<Unreported>,
    /// It requested an id that the hub does not know: the gap that must come first.
    refused: Option<(GapReason, String)>,
    /// The offset of the last id that it has seen.
    pub(crate) cursor: Option<u64>,
    /// The next step comes at any lag: a gap for what was dropped when it subscribed, or the event
    /// after a gap.
    noticed: bool,
    finished: bool,
    parked: bool,
    bell: Arc<Bell>,
}

/// The expected start of a new viewer.
pub(crate) struct Ticket {
    pub(crate) selection: usize,
    pub(crate) selected: Vec<usize>,
    pub(crate) named: Vec<usize>,
    pub(crate) lag: Lag,
    pub(crate) next: HashMap<usize, usize>,
    pub(crate) unreported: Vec<Unreported>,
    pub(crate) refused: Option<(GapReason, String)>,
    pub(crate) cursor: Option<u64>,
}

impl Viewer {
    pub(crate) fn new(subscription: Subscription, ticket: Ticket, oracle: &Oracle) -> Self {
        let end = |channel: &usize| (*channel, oracle.channels[*channel].history.len());
        let mut viewer = Self {
            subscription,
            selection: ticket.selection,
            joined: ticket.selected.iter().map(end).collect(),
            bound: None,
            owed: BTreeSet::new(),
            selected: ticket.selected,
            named: ticket.named,
            lag: ticket.lag,
            next: ticket.next,
            unreported: ticket.unreported,
            refused: ticket.refused,
            cursor: ticket.cursor,
            noticed: false,
            finished: false,
            parked: false,
            bell: Arc::default(),
        };
        for channel in &viewer.named {
            viewer.owed.extend(oracle.channels[*channel].life);
        }
        viewer.bind(oracle);
        let first = viewer.selected[0];
        let gone = viewer.gone_through(first, oracle);
        viewer.noticed = viewer.due(first, oracle).is_some_and(|due| due.offset <= gone);
        viewer
    }

    fn is_one(&self) -> bool {
        self.selection < FIRST_OF_MANY
    }

    pub(crate) fn lag(&self) -> Lag {
        self.lag
    }

    /// Binds a reader of one channel to the first life that it meets.
    pub(crate) fn bind(&mut self, oracle: &Oracle) {
        if self.is_one() && self.bound.is_none() {
            self.bound = oracle.channels[self.selected[0]].life;
            self.owed.extend(self.bound);
        }
    }

    /// Returns whether it still names this channel and holds it in memory.
    pub(crate) fn holds(&self, channel: usize, oracle: &Oracle) -> bool {
        let life = oracle.channels[channel].life;
        !self.finished
            && self.named.contains(&channel)
            && life.is_some_and(|life| self.owed.contains(&life))
            && (oracle.is_open(channel) || self.due(channel, oracle).is_some())
    }

    /// Returns the channel's next due entry that was published in a life it can see.
    fn due<'a>(&self, channel: usize, oracle: &'a Oracle) -> Option<&'a Entry> {
        let entry = oracle.channels[channel].history.get(self.next[&channel])?;
        let visible = self.bound.is_none_or(|bound| entry.life <= bound);
        visible.then_some(entry)
    }

    /// Returns the channel's next due entry, without a second end that it need not see.
    fn due_surely<'a>(&self, channel: usize, oracle: &'a Oracle) -> Option<&'a Entry> {
        let due = self.due(channel, oracle)?;
        if !due.optional {
            return Some(due);
        }
        let entry = oracle.channels[channel].history.get(self.next[&channel] + 1)?;
        let visible = self.bound.is_none_or(|bound| entry.life <= bound);
        visible.then_some(entry)
    }

    /// Returns the offset through which entries of the channel are gone for this viewer.
    fn gone_through(&self, channel: usize, oracle: &Oracle) -> u64 {
        let history = &oracle.channels[channel].history;
        let gone = |at: &usize| {
            let life = &oracle.lives[history[*at].life];
            *at < life.kept_from || (life.dead && !self.owed.contains(&history[*at].life))
        };
        let through = (0..history.len()).rev().find(gone);
        through.map_or(0, |at| history[at].offset)
    }

    /// Reads one step. Returns whether there was one.
    pub(crate) fn read(&mut self, waits: bool, oracle: &Oracle) -> bool {
        if !self.is_one() {
            let alive = self.selected.iter();
            self.owed.extend(alive.filter_map(|channel| oracle.channels[*channel].life));
        }
        self.parked = false;
        let must_skip = self.must_skip(oracle);
        let next = if waits {
            // Before the read, because a read that evicts a channel may wake the viewer, and is
            // then to be repeated.
            self.bell.0.store(false, Ordering::SeqCst);
            let waker = Waker::from(self.bell.clone());
            match self.subscription.poll_next(&mut Context::from_waker(&waker)) {
                Poll::Ready(Some(step)) => Next::Step(step),
                Poll::Ready(None) => Next::Finished,
                Poll::Pending => Next::Pending,
            }
        } else {
            self.subscription.try_next()
        };
        if must_skip {
            let lagged = |gap: &Gap| gap.reason == GapReason::Lagged;
            assert!(
                matches!(&next, Next::Step(Step::Gap(gap)) if lagged(gap)),
                "lags beyond its bounds and is not skipped: {next:?}"
            );
        }
        match next {
            Next::Step(step) => {
                assert!(!self.finished, "a step behind the end");
                let is_gap = matches!(step, Step::Gap(_));
                self.check(step, oracle);
                // The event after a gap is kept for the reader, so that retention makes no second
                // gap.
                self.noticed = is_gap && self.due(self.selected[0], oracle).is_some();
                return true;
            }
            Next::Again => return true,
            Next::Pending => {
                assert!(!self.finished, "waits behind the end");
                self.check_caught_up(oracle);
                assert!(!self.must_finish(oracle), "all has ended, and the stream goes on");
                self.parked = waits;
            }
            Next::Finished if self.finished => {}
            Next::Finished => {
                self.check_caught_up(oracle);
                self.check_may_finish(oracle);
                self.finished = true;
            }
        }
        false
    }

    /// Asserts that a sleeping viewer was woken if there is something to read.
    pub(crate) fn check_woken(&self, oracle: &Oracle) {
        let mut selected = self.selected.iter();
        if self.parked && selected.any(|channel| self.due_surely(*channel, oracle).is_some()) {
            assert!(self.bell.0.load(Ordering::SeqCst), "sleeps although there is something");
        }
    }

    fn check(&mut self, step: Step, oracle: &Oracle) {
        if let Some((reason, requested)) = self.refused.take() {
            let Step::Gap(gap) = step else {
                panic!("{reason:?} is not announced before {step:?}");
            };
            assert_eq!((gap.reason, gap.requested.as_deref()), (reason, Some(&*requested)));
            return self.begin_again(&gap, oracle);
        }
        match step {
            Step::Events { channel, batch: run } => {
                let name = channel.name();
                let channel = self.selected.iter().copied();
                let mut channel = channel.filter(|at| oracle.channels[*at].name == *name);
                let channel = channel.next().expect("events of a selected channel");
                self.check_run(channel, &run, oracle);
            }
            Step::Snapshot { .. } => panic!("a snapshot was not asked for"),
            Step::Gap(gap) if gap.reason == GapReason::Lagged => self.check_skip(&gap, oracle),
            Step::Gap(gap) => self.check_gap(&gap, oracle),
            Step::Ended { end, position } => {
                let End { channel, state, reason } = end;
                let reported = (state, reason.map(String::from));
                let is_it = |u: &Unreported| u.channel == channel && u.ends.contains(&reported);
                self.unreported.sort_by_key(|unreported| !unreported.must);
                let place = self.unreported.iter().position(is_it);
                let place =
                    place.unwrap_or_else(|| panic!("{reported:?} not in {:?}", self.unreported));
                self.unreported.swap_remove(place);
                // Two lives with the same end may be reported once.
                for unreported in self.unreported.iter_mut().filter(|unreported| is_it(unreported))
                {
                    unreported.must = false;
                }
                assert_eq!(Some(position.offset.0), self.cursor, "a notice's id");
            }
        }
    }

    fn check_run(&mut self, channel: usize, run: &Batch, oracle: &Oracle) {
        let bytes = run.bytes();
        let frames: Vec<_> = Frames::new(&bytes).collect();
        assert_eq!((frames.len(), run.entries().count()), (run.count(), run.count()));
        assert!(!frames.is_empty(), "an empty run");
        for (frame, entry) in frames.into_iter().zip(run.entries()) {
            let seen: Position = frame.id().parse().expect("an id");
            assert_eq!(seen.epoch.as_str(), oracle.epoch);
            assert_eq!(seen.offset, entry.offset, "the index and the text");
            let seen = seen.offset.0;
            let skips = |due: &Entry| due.optional && due.offset < seen;
            if self.due(channel, oracle).is_some_and(skips) {
                *self.next.get_mut(&channel).unwrap() += 1;
            }
            let due = self.due(channel, oracle);
            let due = due.unwrap_or_else(|| panic!("nothing is due, but {seen} comes"));
            assert_eq!(seen, due.offset, "something is missing, or comes twice");
            assert_eq!(frame.event_type(), due.event_type.as_deref());
            assert_eq!(frame.data(), due.data);
            *self.next.get_mut(&channel).unwrap() += 1;
            self.advance(seen, oracle);
        }
    }

    /// Records that the viewer has seen this id: resuming after it must miss nothing.
    fn advance(&mut self, seen: u64, oracle: &Oracle) {
        assert!(self.cursor.is_none_or(|cursor| cursor < seen), "an id behind a larger one");
        self.cursor = Some(seen);
        for channel in &self.selected {
            let Some(due) = self.due_surely(*channel, oracle) else {
                continue;
            };
            // A lost entry may be announced later, as long as its end is still to come.
            assert!(
                due.offset > seen || self.gone_through(*channel, oracle) > seen,
                "{} is due before {seen}, in {channel}",
                due.offset
            );
        }
    }

    fn check_gap(&mut self, gap: &Gap, oracle: &Oracle) {
        assert_eq!(gap.reason, GapReason::Evicted);
        let requested: Position = gap.requested.as_ref().unwrap().parse().expect("an id");
        assert!(requested.offset < gap.resumed.offset);
        let name = gap.channel.as_ref().expect("a gap in one channel");
        let mut channel = self.selected.iter().copied();
        let channel = channel.find(|at| oracle.channels[*at].name == *name);
        let channel = channel.expect("a gap in a selected channel");
        let through = gap.resumed.offset.0;
        let gone_through = self.gone_through(channel, oracle);
        let mut last = None;
        while let Some(due) = self.due(channel, oracle).filter(|due| due.offset <= through) {
            assert!(due.offset <= gone_through, "{} is said to be gone", due.offset);
            last = Some(due.offset);
            *self.next.get_mut(&channel).unwrap() += 1;
        }
        assert_eq!(last, Some(through), "a gap that says more than is missing");
        self.advance(through, oracle);
    }

    fn check_skip(&mut self, gap: &Gap, oracle: &Oracle) {
        let (events, bytes) = self.after(oracle);
        let passed = self.passes(events, bytes);
        assert!(self.lag.on_lag == OnLag::Skip && passed, "skipped within its bounds");
        assert_eq!(gap.channel.is_some(), self.is_one());
        let through = gap.resumed.offset.0;
        let mut missed = 0;
        for channel in self.selected.clone() {
            while let Some(due) = self.due(channel, oracle).filter(|due| due.offset <= through) {
                missed += 1;
                let last = oracle.channels[channel].history[oracle.lives[due.life].to - 1].offset;
                if self.is_one() {
                    assert!(due.end.is_none() || last > through, "the last end is skipped");
                } else if due.end.is_some() {
                    let must = !due.optional && self.owed.contains(&due.life);
                    self.unreported.push(oracle.unreported(channel, due.life, must));
                }
                *self.next.get_mut(&channel).unwrap() += 1;
            }
        }
        assert!(missed > 0, "a gap where nothing is missing");
        self.advance(through, oracle);
    }

    /// After a gap for an unknown id, everything retained follows.
    fn begin_again(&mut self, gap: &Gap, oracle: &Oracle) {
        let resumed = gap.resumed.offset.0;
        assert_eq!(gap.resumed.epoch.as_str(), oracle.epoch);
        for channel in &self.selected {
            let at = self.next[channel];
            let history = &oracle.channels[*channel].history;
            if self.is_one() {
                assert_eq!(at, oracle.after(*channel, resumed), "where it resumes");
            } else {
                assert!(history.get(at).is_none_or(|due| due.offset > resumed));
            }
        }
        self.cursor = Some(resumed);
    }

    /// Returns whether a lag is over the limit. A single event is no lag, however large.
    fn passes(&self, events: u64, bytes: u64) -> bool {
        events > self.lag.events || (bytes > self.lag.bytes && events > 1)
    }

    /// Returns the due entries that were published since it subscribed: events and bytes.
    fn after(&self, oracle: &Oracle) -> (u64, u64) {
        let unread = self.selected.iter().flat_map(|channel| {
            let from = self.next[channel].max(self.joined[channel]);
            let history = &oracle.channels[*channel].history;
            history[from.min(history.len())..].iter()
        });
        let visible = |entry: &&Entry| self.bound.is_none_or(|bound| entry.life <= bound);
        let unread = unread.filter(visible);
        unread.fold((0, 0), |sum, entry| (sum.0 + 1, sum.1 + entry.bytes))
    }

    /// Returns whether the lag is over its limit, so that only the gap may come. Decided only for
    /// one channel, where the oracle knows exactly what the hub counts.
    fn must_skip(&self, oracle: &Oracle) -> bool {
        let Some(life) = self.bound.filter(|_| self.lag.on_lag == OnLag::Skip) else {
            return false;
        };
        let due = self.due(self.selected[0], oracle);
        let (events, bytes) = self.after(oracle);
        // Notices and gaps come first; an end is never skipped.
        self.refused.is_none()
            && !self.noticed
            && due.is_some_and(|due| due.life == life && due.end.is_none())
            && self.passes(events, bytes)
    }

    fn check_caught_up(&self, oracle: &Oracle) {
        assert_eq!(self.refused, None, "never announced");
        let unreported = self.unreported.iter().find(|unreported| unreported.must);
        assert_eq!(unreported, None, "an end that was not reported");
        for channel in &self.selected {
            let due = self.due_surely(*channel, oracle).map(|due| due.offset);
            assert_eq!(due, None, "missing in {}", oracle.channels[*channel].name);
        }
    }

    fn check_may_finish(&self, oracle: &Oracle) {
        if let Some(life) = self.bound {
            assert!(oracle.lives[life].ended, "ends before its channel");
            return;
        }
        let mut named = self.named.iter();
        assert!(self.named.len() >= self.selected.len(), "a pattern never ends");
        assert!(named.all(|channel| oracle.is_over(*channel)), "ends too early");
    }

    fn must_finish(&self, oracle: &Oracle) -> bool {
        if self.is_one() {
            return self.bound.is_some_and(|life| oracle.lives[life].ended);
        }
        let over = |channel: &usize| {
            let past = &oracle.channels[*channel];
            oracle.ended_by(*channel, u64::MAX) && (past.life.is_some() || !past.awaited)
        };
        self.named.len() == self.selected.len() && self.named.iter().all(over)
    }
}

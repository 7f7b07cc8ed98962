//! A hub, its oracle and its viewers: applies a plan to all of them.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::task::Poll;
use std::time::Duration;

use bytesize::ByteSize;
use fanfare::internals::channel::ChannelPattern;
use fanfare::internals::event::{ChannelState, GapReason, NewEvent};
use fanfare::internals::hub::{
    Append, Bounds, ChannelOptions, Close, Config, Hub, Opened, Selection, SubmitError,
};
use fanfare::internals::position::{Offset, Position, StartFrom};
use fanfare::internals::telemetry::Metrics;
use tokio::runtime::Runtime;

use super::oracle::{Oracle, Past, Text};
use super::plan::{CHANNELS, FIRST_OF_MANY, From, GARBAGE, Lag, Op, SELECTIONS, Setup};
use super::viewer::{Ticket, Viewer};

/// The limit of concurrent viewers.
const MAX_VIEWERS: usize = 8;

static METRICS: LazyLock<Arc<Metrics>> = LazyLock::new(|| Arc::new(Metrics::new()));

/// The state of one run of the model.
pub(crate) struct World {
    hub: Hub,
    oracle: Oracle,
    viewers: Vec<Viewer>,
    /// Every offset that a viewer has seen in an id.
    seen: Vec<u64>,
    runtime: Runtime,
}

impl World {
    pub(crate) fn new(setup: &Setup) -> Self {
        let config = Config {
            max_events: setup.max_events,
            max_bytes: ByteSize(setup.max_bytes),
            memory_budget: setup.budget.map_or(ByteSize::gib(1), ByteSize),
            ..Config::default()
        };
        let hub = Hub::new(config, METRICS.clone());
        let past = |name: &&str| Past {
            name: name.parse().unwrap(),
            history: Vec::new(),
            life: None,
            awaited: false,
        };
        let oracle = Oracle {
            channels: CHANNELS.iter().map(past).collect(),
            lives: Vec::new(),
            epoch: hub.tail().epoch.to_string(),
            tail: 0,
            cramped: setup.budget.is_some(),
            max_events: setup.max_events,
            max_bytes: setup.max_bytes,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        Self { hub, oracle, viewers: Vec::new(), seen: vec![0], runtime: runtime.unwrap() }
    }

    /// Applies all operations, then lets every viewer read to the end.
    pub(crate) fn live(mut self, plan: &[Op]) {
        for op in plan {
            self.apply(op);
            assert_eq!(self.hub.tail().offset.0, self.oracle.tail);
            self.oracle.observe(&self.hub, matches!(op, Op::Sweep));
            for viewer in &mut self.viewers {
                viewer.bind(&self.oracle);
                viewer.check_woken(&self.oracle);
            }
        }
        for viewer in 0..self.viewers.len() {
            self.read(viewer, usize::MAX, true);
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Publish { channel, events, close } => self.publish(*channel, events, close),
            Op::Delete(channel) => {
                let there = self.oracle.channels[*channel].life.is_some();
                let deleted = self.hub.delete(&self.oracle.channels[*channel].name);
                assert_eq!(deleted.is_ok(), there);
                if there {
                    self.oracle.delete(*channel);
                }
            }
            Op::Configure { channel, max_events, max_bytes, ages, idles } => {
                self.configure(*channel, *max_events, *max_bytes, (*ages, *idles));
            }
            Op::Sweep => self.sweep(),
            Op::Subscribe { selection, from, bounds } => self.begin(*selection, from, *bounds),
            Op::Read { viewer, steps, waits } if !self.viewers.is_empty() => {
                self.read(viewer % self.viewers.len(), *steps, *waits);
            }
            Op::Leave(viewer) if !self.viewers.is_empty() => {
                self.viewers.swap_remove(viewer % self.viewers.len());
            }
            Op::Resume { viewer, selection } if !self.viewers.is_empty() => {
                let viewer = self.viewers.swap_remove(viewer % self.viewers.len());
                let selection = selection.unwrap_or(viewer.selection);
                let lag = viewer.lag();
                let from = match viewer.cursor {
                    Some(offset) => StartFrom::After(self.id(offset)),
                    None => StartFrom::Earliest,
                };
                drop(viewer);
                self.subscribe(selection, &from, lag);
            }
            Op::Read { .. } | Op::Leave(_) | Op::Resume { .. } => {}
        }
    }

    fn publish(
        &mut self,
        channel: usize,
        events: &[Text],
        close: &Option<(ChannelState, Option<&'static str>)>,
    ) {
        let name = self.oracle.channels[channel].name.clone();
        let new = |text: &Text| NewEvent {
            event_type: text.event_type.map(|text| text.parse().unwrap()),
            data: text.data.clone().into(),
        };
        let new: Vec<_> = events.iter().map(new).collect();
        let closing = close.map(|(state, reason)| Close { state, reason: reason.map(Into::into) });
        let published = self.hub.submit(&name, Append::of(&new, closing.as_ref()));
        if !self.oracle.is_open(channel) {
            let refused = matches!(published, Err(SubmitError::Closed(_)));
            assert!(refused, "published behind the end: {published:?}");
            return;
        }
        let published = published.unwrap().committed().unwrap();
        let first = self.oracle.tail + 1;
        self.oracle.live(channel);
        for text in events {
            self.oracle.append(channel, text);
        }
        let offsets = (!events.is_empty()).then_some((Offset(first), Offset(self.oracle.tail)));
        assert_eq!(published.offsets, offsets);
        if let Some((state, reason)) = close {
            self.oracle.close(channel, *state, *reason);
        }
        assert_eq!(published.state, close.map_or(ChannelState::Open, |(state, _)| state));
        self.oracle.retain(channel);
    }

    fn configure(
        &mut self,
        channel: usize,
        max_events: Option<u64>,
        max_bytes: Option<u64>,
        (ages, idles): (Option<bool>, Option<bool>),
    ) {
        let span = |zero| if zero { Duration::ZERO } else { Duration::from_secs(3600) };
        let options = ChannelOptions {
            max_events,
            max_bytes: max_bytes.map(ByteSize),
            max_age: ages.map(span),
            idle_timeout: idles.map(span),
            ..ChannelOptions::default()
        };
        let new = self.oracle.channels[channel].life.is_none();
        let name = &self.oracle.channels[channel].name;
        let configured = self.hub.configure(name, &options, None).unwrap().committed().unwrap();
        assert_eq!(configured.created, new);
        let life = self.oracle.live(channel);
        let life = &mut self.oracle.lives[life];
        life.max_events = max_events.unwrap_or(life.max_events);
        life.max_bytes = max_bytes.unwrap_or(life.max_bytes);
        life.ages = ages.unwrap_or(life.ages);
        life.idles = idles.unwrap_or(life.idles);
        self.oracle.retain(channel);
    }

    /// Runs one sweep of the housekeeping.
    fn sweep(&mut self) {
        let holds = |channel: &usize| self.viewers.iter().any(|v| v.holds(*channel, &self.oracle));
        let held: Vec<usize> = (0..CHANNELS.len()).filter(holds).collect();
        let before: Vec<_> = held.iter().map(|at| self.describe(*at).is_some()).collect();
        // A sweep handles this few channels without a pause: when the canary is evicted, it is
        // over.
        let idle = ChannelOptions { idle_timeout: Some(Duration::ZERO), ..Default::default() };
        let canary = "canary".parse().unwrap();
        drop(self.hub.configure(&canary, &idle, None).unwrap());
        let hub = self.hub.clone();
        self.runtime.block_on(async {
            let mut sweep = pin!(hub.clone().sweep());
            std::future::poll_fn(|cx| {
                assert!(sweep.as_mut().poll(cx).is_pending());
                hub.describe(&canary).map_or(Poll::Ready(()), |_| Poll::Pending)
            })
            .await;
        });
        let after: Vec<_> = held.iter().map(|at| self.describe(*at).is_some()).collect();
        assert_eq!(before, after, "a channel that is named and still read is evicted");
    }

    fn describe(&self, channel: usize) -> Option<fanfare::internals::hub::Description> {
        self.hub.describe(&self.oracle.channels[channel].name)
    }

    fn id(&self, offset: u64) -> Box<str> {
        format!("{}-{offset}", self.oracle.epoch).into()
    }

    fn read(&mut self, viewer: usize, steps: usize, waits: bool) {
        let viewer = &mut self.viewers[viewer];
        for _ in 0..steps.min(10_000) {
            let more = viewer.read(waits, &self.oracle);
            self.seen.extend(viewer.cursor);
            if !more {
                return;
            }
        }
        assert!(steps < 10_000, "a stream without end");
    }

    fn begin(&mut self, selection: usize, from: &From, lag: Lag) {
        let from = match from {
            From::Tail => StartFrom::Tail,
            From::Earliest => StartFrom::Earliest,
            From::Last(count) => StartFrom::Last(*count),
            From::Seen(at) => StartFrom::After(self.id(self.seen[at % self.seen.len()])),
            From::Any(at) => StartFrom::After(self.id(*at as u64 % (self.oracle.tail + 1))),
            From::Foreign(at) => StartFrom::After(format!("{}x-{at}", self.oracle.epoch).into()),
            From::Future(by) => StartFrom::After(self.id(self.oracle.tail + by)),
            From::Garbage(at) => StartFrom::After(GARBAGE[*at].into()),
        };
        self.subscribe(selection, &from, lag);
    }

    fn subscribe(&mut self, selection: usize, from: &StartFrom, lag: Lag) {
        let patterns: Vec<ChannelPattern> =
            SELECTIONS[selection].iter().map(|text| text.parse().unwrap()).collect();
        let channels = 0..CHANNELS.len();
        let is_selected = |at: &usize| {
            let name = &self.oracle.channels[*at].name;
            patterns.iter().any(|pattern| pattern.matches(name))
        };
        let selected: Vec<usize> = channels.filter(is_selected).collect();
        let is_named = |at: &&usize| SELECTIONS[selection].contains(&CHANNELS[**at]);
        let named: Vec<usize> = selected.iter().filter(is_named).copied().collect();
        let after = self.offset_of(from);
        let may_be_over = after.is_ok() && named.len() == selected.len();
        let over = |at: &usize| self.oracle.ended_by(*at, after.clone().unwrap_or(0));
        let may_be_over = may_be_over && named.iter().all(over);
        let stays = |at: &usize| self.oracle.channels[*at].life.is_some();
        let must_be_over = may_be_over && named.iter().all(stays);
        let wish = if selection < FIRST_OF_MANY {
            Selection::One(self.oracle.channels[selected[0]].name.clone())
        } else {
            Selection::Many(patterns)
        };
        let Lag { events, bytes, on_lag } = lag;
        let bounds = Bounds { max_lag_events: events, max_lag_bytes: bytes, on_lag };
        let Opened::Live(subscription) = self.hub.subscribe(wish, from, bounds).unwrap() else {
            assert!(may_be_over, "said to be over, and is not");
            return;
        };
        assert!(!must_be_over, "all is over, and no end is reported");
        for channel in &named {
            self.oracle.channels[*channel].awaited = true;
        }
        let mut ticket = Ticket {
            selection,
            selected,
            named,
            lag,
            next: HashMap::new(),
            unreported: Vec::new(),
            refused: None,
            cursor: None,
        };
        let start = subscription.start().offset.0;
        self.fill(&mut ticket, from, after, start);
        self.viewers.truncate(MAX_VIEWERS - 1);
        self.viewers.push(Viewer::new(subscription, ticket, &self.oracle));
    }

    /// Returns the offset after which the start begins; an error if the hub cannot know it.
    fn offset_of(&self, from: &StartFrom) -> Result<u64, Option<(GapReason, String)>> {
        let StartFrom::After(text) = from else {
            return Err(None);
        };
        match text.parse::<Position>() {
            Ok(position) if position.epoch.as_str() != self.oracle.epoch => {
                Err(Some((GapReason::Epoch, text.to_string())))
            }
            Ok(position) if position.offset.0 <= self.oracle.tail => Ok(position.offset.0),
            _ => Err(Some((GapReason::Unknown, text.to_string()))),
        }
    }

    /// Fills the ticket with the entries that are due after this start.
    fn fill(
        &self,
        ticket: &mut Ticket,
        from: &StartFrom,
        after: Result<u64, Option<(GapReason, String)>>,
        start: u64,
    ) {
        let oracle = &self.oracle;
        let one = ticket.selection < FIRST_OF_MANY;
        for channel in &ticket.selected {
            let past = &oracle.channels[*channel];
            let kept = oracle.kept_from(*channel);
            let end = past.history.len();
            let ends = usize::from(one && !oracle.is_open(*channel));
            let at = match (from, &after) {
                (_, Ok(offset)) => oracle.after(*channel, *offset),
                (StartFrom::Tail, _) => end - ends,
                (StartFrom::Last(count), _) if one => {
                    kept.max(end.saturating_sub(*count as usize + ends))
                }
                (StartFrom::Last(_), _) => kept.max(oracle.after(*channel, start)),
                (StartFrom::Earliest | StartFrom::Snapshot | StartFrom::After(_), _) => kept,
            };
            ticket.next.insert(*channel, at);
            if one && after.is_err() {
                assert_eq!(at, oracle.after(*channel, start), "behind its start");
            }
        }
        match after {
            Ok(offset) => ticket.cursor = Some(offset),
            Err(refused) => {
                ticket.refused = refused;
                ticket.cursor = Some(start);
            }
        }
        if one || matches!(from, StartFrom::After(_)) {
            return;
        }
        self.check_start(ticket, from, start);
        for channel in &ticket.named {
            let past = &oracle.channels[*channel];
            if let Some(life) = past.life.filter(|life| oracle.lives[*life].ended)
                && past.history.last().unwrap().offset <= start
            {
                ticket.unreported.push(oracle.unreported(*channel, life, true));
            }
        }
    }

    /// Checks the start position of a subscription to many channels.
    fn check_start(&self, ticket: &Ticket, from: &StartFrom, start: u64) {
        let entries = ticket.selected.iter().flat_map(|at| {
            let history = &self.oracle.channels[*at].history;
            history[self.oracle.kept_from(*at)..].iter()
        });
        let after = entries.clone().filter(|entry| entry.offset > start);
        match from {
            StartFrom::Tail => assert_eq!(start, self.oracle.tail),
            StartFrom::Last(count) => {
                let events = after.clone().filter(|entry| entry.end.is_none()).count();
                assert!(events as u64 <= *count, "more than the last {count}");
                let all = entries.count();
                assert!(after.count() >= all.min(*count as usize), "fewer than {count}");
            }
            _ => assert_eq!(start, 0),
        }
    }
}

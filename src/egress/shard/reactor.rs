//! A shard's thread: what it waits for, and in which order it does what has come.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use tokio::time::Instant;

use super::Departed;
use super::inbox::{Arrival, Bell, Inbox, Message};
use super::seat::Sitter;
use super::sweep::{Done, Moved, Shared, advance, lag_passed};
use super::wheel::Wheel;
use crate::clock;
use crate::egress::{Config, goodbye_delay};
use crate::event::{GAP, GapReason};
use crate::hub::{Bounds, Channel, EndReason, Gap, Hub, OnLag, Seat};
use crate::sse;

/// The token of the inbox; sockets have those below.
const INBOX: Token = Token(usize::MAX);

/// Sockets' events that are taken at a time.
const EVENTS: usize = 1024;

/// Subscribers of one channel that are written to before others have their turn.
const TURN: usize = 256;

/// Bytes that a client who should only listen may send at a time; they are thrown away.
const SCRATCH: usize = 16 * 1024;

/// A sweep that takes this long is followed by a pause, in which events pile up: several then cost
/// one write. Shorter ones gain nothing from it.
const LONG_SWEEP: Duration = Duration::from_micros(500);

/// The pause, in times of the sweep before it: short while each write carries an event or two, so
/// that nothing waits; long where events come faster, which is where many to a write pay.
const PAUSE_SHARE: (u32, u32) = (1, 6);

/// Events to a write from which they come fast.
const FAST: u64 = 4;

/// How often bounds are looked at.
const PATROL: Duration = Duration::from_millis(100);

/// The share of a drain's window in which subscriptions are ended.
const DRAIN_SHARE: f64 = 0.8;

/// See the module.
pub(super) struct Reactor {
    hub: Hub,
    config: Arc<Config>,
    bounds: Bounds,
    active: Arc<AtomicUsize>,
    departed: Departed,
    poll: Poll,
    inbox: Arc<Inbox>,
    sitters: Slab<Sitter>,
    rooms: Slab<Room>,
    /// Rooms by the address of their channel, which they keep alive.
    by_channel: HashMap<usize, usize>,
    /// Rooms that have something to sweep, in turn.
    queue: VecDeque<usize>,
    /// Rooms that will have something to sweep when they have rested.
    resting: BinaryHeap<Reverse<(Instant, usize)>>,
    wheel: Wheel,
    /// Subscribers whose sockets took nothing when last asked.
    blocked: Vec<u32>,
    scratch: Box<[u8; SCRATCH]>,
    began: Instant,
    /// When the bounds are looked at next, in milliseconds.
    patrol_at: u64,
    /// When a drain's window ends.
    drained_at: Option<Instant>,
    stopping: bool,
}

/// A channel, and who listens to it here.
struct Room {
    channel: Arc<Channel>,
    bell: Arc<Bell>,
    listener: usize,
    members: Vec<u32>,
    sweep: Option<Sweep>,
    /// No sweep begins before, so that events pile up and go out together.
    rests_until: Option<Instant>,
    /// It waits for the end of its rest.
    waits: bool,
}

/// A sweep that is under way.
#[derive(Clone, Copy, Default)]
struct Sweep {
    /// The member with whom it began: not always the same, so that none is always the last.
    start: usize,
    /// How many have had their turn.
    visited: usize,
    /// Somebody must be visited again.
    again: bool,
    /// The channel has something newer.
    rung: bool,
    /// What it has done so far, and the time that it has taken.
    events: u64,
    writes: u64,
    took: Duration,
}

impl Reactor {
    pub(super) fn new(
        hub: Hub,
        config: Arc<Config>,
        active: Arc<AtomicUsize>,
        departed: Departed,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let inbox = Arc::new(Inbox::new(Waker::new(poll.registry(), INBOX)?));
        let wheel = Wheel::new(millis(config.heartbeat));
        Ok(Self {
            hub,
            bounds: config.bounds(),
            config,
            active,
            departed,
            poll,
            inbox,
            sitters: Slab::new(),
            rooms: Slab::new(),
            by_channel: HashMap::new(),
            queue: VecDeque::new(),
            resting: BinaryHeap::new(),
            wheel,
            blocked: Vec::new(),
            scratch: Box::new([0; SCRATCH]),
            began: Instant::now(),
            patrol_at: 0,
            drained_at: None,
            stopping: false,
        })
    }

    pub(super) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Serves until it is told to stop.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        while !self.stopping {
            self.wait(&mut events);
            self.read_inbox();
            for event in events.iter().filter(|event| event.token() != INBOX) {
                self.on_socket(event);
            }
            self.end_rests();
            self.sweep_next();
            self.keep_time();
        }
        for key in self.keys() {
            self.dismiss(key, EndReason::Draining);
        }
    }

    /// Waits for sockets, the inbox, or time. With work at hand it only looks.
    fn wait(&mut self, events: &mut Events) {
        let idle = self.queue.is_empty() && self.inbox.may_sleep();
        let tick = Duration::from_millis(self.wheel.tick()).min(PATROL);
        let rest = self
            .resting
            .peek()
            .map_or(tick, |Reverse((until, _))| until.saturating_duration_since(Instant::now()));
        let timeout = if idle { tick.min(rest) } else { Duration::ZERO };
        if let Err(error) = self.poll.poll(events, Some(timeout))
            && error.kind() != io::ErrorKind::Interrupted
        {
            tracing::error!(%error, "a shard cannot wait for its sockets");
            self.stopping = true;
        }
        self.inbox.woke_up();
    }

    fn read_inbox(&mut self) {
        for message in self.inbox.take_messages() {
            match message {
                Message::Arrival(arrival) => self.welcome(*arrival),
                Message::Drain(window) => self.drain(window),
                Message::Stop => self.stopping = true,
            }
        }
        let mut rung = Vec::new();
        self.inbox.take_rung(&mut rung);
        for room in rung {
            self.ring(room);
        }
    }

    // === arrivals and departures ===

    fn welcome(&mut self, arrival: Arrival) {
        let Arrival { tcp, seat, head } = arrival;
        let channel = seat.channel.clone();
        let own = self.first_bytes(&seat, head);
        let mut tcp = mio::net::TcpStream::from_std(tcp);
        let now = self.now();
        let entry = self.sitters.vacant_entry();
        let key = entry.key();
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = self.poll.registry().register(&mut tcp, Token(key), interest);
        if registered.is_err() {
            self.depart();
            return self.hub.leave(&channel, EndReason::ClientGone);
        }
        let due = self.wheel.put(key as u32, millis(self.config.heartbeat));
        let mut sitter = Sitter {
            tcp,
            byte: seat.byte,
            joined: seat.joined,
            own: None,
            room: 0,
            index: 0,
            last_write: now,
            blocked: 0,
            ends: lifetime(&self.config, now),
            due,
        };
        sitter.say(own, false);
        entry.insert(sitter);
        self.seat(key, channel);
        if self.drained_at.is_some() {
            self.say_goodbye(key, EndReason::Draining);
        } else {
            self.bring_forward(key);
        }
    }

    /// The head of the response and the first chunk, which says where the subscription begins.
    fn first_bytes(&self, seat: &Seat, head: Vec<u8>) -> Vec<u8> {
        let mut text = Vec::new();
        sse::retry(&mut text, self.config.reconnect_delay);
        if seat.at_tail {
            sse::id_block(&mut text, &seat.start.to_string());
        }
        if let Some(gap) = &seat.gap {
            self.push_gap(gap, &mut text);
        }
        let mut bytes = head;
        sse::chunk(&mut bytes, &text);
        bytes
    }

    fn seat(&mut self, key: usize, channel: Arc<Channel>) {
        let address = Arc::as_ptr(&channel) as usize;
        let room = match self.by_channel.get(&address) {
            Some(room) => *room,
            None => self.open_room(address, channel),
        };
        let (Some(sitter), Some(place)) = (self.sitters.get_mut(key), self.rooms.get_mut(room))
        else {
            return;
        };
        (sitter.room, sitter.index) = (room as u32, place.members.len() as u32);
        place.members.push(key as u32);
    }

    fn open_room(&mut self, address: usize, channel: Arc<Channel>) -> usize {
        let entry = self.rooms.vacant_entry();
        let room = entry.key();
        let bell = Arc::new(Bell::new(room, self.inbox.clone()));
        let listener = channel.add_listener(bell.clone());
        entry.insert(Room {
            channel,
            bell,
            listener,
            members: Vec::new(),
            sweep: None,
            rests_until: None,
            waits: false,
        });
        self.by_channel.insert(address, room);
        room
    }

    fn dismiss(&mut self, key: usize, reason: EndReason) {
        let Some(mut sitter) = self.sitters.try_remove(key) else { return };
        let _ = self.poll.registry().deregister(&mut sitter.tcp);
        self.depart();
        let Some(room) = self.rooms.get_mut(sitter.room as usize) else { return };
        self.hub.leave(&room.channel, reason);
        room.members.swap_remove(sitter.index as usize);
        if let Some(moved) = room.members.get(sitter.index as usize) {
            self.sitters[*moved as usize].index = sitter.index;
        }
        // Whoever stood last may have missed this sweep by taking the place of the one who left.
        if let Some(sweep) = &mut room.sweep {
            sweep.again = true;
        }
        if room.members.is_empty() {
            self.close_room(sitter.room as usize);
        }
    }

    /// One socket less.
    fn depart(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
        (self.departed)();
    }

    fn close_room(&mut self, key: usize) {
        let room = self.rooms.remove(key);
        room.channel.remove_listener(room.listener);
        self.by_channel.remove(&(Arc::as_ptr(&room.channel) as usize));
    }

    // === bringing subscribers forward ===

    fn on_socket(&mut self, event: &Event) {
        let key = event.token().0;
        if event.is_error() || event.is_read_closed() || (event.is_readable() && self.hung_up(key))
        {
            return self.dismiss(key, EndReason::ClientGone);
        }
        let Some(sitter) = self.sitters.get_mut(key) else { return };
        if event.is_writable() && (sitter.is_blocked() || sitter.own.is_some()) {
            self.bring_forward(key);
        }
    }

    /// Reads away whatever a client sends who should only listen; tells whether it is gone.
    fn hung_up(&mut self, key: usize) -> bool {
        let Some(sitter) = self.sitters.get_mut(key) else { return false };
        loop {
            match sitter.tcp.read(&mut self.scratch[..]) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
    }

    /// Brings one subscriber forward, outside of a sweep.
    fn bring_forward(&mut self, key: usize) {
        let (mut shared, mut done, now) = (None, Done::default(), self.now());
        let moved = self.advance(key, &mut shared, &mut done, now);
        self.settle(key, moved);
        self.count(&done);
    }

    fn advance(
        &mut self,
        key: usize,
        shared: &mut Option<Shared>,
        done: &mut Done,
        now: u32,
    ) -> Moved {
        let Some(sitter) = self.sitters.get_mut(key) else { return Moved::CaughtUp };
        let Some(room) = self.rooms.get(sitter.room as usize) else { return Moved::CaughtUp };
        let was_blocked = sitter.is_blocked();
        let moved = advance(sitter, &room.channel, &self.bounds, shared, done, now);
        if moved == Moved::Blocked && !was_blocked {
            self.blocked.push(key as u32);
        }
        moved
    }

    /// Does what a subscriber's step asks for.
    fn settle(&mut self, key: usize, moved: Moved) {
        match moved {
            Moved::CaughtUp | Moved::Blocked => {}
            Moved::More => {
                if let Some(sitter) = self.sitters.get(key) {
                    self.enqueue(sitter.room as usize);
                }
            }
            Moved::Overtaken => self.jump(key, GapReason::Evicted),
            Moved::Lagging => self.jump(key, GapReason::Lagged),
            Moved::Ended(reason) => self.dismiss(key, reason),
        }
    }

    /// The channel has something new: its room is swept, when it has rested.
    fn ring(&mut self, key: usize) {
        let Some(room) = self.rooms.get_mut(key) else { return };
        match (&mut room.sweep, room.rests_until.filter(|until| Instant::now() < *until)) {
            (Some(sweep), _) => sweep.rung = true,
            (None, None) => self.enqueue(key),
            (None, Some(until)) if !room.waits => {
                room.waits = true;
                self.resting.push(Reverse((until, key)));
            }
            (None, Some(_)) => {}
        }
    }

    /// Puts a room in line for a sweep; one that is being swept is swept again.
    fn enqueue(&mut self, key: usize) {
        let Some(room) = self.rooms.get_mut(key) else { return };
        match &mut room.sweep {
            Some(sweep) => sweep.again = true,
            None => {
                let start = fastrand::usize(..room.members.len().max(1));
                room.sweep = Some(Sweep { start, ..Sweep::default() });
                self.queue.push_back(key);
            }
        }
    }

    /// Puts those rooms in line that have rested.
    fn end_rests(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((until, key))) = self.resting.peek().copied()
            && until <= now
        {
            self.resting.pop();
            if let Some(room) = self.rooms.get_mut(key) {
                room.waits = false;
                self.enqueue(key);
            }
        }
    }

    /// Gives the first room in line a turn.
    fn sweep_next(&mut self) {
        let Some(key) = self.queue.pop_front() else { return };
        let Some(room) = self.rooms.get_mut(key) else { return };
        let Some(mut sweep) = room.sweep else { return };
        if sweep.visited == 0 {
            // Before anything is read: what comes later rings again.
            room.bell.clear();
        }
        let members = room.members.len();
        let turn: Vec<u32> = (sweep.visited..members.min(sweep.visited + TURN))
            .map(|at| room.members[(sweep.start + at) % members])
            .collect();
        sweep.visited += turn.len();
        room.sweep = Some(sweep);
        let began = Instant::now();
        let done = self.visit(&turn);
        self.end_turn(key, began.elapsed(), &done);
    }

    fn visit(&mut self, turn: &[u32]) -> Done {
        let (mut shared, mut done, now) = (None, Done::default(), self.now());
        for key in turn {
            let key = *key as usize;
            if self.sitters.get(key).is_some_and(|sitter| !sitter.is_blocked()) {
                let moved = self.advance(key, &mut shared, &mut done, now);
                self.settle(key, moved);
            }
        }
        self.count(&done);
        done
    }

    fn end_turn(&mut self, key: usize, took: Duration, done: &Done) {
        let max_pause = self.config.max_pause;
        let Some(room) = self.rooms.get_mut(key) else { return };
        let Some(sweep) = &mut room.sweep else { return };
        sweep.took += took;
        sweep.events += done.events;
        sweep.writes += done.writes;
        if sweep.visited < room.members.len() {
            return self.queue.push_back(key);
        }
        let Sweep { again, rung, took, events, writes, .. } = *sweep;
        room.sweep = None;
        let share = if events >= FAST * writes { PAUSE_SHARE.1 } else { PAUSE_SHARE.0 };
        room.rests_until =
            (took >= LONG_SWEEP).then(|| Instant::now() + (took * share).min(max_pause));
        if again {
            self.enqueue(key);
        } else if rung {
            self.ring(key);
        }
    }

    fn count(&self, done: &Done) {
        if done.bytes == 0 {
            return;
        }
        let metrics = self.hub.metrics();
        metrics.delivered(done.events, done.bytes);
        if let Some(oldest) = done.oldest {
            metrics.delivery_took(Duration::from_micros(clock::now().saturating_sub(oldest)));
        }
    }

    // === gaps and bounds ===

    /// Moves a subscriber whom retention has overtaken to the earliest event, and one that lags too
    /// far to the tail, behind a gap.
    fn jump(&mut self, key: usize, reason: GapReason) {
        let Some(sitter) = self.sitters.get_mut(key) else { return };
        let Some(room) = self.rooms.get(sitter.room as usize) else { return };
        let (channel, from) = (&room.channel, sitter.byte);
        let (byte, resumed, requested) = match reason {
            GapReason::Lagged => {
                let (byte, resumed) = self.hub.tail_of(channel);
                (byte, resumed, Some(self.hub.position_before(channel, from)))
            }
            _ => {
                let (byte, resumed) = self.hub.earliest_of(channel);
                (byte, resumed, None)
            }
        };
        let channel = Some(channel.name().clone());
        let requested = requested.map(|position| position.to_string().into());
        // If all that is left is the end, nothing is passed over.
        if byte > from {
            sitter.byte = byte;
            self.tell_gap(key, &Gap { channel, reason, requested, resumed });
        }
        self.bring_forward(key);
    }

    fn tell_gap(&mut self, key: usize, gap: &Gap) {
        let (mut text, mut bytes) = (Vec::new(), Vec::new());
        self.push_gap(gap, &mut text);
        sse::chunk(&mut bytes, &text);
        if let Some(sitter) = self.sitters.get_mut(key) {
            sitter.say(bytes, false);
        }
    }

    fn push_gap(&self, gap: &Gap, text: &mut Vec<u8>) {
        self.hub.metrics().gap(gap.reason.as_str());
        let (id, data) = (gap.resumed.to_string(), gap.data());
        let event = sse::Text { id: Some(&id), event_type: Some(GAP), data: data.as_bytes() };
        sse::event_text(text, &event);
    }

    fn keep_time(&mut self) {
        let elapsed = millis(self.began.elapsed());
        let now = self.now();
        let mut due = Vec::new();
        self.wheel.take_due(elapsed, &mut due);
        for (key, tick) in due {
            self.heartbeat(key as usize, tick, now);
        }
        if elapsed >= self.patrol_at {
            self.patrol_at = elapsed + millis(self.patrol_pace());
            self.patrol(now);
        }
    }

    /// A quarter of the shortest time that is kept, within reason.
    fn patrol_pace(&self) -> Duration {
        (self.config.write_timeout / 4).clamp(Duration::from_millis(10), PATROL)
    }

    fn heartbeat(&mut self, key: usize, tick: u32, now: u32) {
        let interval = millis(self.config.heartbeat);
        let Some(sitter) = self.sitters.get_mut(key).filter(|sitter| sitter.due == tick) else {
            return;
        };
        let silent = since(now, sitter.last_write);
        let delay = if silent >= interval { interval } else { interval - silent };
        sitter.due = self.wheel.put(key as u32, delay);
        if silent < interval || sitter.is_blocked() {
            return;
        }
        let (mut text, mut bytes) = (Vec::new(), Vec::new());
        sse::comment(&mut text);
        sse::chunk(&mut bytes, &text);
        sitter.say(bytes, false);
        self.bring_forward(key);
    }

    fn patrol(&mut self, now: u32) {
        for key in std::mem::take(&mut self.blocked) {
            let key = key as usize;
            match self.verdict(key, now) {
                Verdict::Leave => {}
                Verdict::Watch => self.blocked.push(key as u32),
                Verdict::End(reason, limit) => {
                    self.hub.metrics().limit_hit(limit);
                    if let Some(sitter) = self.sitters.get(key) {
                        sitter.reset();
                    }
                    self.dismiss(key, reason);
                }
            }
        }
        self.end_those_whose_time_has_come(now);
    }

    fn verdict(&self, key: usize, now: u32) -> Verdict {
        let Some(sitter) = self.sitters.get(key).filter(|sitter| sitter.is_blocked()) else {
            return Verdict::Leave;
        };
        if since(now, sitter.blocked) >= millis(self.config.write_timeout) {
            return Verdict::End(EndReason::WriteTimeout, "subscribers.write_timeout");
        }
        let Some(room) = self.rooms.get(sitter.room as usize) else { return Verdict::Leave };
        self.hub.metrics().lag_seen(room.channel.behind_byte(sitter.byte.max(sitter.joined)).seq);
        // Who may skip does so when its socket can be written to again.
        match (lag_passed(sitter, &room.channel, &self.bounds), self.bounds.on_lag) {
            (None, _) | (Some(_), OnLag::Skip) => Verdict::Watch,
            (Some(EndReason::LaggedBytes), OnLag::Disconnect) => {
                Verdict::End(EndReason::LaggedBytes, "subscribers.max_lag_bytes")
            }
            (Some(reason), OnLag::Disconnect) => Verdict::End(reason, "subscribers.max_lag_events"),
        }
    }

    // === leaving ===

    fn drain(&mut self, window: Duration) {
        let now = self.now();
        self.drained_at = Some(Instant::now() + window);
        for (_, sitter) in &mut self.sitters {
            sitter.ends = after(now, window.mul_f64(fastrand::f64() * DRAIN_SHARE));
        }
    }

    fn end_those_whose_time_has_come(&mut self, now: u32) {
        if self.drained_at.is_none() && self.config.max_lifetime.is_zero() {
            return;
        }
        let over = |sitter: &Sitter| sitter.ends != 0 && has_come(now, sitter.ends);
        let keys: Vec<usize> =
            self.sitters.iter().filter(|(_, sitter)| over(sitter)).map(|(key, _)| key).collect();
        let draining = self.drained_at.is_some();
        let reason = if draining { EndReason::Draining } else { EndReason::Lifetime };
        for key in keys {
            self.say_goodbye(key, reason);
        }
    }

    /// Sends a subscriber away, with a proper end if its socket takes it.
    fn say_goodbye(&mut self, key: usize, reason: EndReason) {
        let now = self.now();
        let Some(sitter) = self.sitters.get_mut(key) else { return };
        let mut bytes = Vec::new();
        if let Some(drained_at) = self.drained_at {
            let rest = drained_at.saturating_duration_since(Instant::now());
            let mut text = Vec::new();
            sse::retry(&mut text, goodbye_delay(rest, self.config.reconnect_delay));
            text.push(b'\n');
            sse::chunk(&mut bytes, &text);
        }
        bytes.extend_from_slice(sse::LAST_CHUNK);
        sitter.say(bytes, true);
        let _ = sitter.write_own(now);
        self.dismiss(key, reason);
    }

    /// The time by the shard's clock: see [`since`].
    fn now(&self) -> u32 {
        (millis(self.began.elapsed()) as u32).max(1)
    }

    fn keys(&self) -> Vec<usize> {
        self.sitters.iter().map(|(key, _)| key).collect()
    }
}

/// What is to become of a subscriber whose socket takes nothing.
enum Verdict {
    /// It is not blocked any more.
    Leave,
    Watch,
    End(EndReason, &'static str),
}

fn lifetime(config: &Config, now: u32) -> u32 {
    if config.max_lifetime.is_zero() {
        return 0;
    }
    // Spread, so that those who came together do not come back together.
    let spread = 0.9 + 0.1 * fastrand::f64();
    after(now, config.max_lifetime.mul_f64(spread))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How long ago a moment of a shard's clock was. The clock has 32 bits and wraps every 49 days;
/// what is told with it lies at most half as far apart.
fn since(now: u32, then: u32) -> u64 {
    u64::from(now.wrapping_sub(then))
}

/// Whether a moment of a shard's clock has come.
fn has_come(now: u32, moment: u32) -> bool {
    now.wrapping_sub(moment) <= u32::MAX / 2
}

/// A moment of a shard's clock, so long after another; never zero, which stands for never.
fn after(now: u32, delay: Duration) -> u32 {
    now.wrapping_add(millis(delay) as u32).max(1)
}

//! One subscription over many channels: their events in the hub's one order, behind one cursor.
//!
//! Each channel is a member with a place of its own. A heap holds, for every member with something
//! to read, the offset of what it reads next. The smallest is taken as long as it lies below the
//! watermark (see [`Sequencer`](super::sequencer::Sequencer)); whatever was noted before the
//! watermark was taken cannot be undercut.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use slab::Slab;

use super::Core;
use super::channel::{Ahead, Begin, Channel, Listener};
use super::notice::{End, Gap};
use super::pulse::{EndReason, Place, Pulse};
use super::registry::Watcher;
use super::subscription::{Attachment, Next, Step};
use crate::channel::ChannelPattern;
use crate::event::GapReason;
use crate::limits::{MAX_BATCH_BYTES, MAX_MATCHED_CHANNELS, MAX_MERGE_EVENTS};
use crate::position::Offset;
use crate::store::Read;

/// See the module.
pub(super) struct Merge {
    core: Arc<Core>,
    patterns: Vec<ChannelPattern>,
    /// All patterns are names: the subscription ends when all those channels have.
    exact: bool,
    mailbox: Arc<Mailbox>,
    watcher: Arc<dyn Watcher>,
    members: Slab<Member>,
    /// Members by the address of their channel, which they keep alive.
    known: HashMap<usize, usize>,
    heap: BinaryHeap<Reverse<(Offset, usize)>>,
    cursor: Offset,
    /// What was evicted up to here is known to the subscriber, or was never asked for.
    excused: Offset,
}

struct Member {
    place: Arc<Place>,
    signal: Arc<Signal>,
    /// It stands in the heap.
    queued: bool,
    /// Retention had passed over the cursor, through this offset, when the member joined.
    missing: Option<Offset>,
    _attachment: Attachment,
}

/// What others leave for the reader.
struct Mailbox {
    pulse: Arc<Pulse>,
    appeared: Mutex<Vec<Arc<Channel>>>,
    ready: Mutex<Vec<usize>>,
}

impl Watcher for Mailbox {
    fn channel_appeared(&self, channel: &Arc<Channel>) {
        self.appeared.lock().push(channel.clone());
        self.pulse.channel_changed();
    }
}

/// Listens to one member's channel.
struct Signal {
    member: usize,
    latch: AtomicBool,
    mailbox: Arc<Mailbox>,
}

impl Listener for Signal {
    fn channel_changed(&self) {
        if !self.latch.swap(true, Ordering::SeqCst) {
            self.mailbox.ready.lock().push(self.member);
            self.mailbox.pulse.channel_changed();
        }
    }
}

impl Merge {
    /// Begins to read behind the cursor: the channels of these patterns, now and later.
    pub(super) fn new(
        core: Arc<Core>,
        patterns: Vec<ChannelPattern>,
        cursor: Offset,
        excused: Offset,
    ) -> Self {
        let pulse = Arc::new(Pulse::default());
        let mailbox =
            Arc::new(Mailbox { pulse, appeared: Mutex::default(), ready: Mutex::default() });
        let watcher: Arc<dyn Watcher> = mailbox.clone();
        core.registry.watch(&patterns, &watcher);
        let exact = patterns.iter().all(|pattern| pattern.exact().is_some());
        Self {
            core,
            patterns,
            exact,
            mailbox,
            watcher,
            members: Slab::new(),
            known: HashMap::new(),
            heap: BinaryHeap::new(),
            cursor,
            excused,
        }
    }

    pub(super) fn pulse(&self) -> &Arc<Pulse> {
        &self.mailbox.pulse
    }

    pub(super) fn cursor(&self) -> Offset {
        self.cursor
    }

    /// Whether all channels were named and all have ended before the cursor.
    pub(super) fn is_over(&self) -> bool {
        self.exact && self.members.is_empty()
    }

    /// Takes in a channel. Returns how it ended, if all of it lies before the cursor.
    pub(super) fn adopt(&mut self, channel: &Arc<Channel>) -> Option<End> {
        let address = Arc::as_ptr(channel) as usize;
        if self.known.contains_key(&address) {
            return None;
        }
        if self.members.len() >= MAX_MATCHED_CHANNELS {
            self.core.shared.metrics.limit_hit("matched_channels");
            self.pulse().end(EndReason::TooManyChannels);
            return None;
        }
        let member = self.members.vacant_key();
        let (latch, mailbox) = (AtomicBool::new(false), self.mailbox.clone());
        let signal = Arc::new(Signal { member, latch, mailbox });
        let begin = Begin::After(self.cursor);
        let (beginning, attachment) =
            Attachment::new(&self.core, channel, begin, self.holds(channel), signal.clone())?;
        if beginning.over {
            let (channel, state) = (channel.name().clone(), channel.state());
            return Some(End { channel, state, reason: None });
        }
        let place = Arc::new(Place::new(channel.clone(), beginning.mark));
        self.pulse().add_place(&place);
        let missing =
            (beginning.trimmed && beginning.behind > self.excused).then_some(beginning.behind);
        let queued = false;
        self.members.insert(Member { place, signal, queued, missing, _attachment: attachment });
        self.known.insert(address, member);
        self.queue(member);
        None
    }

    /// A channel that was named stays in memory; one that a wildcard selects does not for that.
    fn holds(&self, channel: &Channel) -> bool {
        self.patterns.iter().any(|pattern| pattern.as_str() == channel.name().as_str())
    }

    /// The next events, gap, or end.
    pub(super) fn next(&mut self) -> Next {
        loop {
            // In this order: what is noted after the watermark was taken is complete below it.
            let watermark = self.core.shared.sequencer.watermark();
            self.empty_mailbox();
            match self.heap.peek() {
                None if self.is_over() => return Next::Finished,
                None => return Next::Pending,
                // Taken after the watermark: the next one lies above it.
                Some(Reverse((offset, _))) if *offset >= watermark => {}
                Some(Reverse((offset, member))) => {
                    let (offset, member) = (*offset, *member);
                    self.heap.pop();
                    if let Some(step) = self.step(member, offset, watermark) {
                        return Next::Step(step);
                    }
                }
            }
        }
    }

    /// Moves all members to the tail, behind one gap.
    pub(super) fn skip(&mut self) -> Next {
        let requested = self.core.shared.sequencer.position(self.cursor).to_string();
        let last = self.core.shared.sequencer.watermark().0 - 1;
        self.cursor = Offset(last);
        self.excused = self.cursor;
        self.empty_mailbox();
        self.heap.clear();
        for member in self.members.iter().map(|(member, _)| member).collect::<Vec<_>>() {
            let Some(member_ref) = self.members.get_mut(member) else {
                continue;
            };
            member_ref.queued = false;
            member_ref.missing = None;
            let beginning = member_ref.place.channel.begin(Begin::After(self.cursor));
            member_ref.place.move_to(beginning.mark);
            self.queue(member);
        }
        Next::Step(Step::Gap(Gap {
            channel: None,
            reason: GapReason::Lagged,
            requested: Some(requested.into()),
            resumed: self.core.shared.sequencer.position(self.cursor),
        }))
    }

    fn empty_mailbox(&mut self) {
        let appeared = std::mem::take(&mut *self.mailbox.appeared.lock());
        for channel in appeared {
            self.adopt(&channel);
        }
        let ready = std::mem::take(&mut *self.mailbox.ready.lock());
        for member in ready {
            let Some(ready) = self.members.get(member) else {
                continue;
            };
            // Cleared before the look ahead: whatever comes later rings again.
            ready.signal.latch.store(false, Ordering::SeqCst);
            self.queue(member);
        }
    }

    /// Notes what the member reads next; a member that has nothing left for ever goes.
    fn queue(&mut self, key: usize) {
        let Some(member) = self.members.get_mut(key).filter(|member| !member.queued) else {
            return;
        };
        let ahead = member.place.channel.look(member.place.mark());
        let offset = match (member.missing, ahead) {
            (Some(missing), _) | (None, Ahead::Trimmed(missing)) => missing,
            (None, Ahead::Event(offset)) => offset,
            (None, Ahead::Nothing) => return,
            (None, Ahead::Over | Ahead::Retired) => return self.dismiss(key),
        };
        member.queued = true;
        self.heap.push(Reverse((offset, key)));
    }

    fn dismiss(&mut self, key: usize) {
        let member = self.members.remove(key);
        self.known.remove(&(Arc::as_ptr(&member.place.channel) as usize));
        self.pulse().remove_place(&member.place);
    }

    /// Reads the member that was first in the heap, where it stood at this offset.
    fn step(&mut self, key: usize, at: Offset, watermark: Offset) -> Option<Step> {
        let member = self.members.get_mut(key)?;
        member.queued = false;
        let channel = member.place.channel.clone();
        let read = channel.read(member.place.mark(), MAX_BATCH_BYTES);
        let step = match (member.missing.take(), read) {
            (None, Read::CaughtUp) => None,
            (None, Read::Run(mut run)) => {
                let next = self.heap.peek().map_or(watermark, |Reverse((offset, _))| *offset);
                run.truncate(next.min(watermark), MAX_MERGE_EVENTS);
                member.place.move_to(run.end());
                let last = run.entries().next_back();
                self.cursor = last.map_or(self.cursor, |last| last.offset);
                last.map(|_| Step::Events { channel, run })
            }
            _ => {
                let start = channel.resume_at_start();
                member.place.move_to(start.mark);
                if start.behind > at {
                    // Retention went on since: the gap has its place further behind.
                    member.missing = Some(start.behind);
                    None
                } else {
                    Some(self.gap(&channel, at))
                }
            }
        };
        self.queue(key);
        step
    }

    fn gap(&mut self, channel: &Channel, through: Offset) -> Step {
        let position = |offset| self.core.shared.sequencer.position(offset);
        let gap = Gap {
            channel: Some(channel.name().clone()),
            reason: GapReason::Evicted,
            requested: Some(position(self.cursor).to_string().into()),
            resumed: position(through),
        };
        self.cursor = through;
        Step::Gap(gap)
    }
}

impl Drop for Merge {
    fn drop(&mut self) {
        self.core.registry.unwatch(&self.patterns, &self.watcher);
    }
}

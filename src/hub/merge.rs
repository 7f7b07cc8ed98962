//! One subscription over many channels: their events in the hub's one order, with one cursor.
//!
//! Each channel is a member with a place of its own. A heap holds, for every member with something
//! to read, the offset of what it reads next. The smallest is taken as long as it lies below the
//! watermark (see [`Sequencer`](super::sequencer::Sequencer)).
//!
//! Why nothing smaller can turn up later: a channel puts its members on the list of those to be
//! looked at before it takes an offset, and it takes offsets under its lock. So whoever notes the
//! watermark, then empties the list, then looks at those members (which waits for their locks) has
//! seen every offset below the watermark.
//!
//! An event of a durable channel has its offset before it is stored, and is read when it is. So an
//! id is given out only up to the last offset before the first that is on its way to the disk: see
//! [`settled`].
//!
//! The members that are to be looked at, and the watermark that was noted before, are a round. One
//! call does a bounded part of a round, and the next goes on with it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use slab::Slab;

use super::channel::{Channel, ChannelListener};
use super::control::{ChannelCursor, EndReason, SubscriptionControl};
use super::control_events::{End, Gap};
use super::presence::Attachment;
use super::read::{PeekResult, Start, StartAt};
use super::registry::Watcher;
use super::subscription::{Next, Step};
use super::{Core, SubscribeError};
use crate::channel::{ChannelName, ChannelPattern};
use crate::event::GapReason;
use crate::limits::{MAX_BATCH_BYTES, MAX_MATCHED_CHANNELS, MAX_MERGE_EVENTS, MAX_MERGE_LOOKS};
use crate::position::{Offset, Position};
use crate::store::{Batch, LogRead, Missing, disk};

/// See the module.
pub(super) struct MergedReader {
    core: Arc<Core>,
    patterns: Vec<ChannelPattern>,
    mailbox: Arc<Mailbox>,
    watcher: Arc<dyn Watcher>,
    members: Slab<Member>,
    /// Members by the address of their channel, which they keep alive.
    known: HashMap<usize, usize>,
    heap: BinaryHeap<Reverse<(Offset, Item)>>,
    /// Channels that are gone and of which something is missing; `None` for those whose names are
    /// forgotten.
    vanished: Vec<Option<ChannelName>>,
    /// What is told before anything else.
    notices: VecDeque<Step>,
    round: Round,
    /// Bytes of the events after gaps that members have.
    behind_gaps: usize,
    cursor: Offset,
    /// What is missing up to here is known to the subscriber, or was never asked for.
    excused: Offset,
    /// Reads until its lag is looked at again.
    lag_due_in: usize,
}

/// What must be looked at before anything below a watermark is read.
#[derive(Default)]
struct Round {
    /// It was noted before the rest was gathered.
    watermark: Offset,
    appeared: VecDeque<Arc<Channel>>,
    ready: VecDeque<usize>,
}

impl Round {
    fn is_over(&self) -> bool {
        self.appeared.is_empty() && self.ready.is_empty()
    }
}

/// What stands in the heap, by its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Member(usize),
    Vanished(usize),
}

struct Member {
    cursor: Arc<ChannelCursor>,
    listener: Arc<MemberListener>,
    /// It stands in the heap.
    queued: bool,
    /// It stands there with the least offset that it can have, and cannot be read yet: what is next
    /// is on disk, or on its way there.
    waits: bool,
    /// Where it begins is not known yet.
    unresolved: bool,
    /// Retention has passed over the cursor, through this offset.
    missing: Option<Offset>,
    /// The event after the gap that was told last of it, in memory of its own.
    after_gap: Option<Batch>,
    _attachment: Attachment,
}

/// What others leave for the reader.
struct Mailbox {
    control: Arc<SubscriptionControl>,
    appeared: Mutex<Vec<Arc<Channel>>>,
    ready: Mutex<Vec<usize>>,
}

impl Watcher for Mailbox {
    fn channel_appeared(&self, channel: &Arc<Channel>) {
        self.appeared.lock().push(channel.clone());
        self.control.channel_changed();
    }
}

/// Listens to one member's channel.
struct MemberListener {
    member: usize,
    /// It stands on the list.
    latch: AtomicBool,
    mailbox: Arc<Mailbox>,
}

impl ChannelListener for MemberListener {
    fn channel_changing(&self) {
        if !self.latch.swap(true, Ordering::SeqCst) {
            self.mailbox.ready.lock().push(self.member);
        }
    }

    fn channel_changed(&self) {
        self.channel_changing();
        self.mailbox.control.channel_changed();
    }
}

/// Where a subscription to many channels begins.
pub(super) struct MergeStart {
    /// It reads what is after this offset.
    pub(super) cursor: Offset,
    /// What is missing up to here is known to the subscriber, or was never asked for.
    pub(super) excused: Offset,
    /// What is told first.
    pub(super) gap: Option<Gap>,
    /// Whether it is told, after that, which of the channels that were named had ended before.
    pub(super) tell_ends: bool,
}

impl MergedReader {
    /// Begins to read the channels of these patterns, those there are and those to come. Where it
    /// begins may depend on the offset after which lies all that they may still give.
    pub(super) fn new(
        core: Arc<Core>,
        patterns: Vec<ChannelPattern>,
        origin: impl FnOnce(&[ChannelPattern], Offset) -> MergeStart,
    ) -> Result<Self, SubscribeError> {
        let mailbox = Arc::new(Mailbox {
            control: Arc::new(SubscriptionControl::default()),
            appeared: Mutex::default(),
            ready: Mutex::default(),
        });
        let watcher: Arc<dyn Watcher> = mailbox.clone();
        // First: a channel that is made later has larger offsets.
        let watermark = core.shared.sequencer.watermark();
        let selected = core.registry.watch(&patterns, &watcher);
        let names = patterns.iter().filter_map(ChannelPattern::exact);
        let named: Vec<_> = names.filter_map(|name| core.registry.get(&name)).collect();
        let now = settled(watermark, named.iter().chain(&selected));
        let MergeStart { cursor, excused, gap, tell_ends } = origin(&patterns, now);
        let mut merge = Self {
            core,
            patterns,
            mailbox,
            watcher,
            members: Slab::new(),
            known: HashMap::new(),
            heap: BinaryHeap::new(),
            vanished: Vec::new(),
            notices: gap.map(Step::Gap).into_iter().collect(),
            round: Round::default(),
            behind_gaps: 0,
            cursor,
            excused,
            lag_due_in: 0,
        };
        let ends = merge.adopt_named()?;
        for channel in &selected {
            // What a wildcard selects and has ended before is none of the subscriber's business.
            merge.adopt(channel);
        }
        merge.remember_gone();
        if merge.control().ended().is_some() {
            return Err(SubscribeError::TooManyMatches);
        }
        if tell_ends {
            merge.tell(ends);
        }
        Ok(merge)
    }

    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(super) fn control(&self) -> &Arc<SubscriptionControl> {
        &self.mailbox.control
    }

    pub(super) fn cursor(&self) -> Offset {
        self.cursor
    }

    /// Whether all channels were named, and there is nothing more to tell of any.
    pub(super) fn is_over(&self) -> bool {
        let exact = self.patterns.iter().all(|pattern| pattern.exact().is_some());
        exact && self.members.is_empty() && self.notices.is_empty()
    }

    /// Whether something must be told before anything else, or the event after a gap.
    pub(super) fn has_notices(&self) -> bool {
        !self.notices.is_empty() || self.behind_gaps > 0
    }

    /// Whether its lag should be looked at, which takes longer the more channels there are: so this
    /// is seldom then, and each read takes as long as ever.
    pub(super) fn lag_is_due(&mut self) -> bool {
        let due = self.lag_due_in == 0;
        self.lag_due_in = if due { self.members.len() / 8 } else { self.lag_due_in - 1 };
        due
    }

    /// The next events, gap, or end.
    pub(super) fn next(&mut self, max_bytes: usize) -> Next {
        let mut looks = MAX_MERGE_LOOKS;
        while looks > 0 {
            if self.round.is_over() {
                self.begin_round();
            }
            looks -= self.look_around(looks - 1) + 1;
            if !self.round.is_over() {
                break;
            }
            let watermark = self.round.watermark;
            if let Some(notice) = self.notices.pop_front() {
                return Next::Step(notice);
            }
            let Some(Reverse((offset, item))) = self.heap.peek().copied() else {
                return if self.is_over() { Next::Finished } else { Next::Pending };
            };
            // An offset that was taken after the watermark was noted lies below the next one.
            if offset < watermark {
                if self.must_wait(item) {
                    return Next::Pending;
                }
                self.heap.pop();
                if let Some(step) = self.take(offset, item, watermark, max_bytes) {
                    return Next::Step(step);
                }
            }
        }
        Next::Again
    }

    /// Moves all members to the tail, after one gap. Ends that are passed over are told after it.
    pub(super) fn skip(&mut self, max_bytes: usize) -> Next {
        let requested = self.position(self.cursor);
        let watermark = self.core.shared.sequencer.watermark();
        let appeared = self.mailbox.appeared.lock().clone();
        let members = self.members.iter().map(|(_, member)| &member.cursor.channel);
        let appeared = appeared.iter().chain(&self.round.appeared);
        let last = settled(watermark, members.chain(appeared));
        if last <= self.cursor {
            // What comes next is on its way to the disk: there is nothing that could be skipped.
            return self.next(max_bytes);
        }
        (self.cursor, self.excused) = (last, last);
        self.look_around(usize::MAX);
        self.begin_round();
        self.look_around(usize::MAX);
        self.heap.clear();
        let keys: Vec<usize> = self.members.iter().map(|(key, _)| key).collect();
        let passed: Vec<End> =
            keys.into_iter().filter_map(|key| self.move_to_cursor(key)).collect();
        self.tell(passed);
        Next::Step(Step::Gap(Gap {
            channel: None,
            reason: GapReason::Lagged,
            requested: Some(requested.to_string().into()),
            resumed: self.position(last),
        }))
    }

    fn move_to_cursor(&mut self, key: usize) -> Option<End> {
        let member = self.members.get_mut(key)?;
        let channel = member.cursor.channel.clone();
        let start = channel.begin(StartAt::After(self.cursor));
        (member.queued, member.missing) = (false, None);
        member.unresolved = start.on_disk.is_some();
        member.cursor.move_to(start.position);
        self.queue(key);
        if start.over { channel.ended() } else { None }
    }

    fn tell(&mut self, ends: Vec<End>) {
        let position = self.position(self.cursor);
        let steps = ends.into_iter().map(|end| Step::Ended { end, position: position.clone() });
        self.notices.extend(steps);
    }

    /// Takes in the channels that were named; they are made if they are not there.
    fn adopt_named(&mut self) -> Result<Vec<End>, SubscribeError> {
        let mut names: Vec<_> = self.patterns.iter().filter_map(ChannelPattern::exact).collect();
        names.sort_unstable();
        names.dedup();
        let mut ends = Vec::new();
        for name in names {
            // One that leaves memory in between is made anew.
            while let channel = self.core.registry.get_or_create(&name)?
                && !self.knows(&channel)
            {
                let end = self.adopt(&channel);
                if end.is_some() || self.control().ended().is_some() {
                    ends.extend(end);
                    break;
                }
            }
        }
        Ok(ends)
    }

    /// Takes in a channel. Returns how it ended, if all of it lies before the cursor.
    fn adopt(&mut self, channel: &Arc<Channel>) -> Option<End> {
        if self.knows(channel) {
            return None;
        }
        if self.members.len() >= MAX_MATCHED_CHANNELS {
            self.core.shared.metrics.limit_hit("matched_channels");
            self.control().end(EndReason::TooManyChannels);
            return None;
        }
        let key = self.members.vacant_key();
        let (latch, mailbox) = (AtomicBool::new(false), self.mailbox.clone());
        let signal = Arc::new(MemberListener { member: key, latch, mailbox });
        let (begin, holds) = (StartAt::After(self.cursor), self.names(channel.name()));
        let (start, attachment) =
            Attachment::new(&self.core, channel, begin, holds, signal.clone());
        if start.over {
            return channel.ended();
        }
        let cursor = Arc::new(ChannelCursor::new(channel.clone(), start.position, channel.end()));
        self.control().add_cursor(&cursor);
        let missing = self.taken(&start);
        let (queued, waits, unresolved) = (false, false, start.on_disk.is_some());
        let _attachment = attachment;
        let after_gap = None;
        let member = Member {
            cursor,
            listener: signal,
            queued,
            waits,
            unresolved,
            missing,
            after_gap,
            _attachment,
        };
        self.members.insert(member);
        self.known.insert(address(channel), key);
        self.queue(key);
        None
    }

    /// What retention has taken from a channel that joins. What its predecessors left was theirs to
    /// tell, or is noted when the subscription begins.
    fn taken(&self, start: &Start) -> Option<Offset> {
        let through = start.last_before;
        let known = self.excused.max(start.inherited);
        (start.trimmed && through > known).then_some(through)
    }

    /// Notes what is missing of channels that left memory after the cursor, whether or not they
    /// have come back. Those that came and went since the watch began are in the mailbox: of them
    /// only what they inherited is missing.
    fn remember_gone(&mut self) {
        let after = self.cursor.max(self.excused);
        let mut missing: HashMap<Option<ChannelName>, Offset> = HashMap::new();
        for (tail, name) in self.core.registry.gone(&self.patterns, after) {
            missing.insert(name, tail);
        }
        let appeared = self.mailbox.appeared.lock().clone();
        let members = self.members.iter().map(|(_, member)| &member.cursor.channel);
        let mut lives: Vec<_> =
            members.chain(&appeared).map(|c| (c.inherited(), c.name())).collect();
        // The eldest life of a name last: it decides.
        lives.sort_unstable_by(|a, b| b.cmp(a));
        for (inherited, name) in lives {
            missing.insert(Some(name.clone()), inherited);
        }
        // What retention took is told by the member, and covers what was inherited.
        for (_, member) in self.members.iter().filter(|(_, member)| member.missing.is_some()) {
            missing.remove(&Some(member.cursor.channel.name().clone()));
        }
        for (name, through) in missing.into_iter().filter(|(_, through)| *through > after) {
            self.heap.push(Reverse((through, Item::Vanished(self.vanished.len()))));
            self.vanished.push(name);
        }
    }

    fn knows(&self, channel: &Arc<Channel>) -> bool {
        self.known.contains_key(&address(channel))
    }

    /// A channel that was named stays in memory; one that a wildcard selects does not for that.
    fn names(&self, name: &ChannelName) -> bool {
        self.patterns.iter().any(|pattern| pattern.as_str() == name.as_str())
    }

    fn begin_round(&mut self) {
        // In this order: see the module.
        let watermark = self.core.shared.sequencer.watermark();
        let mut appeared = std::mem::take(&mut *self.mailbox.appeared.lock());
        // One that several patterns select is announced for each of them.
        let mut seen = HashSet::new();
        appeared.retain(|channel| seen.insert(address(channel)));
        let ready = std::mem::take(&mut *self.mailbox.ready.lock());
        self.round = Round { watermark, appeared: appeared.into(), ready: ready.into() };
    }

    /// Looks at this many members of the round at most. Returns at how many it has.
    fn look_around(&mut self, most: usize) -> usize {
        for looked in 0..most {
            if let Some(channel) = self.round.appeared.pop_front() {
                let end = self.adopt(&channel);
                self.tell(end.into_iter().collect());
            } else if let Some(key) = self.round.ready.pop_front() {
                let Some(member) = self.members.get(key) else { continue };
                // Cleared before the look ahead: whatever comes later is noted again.
                member.listener.latch.store(false, Ordering::SeqCst);
                self.queue(key);
            } else {
                return looked;
            }
        }
        most
    }

    /// Notes what the member reads next; a member that has nothing left for ever goes.
    fn queue(&mut self, key: usize) {
        let Some(member) = self.members.get_mut(key).filter(|member| !member.queued) else {
            return;
        };
        let after_gap = member.after_gap.as_ref().and_then(|batch| batch.entries().next());
        let ahead = match after_gap {
            Some(event) => PeekResult::Event(event.offset),
            None if member.unresolved => PeekResult::OnDisk,
            None => member.cursor.channel.look(member.cursor.position()),
        };
        member.waits =
            matches!(ahead, PeekResult::OnDisk | PeekResult::Coming(_)) && member.missing.is_none();
        let offset = match (member.missing, ahead) {
            (Some(missing), _) => missing,
            (None, PeekResult::Missing(missing)) => missing.to.last_trimmed,
            (None, PeekResult::Event(offset) | PeekResult::Coming(offset)) => offset,
            // All up to the cursor was read.
            (None, PeekResult::OnDisk) => Offset(self.cursor.0 + 1),
            (None, PeekResult::Nothing) => return,
            (None, PeekResult::Over | PeekResult::Retired) => return self.dismiss(key),
        };
        member.queued = true;
        self.heap.push(Reverse((offset, Item::Member(key))));
    }

    /// Whether what is first in the heap is to be fetched from disk.
    pub(super) fn is_fetching(&self) -> bool {
        let Some(Reverse((_, Item::Member(key)))) = self.heap.peek() else { return false };
        let member = self.members.get(*key).filter(|member| member.waits);
        member.is_some_and(|member| {
            let cursor = &member.cursor;
            member.unresolved || cursor.channel.look(cursor.position()) == PeekResult::OnDisk
        })
    }

    /// Whether what is first in the heap is still to come from the disk, or to get there. If it has
    /// come, or never will, its member gets the place that is right now.
    fn must_wait(&mut self, item: Item) -> bool {
        let Item::Member(key) = item else { return false };
        let Some(member) = self.members.get_mut(key).filter(|member| member.waits) else {
            return false;
        };
        let channel = member.cursor.channel.clone();
        if member.unresolved {
            let start = channel.begin(StartAt::After(self.cursor));
            if let Some(seek) = start.on_disk {
                channel.want(seek);
                return true;
            }
            member.unresolved = false;
            member.cursor.move_to(start.position);
        }
        match channel.look(member.cursor.position()) {
            PeekResult::Coming(_) => true,
            PeekResult::OnDisk => {
                channel.want(disk::Seek::Seq(member.cursor.position().seq));
                true
            }
            _ => false,
        }
    }

    fn dismiss(&mut self, key: usize) {
        let member = self.members.remove(key);
        self.known.remove(&address(&member.cursor.channel));
        self.control().remove_cursor(&member.cursor);
    }

    /// Takes what was first in the heap, at this offset.
    fn take(
        &mut self,
        offset: Offset,
        item: Item,
        watermark: Offset,
        max_bytes: usize,
    ) -> Option<Step> {
        match item {
            Item::Vanished(vanished) => {
                Some(self.gap(self.vanished.get(vanished)?.clone(), offset, GapReason::Evicted))
            }
            Item::Member(key) => {
                let step = self.read(key, offset, watermark, max_bytes);
                self.queue(key);
                step
            }
        }
    }

    fn read(
        &mut self,
        key: usize,
        at: Offset,
        watermark: Offset,
        max_bytes: usize,
    ) -> Option<Step> {
        let member = self.members.get_mut(key)?;
        member.queued = false;
        let channel = member.cursor.channel.clone();
        if let Some(batch) = member.after_gap.take() {
            self.behind_gaps -= batch.bytes().len();
            member.cursor.move_to(batch.end());
            self.cursor = batch.entries().next_back()?.offset;
            return Some(Step::Events { channel, batch });
        }
        let read = channel.read(member.cursor.position(), max_bytes);
        match (member.missing.take(), read) {
            (None, LogRead::CaughtUp | LogRead::OnDisk) => None,
            (None, LogRead::Batch(mut batch)) => {
                // An id of other channels may lie after what was on its way to the disk here.
                batch.skip_through(self.cursor);
                member.cursor.move_to(batch.start());
                // What stands in the heap at the same offset only waits, and has a larger one.
                let next = self.heap.peek().map_or(watermark, |Reverse((offset, _))| *offset);
                batch.truncate(next.max(Offset(at.0 + 1)).min(watermark), MAX_MERGE_EVENTS);
                // Perhaps nothing: its place in the heap was the least that it could have.
                let last = batch.entries().next_back()?;
                member.cursor.move_to(batch.end());
                self.cursor = last.offset;
                Some(Step::Events { channel, batch })
            }
            (_, LogRead::Missing(Missing { to, reason })) => {
                member.cursor.move_to(to.position);
                if to.last_trimmed > at {
                    // Retention went on since: the gap has its place further after.
                    member.missing = Some(to.last_trimmed);
                    return None;
                }
                self.gap_of(key, at, reason)
            }
            (Some(_), _) => self.gap_of(key, at, GapReason::Evicted),
        }
    }

    /// Tells of a gap, and keeps the event after it: retention may go on before the reader comes
    /// to that, and must not make a second gap. What is kept is bounded; where many channels have
    /// large events there may be two.
    fn gap_of(&mut self, key: usize, through: Offset, reason: GapReason) -> Option<Step> {
        let member = self.members.get_mut(key)?;
        let channel = member.cursor.channel.clone();
        match channel.read(member.cursor.position(), 1) {
            LogRead::Batch(batch) => {
                let bytes = batch.bytes().len();
                if self.behind_gaps == 0 || self.behind_gaps + bytes <= MAX_BATCH_BYTES {
                    member.after_gap = Some(batch.detached());
                    self.behind_gaps += bytes;
                }
            }
            LogRead::Missing(Missing { to, .. }) if to.last_trimmed > through => {
                member.cursor.move_to(to.position);
                member.missing = Some(to.last_trimmed);
                return None;
            }
            LogRead::Missing(_) | LogRead::CaughtUp | LogRead::OnDisk => {}
        }
        Some(self.gap(Some(channel.name().clone()), through, reason))
    }

    fn gap(&mut self, channel: Option<ChannelName>, through: Offset, reason: GapReason) -> Step {
        let requested = Some(self.position(self.cursor).to_string().into());
        // Of what the disk has lost, the last offset is not known: this one may be the offset of
        // another channel's event, which is still to come. Its id must not be given out before it.
        let next = self.heap.peek().map(|Reverse((offset, _))| *offset);
        let taken = next == Some(through) && through > self.cursor;
        self.cursor = if taken { Offset(through.0 - 1) } else { through };
        let resumed = self.position(self.cursor);
        Step::Gap(Gap { channel, reason, requested, resumed })
    }

    fn position(&self, offset: Offset) -> Position {
        self.core.shared.sequencer.position(offset)
    }
}

impl Drop for MergedReader {
    fn drop(&mut self) {
        self.core.registry.unwatch(&self.patterns, &self.watcher);
    }
}

/// The offset after which lies all that these channels may still give a reader: below the
/// watermark, which was noted before they were gathered, and below all that is on its way to the
/// disk.
fn settled<'a>(watermark: Offset, channels: impl Iterator<Item = &'a Arc<Channel>>) -> Offset {
    let coming = channels.filter_map(|channel| channel.coming());
    Offset(coming.fold(watermark, Offset::min).0 - 1)
}

/// What tells one life of a channel from another of the same name.
fn address(channel: &Arc<Channel>) -> usize {
    Arc::as_ptr(channel) as usize
}

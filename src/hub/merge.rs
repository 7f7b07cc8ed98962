//! One subscription over many channels: their events in the hub's one order, with one cursor.
//!
//! Each channel is a member with a position of its own. A heap holds, for every member with
//! something to read, the offset of its next event. The smallest is read while it is below the
//! watermark (see [`Sequencer`](super::sequencer::Sequencer)).
//!
//! No smaller offset can appear later: a channel adds its members to the ready list before it takes
//! an offset, and takes offsets under its lock. A reader that notes the watermark, then empties the
//! list, then checks those members (which waits for their locks) has seen every offset below the
//! watermark.
//!
//! An event of a durable channel has its offset before it is stored, and is read after. So an id is
//! sent only if it is below the first offset that is not stored yet: see [`settled`].
//!
//! A round is a watermark with the members to check before anything below it is read. One call does
//! a bounded part of a round, and the next call continues it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use slab::Slab;

use super::channel::{Channel, ChannelListener};
use super::control::{ChannelCursor, EndReason, SubscriptionControl};
use super::control_events::{End, Gap};
use super::core::Core;
use super::error::SubscribeError;
use super::presence::Attachment;
use super::read::{PeekResult, Start, StartAt};
use super::registry::Watcher;
use super::subscription_step::{Next, Step};
use crate::channel::{ChannelName, ChannelPattern};
use crate::event::GapReason;
use crate::limits::{MAX_BATCH_BYTES, MAX_MATCHED_CHANNELS, MAX_MERGE_EVENTS, MAX_MERGE_LOOKS};
use crate::position::{Offset, Position};
use crate::store::{Batch, LogRead, Missing, disk};

/// The reader of a subscription to many channels: a merge of their logs by offset.
pub(super) struct MergedReader {
    core: Arc<Core>,
    patterns: Vec<ChannelPattern>,
    mailbox: Arc<Mailbox>,
    watcher: Arc<dyn Watcher>,
    members: Slab<Member>,
    /// Members by the address of their channel, which they keep alive.
    known: HashMap<usize, usize>,
    heap: BinaryHeap<Reverse<(Offset, Item)>>,
    /// Evicted channels of which events are missing; `None` for those whose names are forgotten.
    vanished: Vec<Option<ChannelName>>,
    /// Steps to return before any event.
    notices: VecDeque<Step>,
    round: Round,
    /// Bytes of the members' [`after_gap`](Member::after_gap) batches.
    after_gap_bytes: usize,
    cursor: Offset,
    /// The offset up to which missing events cause no gap: the subscriber knows of them, or never
    /// asked for them.
    excused: Offset,
    /// Number of reads until the lag is checked again.
    lag_due_in: usize,
}

/// A watermark, and what must be checked before anything below it is read.
#[derive(Default)]
struct Round {
    /// Noted before the lists were emptied.
    watermark: Offset,
    appeared: VecDeque<Arc<Channel>>,
    ready: VecDeque<usize>,
}

impl Round {
    fn is_over(&self) -> bool {
        self.appeared.is_empty() && self.ready.is_empty()
    }
}

/// An item in the heap, by its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Member(usize),
    Vanished(usize),
}

struct Member {
    cursor: Arc<ChannelCursor>,
    listener: Arc<MemberListener>,
    /// Whether it is in the heap.
    queued: bool,
    /// Whether its offset in the heap is only a lower bound: its next event is on disk, or not
    /// stored yet.
    waits: bool,
    /// Whether its start position must still be read from disk.
    unresolved: bool,
    /// Retention has passed the cursor, up to this offset.
    missing: Option<Offset>,
    /// The event after its last gap, copied out of its segment.
    after_gap: Option<Batch>,
    _attachment: Attachment,
}

/// The lists that channels and the registry fill for the reader.
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

/// The listener at one member's channel.
struct MemberListener {
    member: usize,
    /// Set while the member is in the ready list.
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

/// The start of a subscription to many channels.
pub(super) struct MergeStart {
    /// Events after this offset are read.
    pub(super) cursor: Offset,
    /// The offset up to which missing events cause no gap: the subscriber knows of them, or never
    /// asked for them.
    pub(super) excused: Offset,
    /// The first step, if events are missing.
    pub(super) gap: Option<Gap>,
    /// Whether the ends of named channels that ended before the cursor are sent next.
    pub(super) tell_ends: bool,
}

impl MergedReader {
    /// Begins to read the channels that these patterns select, now and later. `origin` returns the
    /// start for the patterns and the [`settled`] offset.
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
        // Noted first: a channel that is made later has larger offsets.
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
            after_gap_bytes: 0,
            cursor,
            excused,
            lag_due_in: 0,
        };
        let ends = merge.adopt_named()?;
        for channel in &selected {
            // The subscriber did not name it, so an end from before the subscription is not sent.
            merge.adopt(channel);
        }
        merge.remember_gone();
        if merge.control().ended().is_some() {
            return Err(SubscribeError::TooManyMatches);
        }
        if tell_ends {
            merge.queue_ends(ends);
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

    /// Returns whether all channels were named, and nothing is left to send of any.
    pub(super) fn is_over(&self) -> bool {
        let exact = self.patterns.iter().all(|pattern| pattern.exact().is_some());
        exact && self.members.is_empty() && self.notices.is_empty()
    }

    /// Returns whether a notice, or the event after a gap, is waiting.
    pub(super) fn has_notices(&self) -> bool {
        !self.notices.is_empty() || self.after_gap_bytes > 0
    }

    /// Returns whether to check the lag. The check takes longer with more channels, so it is then
    /// rarer, and the mean cost of a read stays the same.
    pub(super) fn lag_is_due(&mut self) -> bool {
        let due = self.lag_due_in == 0;
        self.lag_due_in = if due { self.members.len() / 8 } else { self.lag_due_in - 1 };
        due
    }

    /// Returns the next events, gap, or end.
    pub(super) fn next(&mut self, max_bytes: usize) -> Next {
        let mut looks = MAX_MERGE_LOOKS;
        while looks > 0 {
            if self.round.is_over() {
                self.begin_round();
            }
            looks -= self.check_lists(looks - 1) + 1;
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
            // An offset that was taken after the watermark was noted is below the next one. In a
            // cluster, it may be still to pass: readers are notified after that.
            let sequencer = &self.core.shared.sequencer;
            if offset >= watermark && sequencer.is_shared() && sequencer.watermark() <= watermark {
                return Next::Pending;
            }
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

    /// Moves all members to the tail, after one gap. Ends that are skipped are sent after it.
    pub(super) fn skip(&mut self, max_bytes: usize) -> Next {
        let requested = self.position(self.cursor);
        let watermark = self.core.shared.sequencer.watermark();
        let appeared = self.mailbox.appeared.lock().clone();
        let members = self.members.iter().map(|(_, member)| &member.cursor.channel);
        let appeared = appeared.iter().chain(&self.round.appeared);
        let last = settled(watermark, members.chain(appeared));
        if last <= self.cursor {
            // The next events are not stored yet: there is nothing to skip.
            return self.next(max_bytes);
        }
        (self.cursor, self.excused) = (last, last);
        self.check_lists(usize::MAX);
        self.begin_round();
        self.check_lists(usize::MAX);
        self.heap.clear();
        let keys: Vec<usize> = self.members.iter().map(|(key, _)| key).collect();
        let passed: Vec<End> =
            keys.into_iter().filter_map(|key| self.move_to_cursor(key)).collect();
        self.queue_ends(passed);
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

    fn queue_ends(&mut self, ends: Vec<End>) {
        let position = self.position(self.cursor);
        let steps = ends.into_iter().map(|end| Step::Ended { end, position: position.clone() });
        self.notices.extend(steps);
    }

    /// Adds the named channels, and makes those that do not exist. Returns the ends before the
    /// cursor.
    fn adopt_named(&mut self) -> Result<Vec<End>, SubscribeError> {
        let mut names: Vec<_> = self.patterns.iter().filter_map(ChannelPattern::exact).collect();
        names.sort_unstable();
        names.dedup();
        let mut ends = Vec::new();
        for name in names {
            // A channel that leaves memory in between is made again.
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

    /// Adds a channel. Returns its end, if all of it is before the cursor.
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
        let latch = AtomicBool::new(false);
        let mailbox = self.mailbox.clone();
        let listener = Arc::new(MemberListener { member: key, latch, mailbox });
        let begin = StartAt::After(self.cursor);
        let holds = self.names(channel.name());
        let (start, attachment) =
            Attachment::new(&self.core, channel, begin, holds, listener.clone());
        if start.over {
            return channel.ended();
        }
        let cursor = Arc::new(ChannelCursor::new(channel.clone(), start.position, channel.end()));
        self.control().add_cursor(&cursor);
        let missing = self.taken(&start);
        let queued = false;
        let waits = false;
        let unresolved = start.on_disk.is_some();
        let _attachment = attachment;
        let after_gap = None;
        let member =
            Member { cursor, listener, queued, waits, unresolved, missing, after_gap, _attachment };
        self.members.insert(member);
        self.known.insert(address(channel), key);
        self.queue(key);
        None
    }

    /// Returns the offset up to which retention has trimmed a channel that joins. Events of earlier
    /// channels of the name are noted when the subscription begins.
    fn taken(&self, start: &Start) -> Option<Offset> {
        let through = start.last_before;
        let known = self.excused.max(start.inherited);
        (start.trimmed && through > known).then_some(through)
    }

    /// Notes what is missing of channels that left memory after the cursor, whether or not they
    /// exist again. Those that were made since the watch began are in the mailbox: of them only
    /// what they inherited is missing.
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
        // The oldest channel of a name last: it decides.
        lives.sort_unstable_by(|a, b| b.cmp(a));
        for (inherited, name) in lives {
            missing.insert(Some(name.clone()), inherited);
        }
        // Events that retention trimmed are reported by the member, and include what was inherited.
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

    /// Returns whether a pattern is exactly this name: such a channel is held in memory, and one
    /// that a wildcard selects is not.
    fn names(&self, name: &ChannelName) -> bool {
        self.patterns.iter().any(|pattern| pattern.as_str() == name.as_str())
    }

    fn begin_round(&mut self) {
        // The watermark first, then the lists: see the proof at the top of this file.
        let watermark = self.core.shared.sequencer.watermark();
        let mut appeared = std::mem::take(&mut *self.mailbox.appeared.lock());
        // A channel that several patterns select is announced for each of them.
        let mut seen = HashSet::new();
        appeared.retain(|channel| seen.insert(address(channel)));
        let ready = std::mem::take(&mut *self.mailbox.ready.lock());
        self.round = Round { watermark, appeared: appeared.into(), ready: ready.into() };
    }

    /// Checks at most this many members of the round. Returns the number checked.
    fn check_lists(&mut self, most: usize) -> usize {
        for looked in 0..most {
            if let Some(channel) = self.round.appeared.pop_front() {
                let end = self.adopt(&channel);
                self.queue_ends(end.into_iter().collect());
            } else if let Some(key) = self.round.ready.pop_front() {
                let Some(member) = self.members.get(key) else { continue };
                // Cleared before the check: a later change lists the member again.
                member.listener.latch.store(false, Ordering::SeqCst);
                self.queue(key);
            } else {
                return looked;
            }
        }
        most
    }

    /// Puts the member's next offset into the heap. A member that has nothing left for ever is
    /// removed.
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
        member.waits = matches!(ahead, PeekResult::OnDisk | PeekResult::Pending(_))
            && member.missing.is_none();
        let offset = match (member.missing, ahead) {
            (Some(missing), _) => missing,
            (None, PeekResult::Missing(missing)) => missing.to.last_trimmed,
            (None, PeekResult::Event(offset) | PeekResult::Pending(offset)) => offset,
            // Everything up to the cursor was read.
            (None, PeekResult::OnDisk) => Offset(self.cursor.0 + 1),
            (None, PeekResult::Nothing) => return,
            (None, PeekResult::Over | PeekResult::Retired) => return self.dismiss(key),
        };
        member.queued = true;
        self.heap.push(Reverse((offset, Item::Member(key))));
    }

    /// Returns whether the first item in the heap is on disk, or was there at the last read and is
    /// loaded now.
    pub(super) fn is_fetching(&self) -> bool {
        let Some(Reverse((_, Item::Member(key)))) = self.heap.peek() else { return false };
        let member = self.members.get(*key).filter(|member| member.waits);
        member.is_some_and(|member| member.unresolved || member.cursor.has_unread())
    }

    /// Returns whether the first item in the heap waits for a read from disk or a write to it.
    /// Resolves the member's start once that is read.
    fn must_wait(&mut self, item: Item) -> bool {
        let Item::Member(key) = item else { return false };
        let Some(member) = self.members.get_mut(key).filter(|member| member.waits) else {
            return false;
        };
        let channel = member.cursor.channel.clone();
        if member.unresolved {
            let start = channel.begin(StartAt::After(self.cursor));
            if let Some(seek) = start.on_disk {
                channel.fetch(seek);
                return true;
            }
            member.unresolved = false;
            member.cursor.move_to(start.position);
        }
        match channel.look(member.cursor.position()) {
            PeekResult::Pending(_) => true,
            PeekResult::OnDisk => {
                channel.fetch(disk::Seek::Seq(member.cursor.position().seq));
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

    /// Takes the item that was first in the heap, at this offset.
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
            self.after_gap_bytes -= batch.bytes().len();
            member.cursor.move_to(batch.end());
            self.cursor = batch.entries().next_back()?.offset;
            return Some(Step::Events { channel, batch });
        }
        let read = channel.read(member.cursor.position(), max_bytes);
        match (member.missing.take(), read) {
            (None, LogRead::CaughtUp | LogRead::OnDisk) => None,
            (None, LogRead::Batch(mut batch)) => {
                // The cursor may be past events of this channel that were not stored when it moved
                // on.
                batch.skip_through(self.cursor);
                member.cursor.move_to(batch.start());
                // An item at the same offset only waits, and its event has a larger one.
                let next = self.heap.peek().map_or(watermark, |Reverse((offset, _))| *offset);
                batch.truncate(next.max(Offset(at.0 + 1)).min(watermark), MAX_MERGE_EVENTS);
                // Empty if the offset in the heap was only a lower bound.
                let last = batch.entries().next_back()?;
                member.cursor.move_to(batch.end());
                self.cursor = last.offset;
                Some(Step::Events { channel, batch })
            }
            (_, LogRead::Missing(Missing { to, reason })) => {
                member.cursor.move_to(to.position);
                if to.last_trimmed > at {
                    // Retention has passed this offset since: the gap moves to a later one.
                    member.missing = Some(to.last_trimmed);
                    return None;
                }
                self.gap_of(key, at, reason)
            }
            (Some(_), _) => self.gap_of(key, at, GapReason::Evicted),
        }
    }

    /// Returns a gap, and keeps a copy of the event after it: retention may pass that event before
    /// it is read, and would cause a second gap. The copies are bounded; with large events in many
    /// channels there may be two gaps.
    fn gap_of(&mut self, key: usize, through: Offset, reason: GapReason) -> Option<Step> {
        let member = self.members.get_mut(key)?;
        let channel = member.cursor.channel.clone();
        match channel.read(member.cursor.position(), 1) {
            LogRead::Batch(batch) => {
                let bytes = batch.bytes().len();
                if self.after_gap_bytes == 0 || self.after_gap_bytes + bytes <= MAX_BATCH_BYTES {
                    member.after_gap = Some(batch.detached());
                    self.after_gap_bytes += bytes;
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
        // The last offset that the disk has lost is not known: this one may be the offset of
        // another channel's event that is still to be sent. Its id must not be sent before it.
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

/// Returns the offset after which lies all that these channels may still give a reader: below the
/// watermark, which was noted before the channels were gathered, and below every event that is not
/// stored yet.
fn settled<'a>(watermark: Offset, channels: impl Iterator<Item = &'a Arc<Channel>>) -> Offset {
    let pending = channels.filter_map(|channel| channel.first_pending());
    Offset(pending.fold(watermark, Offset::min).0 - 1)
}

/// Identifies one life of a channel among others of the same name.
fn address(channel: &Arc<Channel>) -> usize {
    Arc::as_ptr(channel) as usize
}

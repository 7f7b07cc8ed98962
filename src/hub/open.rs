//! Opens subscriptions: finds where each begins, and what is sent first.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Hub;
use super::channel::Channel;
use super::control_events::{Gap, OpeningEvent};
use super::error::{SubscribeError, TooManyChannels};
use super::merge::{MergeStart, MergedReader};
use super::presence::{Counted, Presence};
use super::read::{Start, StartAt};
use super::subscription::Subscription;
use super::subscription_step::Bounds;
use super::ticket::{ChannelTicket, ManyTicket, Ticket, TicketHead, TicketKind};
use crate::channel::{ChannelName, ChannelPattern};
use crate::event::GapReason;
use crate::limits::{MAX_EVENT_ID_BYTES, MAX_LAST_EVENTS};
use crate::position::{Offset, Position, StartFrom};

/// Time for which an id that this hub has not applied is waited for.
const MAX_AHEAD: Duration = Duration::from_secs(5);

/// The channels that a subscription reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// One channel.
    One(ChannelName),
    /// All channels of these patterns, in the hub's one order.
    Many(Vec<ChannelPattern>),
}

/// The result of opening a subscription.
pub enum Opened<T> {
    /// There is something to read, or there may be.
    Live(T),
    /// The subscriber has seen the end of all that it asks for.
    Over,
    /// The start must be read from disk first: open again after that.
    Later(Later),
}

/// Pending reads from disk.
pub struct Later(Vec<oneshot::Receiver<()>>);

impl Later {
    /// Resolves when all of it has been read.
    pub async fn over(self) {
        for read in self.0 {
            // A channel that is gone sends nothing: opening again finds that out.
            let _ = read.await;
        }
    }
}

/// A start in each channel, with a gap if the requested one cannot be used.
struct ResolvedStart {
    begin: StartAt,
    gap: Option<(GapReason, Box<str>)>,
}

impl Hub {
    /// Opens a subscription and reads it in this task: see [`open`](Self::open).
    ///
    /// # Errors
    /// There are too many channels, or the patterns select too many.
    pub fn subscribe(
        &self,
        selection: Selection,
        from: &StartFrom,
        bounds: Bounds,
    ) -> Result<Opened<Subscription>, SubscribeError> {
        Ok(match self.open(selection, from)? {
            Opened::Live(ticket) => Opened::Live(ticket.subscribe(bounds)),
            Opened::Over => Opened::Over,
            Opened::Later(later) => Opened::Later(later),
        })
    }

    /// Waits until this hub has applied the event after which a subscription begins, for a short
    /// time: a client that comes from another hub of the cluster may be ahead of this one.
    pub async fn reach(&self, from: &StartFrom) {
        if let StartFrom::After(text) = from
            && self.0.shared.sequencer.is_shared()
            && let Ok(position) = text.parse::<Position>()
        {
            let _ = timeout(MAX_AHEAD, self.0.shared.sequencer.reach(&position)).await;
        }
    }

    /// Opens a subscription. It is counted and its start is fixed; the ticket decides who reads it.
    ///
    /// # Errors
    /// There are too many channels, or the patterns select too many.
    pub fn open(
        &self,
        selection: Selection,
        from: &StartFrom,
    ) -> Result<Opened<Ticket>, SubscribeError> {
        match selection {
            Selection::One(name) => Ok(self.open_one(&name, from)?),
            Selection::Many(patterns) => self.open_many(patterns, from),
        }
    }

    fn open_one(
        &self,
        name: &ChannelName,
        from: &StartFrom,
    ) -> Result<Opened<Ticket>, TooManyChannels> {
        let start = self.start(from);
        if let StartAt::After(offset) = start.begin
            && self.0.registry.get(name).is_none()
            && self.0.registry.was_deleted_at(name, offset)
        {
            return Ok(Opened::Over);
        }
        // Noted first: all events before it are in the channel, as far as they are of this channel.
        let watermark = self.0.shared.sequencer.watermark();
        let (channel, mut beginning, presence) = loop {
            let channel = self.0.registry.get_or_create(name)?;
            let (beginning, presence) = Presence::join(&self.0, &channel, start.begin);
            if let Some(seek) = beginning.on_disk {
                return Ok(Opened::Later(Later(vec![channel.fetched(seek)])));
            }
            if !beginning.retired {
                break (channel, beginning, presence);
            }
        };
        let mut snapshot = None;
        if *from == StartFrom::Snapshot {
            (beginning, snapshot) = channel.begin_with_snapshot();
        }
        if beginning.over {
            return Ok(Opened::Over);
        }
        let gap = self.gap_of_one(start, &beginning, name);
        let at_tail = beginning.at_tail && matches!(from, StartFrom::Tail | StartFrom::Last(_));
        let opening = at_tail.then(|| OpeningEvent::of_one(name, beginning.state).data().into());
        let snapshot = snapshot.map(|snapshot| {
            let position = self.position(snapshot.through);
            (snapshot, position)
        });
        let start = self.position(self.start_of(&beginning, watermark));
        Ok(Opened::Live(Ticket(TicketKind::One(Box::new(ChannelTicket {
            presence,
            counted: self.count_start(from),
            position: beginning.position,
            joined: channel.end(),
            head: TicketHead { start, opening, gap, snapshot },
            last_before: beginning.last_before,
        })))))
    }

    /// Returns the offset that a subscription has before its first event. In a cluster, the place
    /// where the events of a channel begin differs by hub: where there is none, it is the place in
    /// the log, which is the same at all hubs.
    fn start_of(&self, beginning: &Start, watermark: Offset) -> Offset {
        let is_empty = beginning.at_tail && beginning.position.seq == 0;
        if is_empty && self.0.shared.sequencer.is_shared() {
            return beginning.last_before.max(Offset(watermark.0.saturating_sub(1)));
        }
        beginning.last_before
    }

    fn gap_of_one(&self, start: ResolvedStart, at: &Start, name: &ChannelName) -> Option<Gap> {
        let (reason, requested) = match (start.gap, start.begin) {
            (Some(gap), _) => gap,
            (None, StartAt::After(offset)) if at.trimmed => {
                (GapReason::Evicted, self.position(offset).to_string().into())
            }
            _ => return None,
        };
        let resumed = self.position(at.last_before);
        Some(Gap { channel: Some(name.clone()), reason, requested: Some(requested), resumed })
    }

    fn count_start(&self, from: &StartFrom) -> Counted {
        Counted::start(self.metrics(), matches!(from, StartFrom::After(_)))
    }

    fn open_many(
        &self,
        patterns: Vec<ChannelPattern>,
        from: &StartFrom,
    ) -> Result<Opened<Ticket>, SubscribeError> {
        if *from == StartFrom::Snapshot {
            return Err(SubscribeError::SnapshotOfMany);
        }
        let ResolvedStart { begin, gap } = self.start(from);
        let at_tail = matches!(from, StartFrom::Tail | StartFrom::Last(0));
        let opening = at_tail.then(|| OpeningEvent::of_many(&patterns).data().into());
        let origin = |patterns: &[ChannelPattern], now| {
            let (cursor, excused) = match begin {
                StartAt::After(offset) => (offset, offset),
                StartAt::Earliest => (Offset::ZERO, now),
                StartAt::Last(count) if count > 0 => {
                    (self.before_last(patterns, count.min(MAX_LAST_EVENTS)).min(now), now)
                }
                StartAt::Tail | StartAt::Last(_) | StartAt::At(_) => (now, now),
            };
            let gap = gap.map(|(reason, requested)| Gap {
                channel: None,
                reason,
                requested: Some(requested),
                resumed: self.position(cursor),
            });
            // A resumed subscription has had the ends before the cursor; any other has not.
            MergeStart { cursor, excused, gap, tell_ends: !matches!(begin, StartAt::After(_)) }
        };
        let resumes = matches!(begin, StartAt::After(_));
        let merge = MergedReader::new(self.0.clone(), patterns, origin)?;
        if resumes && merge.is_over() {
            return Ok(Opened::Over);
        }
        let counted = self.count_start(from);
        let start = self.position(merge.cursor());
        let ticket = ManyTicket { merge, counted, start, opening };
        Ok(Opened::Live(Ticket(TicketKind::Many(Box::new(ticket)))))
    }

    /// Returns the offset after which the last `count` events of all these channels begin.
    fn before_last(&self, patterns: &[ChannelPattern], count: u64) -> Offset {
        let selected = |channel: &&Arc<Channel>| {
            patterns.iter().any(|pattern| pattern.matches(channel.name()))
        };
        let channels = self.0.registry.all();
        let offsets = channels.iter().filter(selected).flat_map(|c| c.last_offsets(count));
        let mut offsets: Vec<Offset> = offsets.collect();
        offsets.sort_unstable();
        let skipped = offsets.len().saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
        offsets.get(skipped).map_or(Offset::ZERO, |first| Offset(first.0 - 1))
    }

    fn start(&self, from: &StartFrom) -> ResolvedStart {
        let begin = |begin| ResolvedStart { begin, gap: None };
        let text = match from {
            StartFrom::Tail => return begin(StartAt::Tail),
            // The channel knows the position of its snapshot, once the subscription is attached.
            StartFrom::Earliest | StartFrom::Snapshot => return begin(StartAt::Earliest),
            StartFrom::Last(count) => return begin(StartAt::Last(*count)),
            StartFrom::After(text) => text,
        };
        let sequencer = &self.0.shared.sequencer;
        let reason = match text.parse::<Position>() {
            Ok(position) if position.epoch != *sequencer.epoch() => GapReason::Epoch,
            Ok(position) if position.offset < sequencer.watermark() => {
                return begin(StartAt::After(position.offset));
            }
            _ => GapReason::Unknown,
        };
        // Truncated, because it is sent back.
        let requested = text.chars().take(MAX_EVENT_ID_BYTES).collect::<String>();
        ResolvedStart { begin: StartAt::Earliest, gap: Some((reason, requested.into())) }
    }
}

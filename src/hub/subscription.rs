//! A subscription: a cursor into logs, and a wake-up. Live is replay that has caught up.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::channel::{Channel, ChannelListener, Snapshot};
use super::control::{ChannelCursor, EndReason, SubscriptionControl};
use super::control_events::Gap;
use super::core::Core;
use super::merge::MergedReader;
use super::presence::{Attachment, Counted};
use super::read::{PeekResult, Start, StartAt};
use super::subscription_step::{Bounds, Next, OnLag, Step};
use super::ticket::{ChannelTicket, ManyTicket, Ticket, TicketHead, TicketKind};
use crate::event::GapReason;
use crate::limits::MAX_BATCH_BYTES;
use crate::position::{Offset, Position};
use crate::store::disk::TrimPoint;
use crate::store::{Batch, LogRead, Missing};

/// A subscription that is being read. Dropping it ends it.
pub struct Subscription {
    pub(super) core: Arc<Core>,
    control: Arc<SubscriptionControl>,
    bounds: Bounds,
    start: Position,
    /// The data of `fanfare.open`, if the subscription begins at the tail.
    opening: Option<Box<str>>,
    counted: Counted,
    /// Whether neighbouring deltas are merged.
    merging: bool,
    /// Maximum bytes of the log per read; at least one event is read.
    max_bytes: usize,
    pub(super) source: SubscriptionSource,
}

pub(super) enum SubscriptionSource {
    One(One),
    Many(Box<MergedReader>),
}

impl Ticket {
    /// Makes a subscription that is read in this task. `bounds` limit its lag.
    #[must_use]
    pub fn subscribe(self, bounds: Bounds) -> Subscription {
        match self.0 {
            TicketKind::One(ticket) => Subscription::one(bounds, *ticket),
            TicketKind::Many(ticket) => Subscription::many(bounds, *ticket),
        }
    }
}

impl Subscription {
    fn one(bounds: Bounds, ticket: ChannelTicket) -> Self {
        let ChannelTicket { presence, counted, position, joined, head, last_before } = ticket;
        let TicketHead { start, opening, gap, snapshot } = head;
        let core = presence.core().clone();
        let control = Arc::new(SubscriptionControl::default());
        let cursor = Arc::new(ChannelCursor::new(presence.channel().clone(), position, joined));
        control.add_cursor(&cursor);
        let one = One {
            cursor,
            last_offset: last_before,
            gap: gap.map(Box::new),
            snapshot,
            after_gap: None,
            _attachment: Attachment::listen(presence, control.clone()),
        };
        let merging = false;
        let max_bytes = MAX_BATCH_BYTES;
        let source = SubscriptionSource::One(one);
        Self { core, control, bounds, start, opening, counted, merging, max_bytes, source }
    }

    fn many(bounds: Bounds, ticket: ManyTicket) -> Self {
        let ManyTicket { merge, counted, start, opening } = ticket;
        let core = merge.core().clone();
        let control = merge.control().clone();
        let merging = false;
        let max_bytes = MAX_BATCH_BYTES;
        let source = SubscriptionSource::Many(Box::new(merge));
        Self { core, control, bounds, start, opening, counted, merging, max_bytes, source }
    }

    /// Returns the control block.
    #[must_use]
    pub fn control(&self) -> &Arc<SubscriptionControl> {
        &self.control
    }

    /// Returns the position after which the subscription began.
    #[must_use]
    pub fn start(&self) -> &Position {
        &self.start
    }

    /// Returns the data of `fanfare.open` if the subscription begins at the tail: the event gives
    /// the client its first id, that of the [`start`](Self::start).
    #[must_use]
    pub fn opening(&self) -> Option<&str> {
        self.opening.as_deref()
    }

    /// Returns the channel, if the subscription reads only one.
    #[must_use]
    pub fn channel(&self) -> Option<&Channel> {
        match &self.source {
            SubscriptionSource::One(one) => Some(&one.cursor.channel),
            SubscriptionSource::Many(_) => None,
        }
    }

    /// Sets whether neighbouring deltas are merged from now on.
    pub fn set_merging(&mut self, merging: bool) {
        self.merging = merging;
    }

    /// Sets the maximum bytes of the log per read; at least one event is read. While events are
    /// merged, the full batch size is read, because less of it is sent.
    pub fn read_at_most(&mut self, bytes: usize) {
        self.max_bytes = if self.merging { MAX_BATCH_BYTES } else { bytes.min(MAX_BATCH_BYTES) };
    }

    /// Returns whether the subscription reads many channels.
    #[must_use]
    pub fn is_many(&self) -> bool {
        matches!(self.source, SubscriptionSource::Many(_))
    }

    /// Returns whether something was published since the last read found nothing; registers the
    /// waker.
    pub fn poll_news(&self, cx: &Context<'_>) -> bool {
        self.control.has_news(cx.waker())
    }

    /// Returns whether the next event is on disk, or was there at the last read and is loaded now.
    #[must_use]
    pub fn is_fetching(&self) -> bool {
        match &self.source {
            SubscriptionSource::One(one) => one.cursor.has_unread(),
            SubscriptionSource::Many(merge) => merge.is_fetching(),
        }
    }

    /// Returns whether an unread event must not wait for a window to end; registers the waker.
    pub fn poll_urgent(&mut self, cx: &mut Context<'_>) -> bool {
        self.control.listen(cx.waker());
        self.control.ended().is_some() || self.control.must_flush()
    }

    /// Polls for the next step; `None` at the end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Step>> {
        self.control.listen(cx.waker());
        match self.try_next() {
            Next::Step(step) => Poll::Ready(Some(step)),
            Next::Finished => Poll::Ready(None),
            Next::Pending => Poll::Pending,
            Next::Again => {
                self.control.channel_changed();
                Poll::Pending
            }
        }
    }

    /// Returns the next step, without a waker.
    pub fn try_next(&mut self) -> Next {
        if self.control.ended().is_some() {
            return Next::Finished;
        }
        let next = match self.read() {
            Next::Step(Step::Events { channel, batch }) if self.merging => {
                let batch = channel.merge_batch(batch).events;
                Next::Step(Step::Events { channel, batch })
            }
            next => next,
        };
        match &next {
            Next::Step(step) => {
                self.control.count_read();
                if let Step::Gap(gap) = step {
                    self.core.shared.metrics.gap(gap.reason.as_str());
                }
            }
            Next::Finished => self.control.end(EndReason::Closed),
            Next::Pending | Next::Again => {}
        }
        next
    }

    fn read(&mut self) -> Next {
        let may_skip = self.bounds.on_lag == OnLag::Skip;
        // Notices come before a skip.
        let looks = match &mut self.source {
            SubscriptionSource::One(one) => may_skip && !one.has_notices(),
            SubscriptionSource::Many(merge) => {
                may_skip && !merge.has_notices() && merge.lag_is_due()
            }
        };
        let skips = looks && self.bounds.passed(&self.control).is_some();
        match &mut self.source {
            SubscriptionSource::One(one) if skips => one.skip(&self.core, self.max_bytes),
            SubscriptionSource::Many(merge) if skips => merge.skip(self.max_bytes),
            SubscriptionSource::One(one) => one.next(&self.core, self.max_bytes),
            SubscriptionSource::Many(merge) => merge.next(self.max_bytes),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(reason) = self.control.ended() {
            self.counted.set_reason(reason);
        }
    }
}

/// The cursor of a subscription to one channel.
pub(super) struct One {
    cursor: Arc<ChannelCursor>,
    /// The offset of the last event before the cursor.
    last_offset: Offset,
    /// The gap that comes before any event.
    gap: Option<Box<Gap>>,
    /// The snapshot that the subscription begins with.
    snapshot: Option<(Arc<Snapshot>, Position)>,
    /// The event after the last gap.
    after_gap: Option<Box<Batch>>,
    _attachment: Attachment,
}

impl One {
    fn next(&mut self, core: &Core, max_bytes: usize) -> Next {
        if let Some((snapshot, position)) = self.snapshot.take() {
            return Next::Step(Step::Snapshot { snapshot, position });
        }
        if let Some(gap) = self.gap.take() {
            return Next::Step(Step::Gap(*gap));
        }
        if let Some(batch) = self.after_gap.take() {
            return self.give(*batch);
        }
        match self.cursor.channel.read(self.cursor.position(), max_bytes) {
            LogRead::Batch(batch) => self.give(batch),
            LogRead::CaughtUp if self.is_over() => Next::Finished,
            LogRead::CaughtUp | LogRead::OnDisk => Next::Pending,
            LogRead::Missing(Missing { to, reason }) => self.jump(core, to, reason),
        }
    }

    /// Returns whether a notice, or the event after a gap, is waiting.
    fn has_notices(&self) -> bool {
        self.gap.is_some() || self.snapshot.is_some() || self.after_gap.is_some()
    }

    fn is_over(&self) -> bool {
        self.cursor.channel.look(self.cursor.position()) == PeekResult::Over
    }

    fn give(&mut self, batch: Batch) -> Next {
        self.cursor.move_to(batch.end());
        self.last_offset = batch.entries().next_back().map_or(self.last_offset, |last| last.offset);
        Next::Step(Step::Events { channel: self.cursor.channel.clone(), batch })
    }

    /// Moves to the tail, unless only the end is left, which is never skipped.
    fn skip(&mut self, core: &Core, max_bytes: usize) -> Next {
        let Start { position, last_before, on_disk, .. } = self.cursor.channel.begin(StartAt::Tail);
        if position.seq <= self.cursor.position().seq || on_disk.is_some() {
            return self.next(core, max_bytes);
        }
        self.jump(core, TrimPoint { position, last_trimmed: last_before }, GapReason::Lagged)
    }

    fn jump(&mut self, core: &Core, to: TrimPoint, reason: GapReason) -> Next {
        let requested = core.position(self.last_offset).to_string().into();
        self.cursor.move_to(to.position);
        self.last_offset = to.last_trimmed;
        // Retention may pass this event before the next read, and would cause a second gap.
        if let LogRead::Batch(batch) = self.cursor.channel.read(to.position, 1) {
            self.after_gap = Some(Box::new(batch));
        }
        Next::Step(Step::Gap(Gap {
            channel: Some(self.cursor.channel.name().clone()),
            reason,
            requested: Some(requested),
            resumed: core.position(to.last_trimmed),
        }))
    }
}

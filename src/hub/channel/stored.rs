//! The stored events of a channel: its restoration, and reads from disk.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Channel, ChannelInner};
use crate::clock::Moment;
use crate::hub::metadata::{ChannelMetadata, EndRecord};
use crate::hub::read_cache::CachedLog;
use crate::position::Offset;
use crate::store::disk::{DiskRead, Seek, StoredStream, TrimPoint};
use crate::store::{Log, LogPosition};

impl Channel {
    /// Restores the channel from what the store held when the hub was started.
    pub(in crate::hub) fn restore(&self, found: &StoredStream, metadata: &ChannelMetadata) {
        let mut inner = self.inner.lock();
        let last_trimmed = found.trim_point.last_trimmed.max(Offset(metadata.inherited));
        let tail = found.span.map_or(last_trimmed, |(_, last)| last.offset);
        inner.log = Log::stored(TrimPoint { last_trimmed, ..found.trim_point }, found.end, tail);
        inner.span = found.span;
        inner.known = true;
        inner.settings = inner.settings.with(&metadata.options);
        inner.options = metadata.options;
        inner.inherited = Offset(metadata.inherited);
        let ending = found.state.as_deref().and_then(|text| EndRecord::from_text(&self.name, text));
        let last = found.span.map_or(Moment::default(), |(_, last)| last.time);
        inner.life.restore(metadata.produced, ending, last);
        inner.backend.restore(found.id, *metadata);
        // Trim points are stored for a limited time only: events trimmed before that may be back.
        let _ = inner.trim_stored(self.shared.clock.now());
        self.end.set(inner.log.end());
        self.account(&mut inner);
        self.set_deadline(&inner);
    }

    /// Reads the batch at a seek from disk, unless that read is pending. Listeners are notified
    /// when it is in memory.
    pub(in crate::hub) fn fetch(&self, seek: Seek) {
        self.begin_fetch(&mut self.inner.lock(), seek, None);
    }

    /// Resolves when the read for this seek has completed.
    pub(in crate::hub) fn fetched(&self, seek: Seek) -> oneshot::Receiver<()> {
        let (waiter, fetched) = oneshot::channel();
        self.begin_fetch(&mut self.inner.lock(), seek, Some(waiter));
        fetched
    }

    pub(super) fn begin_fetch(
        &self,
        inner: &mut ChannelInner,
        seek: Seek,
        waiter: Option<oneshot::Sender<()>>,
    ) {
        let me = self.me.clone();
        inner.backend.read(seek, waiter, move |read| {
            if let Some(channel) = me.upgrade() {
                channel.load(seek, read);
            }
        });
    }

    /// Adds what was read from disk to the log.
    fn load(self: &Arc<Self>, seek: Seek, read: DiskRead) {
        let waiters = {
            let mut inner = self.inner.lock();
            match &read {
                DiskRead::Batch(batch) => inner.log.load(seek, batch),
                DiskRead::Lost { from, to } => inner.log.lose(seek, *from, *to),
                DiskRead::Trimmed(trim_point) => drop(inner.log.trim_stored(*trim_point)),
                DiskRead::Nothing => {}
            }
            // Without this, a reader would ask again for ever.
            if !matches!(read, DiskRead::Batch(_)) {
                inner.log.give_up(seek);
            }
            self.account(&mut inner);
            inner.backend.end_read(seek)
        };
        if let DiskRead::Batch(batch) = &read {
            let log: Arc<dyn CachedLog> = self.clone();
            self.shared.read_cache.add(&log, batch);
        }
        for waiter in waiters {
            let _ = waiter.send(());
        }
        self.listeners.notify_changed();
    }
}

impl CachedLog for Channel {
    fn unload(&self, first: LogPosition) {
        let mut inner = self.inner.lock();
        if inner.log.unload(first) {
            self.account(&mut inner);
        }
    }
}

impl ChannelInner {
    /// Trims the disk to the channel's retention and memory to its window. Returns the number of
    /// trimmed events; `None` if the channel is in memory only.
    pub(super) fn trim_stored(&mut self, now: Moment) -> Option<u64> {
        let trimmed = self.backend.trim(&self.settings.retention, now)?;
        let events = self.log.trim_stored(trimmed.trim_point);
        self.release();
        Some(events)
    }

    /// Trims as [`trim_stored`](Self::trim_stored) does, after an append. Skips the store unless
    /// the block that is deleted next is due.
    pub(super) fn trim_grown(&mut self, now: impl FnOnce() -> Moment) -> Option<u64> {
        if self.backend.is_trim_due(&self.settings.retention, self.log.end()) {
            return self.trim_stored(now());
        }
        self.release();
        self.backend.window().map(|_| 0)
    }

    /// Frees the memory of stored events before the window.
    fn release(&mut self) {
        if let Some(window) = self.backend.window() {
            self.log.release(window);
        }
    }
}

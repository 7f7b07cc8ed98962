//! Deleted channels whose deletion the store has not confirmed.
//!
//! A full store refuses the deletion, and the events on disk would be restored at the next start.
//! So the deletion is submitted again until it is stored.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::commit::{CommitAck, JointCompleter};
use super::completion::ThreadCompletions;
use super::error::DeleteError;
use crate::channel::ChannelName;
use crate::store::disk::{Disk, Durability, LogRecord, StreamId};

/// The streams of deleted channels by name; at most as many as the store has. A name may have
/// several, because it is free again at once.
#[derive(Debug, Default)]
pub(super) struct PendingDeletes(Mutex<HashMap<ChannelName, Vec<PendingDelete>>>);

#[derive(Clone, Copy, Debug)]
struct PendingDelete {
    id: StreamId,
    durability: Durability,
    /// Whether a write is pending.
    asked: bool,
}

impl PendingDeletes {
    /// Notes the deletion of a channel and submits it. Returns the acknowledgement.
    pub(super) fn submit(
        self: &Arc<Self>,
        disk: &Disk,
        name: &ChannelName,
        id: StreamId,
        durability: Durability,
    ) -> CommitAck<(), DeleteError> {
        let stream = PendingDelete { id, durability, asked: false };
        self.0.lock().entry(name.clone()).or_default().push(stream);
        self.resubmit(disk, name).unwrap_or_else(|| CommitAck::ready(()))
    }

    /// Submits the pending deletions of this name, and returns the acknowledgement; `None` if there
    /// are none. A repeated deletion does no harm.
    pub(super) fn resubmit(
        self: &Arc<Self>,
        disk: &Disk,
        name: &ChannelName,
    ) -> Option<CommitAck<(), DeleteError>> {
        let streams = self.0.lock().get(name).cloned()?;
        let (ack, completer) = CommitAck::pending(());
        let completer = completer.after(streams.len());
        for stream in &streams {
            self.send(disk, name, stream, completer.clone());
        }
        Some(ack)
    }

    /// Submits the deletions again that the store has refused.
    pub(super) fn resubmit_refused(self: &Arc<Self>, disk: &Disk) {
        let left: Vec<_> = {
            let left = self.0.lock();
            let refused = |streams: &[PendingDelete]| streams.iter().any(|stream| !stream.asked);
            let left = left.iter().filter(|(_, streams)| refused(streams));
            left.map(|(name, _)| name.clone()).collect()
        };
        for name in left {
            drop(self.resubmit(disk, &name));
        }
    }

    fn send(
        self: &Arc<Self>,
        disk: &Disk,
        name: &ChannelName,
        stream: &PendingDelete,
        completer: JointCompleter<(), DeleteError>,
    ) {
        let id = stream.id;
        let pending_deletes = self.clone();
        let owner = name.clone();
        self.change(name, id, |stream| stream.asked = true);
        let done = Box::new(move |outcome: Result<(), _>| {
            match outcome {
                Ok(()) => pending_deletes.confirm(&owner, id),
                Err(_) => pending_deletes.change(&owner, id, |stream| stream.asked = false),
            }
            completer.complete_one(outcome);
        });
        disk.write(
            LogRecord::Gone { stream: id },
            stream.durability,
            ThreadCompletions::here(),
            done,
        );
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    fn change(&self, name: &ChannelName, id: StreamId, change: impl FnOnce(&mut PendingDelete)) {
        let mut left = self.0.lock();
        let mut streams = left.get_mut(name).into_iter().flatten();
        if let Some(stream) = streams.find(|stream| stream.id == id) {
            change(stream);
        }
    }

    fn confirm(&self, name: &ChannelName, id: StreamId) {
        let mut left = self.0.lock();
        if let Some(streams) = left.get_mut(name) {
            streams.retain(|stream| stream.id != id);
            if streams.is_empty() {
                left.remove(name);
            }
        }
    }
}

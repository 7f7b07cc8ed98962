//! Channels that are gone, and of which the store does not know that yet.
//!
//! The store may refuse to know: there is no room. What it still has of the channel would then come
//! back with the next start. So it is told again, until it has taken it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::commit::CommitAck;
use super::completion::ThreadCompletions;
use crate::channel::ChannelName;
use crate::store::disk::{Disk, Durability, LogRecord, StreamId};

/// At most as many as the store has streams. A name may have more than one: it was free again when
/// the hub gave up the channel.
#[derive(Debug, Default)]
pub(super) struct PendingDeletes(Mutex<HashMap<ChannelName, Vec<PendingDelete>>>);

#[derive(Clone, Copy, Debug)]
struct PendingDelete {
    id: StreamId,
    durability: Durability,
    /// The store was told, and has not answered.
    asked: bool,
}

impl PendingDeletes {
    /// The channel is gone, and with it this stream. Says when the store knows.
    pub(super) fn submit(
        self: &Arc<Self>,
        disk: &Disk,
        name: &ChannelName,
        id: StreamId,
        durability: Durability,
    ) -> CommitAck {
        let stream = PendingDelete { id, durability, asked: false };
        self.0.lock().entry(name.clone()).or_default().push(stream);
        self.resubmit(disk, name).unwrap_or_else(CommitAck::ready)
    }

    /// Tells the store of all that is left of this name, and says when it knows; nothing if nothing
    /// is left. What was told already does no harm when it is told again.
    pub(super) fn resubmit(self: &Arc<Self>, disk: &Disk, name: &ChannelName) -> Option<CommitAck> {
        let streams = self.0.lock().get(name).cloned()?;
        streams.iter().map(|stream| self.send(disk, name, stream)).reduce(CommitAck::and)
    }

    /// Tells the store again of what it has refused.
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
    ) -> CommitAck {
        let (ack, tell) = CommitAck::pending();
        let (id, pending_deletes, owner) = (stream.id, self.clone(), name.clone());
        self.change(name, id, |stream| stream.asked = true);
        let done = Box::new(move |outcome: Result<(), _>| {
            match outcome {
                Ok(()) => pending_deletes.confirm(&owner, id),
                Err(_) => pending_deletes.change(&owner, id, |stream| stream.asked = false),
            }
            tell(outcome);
        });
        disk.write(
            LogRecord::Gone { stream: id },
            stream.durability,
            ThreadCompletions::here(),
            done,
        );
        ack
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

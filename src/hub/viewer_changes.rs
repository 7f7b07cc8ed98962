//! The channels whose number of viewers has changed, for the other hubs of a cluster.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::channel::ChannelName;

/// The channels of a hub in a cluster whose number of viewers at this hub has changed since they
/// were last taken.
#[derive(Debug, Default)]
pub(super) struct ViewerChanges(Mutex<HashSet<ChannelName>>);

impl ViewerChanges {
    pub(super) fn note(&self, channel: &ChannelName) {
        let mut changed = self.0.lock();
        if !changed.contains(channel) {
            changed.insert(channel.clone());
        }
    }

    pub(super) fn take(&self) -> HashSet<ChannelName> {
        std::mem::take(&mut self.0.lock())
    }
}

//! Requests with an idempotency key, which all hubs of a cluster know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fanfare_cluster::command::{Command, KeyId, KeyUse, Lines, ReleaseKey};
use fanfare_cluster::state_machine::KeyStatus;

use super::commands::{keyed_of_log, millis, state_of_log};
use super::replica::Replica;
use crate::event::ChannelState;
use crate::hub::channel::Keyed;

/// A request with an idempotency key that may publish to the cluster. When it is dropped before it
/// is complete, a retry may continue where it ended, at any hub.
pub struct KeyedRequest {
    replica: Arc<Replica>,
    id: KeyId,
    request: u64,
    /// In milliseconds.
    window: u64,
    is_complete: AtomicBool,
}

/// What the cluster knows of an idempotency key.
pub enum ClusterKey {
    /// The request may run; this much was published under its key before, as far as is known.
    Run(KeyedRequest, Option<Keyed>),
    /// An earlier request has succeeded, and has closed its channel if there is a state.
    Replay(KeyedRequest, Keyed, Option<ChannelState>),
    /// A request with this key is running at another hub.
    Running,
}

impl KeyedRequest {
    /// Begins a request with a key that belongs to a scope, and is kept for this window.
    pub(in crate::hub) fn begin(
        replica: &Arc<Replica>,
        scope: &str,
        key: &str,
        window: Duration,
    ) -> ClusterKey {
        let id = KeyId::of(scope, key);
        let own = replica.latest_session();
        let status = replica.look(|machine| machine.key(&id)).flatten();
        let is_complete = AtomicBool::new(matches!(status, Some(KeyStatus::Done(_))));
        let (replica, request) = (replica.clone(), replica.next_request());
        let window = millis(window);
        let request = Self { replica, id, request, window, is_complete };
        match status {
            Some(KeyStatus::Done(totals)) => {
                let state = totals.state.map(state_of_log);
                ClusterKey::Replay(request, keyed_of_log(totals), state)
            }
            // If it is of this hub, it has broken off, and the log does not have that yet.
            Some(KeyStatus::Running { session, .. }) if Some(session) != own => {
                request.complete();
                ClusterKey::Running
            }
            Some(KeyStatus::Partial(totals)) => {
                ClusterKey::Run(request, Some(keyed_of_log(totals)))
            }
            Some(KeyStatus::Running { .. }) | None => ClusterKey::Run(request, None),
        }
    }

    /// Returns the use of the key by a piece: its events are at these places of the body. `last`
    /// says that the publish has succeeded with it.
    #[must_use]
    pub fn piece(&self, lines: Lines, last: bool) -> KeyUse {
        KeyUse { id: self.id, request: self.request, lines, last, window: self.window }
    }

    /// Notes that the last piece was published.
    pub fn complete(&self) {
        self.is_complete.store(true, Ordering::Relaxed);
    }

    /// Returns what was published, and the state in which the channel was closed, if the publish
    /// has succeeded by now: an earlier request with the key was still under way.
    #[must_use]
    pub fn replayed(&self) -> Option<(Keyed, Option<ChannelState>)> {
        match self.replica.look(|machine| machine.key(&self.id)).flatten()? {
            KeyStatus::Done(totals) => {
                self.complete();
                Some((keyed_of_log(totals), totals.state.map(state_of_log)))
            }
            KeyStatus::Running { .. } | KeyStatus::Partial(_) => None,
        }
    }

    /// Returns whether the last piece was published.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Relaxed)
    }
}

impl Drop for KeyedRequest {
    fn drop(&mut self) {
        if !self.is_complete() {
            let release = ReleaseKey { id: self.id, request: self.request };
            self.replica.propose(&Command::ReleaseKey(release));
        }
    }
}

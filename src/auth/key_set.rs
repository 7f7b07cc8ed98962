//! The keys of an issuer: read by every request, replaced as a whole, and fetched from the URL
//! where they are published.
//!
//! A token may name a key that is not loaded. Then the set is fetched again, within three limits:
//! one fetch runs at a time, and other requests wait for its result; a minimum interval lies
//! between two fetches, however many key names a client invents; and a name that was not found is
//! not fetched again for a while. A failed fetch changes nothing.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::future::{FutureExt as _, Shared};
use parking_lot::{Mutex, RwLock};

use super::key::{Algorithm, Key, KeyId, Secrets, from_jwks};
use crate::limits::{MAX_KEY_SET_BYTES, MAX_UNKNOWN_KEYS, UNKNOWN_KEY_SECONDS};

/// A running fetch of a JWK set.
pub type FetchFuture = Pin<Box<dyn Future<Output = Result<Vec<u8>, FetchError>> + Send>>;

/// Fetches JWK sets: the interface to HTTP.
pub trait FetchKeys: Send + Sync {
    /// Fetches at most `limit` bytes from this URL. It has a timeout of its own, and follows
    /// redirects only to `https`.
    fn fetch(&self, url: &str, limit: usize) -> FetchFuture;
}

/// The reason for which a JWK set could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(pub String);

/// A fetch that any number of requests wait for.
pub(super) type PendingFetch = Shared<Pin<Box<dyn Future<Output = ()> + Send>>>;

/// The current keys of one issuer.
pub struct KeySet {
    keys: RwLock<Arc<[Key]>>,
    remote: Option<Remote>,
}

/// The URL of a key set, and the progress of its fetches.
struct Remote {
    url: Box<str>,
    algorithm: Option<Algorithm>,
    progress: Mutex<FetchProgress>,
}

#[derive(Default)]
struct FetchProgress {
    pending: Option<PendingFetch>,
    /// The time at which the last fetch began.
    tried: Option<SystemTime>,
    /// The time at which the fetch of the loaded set began.
    fetched: Option<SystemTime>,
    /// Hashes of key names that were not found, each with the time of its fetch.
    unknown: VecDeque<([u8; 32], SystemTime)>,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.remote.as_ref().map(|remote| &remote.url);
        f.debug_struct("KeySet").field("keys", &self.keys()).field("url", &url).finish()
    }
}

impl KeySet {
    /// Creates a set with fixed keys.
    pub(super) fn fixed(keys: Vec<Key>) -> Self {
        Self { keys: RwLock::new(keys.into()), remote: None }
    }

    /// Creates a set that is fetched. It is empty until the first fetch has succeeded.
    pub(super) fn remote(url: &str, algorithm: Option<Algorithm>) -> Self {
        let remote = Remote { url: url.into(), algorithm, progress: Mutex::default() };
        Self { keys: RwLock::new([].into()), remote: Some(remote) }
    }

    /// Returns whether this set belongs to the URL, and is read with the same algorithm.
    pub(super) fn is_of(&self, url: &str, algorithm: Option<Algorithm>) -> bool {
        let same = |remote: &Remote| &*remote.url == url && remote.algorithm == algorithm;
        self.remote.as_ref().is_some_and(same)
    }

    /// Returns the current keys; a request uses one version of them to its end.
    pub(super) fn keys(&self) -> Arc<[Key]> {
        self.keys.read().clone()
    }

    /// Returns whether the set has this key.
    #[must_use]
    pub fn has(&self, id: KeyId) -> bool {
        self.keys().iter().any(|key| key.id == id)
    }

    /// Returns when the fetch of the current keys began, if they were fetched.
    #[must_use]
    pub fn fetched(&self) -> Option<SystemTime> {
        self.remote.as_ref().and_then(|remote| remote.progress.lock().fetched)
    }

    /// Returns a fetch to wait for, because a token names a key that is not loaded; `None` if the
    /// limits forbid a fetch.
    pub(super) fn look_for(
        self: &Arc<Self>,
        kid: Option<&str>,
        fetcher: &Arc<dyn FetchKeys>,
        interval: Duration,
        now: SystemTime,
    ) -> Option<PendingFetch> {
        let mut progress = self.remote.as_ref()?.progress.lock();
        let name = name_of(kid);
        let known = Duration::from_secs(UNKNOWN_KEY_SECONDS);
        progress.unknown.retain(|(_, at)| !is_past(*at, known, now));
        if progress.unknown.iter().any(|(unknown, _)| *unknown == name) {
            return None;
        }
        self.join(&mut progress, fetcher, interval, now)
    }

    /// Returns a fetch to wait for, if the keys are older than `age`.
    pub(super) fn renew(
        self: &Arc<Self>,
        fetcher: &Arc<dyn FetchKeys>,
        age: Duration,
        interval: Duration,
        now: SystemTime,
    ) -> Option<PendingFetch> {
        let mut progress = self.remote.as_ref()?.progress.lock();
        let fresh = progress.fetched.is_some_and(|at| !is_past(at, age, now));
        if fresh { None } else { self.join(&mut progress, fetcher, interval, now) }
    }

    /// Remembers that a fetch did not find the name.
    pub(super) fn remember_unknown(&self, kid: Option<&str>, now: SystemTime) {
        let Some(remote) = &self.remote else { return };
        let unknown = &mut remote.progress.lock().unknown;
        let name = name_of(kid);
        if unknown.iter().all(|(known, _)| *known != name) {
            if unknown.len() == MAX_UNKNOWN_KEYS {
                unknown.pop_front();
            }
            unknown.push_back((name, now));
        }
    }

    /// Returns the running fetch, or starts one if the minimum interval has passed.
    fn join(
        self: &Arc<Self>,
        progress: &mut FetchProgress,
        fetcher: &Arc<dyn FetchKeys>,
        interval: Duration,
        now: SystemTime,
    ) -> Option<PendingFetch> {
        if let Some(pending) = &progress.pending {
            return Some(pending.clone());
        }
        if progress.tried.is_some_and(|at| !is_past(at, interval, now)) {
            return None;
        }
        progress.tried = Some(now);
        let set = Arc::downgrade(self);
        let fetcher = fetcher.clone();
        let url = self.remote.as_ref()?.url.clone();
        let pending = async move {
            let answer = fetcher.fetch(&url, MAX_KEY_SET_BYTES).await;
            if let Some(set) = set.upgrade() {
                set.finish_fetch(answer, now);
            }
        };
        let pending = pending.boxed().shared();
        progress.pending = Some(pending.clone());
        Some(pending)
    }

    /// Takes the result of a fetch.
    fn finish_fetch(&self, answer: Result<Vec<u8>, FetchError>, asked: SystemTime) {
        let Some(remote) = &self.remote else { return };
        let read = answer.map_err(|error| error.to_string()).and_then(|text| {
            if text.len() > MAX_KEY_SET_BYTES {
                return Err(format!("has more than {MAX_KEY_SET_BYTES} bytes"));
            }
            from_jwks(&text, remote.algorithm, Secrets::Ignored).map_err(|why| why.to_string())
        });
        let mut progress = remote.progress.lock();
        progress.pending = None;
        match read {
            Ok(keys) => {
                progress.fetched = Some(asked);
                *self.keys.write() = keys.into();
            }
            Err(error) => {
                let url = &*remote.url;
                tracing::warn!(url, error, "JWK set not renewed; the present keys stay in use");
            }
        }
    }
}

/// Returns whether `time` has passed since `since`. It is also true if the clock was set back: one
/// fetch too many is better than none until the clock has caught up.
fn is_past(since: SystemTime, time: Duration, now: SystemTime) -> bool {
    now.duration_since(since).map_or(true, |passed| passed >= time)
}

/// Returns the hash that is remembered of a key name, because names can be long. A missing name has
/// one, too.
fn name_of(kid: Option<&str>) -> [u8; 32] {
    let mut name = [0; 32];
    if let Some(kid) = kid {
        name.copy_from_slice(digest(&SHA256, kid.as_bytes()).as_ref());
    }
    name
}

//! The keys of an issuer: read by every request, exchanged as a whole, and fetched where they are
//! published.
//!
//! A token may name a key that is not here yet. Then the set is fetched again, but: one fetch at a
//! time, whoever else asks waits for it; not before the last one is some time ago, however many
//! names are made up; and not for a name that was looked for in vain a moment ago. A fetch that
//! fails changes nothing.

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

/// A fetch of a JWK set, under way.
pub type FetchFuture = Pin<Box<dyn Future<Output = Result<Vec<u8>, FetchError>> + Send>>;

/// Fetches JWK sets: the part that knows HTTP.
pub trait FetchKeys: Send + Sync {
    /// Fetches what this URL has, at most `limit` bytes of it. Ends by itself, also when nobody
    /// answers; follows no redirect to anything but `https`.
    fn fetch(&self, url: &str, limit: usize) -> FetchFuture;
}

/// Why a JWK set could not be fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(pub String);

/// A fetch that any number of requests wait for.
pub(super) type Flight = Shared<Pin<Box<dyn Future<Output = ()> + Send>>>;

/// The keys of one issuer, as they are now.
pub struct KeySet {
    keys: RwLock<Arc<[Key]>>,
    remote: Option<Remote>,
}

/// Where keys are published, and how it went.
struct Remote {
    url: Box<str>,
    algorithm: Option<Algorithm>,
    progress: Mutex<FetchProgress>,
}

#[derive(Default)]
struct FetchProgress {
    flight: Option<Flight>,
    /// When a fetch last began.
    tried: Option<SystemTime>,
    /// When the set that is here was asked for.
    fetched: Option<SystemTime>,
    /// Names that no key has, hashed, each with the time at which it was looked for.
    unknown: VecDeque<([u8; 32], SystemTime)>,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.remote.as_ref().map(|remote| &remote.url);
        f.debug_struct("KeySet").field("keys", &self.keys()).field("url", &url).finish()
    }
}

impl KeySet {
    /// A set of keys that are here.
    pub(super) fn fixed(keys: Vec<Key>) -> Self {
        Self { keys: RwLock::new(keys.into()), remote: None }
    }

    /// A set that is fetched. It has no keys until it was.
    pub(super) fn remote(url: &str, algorithm: Option<Algorithm>) -> Self {
        let remote = Remote { url: url.into(), algorithm, progress: Mutex::default() };
        Self { keys: RwLock::new([].into()), remote: Some(remote) }
    }

    /// Whether this is the set of a URL, read in this way.
    pub(super) fn is_of(&self, url: &str, algorithm: Option<Algorithm>) -> bool {
        let same = |remote: &Remote| &*remote.url == url && remote.algorithm == algorithm;
        self.remote.as_ref().is_some_and(same)
    }

    /// The keys as they are now; a request goes on with those that it began with.
    pub(super) fn keys(&self) -> Arc<[Key]> {
        self.keys.read().clone()
    }

    /// Whether the set has this key.
    #[must_use]
    pub fn has(&self, id: KeyId) -> bool {
        self.keys().iter().any(|key| key.id == id)
    }

    /// When the keys that are here were asked for, if they come from a URL and have come.
    #[must_use]
    pub fn fetched(&self) -> Option<SystemTime> {
        self.remote.as_ref().and_then(|remote| remote.progress.lock().fetched)
    }

    /// A fetch to wait for, as a token names a key that is not here; nothing if it is not worth it.
    pub(super) fn look_for(
        self: &Arc<Self>,
        kid: Option<&str>,
        fetcher: &Arc<dyn FetchKeys>,
        interval: Duration,
        now: SystemTime,
    ) -> Option<Flight> {
        let mut progress = self.remote.as_ref()?.progress.lock();
        let name = name_of(kid);
        let known = Duration::from_secs(UNKNOWN_KEY_SECONDS);
        progress.unknown.retain(|(_, at)| !is_past(*at, known, now));
        if progress.unknown.iter().any(|(unknown, _)| *unknown == name) {
            return None;
        }
        self.join(&mut progress, fetcher, interval, now)
    }

    /// A fetch to wait for, as the keys are older than they should be.
    pub(super) fn renew(
        self: &Arc<Self>,
        fetcher: &Arc<dyn FetchKeys>,
        age: Duration,
        interval: Duration,
        now: SystemTime,
    ) -> Option<Flight> {
        let mut progress = self.remote.as_ref()?.progress.lock();
        let fresh = progress.fetched.is_some_and(|at| !is_past(at, age, now));
        if fresh { None } else { self.join(&mut progress, fetcher, interval, now) }
    }

    /// The name was looked for, and no key has it.
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

    /// The fetch that is under way, or a new one if the last one is long enough ago.
    fn join(
        self: &Arc<Self>,
        progress: &mut FetchProgress,
        fetcher: &Arc<dyn FetchKeys>,
        interval: Duration,
        now: SystemTime,
    ) -> Option<Flight> {
        if let Some(flight) = &progress.flight {
            return Some(flight.clone());
        }
        if progress.tried.is_some_and(|at| !is_past(at, interval, now)) {
            return None;
        }
        progress.tried = Some(now);
        let (set, fetcher) = (Arc::downgrade(self), fetcher.clone());
        let url = self.remote.as_ref()?.url.clone();
        let flight = async move {
            let answer = fetcher.fetch(&url, MAX_KEY_SET_BYTES).await;
            if let Some(set) = set.upgrade() {
                set.land(answer, now);
            }
        };
        let flight = flight.boxed().shared();
        progress.flight = Some(flight.clone());
        Some(flight)
    }

    /// A fetch has ended.
    fn land(&self, answer: Result<Vec<u8>, FetchError>, asked: SystemTime) {
        let Some(remote) = &self.remote else { return };
        let read = answer.map_err(|error| error.to_string()).and_then(|text| {
            if text.len() > MAX_KEY_SET_BYTES {
                return Err(format!("has more than {MAX_KEY_SET_BYTES} bytes"));
            }
            from_jwks(&text, remote.algorithm, Secrets::Ignored).map_err(|why| why.to_string())
        });
        let mut progress = remote.progress.lock();
        progress.flight = None;
        match read {
            Ok(keys) => {
                progress.fetched = Some(asked);
                *self.keys.write() = keys.into();
            }
            Err(error) => {
                let url = &*remote.url;
                tracing::warn!(url, error, "JWK set not renewed; the keys that are here stay");
            }
        }
    }
}

/// Whether so much time has passed since. A clock that was set back says yes: better one fetch too
/// many than none for as long as it was set back.
fn is_past(since: SystemTime, time: Duration, now: SystemTime) -> bool {
    now.duration_since(since).map_or(true, |passed| passed >= time)
}

/// What is remembered of a key's name: names can be long. No name is a name, too.
fn name_of(kid: Option<&str>) -> [u8; 32] {
    let mut name = [0; 32];
    if let Some(kid) = kid {
        name.copy_from_slice(digest(&SHA256, kid.as_bytes()).as_ref());
    }
    name
}

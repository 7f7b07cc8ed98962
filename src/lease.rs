//! Access leases: how long a stream may run. A lease ends at a fixed time, or when it is revoked.

use std::any::Any;
use std::sync::{Arc, Weak};

use crate::word_enum::words;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// The permission to continue a stream: a cheap handle, shared by the stream and by the code that
/// can revoke it. The default lease never ends.
#[derive(Clone, Debug, Default)]
pub struct AccessLease(Option<Arc<LeaseState>>);

/// A weak reference to a lease, to check whether it is still in use.
#[derive(Clone, Debug)]
pub struct WeakLease(Weak<LeaseState>);

#[derive(Debug, Default)]
struct LeaseState {
    expires: Option<Instant>,
    revoked: CancellationToken,
    /// A guard that is dropped with the last handle.
    _held: Option<Box<dyn Any + Send + Sync>>,
}

words! {
    /// The reason for which a lease has ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum LeaseEnd {
        /// Its expiry time has passed.
        Expired = "expired",
        /// It was revoked.
        Revoked = "revoked",
    }
}

impl AccessLease {
    /// Creates a lease that ends at `expires`, or, without it, only when it is revoked.
    #[must_use]
    #[cfg(any(test, feature = "internals"))]
    pub fn until(expires: Option<Instant>) -> Self {
        Self::holding(expires, None)
    }

    /// Creates a lease that also keeps `held` until its last handle is dropped.
    #[must_use]
    pub fn holding(expires: Option<Instant>, held: Option<Box<dyn Any + Send + Sync>>) -> Self {
        let revoked = CancellationToken::new();
        Self(Some(Arc::new(LeaseState { expires, revoked, _held: held })))
    }

    /// Returns the expiry time, if there is one.
    #[must_use]
    pub fn expires(&self) -> Option<Instant> {
        self.0.as_ref()?.expires
    }

    /// Revokes the lease.
    pub fn revoke(&self) {
        if let Some(shared) = &self.0 {
            shared.revoked.cancel();
        }
    }

    /// Returns why the lease has ended, or `None` while it is valid.
    #[must_use]
    pub fn end(&self, now: Instant) -> Option<LeaseEnd> {
        let shared = self.0.as_ref()?;
        if shared.revoked.is_cancelled() {
            return Some(LeaseEnd::Revoked);
        }
        shared.expires.is_some_and(|expires| now >= expires).then_some(LeaseEnd::Expired)
    }

    /// Waits until the lease ends; a default lease never does.
    pub async fn ended(&self) -> LeaseEnd {
        let Some(shared) = &self.0 else { return std::future::pending().await };
        let expired = async {
            match shared.expires {
                Some(expires) => sleep_until(expires).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shared.revoked.cancelled() => LeaseEnd::Revoked,
            () = expired => LeaseEnd::Expired,
        }
    }

    /// Returns a weak reference.
    #[must_use]
    pub fn downgrade(&self) -> WeakLease {
        WeakLease(self.0.as_ref().map(Arc::downgrade).unwrap_or_default())
    }
}

impl WeakLease {
    /// Returns the lease, if a handle of it is left.
    #[must_use]
    pub fn upgrade(&self) -> Option<AccessLease> {
        self.0.upgrade().map(|shared| AccessLease(Some(shared)))
    }

    /// Returns whether a handle of the lease is left.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.0.strong_count() > 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lease_ends_at_its_time_or_when_it_is_revoked() {
        let began = Instant::now();
        let later = began + Duration::from_secs(60);
        let long = AccessLease::until(Some(later));
        let short = AccessLease::until(None);
        assert_eq!((long.end(began), short.end(later)), (None, None));
        assert_eq!(long.ended().await, LeaseEnd::Expired);
        assert_eq!((Instant::now(), long.end(later)), (later, Some(LeaseEnd::Expired)));
        short.clone().revoke();
        assert_eq!(
            (short.ended().await, short.end(began)),
            (LeaseEnd::Revoked, Some(LeaseEnd::Revoked))
        );
    }
}

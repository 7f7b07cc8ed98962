//! For how long somebody may stay: until a moment, or until whoever let them in takes it back.

use std::any::Any;
use std::sync::{Arc, Weak};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// What lets a stream go on: a cheap handle, shared by whoever serves it and whoever let it in. By
/// default, one that nobody takes back.
#[derive(Clone, Debug, Default)]
pub struct AccessLease(Option<Arc<LeaseState>>);

/// Whether a lease is still in use, without keeping it.
#[derive(Clone, Debug)]
pub struct WeakLease(Weak<LeaseState>);

#[derive(Debug, Default)]
struct LeaseState {
    expires: Option<Instant>,
    revoked: CancellationToken,
    /// What is given back when nobody stays by it any more.
    _held: Option<Box<dyn Any + Send + Sync>>,
}

/// Why a lease is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseEnd {
    /// Its time is.
    Expired,
    /// It was taken back.
    Revoked,
}

impl LeaseEnd {
    /// For the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl AccessLease {
    /// A lease until this moment; without one, until it is revoked.
    #[must_use]
    pub fn until(expires: Option<Instant>) -> Self {
        Self::holding(expires, None)
    }

    /// The same; whatever it holds is dropped with its last handle.
    #[must_use]
    pub fn holding(expires: Option<Instant>, held: Option<Box<dyn Any + Send + Sync>>) -> Self {
        let revoked = CancellationToken::new();
        Self(Some(Arc::new(LeaseState { expires, revoked, _held: held })))
    }

    /// When it expires, if it does.
    #[must_use]
    pub fn expires(&self) -> Option<Instant> {
        self.0.as_ref()?.expires
    }

    /// Takes it back.
    pub fn revoke(&self) {
        if let Some(shared) = &self.0 {
            shared.revoked.cancel();
        }
    }

    /// Why it is over, if it is by now.
    #[must_use]
    pub fn end(&self, now: Instant) -> Option<LeaseEnd> {
        let shared = self.0.as_ref()?;
        if shared.revoked.is_cancelled() {
            return Some(LeaseEnd::Revoked);
        }
        shared.expires.is_some_and(|expires| now >= expires).then_some(LeaseEnd::Expired)
    }

    /// Resolves when it is over.
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

    /// A handle that does not keep it.
    #[must_use]
    pub fn downgrade(&self) -> WeakLease {
        WeakLease(self.0.as_ref().map(Arc::downgrade).unwrap_or_default())
    }
}

impl WeakLease {
    /// The lease, if anybody still has it.
    #[must_use]
    pub fn upgrade(&self) -> Option<AccessLease> {
        self.0.upgrade().map(|shared| AccessLease(Some(shared)))
    }

    /// Whether anybody still has it.
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
    async fn a_pass_is_over_at_its_time_or_before() {
        let began = Instant::now();
        let later = began + Duration::from_secs(60);
        let (long, short) = (AccessLease::until(Some(later)), AccessLease::until(None));
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

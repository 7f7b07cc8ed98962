//! Who is let in: from a request to its caller, or to the problem that says why not.

use std::sync::Arc;
use std::time::SystemTime;

use http::Extensions;
use hyper::body::Incoming;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::access::{Access, forbidden};
use super::credentials::{find, may_use_cookie, take_query_token};
use super::problem::{ErrorCode, Problem};
use super::{CorsConfig, Request};
use crate::auth::{AuthError, Authenticator, Credential, Operation, Principal};
use crate::channel::ChannelPattern;
use crate::pass::{Pass, WeakPass};
use crate::telemetry::Metrics;

/// What a refusal is counted as beside the reasons of credentials: it was good for something else.
const FORBIDDEN: &str = "forbidden";

/// And this: a cookie, sent for a page that may not use it.
const ORIGIN: &str = "origin";

/// Lets requests in: a cheap handle.
#[derive(Clone)]
pub struct Gate(Arc<Shared>);

struct Shared {
    authenticator: Arc<Authenticator>,
    /// Origins whose pages may use cookies.
    origins: Vec<String>,
    /// Who everybody is, as long as nobody is asked.
    everyone: RwLock<Option<(Principal, Pass)>>,
    admitted: Mutex<Vec<Admitted>>,
    metrics: Arc<Metrics>,
}

/// A stream that goes on, and what it may go on by.
struct Admitted {
    pass: WeakPass,
    principal: Principal,
    by: Vec<(Operation, ChannelPattern)>,
}

/// Who calls; handlers find it among the request's extensions.
#[derive(Clone)]
pub struct Caller {
    principal: Principal,
    gate: Gate,
}

impl Gate {
    /// Asks this authenticator. Cookies are taken from pages of the hub's own origin and of those
    /// that CORS names.
    #[must_use]
    pub fn new(
        authenticator: Arc<Authenticator>,
        cors: &CorsConfig,
        metrics: Arc<Metrics>,
    ) -> Self {
        let reasons = AuthError::ALL.map(AuthError::code);
        metrics.declare_refusals(reasons.into_iter().chain([FORBIDDEN, ORIGIN]));
        let everyone = RwLock::new(everyone(&authenticator));
        let (origins, admitted) = (cors.allow_origins.clone(), Mutex::default());
        Self(Arc::new(Shared { authenticator, origins, everyone, admitted, metrics }))
    }

    /// Who is asked.
    #[must_use]
    pub fn authenticator(&self) -> &Arc<Authenticator> {
        &self.0.authenticator
    }

    /// Lets a request in, or not. Its caller stands among the extensions then.
    ///
    /// # Errors
    /// `unauthenticated`, `forbidden`, or the path names no channel.
    pub(super) async fn admit(
        &self,
        access: Access,
        request: Request,
        rest: &str,
    ) -> Result<Request, (Problem, Incoming)> {
        let (mut head, body) = request.into_parts();
        let token = take_query_token(&mut head.uri);
        if access == Access::Free {
            return Ok(Request::from_parts(head, body));
        }
        match self.admitted(access, &head, token.as_deref(), rest).await {
            Ok(caller) => {
                head.extensions.insert(caller);
                Ok(Request::from_parts(head, body))
            }
            Err(problem) => Err((problem, body)),
        }
    }

    async fn admitted(
        &self,
        access: Access,
        head: &http::request::Parts,
        token: Option<&str>,
        rest: &str,
    ) -> Result<Caller, Problem> {
        if let Some((principal, _)) = &*self.0.everyone.read() {
            return Ok(Caller { principal: principal.clone(), gate: self.clone() });
        }
        let principal = self.identify(head, token).await?;
        access.check(&principal.grants, rest).inspect_err(|problem| {
            if problem.code() == ErrorCode::Forbidden {
                self.0.metrics.refused(FORBIDDEN);
            }
        })?;
        Ok(Caller { principal, gate: self.clone() })
    }

    async fn identify(
        &self,
        head: &http::request::Parts,
        token: Option<&str>,
    ) -> Result<Principal, Problem> {
        let authenticator = &self.0.authenticator;
        let cookie = authenticator.cookie();
        let token = token.filter(|_| authenticator.takes_query_tokens());
        let refused = |error: AuthError| {
            self.0.metrics.refused(error.code());
            Problem::unauthenticated(error)
        };
        let credential = find(&head.headers, cookie.as_deref(), token).map_err(refused)?;
        if matches!(credential, Credential::Cookie(_)) && !may_use_cookie(head, &self.0.origins) {
            self.0.metrics.refused(ORIGIN);
            let detail = "this page may not use the cookie: its origin is not in \
                          `cors.allow_origins`, or not said";
            return Err(Problem::new(ErrorCode::Forbidden, detail).with("reason", ORIGIN));
        }
        let now = SystemTime::now();
        authenticator.authenticate_fetching(credential, now).await.map_err(refused)
    }

    /// What was trusted has changed: whoever is here by it and would not be let in again goes.
    pub fn recheck(&self) {
        let authenticator = &self.0.authenticator;
        let now = everyone(authenticator);
        let before = std::mem::replace(&mut *self.0.everyone.write(), now);
        if let (Some((_, pass)), false) = (before, self.is_open()) {
            pass.revoke();
        }
        let now = SystemTime::now();
        for admitted in &*self.0.admitted.lock() {
            if let Some(pass) = admitted.pass.upgrade()
                && !admitted.would_be_let_in(authenticator, now)
            {
                pass.revoke();
            }
        }
    }

    fn is_open(&self) -> bool {
        self.0.everyone.read().is_some()
    }

    fn issue(&self, principal: &Principal, by: Vec<(Operation, ChannelPattern)>) -> Pass {
        if let Some((_, pass)) = &*self.0.everyone.read() {
            return pass.clone();
        }
        let lives = principal
            .expires
            .map(|expires| expires.duration_since(SystemTime::now()).unwrap_or_default());
        let pass = Pass::until(lives.map(|lives| Instant::now() + lives));
        let mut admitted = self.0.admitted.lock();
        // Whenever there is no room left, those who have gone make some: no work on leaving.
        if admitted.len() == admitted.capacity() {
            admitted.retain(|admitted| admitted.pass.is_in_use());
            let count = admitted.len();
            admitted.reserve(count.max(16));
        }
        let newcomer = Admitted { pass: pass.downgrade(), principal: principal.clone(), by };
        // What was trusted may have changed since they were let in.
        if !newcomer.would_be_let_in(&self.0.authenticator, SystemTime::now()) {
            pass.revoke();
        }
        admitted.push(newcomer);
        pass
    }
}

fn everyone(authenticator: &Authenticator) -> Option<(Principal, Pass)> {
    authenticator.everyone().map(|principal| (principal, Pass::default()))
}

impl Admitted {
    fn would_be_let_in(&self, authenticator: &Authenticator, now: SystemTime) -> bool {
        let Ok(principal) = authenticator.recheck(&self.principal, now) else { return false };
        if self.by.is_empty() {
            return principal.grants == self.principal.grants;
        }
        let granted = |(operation, pattern): &(Operation, ChannelPattern)| {
            principal.grants.covers_pattern(*operation, pattern)
        };
        self.by.iter().all(granted)
    }
}

impl Caller {
    /// Who makes this request.
    ///
    /// # Errors
    /// Nobody was let in with it: a defect of the hub.
    pub fn of(extensions: &Extensions) -> Result<Self, Problem> {
        let caller = extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Problem::new(ErrorCode::Internal, "the route lets nobody in"))
    }

    /// Who it is.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Who is asked about callers.
    #[must_use]
    pub fn authenticator(&self) -> &Arc<Authenticator> {
        self.gate.authenticator()
    }

    /// Asks for an operation on all channels that a pattern selects.
    ///
    /// # Errors
    /// It is not granted.
    pub fn require(&self, operation: Operation, wanted: &ChannelPattern) -> Result<(), Problem> {
        if self.principal.grants.covers_pattern(operation, wanted) {
            return Ok(());
        }
        self.gate.0.metrics.refused(FORBIDDEN);
        Err(forbidden(operation, &format!("`{wanted}`")))
    }

    /// For how long a stream of this caller may go on: as long as they are granted one of the
    /// operations on each of the channels. Without a channel, as long as their grants stay.
    #[must_use]
    pub fn pass(&self, operations: &[Operation], channels: &[ChannelPattern]) -> Pass {
        let by = channels.iter().filter_map(|channel| {
            let granted =
                |operation: &&Operation| self.principal.grants.covers_pattern(**operation, channel);
            operations.iter().find(granted).map(|operation| (*operation, channel.clone()))
        });
        self.gate.issue(&self.principal, by.collect())
    }
}

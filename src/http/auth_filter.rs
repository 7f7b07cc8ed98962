//! Authenticates and authorizes requests, and checks open streams again.

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::app::Request;
use super::client_info::ClientInfo;
use super::cors::Cors;
use super::credentials::{called, find, may_use_cookie, may_write};
use super::hosts::Hosts;
use super::problem::{ErrorCode, Problem};
use crate::auth::{AuthError, Authenticator, Credential, Operation, Principal};
use crate::channel::ChannelPattern;
use crate::lease::{AccessLease, WeakLease};
use crate::quota::{Exceeded, Payer, Quotas, SubscriptionPermit, network};
use crate::telemetry::Metrics;
use crate::value::excerpt;

/// The reason under which a refusal is counted whose credential was valid for something else.
const FORBIDDEN: &str = "forbidden";

/// The reason under which a refusal is counted that came from a page that may not send it.
const ORIGIN: &str = "origin";

/// The reason under which a refusal is counted that called the hub by a name that is not its own.
const HOST: &str = "host";

/// Authenticates and authorizes requests. A clone is a cheap handle.
#[derive(Clone)]
pub struct AuthFilter(Arc<AuthFilterState>);

struct AuthFilterState {
    authenticator: Arc<Authenticator>,
    quotas: Arc<Quotas>,
    /// Origins whose pages may use cookies.
    cors: Cors,
    /// Names by which the hub may be called, if it asks for no credentials.
    hosts: Hosts,
    /// The principal of all requests, if the hub asks for no credentials. That does not change.
    everyone: Option<Arc<Principal>>,
    admitted: Mutex<Vec<AdmittedStream>>,
    metrics: Arc<Metrics>,
}

/// The first result for a request, before its credential is checked.
pub(super) enum Admission {
    /// The hub asks for no credentials: the caller is one that may do everything.
    Granted(Request, Caller),
    /// The request is refused.
    Denied(Problem),
    /// The request needs a credential.
    Unauthenticated(UnauthenticatedRequest),
}

/// A request whose caller is not authenticated yet.
pub(super) struct UnauthenticatedRequest {
    request: Request,
    /// The token from the query.
    token: Option<String>,
}

impl UnauthenticatedRequest {
    /// Returns the request.
    pub(super) fn request(&self) -> &Request {
        &self.request
    }
}

/// An open stream, with its lease and the right that it was opened by.
struct AdmittedStream {
    lease: WeakLease,
    principal: Arc<Principal>,
    by: Right,
}

/// One of these operations, on each of these channels.
struct Right {
    operations: &'static [Operation],
    channels: Vec<ChannelPattern>,
}

/// The caller of a request.
#[derive(Clone)]
pub struct Caller {
    principal: Arc<Principal>,
    payer: Payer,
    filter: AuthFilter,
}

impl AuthFilter {
    /// Creates a filter. Cookies are accepted from pages of the hub's own origin and of those that
    /// CORS names.
    #[must_use]
    pub fn new(
        authenticator: Arc<Authenticator>,
        quotas: Arc<Quotas>,
        cors: Cors,
        hosts: Hosts,
        metrics: Arc<Metrics>,
    ) -> Self {
        let reasons = AuthError::ALL.map(AuthError::as_str);
        metrics.declare_refusals(reasons.into_iter().chain([FORBIDDEN, HOST, ORIGIN]));
        let everyone = authenticator.everyone().map(Arc::new);
        let admitted = Mutex::default();
        let shared =
            AuthFilterState { authenticator, quotas, cors, hosts, everyone, admitted, metrics };
        Self(Arc::new(shared))
    }

    /// Returns the authenticator.
    #[must_use]
    pub fn authenticator(&self) -> &Arc<Authenticator> {
        &self.0.authenticator
    }

    /// Returns a problem if the hub may not be called by the name in this request. Checked only if
    /// the hub asks for no credentials: elsewhere a page under a false name has no credential.
    pub(super) fn misdirected(&self, request: &Request) -> Option<Problem> {
        self.0.everyone.as_ref()?;
        // HTTP/1.0 programs send no name; browsers always do.
        let host = called(request)?;
        if self.0.hosts.allow(host) {
            return None;
        }
        self.0.metrics.refused(HOST);
        let detail = format!(
            "`{}` is not a name of this hub, which asks for no credentials: add the name to \
             `server.hosts`, or call the hub by address or as `localhost`",
            excerpt(host).escape_default()
        );
        Some(Problem::new(ErrorCode::MisdirectedRequest, detail).with("setting", "server.hosts"))
    }

    /// Decides about a request, as far as that needs no credential. If the hub asks for none, no
    /// request has to wait for an asynchronous check. `token` is the token from the query.
    pub(super) fn admit(&self, request: Request, token: Option<String>) -> Admission {
        let Some(everyone) = &self.0.everyone else {
            return Admission::Unauthenticated(UnauthenticatedRequest { request, token });
        };
        if !may_write(&request, &self.0.cors.allowed().origins) {
            return Admission::Denied(self.foreign_origin());
        }
        let payer = self.0.quotas.payer(None, address_of(&request));
        let caller = Caller { principal: everyone.clone(), payer, filter: self.clone() };
        Admission::Granted(request, caller)
    }

    /// Finds the caller of a request.
    ///
    /// # Errors
    /// `unauthenticated`, or an exceeded quota.
    pub(super) async fn authenticate(
        &self,
        unauthenticated: UnauthenticatedRequest,
    ) -> Result<(Request, Caller), Problem> {
        let UnauthenticatedRequest { request, token } = unauthenticated;
        let address = address_of(&request);
        self.0.quotas.may_try(address).map_err(|exceeded| self.exceeded(&exceeded))?;
        let principal = self.principal_of(&request, token.as_deref(), address).await?;
        let payer = self.0.quotas.payer(Some(name_of(&principal, address)), address);
        let caller = Caller { principal: Arc::new(principal), payer, filter: self.clone() };
        Ok((request, caller))
    }

    /// Counts an operation that is not granted. An anonymous caller is answered `unauthenticated`,
    /// so that it shows a credential.
    fn not_granted(&self, principal: &Principal, problem: Problem) -> Problem {
        if principal.is_anonymous() {
            self.0.metrics.refused(AuthError::Missing.as_str());
            return Problem::unauthenticated(AuthError::Missing).with_members_of(problem);
        }
        self.0.metrics.refused(FORBIDDEN);
        problem
    }

    fn foreign_origin(&self) -> Problem {
        self.0.metrics.refused(ORIGIN);
        let detail = "this page may not do that: its origin is not in `cors.allow_origins`, or \
                      is missing";
        Problem::new(ErrorCode::Forbidden, detail).with("reason", ORIGIN)
    }

    fn exceeded(&self, exceeded: &Exceeded) -> Problem {
        self.0.metrics.limit_hit(exceeded.limit);
        Problem::exceeded(exceeded)
    }

    async fn principal_of(
        &self,
        request: &Request,
        token: Option<&str>,
        address: IpAddr,
    ) -> Result<Principal, Problem> {
        let authenticator = &self.0.authenticator;
        let cookie = authenticator.cookie();
        let token = token.filter(|_| authenticator.takes_query_tokens());
        let refused = |error: AuthError| {
            self.0.metrics.refused(error.as_str());
            // A missing credential, or one that has just expired, is not an attempt to guess one.
            if !matches!(error, AuthError::Missing | AuthError::Expired) {
                self.0.quotas.refused(address);
            }
            Problem::unauthenticated(error)
        };
        let credential = find(request.headers(), cookie.as_deref(), token).map_err(refused)?;
        if matches!(credential, Credential::Cookie(_))
            && !may_use_cookie(request, &self.0.cors.allowed().origins)
        {
            return Err(self.foreign_origin());
        }
        let now = SystemTime::now();
        authenticator.authenticate_fetching(credential, now).await.map_err(refused)
    }

    /// Revokes the leases of open streams that would not be admitted with the present
    /// configuration.
    pub fn recheck(&self) {
        let now = SystemTime::now();
        for admitted in &*self.0.admitted.lock() {
            if let Some(lease) = admitted.lease.upgrade()
                && !admitted.is_still_admitted(&self.0.authenticator, now)
            {
                lease.revoke();
            }
        }
    }

    fn issue(
        &self,
        principal: &Arc<Principal>,
        by: Right,
        permit: Option<SubscriptionPermit>,
    ) -> AccessLease {
        if self.0.everyone.is_some() {
            return AccessLease::default();
        }
        let lifetime = principal
            .expires
            .map(|expires| expires.duration_since(SystemTime::now()).unwrap_or_default());
        let held = permit.map(|permit| Box::new(permit) as Box<dyn Any + Send + Sync>);
        let lease = AccessLease::holding(lifetime.map(|lifetime| Instant::now() + lifetime), held);
        let mut admitted = self.0.admitted.lock();
        // Ended streams are removed when the list is full, so that leaving costs nothing.
        if admitted.len() == admitted.capacity() {
            admitted.retain(|admitted| admitted.lease.is_in_use());
            let count = admitted.len();
            admitted.reserve(count.max(16));
        }
        let stream = AdmittedStream { lease: lease.downgrade(), principal: principal.clone(), by };
        // The configuration may have changed since the request was authenticated.
        if !stream.is_still_admitted(&self.0.authenticator, SystemTime::now()) {
            lease.revoke();
        }
        admitted.push(stream);
        lease
    }
}

/// Returns the address that a request came from, or the loopback address if it is not known.
fn address_of(request: &Request) -> IpAddr {
    let client = request.extensions().get::<ClientInfo>();
    client.map_or(IpAddr::from([127, 0, 0, 1]), |client| client.peer.ip())
}

/// Returns the name that quotas count under. Without an API key, it includes the network.
fn name_of(principal: &Principal, address: IpAddr) -> Arc<str> {
    match principal.key_id {
        Some(_) => principal.account.clone(),
        None => format!("{}/{}", principal.account, network(address)).into(),
    }
}

impl AdmittedStream {
    fn is_still_admitted(&self, authenticator: &Authenticator, now: SystemTime) -> bool {
        let Ok(principal) = authenticator.recheck(&self.principal, now) else { return false };
        let now = &principal.grants;
        let then = &self.principal.grants;
        let Right { operations, channels } = &self.by;
        if channels.is_empty() {
            // It may concern any channel that was granted, so all grants must still hold.
            return now.narrowed_to(then).is_ok();
        }
        let granted = |channel: &ChannelPattern| {
            operations.iter().any(|operation| now.covers_pattern(*operation, channel))
        };
        channels.iter().all(granted)
    }
}

impl Caller {
    /// Returns the principal.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Returns the authenticator.
    #[must_use]
    pub fn authenticator(&self) -> &Arc<Authenticator> {
        self.filter.authenticator()
    }

    /// Requires an operation on all channels that a pattern selects.
    ///
    /// # Errors
    /// The operation is not granted.
    pub fn require(&self, operation: Operation, wanted: &ChannelPattern) -> Result<(), Problem> {
        if self.principal.grants.covers_pattern(operation, wanted) {
            return Ok(());
        }
        let detail = format!("`{operation}` on `{wanted}` is not granted");
        Err(self.forbidden(operation, &detail))
    }

    /// Returns the problem of an operation that is not granted.
    #[must_use]
    pub fn forbidden(&self, operation: Operation, detail: &str) -> Problem {
        let problem = Problem::new(ErrorCode::Forbidden, detail);
        self.filter.not_granted(&self.principal, problem.with("operation", operation.as_str()))
    }

    /// Counts the problem if an operation is not granted. Returns the problem; for an anonymous
    /// caller, `unauthenticated` with its members.
    #[must_use]
    pub fn refused(&self, problem: Problem) -> Problem {
        match problem.code() {
            ErrorCode::Forbidden => self.filter.not_granted(&self.principal, problem),
            _ => problem,
        }
    }

    /// Returns the account that this caller's usage is counted in.
    #[must_use]
    pub fn payer(&self) -> &Payer {
        &self.payer
    }

    /// Returns the problem of an exceeded quota, and counts it.
    #[must_use]
    pub fn exceeded(&self, exceeded: &Exceeded) -> Problem {
        self.filter.exceeded(exceeded)
    }

    /// Issues a lease for a stream of this caller. It lasts as long as one of the operations is
    /// granted on each of the channels; without a channel, until a grant is taken away.
    #[must_use]
    pub fn lease(
        &self,
        operations: &'static [Operation],
        channels: Vec<ChannelPattern>,
    ) -> AccessLease {
        self.filter.issue(&self.principal, Right { operations, channels }, None)
    }

    /// Issues a lease for a subscription, which counts as one of the principal's streams.
    ///
    /// # Errors
    /// The principal has as many streams open as it may.
    pub fn subscribe(
        &self,
        operations: &'static [Operation],
        channels: Vec<ChannelPattern>,
    ) -> Result<AccessLease, Problem> {
        let permit = self.payer.subscribe().map_err(|limit| {
            self.filter.0.metrics.limit_hit(limit);
            Problem::over_quota(limit, "the maximum number of streams is open")
        })?;
        Ok(self.filter.issue(&self.principal, Right { operations, channels }, permit))
    }
}

//! Who is let in: from a request to its caller, or to the problem that says why not.

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::Extensions;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::access::Access;
use super::credentials::{called, find, may_use_cookie, may_write, take_query_token};
use super::hosts::Hosts;
use super::problem::{ErrorCode, Problem};
use super::{ClientInfo, Cors, Request};
use crate::auth::{AuthError, Authenticator, Credential, Operation, Principal};
use crate::channel::ChannelPattern;
use crate::lease::{AccessLease, WeakLease};
use crate::quota::{Exceeded, Payer, Quotas, SubscriptionPermit, network};
use crate::telemetry::Metrics;

/// What a refusal is counted as beside the reasons of credentials: it was good for something else.
const FORBIDDEN: &str = "forbidden";

/// And this: it came from a page that may not send it.
const ORIGIN: &str = "origin";

/// And this: it called the hub by a name that is not the hub's.
const HOST: &str = "host";

/// Lets requests in: a cheap handle.
#[derive(Clone)]
pub struct AuthFilter(Arc<AuthFilterState>);

struct AuthFilterState {
    authenticator: Arc<Authenticator>,
    quotas: Arc<Quotas>,
    /// Origins whose pages may use cookies.
    cors: Cors,
    /// By what names the hub may be called, where nobody is asked who they are.
    hosts: Hosts,
    /// Who everybody is, where nobody is asked. That does not change.
    everyone: Option<Arc<Principal>>,
    admitted: Mutex<Vec<AdmittedStream>>,
    metrics: Arc<Metrics>,
}

/// What the auth filter says to a request at once.
pub(super) enum Admission {
    /// It is let in.
    Granted(Request),
    /// It is not.
    Denied(RefusedRequest),
    /// Its caller has to show who they are.
    Unauthenticated(UnauthenticatedRequest),
}

/// Why a request is not let in, and its body.
pub(super) type RefusedRequest = (Problem, Incoming);

/// A request whose caller is not known yet.
pub(super) struct UnauthenticatedRequest {
    request: Request,
    /// The one that stood in the query.
    token: Option<String>,
    access: Access,
}

impl UnauthenticatedRequest {
    /// What they ask for.
    pub(super) fn request(&self) -> &Request {
        &self.request
    }
}

/// A stream that goes on, and what it may go on by.
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

/// Who calls; handlers find it among the request's extensions.
#[derive(Clone)]
pub struct Caller {
    principal: Arc<Principal>,
    payer: Payer,
    filter: AuthFilter,
}

impl AuthFilter {
    /// Asks this authenticator, and lets nobody have more than these quotas. Cookies are taken
    /// from pages of the hub's own origin and of those that CORS names.
    #[must_use]
    pub fn new(
        authenticator: Arc<Authenticator>,
        quotas: Arc<Quotas>,
        cors: Cors,
        hosts: Hosts,
        metrics: Arc<Metrics>,
    ) -> Self {
        let reasons = AuthError::ALL.map(AuthError::code);
        metrics.declare_refusals(reasons.into_iter().chain([FORBIDDEN, HOST, ORIGIN]));
        let everyone = authenticator.everyone().map(Arc::new);
        let admitted = Mutex::default();
        let shared =
            AuthFilterState { authenticator, quotas, cors, hosts, everyone, admitted, metrics };
        Self(Arc::new(shared))
    }

    /// Who is asked.
    #[must_use]
    pub fn authenticator(&self) -> &Arc<Authenticator> {
        &self.0.authenticator
    }

    /// Why the hub may not be called by the name that this request calls it by, if that is so. Only
    /// where nobody is asked who they are: elsewhere a page under a false name has no credential.
    pub(super) fn misdirected(&self, request: &Request) -> Option<Problem> {
        self.0.everyone.as_ref()?;
        // Programs of old say no name at all; browsers always do.
        let host = called(request)?;
        if self.0.hosts.allow(host) {
            return None;
        }
        self.0.metrics.refused(HOST);
        let host: String = host.chars().take(100).flat_map(char::escape_default).collect();
        let detail = format!(
            "`{host}` is not a name of this hub, which asks for no credentials: add the name to \
             `server.hosts`, or call the hub by address or as `localhost`"
        );
        Some(Problem::new(ErrorCode::MisdirectedRequest, detail).with("setting", "server.hosts"))
    }

    /// Lets a request in, or not, if that can be said at once: where nobody is asked who they are,
    /// nobody has to wait for the answer either.
    pub(super) fn admit(&self, access: Access, mut request: Request) -> Admission {
        let token = take_query_token(request.uri_mut());
        if matches!(access, Access::Health | Access::Free) {
            return Admission::Granted(request);
        }
        let Some(everyone) = &self.0.everyone else {
            return Admission::Unauthenticated(UnauthenticatedRequest { request, token, access });
        };
        if !may_write(&request, &self.0.cors.allowed().origins) {
            return Admission::Denied((self.foreign_origin(), request.into_body()));
        }
        let payer = self.0.quotas.payer(None, address_of(&request));
        Admission::Granted(self.with_caller(everyone.clone(), payer, request))
    }

    /// Lets a request in whose caller shows who they are, or not. `rest` is what the path's `{*…}`
    /// stood for.
    ///
    /// # Errors
    /// `unauthenticated`, `forbidden`, or the path names no channel.
    pub(super) async fn admit_by_token(
        &self,
        unauthenticated: UnauthenticatedRequest,
        rest: &str,
    ) -> Result<Request, RefusedRequest> {
        let UnauthenticatedRequest { request, token, access } = unauthenticated;
        match self.identify(&request, token.as_deref(), access, rest).await {
            Ok((principal, payer)) => Ok(self.with_caller(principal, payer, request)),
            Err(problem) => Err((problem, request.into_body())),
        }
    }

    /// The caller stands among the request's extensions from now on.
    fn with_caller(
        &self,
        principal: Arc<Principal>,
        payer: Payer,
        mut request: Request,
    ) -> Request {
        request.extensions_mut().insert(Caller { principal, payer, filter: self.clone() });
        request
    }

    async fn identify(
        &self,
        request: &Request,
        token: Option<&str>,
        access: Access,
        rest: &str,
    ) -> Result<(Arc<Principal>, Payer), Problem> {
        let address = address_of(request);
        self.0.quotas.may_try(address).map_err(|exceeded| self.exceeded(&exceeded))?;
        let principal = self.authenticate(request, token, address).await?;
        access.check(&principal.grants, rest).map_err(|problem| match problem.code() {
            ErrorCode::Forbidden => self.not_granted(&principal, problem),
            _ => problem,
        })?;
        let payer = self.0.quotas.payer(Some(name_of(&principal, address)), address);
        Ok((Arc::new(principal), payer))
    }

    /// Counts that something is not granted. To those who have shown nothing, the way to get it is
    /// said.
    fn not_granted(&self, principal: &Principal, problem: Problem) -> Problem {
        if principal.is_anonymous() {
            self.0.metrics.refused(AuthError::Missing.code());
            return Problem::unauthenticated(AuthError::Missing);
        }
        self.0.metrics.refused(FORBIDDEN);
        problem
    }

    fn foreign_origin(&self) -> Problem {
        self.0.metrics.refused(ORIGIN);
        let detail = "this page may not do that: its origin is not in `cors.allow_origins`, or is \
                      not said";
        Problem::new(ErrorCode::Forbidden, detail).with("reason", ORIGIN)
    }

    fn exceeded(&self, exceeded: &Exceeded) -> Problem {
        self.0.metrics.limit_hit(exceeded.limit);
        Problem::exceeded(exceeded)
    }

    async fn authenticate(
        &self,
        request: &Request,
        token: Option<&str>,
        address: IpAddr,
    ) -> Result<Principal, Problem> {
        let authenticator = &self.0.authenticator;
        let cookie = authenticator.cookie();
        let token = token.filter(|_| authenticator.takes_query_tokens());
        let refused = |error: AuthError| {
            self.0.metrics.refused(error.code());
            // Who shows nothing, or what was good a moment ago, does not guess.
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

    /// What was trusted has changed: whoever is here by it and would not be let in again goes.
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
        place: Option<SubscriptionPermit>,
    ) -> AccessLease {
        if self.0.everyone.is_some() {
            return AccessLease::default();
        }
        let lives = principal
            .expires
            .map(|expires| expires.duration_since(SystemTime::now()).unwrap_or_default());
        let held = place.map(|place| Box::new(place) as Box<dyn Any + Send + Sync>);
        let lease = AccessLease::holding(lives.map(|lives| Instant::now() + lives), held);
        let mut admitted = self.0.admitted.lock();
        // Whenever there is no room left, those who have gone make some: no work on leaving.
        if admitted.len() == admitted.capacity() {
            admitted.retain(|admitted| admitted.lease.is_in_use());
            let count = admitted.len();
            admitted.reserve(count.max(16));
        }
        let newcomer =
            AdmittedStream { lease: lease.downgrade(), principal: principal.clone(), by };
        // What was trusted may have changed since they were let in.
        if !newcomer.is_still_admitted(&self.0.authenticator, SystemTime::now()) {
            lease.revoke();
        }
        admitted.push(newcomer);
        lease
    }
}

/// Where a request comes from, as far as anybody says.
fn address_of(request: &Request) -> IpAddr {
    let client = request.extensions().get::<ClientInfo>();
    client.map_or(IpAddr::from([127, 0, 0, 1]), |client| client.peer.ip())
}

/// By what name somebody is counted. Those who are nobody in particular are told apart by address.
fn name_of(principal: &Principal, address: IpAddr) -> Arc<str> {
    match principal.key_id {
        Some(_) => principal.account.clone(),
        None => format!("{}/{}", principal.account, network(address)).into(),
    }
}

impl AdmittedStream {
    fn is_still_admitted(&self, authenticator: &Authenticator, now: SystemTime) -> bool {
        let Ok(principal) = authenticator.recheck(&self.principal, now) else { return false };
        let (now, then) = (&principal.grants, &self.principal.grants);
        let Right { operations, channels } = &self.by;
        if channels.is_empty() {
            // It may be about any of those that were granted.
            return now.narrowed_to(then).is_ok();
        }
        let granted = |channel: &ChannelPattern| {
            operations.iter().any(|operation| now.covers_pattern(*operation, channel))
        };
        channels.iter().all(granted)
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
        self.filter.authenticator()
    }

    /// Asks for an operation on all channels that a pattern selects.
    ///
    /// # Errors
    /// It is not granted.
    pub fn require(&self, operation: Operation, wanted: &ChannelPattern) -> Result<(), Problem> {
        if self.principal.grants.covers_pattern(operation, wanted) {
            return Ok(());
        }
        let detail = format!("`{operation}` on `{wanted}` is not granted");
        Err(self.forbidden(operation, &detail))
    }

    /// What it wants is not granted.
    #[must_use]
    pub fn forbidden(&self, operation: Operation, detail: &str) -> Problem {
        let problem = Problem::new(ErrorCode::Forbidden, detail);
        self.filter.not_granted(&self.principal, problem.with("operation", operation.as_str()))
    }

    /// Who pays for what it does.
    #[must_use]
    pub fn payer(&self) -> &Payer {
        &self.payer
    }

    /// What it does has met a quota.
    #[must_use]
    pub fn exceeded(&self, exceeded: &Exceeded) -> Problem {
        self.filter.exceeded(exceeded)
    }

    /// For how long a stream of this caller may go on: as long as they are granted one of the
    /// operations on each of the channels. Without a channel, as long as nothing of what they were
    /// granted is taken away.
    #[must_use]
    pub fn lease(
        &self,
        operations: &'static [Operation],
        channels: Vec<ChannelPattern>,
    ) -> AccessLease {
        self.filter.issue(&self.principal, Right { operations, channels }, None)
    }

    /// The same for a stream out of the hub, which takes a place among those that the principal may
    /// have.
    ///
    /// # Errors
    /// It has as many as it may.
    pub fn subscribe(
        &self,
        operations: &'static [Operation],
        channels: Vec<ChannelPattern>,
    ) -> Result<AccessLease, Problem> {
        let place = self.payer.subscribe().map_err(|limit| {
            self.filter.0.metrics.limit_hit(limit);
            Problem::over_quota(limit, "as many streams are open as you may have")
        })?;
        Ok(self.filter.issue(&self.principal, Right { operations, channels }, place))
    }
}

//! Turns credentials into principals.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;

use super::api_key::{self, ApiKeyHash};
use super::config::{Config, InvalidAuth};
use super::error::AuthError;
use super::grants::Grants;
use super::issuer::Issuer;
use super::key::{Key, KeyId};
use super::key_set::{FetchKeys, PendingFetch};
use super::minter::{self, Minter};
use super::secret::Environment;
use super::token::Token;
use super::{ANONYMOUS, Credential, Principal};
use crate::limits::{MAX_TOKEN_BYTES, MAX_TRIED_KEYS};

/// The issuer of principals with an API key.
const API_KEY: &str = "api_key";

/// The issuer of the principal that may do anything, in a hub without credentials.
const EVERYONE: &str = "everyone";

/// Authenticates credentials. Its trusted issuers and keys can be exchanged while it runs.
pub struct Authenticator {
    state: RwLock<Arc<AuthenticatorState>>,
    fetcher: Option<Arc<dyn FetchKeys>>,
}

/// Trusted issuers and keys, as one reading of the configuration has them.
struct AuthenticatorState {
    issuers: Vec<Issuer>,
    api_keys: Vec<ApiKey>,
    /// The principal of a client without a credential; `None` if such a client is refused.
    unnamed: Option<Principal>,
    minter: Option<Minter>,
    leeway: Duration,
    cookie: Option<Arc<str>>,
    query: bool,
    refresh: Duration,
    interval: Duration,
}

struct ApiKey {
    hash: ApiKeyHash,
    principal: Principal,
}

/// A refusal, and the missing key that may turn it into success.
struct AuthRefusal {
    error: AuthError,
    /// The `kid` of the missing key, and the issuers that may have published it since.
    missing: Option<(Option<String>, Vec<usize>)>,
}

impl From<AuthError> for AuthRefusal {
    fn from(error: AuthError) -> Self {
        Self { error, missing: None }
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.read().clone();
        let issuers: Vec<_> = state.issuers.iter().map(|issuer| &*issuer.name).collect();
        let api_keys: Vec<_> = state.api_keys.iter().map(|key| &*key.principal.name).collect();
        f.debug_struct("Authenticator")
            .field("issuers", &issuers)
            .field("api_keys", &api_keys)
            .finish_non_exhaustive()
    }
}

impl Authenticator {
    /// Creates an authenticator. `fetcher` is needed only for keys at URLs.
    ///
    /// # Errors
    /// All that is wrong with the settings, and with the files and secrets that they name.
    pub fn new(
        config: &Config,
        environment: Environment<'_>,
        fetcher: Option<Arc<dyn FetchKeys>>,
    ) -> Result<Self, Vec<InvalidAuth>> {
        let state = RwLock::new(Arc::new(AuthenticatorState::build(config, environment, &[])?));
        Ok(Self { state, fetcher })
    }

    /// Replaces the configuration, or reads the key files of the same one again. Requests that are
    /// being authenticated use the old one to their end.
    ///
    /// # Errors
    /// As [`Authenticator::new`]; then the old configuration stays in force.
    pub fn reload(
        &self,
        config: &Config,
        environment: Environment<'_>,
    ) -> Result<(), Vec<InvalidAuth>> {
        let before = self.state.read().clone();
        let state = AuthenticatorState::build(config, environment, &before.issuers)?;
        *self.state.write() = Arc::new(state);
        Ok(())
    }

    /// Returns the principal of a credential, by the keys that are loaded.
    ///
    /// # Errors
    /// The credential is refused.
    #[cfg(any(test, feature = "internals"))]
    pub fn authenticate(
        &self,
        credential: Credential<'_>,
        now: SystemTime,
    ) -> Result<Principal, AuthError> {
        let state = self.state.read().clone();
        state.verify(credential, now).map_err(|refusal| refusal.error)
    }

    /// Returns the principal of a credential. If its key is not loaded, and may have been published
    /// since the last fetch, the key set is fetched first.
    ///
    /// # Errors
    /// The credential is refused.
    pub async fn authenticate_fetching(
        &self,
        credential: Credential<'_>,
        now: SystemTime,
    ) -> Result<Principal, AuthError> {
        let state = self.state.read().clone();
        let refusal = match state.verify(credential, now) {
            Ok(principal) => return Ok(principal),
            Err(refusal) => refusal,
        };
        let (Some((kid, places)), Some(fetcher)) = (refusal.missing, &self.fetcher) else {
            return Err(refusal.error);
        };
        let issuers: Vec<_> = places.iter().filter_map(|place| state.issuers.get(*place)).collect();
        let fetched = |issuer: &&&Issuer| issuer.keys.fetched();
        let before: Vec<_> = issuers.iter().map(|issuer| fetched(&issuer)).collect();
        let look = |issuer: &&Issuer| -> Option<PendingFetch> {
            issuer.keys.look_for(kid.as_deref(), fetcher, state.interval, now)
        };
        let pending: Vec<_> = issuers.iter().filter_map(look).collect();
        if pending.is_empty() {
            return Err(refusal.error);
        }
        futures_util::future::join_all(pending).await;
        let verified = state.verify(credential, now);
        if verified.as_ref().is_err_and(|refusal| refusal.error == AuthError::UnknownKey) {
            // A failed fetch does not show that no such key exists.
            let looked = issuers.iter().zip(before);
            for (issuer, _) in looked.filter(|(issuer, before)| fetched(issuer) != *before) {
                issuer.keys.remember_unknown(kid.as_deref(), now);
            }
        }
        verified.map_err(|refusal| refusal.error)
    }

    /// Fetches the keys that are older than `auth.jwks_refresh`. Call it at the start, and then
    /// periodically, such as once a minute.
    pub async fn refresh(&self, now: SystemTime) {
        let state = self.state.read().clone();
        let Some(fetcher) = &self.fetcher else { return };
        let due = |issuer: &Issuer| issuer.keys.renew(fetcher, state.refresh, state.interval, now);
        futures_util::future::join_all(state.issuers.iter().filter_map(due)).await;
    }

    /// Checks again a principal whose connection is still open. Returns the principal with its
    /// current grants.
    ///
    /// # Errors
    /// It has expired, its key was removed, or its role no longer exists.
    pub fn recheck(&self, principal: &Principal, now: SystemTime) -> Result<Principal, AuthError> {
        if principal.expires.is_some_and(|ends| now >= ends) {
            return Err(AuthError::Expired);
        }
        let state = self.state.read().clone();
        let Some(key_id) = principal.key_id else {
            return state.unnamed.clone().ok_or(AuthError::Missing);
        };
        if let Some(key) = state.api_keys.iter().find(|key| key.principal.key_id == Some(key_id)) {
            return Ok(key.principal.clone());
        }
        let issuer = state.issuers.iter().find(|issuer| issuer.name == principal.issuer);
        let issuer =
            issuer.filter(|issuer| issuer.keys.has(key_id)).ok_or(AuthError::UnknownKey)?;
        let mut principal = principal.clone();
        if let Some(most) = &issuer.at_most {
            principal.grants = Arc::new(principal.grants.within(most));
        }
        state.within_its_minter(principal)
    }

    /// Returns the minter of the hub's own tokens, if `auth.signing_key` is set.
    #[must_use]
    pub fn minter(&self) -> Option<Minter> {
        self.state.read().minter.clone()
    }

    /// Returns the principal of all clients, if no credentials are configured.
    #[must_use]
    pub fn everyone(&self) -> Option<Principal> {
        let state = self.state.read().clone();
        state.unnamed.clone().filter(|_| state.is_open())
    }

    /// Returns the name of the cookie that may carry a token, if one is set.
    #[must_use]
    pub fn cookie(&self) -> Option<Arc<str>> {
        self.state.read().cookie.clone()
    }

    /// Returns whether `?access_token=` may carry a token.
    #[must_use]
    pub fn takes_query_tokens(&self) -> bool {
        self.state.read().query
    }
}

impl AuthenticatorState {
    fn build(
        config: &Config,
        environment: Environment<'_>,
        before: &[Issuer],
    ) -> Result<Self, Vec<InvalidAuth>> {
        let mut wrong = config.validate();
        let mut issuers = Vec::new();
        for issuer in &config.issuers {
            match Issuer::build(config, issuer, environment, before) {
                Ok(built) => issuers.push(built),
                Err(why) => {
                    let message = format!("`{}`: `keys`: {why}", issuer.name);
                    wrong.push(InvalidAuth { key: "auth.issuers", message });
                }
            }
        }
        let mut minter = None;
        if let Some(source) = &config.signing_key {
            let secret = source
                .read(environment, Minter::LEAST_KEY_BYTES)
                .map_err(|error| error.to_string());
            match secret.and_then(|secret| Ok((Issuer::own(&secret)?, secret))) {
                Ok((own, secret)) => {
                    issuers.push(own);
                    minter = Some(Minter::new(&secret, config.max_token_ttl));
                }
                Err(message) => wrong.push(InvalidAuth { key: "auth.signing_key", message }),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        Ok(Self {
            issuers,
            api_keys: config.api_keys.iter().map(ApiKey::new).collect(),
            unnamed: unnamed(config),
            minter,
            leeway: config.leeway,
            cookie: (!config.cookie.is_empty()).then(|| config.cookie.as_str().into()),
            query: config.query_token,
            refresh: config.jwks_refresh,
            interval: config.jwks_min_interval,
        })
    }

    fn verify(
        &self,
        credential: Credential<'_>,
        now: SystemTime,
    ) -> Result<Principal, AuthRefusal> {
        match credential {
            // Without configured credentials all clients may do anything, also those that send one.
            _ if self.is_open() => Ok(self.unnamed.clone().ok_or(AuthError::Missing)?),
            Credential::Cookie(text) if self.cookie.is_some() => self.only_token(text, now),
            Credential::Query(text) if self.query => self.only_token(text, now),
            Credential::ApiKey(key) => Ok(self.api_key(key)?),
            // A token has dots, and an API key has none.
            Credential::Bearer(text) if !text.contains('.') => Ok(self.api_key(text)?),
            Credential::Bearer(token) => self.token(token, now),
            // A cookie or query token that is switched off counts as not sent.
            Credential::None | Credential::Cookie(_) | Credential::Query(_) => {
                Ok(self.unnamed.clone().ok_or(AuthError::Missing)?)
            }
        }
    }

    fn is_open(&self) -> bool {
        self.unnamed.as_ref().is_some_and(|unnamed| &*unnamed.issuer == EVERYONE)
    }

    fn api_key(&self, text: &str) -> Result<Principal, AuthError> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::TooLarge);
        }
        if text.is_empty() {
            return Err(AuthError::Malformed);
        }
        let place = api_key::find(text, self.api_keys.iter().map(|key| &key.hash))?;
        self.api_keys.get(place).map(|key| key.principal.clone()).ok_or(AuthError::UnknownKey)
    }

    /// Refuses API keys: in a URL or a cookie they would end up in logs and histories.
    fn only_token(&self, text: &str, now: SystemTime) -> Result<Principal, AuthRefusal> {
        if text.contains('.') { self.token(text, now) } else { Err(AuthError::Misplaced.into()) }
    }

    fn token(&self, text: &str, now: SystemTime) -> Result<Principal, AuthRefusal> {
        let token = Token::parse(text)?;
        let places = self.issuers_of(token.issuer()?);
        if places.is_empty() {
            return Err(AuthError::Issuer.into());
        }
        let candidates = self.candidates(&places, token.kid.as_deref());
        if candidates.is_empty() {
            let missing = Some((token.kid.clone(), places));
            return Err(AuthRefusal { error: AuthError::UnknownKey, missing });
        }
        let fits = |(_, key): &&(&Issuer, Key)| key.algorithm == token.algorithm;
        let mut error = AuthError::Algorithm;
        for (issuer, key) in candidates.iter().filter(fits).take(MAX_TRIED_KEYS) {
            if !token.is_signed_by(key) {
                if error == AuthError::Algorithm {
                    error = AuthError::WrongSignature;
                }
                continue;
            }
            match token.principal(issuer, key, self.leeway, now) {
                Ok(principal) => return Ok(self.within_its_minter(principal)?),
                Err(why) => error = why,
            }
        }
        Err(error.into())
    }

    /// Limits a minted token to what its minter may do now: the grants of its API key, or the
    /// `at_most` of its issuer. When the minter loses a grant, so do its tokens.
    fn within_its_minter(&self, mut principal: Principal) -> Result<Principal, AuthError> {
        let own = *principal.issuer == *minter::ISSUER;
        let Some((issuer, name)) = principal.account.split_once('/').filter(|_| own) else {
            return Ok(principal);
        };
        let most = match issuer {
            minter::ISSUER => return Ok(principal),
            API_KEY => {
                let same = |key: &&ApiKey| *key.principal.name == *name;
                let key = self.api_keys.iter().find(same).ok_or(AuthError::UnknownKey)?;
                Some(&*key.principal.grants)
            }
            issuer => {
                let same = |known: &&Issuer| *known.name == *issuer;
                let issuer = self.issuers.iter().find(same).ok_or(AuthError::Issuer)?;
                issuer.at_most.as_ref()
            }
        };
        if let Some(most) = most {
            principal.grants = Arc::new(principal.grants.within(most));
        }
        if principal.grants.is_empty() { Err(AuthError::NoGrants) } else { Ok(principal) }
    }

    /// Returns the issuers with this `iss`, or, if there are none, those without a configured
    /// `iss`.
    fn issuers_of(&self, iss: Option<&str>) -> Vec<usize> {
        let of = |wanted: Option<&str>| {
            let all = self.issuers.iter().enumerate();
            let same = all.filter(|(_, issuer)| issuer.issuer.as_deref() == wanted);
            same.map(|(place, _)| place).collect::<Vec<_>>()
        };
        let named = of(iss);
        if named.is_empty() { of(None) } else { named }
    }

    /// Returns the keys that may have signed a token. A token without a `kid` may be signed by any
    /// key of its issuer; a key without a `kid` is the only one of its issuer, and matches every
    /// `kid`.
    fn candidates(&self, places: &[usize], kid: Option<&str>) -> Vec<(&Issuer, Key)> {
        let mut found = Vec::new();
        for issuer in places.iter().filter_map(|place| self.issuers.get(*place)) {
            for key in issuer.keys.keys().iter() {
                let named = kid.is_none() || key.kid.is_none() || key.kid.as_deref() == kid;
                if named {
                    found.push((issuer, key.clone()));
                }
            }
        }
        found
    }
}

impl ApiKey {
    fn new(config: &super::ApiKeyConfig) -> Self {
        let principal = Principal {
            name: config.name.as_str().into(),
            issuer: API_KEY.into(),
            account: format!("{API_KEY}/{}", config.name).into(),
            grants: Arc::new(config.grants.clone()),
            expires: None,
            key_id: Some(KeyId::of("api_key", &[config.name.as_bytes(), config.hash.bytes()])),
        };
        Self { hash: config.hash, principal }
    }
}

/// Returns the principal of clients without a credential: the anonymous role, or, if no credentials
/// are configured at all, one that may do anything.
fn unnamed(config: &Config) -> Option<Principal> {
    let (name, grants) = if !config.anonymous.is_empty() {
        (ANONYMOUS, config.anonymous.clone())
    } else if !config.has_credentials() {
        (EVERYONE, Grants::everything())
    } else {
        return None;
    };
    let name: Arc<str> = name.into();
    Some(Principal {
        issuer: name.clone(),
        account: name.clone(),
        name,
        grants: Arc::new(grants),
        expires: None,
        key_id: None,
    })
}

//! Signed tokens (RFC 7519, in the compact form of RFC 7515): parsed, then verified.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::Principal;
use super::error::AuthError;
use super::grants::Grants;
use super::issuer::Issuer;
use super::key::{Algorithm, Key};
use super::minter::BY;
use crate::limits::{MAX_SUBJECT_BYTES, MAX_TOKEN_BYTES};

/// The end of the year 9999: later times in a token become this one.
const LAST_SECOND: u64 = 253_402_300_799;

/// A parsed token: none of it is verified yet.
pub(super) struct Token<'a> {
    message: &'a str,
    signature: &'a str,
    /// The algorithm that it names: only compared with that of its key, never used to choose one.
    pub(super) algorithm: Algorithm,
    /// The name of its key.
    pub(super) kid: Option<String>,
    claims: Map<String, Value>,
}

impl<'a> Token<'a> {
    /// Parses a token.
    pub(super) fn parse(text: &'a str) -> Result<Self, AuthError> {
        if text.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::TooLarge);
        }
        let (message, signature) = text.rsplit_once('.').ok_or(AuthError::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(AuthError::Malformed)?;
        let header = object(header)?;
        let claims = object(claims)?;
        // A header listed in `crit` must be understood, and the hub understands none.
        if header.contains_key("crit") {
            return Err(AuthError::Malformed);
        }
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(AuthError::Malformed),
        };
        let algorithm = header.get("alg").and_then(Value::as_str).ok_or(AuthError::Malformed)?;
        let algorithm = algorithm.parse().map_err(|_| AuthError::Algorithm)?;
        Ok(Self { message, signature, algorithm, kid, claims })
    }

    /// Returns the `iss` that it claims.
    pub(super) fn issuer(&self) -> Result<Option<&str>, AuthError> {
        self.text("iss")
    }

    /// Returns whether this key has signed it.
    pub(super) fn is_signed_by(&self, key: &Key) -> bool {
        key.verifies(self.message, self.signature)
    }

    /// Returns the principal of the token, whose signature by the issuer's key was verified.
    pub(super) fn principal(
        &self,
        issuer: &Issuer,
        key: &Key,
        leeway: Duration,
        now: SystemTime,
    ) -> Result<Principal, AuthError> {
        self.check_audience(issuer.audience.as_deref())?;
        let expires = self.check_times(issuer.require_exp, issuer.leeway(leeway), now)?;
        let claim = self.claims.get(&*issuer.claim).ok_or(AuthError::NoGrants)?;
        let mut grants = Grants::from_claim(claim).map_err(|_| AuthError::Malformed)?;
        if let Some(most) = &issuer.at_most {
            grants = grants.within(most);
        }
        if grants.is_empty() {
            return Err(AuthError::NoGrants);
        }
        let name = self.text("sub")?.unwrap_or(&issuer.name);
        if name.len() > MAX_SUBJECT_BYTES {
            return Err(AuthError::Malformed);
        }
        let account = match self.text(BY)?.filter(|_| issuer.is_own()) {
            Some(minter) => minter.into(),
            None => format!("{}/{name}", issuer.name).into(),
        };
        Ok(Principal {
            name: name.into(),
            issuer: issuer.name.clone(),
            account,
            grants: Arc::new(grants),
            expires,
            key_id: Some(key.id),
        })
    }

    /// A token with audiences is valid only for these.
    fn check_audience(&self, expected: Option<&str>) -> Result<(), AuthError> {
        let is_it = |value: &Value| value.as_str().is_some_and(|name| Some(name) == expected);
        let fits = match self.claims.get("aud") {
            None => expected.is_none(),
            Some(Value::Array(names)) => names.iter().any(is_it),
            Some(name) => is_it(name),
        };
        if fits { Ok(()) } else { Err(AuthError::Audience) }
    }

    /// Returns the expiry time of the token's principal. The leeway forgives a clock that is a
    /// little off when a token is shown; a stream that already runs ends at `exp` itself.
    fn check_times(
        &self,
        require_exp: bool,
        leeway: Duration,
        now: SystemTime,
    ) -> Result<Option<SystemTime>, AuthError> {
        if self.time("nbf")?.is_some_and(|begins| begins > now + leeway) {
            return Err(AuthError::NotYetValid);
        }
        match self.time("exp")? {
            None if require_exp => Err(AuthError::Malformed),
            None => Ok(None),
            Some(ends) if now < ends => Ok(Some(ends)),
            Some(ends) if now < ends + leeway => Ok(Some(ends + leeway)),
            Some(_) => Err(AuthError::Expired),
        }
    }

    fn text(&self, claim: &str) -> Result<Option<&str>, AuthError> {
        match self.claims.get(claim) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(AuthError::Malformed),
        }
    }

    /// Reads a time in seconds since the epoch; fractions are allowed, and truncated.
    fn time(&self, claim: &str) -> Result<Option<SystemTime>, AuthError> {
        let Some(value) = self.claims.get(claim) else { return Ok(None) };
        let seconds = match (value.as_u64(), value.as_f64()) {
            (Some(whole), _) => whole.min(LAST_SECOND),
            // Within these bounds the number is one of whole seconds.
            (None, Some(real)) => real.clamp(0.0, LAST_SECOND as f64) as u64,
            (None, None) => return Err(AuthError::Malformed),
        };
        Ok(Some(UNIX_EPOCH + Duration::from_secs(seconds)))
    }
}

/// Decodes one part of a token.
fn object(part: &str) -> Result<Map<String, Value>, AuthError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| AuthError::Malformed)
}

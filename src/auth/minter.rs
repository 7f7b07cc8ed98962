//! Tokens that the hub signs: scoped, short-lived, safe to give to a browser.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;

use super::Principal;
use super::grants::{Grants, NotCovered};
use super::secret::Secret;
use crate::limits::{MAX_SUBJECT_BYTES, MAX_TOKEN_BYTES};

/// `iss` and `aud` of the hub's own tokens, and the name of their issuer.
pub(super) const ISSUER: &str = "fanfare";

/// The claim that contains their grants, independent of `auth.claim`: so the command line and the
/// hub need not agree on a setting.
pub(super) const CLAIM: &str = "fanfare";

/// The claim with the principal that it was minted for, as `issuer/name`, if there was one.
pub(super) const BY: &str = "by";

/// Signs tokens with `auth.signing_key`.
#[derive(Clone)]
pub struct Minter {
    key: EncodingKey,
    max_ttl: Duration,
}

impl fmt::Debug for Minter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minter").field("max_ttl", &self.max_ttl).finish_non_exhaustive()
    }
}

/// A new token and its expiry time.
#[derive(Clone, PartialEq, Eq)]
pub struct Minted {
    /// The token.
    pub token: String,
    /// The expiry time.
    pub expires: SystemTime,
}

impl fmt::Debug for Minted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Minted").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// The reason for which no token was minted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The token would grant what its minter may not do.
    #[error(transparent)]
    NotCovered(#[from] NotCovered),
    /// The token would grant nothing.
    #[error("a token grants something: name a pattern to publish, subscribe, signal or admin")]
    NoGrants,
    /// No time to live, or the minter has expired.
    #[error(
        "a token lives for at least a second, and no longer than the credential that asks for it"
    )]
    NoTime,
    /// The subject is too long.
    #[error("a subject has at most {MAX_SUBJECT_BYTES} bytes")]
    Subject,
    /// More patterns than a header can carry.
    #[error("the token would be larger than {MAX_TOKEN_BYTES} bytes: grant fewer patterns")]
    TooLarge,
    /// Signing failed.
    #[error("the token could not be signed")]
    Signing,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    iat: u64,
    exp: u64,
    jti: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'a str>,
    fanfare: &'a Grants,
}

impl Minter {
    /// Minimum bytes of its key: as many as the signature has (RFC 7518, section 3.2).
    pub const LEAST_KEY_BYTES: usize = 32;

    /// Creates a minter with this key, whose tokens live no longer than `max_ttl`.
    #[must_use]
    pub fn new(key: &Secret, max_ttl: Duration) -> Self {
        Self { key: EncodingKey::from_secret(key.expose()), max_ttl }
    }

    /// Signs a token for the holder of the key: `fanfare token create`.
    ///
    /// # Errors
    /// It would grant nothing, have no time to live, or be too large.
    pub fn mint(
        &self,
        grants: &Grants,
        subject: &str,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Minted, MintError> {
        self.sign(grants, subject, None, now, now + ttl.min(self.max_ttl))
    }

    /// Signs a token for a principal, which grants no more than the principal has, and expires no
    /// later. For `POST /v1/tokens`.
    ///
    /// # Errors
    /// The token would exceed the minter's grants; see also [`Minter::mint`].
    pub fn mint_for(
        &self,
        minter: &Principal,
        wanted: &Grants,
        subject: &str,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Minted, MintError> {
        let grants = minter.grants.narrowed_to(wanted)?;
        let wished = now + ttl.min(self.max_ttl);
        let expires = minter.expires.map_or(wished, |ends| ends.min(wished));
        self.sign(&grants, subject, Some(&minter.account), now, expires)
    }

    fn sign(
        &self,
        grants: &Grants,
        subject: &str,
        by: Option<&str>,
        now: SystemTime,
        expires: SystemTime,
    ) -> Result<Minted, MintError> {
        if grants.is_empty() {
            return Err(MintError::NoGrants);
        }
        if subject.len() > MAX_SUBJECT_BYTES {
            return Err(MintError::Subject);
        }
        let seconds = |time: SystemTime| {
            time.duration_since(UNIX_EPOCH).map(|since| since.as_secs()).unwrap_or_default()
        };
        let iat = seconds(now);
        let exp = seconds(expires);
        if exp <= iat {
            return Err(MintError::NoTime);
        }
        let mut id = [0; 12];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| MintError::Signing)?;
        let jti = URL_SAFE_NO_PAD.encode(id);
        let iss = ISSUER;
        let aud = ISSUER;
        let sub = subject;
        let fanfare = grants;
        let claims = Claims { iss, aud, sub, iat, exp, jti, by, fanfare };
        let token = jsonwebtoken::encode(&Header::default(), &claims, &self.key)
            .map_err(|_| MintError::Signing)?;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(MintError::TooLarge);
        }
        Ok(Minted { token, expires: UNIX_EPOCH + Duration::from_secs(exp) })
    }
}

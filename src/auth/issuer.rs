//! Issuers with their keys, built from the settings.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::config::{Config, IssuerConfig, KeySource};
use super::grants::Grants;
use super::key::{Algorithm, Key, Secrets, from_jwks};
use super::key_set::KeySet;
use super::minter;
use super::secret::{Environment, Secret, read_file};
use crate::limits::MAX_KEY_SET_BYTES;

/// A trusted issuer: its keys, and the limits of its tokens.
pub(super) struct Issuer {
    pub(super) name: Arc<str>,
    /// The required `iss`; without it, any.
    pub(super) issuer: Option<Box<str>>,
    /// The required `aud`; without it, a token must have no `aud`.
    pub(super) audience: Option<Box<str>>,
    /// The claim that contains the grants.
    pub(super) claim: Box<str>,
    pub(super) require_exp: bool,
    /// The maximum that its tokens can grant.
    pub(super) at_most: Option<Grants>,
    pub(super) keys: Arc<KeySet>,
}

impl Issuer {
    /// Builds an issuer with its keys. One that fetches them keeps the set that it already had.
    pub(super) fn build(
        config: &Config,
        issuer: &IssuerConfig,
        environment: Environment<'_>,
        before: &[Self],
    ) -> Result<Self, String> {
        let before = before.iter().find(|before| *before.name == issuer.name);
        Ok(Self {
            name: issuer.name.as_str().into(),
            issuer: issuer.issuer.as_deref().map(Into::into),
            audience: issuer.audience.as_deref().map(Into::into),
            claim: config.claim.as_str().into(),
            require_exp: issuer.require_exp,
            at_most: issuer.at_most.clone(),
            keys: key_set(issuer, environment, before.map(|before| &before.keys))?,
        })
    }

    /// Returns whether this is the hub itself.
    pub(super) fn is_own(&self) -> bool {
        &*self.name == minter::ISSUER
    }

    /// Returns the leeway for its clock: none for the hub, which is checked by its own clock.
    pub(super) fn leeway(&self, leeway: Duration) -> Duration {
        if self.is_own() { Duration::ZERO } else { leeway }
    }

    /// Creates the hub's own issuer, for the tokens that it signs.
    pub(super) fn own(secret: &Secret) -> Result<Self, String> {
        let key = Key::from_secret(secret, Algorithm::Hs256).map_err(|error| error.to_string())?;
        Ok(Self {
            name: minter::ISSUER.into(),
            issuer: Some(minter::ISSUER.into()),
            audience: Some(minter::ISSUER.into()),
            claim: minter::CLAIM.into(),
            require_exp: true,
            at_most: None,
            keys: Arc::new(KeySet::fixed(vec![key])),
        })
    }
}

fn key_set(
    issuer: &IssuerConfig,
    environment: Environment<'_>,
    before: Option<&Arc<KeySet>>,
) -> Result<Arc<KeySet>, String> {
    let algorithm = issuer.algorithm;
    let keys = match &issuer.keys {
        KeySource::JwksUrl(url) => {
            let same = before.filter(|before| before.is_of(url, algorithm));
            return Ok(same.cloned().unwrap_or_else(|| Arc::new(KeySet::remote(url, algorithm))));
        }
        KeySource::Pem(path) => {
            vec![Key::from_pem(&read(path)?, algorithm).map_err(|error| about(path, &error))?]
        }
        KeySource::Jwks(path) => from_jwks(&read(path)?, algorithm, Secrets::Allowed)
            .map_err(|error| about(path, &error))?,
        KeySource::Secret(source) => {
            let algorithm = algorithm.unwrap_or(Algorithm::Hs256);
            let secret = source
                .read(environment, algorithm.least_secret())
                .map_err(|error| error.to_string())?;
            vec![Key::from_secret(&secret, algorithm).map_err(|error| error.to_string())?]
        }
    };
    Ok(Arc::new(KeySet::fixed(keys)))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    read_file(path, MAX_KEY_SET_BYTES as u64)
        .map_err(|why| format!("cannot read `{}`: {why}", path.display()))
}

fn about(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("`{}` {error}", path.display())
}

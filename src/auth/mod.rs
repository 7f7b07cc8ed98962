//! Authentication and authorization: credentials become principals, and principals have grants.
//!
//! This module knows names, bytes and times, but no requests. An [`Authenticator`] turns a client's
//! credential into a [`Principal`], or into an [`AuthError`] with a stable code. [`Grants`] decide
//! what a principal may do. A key determines how it may be used: a token never chooses its own
//! algorithm, and the keys of one issuer are never used for the tokens of another.

mod api_key;
mod authenticator;
mod config;
mod error;
mod exposure;
mod grants;
mod issuer;
mod key;
mod key_set;
mod minter;
mod pattern;
mod secret;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;
use std::time::SystemTime;

pub use api_key::{ApiKeyHash, InvalidApiKeyHash, generate_api_key};
pub use authenticator::Authenticator;
pub use config::{ApiKeyConfig, Config, InvalidAuth, IssuerConfig, KeySource};
pub use error::AuthError;
pub use exposure::{Exposed, Exposure};
pub use grants::{Grants, InvalidGrants, NotCovered, Operation};
pub use key::{Algorithm, KeyId, UnknownAlgorithm};
pub use key_set::{FetchError, FetchFuture, FetchKeys, KeySet};
pub use minter::{MintError, Minted, Minter};
pub use secret::{Environment, Secret, SecretError, SecretSource, optional_source};

/// The issuer of the principal of clients without a credential.
const ANONYMOUS: &str = "anonymous";

/// The identity of a client, with its grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The subject of the token, or the name of the API key.
    pub name: Arc<str>,
    /// The name of the issuer in the configuration, or `fanfare`, `api_key`, `anonymous` or
    /// `everyone`.
    pub issuer: Arc<str>,
    /// The account that quotas are counted on, as `issuer/name`: the minter's, if a principal
    /// minted the token. Otherwise a client could multiply its quotas by minting tokens.
    pub account: Arc<str>,
    /// The operations that it may do, and the channels.
    pub grants: Arc<Grants>,
    /// The expiry time, if there is one.
    pub expires: Option<SystemTime>,
    /// The key that its credential was verified with, if there was one.
    pub key_id: Option<KeyId>,
}

impl Principal {
    /// Returns whether the client showed no credential, and has the anonymous role.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.key_id.is_none() && &*self.issuer == ANONYMOUS
    }
}

/// A client's credential, by the part of the request that had it.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// `Authorization: Bearer`: a token, or an API key.
    Bearer(&'a str),
    /// A header for API keys.
    ApiKey(&'a str),
    /// The cookie of the setting `auth.cookie`.
    Cookie(&'a str),
    /// The query parameter `access_token`.
    Query(&'a str),
    /// No credential.
    None,
}

impl std::fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bearer(_) => "Bearer(…)",
            Self::ApiKey(_) => "ApiKey(…)",
            Self::Cookie(_) => "Cookie(…)",
            Self::Query(_) => "Query(…)",
            Self::None => "None",
        })
    }
}

//! Who may do what: credentials become principals, principals have grants.
//!
//! It knows names, bytes and times, and nothing of requests. An [`Authenticator`] turns what a
//! client showed into a [`Principal`], or into an [`AuthError`] with a stable code. What a
//! principal may do is a question to its [`Grants`]. A key decides how it may be used: a token
//! never chooses its own algorithm, and the keys of one issuer say nothing about the tokens of
//! another.

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
pub use secret::{Environment, Secret, SecretError, SecretSource};

/// The issuer of those who show nothing.
const ANONYMOUS: &str = "anonymous";

/// Who makes a request, and what they may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// What they are called: the subject of the token, or the name of the API key.
    pub name: Arc<str>,
    /// Who says so: the name of the issuer in the configuration, or `fanfare`, `api_key`,
    /// `anonymous` or `everyone`.
    pub issuer: Arc<str>,
    /// Whom they are counted as, as `issuer/name`: whoever made their token, if that was not an
    /// issuer; or anybody could be many by making tokens.
    pub account: Arc<str>,
    /// What they may do.
    pub grants: Arc<Grants>,
    /// When that ends, if it does.
    pub expires: Option<SystemTime>,
    /// The key that vouches for them, if one does.
    pub key_id: Option<KeyId>,
}

impl Principal {
    /// Whether they showed nothing, and have the role of those who do not.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.key_id.is_none() && &*self.issuer == ANONYMOUS
    }
}

/// What a client showed, and where.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// `Authorization: Bearer`: a token, or an API key.
    Bearer(&'a str),
    /// A header of its own for API keys.
    ApiKey(&'a str),
    /// The cookie of the setting `auth.cookie`.
    Cookie(&'a str),
    /// The query parameter `access_token`.
    Query(&'a str),
    /// Nothing.
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

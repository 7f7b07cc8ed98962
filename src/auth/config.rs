//! Settings of the section `auth`.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::api_key::ApiKeyHash;
use super::grants::Grants;
use super::key::Algorithm;
use super::minter;
use super::secret::{SecretSource, optional_source};
use crate::limits::MAX_LEEWAY_SECONDS;

/// Longest lifetime of the hub's own tokens: for more than a year, an API key is better suited.
const MAX_TTL: Duration = Duration::from_secs(366 * 24 * 3600);

/// Trusted issuers and keys, with their grants. Secrets are only named here, and stored elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The claim of a token that contains its grants.
    pub claim: String,
    /// The tolerated difference between the clocks of issuers and the hub's.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
    /// The cookie that may carry a token; empty for none.
    pub cookie: String,
    /// Whether `?access_token=` may carry a token.
    pub query_token: bool,
    /// The secret that signs the hub's own tokens; empty for none.
    #[serde(with = "optional_source")]
    pub signing_key: Option<SecretSource>,
    /// The longest lifetime of the hub's own tokens.
    #[serde(with = "humantime_serde")]
    pub max_token_ttl: Duration,
    /// Age at which keys of a JWKS URL are fetched again.
    #[serde(with = "humantime_serde")]
    pub jwks_refresh: Duration,
    /// Minimum time between two fetches of one JWKS URL, however many unknown keys tokens name.
    #[serde(with = "humantime_serde")]
    pub jwks_min_interval: Duration,
    /// Grants of clients without a credential.
    pub anonymous: Grants,
    /// Trusted issuers.
    pub issuers: Vec<IssuerConfig>,
    /// Static keys, for producers.
    pub api_keys: Vec<ApiKeyConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            claim: minter::CLAIM.to_owned(),
            leeway: Duration::from_secs(30),
            cookie: String::new(),
            query_token: false,
            signing_key: None,
            max_token_ttl: Duration::from_secs(24 * 3600),
            jwks_refresh: Duration::from_secs(600),
            jwks_min_interval: Duration::from_secs(10),
            anonymous: Grants::default(),
            issuers: Vec::new(),
            api_keys: Vec::new(),
        }
    }
}

/// An issuer whose tokens are trusted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table such as { name = \"app\", keys = { jwks = \"/file\" } }"
)]
pub struct IssuerConfig {
    /// Its name in logs.
    pub name: String,
    /// The `iss` of its tokens; without it, any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The required `aud`; without it, tokens with an `aud` are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The algorithm of keys that do not name one: by default HS256 for a secret and RS256 for an
    /// RSA key; an elliptic curve allows only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// Whether its tokens must expire.
    #[serde(default = "default_true")]
    pub require_exp: bool,
    /// The source of its keys.
    pub keys: KeySource,
    /// The maximum that its tokens can grant; without it, anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<Grants>,
}

/// The source of an issuer's keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySource {
    /// A file with one public key in PEM.
    Pem(PathBuf),
    /// A file with a JWK set.
    Jwks(PathBuf),
    /// A shared secret.
    Secret(SecretSource),
    /// A URL with a JWK set.
    JwksUrl(String),
}

/// A static key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table: { name = \"app\", hash = \"sha256:…\", grants = { … } }"
)]
pub struct ApiKeyConfig {
    /// The name of its holder.
    pub name: String,
    /// Its hash.
    pub hash: ApiKeyHash,
    /// The grants of its holder.
    pub grants: Grants,
}

/// A setting with a value of the right type that is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct InvalidAuth {
    /// The setting.
    pub key: &'static str,
    /// The fault, where it is in the setting, and a valid value.
    pub message: String,
}

fn default_true() -> bool {
    true
}

impl Config {
    /// Returns whether any credential can be verified. If not, the hub listens on loopback only,
    /// unless it is set to be insecure: see [`Exposure`](super::Exposure).
    #[must_use]
    pub fn has_credentials(&self) -> bool {
        !self.issuers.is_empty() || !self.api_keys.is_empty() || self.signing_key.is_some()
    }

    /// Finds values of the right type that are not valid, without reading files.
    #[must_use]
    pub fn validate(&self) -> Vec<InvalidAuth> {
        let mut found = Vec::new();
        let mut require = |holds: bool, key: &'static str, message: String| {
            if !holds {
                found.push(InvalidAuth { key, message });
            }
        };
        let most = Duration::from_secs(MAX_LEEWAY_SECONDS);
        require(!self.claim.is_empty(), "auth.claim", "must name a claim: `fanfare`".into());
        require(self.leeway <= most, "auth.leeway", "must be at most 5m".into());
        let cookie = self.cookie.bytes().all(is_token_byte);
        let letters = "must be a cookie's name, letters, digits and `-_.` among others, or empty";
        require(cookie, "auth.cookie", letters.into());
        let ttl = (Duration::from_secs(1)..=MAX_TTL).contains(&self.max_token_ttl);
        require(ttl, "auth.max_token_ttl", "must be between 1s and 366days".into());
        let second = Duration::from_secs(1);
        let often = "must be at least 1s";
        require(self.jwks_min_interval >= second, "auth.jwks_min_interval", often.into());
        let order = self.jwks_refresh >= self.jwks_min_interval;
        let longer = "must be at least `auth.jwks_min_interval`";
        require(order, "auth.jwks_refresh", longer.into());
        let names = self.issuers.iter().map(|issuer| issuer.name.as_str());
        for (name, problem) in check_names(names) {
            require(false, "auth.issuers", format!("`{name}`: {problem}"));
        }
        for issuer in &self.issuers {
            for problem in issuer.problems() {
                require(false, "auth.issuers", format!("`{}`: {problem}", issuer.name));
            }
        }
        for (name, problem) in check_names(self.api_keys.iter().map(|key| key.name.as_str())) {
            require(false, "auth.api_keys", format!("`{name}`: {problem}"));
        }
        for (name, problem) in self.api_key_problems() {
            require(false, "auth.api_keys", format!("`{name}`: {problem}"));
        }
        found
    }

    fn api_key_problems(&self) -> Vec<(&str, &'static str)> {
        let mut problems = Vec::new();
        let mut seen = Vec::new();
        for key in &self.api_keys {
            if seen.contains(&key.hash) {
                problems.push((key.name.as_str(), "`hash` is that of another key: make a new one"));
            }
            if key.grants.is_empty() {
                let nothing = "`grants` must grant something: { publish = [\"chat/*\"] }";
                problems.push((key.name.as_str(), nothing));
            }
            seen.push(key.hash);
        }
        problems
    }
}

impl IssuerConfig {
    fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.issuer.as_deref() == Some(minter::ISSUER) {
            found.push("`issuer` must not be `fanfare`: those are the hub's own tokens".to_owned());
        }
        if self.issuer.as_deref() == Some("") || self.audience.as_deref() == Some("") {
            found.push("`issuer` and `audience` must not be empty: leave them out".to_owned());
        }
        let symmetric = self.algorithm.map(Algorithm::is_symmetric);
        match &self.keys {
            KeySource::Secret(_) if symmetric == Some(false) => {
                found.push("`algorithm` must be HS256, HS384 or HS512 for a secret".to_owned());
            }
            KeySource::Pem(_) | KeySource::JwksUrl(_) if symmetric == Some(true) => {
                found.push(
                    "`algorithm` must be one for public keys: RS256, PS256, ES256, EdDSA, …"
                        .to_owned(),
                );
            }
            KeySource::JwksUrl(url) => {
                if !is_safe_url(url) {
                    found.push(
                        "`keys.jwks_url` must be an `https://` URL; `http://` is for loopback only"
                            .to_owned(),
                    );
                }
                if self.issuer.is_none() || self.audience.is_none() {
                    found.push(
                        "`issuer` and `audience` must be set with `jwks_url`: who publishes keys \
                         signs tokens for others, too"
                            .to_owned(),
                    );
                }
            }
            _ => {}
        }
        found
    }
}

/// Checks the names that distinguish principals in logs and limits.
fn check_names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<(&'a str, &'static str)> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for name in names {
        if name.is_empty() || name.len() > 64 || !name.bytes().all(is_name_byte) {
            found.push((name, "`name` must be 1 to 64 letters, digits, `-`, `_` or `.`"));
        } else if ["fanfare", "api_key", "anonymous", "everyone"].contains(&name) {
            found.push((name, "`name` must be another: this is one of the hub's own"));
        } else if !seen.insert(name) {
            found.push((name, "`name` must be used only once"));
        }
    }
    found
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

/// Returns whether RFC 6265 allows the byte in a cookie's name.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns whether keys may be fetched from this URL: they cannot be exchanged in transit.
fn is_safe_url(url: &str) -> bool {
    let (rest, plain) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (rest, false),
        (_, Some(rest)) => (rest, true),
        _ => return false,
    };
    let odd = |byte: u8| !byte.is_ascii_graphic() || b"\\#".contains(&byte);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.is_empty() || authority.contains('@') || rest.bytes().any(odd) {
        return false;
    }
    !plain || is_loopback(authority)
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => authority.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_https_or_from_this_machine() {
        for (url, safe) in [
            ("https://id.example.com/jwks.json", true),
            ("https://id.example.com:8443", true),
            ("http://localhost:8080/jwks", true),
            ("http://127.0.0.1/jwks", true),
            ("http://[::1]:80/jwks", true),
            ("http://id.example.com/jwks", false),
            ("http://localhost.example.com/", false),
            ("http://localhost@example.com/", false),
            ("http://127.0.0.1.example.com/", false),
            ("https://", false),
            ("https://a b/", false),
            ("ftp://localhost/", false),
            ("file:///etc/passwd", false),
            ("", false),
        ] {
            assert_eq!(is_safe_url(url), safe, "{url}");
        }
    }
}

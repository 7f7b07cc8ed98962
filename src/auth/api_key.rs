//! API keys: random texts for producers, of which only a hash is kept.
//!
//! A fast hash is enough, because the keys are random: 2^128 of them cannot be tried.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::error::AuthError;

/// The prefix of the hub's own API keys, by which scanners find a leaked one.
const PREFIX: &str = "ffk_";

/// The SHA-256 of an API key: `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ApiKeyHash([u8; 32]);

/// The text is not a hash of an API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a hash is `sha256:` and 64 hexadecimal digits: `fanfare token key` makes a key and its hash"
)]
pub struct InvalidApiKeyHash;

impl ApiKeyHash {
    /// Returns the hash of a key.
    #[must_use]
    pub fn of(key: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
        Self(bytes)
    }

    /// Returns whether both are equal, in a time that does not depend on where they differ.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Returns the index of a key's hash. Compares with all of them, so that the time reveals nothing.
pub(super) fn find<'a>(
    key: &str,
    hashes: impl Iterator<Item = &'a ApiKeyHash>,
) -> Result<usize, AuthError> {
    let given = ApiKeyHash::of(key);
    let same = |found: Option<usize>, (place, hash): (usize, &ApiKeyHash)| {
        if given.is(hash) { Some(place) } else { found }
    };
    hashes.enumerate().fold(None, same).ok_or(AuthError::UnknownKey)
}

/// Returns a new random API key of 256 bits, and its hash for the configuration.
///
/// # Errors
/// The system's random number generator fails.
pub fn generate_api_key() -> Result<(String, ApiKeyHash), aws_lc_rs::error::Unspecified> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes)?;
    let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
    let hash = ApiKeyHash::of(&key);
    Ok((key, hash))
}

impl FromStr for ApiKeyHash {
    type Err = InvalidApiKeyHash;

    fn from_str(text: &str) -> Result<Self, InvalidApiKeyHash> {
        let digits = text.strip_prefix("sha256:").ok_or(InvalidApiKeyHash)?.as_bytes();
        let mut hash = [0; 32];
        if digits.len() != 2 * hash.len() {
            return Err(InvalidApiKeyHash);
        }
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let nibble = |digit: u8| char::from(digit).to_digit(16).ok_or(InvalidApiKeyHash);
            let value = nibble(pair[0])? * 16 + nibble(pair[1])?;
            *byte = u8::try_from(value).map_err(|_| InvalidApiKeyHash)?;
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for ApiKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ApiKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKeyHash(…)")
    }
}

/// Written in full: `config show` has to show what was set, and a hash of 128 random bits or more
/// is no secret.
impl Serialize for ApiKeyHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ApiKeyHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

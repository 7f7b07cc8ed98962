//! Secrets: named in the configuration, stored elsewhere, never shown.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Looks up an environment variable; the loader of the configuration provides it.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Maximum bytes in a file with a secret: far more than any secret has.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// The source of a secret: `env:NAME` or `file:/path`. The secret itself is not part of the
/// configuration, so that showing the configuration cannot reveal it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// An environment variable.
    Env(String),
    /// A file; a line end after the secret is not part of it.
    File(PathBuf),
}

/// The reason for which a secret cannot be read. The messages never contain the text that was given
/// as a source: it may be the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Not a source.
    #[error("names where the secret is: \"env:NAME\" or \"file:/path\", never the secret itself")]
    NotASource,
    /// No such variable.
    #[error("the environment variable `{0}` is not set")]
    NotSet(String),
    /// A file that cannot be read.
    #[error("cannot read `{0}`: {1}")]
    Unreadable(String, String),
    /// Fewer bytes than are safe.
    #[error("the secret has {given} bytes, and {least} are the least: `openssl rand -base64 48`")]
    TooShort {
        /// Bytes of the secret.
        given: usize,
        /// Minimum bytes.
        least: usize,
    },
}

impl FromStr for SecretSource {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.into())),
            _ => Err(SecretError::NotASource),
        }
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl Serialize for SecretSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl SecretSource {
    /// Reads the secret.
    ///
    /// # Errors
    /// It does not exist, or has fewer than `least` bytes.
    pub fn read(&self, environment: Environment<'_>, least: usize) -> Result<Secret, SecretError> {
        let bytes = match self {
            Self::Env(name) => {
                environment(name).ok_or_else(|| SecretError::NotSet(name.clone()))?.into_bytes()
            }
            Self::File(path) => read_file(path, MAX_FILE_BYTES)
                .map_err(|why| SecretError::Unreadable(path.display().to_string(), why))?,
        };
        let bytes = match bytes.as_slice() {
            [rest @ .., b'\r', b'\n'] | [rest @ .., b'\n'] => rest.to_vec(),
            whole => whole.to_vec(),
        };
        if bytes.len() < least {
            return Err(SecretError::TooShort { given: bytes.len(), least });
        }
        Ok(Secret(bytes))
    }
}

/// An optional source as text, so that the setting is shown also when it is not set.
pub mod optional_source {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use super::SecretSource;

    /// Writes the source, or an empty text.
    pub fn serialize<S: Serializer>(
        source: &Option<SecretSource>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match source {
            Some(source) => serializer.collect_str(source),
            None => serializer.serialize_str(""),
        }
    }

    /// Reads a source, or nothing from an empty text.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SecretSource>, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(de::Error::custom),
        }
    }
}

/// Reads a small file, with the reason of a failure as text.
pub(super) fn read_file(path: &std::path::Path, most: u64) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    let read = file.take(most + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if read as u64 > most {
        return Err(format!("it has more than {most} bytes"));
    }
    Ok(bytes)
}

/// The bytes of a secret. Its `Debug` output does not contain them.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Returns the bytes, to sign or verify with.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

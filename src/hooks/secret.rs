//! Signatures of calls, as in Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize, Serializer};

use crate::auth::{Environment, SecretError, SecretSource};

/// The prefix of a secret in base64.
const PREFIX: &str = "whsec_";

/// Minimum bytes of a secret: shorter ones can be guessed.
const MIN_SECRET_BYTES: usize = 16;

/// Base64 with or without padding, as users paste it.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The setting `secret`: the key itself, or its source.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum SecretSetting {
    /// The key itself. It is never shown.
    Key(HookSecret),
    /// The file or environment variable with the key.
    Elsewhere(SecretSource),
}

impl SecretSetting {
    /// Returns the key, read from its source.
    ///
    /// # Errors
    /// It cannot be read, or is not a key.
    pub fn read(&self, environment: Environment<'_>) -> Result<HookSecret, InvalidSecret> {
        let source = match self {
            Self::Key(key) => return Ok(key.clone()),
            Self::Elsewhere(source) => source,
        };
        let secret = source.read(environment, 1).map_err(|error| match error {
            SecretError::TooShort { .. } => InvalidSecret::TooShort,
            error => InvalidSecret::Unreadable(error),
        })?;
        let text = std::str::from_utf8(secret.expose()).map_err(|_| InvalidSecret::NotText)?;
        text.parse()
    }
}

impl FromStr for SecretSetting {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        if text.starts_with("env:") || text.starts_with("file:") {
            return text.parse().map(Self::Elsewhere).map_err(InvalidSecret::Unreadable);
        }
        // A path or URL used as the key itself could be guessed.
        if looks_like_path(text) {
            return Err(InvalidSecret::Place);
        }
        text.parse().map(Self::Key)
    }
}

impl TryFrom<String> for SecretSetting {
    type Error = InvalidSecret;

    fn try_from(text: String) -> Result<Self, InvalidSecret> {
        text.parse()
    }
}

/// Shows the source of a key, and never the key. `(hidden)` is too short to be read as a secret.
impl Serialize for SecretSetting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Key(_) => serializer.serialize_str("(hidden)"),
            Self::Elsewhere(source) => source.serialize(serializer),
        }
    }
}

/// Returns whether the text begins like a path, a URL, another `scheme:`, or a shell variable.
fn looks_like_path(text: &str) -> bool {
    let scheme = |(scheme, _): (&str, &str)| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte);
        scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(inner)
    };
    ["/", "./", "../", "~", "$", "@", "%", "{{"].iter().any(|start| text.starts_with(start))
        || text.split_once(':').is_some_and(scheme)
}

/// The key that a hook shares with its receiver. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct HookSecret(Box<[u8]>);

impl HookSecret {
    /// Returns the `webhook-signature` of a message that is sent at this Unix time.
    pub(super) fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut context = hmac::Context::with_key(&key);
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            context.update(part);
        }
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

impl FromStr for HookSecret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let key = match text.strip_prefix(PREFIX) {
            Some(encoded) => LENIENT.decode(encoded).map_err(|_| InvalidSecret::NotBase64)?,
            None => text.as_bytes().to_vec(),
        };
        if key.len() < MIN_SECRET_BYTES {
            return Err(InvalidSecret::TooShort);
        }
        Ok(Self(key.into()))
    }
}

impl fmt::Debug for HookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// The reason for which a text is not a secret. It does not contain the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// The prefix of base64, without base64 after it.
    #[error("`secret` is not base64 after `whsec_`")]
    NotBase64,
    /// Too few bytes.
    #[error("`secret` is too short: it must have at least 16 bytes, also after `whsec_`")]
    TooShort,
    /// A source in an unknown notation.
    #[error(
        "`secret` looks like a path, a URL or a variable: write \"file:/path\" or \"env:NAME\", or \
         the key itself, in base64 after `whsec_`"
    )]
    Place,
    /// The source cannot be read.
    #[error("`secret`: {0}")]
    Unreadable(SecretError),
    /// The content of the source is not text.
    #[error("`secret` is not text: `whsec_` and the key in base64 are")]
    NotText,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vector of the Standard Webhooks libraries.
    #[test]
    fn a_signature_is_that_of_standard_webhooks() {
        let secret: HookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let signature = secret.sign(id, "1614265330", b"{\"test\": 2432232314}");
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn base64_is_decoded_and_plain_text_is_the_key_itself() {
        let plain: HookSecret = "sixteen bytes...".parse().unwrap();
        assert_eq!(&*plain.0, b"sixteen bytes...");
        for encoded in ["whsec_c2l4dGVlbiBieXRlcy4uLg==", "whsec_c2l4dGVlbiBieXRlcy4uLg"] {
            assert_eq!(encoded.parse::<HookSecret>().unwrap(), plain);
        }
    }

    #[test]
    fn a_secret_can_be_in_a_file_or_in_a_variable() {
        let key: HookSecret = "sixteen bytes...".parse().unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"whsec_c2l4dGVlbiBieXRlcy4uLg==\n").unwrap();
        let setting: SecretSetting = format!("file:{}", file.path().display()).parse().unwrap();
        assert_eq!(setting.read(&|_| None), Ok(key.clone()));
        let variable: SecretSetting = "env:HOOK".parse().unwrap();
        let environment = |name: &str| (name == "HOOK").then(|| "sixteen bytes...".to_owned());
        assert_eq!(variable.read(&environment), Ok(key));
        assert_eq!(variable.read(&|_| Some("short".into())), Err(InvalidSecret::TooShort));
        let missing = variable.read(&|_| None).unwrap_err().to_string();
        assert!(missing.contains("`HOOK` is not set"), "{missing}");
        let gone = "file:/nowhere/hook".parse::<SecretSetting>().unwrap();
        let gone = gone.read(&|_| None).unwrap_err().to_string();
        assert!(gone.contains("cannot read `/nowhere/hook`"), "{gone}");
        for nothing in ["env:", "file:"] {
            assert!(nothing.parse::<SecretSetting>().is_err(), "{nothing}");
        }
    }

    #[test]
    fn what_looks_like_a_place_is_not_taken_for_the_key() {
        for place in [
            "/etc/fanfare/hook.secret",
            "./secrets/hook.secret",
            "../secrets/hook.key",
            "~/secrets/hook.key",
            "$HOOK_SECRET_OF_MINE",
            "${HOOK_SECRET_OF_MINE}",
            "FILE:/etc/fanfare/hook",
            "vault:secret/data/hook",
            "https://vault/secret/hook",
            "@/etc/fanfare/hook.secret",
            "{{ secrets.HOOK_SECRET }}",
            "%HOOK_SECRET_OF_MINE%",
            "awssm:production/hook/secret",
            "env_file:/etc/fanfare",
        ] {
            assert_eq!(place.parse::<SecretSetting>(), Err(InvalidSecret::Place), "{place}");
        }
        for key in ["sixteen bytes...", "correct horse: battery staple", "q/7W4lxkpXZbNN+bq0LQ=="] {
            assert!(matches!(key.parse(), Ok(SecretSetting::Key(_))), "{key}");
        }
    }

    #[test]
    fn a_secret_has_at_least_sixteen_bytes() {
        for short in ["", "fifteen bytes..", "whsec_", "whsec_Zmlmd"] {
            assert!(short.parse::<HookSecret>().is_err(), "{short}");
        }
        assert_eq!("whsec_????".parse::<HookSecret>(), Err(InvalidSecret::NotBase64));
        assert_eq!("whsec_c2hvcnQ=".parse::<HookSecret>(), Err(InvalidSecret::TooShort));
    }
}

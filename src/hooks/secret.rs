//! What calls are signed with, as Standard Webhooks has it: HMAC-SHA256 over `id.timestamp.body`.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize, Serializer};

/// What a secret in base64 begins with.
const PREFIX: &str = "whsec_";

/// Bytes that a secret has at least: fewer can be guessed.
const MIN_SECRET_BYTES: usize = 16;

/// Base64 as people paste it: with its padding, or without.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The key that a hook and its receiver share. It is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// The `webhook-signature` of a message that is sent at this Unix time.
    pub(super) fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut context = hmac::Context::with_key(&key);
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            context.update(part);
        }
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

impl FromStr for Secret {
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

impl TryFrom<String> for Secret {
    type Error = InvalidSecret;

    fn try_from(text: String) -> Result<Self, InvalidSecret> {
        text.parse()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// Says that there is one, for `fanfare config show`. Too short to be read back as a secret.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("(hidden)")
    }
}

/// Why a text is not a secret. It is not repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSecret {
    /// The prefix promises base64, and something else follows.
    #[error("`secret` is not base64 behind `whsec_`")]
    NotBase64,
    /// Too few bytes.
    #[error("`secret` is too short: it must have at least 16 bytes, also behind `whsec_`")]
    TooShort,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that the libraries of Standard Webhooks are tested with.
    #[test]
    fn a_signature_is_that_of_standard_webhooks() {
        let secret: Secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let signature = secret.sign(id, "1614265330", b"{\"test\": 2432232314}");
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn base64_is_decoded_and_plain_text_is_the_key_itself() {
        let plain: Secret = "sixteen bytes...".parse().unwrap();
        assert_eq!(&*plain.0, b"sixteen bytes...");
        for encoded in ["whsec_c2l4dGVlbiBieXRlcy4uLg==", "whsec_c2l4dGVlbiBieXRlcy4uLg"] {
            assert_eq!(encoded.parse::<Secret>().unwrap(), plain);
        }
    }

    #[test]
    fn a_secret_has_at_least_sixteen_bytes() {
        for short in ["", "fifteen bytes..", "whsec_", "whsec_Zmlmd"] {
            assert!(short.parse::<Secret>().is_err(), "{short}");
        }
        assert_eq!("whsec_????".parse::<Secret>(), Err(InvalidSecret::NotBase64));
        assert_eq!("whsec_c2hvcnQ=".parse::<Secret>(), Err(InvalidSecret::TooShort));
    }
}

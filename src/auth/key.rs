//! Keys, each with the single algorithm that it is used with.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{AlgorithmFamily, DecodingKey, DecodingKeyKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::secret::Secret;
use crate::limits::MAX_KEYS;
use crate::word_enum::words;

words! {
    /// A signature algorithm of tokens.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "UPPERCASE")]
    pub enum Algorithm {
        /// HMAC with SHA-256.
        Hs256 = "HS256",
        /// HMAC with SHA-384.
        Hs384 = "HS384",
        /// HMAC with SHA-512.
        Hs512 = "HS512",
        /// RSA, PKCS #1 v1.5, with SHA-256.
        Rs256 = "RS256",
        /// RSA, PKCS #1 v1.5, with SHA-384.
        Rs384 = "RS384",
        /// RSA, PKCS #1 v1.5, with SHA-512.
        Rs512 = "RS512",
        /// RSA, PSS, with SHA-256.
        Ps256 = "PS256",
        /// RSA, PSS, with SHA-384.
        Ps384 = "PS384",
        /// RSA, PSS, with SHA-512.
        Ps512 = "PS512",
        /// ECDSA on P-256 with SHA-256.
        Es256 = "ES256",
        /// ECDSA on P-384 with SHA-384.
        Es384 = "ES384",
        /// ECDSA on P-521 with SHA-512.
        Es512 = "ES512",
        /// Ed25519.
        #[serde(rename = "EdDSA")]
        EdDsa = "EdDSA",
    }
}

impl Algorithm {
    fn family(self) -> AlgorithmFamily {
        match self {
            Self::Hs256 | Self::Hs384 | Self::Hs512 => AlgorithmFamily::Hmac,
            Self::Es256 | Self::Es384 | Self::Es512 => AlgorithmFamily::Ec,
            Self::EdDsa => AlgorithmFamily::Ed,
            _ => AlgorithmFamily::Rsa,
        }
    }

    /// Returns whether both parties use the same key.
    #[must_use]
    pub fn is_symmetric(self) -> bool {
        self.family() == AlgorithmFamily::Hmac
    }

    /// Returns the minimum bytes of a secret: as many as the hash (RFC 7518, section 3.2).
    pub(super) fn least_secret(self) -> usize {
        match self {
            Self::Hs384 => 48,
            Self::Hs512 => 64,
            _ => 32,
        }
    }

    /// Returns the library's name of the algorithm; the library lacks ES512.
    fn known(self) -> Option<jsonwebtoken::Algorithm> {
        self.as_str().parse().ok()
    }
}

/// The name is not that of a known algorithm; `none` is such a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a signature algorithm that is known here")]
pub struct UnknownAlgorithm;

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        let mut all = Self::ALL.into_iter();
        all.find(|algorithm| algorithm.as_str() == text).ok_or(UnknownAlgorithm)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Distinguishes keys within one process, without revealing them: a salted hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// Returns the id of a key with these bytes.
    pub(super) fn of(purpose: &str, material: &[&[u8]]) -> Self {
        static SALT: OnceLock<[u8; 32]> = OnceLock::new();
        let salt = SALT.get_or_init(|| {
            let mut salt = [0; 32];
            // Without randomness the ids are unsalted: they still distinguish keys.
            let _ = aws_lc_rs::rand::fill(&mut salt);
            salt
        });
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(salt);
        context.update(purpose.as_bytes());
        for part in material {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut id = [0; 16];
        id.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(6).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// The reason for which no key can be read from the input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyError {
    #[error("is not a public key in PEM: `-----BEGIN PUBLIC KEY-----` of RSA, EC or Ed25519")]
    NotPem,
    #[error("has a private key: the hub needs the public one only, `openssl pkey -pubout`")]
    Private,
    #[error(
        "has a key that cannot be used: RSA of 2048 to 8192 bits, P-256, P-384, P-521 and \
             Ed25519 can, and secrets as long as their hash"
    )]
    Unusable,
    #[error("has a key that `{0}` cannot be used with: {1}")]
    Mismatch(Algorithm, &'static str),
    #[error("is not a JWK set: `{{\"keys\":[…]}}` is right")]
    NotJwks,
    #[error("is a JWK set without a key that can verify tokens")]
    NoKeys,
}

/// A key that verifies tokens, with its one algorithm.
#[derive(Clone)]
pub(super) struct Key {
    pub(super) id: KeyId,
    /// The `kid` by which tokens name it.
    pub(super) kid: Option<Box<str>>,
    pub(super) algorithm: Algorithm,
    verifier: DecodingKey,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {})", self.id, self.algorithm)
    }
}

impl Key {
    /// Creates a key from a shared secret.
    pub(super) fn from_secret(secret: &Secret, algorithm: Algorithm) -> Result<Self, KeyError> {
        Self::new(DecodingKey::from_secret(secret.expose()), None, Some(algorithm))
    }

    /// Reads a public key in PEM. RSA keys are used with RS256 unless the configuration says
    /// otherwise; the other types allow one algorithm each.
    pub(super) fn from_pem(pem: &[u8], algorithm: Option<Algorithm>) -> Result<Self, KeyError> {
        if pem.windows(11).any(|window| window == b"PRIVATE KEY") {
            return Err(KeyError::Private);
        }
        let key = DecodingKey::from_rsa_pem(pem)
            .or_else(|_| DecodingKey::from_ec_pem(pem))
            .or_else(|_| DecodingKey::from_ed_pem(pem))
            .map_err(|_| KeyError::NotPem)?;
        Self::new(key, None, algorithm)
    }

    fn new(
        verifier: DecodingKey,
        kid: Option<&str>,
        algorithm: Option<Algorithm>,
    ) -> Result<Self, KeyError> {
        let natural = natural_algorithm(&verifier).ok_or(KeyError::Unusable)?;
        let algorithm = algorithm.unwrap_or(natural);
        if algorithm.family() != natural.family() {
            return Err(KeyError::Mismatch(algorithm, "it is of another kind"));
        }
        if algorithm.family() == AlgorithmFamily::Ec && algorithm != natural {
            return Err(KeyError::Mismatch(algorithm, "it is of another curve"));
        }
        let id = match verifier.kind() {
            DecodingKeyKind::SecretOrDer(bytes) => {
                if algorithm.is_symmetric() && bytes.len() < algorithm.least_secret() {
                    return Err(KeyError::Unusable);
                }
                KeyId::of(algorithm.as_str(), &[bytes])
            }
            DecodingKeyKind::RsaModulusExponent { n, e } => KeyId::of(algorithm.as_str(), &[n, e]),
        };
        Ok(Self { id, kid: kid.map(Into::into), algorithm, verifier })
    }

    /// Returns whether the key has signed this message.
    pub(super) fn verifies(&self, message: &str, signature: &str) -> bool {
        if let Some(algorithm) = self.algorithm.known() {
            let message = message.as_bytes();
            let key = &self.verifier;
            return jsonwebtoken::crypto::verify(signature, message, key, algorithm)
                .unwrap_or(false);
        }
        let (Ok(signature), Ok(key)) =
            (URL_SAFE_NO_PAD.decode(signature), self.verifier.try_get_as_bytes())
        else {
            return false;
        };
        let key = UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, key);
        key.verify(message.as_bytes(), &signature).is_ok()
    }
}

/// Returns the default algorithm of a key, or `None` if the key is unusable.
fn natural_algorithm(key: &DecodingKey) -> Option<Algorithm> {
    let bytes = match key.kind() {
        DecodingKeyKind::SecretOrDer(bytes) => bytes.as_slice(),
        DecodingKeyKind::RsaModulusExponent { n, e } => {
            let bytes = n.iter().skip_while(|byte| **byte == 0).count();
            let exponent = e.last().is_some_and(|last| last % 2 == 1) && e.as_slice() != [1];
            return ((256..=1024).contains(&bytes) && exponent).then_some(Algorithm::Rs256);
        }
    };
    let (algorithm, check): (_, &'static dyn VerificationAlgorithm) =
        match (key.family(), bytes.len()) {
            (AlgorithmFamily::Hmac, _) => return Some(Algorithm::Hs256),
            (AlgorithmFamily::Rsa, _) => (Algorithm::Rs256, &RSA_PKCS1_2048_8192_SHA256),
            (AlgorithmFamily::Ec, 65) => (Algorithm::Es256, &ECDSA_P256_SHA256_FIXED),
            (AlgorithmFamily::Ec, 97) => (Algorithm::Es384, &ECDSA_P384_SHA384_FIXED),
            (AlgorithmFamily::Ec, 133) => (Algorithm::Es512, &ECDSA_P521_SHA512_FIXED),
            (AlgorithmFamily::Ed, 32) => (Algorithm::EdDsa, &ED25519),
            _ => return None,
        };
    ParsedPublicKey::new(check, bytes).is_ok().then_some(algorithm)
}

/// Whether a JWK set may contain secrets: one that is fetched over the network is public.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secrets {
    Allowed,
    Ignored,
}

/// Returns the keys of a JWK set that can verify tokens. Skips keys for another use, or of an
/// unknown type: providers add such keys without notice.
pub(super) fn from_jwks(
    text: &[u8],
    algorithm: Option<Algorithm>,
    secrets: Secrets,
) -> Result<Vec<Key>, KeyError> {
    let set: Value = serde_json::from_slice(text).map_err(|_| KeyError::NotJwks)?;
    let entries = set.get("keys").and_then(Value::as_array).ok_or(KeyError::NotJwks)?;
    let usable = entries.iter().filter_map(|entry| from_jwk(entry, algorithm, secrets));
    let keys: Vec<_> = usable.take(MAX_KEYS).collect();
    if keys.is_empty() { Err(KeyError::NoKeys) } else { Ok(keys) }
}

fn from_jwk(entry: &Value, otherwise: Option<Algorithm>, secrets: Secrets) -> Option<Key> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    let for_signatures = entry.get("use").is_none_or(|purpose| purpose == "sig");
    let may_verify = entry.get("key_ops").is_none_or(|operations| {
        operations.as_array().is_some_and(|list| list.iter().any(|one| one == "verify"))
    });
    if !for_signatures || !may_verify {
        return None;
    }
    let jwk: Jwk = Jwk::deserialize(entry).ok()?;
    let verifier = DecodingKey::from_jwk(&jwk).ok()?;
    if verifier.family() == AlgorithmFamily::Hmac && secrets == Secrets::Ignored {
        return None;
    }
    let algorithm = match entry.get("alg") {
        Some(name) => Some(name.as_str()?.parse().ok()?),
        // The configured algorithm is for keys of its type; the others use their default.
        None => otherwise.filter(|algorithm| {
            natural_algorithm(&verifier).is_some_and(|natural| {
                natural.family() == algorithm.family()
                    && (natural.family() != AlgorithmFamily::Ec || natural == *algorithm)
            })
        }),
    };
    Key::new(verifier, text("kid"), algorithm).ok()
}

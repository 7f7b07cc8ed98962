//! Test keys, tokens signed with them, and authenticators that trust them.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::auth::{Algorithm, AuthError, Authenticator, Config, Credential, Principal};

pub(super) const SECRET: &str =
    "a secret of more than sixty-four bytes, as HS512 wants it to have, and then some";

/// A Wednesday in 2026.
pub(super) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

pub(super) const NOW: u64 = 1_780_000_000;

pub(super) fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A private key.
pub(super) enum Signer {
    Secret(Vec<u8>),
    Rsa(Box<RsaKeyPair>),
    Ec(Box<EcdsaKeyPair>),
    Ed(Box<Ed25519KeyPair>),
}

impl Signer {
    pub(super) fn secret() -> Self {
        Self::Secret(SECRET.into())
    }

    /// Creates a key that can be used with the algorithm.
    pub(super) fn new(algorithm: Algorithm) -> Self {
        use Algorithm as A;
        let curve = match algorithm {
            A::Hs256 | A::Hs384 | A::Hs512 => return Self::secret(),
            A::EdDsa => return Self::Ed(Box::new(Ed25519KeyPair::generate().unwrap())),
            A::Es256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            A::Es384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            A::Es512 => &signature::ECDSA_P521_SHA512_FIXED_SIGNING,
            _ => return Self::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())),
        };
        Self::Ec(Box::new(EcdsaKeyPair::generate(curve).unwrap()))
    }

    /// Returns the public key in PEM.
    pub(super) fn pem(&self) -> String {
        let der = match self {
            Self::Secret(_) => panic!("a secret has no public half"),
            Self::Rsa(key) => key.public_key().as_der().unwrap().as_ref().to_vec(),
            Self::Ec(key) => key.public_key().as_der().unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.public_key().as_der().unwrap().as_ref().to_vec(),
        };
        let text = STANDARD.encode(der);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// Returns the verifying key as a JWK.
    pub(super) fn jwk(&self, kid: &str, algorithm: Algorithm) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match self {
            Self::Secret(secret) => json!({"kty": "oct", "k": text(secret)}),
            Self::Rsa(key) => {
                let public = key.public_key();
                let n = public.modulus();
                let e = public.exponent();
                json!({"kty": "RSA", "n": text(n.big_endian_without_leading_zero()),
                       "e": text(e.big_endian_without_leading_zero())})
            }
            Self::Ec(key) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = match x.len() {
                    32 => "P-256",
                    48 => "P-384",
                    _ => "P-521",
                };
                json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)})
            }
            Self::Ed(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": text(key.public_key().as_ref())})
            }
        };
        jwk["kid"] = kid.into();
        jwk["alg"] = algorithm.as_str().into();
        jwk
    }

    /// Returns a token with this header and these claims, signed with the algorithm.
    pub(super) fn sign_as(&self, algorithm: Algorithm, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = self.signature(algorithm, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Returns a valid token.
    pub(super) fn sign(&self, algorithm: Algorithm, kid: &str, claims: &Value) -> String {
        let header = json!({"typ": "JWT", "alg": algorithm.as_str(), "kid": kid});
        self.sign_as(algorithm, &header, claims)
    }

    fn signature(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        use Algorithm as A;
        match self {
            Self::Secret(secret) => {
                let kind = match algorithm {
                    A::Hs384 => aws_lc_rs::hmac::HMAC_SHA384,
                    A::Hs512 => aws_lc_rs::hmac::HMAC_SHA512,
                    _ => aws_lc_rs::hmac::HMAC_SHA256,
                };
                let key = aws_lc_rs::hmac::Key::new(kind, secret);
                aws_lc_rs::hmac::sign(&key, message).as_ref().to_vec()
            }
            Self::Rsa(key) => {
                let padding: &'static dyn signature::RsaEncoding = match algorithm {
                    A::Rs384 => &signature::RSA_PKCS1_SHA384,
                    A::Rs512 => &signature::RSA_PKCS1_SHA512,
                    A::Ps256 => &signature::RSA_PSS_SHA256,
                    A::Ps384 => &signature::RSA_PSS_SHA384,
                    A::Ps512 => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(padding, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
            Self::Ec(key) => key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }
}

/// Claims that are accepted by [`issuer`].
pub(super) fn claims() -> Value {
    json!({"iss": "https://id.example", "aud": "hub", "sub": "ann", "exp": NOW + 600,
           "fanfare": {"subscribe": ["chat/*"]}})
}

/// Returns the claims with one of them changed; `null` removes it.
pub(super) fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

/// Returns the configuration of one issuer with these keys, in TOML.
pub(super) fn issuer(keys: &str) -> String {
    format!(
        "[[issuers]]\nname = \"id\"\nissuer = \"https://id.example\"\naudience = \"hub\"\n{keys}\n"
    )
}

pub(super) fn config(text: &str) -> Config {
    toml::from_str(text).unwrap()
}

/// The environment of the tests: one secret.
pub(super) fn environment(name: &str) -> Option<String> {
    (name == "KEY").then(|| SECRET.to_owned())
}

pub(super) fn authenticator(text: &str) -> Authenticator {
    Authenticator::new(&config(text), &environment, None).unwrap()
}

/// Returns an authenticator that trusts the tests' secret.
pub(super) fn by_secret() -> Authenticator {
    authenticator(&issuer("keys = { secret = \"env:KEY\" }"))
}

pub(super) fn show(authenticator: &Authenticator, token: &str) -> Result<Principal, AuthError> {
    authenticator.authenticate(Credential::Bearer(token), now())
}

pub(super) fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

//! Keys of a test, tokens signed with them, and settings that trust them.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{Response, TestHub, Wire, assert_problem};

/// A secret that is long enough for HS512.
pub(crate) const SECRET: &str =
    "a secret of more than sixty-four bytes, as HS512 wants it to have, and then some";

/// The API key of [`operator`], which may do everything.
pub(crate) const OPERATOR: &str = "ffk_the-operator-who-may-do-everything";

/// A private key.
#[derive(Clone, Copy)]
pub(crate) enum Signer {
    Secret(&'static [u8]),
    Rsa(&'static RsaKeyPair),
    Ec(&'static EcdsaKeyPair),
    Ed(&'static Ed25519KeyPair),
}

impl Signer {
    /// Returns a key for the algorithm: a new one, except for RSA, whose keys are slow to create.
    pub(crate) fn new(algorithm: &str) -> Self {
        static RSA: OnceLock<RsaKeyPair> = OnceLock::new();
        let curve = match algorithm {
            "HS256" | "HS384" | "HS512" => return Self::Secret(SECRET.as_bytes()),
            "EdDSA" => return Self::Ed(leak(Ed25519KeyPair::generate().expect("a key"))),
            "ES256" => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
            "ES384" => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
            _ => return Self::Rsa(RSA.get_or_init(new_rsa)),
        };
        Self::Ec(leak(EcdsaKeyPair::generate(curve).expect("a key")))
    }

    /// Returns another RSA key.
    pub(crate) fn other_rsa() -> Self {
        Self::Rsa(leak(new_rsa()))
    }

    /// Returns the public half in PEM.
    pub(crate) fn pem(self) -> String {
        let der = match self {
            Self::Secret(_) => panic!("a secret has no public half"),
            Self::Rsa(key) => key.public_key().as_der().expect("DER").as_ref().to_vec(),
            Self::Ec(key) => key.public_key().as_der().expect("DER").as_ref().to_vec(),
            Self::Ed(key) => key.public_key().as_der().expect("DER").as_ref().to_vec(),
        };
        let text = STANDARD.encode(der);
        let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// Returns the verifying half, as a JWK.
    pub(crate) fn jwk(self, kid: &str, algorithm: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let mut jwk = match self {
            Self::Secret(secret) => json!({"kty": "oct", "k": text(secret)}),
            Self::Rsa(key) => {
                let n = key.public_key().modulus();
                let e = key.public_key().exponent();
                json!({"kty": "RSA", "n": text(n.big_endian_without_leading_zero()),
                       "e": text(e.big_endian_without_leading_zero())})
            }
            Self::Ec(key) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)})
            }
            Self::Ed(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": text(key.public_key().as_ref())})
            }
        };
        jwk["kid"] = kid.into();
        jwk["alg"] = algorithm.into();
        jwk
    }

    /// Returns a token with exactly this header and these claims, signed with the algorithm.
    pub(crate) fn sign_as(self, algorithm: &str, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let signature = self.signature(algorithm, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Returns a valid token without a key id.
    pub(crate) fn sign(self, algorithm: &str, claims: &Value) -> String {
        self.sign_as(algorithm, &json!({"typ": "JWT", "alg": algorithm}), claims)
    }

    /// Returns a valid token with a key id.
    pub(crate) fn sign_by(self, algorithm: &str, kid: &str, claims: &Value) -> String {
        self.sign_as(algorithm, &json!({"typ": "JWT", "alg": algorithm, "kid": kid}), claims)
    }

    fn signature(self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Secret(secret) => {
                let kind = match algorithm {
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(kind, secret), message).as_ref().to_vec()
            }
            Self::Rsa(key) => {
                let padding: &'static dyn signature::RsaEncoding = match algorithm {
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public_modulus_len()];
                let random = SystemRandom::new();
                key.sign(padding, &random, message, &mut signature).expect("a signature");
                signature
            }
            Self::Ec(key) => {
                let signature = key.sign(&SystemRandom::new(), message);
                signature.expect("a signature").as_ref().to_vec()
            }
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }
}

fn new_rsa() -> RsaKeyPair {
    RsaKeyPair::generate(KeySize::Rsa2048).expect("a key")
}

fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// Returns the seconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs()
}

/// Returns claims that the hub accepts from the issuer `id` of [`issuer`]: read and write
/// everything.
pub(crate) fn claims() -> Value {
    json!({"iss": "https://id.example", "aud": "hub", "sub": "ann", "exp": now() + 600,
           "fanfare": {"subscribe": ["**"], "publish": ["**"]}})
}

/// Returns the claims with one of them changed; `null` removes it.
pub(crate) fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().expect("an object").remove(name)),
        value => claims[name] = value,
    }
    claims
}

/// Returns a token by [`SECRET`] with these claims.
pub(crate) fn token(claims: &Value) -> String {
    Signer::new("HS256").sign("HS256", claims)
}

/// Settings and the files that they name.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    /// Writes a file and returns its path.
    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("a path in UTF-8").to_owned()
    }

    /// Returns the setting of keys that are a secret in a file.
    pub(crate) fn secret(&self) -> String {
        format!("secret = \"file:{}\"", self.file("secret", SECRET))
    }

    /// Returns the setting of keys that are a public key in PEM.
    pub(crate) fn pem(&self, name: &str, signer: Signer) -> String {
        format!("pem = \"{}\"", self.file(name, signer.pem()))
    }

    /// Returns the setting of keys that are a JWK set.
    pub(crate) fn jwks(&self, name: &str, keys: &[Value]) -> String {
        format!("jwks = \"{}\"", self.file(name, json!({"keys": keys}).to_string()))
    }
}

/// Returns an issuer `https://NAME.example` for the audience `hub`, in TOML. `keys` is a return
/// value such as that of [`Folder::secret`]; `more` is further settings of it.
pub(crate) fn issuer(name: &str, keys: &str, more: &str) -> String {
    format!(
        "\n[[auth.issuers]]\nname = \"{name}\"\nissuer = \"https://{name}.example\"\n\
         audience = \"hub\"\nkeys = {{ {keys} }}\n{more}\n"
    )
}

/// Returns an API key, in TOML: `grants` such as `publish = ["a"]`.
pub(crate) fn api_key(name: &str, key: &str, grants: &str) -> String {
    let hash = digest::digest(&digest::SHA256, key.as_bytes());
    let hash: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "\n[[auth.api_keys]]\nname = \"{name}\"\nhash = \"sha256:{hash}\"\n\
         grants = {{ {grants} }}\n"
    )
}

/// Returns the setting of the API key [`OPERATOR`].
pub(crate) fn operator() -> String {
    api_key("operator", OPERATOR, "publish = true, subscribe = true, signal = true, admin = true")
}

/// Sends a `GET` to a listener, with a credential.
pub(crate) async fn get_as(addr: SocketAddr, to: &str, headers: &[(&str, &str)]) -> Response {
    let mut wire = Wire::connect(addr).await;
    let mut all = vec![("Connection", "close"), ("Accept", "application/json")];
    all.extend_from_slice(headers);
    wire.send_head("GET", to, &all).await;
    wire.response().await
}

/// Returns the number of refusals for this reason. The hub must know the [`operator`].
pub(crate) async fn refused_total(hub: &TestHub, reason: &str) -> f64 {
    let page = get_as(hub.admin_addr(), "/metrics", &[("X-API-Key", OPERATOR)]).await.ok().text();
    let series = format!("fanfare_auth_refused_total{{reason=\"{reason}\"}} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&series));
    value.map_or(0.0, |value| value.parse().expect("a number"))
}

/// Returns an `Authorization: Bearer` header.
pub(crate) fn bearer(text: &str) -> String {
    format!("Bearer {text}")
}

/// Asserts that this is a regular 401, for this reason, and returns the document.
#[track_caller]
pub(crate) fn assert_refused(reply: &Response, reason: &str) -> Value {
    let problem = assert_problem(reply, 401, "unauthenticated", "");
    assert_eq!(problem["reason"], reason, "{problem}");
    assert_eq!(problem["retryable"], false, "{problem}");
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    let challenge = reply.header("www-authenticate").expect("a challenge");
    if reason == "missing" {
        assert_eq!(challenge, "Bearer realm=\"fanfare\"");
    } else {
        let begins = "Bearer realm=\"fanfare\", error=\"invalid_token\", error_description=\"";
        let said = challenge.strip_prefix(begins).and_then(|rest| rest.strip_suffix('"'));
        let said = said.unwrap_or_else(|| panic!("{challenge}"));
        // RFC 6750, section 3: no character that a quoted string would have to escape.
        let plain = |byte: u8| matches!(byte, 0x20..=0x21 | 0x23..=0x5B | 0x5D..=0x7E);
        assert!(!said.is_empty() && said.bytes().all(plain), "{challenge}");
    }
    problem
}

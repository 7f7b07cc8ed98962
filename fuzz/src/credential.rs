//! Credentials: without a key no credential is accepted, and a token grants exactly what it
//! contains.
//!
//! The input: a byte that selects the attempt, and its data.
//!
//! - `0`: the text itself, as every kind of credential.
//! - `1`: a valid credential that is damaged. A byte selects it, two give the position, one the
//!   number of bytes to remove, and the rest is inserted in their place.
//! - `2`: a token with arbitrary content. A byte selects the signing key; then a line with its
//!   header, and its claims.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanfare::internals::auth::{
    ApiKeyHash, AuthError, Authenticator, Config, Credential, Grants, Principal,
};
use serde_json::{Map, Value, json};

/// The time of all checks.
const NOW: u64 = 1_780_000_000;

const LEEWAY: u64 = 30;

/// The secrets of one issuer, of the hub itself, and of a stranger.
const SECRET: &str = "the secret of an issuer, which has more than 32 bytes";
const OWN: &str = "the secret of the hub itself, which has more than 32 bytes";
const STRANGER: &str = "the secret of somebody else, which has more than 32 bytes";

/// A public key whose private key is unknown. An attacker may know it, and sign with its text.
const PUBLIC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/keys/rsa.pem");

const API_KEY: &str = "ffk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

static HUB: LazyLock<Authenticator> = LazyLock::new(|| {
    let config = format!(
        r#"
cookie = "fanfare"
query_token = true
signing_key = "env:OWN"

[[issuers]]
name = "shared"
issuer = "https://shared.example"
audience = "hub"
keys = {{ secret = "env:SECRET" }}
at_most = {{ subscribe = ["chat/**"], publish = ["chat/*"] }}

[[issuers]]
name = "rsa"
issuer = "https://rsa.example"
audience = "hub"
keys = {{ pem = "{PUBLIC}" }}

[[api_keys]]
name = "producer"
hash = "{}"
grants = {{ publish = ["logs/**"] }}
"#,
        hash()
    );
    let config: Config = toml::from_str(&config).expect("it is a configuration");
    assert_eq!(config.leeway, Duration::from_secs(LEEWAY));
    let environment = |name: &str| match name {
        "SECRET" => Some(SECRET.to_owned()),
        "OWN" => Some(OWN.to_owned()),
        _ => None,
    };
    Authenticator::new(&config, &environment, None).expect("it is valid")
});

fn hash() -> String {
    let hash = serde_json::to_value(ApiKeyHash::of(API_KEY)).expect("a hash is text");
    hash.as_str().expect("a hash is text").to_owned()
}

/// Valid credentials: a token of the issuer, one of the hub's own, and an API key.
static GOOD: LazyLock<[String; 3]> = LazyLock::new(|| {
    let header = r#"{"typ":"JWT","alg":"HS256"}"#;
    let claims = json!({"iss": "https://shared.example", "aud": "hub", "sub": "ann",
                        "exp": NOW + 600, "fanfare": {"subscribe": ["chat/*"]}});
    let token = sign(header, &claims.to_string(), SECRET.as_bytes());
    let minter = HUB.minter().expect("there is a key for it");
    let grants = Grants::from_claim(&json!({"signal": ["chat/1"]})).expect("they are grants");
    let own = minter.mint(&grants, "bob", Duration::from_secs(600), now()).expect("a token").token;
    [token, own, API_KEY.to_owned()]
});

/// Checks one input.
///
/// # Panics
/// If a property does not hold.
pub fn check(input: &[u8]) {
    match input {
        [0, text @ ..] => stranger(&String::from_utf8_lossy(text)),
        [1, which, place @ ..] => damaged(usize::from(*which) % GOOD.len(), place),
        [2, signer, rest @ ..] => {
            let text = String::from_utf8_lossy(rest);
            let (header, claims) = text.split_once('\n').unwrap_or((&text, "{}"));
            signed(*signer % 5, header, claims);
        }
        _ => {}
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn show(text: &str) -> [Result<Principal, AuthError>; 4] {
    let bearer = HUB.authenticate(Credential::Bearer(text), now());
    let api_key = HUB.authenticate(Credential::ApiKey(text), now());
    let cookie = HUB.authenticate(Credential::Cookie(text), now());
    let query = HUB.authenticate(Credential::Query(text), now());
    assert_eq!(cookie, query, "a token is a token, wherever it stands");
    [bearer, api_key, cookie, query]
}

/// Checks that a guessed credential is refused, and that its error is one of the known reasons.
fn stranger(text: &str) {
    if GOOD.iter().any(|good| good == text) {
        return;
    }
    for shown in show(text) {
        let error = shown.expect_err("a stranger is let in");
        let known = AuthError::ALL.iter().any(|known| known.as_str() == error.as_str());
        assert!(known && error != AuthError::Missing);
        assert_eq!(error == AuthError::TooLarge, text.len() > 8 * 1024, "{error:?}");
    }
}

fn damaged(which: usize, how: &[u8]) {
    let [high, low, taken, rest @ ..] = how else { return };
    let mut text = GOOD[which].clone().into_bytes();
    let place = usize::from(u16::from_be_bytes([*high, *low])) % (text.len() + 1);
    let end = text.len().min(place + usize::from(*taken));
    text.splice(place..end, rest.iter().copied());
    let text = String::from_utf8_lossy(&text);
    if text != GOOD[which] {
        return stranger(&text);
    }
    let [bearer, api_key, cookie, _] = show(&text);
    let is_key = which == 2;
    assert!(bearer.is_ok(), "a good credential is refused: {bearer:?}");
    assert_eq!((api_key.is_ok(), cookie.is_ok()), (is_key, !is_key));
    let principal = bearer.expect("it is good");
    assert_eq!(HUB.recheck(&principal, now()), Ok(principal));
}

fn sign(header: &str, claims: &str, key: &[u8]) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

fn signed(signer: u8, header: &str, claims: &str) {
    let key = match signer {
        0 => SECRET,
        1 => OWN,
        2 => STRANGER,
        3 => include_str!("../keys/rsa.pem"),
        _ => "",
    };
    let mut token = sign(header, claims, key.as_bytes());
    if signer == 4 {
        token.truncate(token.rfind('.').expect("there are two") + 1);
    }
    let [bearer, _, cookie, _] = show(&token);
    assert_eq!(bearer, cookie);
    let Ok(principal) = bearer else { return };
    let issuer = ["shared", "fanfare"].get(usize::from(signer));
    assert_eq!(issuer, Some(&&*principal.issuer), "one signs for another");
    let header = object(header);
    let claims = object(claims);
    assert_eq!(header.get("alg"), Some(&json!("HS256")), "a token chose its algorithm");
    assert!(!header.contains_key("crit"), "what is critical is not understood");
    let says = ["https://shared.example", "fanfare"][usize::from(signer)];
    assert_eq!(claims.get("iss"), Some(&json!(says)));
    in_time(&claims);
    let granted = Grants::from_claim(&claims["fanfare"]).expect("grants");
    assert!(!principal.grants.is_empty(), "an admitted caller may do something");
    assert!(granted.narrowed_to(&principal.grants).is_ok(), "more than the token says");
    if signer == 0 {
        let hub = &json!("hub");
        let names = claims["aud"].as_array().cloned().unwrap_or_default();
        assert!(claims["aud"] == *hub || names.contains(hub), "for somebody else");
        let most = json!({"subscribe": ["chat/**"], "publish": ["chat/*"]});
        let most = Grants::from_claim(&most).expect("grants");
        assert!(most.narrowed_to(&principal.grants).is_ok(), "more than the issuer may grant");
    }
}

/// Checks that a token is neither expired nor early, by more than the leeway.
fn in_time(claims: &Map<String, Value>) {
    let ends = claims["exp"].as_f64().expect("it must expire");
    assert!(ends + LEEWAY as f64 > NOW as f64, "it has expired at {ends}");
    if let Some(begins) = claims.get("nbf") {
        let begins = begins.as_f64().expect("a time").floor();
        assert!(begins <= (NOW + LEEWAY) as f64, "it begins at {begins}");
    }
}

fn object(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).expect("it was understood")
}

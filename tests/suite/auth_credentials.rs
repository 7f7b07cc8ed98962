//! Authentication: each place for a credential, their precedence, and each reason for a refusal.

use serde_json::{Value, json};

use crate::support::tokens::{
    Folder, OPERATOR, SECRET, Signer, api_key, assert_refused, bearer, claims, claims_with, get_as,
    issuer, now, operator, refused_total, token,
};
use crate::support::{Response, TestHub, Wire, assert_problem};

const EVERY_PLACE: &str = "auth.cookie = \"session\"\nauth.query_token = true\n";

/// The credentials of a request: headers and query parameters.
#[derive(Clone, Default)]
struct Shown {
    headers: Vec<(&'static str, String)>,
    query: String,
}

impl Shown {
    fn header(name: &'static str, value: impl Into<String>) -> Self {
        Self { headers: vec![(name, value.into())], query: String::new() }
    }

    fn query(token: &str) -> Self {
        Self { headers: Vec::new(), query: format!("&access_token={token}") }
    }

    /// Combines the credentials of both.
    fn and(mut self, other: Self) -> Self {
        self.headers.extend(other.headers);
        self.query.push_str(&other.query);
        self
    }

    /// Reads the channel with the credentials.
    async fn reads(&self, hub: &TestHub, channel: &str) -> Response {
        let headers: Vec<_> = self.headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let to = format!("/v1/channels/{channel}?from=earliest{}", self.query);
        get_as(hub.addr(), &to, &headers).await
    }
}

/// Returns each place, in the order of precedence: with a good credential, and with a bad one and
/// its refusal reason.
fn places() -> Vec<(Shown, Shown, &'static str)> {
    let good = token(&claims());
    let bad = token(&claims_with("exp", json!(1)));
    let cookie = |token: &str| Shown::header("Cookie", format!("a=b; session={token}; c=d"));
    vec![
        (
            Shown::header("Authorization", bearer(&good)),
            Shown::header("Authorization", bearer(&bad)),
            "expired",
        ),
        (
            Shown::header("X-API-Key", OPERATOR),
            Shown::header("X-API-Key", "ffk_nobody"),
            "unknown_key",
        ),
        (cookie(&good), cookie(&bad), "expired"),
        (Shown::query(&good), Shown::query(&bad), "expired"),
    ]
}

/// A hub with events in `a`, which trusts an issuer by [`SECRET`] and the operator.
async fn hub(folder: &Folder, settings: &str) -> TestHub {
    let known = issuer("id", &folder.secret(), "");
    let hub = TestHub::with(&format!("{settings}{known}{}", operator())).await;
    fill(&hub, &["a"]).await;
    hub
}

/// Publishes an event on each channel, so that reading it does not wait.
async fn fill(hub: &TestHub, channels: &[&str]) {
    for channel in channels {
        let to = format!("/v1/channels/{channel}");
        hub.request("POST", &to, &[("X-API-Key", OPERATOR)], "x").await.ok();
    }
}

/// Reads with a token.
async fn reads(hub: &TestHub, token: &str) -> Response {
    Shown::header("Authorization", bearer(token)).reads(hub, "a").await
}

#[tokio::test]
async fn each_place_is_read() {
    let folder = Folder::new();
    let hub = hub(&folder, EVERY_PLACE).await;
    for (good, bad, reason) in places() {
        good.reads(&hub, "a").await.ok();
        assert_refused(&bad.reads(&hub, "a").await, reason);
    }
    // An API key as a bearer token; schemes are case-insensitive.
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let shown = Shown::header("Authorization", format!("{scheme} {OPERATOR}"));
        shown.reads(&hub, "a").await.ok();
    }
    assert_refused(&Shown::default().reads(&hub, "a").await, "missing");
}

#[tokio::test]
async fn the_first_place_decides_and_a_bad_credential_is_never_passed_over() {
    let folder = Folder::new();
    for anonymous in ["", "auth.anonymous = { subscribe = [\"**\"] }\n"] {
        let hub = hub(&folder, &format!("{EVERY_PLACE}{anonymous}")).await;
        let places = places();
        for (at, (good, bad, reason)) in places.iter().enumerate() {
            assert_refused(&bad.reads(&hub, "a").await, reason);
            for (later_good, later_bad, _) in &places[at + 1..] {
                good.clone().and(later_bad.clone()).reads(&hub, "a").await.ok();
                let reply = bad.clone().and(later_good.clone()).reads(&hub, "a").await;
                assert_refused(&reply, reason);
            }
        }
        let reply = Shown::default().reads(&hub, "a").await;
        assert_eq!(reply.status(), if anonymous.is_empty() { 401 } else { 200 });
    }
}

#[tokio::test]
async fn places_that_are_switched_off_are_not_looked_at() {
    let folder = Folder::new();
    let strict = hub(&folder, "").await;
    let good = Shown::header("X-API-Key", OPERATOR);
    let [_, _, switched_off @ ..] = &places()[..] else { panic!("four places") };
    for (shown, bad, _) in switched_off.iter().cloned() {
        assert_refused(&shown.reads(&strict, "a").await, "missing");
        assert_refused(&bad.reads(&strict, "a").await, "missing");
        good.clone().and(bad).reads(&strict, "a").await.ok();
    }
    let lax = hub(&folder, "auth.anonymous = { subscribe = [\"**\"] }\n").await;
    for (shown, bad, _) in switched_off {
        shown.reads(&lax, "a").await.ok();
        bad.reads(&lax, "a").await.ok();
    }
    // A cookie with another name is ignored, even if its value is a good token.
    let other = hub(&folder, EVERY_PLACE).await;
    let cookie = format!("my-session={0}; session2={0}; Session={0}", token(&claims()));
    assert_refused(&Shown::header("Cookie", cookie).reads(&other, "a").await, "missing");
}

#[tokio::test]
async fn cookies_and_queries_carry_tokens_only() {
    let folder = Folder::new();
    let hub = hub(&folder, EVERY_PLACE).await;
    let cookie = Shown::header("Cookie", format!("session={OPERATOR}"));
    for shown in [cookie, Shown::query(OPERATOR)] {
        assert_refused(&shown.reads(&hub, "a").await, "malformed");
    }
    // A header for API keys accepts no tokens.
    let shown = Shown::header("X-API-Key", token(&claims()));
    assert_refused(&shown.reads(&hub, "a").await, "unknown_key");
}

#[tokio::test]
async fn what_is_no_credential_is_malformed() {
    let folder = Folder::new();
    let hub = hub(&folder, "auth.anonymous = { subscribe = [\"**\"] }\n").await;
    let good = token(&claims());
    let (header, rest) = good.split_once('.').expect("a token");
    let object = "e30"; // {}
    for text in [
        "Basic YWxhZGRpbjpvcGVuc2VzYW1l".to_owned(),
        "Digest username=a".to_owned(),
        "Bearer".to_owned(),
        "Bearer .".to_owned(),
        "Bearer ..".to_owned(),
        "Bearer a.b.c".to_owned(),
        "Bearer a.b".to_owned(),
        "Bearer ........".to_owned(),
        format!("Bearer {object}.{object}.{object}"),
        format!("Bearer {good}.{good}"),
        format!("Bearer {good}."),
        format!("Bearer {header}=.{rest}"),
        format!("Bearer {header}.!!!{rest}"),
        format!("Bearer{good}"),
        good.clone(),
    ] {
        let reply = Shown::header("Authorization", text.clone()).reads(&hub, "a").await;
        assert_refused(&reply, "malformed");
    }
    let twice = Shown::header("Authorization", bearer(&good));
    let twice = twice.clone().and(twice);
    assert_refused(&twice.reads(&hub, "a").await, "malformed");
    let keys = Shown::header("X-API-Key", OPERATOR);
    assert_refused(&keys.clone().and(keys).reads(&hub, "a").await, "malformed");
    // Invalid UTF-8.
    let mut wire = Wire::connect(hub.addr()).await;
    wire.send(b"GET /v1/channels/a HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer \xff\r\n\r\n")
        .await;
    assert_refused(&wire.response().await, "malformed");
}

#[tokio::test]
async fn claims_of_the_wrong_type_are_malformed() {
    let folder = Folder::new();
    let hub = hub(&folder, "").await;
    for (name, value) in [
        ("exp", json!("tomorrow")),
        ("exp", Value::Null),
        ("nbf", json!(["a"])),
        ("iss", json!(5)),
        ("sub", json!({})),
        ("fanfare", json!("everything")),
        ("fanfare", json!({"subscribe": [5]})),
    ] {
        let reply = reads(&hub, &token(&claims_with(name, value.clone()))).await;
        assert_eq!(reply.status(), 401, "{name} {value}");
        assert_refused(&reply, "malformed");
    }
}

#[tokio::test]
async fn what_is_too_large_is_said_to_be() {
    let folder = Folder::new();
    let hub = hub(&folder, "").await;
    let large = token(&claims_with("padding", json!("x".repeat(8000))));
    assert!(large.len() > 10_000);
    assert_refused(&reads(&hub, &large).await, "too_large");
    assert_refused(&reads(&hub, &"k".repeat(10_000)).await, "too_large");
    let reply = Shown::header("X-API-Key", "k".repeat(10_000)).reads(&hub, "a").await;
    assert_refused(&reply, "too_large");
    reads(&hub, &token(&claims_with("padding", json!("x".repeat(4000))))).await.ok();
    let reply = reads(&hub, &"k".repeat(1 << 20)).await;
    assert_eq!(reply.status(), 431);
}

#[tokio::test]
async fn a_token_that_is_not_believed_is_refused_for_what_is_wrong_with_it() {
    let folder = Folder::new();
    let hub = hub(&folder, "").await;
    let soon = now() + 3600;
    for (reason, claims) in [
        ("expired", claims_with("exp", json!(now() - 60))),
        ("expired", claims_with("exp", json!(-5))),
        ("not_yet_valid", claims_with("nbf", json!(soon))),
        ("issuer", claims_with("iss", json!("https://evil.example"))),
        ("issuer", claims_with("iss", Value::Null)),
        ("issuer", claims_with("iss", json!("fanfare"))),
        ("audience", claims_with("aud", json!("another hub"))),
        ("audience", claims_with("aud", json!(["another hub", "hub "]))),
        ("audience", claims_with("aud", Value::Null)),
        ("no_grants", claims_with("fanfare", Value::Null)),
        ("no_grants", claims_with("fanfare", json!({}))),
        ("no_grants", claims_with("fanfare", json!({"subscribe": []}))),
    ] {
        let before = refused_total(&hub, reason).await;
        assert_refused(&reads(&hub, &token(&claims)).await, reason);
        assert_eq!(refused_total(&hub, reason).await, before + 1.0, "{reason}");
        // The signature is checked before the claims.
        let forged =
            Signer::Secret(b"another secret that nobody here knows").sign("HS256", &claims);
        let expected = if reason == "issuer" { reason } else { "wrong_signature" };
        assert_refused(&reads(&hub, &forged).await, expected);
    }
    reads(&hub, &token(&claims_with("aud", json!(["another hub", "hub"])))).await.ok();
}

#[tokio::test]
async fn a_signature_is_of_all_that_is_said() {
    let folder = Folder::new();
    let hub = hub(&folder, "").await;
    let good = token(&claims());
    let other = token(&claims_with("sub", json!("bob")));
    let parts = |token: &str| -> Vec<String> { token.split('.').map(str::to_owned).collect() };
    let good = parts(&good);
    let other = parts(&other);
    let mixed = format!("{}.{}.{}", good[0], other[1], good[2]);
    assert_refused(&reads(&hub, &mixed).await, "wrong_signature");
    let none = format!("{}.{}.", good[0], good[1]);
    assert_refused(&reads(&hub, &none).await, "wrong_signature");
    let short = format!("{}.{}.{}", good[0], good[1], &good[2][..good[2].len() - 4]);
    assert_refused(&reads(&hub, &short).await, "wrong_signature");
}

#[tokio::test]
async fn the_key_and_not_the_token_says_what_the_algorithm_is() {
    let folder = Folder::new();
    let rsa = Signer::new("RS256");
    let settings = issuer("rsa", &folder.pem("rsa.pem", rsa), "");
    let hub = hub(&folder, &settings).await;
    let secret = Signer::new("HS256");
    for none in ["none", "None", "NONE", "nOnE", "HS1", ""] {
        let header = json!({"typ": "JWT", "alg": none});
        let signed = secret.sign_as("HS256", &header, &claims());
        let (unsigned, _) = signed.rsplit_once('.').expect("a token");
        for token in [format!("{unsigned}."), signed.clone()] {
            assert_refused(&reads(&hub, &token).await, "algorithm");
        }
    }
    // A secret of 384 bits does not count for an algorithm of 256.
    assert_refused(&reads(&hub, &secret.sign("HS384", &claims())).await, "algorithm");
    // A public key cannot be used as a secret, in any encoding.
    let theirs = claims_with("iss", json!("https://rsa.example"));
    let pem: &'static str = rsa.pem().leak();
    let jwk: &'static str = rsa.jwk("k", "RS256").to_string().leak();
    for public in [pem, pem.trim_end(), jwk] {
        for algorithm in ["HS256", "HS384", "HS512"] {
            let forged = Signer::Secret(public.as_bytes()).sign(algorithm, &theirs);
            assert_refused(&reads(&hub, &forged).await, "algorithm");
        }
    }
    // And a secret is no public key; a key for RS256 does not verify PS256.
    assert_refused(&reads(&hub, &rsa.sign("RS256", &claims())).await, "algorithm");
    assert_refused(&reads(&hub, &rsa.sign("PS256", &theirs)).await, "algorithm");
    assert_refused(&reads(&hub, &rsa.sign("RS512", &theirs)).await, "algorithm");
    reads(&hub, &rsa.sign("RS256", &theirs)).await.ok();
    assert_refused(
        &reads(&hub, &Signer::other_rsa().sign("RS256", &theirs)).await,
        "wrong_signature",
    );
}

const ALGORITHMS: [&str; 8] =
    ["HS256", "HS384", "HS512", "RS256", "PS256", "ES256", "ES384", "EdDSA"];

#[tokio::test]
async fn each_algorithm_is_understood_and_issuers_do_not_mix_their_keys() {
    let folder = Folder::new();
    let mut settings = String::new();
    let mut signers = Vec::new();
    for algorithm in ALGORITHMS {
        for form in ["jwks", "other"] {
            let name = format!("{}-{form}", algorithm.to_lowercase());
            let signer = Signer::new(algorithm);
            let keys = match (form, algorithm.starts_with("HS")) {
                ("jwks", _) => folder.jwks(&name, &[signer.jwk(&name, algorithm)]),
                (_, true) => folder.secret(),
                (_, false) => folder.pem(&name, signer),
            };
            let more = format!("algorithm = \"{algorithm}\"\n");
            settings.push_str(&issuer(&name, &keys, &more));
            signers.push((name, algorithm, signer));
        }
    }
    let hub = hub(&folder, &settings).await;
    for (name, algorithm, signer) in &signers {
        let theirs = claims_with("iss", json!(format!("https://{name}.example")));
        reads(&hub, &signer.sign(algorithm, &theirs)).await.ok();
        reads(&hub, &signer.sign_by(algorithm, name, &theirs)).await.ok();
        // An unknown key id is refused, except where the only key has no id.
        let unknown = reads(&hub, &signer.sign_by(algorithm, "unknown", &theirs)).await;
        if name.ends_with("jwks") {
            assert_refused(&unknown, "unknown_key");
        } else {
            unknown.ok();
        }
        // The token of each issuer, signed by every other that has another key.
        for (_, other, by) in &signers {
            let same = algorithm == other
                && (other.starts_with("HS") || other.starts_with("RS") || other.starts_with("PS"));
            let itself = std::ptr::eq(by, signer);
            if !same && !itself {
                let reply = reads(&hub, &by.sign(other, &theirs)).await;
                let reason = if algorithm == other { "wrong_signature" } else { "algorithm" };
                assert_refused(&reply, reason);
            }
        }
    }
}

#[tokio::test]
async fn the_name_of_a_key_is_looked_for_at_its_issuer_only() {
    let folder = Folder::new();
    let one = Signer::new("ES256");
    let two = Signer::new("ES256");
    let keys = |name: &str, signer: Signer| folder.jwks(name, &[signer.jwk(name, "ES256")]);
    let settings = issuer("one", &keys("one", one), "") + &issuer("two", &keys("two", two), "");
    let hub = hub(&folder, &settings).await;
    let of = |name: &str| claims_with("iss", json!(format!("https://{name}.example")));
    reads(&hub, &one.sign_by("ES256", "one", &of("one"))).await.ok();
    reads(&hub, &two.sign_by("ES256", "two", &of("two"))).await.ok();
    assert_refused(&reads(&hub, &two.sign_by("ES256", "two", &of("one"))).await, "unknown_key");
    assert_refused(&reads(&hub, &two.sign_by("ES256", "one", &of("one"))).await, "wrong_signature");
    assert_refused(&reads(&hub, &two.sign("ES256", &of("one"))).await, "wrong_signature");
}

#[tokio::test]
async fn a_set_of_keys_has_each_of_its_keys() {
    let folder = Folder::new();
    let signers: Vec<_> = ALGORITHMS.map(|algorithm| (algorithm, Signer::new(algorithm))).into();
    let keys: Vec<_> = signers.iter().map(|(name, signer)| signer.jwk(name, name)).collect();
    let hub = hub(&folder, &issuer("set", &folder.jwks("set", &keys), "")).await;
    let claims = claims_with("iss", json!("https://set.example"));
    for (algorithm, signer) in signers {
        reads(&hub, &signer.sign_by(algorithm, algorithm, &claims)).await.ok();
        reads(&hub, &signer.sign(algorithm, &claims)).await.ok();
    }
}

#[tokio::test]
async fn a_clock_that_is_a_little_off_is_forgiven_as_far_as_configured() {
    let folder = Folder::new();
    let usual = hub(&folder, "").await;
    reads(&usual, &token(&claims_with("exp", json!(now() - 5)))).await.ok();
    reads(&usual, &token(&claims_with("nbf", json!(now() + 5)))).await.ok();
    assert_refused(&reads(&usual, &token(&claims_with("exp", json!(now() - 31)))).await, "expired");
    let strict = hub(&folder, "auth.leeway = \"0s\"\n").await;
    assert_refused(&reads(&strict, &token(&claims_with("exp", json!(now() - 5)))).await, "expired");
    let reply = reads(&strict, &token(&claims_with("nbf", json!(now() + 60)))).await;
    assert_refused(&reply, "not_yet_valid");
    reads(&strict, &token(&claims_with("nbf", json!(now() - 1)))).await.ok();
}

#[tokio::test]
async fn a_token_need_not_expire_where_that_is_allowed() {
    let folder = Folder::new();
    let settings = issuer("lasting", &folder.secret(), "require_exp = false");
    let hub = hub(&folder, &settings).await;
    let mut claims = claims_with("exp", Value::Null);
    assert_refused(&reads(&hub, &token(&claims)).await, "malformed");
    claims["iss"] = json!("https://lasting.example");
    reads(&hub, &token(&claims)).await.ok();
    claims["exp"] = json!(now() - 60);
    assert_refused(&reads(&hub, &token(&claims)).await, "expired");
}

#[tokio::test]
async fn an_issuer_cannot_grant_more_than_it_is_trusted_with() {
    let folder = Folder::new();
    let settings = issuer("part", &folder.secret(), "at_most = { subscribe = [\"chat/*\"] }");
    let hub = hub(&folder, &settings).await;
    fill(&hub, &["chat/1", "logs/1"]).await;
    let with = |grants: Value| {
        let mut claims = claims_with("iss", json!("https://part.example"));
        claims["fanfare"] = grants;
        Shown::header("Authorization", bearer(&token(&claims)))
    };
    let all = with(json!({"subscribe": ["**"], "publish": ["**"], "admin": true}));
    all.reads(&hub, "chat/1").await.ok();
    assert_problem(&all.reads(&hub, "logs/1").await, 403, "forbidden", "subscribe");
    let one = with(json!({"subscribe": ["chat/1"]}));
    one.reads(&hub, "chat/1").await.ok();
    assert_problem(&one.reads(&hub, "chat/2").await, 403, "forbidden", "subscribe");
    let nothing = with(json!({"publish": ["chat/1"], "subscribe": ["logs/*"]}));
    assert_refused(&nothing.reads(&hub, "chat/1").await, "no_grants");
}

#[tokio::test]
async fn the_claim_with_the_grants_can_have_another_name() {
    let folder = Folder::new();
    let hub = hub(&folder, "auth.claim = \"https://hub.example/may\"\n").await;
    assert_refused(&reads(&hub, &token(&claims())).await, "no_grants");
    let mut named = claims_with("fanfare", Value::Null);
    named["https://hub.example/may"] = json!({"subscribe": ["a"]});
    reads(&hub, &token(&named)).await.ok();
}

#[tokio::test]
async fn an_api_key_is_all_of_its_text() {
    let folder = Folder::new();
    let key = "ffk_one-key";
    let settings = api_key("one", key, "subscribe = [\"b\"]");
    let hub = hub(&folder, &settings).await;
    fill(&hub, &["b"]).await;
    Shown::header("X-API-Key", key).reads(&hub, "b").await.ok();
    let reply = Shown::header("X-API-Key", key).reads(&hub, "a").await;
    assert_problem(&reply, 403, "forbidden", "subscribe");
    for wrong in ["ffk_one-ke", "ffk_one-keyy", "FFK_ONE-KEY", "one", "ffk_"] {
        assert_refused(&Shown::header("X-API-Key", wrong).reads(&hub, "b").await, "unknown_key");
        let shown = Shown::header("Authorization", bearer(wrong));
        assert_refused(&shown.reads(&hub, "b").await, "unknown_key");
    }
    // The configured hash of a key does not work as a key.
    let hash = settings.split('"').find(|text| text.starts_with("sha256:")).expect("a hash");
    for text in [hash, &hash["sha256:".len()..]] {
        assert_refused(&Shown::header("X-API-Key", text).reads(&hub, "b").await, "unknown_key");
    }
}

#[tokio::test]
async fn the_admin_listener_asks_as_well_and_all_refusals_are_counted() {
    let folder = Folder::new();
    let hub = hub(&folder, "").await;
    for (headers, reason) in [
        (vec![], "missing"),
        (vec![("X-API-Key", "ffk_nobody")], "unknown_key"),
        (vec![("Authorization", "Basic dTpw")], "malformed"),
    ] {
        for path in ["/metrics", "/v1/channels"] {
            let before = refused_total(&hub, reason).await;
            let reply = get_as(hub.admin_addr(), path, &headers).await;
            assert_refused(&reply, reason);
            assert_eq!(refused_total(&hub, reason).await, before + 1.0, "{reason} {path}");
        }
    }
    for path in ["/healthz", "/readyz", "/openapi.yaml", "/openapi-3.1.yaml"] {
        get_as(hub.addr(), path, &[]).await.ok();
        get_as(hub.admin_addr(), path, &[]).await.ok();
    }
    let said = reads(&hub, &token(&claims_with("exp", json!(1)))).await.text();
    assert!(!said.contains(SECRET) && !said.contains("id.example"), "{said}");
}

#[tokio::test]
async fn a_caller_with_other_grants_is_forbidden_and_counted() {
    let folder = Folder::new();
    let grants = api_key("reader", "ffk_reader", "subscribe = [\"b\"]");
    let hub = hub(&folder, &grants).await;
    let before = refused_total(&hub, "forbidden").await;
    let reply = Shown::header("X-API-Key", "ffk_reader").reads(&hub, "a").await;
    let problem = assert_problem(&reply, 403, "forbidden", "subscribe");
    assert_eq!(problem["operation"], "subscribe");
    assert_eq!(refused_total(&hub, "forbidden").await, before + 1.0);
    let reply = get_as(hub.admin_addr(), "/metrics", &[("X-API-Key", "ffk_reader")]).await;
    assert_problem(&reply, 403, "forbidden", "admin");
}

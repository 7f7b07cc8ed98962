//! `POST /v1/tokens`: the hub's own tokens, which never exceed the grants of their creator.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::tokens::{
    Folder, OPERATOR, SECRET, Signer, api_key, assert_refused, bearer, claims, claims_with, get_as,
    issuer, now, operator, token,
};
use crate::support::{Response, TestHub, assert_problem};

/// Seconds allowed between a request and the check of its answer.
const SLACK: u64 = 120;

/// A hub that signs tokens and trusts an issuer and the operator, with events in some channels.
async fn hub(folder: &Folder, settings: &str) -> TestHub {
    let hub = TestHub::with(&format!(
        "auth.signing_key = \"file:{}\"\n{settings}{}{}",
        folder.file("signing", "the secret with which this hub signs tokens"),
        issuer("id", &folder.secret(), ""),
        operator(),
    ))
    .await;
    for channel in ["chat/42", "chat/43"] {
        let to = format!("/v1/channels/{channel}");
        hub.request("POST", &to, &[("X-API-Key", OPERATOR)], "x").await.ok();
    }
    hub
}

async fn ask(hub: &TestHub, credential: &str, document: impl AsRef<[u8]>) -> Response {
    let credential = bearer(credential);
    let headers = [("Authorization", credential.as_str()), ("Content-Type", "application/json")];
    hub.request("POST", "/v1/tokens", &headers, document).await
}

/// Requests a token, which must succeed; returns it with its expiry.
async fn minted(hub: &TestHub, credential: &str, document: &Value) -> (String, u64) {
    let reply = ask(hub, credential, document.to_string()).await;
    assert_eq!(reply.status(), 201, "{}", reply.text());
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let answer = reply.json();
    let token = answer["token"].as_str().expect("a token").to_owned();
    let expires = answer["expires"].as_str().expect("a time");
    assert!(expires.ends_with('Z'), "{expires}");
    let expires: SystemTime = humantime::parse_rfc3339(expires).expect("RFC 3339");
    let expires = expires.duration_since(UNIX_EPOCH).expect("a time").as_secs();
    let said = claims_of(&token);
    assert_eq!(said["exp"], expires, "what is said is what is signed");
    (token, expires)
}

fn claims_of(token: &str) -> Value {
    let part = token.split('.').nth(1).expect("a token");
    let bytes = URL_SAFE_NO_PAD.decode(part).expect("base64url");
    serde_json::from_slice(&bytes).expect("claims")
}

async fn reads(hub: &TestHub, token: &str, channel: &str) -> Response {
    let to = format!("/v1/channels/{channel}?from=earliest");
    get_as(hub.addr(), &to, &[("Authorization", &bearer(token))]).await
}

async fn publishes(hub: &TestHub, token: &str, channel: &str) -> Response {
    let to = format!("/v1/channels/{channel}");
    hub.request("POST", &to, &[("Authorization", &bearer(token))], "x").await
}

/// Asserts that the expiry is this many seconds after the request.
#[track_caller]
fn assert_ttl(expires: u64, asked: u64, seconds: u64) {
    let ends = asked + seconds;
    assert!((ends..=ends + SLACK).contains(&expires), "{expires} is not {seconds} s after {asked}");
}

#[tokio::test]
async fn a_token_works_where_it_says_and_only_there() {
    let folder = Folder::new();
    let hub = hub(&folder, "").await;
    for credential in [OPERATOR.to_owned(), token(&claims())] {
        let (token, _) = minted(&hub, &credential, &json!({"subscribe": ["chat/42"]})).await;
        reads(&hub, &token, "chat/42").await.ok();
        for refused in [
            reads(&hub, &token, "chat/43").await,
            reads(&hub, &token, "nowhere").await,
            publishes(&hub, &token, "chat/42").await,
            get_as(hub.admin_addr(), "/metrics", &[("Authorization", &bearer(&token))]).await,
        ] {
            assert_problem(&refused, 403, "forbidden", "not granted");
        }
    }
}

#[tokio::test]
async fn each_operation_can_be_granted_with_a_pattern_a_life_and_a_name() {
    let folder = Folder::new();
    let hub = hub(&folder, "").await;
    let asked = now();
    let wanted = json!({"subscribe": ["chat/*"], "publish": ["chat/42"], "signal": ["chat/42"],
                        "admin": ["chat/42"], "ttl": "5m", "subject": "viewer"});
    let (token, expires) = minted(&hub, OPERATOR, &wanted).await;
    assert_ttl(expires, asked, 300);
    assert_eq!(claims_of(&token)["sub"], "viewer");
    reads(&hub, &token, "chat/43").await.ok();
    publishes(&hub, &token, "chat/42").await.ok();
    assert_problem(&publishes(&hub, &token, "chat/43").await, 403, "forbidden", "publish");
    let credential = bearer(&token);
    let headers = [("Authorization", credential.as_str())];
    let signal = r#"{"signal":"stop"}"#;
    let reply = hub.request("POST", "/v1/signals/chat/43", &headers, signal).await;
    assert_problem(&reply, 403, "forbidden", "signal");
    let reply = hub.request("POST", "/v1/signals/chat/42", &headers, signal).await;
    assert!(![401, 403].contains(&reply.status()), "{}", reply.text());
    let reply = hub.request("DELETE", "/v1/channels/chat/43", &headers, "").await;
    assert_problem(&reply, 403, "forbidden", "admin");
    let reply = hub.request("DELETE", "/v1/channels/chat/42", &headers, "").await;
    assert_eq!(reply.status(), 204, "{}", reply.text());
}

#[tokio::test]
async fn no_caller_can_grant_what_it_does_not_have() {
    let folder = Folder::new();
    let key = "ffk_some";
    let grants = "subscribe = [\"chat/*\"], publish = [\"chat/42\"]";
    let hub = hub(&folder, &api_key("some", key, grants)).await;
    for (operation, wanted) in [
        ("subscribe", json!({"subscribe": ["**"]})),
        ("subscribe", json!({"subscribe": ["chat/**"]})),
        ("subscribe", json!({"subscribe": ["chat/42", "logs/1"]})),
        ("subscribe", json!({"subscribe": ["*/42"]})),
        ("publish", json!({"publish": ["chat/43"], "subscribe": ["chat/43"]})),
        ("publish", json!({"publish": ["chat/*"]})),
        ("signal", json!({"signal": ["chat/42"]})),
        ("admin", json!({"admin": ["chat/42"]})),
    ] {
        let reply = ask(&hub, key, wanted.to_string()).await;
        let problem = assert_problem(&reply, 403, "forbidden", "");
        assert_eq!(problem["operation"], operation, "{wanted}");
        assert!(!reply.text().contains("\"token\""), "{}", reply.text());
    }
    let all = json!({"subscribe": ["chat/*"], "publish": ["chat/42"]});
    minted(&hub, key, &all).await;
}

#[tokio::test]
async fn a_token_makes_narrower_tokens_only_and_none_that_outlives_it() {
    let folder = Folder::new();
    let hub = hub(&folder, "").await;
    let wide = json!({"subscribe": ["chat/*"], "publish": ["chat/42"], "ttl": "10m"});
    let (wide, ends) = minted(&hub, OPERATOR, &wide).await;
    let (narrow, then) =
        minted(&hub, &wide, &json!({"subscribe": ["chat/42"], "ttl": "24h"})).await;
    assert_eq!(then, ends, "no longer than its maker");
    reads(&hub, &narrow, "chat/42").await.ok();
    let reply = reads(&hub, &narrow, "chat/43").await;
    assert_problem(&reply, 403, "forbidden", "subscribe");
    for wider in [json!({"subscribe": ["chat/*"]}), json!({"publish": ["chat/42"]})] {
        assert_problem(&ask(&hub, &narrow, wider.to_string()).await, 403, "forbidden", "");
    }
    let (last, _) = minted(&hub, &narrow, &json!({"subscribe": ["chat/42"], "ttl": "1m"})).await;
    reads(&hub, &last, "chat/42").await.ok();
}

#[tokio::test]
async fn a_token_does_not_outlive_the_token_of_an_issuer_nor_what_is_configured() {
    let folder = Folder::new();
    let hub = hub(&folder, "auth.max_token_ttl = \"2h\"\n").await;
    let wanted = |ttl: &str| json!({"subscribe": ["chat/42"], "ttl": ttl});
    let ends = now() + 600;
    let short = token(&claims_with("exp", json!(ends)));
    assert_eq!(minted(&hub, &short, &wanted("2h")).await.1, ends);
    let default = json!({"subscribe": ["chat/42"]});
    assert_eq!(minted(&hub, &short, &default).await.1, ends);
    let asked = now();
    assert_ttl(minted(&hub, OPERATOR, &wanted("30days")).await.1, asked, 7200);
    let long = token(&claims_with("exp", json!(now() + 100_000)));
    assert_ttl(minted(&hub, &long, &wanted("1day")).await.1, asked, 7200);
}

#[tokio::test]
async fn a_token_lives_for_an_hour_unless_that_is_too_long() {
    let folder = Folder::new();
    let usual = hub(&folder, "").await;
    let asked = now();
    let (_, expires) = minted(&usual, OPERATOR, &json!({"subscribe": ["chat/42"]})).await;
    assert_ttl(expires, asked, 3600);
    let hub = hub(&folder, "auth.max_token_ttl = \"10m\"\n").await;
    let asked = now();
    let (_, expires) = minted(&hub, OPERATOR, &json!({"subscribe": ["chat/42"]})).await;
    assert_ttl(expires, asked, 600);
}

#[tokio::test]
async fn a_token_ends_when_it_says() {
    let folder = Folder::new();
    let hub = hub(&folder, "auth.leeway = \"0s\"\n").await;
    let (token, expires) =
        minted(&hub, OPERATOR, &json!({"subscribe": ["chat/42"], "ttl": "1s"})).await;
    let end = UNIX_EPOCH + Duration::from_secs(expires);
    while SystemTime::now() < end {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_refused(&reads(&hub, &token, "chat/42").await, "expired");
    assert_refused(&ask(&hub, &token, r#"{"subscribe":["chat/42"]}"#).await, "expired");
}

#[tokio::test]
async fn documents_that_are_wrong_are_refused_by_the_field() {
    let folder = Folder::new();
    let hub = hub(&folder, "").await;
    for (parameter, document) in [
        ("subscribe", r#"{"subscribe":["a//b"]}"#),
        ("subscribe", r#"{"subscribe":[""]}"#),
        ("subscribe", r#"{"subscribe":"chat/42"}"#),
        ("publish", r#"{"publish":["a*"]}"#),
        ("signal", r#"{"signal":["/a"]}"#),
        ("admin", r#"{"admin":[5]}"#),
        ("ttl", r#"{"subscribe":["a"],"ttl":"soon"}"#),
        ("ttl", r#"{"subscribe":["a"],"ttl":60}"#),
        ("ttl", r#"{"subscribe":["a"],"ttl":"-5s"}"#),
        ("subject", r#"{"subscribe":["a"],"subject":5}"#),
        ("sub", r#"{"sub":["a"]}"#),
    ] {
        let reply = ask(&hub, OPERATOR, document).await;
        let problem = assert_problem(&reply, 400, "invalid_parameter", "");
        let named = problem["parameter"].as_str().unwrap_or_default();
        assert!(named.starts_with(parameter), "{document}: {problem}");
    }
    for document in ["", "{", "[]", "null", "{}", r#"{"subscribe":[]}"#, r#"{"ttl":"1h"}"#] {
        let reply = ask(&hub, OPERATOR, document).await;
        assert_problem(&reply, 400, "invalid_parameter", "");
    }
}

#[tokio::test]
async fn a_life_or_a_name_that_no_token_can_have_is_refused_by_the_field() {
    let folder = Folder::new();
    let hub = hub(&folder, "").await;
    let long = json!({"subscribe": ["a"], "subject": "n".repeat(10_000)});
    for (parameter, document) in
        [("subject", long), ("ttl", json!({"subscribe": ["a"], "ttl": "0s"}))]
    {
        let reply = ask(&hub, OPERATOR, document.to_string()).await;
        let problem = assert_problem(&reply, 400, "invalid_parameter", "");
        assert_eq!(problem["parameter"], parameter, "{problem}");
    }
}

#[tokio::test]
async fn lives_that_no_clock_can_reach_are_no_danger() {
    let folder = Folder::new();
    let hub = hub(&folder, "").await;
    for ttl in ["18446744073709551615s", "500000000000years", "999999999999days"] {
        let document = json!({"subscribe": ["a"], "ttl": ttl}).to_string();
        let reply = ask(&hub, OPERATOR, document).await;
        assert!(matches!(reply.status(), 201 | 400), "{ttl}: {}", reply.text());
    }
}

#[tokio::test]
async fn without_a_signing_key_there_are_no_tokens() {
    let folder = Folder::new();
    let document = r#"{"subscribe":["a"]}"#;
    let known = issuer("id", &folder.secret(), "") + &operator();
    let closed = TestHub::with(&known).await;
    let reply = ask(&closed, OPERATOR, document).await;
    assert_problem(&reply, 404, "not_found", "auth.signing_key");
    let reply = closed.request("POST", "/v1/tokens", &[], document).await;
    assert_refused(&reply, "missing");
    let open = TestHub::start().await;
    let reply = open.request("POST", "/v1/tokens", &[], document).await;
    assert_problem(&reply, 404, "not_found", "auth.signing_key");
    let get = closed.get("/v1/tokens", &[]).await;
    assert_problem(&get, 405, "method_not_allowed", "");
}

#[tokio::test]
async fn an_anonymous_caller_gets_no_token_for_what_all_may_do() {
    let folder = Folder::new();
    let hub = hub(&folder, "auth.anonymous = { subscribe = [\"public/**\"] }\n").await;
    for document in [r#"{"subscribe":["public/a"]}"#, r#"{"subscribe":["chat/42"]}"#] {
        let headers = [("Content-Type", "application/json")];
        let reply = hub.request("POST", "/v1/tokens", &headers, document).await;
        assert_refused(&reply, "missing");
    }
}

#[tokio::test]
async fn only_the_hub_can_sign_in_its_name() {
    let folder = Folder::new();
    let hub = hub(&folder, "").await;
    let (own, _) = minted(&hub, OPERATOR, &json!({"subscribe": ["chat/42"]})).await;
    let mut claims = claims_of(&own);
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("fanfare"), &json!("fanfare")));
    claims["fanfare"] = json!({"subscribe": ["**"]});
    let forged = Signer::new("HS256").sign("HS256", &claims);
    assert_refused(&reads(&hub, &forged, "chat/43").await, "wrong_signature");
    let mut parts: Vec<_> = own.split('.').map(str::to_owned).collect();
    parts[1] = URL_SAFE_NO_PAD.encode(claims.to_string());
    assert_refused(&reads(&hub, &parts.join("."), "chat/43").await, "wrong_signature");
    let reply = ask(&hub, OPERATOR, r#"{"subscribe":["chat/42"]}"#).await.text();
    assert!(!reply.contains(SECRET), "{reply}");
}

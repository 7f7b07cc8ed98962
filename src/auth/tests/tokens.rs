//! Tokens that are accepted and refused.

use proptest::prelude::*;
use serde_json::json;

use super::support::*;
use crate::auth::{Algorithm, AuthError as E, Credential, Grants, Operation, generate_api_key};

#[test]
fn every_algorithm_is_accepted_from_its_key_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    for algorithm in Algorithm::ALL {
        let key = Signer::new(algorithm);
        let set = json!({"keys": [key.jwk("k", algorithm)]}).to_string();
        let path = write(folder.path(), "set.json", &set);
        let mut hubs = vec![authenticator(&issuer(&format!("keys = {{ jwks = \"{path}\" }}")))];
        let keys = if algorithm.is_symmetric() {
            "keys = { secret = \"env:KEY\" }".to_owned()
        } else {
            let path = write(folder.path(), "key.pem", &key.pem());
            format!("keys = {{ pem = \"{path}\" }}")
        };
        hubs.push(authenticator(&issuer(&format!("algorithm = \"{algorithm}\"\n{keys}"))));
        for hub in &hubs {
            let token = key.sign(algorithm, "k", &claims());
            assert_eq!(&*show(hub, &token).unwrap().name, "ann", "{algorithm}");
            let forged = Signer::new(algorithm);
            if !algorithm.is_symmetric() {
                let token = forged.sign(algorithm, "k", &claims());
                assert_eq!(show(hub, &token).unwrap_err(), E::WrongSignature, "{algorithm}");
            }
            for other in Algorithm::ALL.into_iter().filter(|other| *other != algorithm) {
                let header = json!({"alg": other.as_str(), "kid": "k"});
                let token = key.sign_as(algorithm, &header, &claims());
                assert_eq!(show(hub, &token).unwrap_err(), E::Algorithm, "{other} on {algorithm}");
            }
        }
    }
}

#[test]
fn a_public_key_is_no_secret_and_none_is_no_algorithm() {
    let folder = tempfile::tempdir().unwrap();
    let key = Signer::new(Algorithm::Rs256);
    let pem = key.pem();
    let path = write(folder.path(), "key.pem", &pem);
    let hub = authenticator(&issuer(&format!("keys = {{ pem = \"{path}\" }}")));
    let forged = Signer::Secret(pem.into_bytes()).sign(Algorithm::Hs256, "k", &claims());
    assert_eq!(show(&hub, &forged).unwrap_err(), E::Algorithm);
    for name in ["none", "None", "NONE", "", "HS257"] {
        let header = json!({"alg": name});
        let token = key.sign_as(Algorithm::Rs256, &header, &claims());
        assert_eq!(show(&hub, &token).unwrap_err(), E::Algorithm, "{name}");
        let unsigned = &token[..=token.rfind('.').unwrap()];
        assert_eq!(show(&hub, unsigned).unwrap_err(), E::Algorithm, "{name}");
    }
}

#[test]
fn each_wrong_claim_has_its_own_code() {
    let hub = by_secret();
    let chat = || json!({"subscribe": ["chat/*"]});
    for (claim, value, expected) in [
        ("iss", json!("https://evil.example"), Some(E::Issuer)),
        ("iss", json!(null), Some(E::Issuer)),
        ("iss", json!(7), Some(E::Malformed)),
        ("aud", json!("other"), Some(E::Audience)),
        ("aud", json!(["other", "hub"]), None),
        ("aud", json!([]), Some(E::Audience)),
        ("aud", json!(null), Some(E::Audience)),
        ("exp", json!(null), Some(E::Malformed)),
        ("exp", json!("tomorrow"), Some(E::Malformed)),
        ("exp", json!(NOW - 29), None),
        ("exp", json!(NOW - 30), Some(E::Expired)),
        ("exp", json!(-1), Some(E::Expired)),
        ("exp", json!(u64::MAX), None),
        ("exp", json!(1e300), None),
        ("exp", json!(NOW as f64 + 0.5), None),
        ("nbf", json!(NOW + 30), None),
        ("nbf", json!(NOW + 31), Some(E::NotYetValid)),
        ("nbf", json!(u64::MAX), Some(E::NotYetValid)),
        ("nbf", json!([]), Some(E::Malformed)),
        ("sub", json!("x".repeat(256)), Some(E::Malformed)),
        ("fanfare", json!(null), Some(E::NoGrants)),
        ("fanfare", json!({}), Some(E::NoGrants)),
        ("fanfare", json!({"publish": [], "admin": false}), Some(E::NoGrants)),
        ("fanfare", json!({"later": ["x"]}), Some(E::NoGrants)),
        ("fanfare", json!({"later": 7, "subscribe": ["x"]}), None),
        ("fanfare", json!(["chat/*"]), Some(E::Malformed)),
        ("fanfare", json!({"subscribe": ["a//b"]}), Some(E::Malformed)),
        ("fanfare", json!({"subscribe": vec!["x"; 257]}), Some(E::Malformed)),
        ("fanfare", chat(), None),
    ] {
        let claims = claims_with(claim, value.clone());
        let token = Signer::secret().sign(Algorithm::Hs256, "k", &claims);
        assert_eq!(show(&hub, &token).err(), expected, "{claim}: {value}");
    }
}

#[test]
fn who_comes_within_the_leeway_stays_no_longer_than_it() {
    let hub = by_secret();
    let token = Signer::secret().sign(Algorithm::Hs256, "k", &claims_with("exp", json!(NOW)));
    let early = hub.authenticate(Credential::Bearer(&token), at(NOW - 1)).unwrap();
    assert_eq!(early.expires, Some(at(NOW)));
    let late = hub.authenticate(Credential::Bearer(&token), at(NOW)).unwrap();
    assert_eq!(late.expires, Some(at(NOW + 30)));
    assert_eq!(hub.recheck(&early, at(NOW - 1)), Ok(early.clone()));
    assert_eq!(hub.recheck(&early, at(NOW)), Err(E::Expired));
}

#[test]
fn what_is_large_or_garbage_is_refused_for_that() {
    let hub = by_secret();
    let good = Signer::secret().sign(Algorithm::Hs256, "k", &claims());
    assert!(show(&hub, &good).is_ok());
    let huge = format!("{good}{}", "A".repeat(1 << 20));
    assert_eq!(show(&hub, &huge).unwrap_err(), E::TooLarge);
    assert_eq!(show(&hub, &"x".repeat(1 << 20)).unwrap_err(), E::TooLarge);
    for text in [".", "..", "...", "a.b.c", "a.b", &format!("{good}."), &format!(".{good}")] {
        assert_eq!(show(&hub, text).unwrap_err(), E::Malformed, "{text}");
    }
    let critical = json!({"alg": "HS256", "crit": ["b64"], "b64": false});
    let token = Signer::secret().sign_as(Algorithm::Hs256, &critical, &claims());
    assert_eq!(show(&hub, &token).unwrap_err(), E::Malformed);
    let deep = format!("{}{}", "[".repeat(4000), "]".repeat(4000));
    let text = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, &deep[..5000]);
    assert_eq!(show(&hub, &format!("{text}.e30.AA")).unwrap_err(), E::Malformed);
    let (rest, _) = good.rsplit_once('.').unwrap();
    assert_eq!(show(&hub, &format!("{rest}.")).unwrap_err(), E::WrongSignature);
    assert_eq!(show(&hub, &format!("{rest}.!!")).unwrap_err(), E::WrongSignature);
}

#[test]
fn an_api_key_is_known_by_its_hash() {
    let ((one, hash), (other, second)) = (generate_api_key().unwrap(), generate_api_key().unwrap());
    let hub = authenticator(&format!(
        "[[api_keys]]\nname = \"builds\"\nhash = \"{hash}\"\n\
         grants = {{ publish = [\"logs/**\"] }}\n\
         [[api_keys]]\nname = \"bots\"\nhash = \"{second}\"\ngrants = {{ admin = true }}\n"
    ));
    for credential in [Credential::Bearer(&one), Credential::ApiKey(&one)] {
        let principal = hub.authenticate(credential, now()).unwrap();
        assert_eq!((&*principal.name, &*principal.issuer), ("builds", "api_key"));
        assert!(principal.grants.covers(Operation::Publish, &"logs/1".parse().unwrap()));
    }
    assert_eq!(&*show(&hub, &other).unwrap().name, "bots");
    for wrong in [&one[1..], &one[..one.len() - 1], &one.to_uppercase(), "ffk_"] {
        assert_eq!(show(&hub, wrong).unwrap_err(), E::UnknownKey, "{wrong}");
    }
    assert_eq!(show(&hub, "").unwrap_err(), E::Malformed);
    assert_eq!(hub.authenticate(Credential::Cookie(&one), now()).unwrap_err(), E::Missing);
    assert_eq!(hub.authenticate(Credential::Query(&one), now()).unwrap_err(), E::Missing);
}

#[test]
fn cookies_and_queries_count_only_where_they_are_switched_on() {
    let token = Signer::secret().sign(Algorithm::Hs256, "k", &claims());
    let text = issuer("keys = { secret = \"env:KEY\" }");
    let off = authenticator(&text);
    let on = authenticator(&format!("cookie = \"session\"\nquery_token = true\n{text}"));
    for credential in [Credential::Cookie(&token), Credential::Query(&token)] {
        assert_eq!(off.authenticate(credential, now()).unwrap_err(), E::Missing);
        assert_eq!(&*on.authenticate(credential, now()).unwrap().name, "ann");
    }
}

#[test]
fn the_anonymous_have_a_role_only_if_they_are_given_one() {
    let text = issuer("keys = { secret = \"env:KEY\" }");
    assert_eq!(by_secret().authenticate(Credential::None, now()).unwrap_err(), E::Missing);
    let hub = authenticator(&format!("anonymous = {{ subscribe = [\"public/**\"] }}\n{text}"));
    let principal = hub.authenticate(Credential::None, now()).unwrap();
    assert_eq!(&*principal.issuer, "anonymous");
    assert!(principal.grants.covers(Operation::Subscribe, &"public/a".parse().unwrap()));
    assert!(!principal.grants.covers(Operation::Publish, &"public/a".parse().unwrap()));
    assert_eq!(show(&hub, "a.b.c").unwrap_err(), E::Malformed, "a bad token is not no token");
}

#[test]
fn a_hub_without_credentials_asks_for_none() {
    let hub = authenticator("");
    assert!(hub.everyone().is_some());
    for credential in [Credential::None, Credential::Bearer("sk-anything")] {
        let principal = hub.authenticate(credential, now()).unwrap();
        assert_eq!(*principal.grants, Grants::everything());
    }
    assert!(by_secret().everyone().is_none());
    assert!(authenticator("anonymous = { subscribe = [\"a\"] }").everyone().is_none());
}

#[test]
fn an_issuer_grants_no_more_than_it_may() {
    let extra = "keys = { secret = \"env:KEY\" }\nat_most = { subscribe = [\"team-a/**\"] }";
    let hub = authenticator(&issuer(extra));
    let wide = json!({"subscribe": ["**"], "publish": ["**"], "admin": true});
    let token = Signer::secret().sign(Algorithm::Hs256, "k", &claims_with("fanfare", wide));
    let grants = show(&hub, &token).unwrap().grants;
    assert_eq!(serde_json::to_value(&*grants).unwrap(), json!({"subscribe": ["team-a/**"]}));
    let other = claims_with("fanfare", json!({"subscribe": ["team-b/**"]}));
    let token = Signer::secret().sign(Algorithm::Hs256, "k", &other);
    assert_eq!(show(&hub, &token).unwrap_err(), E::NoGrants);
}

proptest! {
    #[test]
    fn whatever_is_shown_nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let hub = by_secret();
        let text = String::from_utf8_lossy(&bytes);
        let part = base64::Engine::encode(&base64::prelude::BASE64_URL_SAFE_NO_PAD, &bytes);
        let header = "eyJhbGciOiJIUzI1NiJ9";
        for shown in [text.to_string(), format!("{part}.{part}.{part}"),
                      format!("{header}.{part}.{text}"), format!("{text}.{header}.{text}")] {
            prop_assert!(show(&hub, &shown).is_err());
        }
    }

    #[test]
    fn a_changed_token_is_no_token(
        place in 0usize..200,
        byte in prop::sample::select(b"Ab0_-.".to_vec()),
    ) {
        let hub = by_secret();
        let token = Signer::secret().sign(Algorithm::Hs256, "k", &claims());
        let place = place % token.len();
        let mut changed = token.clone().into_bytes();
        changed[place] = byte;
        let changed = String::from_utf8(changed).unwrap();
        prop_assert_eq!(show(&hub, &changed).is_ok(), changed == token);
    }
}

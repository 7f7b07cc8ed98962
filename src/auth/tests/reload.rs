//! Invalid configurations, changes of the configuration, and minting under them.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::support::*;
use crate::auth::{
    Algorithm, AuthError as E, Authenticator, Config, Credential, Grants, MintError, Minter,
    Operation, Principal,
};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_key_that_is_removed_takes_its_principals_along() {
    let folder = tempfile::tempdir().unwrap();
    let old = Signer::new(Algorithm::EdDsa);
    let new = Signer::new(Algorithm::EdDsa);
    let set = |keys: &[(&Signer, &str)]| {
        let keys: Vec<_> = keys.iter().map(|(key, kid)| key.jwk(kid, Algorithm::EdDsa)).collect();
        write(folder.path(), "set.json", &json!({ "keys": keys }).to_string())
    };
    let path = set(&[(&old, "old")]);
    let config = config(&issuer(&format!("keys = {{ jwks = \"{path}\" }}")));
    let hub = Authenticator::new(&config, &environment, None).unwrap();
    let token = old.sign(Algorithm::EdDsa, "old", &claims());
    let principal = show(&hub, &token).unwrap();
    set(&[(&old, "old"), (&new, "new")]);
    hub.reload(&config, &environment).unwrap();
    assert_eq!(hub.recheck(&principal, now()), Ok(principal.clone()));
    assert!(show(&hub, &new.sign(Algorithm::EdDsa, "new", &claims())).is_ok());
    set(&[(&new, "new")]);
    hub.reload(&config, &environment).unwrap();
    assert_eq!(hub.recheck(&principal, now()), Err(E::UnknownKey));
    assert_eq!(show(&hub, &token).unwrap_err(), E::UnknownKey);
    write(folder.path(), "set.json", "{}");
    assert!(hub.reload(&config, &environment).is_err());
    assert!(show(&hub, &new.sign(Algorithm::EdDsa, "new", &claims())).is_ok(), "all as it was");
}

#[test]
fn what_is_wrong_is_named_with_what_would_be_right() {
    let key = format!("sha256:{}", "ab".repeat(32));
    for (text, setting, words) in [
        ("claim = \"\"".to_owned(), "auth.claim", "must name"),
        ("leeway = \"1h\"".into(), "auth.leeway", "at most 5m"),
        ("cookie = \"a b\"".into(), "auth.cookie", "cookie's name"),
        ("max_token_ttl = \"0s\"".into(), "auth.max_token_ttl", "between"),
        ("jwks_refresh = \"1s\"".into(), "auth.jwks_refresh", "at least"),
        ("signing_key = \"env:NOT\"".into(), "auth.signing_key", "`NOT` is not set"),
        (issuer("keys = { pem = \"/none\" }"), "auth.issuers", "`id`: `keys`: cannot read"),
        (issuer("keys = { pem = \"Cargo.toml\" }"), "auth.issuers", "BEGIN PUBLIC KEY"),
        (issuer("keys = { jwks = \"Cargo.toml\" }"), "auth.issuers", "is not a JWK set"),
        (
            issuer("algorithm = \"RS256\"\nkeys = { secret = \"env:KEY\" }"),
            "auth.issuers",
            "must be HS256, HS384 or HS512",
        ),
        (issuer("keys = { jwks_url = \"http://id.example\" }"), "auth.issuers", "`https://`"),
        (
            "[[issuers]]\nname = \"x\"\nkeys = { jwks_url = \"https://id.example\" }".into(),
            "auth.issuers",
            "`audience` must be set",
        ),
        (
            format!("[[api_keys]]\nname = \"a b\"\nhash = \"{key}\"\ngrants = {{}}"),
            "auth.api_keys",
            "1 to 64 letters",
        ),
    ] {
        let found = Authenticator::new(&config(&text), &environment, None).unwrap_err();
        let told = found.iter().any(|one| one.key == setting && one.message.contains(words));
        assert!(told, "{text}: {found:?}");
    }
    for (text, words) in [
        (format!("signing_key = \"{SECRET}\""), "\"env:NAME\" or \"file:/path\""),
        ("anonymous = { subscrbe = [\"a\"] }".into(), "`publish`, `subscribe`"),
        ("anonymous = { publish = [\"a//b\"] }".into(), "empty segment"),
        ("[[api_keys]]\nname = \"x\"\nhash = \"md5:1\"\ngrants = {}".into(), "sha256:"),
    ] {
        let error = toml::from_str::<Config>(&text).unwrap_err().message().to_owned();
        assert!(error.contains(words) && !error.contains(SECRET), "{text}: {error}");
    }
}

#[test]
fn a_secret_that_is_too_short_or_a_private_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let short = write(folder.path(), "short", &format!("{}\n", "x".repeat(31)));
    let text = format!("signing_key = \"file:{short}\"");
    let found = Authenticator::new(&config(&text), &environment, None).unwrap_err();
    assert!(found[0].message.contains("31 bytes"), "{found:?}");
    let private = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----";
    let path = write(folder.path(), "key.pem", private);
    let text = issuer(&format!("keys = {{ pem = \"{path}\" }}"));
    let found = Authenticator::new(&config(&text), &environment, None).unwrap_err();
    assert!(found[0].message.contains("-pubout"), "{found:?}");
}

#[test]
fn settings_are_written_as_they_are_read_and_show_no_secret() {
    let hash = format!("sha256:{}", "ab".repeat(32));
    let text = format!(
        "signing_key = \"env:KEY\"\n[[api_keys]]\nname = \"x\"\nhash = \"{hash}\"\n\
         grants = {{ publish = [\"a\"], admin = true }}\n{}",
        issuer("keys = { secret = \"env:KEY\" }\nat_most = { subscribe = [\"**\"] }")
    );
    for config in [Config::default(), config(&text)] {
        let written = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<Config>(&written).unwrap(), config, "{written}");
    }
    let hub = authenticator(&text);
    let minter = hub.minter().unwrap();
    let minted = minter.mint(&Grants::everything(), "x", HOUR, now()).unwrap();
    let token = Signer::secret().sign(Algorithm::Hs256, "k", &claims());
    let principal = show(&hub, &token).unwrap();
    let credential = Credential::Bearer(&token);
    let shown = format!(
        "{config:?} {hub:?} {minter:?} {minted:?} {principal:?} {credential:?}",
        config = config(&text)
    );
    for secret in [SECRET, &token, &minted.token, &hash, "eyJ"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let all = toml::Table::try_from(Config::default()).unwrap();
    assert_eq!(all.len(), 11, "every setting is there also when it is not set: {all:?}");
}

#[test]
fn what_the_hub_mints_it_believes() {
    let hub = authenticator("signing_key = \"env:KEY\"");
    let grants = Grants::from_claim(&json!({"subscribe": ["chat/42"]})).unwrap();
    let minted = hub.minter().unwrap().mint(&grants, "ann", HOUR, now()).unwrap();
    let principal = show(&hub, &minted.token).unwrap();
    assert_eq!((&*principal.name, &*principal.issuer), ("ann", "fanfare"));
    assert_eq!(*principal.grants, grants);
    assert_eq!(principal.expires, Some(at(NOW + 3600)));
    assert_eq!(minted.expires, at(NOW + 3600));
    let late = hub.authenticate(Credential::Bearer(&minted.token), at(NOW + 3630));
    assert_eq!(late.unwrap_err(), E::Expired);
    assert_eq!(show(&by_secret(), &minted.token).unwrap_err(), E::Issuer);
}

fn minter() -> Minter {
    authenticator("signing_key = \"env:KEY\"").minter().unwrap()
}

fn principal(grants: Grants, expires: Option<u64>) -> Principal {
    Principal {
        account: "fanfare/ann".into(),
        name: "ann".into(),
        issuer: "id".into(),
        grants: grants.into(),
        expires: expires.map(at),
        key_id: None,
    }
}

#[test]
fn a_token_ends_no_later_than_its_minter() {
    let grants = Grants::from_claim(&json!({"subscribe": ["chat/*"]})).unwrap();
    let wanted = Grants::from_claim(&json!({"subscribe": ["chat/1"]})).unwrap();
    let mint = |expires: Option<u64>, ttl: Duration| {
        minter().mint_for(&principal(grants.clone(), expires), &wanted, "x", ttl, now())
    };
    assert_eq!(mint(None, HOUR).unwrap().expires, at(NOW + 3600));
    assert_eq!(mint(Some(NOW + 60), HOUR).unwrap().expires, at(NOW + 60));
    assert_eq!(mint(None, Duration::MAX).unwrap().expires, at(NOW + 24 * 3600));
    assert_eq!(mint(Some(NOW), HOUR), Err(MintError::NoTime));
    assert_eq!(mint(None, Duration::ZERO), Err(MintError::NoTime));
    let wide = Grants::from_claim(&json!({"subscribe": ["chat/**"]})).unwrap();
    let minted = minter().mint_for(&principal(grants, None), &wide, "x", HOUR, now());
    assert!(matches!(minted, Err(MintError::NotCovered(_))));
}

fn grants() -> impl Strategy<Value = Grants> {
    let pattern = prop::sample::select(vec!["a", "b", "*", "**", "a/*", "a/**", "*/b", "a/b"]);
    let one = (prop::sample::select(Operation::ON_CHANNELS.to_vec()), pattern);
    (prop::collection::vec(one, 0..4), any::<bool>()).prop_map(|(list, metrics)| {
        let mut grants = Grants::default();
        if metrics {
            grants.add_metrics();
        }
        for (operation, pattern) in list {
            grants.add(operation, pattern.parse().unwrap());
        }
        grants
    })
}

proptest! {
    #[test]
    fn no_token_does_what_its_minter_may_not(has in grants(), wants in grants()) {
        let hub = authenticator("signing_key = \"env:KEY\"");
        let minted = minter().mint_for(&principal(has.clone(), None), &wants, "x", HOUR, now());
        let Ok(minted) = minted else { return Ok(()) };
        let got = show(&hub, &minted.token).unwrap().grants;
        let metrics = |grants: &Grants| grants.covers_all(Operation::Metrics);
        prop_assert!(metrics(&got) == metrics(&wants) && (!metrics(&got) || metrics(&has)));
        for operation in Operation::ON_CHANNELS {
            for name in ["a", "b", "c", "a/a", "a/b", "b/b", "c/c", "a/b/c", "c/c/c"] {
                let name = name.parse().unwrap();
                prop_assert!(!got.covers(operation, &name) || has.covers(operation, &name));
            }
        }
    }

    #[test]
    fn grants_are_read_as_they_are_written(grants in grants()) {
        let written = serde_json::to_value(&grants).unwrap();
        prop_assert_eq!(Grants::from_claim(&written).unwrap(), grants);
    }

    #[test]
    fn what_is_common_to_two_grants_is_in_both(one in grants(), other in grants()) {
        let common = one.within(&other);
        let metrics = |grants: &Grants| grants.covers_all(Operation::Metrics);
        prop_assert_eq!(metrics(&common), metrics(&one) && metrics(&other));
        for operation in Operation::ON_CHANNELS {
            for name in ["a", "b", "c", "a/a", "a/b", "b/b", "c/c", "a/b/c", "c/c/c"] {
                let name = name.parse().unwrap();
                let both = one.covers(operation, &name) && other.covers(operation, &name);
                prop_assert_eq!(common.covers(operation, &name), both);
            }
        }
    }
}

#[test]
fn the_tokens_of_a_removed_key_are_revoked_with_it() {
    let (key, hash) = crate::auth::generate_api_key().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let secret = write(folder.path(), "secret", &"s".repeat(48));
    let with = |grants: &str| {
        let key = format!("[[api_keys]]\nname = \"team\"\nhash = \"{hash}\"\ngrants = {grants}");
        config(&format!("signing_key = \"file:{secret}\"\n{key}"))
    };
    let hub = Authenticator::new(&with("{ subscribe = [\"a/**\"] }"), &environment, None).unwrap();
    let team = hub.authenticate(Credential::ApiKey(&key), now()).unwrap();
    let wanted = Grants::from_claim(&json!({ "subscribe": ["a/*"] })).unwrap();
    let mint = |of: &Principal| {
        let minted = hub.minter().unwrap().mint_for(of, &wanted, "viewer", HOUR, now()).unwrap();
        hub.authenticate(Credential::Bearer(&minted.token), now()).map(|p| (p, minted.token))
    };
    let (viewer, token) = mint(&team).unwrap();
    let (viewers, _) = mint(&viewer).unwrap();
    let accounts = [&viewer, &viewers].map(|principal| &*principal.account);
    assert_eq!(accounts, ["api_key/team"; 2], "whoever hands on is counted for it");
    hub.reload(&with("{ subscribe = [\"a/b\"] }"), &environment).unwrap();
    let narrowed = hub.recheck(&viewer, now()).unwrap();
    assert_eq!(narrowed.grants.patterns(Operation::Subscribe), ["a/b".parse().unwrap()]);
    hub.reload(&config(&format!("signing_key = \"file:{secret}\"")), &environment).unwrap();
    assert_eq!(hub.recheck(&viewer, now()), Err(E::UnknownKey));
    assert_eq!(hub.authenticate(Credential::Bearer(&token), now()).unwrap_err(), E::UnknownKey);
}

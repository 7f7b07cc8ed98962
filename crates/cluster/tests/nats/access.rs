//! Credentials and certificates.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanfare_cluster::log::LogWriter;
use fanfare_cluster::nats::{Config, Credentials, Feed, Tls};
use nkeys::KeyPair;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa,
    KeyPair as CertificateKey,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::hub::{Hub, assert_equal, config};
use crate::proxy::Proxy;
use crate::server::NatsServer;

fn write(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("a file");
    path
}

#[test]
fn credentials_that_become_right_are_read_again() {
    let folder = TempDir::new().expect("a folder");
    let (right, wrong) = (KeyPair::new_user(), KeyPair::new_user());
    let user = right.public_key();
    let server =
        NatsServer::configured(&format!("authorization {{ users: [ {{ nkey: {user} }} ] }}\n"));
    let path = folder.path().join("seed");
    let credentials = Credentials::NkeyFile(path.clone());
    let mut hub = Hub::start(Config { credentials, ..config(&[server.url()]) });
    hub.wait_for_problem(&format!("the credentials in `{}` cannot be read", path.display()));
    write(folder.path(), "seed", &wrong.seed().expect("a seed"));
    hub.wait_for_problem("authorization violation");
    write(folder.path(), "seed", &format!("{}\n", right.seed().expect("a seed")));
    hub.wait("open log", |recorded| recorded.caught_up_at.is_some());
    hub.load(5, 100, 2);
    assert_eq!(hub.log.health().problem, None);
}

#[test]
fn a_file_of_credentials_is_a_token_and_its_key() {
    let folder = TempDir::new().expect("a folder");
    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let (user, stranger) = (KeyPair::new_user(), KeyPair::new_user());
    let system = KeyPair::new_account();
    let limits = json!({ "limits": {
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1,
        "consumer": -1,
    } });
    let operator_jwt = jwt(&operator, &operator, "operator", &json!({}));
    let account_jwt = jwt(&operator, &account, "account", &limits);
    let system_jwt = jwt(&operator, &system, "account", &json!({ "limits": { "conn": -1 } }));
    let of_user = json!({ "subs": -1, "data": -1, "payload": -1 });
    let user_jwt = jwt(&account, &user, "user", &of_user);
    let (account, system) = (account.public_key(), system.public_key());
    let server = NatsServer::configured(&format!(
        "operator: {operator_jwt}\nsystem_account: {system}\nresolver: MEMORY\n\
         resolver_preload: {{ {account}: {account_jwt}, {system}: {system_jwt} }}\n"
    ));
    let creds = |key: &KeyPair| {
        let seed = key.seed().expect("a seed");
        format!(
            "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    };
    let path = write(folder.path(), "creds", &creds(&stranger));
    let credentials = Credentials::CredsFile(path);
    let mut hub = Hub::start(Config { credentials, ..config(&[server.url()]) });
    hub.wait_for_problem("authorization violation");
    write(folder.path(), "creds", &creds(&user));
    hub.wait("open log", |recorded| recorded.caught_up_at.is_some());
    hub.load(5, 100, 2);
}

/// A claim signed by its issuer, in the form of NATS.
fn jwt(issuer: &KeyPair, subject: &KeyPair, kind: &str, limits: &Value) -> String {
    let mut nats = limits.clone();
    nats["type"] = kind.into();
    nats["version"] = 2.into();
    let claims = json!({
        "jti": "x", "iat": 1_700_000_000, "iss": issuer.public_key(), "name": kind,
        "sub": subject.public_key(), "nats": nats,
    });
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let signed = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = issuer.sign(signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Starts a hub with the name `hub` and this password.
pub fn with_password(url: &str, password: &str) -> Hub {
    let (user, password) = ("hub".to_owned(), password.to_owned());
    let credentials = Credentials::Password { user, password };
    Hub::start(Config { credentials, ..config(&[url.to_owned()]) })
}

#[test]
fn a_password_is_sent_and_a_missing_permission_is_reported() {
    let server = NatsServer::configured(
        "authorization { users: [ { user: hub, password: secret, \
         permissions: { publish: { deny: \"fanfare.test.log\" } } } ] }\n",
    );
    with_password(&server.url(), "wrong").wait_for_problem("authorization violation");
    let mut hub = with_password(&server.url(), "secret").opened();
    hub.send(100);
    hub.wait_for_problem("Permissions Violation for Publish to \"fanfare.test.log\"");
    assert_eq!(hub.recorded(|recorded| recorded.not_stored.clone()), Vec::new());
}

/// All that a hub needs, with the tail; without it, `feed = "consumer"`.
const PERMISSIONS: &str = r#"
authorization { users: [
    { user: hub, password: secret, permissions: {
        publish: [
            "fanfare.test.log",
            "$JS.API.STREAM.INFO.FANFARE_test", "$JS.API.STREAM.CREATE.FANFARE_test",
            "$JS.API.CONSUMER.CREATE.FANFARE_test.>", "$JS.API.CONSUMER.MSG.NEXT.FANFARE_test.>",
            "$JS.API.DIRECT.GET.FANFARE_test",
            "fanfare.test.viewers",
        ],
        subscribe: ["_INBOX.>", "fanfare.test.viewers", TAIL],
    } },
] }
"#;

#[test]
fn a_hub_needs_few_permissions() {
    for (tail, feed) in [("\"fanfare.test.tail\"", Feed::Tail), ("\"unused\"", Feed::Consumer)] {
        let server = NatsServer::configured(&PERMISSIONS.replace("TAIL", tail));
        let proxy = Proxy::start(server.port());
        let start = |url: String| {
            let (user, password) = ("hub".to_owned(), "secret".to_owned());
            let credentials = Credentials::Password { user, password };
            Hub::start(Config { credentials, feed, ..config(&[url]) }).opened()
        };
        let hub = start(proxy.url());
        let mut other = start(server.url());
        proxy.discard(|number| number % 4 == 1 || (100..300).contains(&number));
        other.load(400, 100, 4);
        proxy.cut();
        hub.wait_for_problem("no NATS server accepts a connection");
        other.load(200, 100, 4);
        proxy.restore();
        assert_equal(&[&hub, &other], other.log.health().read);
        hub.log.broadcast("a broadcast".into());
        other.wait("broadcast", |recorded| !recorded.broadcasts.is_empty());
        for health in [hub.log.health(), other.log.health()] {
            assert_eq!((health.problem, health.broadcast_problem), (None, None));
        }
    }
}

#[test]
fn tls_is_checked_on_both_sides() {
    let folder = TempDir::new().expect("a folder");
    let authority = authority();
    let ca = write(folder.path(), "ca.pem", &authority.pem());
    let (server_cert, server_key) = certificate(folder.path(), "server", &authority);
    let identity = certificate(folder.path(), "hub", &authority);
    let server = NatsServer::configured(&format!(
        "tls {{ cert_file: {}, key_file: {}, ca_file: {}, verify: true }}\n",
        server_cert.display(),
        server_key.display(),
        ca.display()
    ));
    let with = |tls: Tls| {
        let servers = [server.url().replace("127.0.0.1", "localhost")];
        Hub::start(Config { tls, ..config(&servers) })
    };
    let trusting = Tls { required: true, ca: Some(ca.clone()), identity: None };
    let mut hub = with(Tls { identity: Some(identity), ..trusting.clone() }).opened();
    hub.load(5, 100, 2);
    with(trusting).wait_for_problem("no NATS server accepts a connection");
    let stranger = write(folder.path(), "other.pem", &self::authority().pem());
    let distrusting = Tls { required: true, ca: Some(stranger), identity: None };
    with(distrusting).wait_for_problem("invalid peer certificate");
    let plain = NatsServer::one();
    let tls = Tls { required: true, ca: Some(ca), identity: None };
    Hub::start(Config { tls, ..config(&[plain.url()]) })
        .wait_for_problem("no NATS server accepts a connection");
}

fn authority() -> CertifiedIssuer<'static, CertificateKey> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = CertificateKey::generate().expect("a key");
    CertifiedIssuer::self_signed(params, key).expect("an authority")
}

fn certificate(
    folder: &Path,
    name: &str,
    authority: &CertifiedIssuer<'static, CertificateKey>,
) -> (std::path::PathBuf, std::path::PathBuf) {
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = CertificateKey::generate().expect("a key");
    let made = params.signed_by(&key, authority).expect("a certificate");
    let key = write(folder, &format!("{name}.key"), &key.serialize_pem());
    (write(folder, &format!("{name}.pem"), &made.pem()), key)
}

//! The commands that connect to a hub over TLS: the certificates that they trust, and their errors
//! for others.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

use fanfare_testing::{HubProcess, within};

use super::support::{FANFARE, start_hub};

/// A certificate for `localhost` and its key, as files in PEM.
struct Identity {
    folder: TempDir,
}

impl Identity {
    fn new(cert: &str, key: &KeyPair) -> Self {
        let identity = Self { folder: tempfile::tempdir().expect("a folder") };
        std::fs::write(identity.cert(), cert).expect("a file");
        std::fs::write(identity.key(), key.serialize_pem()).expect("a file");
        identity
    }

    fn cert(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    fn hub(&self) -> HubProcess {
        start_hub(&[
            ("FANFARE_TLS__CERT", self.cert().to_str().expect("text")),
            ("FANFARE_TLS__KEY", self.key().to_str().expect("text")),
        ])
    }
}

fn localhost() -> CertificateParams {
    CertificateParams::new(["localhost".to_owned()]).expect("a name")
}

/// A certificate signed by its own key, optionally as an authority, like that of `openssl req
/// -x509`.
fn self_signed(is_ca: IsCa) -> Identity {
    let key = KeyPair::generate().expect("a key");
    let mut params = localhost();
    params.is_ca = is_ca;
    Identity::new(&params.self_signed(&key).expect("a certificate").pem(), &key)
}

/// Publishes, and returns the program's output: a receipt or an error.
async fn publish(url: &str, cacert: Option<&Path>) -> (bool, String) {
    let mut program = tokio::process::Command::new(FANFARE);
    program.args(["publish", "c", "hello", "--url", url]);
    if let Some(file) = cacert {
        program.arg("--cacert").arg(file);
    }
    let output = within("a publish", program.output()).await.expect("the program");
    let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
    (output.status.success(), text)
}

#[tokio::test]
async fn a_certificate_is_trusted_if_its_file_or_that_of_its_authority_is_named() {
    let key = KeyPair::generate().expect("a key");
    let mut of_authority = CertificateParams::default();
    of_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(of_authority, KeyPair::generate().expect("a key"))
        .expect("an authority");
    let signed = localhost().signed_by(&key, &authority).expect("a certificate");
    let signed = Identity::new(&signed.pem(), &key);
    let file = signed.folder.path().join("authority.pem");
    std::fs::write(&file, authority.pem()).expect("a file");
    let plain = self_signed(IsCa::NoCa);
    let as_authority = self_signed(IsCa::Ca(BasicConstraints::Unconstrained));
    for (identity, file) in
        [(&signed, file), (&plain, plain.cert()), (&as_authority, as_authority.cert())]
    {
        let hub = identity.hub();
        let url = format!("https://localhost:{}", hub.addr().port());
        let (fine, receipt) = publish(&url, Some(&file)).await;
        assert!(fine && receipt.contains("\"events\":1"), "{receipt}");
        let (fine, error) = publish(&url, None).await;
        assert!(!fine && error.contains("not trusted by this machine; --cacert"), "{error}");
        let (fine, error) = publish(&format!("https://{}", hub.addr()), Some(&file)).await;
        assert!(!fine && error.contains("its certificate is not for `127.0.0.1`"), "{error}");
        let other = self_signed(IsCa::Ca(BasicConstraints::Unconstrained));
        let (fine, error) = publish(&url, Some(&other.cert())).await;
        let why = format!("not trusted by {}", other.cert().display());
        assert!(!fine && error.contains(&why), "{error}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_connection_is_said_in_words() {
    let secure = self_signed(IsCa::NoCa);
    let tls = secure.hub();
    let plain = start_hub(&[]);
    let cert = secure.cert();
    let key = secure.key();
    let missing = secure.folder.path().join("missing.pem");
    let over = |scheme, hub: &HubProcess| format!("{scheme}://localhost:{}", hub.addr().port());
    for (url, cacert, why) in [
        (over("https", &plain), None, "does not speak TLS: without it, the address begins with"),
        (over("http", &tls), None, "does not speak HTTP: with TLS, the address begins with"),
        (over("https", &tls), Some(&key), "key.pem has no certificate: give a file in PEM"),
        (over("https", &tls), Some(&missing), "--cacert: cannot read "),
    ] {
        let (fine, error) = publish(&url, cacert.map(PathBuf::as_path)).await;
        assert!(!fine && error.contains(why), "{error}");
        for word in ["InvalidContentType", "CaUsedAsEndEntity", "Other("] {
            assert!(!error.contains(word), "{error}");
        }
    }
    // It does not retry for ever what cannot succeed.
    let mut subscriber = tokio::process::Command::new(FANFARE);
    subscriber.args(["subscribe", "c", "--url", &over("https", &tls)]);
    let output = within("its end", subscriber.output()).await.expect("the program");
    assert_eq!(output.status.code(), Some(1));
    let mut health = tokio::process::Command::new(FANFARE);
    health.args(["health", "--url", &over("https", &tls), "--cacert"]).arg(cert);
    assert!(within("its end", health.status()).await.expect("the program").success());
}

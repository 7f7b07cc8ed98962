//! TLS of the public listener, with a certificate that is exchanged while connections stay open.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use simple_asn1::{ASN1Block, from_der};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::progress_io::ProgressIo;
use crate::telemetry::Metrics;

/// The protocols over TLS, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [H2, b"http/1.1"];

/// The name of HTTP/2 in the handshake (RFC 9113, section 3.2).
const H2: &[u8] = b"h2";

/// Bytes of one record on the wire. A client can read nothing of a record before it has all of it,
/// and the hub keeps a record until the socket has taken it: small ones are early and cheap. Most
/// events fit into one; each further record of a longer write costs 22 bytes.
const RECORD: usize = 4 * 1024;

/// Encrypted bytes that may wait for a client that does not read. The rest stays in the log, where
/// all subscribers share it.
const UNSENT: usize = 16 * 1024;

/// Settings of the section `tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The certificate chain, in PEM, the hub's own certificate first; empty for no TLS.
    pub cert: PathBuf,
    /// The private key of the certificate, in PEM; empty for no TLS.
    pub key: PathBuf,
}

impl Config {
    /// Returns whether TLS is on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.cert.as_os_str().is_empty()
    }

    /// Returns whether both files are named, or neither.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.cert.as_os_str().is_empty() == self.key.as_os_str().is_empty()
    }
}

/// Error for a certificate that cannot be used. The message names the setting and the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {} (`{setting}`): {source}", file.display())]
    Unreadable {
        /// The setting.
        setting: &'static str,
        /// Its value.
        file: PathBuf,
        /// The error of the read.
        source: io::Error,
    },
    /// A file does not have the expected content.
    #[error("{} (`{setting}`) has no {wanted} that could be read: {source}", file.display())]
    Pem {
        /// The setting.
        setting: &'static str,
        /// Its value.
        file: PathBuf,
        /// The expected content.
        wanted: &'static str,
        /// The error of the parser.
        source: pem::Error,
    },
    /// The two do not belong together, or are of an unknown kind.
    #[error(
        "the key in {} (`tls.key`) cannot be used with the certificate in {} (`tls.cert`): \
         {source}",
        key.display(), cert.display()
    )]
    Pair {
        /// The file of the certificate.
        cert: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// The error of rustls.
        source: rustls::Error,
    },
    /// The cryptography cannot be set up: a defect, which a test would show.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// The listener's side of TLS. A clone is a cheap handle.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    shown: Arc<Shown>,
    metrics: Arc<Metrics>,
}

/// A certificate with its key.
#[derive(Debug)]
pub struct Certificate(Arc<CertifiedKey>);

/// The certificate that new connections are shown.
#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Sets up TLS 1.2 and 1.3 with the certificate of these files.
    ///
    /// # Errors
    /// A file cannot be read or parsed, or the two do not belong together.
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certificate = Arc::new(read(config, &provider)?);
        record_expiry(&certificate, &metrics);
        let shown = Arc::new(Shown(RwLock::new(certificate)));
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(shown.clone());
        server.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        server.max_fragment_size = Some(RECORD);
        // A returning client saves the costly half of the handshake by a ticket, which it keeps
        // itself, sealed by keys that change every six hours: the hub stores no sessions.
        server.ticketer = aws_lc_rs::Ticketer::new()?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 1;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(server)), shown, metrics })
    }

    /// Reads the files again, for [`Tls::exchange`].
    ///
    /// # Errors
    /// A file cannot be read or parsed, or the two do not belong together.
    pub fn read(&self, config: &Config) -> Result<Certificate, TlsError> {
        let provider = self.acceptor.config().crypto_provider();
        read(config, provider).map(Arc::new).map(Certificate)
    }

    /// Exchanges the certificate: new connections are shown this one, open ones are not affected.
    pub fn exchange(&self, certificate: Certificate) {
        record_expiry(&certificate.0, &self.metrics);
        *self.shown.0.write() = certificate.0;
    }

    /// Does the handshake. The caller limits the time.
    ///
    /// # Errors
    /// The client left, or the two sides have no protocol or cipher in common.
    pub(super) async fn accept(&self, tcp: ProgressIo) -> io::Result<TlsStream<ProgressIo>> {
        let bounded = |session: &mut rustls::ServerConnection| {
            session.set_buffer_limit(Some(UNSENT));
        };
        let accepted = self.acceptor.accept_with(tcp, bounded).await;
        // A client that connects and leaves, such as a health check, is not an error.
        accepted.inspect_err(|error| {
            if error.kind() != io::ErrorKind::UnexpectedEof {
                self.metrics.transport_error("tls_handshake");
                tracing::debug!(%error, "a TLS handshake failed");
            }
        })
    }
}

/// Returns whether both sides agreed on HTTP/2. A client that names no protocol speaks HTTP/1.1.
pub(super) fn is_http2(stream: &TlsStream<ProgressIo>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(H2)
}

fn read(config: &Config, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let cert = bytes("tls.cert", &config.cert)?;
    let key = bytes("tls.key", &config.key)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&cert).collect();
    let some =
        |chain: Vec<_>| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) };
    let chain = chain.and_then(some).map_err(|source| TlsError::Pem {
        setting: "tls.cert",
        file: config.cert.clone(),
        wanted: "certificate",
        source,
    })?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|source| TlsError::Pem {
        setting: "tls.key",
        file: config.key.clone(),
        wanted: "private key",
        source,
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(|source| TlsError::Pair {
        cert: config.cert.clone(),
        key: config.key.clone(),
        source,
    })
}

fn record_expiry(key: &CertifiedKey, metrics: &Metrics) {
    if let Some(at) = key.cert.first().and_then(|certificate| expiry(certificate)) {
        metrics.certificate_expires(at);
    }
}

/// Returns the time at which a certificate expires (RFC 5280, section 4.1): the first sequence of
/// two times in it is its validity. Nothing if it cannot be parsed, which does not keep the
/// certificate from being used.
fn expiry(certificate: &[u8]) -> Option<SystemTime> {
    let blocks = from_der(certificate).ok()?;
    let Some(ASN1Block::Sequence(_, signed)) = blocks.first() else { return None };
    let Some(ASN1Block::Sequence(_, fields)) = signed.first() else { return None };
    let seconds = fields.iter().find_map(|field| match field {
        ASN1Block::Sequence(_, times) => match &times[..] {
            [_, ASN1Block::UTCTime(_, end) | ASN1Block::GeneralizedTime(_, end)] => {
                Some(end.assume_utc().unix_timestamp())
            }
            _ => None,
        },
        _ => None,
    })?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

fn bytes(setting: &'static str, file: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |source| TlsError::Unreadable { setting, file: file.to_owned(), source };
    std::fs::read(file).map_err(unreadable)
}

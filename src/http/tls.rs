//! TLS of the public listener: which certificate it shows, and how that is exchanged while
//! connections go on.

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

/// What a client and the hub may speak over TLS, the better one first.
const PROTOCOLS: [&[u8]; 2] = [H2, b"http/1.1"];

/// The name of HTTP/2 in the handshake (RFC 9113, section 3.2).
const H2: &[u8] = b"h2";

/// Bytes of one record on the wire. A client can read nothing of a record before it has all of it,
/// and the hub keeps a record until the socket has taken it: small ones are early and cheap. Most
/// events fit into one; the rest of a longer write pays 22 bytes for each.
const RECORD: usize = 4 * 1024;

/// Bytes that may wait, encrypted, for a client that does not read. What is after them stays in
/// the log, where all share it.
const UNSENT: usize = 16 * 1024;

/// Settings of the section `tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The certificate and those that vouch for it, in PEM, the hub's own first; empty for no TLS.
    pub cert: PathBuf,
    /// The private key of the certificate, in PEM; empty for no TLS.
    pub key: PathBuf,
}

impl Config {
    /// Whether there is to be TLS.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !self.cert.as_os_str().is_empty()
    }

    /// Whether both files are named, or neither.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.cert.as_os_str().is_empty() == self.key.as_os_str().is_empty()
    }
}

/// Why a certificate cannot be used. The message names the setting and the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {} (`{setting}`): {source}", file.display())]
    Unreadable {
        /// The setting.
        setting: &'static str,
        /// Its value.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file has not what it should have.
    #[error("{} (`{setting}`) has no {wanted} that could be read: {source}", file.display())]
    Pem {
        /// The setting.
        setting: &'static str,
        /// Its value.
        file: PathBuf,
        /// What should be there.
        wanted: &'static str,
        /// What is wrong.
        source: pem::Error,
    },
    /// The two do not belong together, or are of a kind that is not known.
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
        /// Why.
        source: rustls::Error,
    },
    /// The cryptography does not work: a defect, which a test would show.
    #[error("cannot set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// The listener's side of TLS: a cheap handle.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    shown: Arc<Shown>,
    metrics: Arc<Metrics>,
}

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
    /// TLS 1.2 and 1.3 with the certificate of these files.
    ///
    /// # Errors
    /// A file cannot be read, is not what it should be, or the two do not belong together.
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let certificate = Arc::new(read(config, &provider)?);
        tell_expiry(&certificate, &metrics);
        let shown = Arc::new(Shown(RwLock::new(certificate)));
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(shown.clone());
        server.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        server.max_fragment_size = Some(RECORD);
        // A client that comes back saves the costly half of the handshake. What it needs for that
        // it keeps itself, sealed by keys that change every six hours: the hub remembers nobody.
        server.ticketer = aws_lc_rs::Ticketer::new()?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 1;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(server)), shown, metrics })
    }

    /// Reads the files again: whoever connects from now on is shown the new certificate. Who is
    /// connected notices nothing. If a file is wrong, the old certificate stays.
    ///
    /// # Errors
    /// As for [`Tls::new`].
    pub fn reload(&self, config: &Config) -> Result<(), TlsError> {
        let provider = self.acceptor.config().crypto_provider();
        let fresh = Arc::new(read(config, provider)?);
        tell_expiry(&fresh, &self.metrics);
        *self.shown.0.write() = fresh;
        Ok(())
    }

    /// The handshake. Whoever calls this bounds its time.
    ///
    /// # Errors
    /// The client left, or there was nothing that both understood.
    pub(super) async fn accept(&self, tcp: ProgressIo) -> io::Result<TlsStream<ProgressIo>> {
        let bounded = |session: &mut rustls::ServerConnection| {
            session.set_buffer_limit(Some(UNSENT));
        };
        let accepted = self.acceptor.accept_with(tcp, bounded).await;
        // Whoever connects and leaves, such as a health check, has not failed at anything.
        accepted.inspect_err(|error| {
            if error.kind() != io::ErrorKind::UnexpectedEof {
                self.metrics.transport_error("tls_handshake");
                tracing::debug!(%error, "a TLS handshake failed");
            }
        })
    }
}

/// Whether both sides agreed on HTTP/2. A client that names no protocol speaks HTTP/1.1.
pub(super) fn is_http2(stream: &TlsStream<ProgressIo>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(H2)
}

fn read(config: &Config, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let (cert, key) = (bytes("tls.cert", &config.cert)?, bytes("tls.key", &config.key)?);
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

fn tell_expiry(key: &CertifiedKey, metrics: &Metrics) {
    if let Some(at) = key.cert.first().and_then(|certificate| expiry(certificate)) {
        metrics.certificate_expires(at);
    }
}

/// When a certificate expires (RFC 5280, section 4.1): the first sequence of two times in it is its
/// validity. Nothing if that cannot be read, which is no reason not to show it.
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

//! The certificates that a client trusts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_rustls::ConfigBuilderExt as _;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

/// The reason for which no certificates can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCertificates {
    /// This machine has no certificate authorities.
    #[error("no CA certificates: install ca-certificates, or set SSL_CERT_FILE: {0}")]
    NoAuthorities(rustls::Error),
    /// The file is missing, or is not PEM.
    #[error("cannot read {0}: {1}")]
    Unreadable(PathBuf, pem::Error),
    /// PEM without a certificate.
    #[error("{0} has no certificate: give a file in PEM with `-----BEGIN CERTIFICATE-----`")]
    None(PathBuf),
    /// A certificate that cannot be used.
    #[error("{0} has a certificate that cannot be used: {1}")]
    Invalid(PathBuf, rustls::Error),
}

/// Creates a TLS configuration that trusts no certificate: for connections without TLS.
pub(crate) fn trusting_none() -> Result<ClientConfig, InvalidCertificates> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(InvalidCertificates::NoAuthorities)?
        .with_root_certificates(RootCertStore::empty());
    Ok(config.with_no_client_auth())
}

/// Creates a TLS configuration that trusts the certificate authorities of this machine.
pub(crate) fn trusting_machine() -> Result<ClientConfig, InvalidCertificates> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.try_with_platform_verifier())
        .map_err(InvalidCertificates::NoAuthorities)?;
    Ok(config.with_no_client_auth())
}

/// Creates a TLS configuration that trusts only the certificates of a PEM file.
pub(crate) fn trusting_file(path: &Path) -> Result<ClientConfig, InvalidCertificates> {
    let unreadable = |error| InvalidCertificates::Unreadable(path.to_owned(), error);
    let invalid = |error| InvalidCertificates::Invalid(path.to_owned(), error);
    let named: Vec<_> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(unreadable)?;
    if named.is_empty() {
        return Err(InvalidCertificates::None(path.to_owned()));
    }
    let mut roots = RootCertStore::empty();
    for certificate in &named {
        roots.add(certificate.clone()).map_err(invalid)?;
    }
    let provider = Arc::new(default_provider());
    let by_issuer = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone())
        .build()
        .map_err(|error| invalid(rustls::Error::General(error.to_string())))?;
    let trusting = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(invalid)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Named { by_issuer, named }));
    Ok(trusting.with_no_client_auth())
}

/// Trusts what the named certificates have signed, and these themselves: `openssl req -x509` makes
/// a self-signed certificate that is also a CA, which a server must not present by the rules.
#[derive(Debug)]
struct Named {
    by_issuer: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let by_issuer = &self.by_issuer;
        match by_issuer.verify_server_cert(end_entity, intermediates, name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.named.contains(end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_issuer.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_issuer.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_issuer.supported_verify_schemes()
    }
}

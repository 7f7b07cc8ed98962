//! The HTTP client for outgoing calls: HTTP/1.1, over TLS where the URL says so, no redirects.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, timeout_at};

use crate::limits::{MAX_HOOK_CALLS, MAX_HOOK_RESPONSE_BYTES};

/// Time for which an idle connection is kept: shorter than most servers keep theirs, so that few
/// calls use a connection that is just being closed.
const KEPT_IDLE: Duration = Duration::from_secs(15);

/// Sends requests: a cheap handle, whose connections are reused.
#[derive(Clone)]
pub struct Client(legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// No certificate authority is known to this machine, so no receiver could be trusted.
#[derive(Debug, thiserror::Error)]
#[error("no CA certificates: install ca-certificates, or set SSL_CERT_FILE: {0}")]
pub struct NoCertificates(#[from] rustls::Error);

/// The reason for which a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// A status other than 2xx.
    #[error("the receiver answered {0}")]
    Status(StatusCode),
    /// No response in time.
    #[error("the receiver did not answer in time")]
    Timeout,
    /// No connection, or none that spoke HTTP.
    #[error("the receiver could not be reached: {0}")]
    Transport(String),
    /// The request could not be built: a defect, which a test would show.
    #[error("the request could not be made: {0}")]
    Request(#[from] http::Error),
    /// The hub is shutting down.
    #[error("the hub is leaving")]
    Leaving,
}

impl Client {
    /// Creates a client. For `tls` it loads the certificate authorities that this machine trusts.
    pub fn new(tls: bool) -> Result<Self, NoCertificates> {
        let trusting = trusting(tls)?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(trusting)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT_IDLE)
            .pool_max_idle_per_host(MAX_HOOK_CALLS)
            .build(connector);
        Ok(Self(client))
    }

    /// Sends a request, and waits for the head of the response until the deadline.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        deadline: Instant,
    ) -> Result<Response<Incoming>, CallError> {
        match timeout_at(deadline, self.0.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(CallError::Transport(with_causes(&error))),
            Err(_) => Err(CallError::Timeout),
        }
    }
}

/// Creates a TLS configuration that trusts this machine's certificate authorities, which are loaded
/// only for `tls`.
///
/// # Errors
/// The machine has no certificate authority.
fn trusting(tls: bool) -> Result<ClientConfig, NoCertificates> {
    let trusting = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(NoCertificates)?;
    let trusting = if tls {
        trusting.try_with_platform_verifier()?
    } else {
        trusting.with_root_certificates(RootCertStore::empty())
    };
    Ok(trusting.with_no_client_auth())
}

/// Reads and discards the rest of a body, up to a number of bytes and until the deadline, so that
/// the connection can be reused.
pub async fn read_away(mut body: Incoming, deadline: Instant) {
    let mut bytes = 0;
    while let Ok(Some(Ok(frame))) = timeout_at(deadline, body.frame()).await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > MAX_HOOK_RESPONSE_BYTES {
            return;
        }
    }
}

/// Returns an error with its causes: the client's own message alone says little.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
